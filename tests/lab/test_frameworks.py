"""The measurement in other frameworks' heads: what it asks of a step, and its page."""

import pytest
import torch
from lab.coverage.checks import WrongError
from lab.coverage.representatives import Representative
from lab.frameworks import report
from lab.frameworks.measure import ROUND_TRIP, check_step, measure_adapters, measure_wrappers
from torch import Tensor, nn

SIZE = (64, 96)
TOY = Representative("toy", "test_vit", 1, (160, 160))


def test_an_adapter_does_what_the_page_says_and_a_wrapper_less() -> None:
    ours, theirs = dict(measure_adapters(TOY, [SIZE])), dict(measure_wrappers(TOY, [SIZE]))
    expected = {f"{framework} {head} 64x96" for framework, heads in report.HEADS.items() for head in heads}
    assert ours == dict.fromkeys((*expected, ROUND_TRIP), "ok")
    assert set(theirs) == {key for key in expected if not key.startswith("torchvision")}
    assert theirs["smp Unet 64x96"] == "ValueError: Unsupported model downsampling pattern."
    assert theirs["transformers DETR 64x96"] == "ok"


class Model(nn.Module):
    """A model with a parameter that has no part in its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(1, 1)
        self.head = nn.Linear(1, 1)


def test_a_step_asks_for_a_finite_loss_and_for_gradients() -> None:
    def loss(model: nn.Module, images: Tensor) -> Tensor:
        return model.trunk(images.mean().view(1)).sum()

    check_step(Model(), loss, SIZE, "trunk.")
    check_step(Model(), loss, SIZE, None)
    with pytest.raises(WrongError, match="no gradient of 2 of 2 parameters"):
        check_step(Model(), loss, SIZE, "head.")
    with pytest.raises(WrongError, match="the loss is nan"):
        check_step(Model(), lambda model, images: loss(model, images) * torch.nan, SIZE, None)


def test_the_page_counts_and_gives_reasons() -> None:
    keys = [key for framework in report.HEADS for keys in report.keys_of(framework) for key in keys]
    refused = f"RuntimeError: {report.HEADS_REFUSAL}"
    cells = {**dict.fromkeys((*keys, ROUND_TRIP), "ok"), "smp FPN 97x65": refused}
    fine = {"model": "resnet10t", "adapters": cells, "wrappers": {}}
    odd = {"smp Unet 97x65": "the loss is nan", "smp DPT 96x160": refused}
    other = {"model": "vit", "adapters": {**fine["adapters"], **odd}, "wrappers": {"smp Unet 97x65": "ok"}}
    table = {"timm": "1.0", "torch": "2.11", "families": {"a": fine, "b": other, "begun": {"adapters": {}}}}
    page = report.render(table, ["a", "b", "begun"])
    assert "2 of the 3 families that\nserve as backbones; the others are not measured yet." in page
    assert "| smp Unet | 2 (`tu-`: 0) | 2 (`tu-`: 0) | 1 (`tu-`: 1) |" in page
    assert "| smp FPN | 2 (`tu-`: 0) | 2 (`tu-`: 0) | the head refuses |" in page
    assert "| smp DPT | 2 (`tu-`: 0) | 1 (`tu-`: 0) | 2 (`tu-`: 0) |" in page  # refused to one model alone
    assert "| a | `resnet10t` | 4 4 4 | 3 3 3 (0 0 0) | 4 4 3 (0 0 0) |" in page
    assert page.endswith(f"- **b**, smp DPT 96x160: {refused}\n- **b**, smp Unet 97x65: the loss is nan\n")
