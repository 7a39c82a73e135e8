"""The way by which Python finds the stand-in of ``mmcv._ext``: the last one that it tries."""

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

#: The module that mmcv compiles.
EXTENSION = "mmcv._ext"

NOTE = "mmcv has no compiled operators: those of dense-adapters serve, made of torchvision's and torch's"
WITHOUT_COMPILED = (
    "install mmcv without them, `pip install --force-reinstall --no-cache-dir --no-deps onedl-mmcv`, and those of "
    "dense-adapters serve"
)


def serve_operators() -> None:
    """Let ``mmcv._ext`` be found where mmcv was installed without it; import nothing yet.

    The finder comes after those of Python, so that compiled operators, where present, are the ones that are found.
    """
    if not any(isinstance(finder, OperatorFinder) for finder in sys.meta_path):
        sys.meta_path.append(OperatorFinder())


def are_served() -> bool:
    """Tell whether the stand-in is the one that mmcv has imported: a module without a file."""
    return EXTENSION in sys.modules and not hasattr(sys.modules[EXTENSION], "__file__")


def is_of_extension(error: ImportError) -> bool:
    """Tell whether compiled operators that are there could not be loaded; Python may leave the package's name out."""
    return (error.name or "").rpartition(".")[2] == EXTENSION.rpartition(".")[2]


class OperatorFinder(MetaPathFinder, Loader):
    """A finder of one module, ``mmcv._ext``, and its loader."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002, the finder's signature is Python's
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == EXTENSION else None

    def exec_module(self, module: ModuleType) -> None:
        from mmengine.logging import MMLogger

        from adapters.openmmlab.operators import extension

        vars(module).update(extension.OPERATORS, __getattr__=extension.lacking)
        if MMLogger._instance_dict:  # a run has begun; our own runs tell it when they begin
            MMLogger.get_current_instance().info(NOTE)
