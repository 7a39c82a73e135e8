"""The two idioms by which a checkpoint is named."""

from pathlib import Path
from typing import Any

import pytest
from small_checkpoints import SVT, TWINS

import adapters
from adapters.weights.source import resolve_source


def test_init_cfg_means_the_same() -> None:
    source = resolve_source(None, {"type": "Pretrained", "checkpoint": "a.pth", "prefix": "backbone."})
    assert source is not None
    assert (source.name, source.prefix) == ("a.pth", "backbone.")
    assert resolve_source("a.pth", None) == resolve_source(None, {"type": "Pretrained", "checkpoint": "a.pth"})
    assert resolve_source(Path("a.pth"), None) == resolve_source("a.pth", None)
    assert resolve_source(None, None) is None


@pytest.mark.parametrize(
    ("name", "init_cfg", "message"),
    [
        ("a.pth", {"type": "Pretrained", "checkpoint": "b.pth"}, "both name a checkpoint"),
        (None, {"type": "Kaiming"}, r"only dict\(type='Pretrained'"),
        (None, {"type": "Pretrained", "checkpoint": "a.pth", "strict": True}, r"only dict\(type='Pretrained'"),
        (None, [{"type": "Pretrained", "checkpoint": "a.pth"}], r"only dict\(type='Pretrained'"),
        (None, {"type": "Pretrained", "checkpoint": "a.pth", "prefix": 3}, "prefix=3 must be a string"),
        (
            None,
            {"type": "Pretrained", "checkpoint": "a.pth", "img_size": 224},
            r"img_size=224 must be two whole numbers",
        ),
        (None, {"type": "Pretrained"}, "init_cfg's checkpoint=None must name a checkpoint"),
        ("", None, "weights='' must name a checkpoint: 'timm', a path"),
        (True, None, "weights=True must name a checkpoint"),
    ],
)
def test_idioms_that_do_not_work(name: Any, init_cfg: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapters.TwinsAdapter(SVT, weights=name, init_cfg=init_cfg, trunk=TWINS)
