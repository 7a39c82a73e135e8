"""The names of timm's own ``features_only`` models, which mmseg's TIMMBackbone, smp and transformers save.

Their modules are those of timm's model, with the first levels of names joined by underscores (``stages_0.blocks``
for ``stages.0.blocks``). So a name is the one of the model that differs from it by dots and underscores alone.
"""

from adapters.weights.projects.naming import Project, Renamer


def _renamer(names: frozenset[str]) -> Renamer:
    flat: dict[str, list[str]] = {}
    for name in names:
        flat.setdefault(name.replace(".", "_"), []).append(name)

    def rename(name: str) -> tuple[str, str]:
        # A name that two of the model's tensors could have stays unknown.
        same = flat.get(name.replace(".", "_"), [])
        return (same[0] if len(same) == 1 else name), ""

    return rename


PROJECTS = (Project("features-only", "timm's features_only", (), _renamer),)
