"""Patch embeddings of timm's, freed from the size that they were built for."""

from typing import Any

from timm.layers import PatchEmbed


def forget_size(embedding: Any) -> None:
    """Take away the size that timm checks an image against; adapters pad to whole patches before.

    The check's messages hold the image's sides, which makes them constants of a compiled graph: one graph a size.
    """
    if type(embedding) is PatchEmbed:
        embedding.img_size = None
    elif hasattr(embedding, "strict_img_size"):
        embedding.strict_img_size = False
