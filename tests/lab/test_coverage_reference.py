"""What the comparison with timm's own model lets pass."""

import pytest
import torch
from lab.coverage.checks import WrongError
from lab.coverage.reference import check_rounding


def test_rounding_is_told_from_a_mistake() -> None:
    """Equal in float64, and no further from it in float32 than twice what timm's own model is."""
    exact = [torch.ones(3, dtype=torch.float64)]
    near, far, wrong = ([torch.full((3,), value)] for value in (1.0002, 1.0003, 1.0005))
    check_rounding(far, near, exact, exact)
    with pytest.raises(WrongError, match=r"differs by 5\.0e-04 from float64, where timm's own rounding is 2\.0e-04"):
        check_rounding(wrong, near, exact, exact)
    with pytest.raises(WrongError, match=r"differs by 1\.0e-05"):
        check_rounding(near, near, [exact[0] * 1.00001], exact)
