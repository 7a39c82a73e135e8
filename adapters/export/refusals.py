"""Reasons for which a model cannot be exported, as one line for its user."""

import re
import traceback
from collections.abc import Iterator
from pathlib import Path

#: Folders whose code decides what a model computes; the innermost line of theirs is the one to look at.
_OF_MODELS = ("/adapters/", "/timm/", "/mmdet/", "/mmseg/")


def refusal_to_trace(error: Exception, name: str, free_size: bool) -> ValueError:
    """Return the error that says where torch could not trace a model, and what to do.

    Args:
        error: torch's.
        name: of the model.
        free_size: whether height and width were to stay free.
    """
    remedy = "give --size H W for a file of one size" if free_size else "choose another model"
    how = " with free height and width" if free_size else ""
    return ValueError(f"{name} cannot be exported{how}: {reason_of(error)}{_place(error)}; {remedy}.")


def refusal_to_convert(error: Exception, name: str, free_size: bool) -> ValueError:
    """Return the error that says which operator ONNX lacks, and what to do."""
    texts = [str(one) for one in _causes(error)]
    lacking = next((match for text in texts if (match := re.search(r"op='([\w.]+)'", text))), None)
    reason = f"ONNX has no operator for {lacking[1]}" if lacking else reason_of(error)
    other = " or give --size H W for a file of one size" if free_size else ""
    return ValueError(f"{name} cannot be written as ONNX: {reason}; write a .pt2 file{other}.")


def reason_of(error: BaseException) -> str:
    """Return the first sentence of the innermost error, without what torch adds for developers."""
    *_, innermost = _causes(error)
    lines = [line.strip() for line in _plain(str(innermost)).splitlines() if line.strip()]
    line = lines[0] if lines else ""
    return f"{type(innermost).__name__}, {line.rstrip('.')[:300]}" if line else type(innermost).__name__


def _plain(text: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", text)


def _causes(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _place(error: BaseException) -> str:
    """Name the line of a model's code that raised an error: `` (twins.py:12, `x = ...`)``."""
    frames = [frame for one in _causes(error) for frame in traceback.extract_tb(one.__traceback__)]
    ours = [frame for frame in frames if any(part in frame.filename for part in _OF_MODELS)]
    ours = [frame for frame in ours if "/adapters/export/" not in frame.filename]
    if not ours:
        return ""
    return f" ({Path(ours[-1].filename).name}:{ours[-1].lineno}, `{ours[-1].line}`)"
