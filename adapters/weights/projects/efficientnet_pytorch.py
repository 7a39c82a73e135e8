"""The names of EfficientNet-PyTorch, which numbers the blocks of all stages through."""

from adapters.weights.projects.naming import Project, Renamer

#: The layers of a block that widens its channels first, and of one that does not.
_WIDENING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_WIDENING |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXCITATION = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


#: The layers outside the blocks.
_OUTER = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def _renamer(names: frozenset[str]) -> Renamer:
    blocks = sorted({tuple(map(int, name.split(".")[1:3])) for name in names if name.startswith("blocks.")})
    layers = dict(_OUTER)
    for number, (stage, block) in enumerate(blocks):
        timms = f"blocks.{stage}.{block}"
        inner = (_WIDENING if f"{timms}.conv_pwl.weight" in names else _PLAIN) | _EXCITATION
        layers |= {f"_blocks.{number}.{their_layer}": f"{timms}.{layer}" for their_layer, layer in inner.items()}

    def rename(name: str) -> tuple[str, str]:
        layer, _, kind = name.rpartition(".")
        timms = f"{layers.get(layer, layer)}.{kind}"
        return (timms if timms in names else name), ""

    return rename


PROJECTS = (
    Project(
        "efficientnet-pytorch",
        "EfficientNet-PyTorch's",
        ("efficientnet",),
        _renamer,
        note="made for norms with eps 1e-3 and TensorFlow's padding, as timm's tf_* models have",
    ),
)
