"""The library peft, imported when it is needed, and our options in its terms."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from adapters.tuning.options import LowRankOptions

if TYPE_CHECKING:
    from peft import LoraConfig

#: The name under which peft keeps the factors, one of several that it could keep.
ADAPTER = "default"


def require_peft() -> Any:
    """Return the library peft.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        remedy = "pip install 'dense-adapters[peft]'"
        raise ModuleNotFoundError(f"low-rank tuning needs the library peft: {remedy}.") from error
    return peft


def make_config(options: LowRankOptions, layers: Sequence[str]) -> "LoraConfig":
    """Write options in peft's terms, for exactly the layers of these names.

    Raises:
        ModuleNotFoundError: peft is not installed.
    """
    return require_peft().LoraConfig(
        r=options.r,
        lora_alpha=options.scaling * options.r,
        lora_dropout=options.dropout,
        target_modules="|".join(map(re.escape, layers)),
        use_dora=options.type == "DoRA",
        bias="all" if options.biases else "none",
    )
