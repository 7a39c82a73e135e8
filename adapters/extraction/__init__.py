"""Feature pyramids from folders of images: planned, batched, written and resumed, on one machine or many."""

from adapters.extraction.in_memory import Extraction, extract
from adapters.extraction.options import ExtractionOptions

__all__ = ["Extraction", "ExtractionOptions", "extract"]
