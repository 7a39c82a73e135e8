"""Working in pieces changes nothing but the time."""

import pytest
import torch
from zoo import ZOO, Spec, image

from adapters.kernels import chunks as pieces
from adapters.kernels import linear as fused_linear
from adapters.windows import attention as window_attention

CUT = [spec for spec in ZOO if spec.name.startswith(("twins_svt", "swinv2_cr", "vit", "convit"))]


@torch.no_grad()
@pytest.mark.parametrize(
    ("spec", "piece_bytes"),
    [(spec, 40_000) for spec in CUT] + [(spec, 250_000) for spec in CUT if spec.name.startswith(("twins", "swin"))],
    ids=str,
)
def test_maps_are_those_of_the_whole(spec: Spec, piece_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window at a time, and pieces that hold masked windows beside others."""
    adapter = spec.build()
    x = image(106, 150)
    whole = adapter(x)
    lengths = []

    def short(tensor: torch.Tensor, rows: int, bytes_per_row: int) -> int:
        lengths.append((rows, pieces.rows_at_once(tensor, rows, bytes_per_row)))
        return lengths[-1][1]

    monkeypatch.setattr(pieces, "PIECE_BYTES", piece_bytes)
    monkeypatch.setattr(pieces, "WHOLE_BYTES", 80_000)
    for module in (fused_linear, window_attention):
        monkeypatch.setattr(module, "rows_at_once", short)
    for one, other in zip(adapter(x), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert any(step < rows for rows, step in lengths)


def test_what_gradients_need_is_not_cut() -> None:
    x = torch.zeros(1)
    rows = 2 * pieces.WHOLE_BYTES
    assert pieces.rows_at_once(x, rows, 1) == rows
    with torch.no_grad():
        assert pieces.rows_at_once(x, rows, 1) == pieces.PIECE_BYTES
        assert pieces.rows_at_once(x, pieces.WHOLE_BYTES - 1, 1) == pieces.WHOLE_BYTES - 1
        assert pieces.rows_at_once(x, 10, 10 * pieces.WHOLE_BYTES) == 1
        assert pieces.rows_at_once(torch.zeros(1, device="meta"), rows, 1) == rows
