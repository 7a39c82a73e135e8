"""Vectors of an image: class token, registers, embedding and best classes, from the last features of timm's model."""

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from adapters.base import BackboneAdapter

#: Number of best classes.
TOP = 5


def count_registers(trunk: nn.Module) -> int:
    """Return the number of a trunk's register tokens."""
    tokens = getattr(trunk, "reg_token", None)
    return tokens.shape[1] if isinstance(tokens, Tensor) else 0


def has_class_token(trunk: nn.Module) -> bool:
    """Return True if the first token of a trunk is a class token."""
    return isinstance(getattr(trunk, "cls_token", None), Tensor)


def vectors_of(trunk: Any, final: Tensor, outputs: Collection[str]) -> dict[str, Tensor]:
    """Compute the vectors of a batch.

    Args:
        trunk: timm's model, with its head.
        final: what timm's ``forward_features`` returns, tokens ``(B, N, C)`` or a map.
        outputs: those that are wanted.

    Returns:
        As far as wanted: ``cls`` ``(B, C)``, which is timm's ``forward_head(final, pre_logits=True)`` of a model with
        ``global_pool='token'`` (without what a distilled DeiT adds to it); ``registers`` ``(B, n, C)``, normalised as
        the class token is; ``embedding`` ``(B, D)``; ``top5_index`` and ``top5_probability`` ``(B, 5)``.
    """
    found: dict[str, Tensor] = {}
    prefix = int(has_class_token(trunk))
    norm = getattr(trunk, "fc_norm", None) or nn.Identity()
    if "cls" in outputs:
        found["cls"] = norm(final[:, 0]).float()
    if "registers" in outputs:
        found["registers"] = norm(final[:, prefix : prefix + count_registers(trunk)]).float()
    if "embedding" in outputs:
        found["embedding"] = trunk.forward_head(final, pre_logits=True).float()
    if "top5" in outputs:
        logits = trunk.forward_head(final).float()
        top = logits.softmax(dim=-1).topk(min(TOP, logits.shape[-1]), dim=-1)
        found["top5_probability"], found["top5_index"] = top.values, top.indices
    return found


def check_vectors(adapter: BackboneAdapter, outputs: Collection[str]) -> None:
    """Check that an adapter built with ``keep_head=True`` can give the vectors that are wanted.

    Raises:
        ValueError: timm's model has no head, classifier or such tokens, or the adapter's pass is another than its
            classifier's.
    """
    name, trunk = adapter.model_name, adapter.trunk
    registers, has_class = count_registers(trunk), has_class_token(trunk)
    missing = {"cls": "class token"} if not has_class else {}
    missing |= {"registers": "register tokens"} if not registers else {}
    for output in missing.keys() & outputs:
        has = [f"{registers} register tokens"] * bool(registers) + ["a class token ('cls')"] * has_class
        raise ValueError(
            f"outputs {output!r}: timm's {name} has no {missing[output]}. It has "
            f"{' and '.join([*has, 'maps'])}; 'embedding' is what its classifier takes."
        )
    if not hasattr(trunk, "forward_head"):
        raise ValueError(f"timm's {name} has no forward_head: ask for the pyramid alone.")
    if "top5" in outputs and not getattr(trunk, "num_classes", 0):
        raise ValueError(f"timm's {name} has no classifier: leave 'top5' out of the outputs.")
    # The families, which name the files of timm that they serve, compute what timm computes by construction; of other
    # models, one pass shows it.
    if not adapter.timm_modules and not _equals_timm(adapter, outputs):
        raise ValueError(
            f"outputs other than 'pyramid' of {name} cannot come from the pass that gives its maps, which runs the "
            "model in another way than timm's classifier does: ask for the pyramid alone."
        )


@torch.no_grad()
def _equals_timm(adapter: BackboneAdapter, outputs: Collection[str]) -> bool:
    """Compare the vectors with those of timm's own pass, for an image of the model's native size."""
    mode = adapter.training
    trunk = adapter.trunk
    wanted = {"embedding"} | (set(outputs) & {"cls", "registers"})
    parameter = next(trunk.parameters())
    shape = (1, adapter.in_channels, *trunk.pretrained_cfg["input_size"][1:])
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
    adapter.eval()
    try:
        expected = vectors_of(trunk, trunk.forward_features(image), wanted)
        found = vectors_of(trunk, adapter.forward_with_head(image)[1], wanted)
        return all(torch.allclose(found[key], expected[key], rtol=1e-4, atol=1e-4) for key in wanted)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, IndexError, AttributeError, AssertionError):  # of features of another form
        return False
    finally:
        adapter.train(mode)
