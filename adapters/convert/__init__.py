"""Key maps of other projects' checkpoints, both ways.

Every format is read into, and written from, the names that timm and the original Twins code share.
"""

from adapters.convert.formats import FORMATS, Format

__all__ = ["FORMATS", "Format"]
