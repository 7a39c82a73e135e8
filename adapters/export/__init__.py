"""Models as files that run without this package: torch's exported programs (``.pt2``) and ONNX (``.onnx``).

A module is traced (``tracing``), written (``writing``, ``onnx_format``), opened again (``reading``) and compared with
itself at sizes that were not traced (``verification``) before the file gets its name (``handing_over``).
"""

from adapters.export.backbones import export_backbone
from adapters.export.handing_over import write_verified
from adapters.export.reading import open_file
from adapters.export.verification import Check

__all__ = ["Check", "export_backbone", "open_file", "write_verified"]
