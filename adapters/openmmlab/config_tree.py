"""Searching the tree of dicts and lists that an OpenMMLab config is."""

from collections.abc import Iterator, MutableMapping
from typing import Any

Node = MutableMapping[str, Any]

#: Keys under which a model holds another model whose backbone is the one that matters.
INNER_MODELS = ("detector",)

#: Backbones that are an algorithm's own paths around an inner classification backbone, which alone is swapped.
WRAPPERS = ("BiSeNetV1", "STDCContextPathNet")


def type_name(node: Any) -> str:
    """Return the bare name of a config's type: ``'FPN'`` for ``'mmdet.FPN'`` and for the class itself."""
    kind = node.get("type", "") if isinstance(node, MutableMapping) else ""
    return kind.rsplit(".", 1)[-1] if isinstance(kind, str) else kind.__name__


def find_owner(model: Node, place: str = "model") -> tuple[Node, str]:
    """Find the part of a model's config that holds ``backbone``, and its place, such as ``'model.detector'``.

    Raises:
        ValueError: no part does.
    """
    if model.get("backbone"):
        return model, place
    for key in INNER_MODELS:
        if isinstance(model.get(key), MutableMapping):
            return find_owner(model[key], f"{place}.{key}")
    parts = ", ".join(key for key, value in model.items() if isinstance(value, MutableMapping))
    raise ValueError(
        f"{place} ({type_name(model) or 'no type'}) has no backbone to swap; its parts are: {parts or 'none'}."
    )


def children(node: Any) -> Iterator[Any]:
    """Yield the values of a dict or the entries of a list, and nothing for other values."""
    if isinstance(node, MutableMapping):
        yield from node.values()
    elif isinstance(node, list | tuple):
        yield from node


def drop_pretrained(node: Any) -> list[str]:
    """Remove, in place, everything that would load or download pretrained weights; return what it named."""
    dropped: list[str] = []
    for child in children(node):
        dropped += drop_pretrained(child)
    if not isinstance(node, MutableMapping):
        return dropped
    if isinstance(node.get("pretrained"), str):
        dropped.append(node["pretrained"])
        node["pretrained"] = None
    if isinstance(node.get("weights"), str) and "model_name" in node:
        dropped.append(node["weights"])
        node["weights"] = None
    init_cfg = node.get("init_cfg")
    if isinstance(init_cfg, MutableMapping) and type_name(init_cfg) in ("Pretrained", "PretrainedInit"):
        dropped.append(str(init_cfg.get("checkpoint")))
        node["init_cfg"] = None
    return dropped
