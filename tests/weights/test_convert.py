"""Checkpoints that cannot be converted; ``tests/commands/test_convert.py`` converts the others."""

import pytest
from small_checkpoints import StateDict, twins, vit, with_norms

from adapters.weights.convert import convert

MODEL = twins().state_dict()


@pytest.mark.parametrize(
    ("state", "to", "message"),
    [
        (with_norms(MODEL), "timm", "a dense Twins with a norm after each stage, which timm's model has not"),
        (vit().state_dict(), "mmseg", "holds no Twins, and mmseg's names are for Twins; use --to timm or adapters"),
        ({}, "timm", "holds no backbone that can be told from the rest"),
    ],
)
def test_what_cannot_be_converted(state: StateDict, to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert(state, to, None, "a.pth")
