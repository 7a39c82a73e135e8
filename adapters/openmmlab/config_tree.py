"""Searching the tree of dicts and lists that an OpenMMLab config is."""

from collections.abc import Callable, Iterator, MutableMapping
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


def drop_pretrained(node: Any, replaced: Callable[[str], bool] = lambda _: True, place: str = "") -> list[str]:
    """Remove, in place, everything that would load or download pretrained weights; return what it named.

    Args:
        node: a model's config, or a part of one.
        replaced: says of the dotted place of a part, ``'backbone'`` or ``''`` for ``node`` itself, whether its
            pretrained weights are to go.
        place: the place of ``node``.
    """
    dropped: list[str] = []
    parts = node.items() if isinstance(node, MutableMapping) else enumerate(children(node))
    for key, child in parts:
        dropped += drop_pretrained(child, replaced, f"{place}.{key}".lstrip("."))
    if not isinstance(node, MutableMapping) or not replaced(place):
        return dropped
    if isinstance(node.get("pretrained"), str):
        dropped.append(node["pretrained"])
        node["pretrained"] = None
    elif node.get("pretrained") is True:  # a backbone that asks timm while it is built
        dropped.append(f"those of {node.get('model_name', type_name(node))}")
        node["pretrained"] = False
    if isinstance(node.get("weights"), str) and "model_name" in node:
        dropped.append(node["weights"])
        node["weights"] = None
    init_cfg = node.get("init_cfg")
    if isinstance(init_cfg, MutableMapping) and init_cfg.get("checkpoint"):  # mmdet's PVT has it without a type
        dropped.append(str(init_cfg["checkpoint"]))
        node["init_cfg"] = None
    return dropped
