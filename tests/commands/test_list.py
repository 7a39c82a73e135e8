"""``dense-adapters list``: models, their levels, and a choice by strides."""

import pytest

from adapters.commands.list import main


def names(capsys: pytest.CaptureFixture) -> list[str]:
    return [line.split()[0] for line in capsys.readouterr().out.splitlines()]


def test_models_with_their_levels(capsys: pytest.CaptureFixture) -> None:
    assert main(["twins_svt_s*", "gmixer_12_*"]) == 0
    assert capsys.readouterr().out == (
        "twins_svt_small  stride 4: 64 channels, stride 8: 128 channels, stride 16: 256 channels, "
        "stride 32: 512 channels\n"
    )


def test_models_of_given_strides(capsys: pytest.CaptureFixture) -> None:
    patterns = ["twins_svt_*", "convit_*"]
    assert main([*patterns, "--strides", "16", "16", "16", "16"]) == 0
    assert names(capsys) == ["convit_base", "convit_small", "convit_tiny"]
    assert main(["--strides", "4", "8", "16", "32", "--", *patterns]) == 0
    assert names(capsys) == ["twins_svt_base", "twins_svt_large", "twins_svt_small"]
    assert main([*patterns, "--strides", "3"]) == 1
    assert names(capsys) == []


def test_an_unknown_pattern() -> None:
    with pytest.raises(ValueError, match=r"no model of the pattern \['no_such_\*'\]"):
        main(["no_such_*"])
