"""The names of EfficientNet-PyTorch, which numbers the blocks of all stages through."""

from collections.abc import Sequence

from adapters.weights.projects.naming import Project, Rule, by_rules

#: The layers of a block that widens its channels first, and of one that does not.
_WIDENING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_WIDENING |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXCITATION = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def _rules(names: frozenset[str]) -> Sequence[Rule]:
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in names if name.startswith("blocks.")})
    rules: list[Rule] = []
    for number, (stage, block) in enumerate(blocks):
        widens = f"blocks.{stage}.{block}.conv_pwl.weight" in names
        for theirs, timms in ((_WIDENING if widens else _PLAIN) | _EXCITATION).items():
            rules.append((rf"_blocks\.{number}\.{theirs}\.(\w+)", (rf"blocks.{stage}.{block}.{timms}.\1",)))
    outer = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    return [*rules, *((rf"{theirs}\.(\w+)", (rf"{timms}.\1",)) for theirs, timms in outer.items())]


PROJECTS = (
    Project(
        "efficientnet-pytorch",
        "EfficientNet-PyTorch's",
        ("efficientnet",),
        by_rules(_rules),
        note="made for norms with eps 1e-3 and, but for Lite, TensorFlow's padding, as timm's tf_* models have",
    ),
)
