"""An adapter as the encoder of segmentation_models_pytorch's models.

``name = register(adapter)`` puts it among smp's encoders, for every model that takes the name of one:
``smp.Unet(name, encoder_weights=None)``. smp's DPT takes no such name, and has a class of its own here.
"""

import math
from collections.abc import Sequence

import segmentation_models_pytorch as smp
from segmentation_models_pytorch.base import SegmentationModel
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from adapters.base import BackboneAdapter
from adapters.interop.strides import check_strides, refusal

#: The stride of the first map after the image, which most models do not give.
HALF = 2


class SmpEncoder(nn.Module):
    """The maps of an adapter as smp's decoders take them: the image, and maps of strides 2, 4, 8, 16, 32.

    Where the adapter gives no map of stride 2, one without channels stands there, as in smp's own encoders.

    Args:
        adapter: gives the strides of ``depth`` and ``output_stride``, with or without 2.
        depth: number of maps after the image, ``encoder_depth`` of the model.
        output_stride: the largest stride; below 32 in dilated models.

    Raises:
        ValueError: the adapter gives other strides.
    """

    def __init__(self, adapter: BackboneAdapter, depth: int = 5, output_stride: int = 32) -> None:
        super().__init__()
        wanted = [min(2**place, output_stride) for place in range(1, depth + 1)]
        given = [level.stride for level in adapter.levels]
        head = f"An encoder of encoder_depth={depth}" + f" and output stride {output_stride}" * (output_stride != 32)
        check_strides(adapter, wanted if given[0] == HALF else wanted[1:], head)
        self.adapter = adapter
        self.output_stride = wanted[-1]
        self._lacks_half = given[0] != HALF
        #: Channels of each map, the image first.
        self.out_channels = [
            adapter.in_channels,
            *[0] * self._lacks_half,
            *(level.channels for level in adapter.levels),
        ]

    def forward(self, image: Tensor) -> list[Tensor]:
        """Compute ``(B, C, ceil(H / stride), ceil(W / stride))`` of an image ``(B, C, H, W)``, the image first."""
        half = [image.new_empty(len(image), 0, *(math.ceil(side / HALF) for side in image.shape[-2:]))]
        return [image, *half * self._lacks_half, *self.adapter(image)]

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:  # noqa: ARG002, smp passes it
        """Require the channels that smp's model is built for.

        Raises:
            ValueError: the adapter takes others.
        """
        if in_channels != self.adapter.in_channels:
            raise ValueError(
                f"in_channels={in_channels}, but the adapter takes {self.adapter.in_channels}; build it with "
                f"in_channels={in_channels}."
            )

    def make_dilated(self, output_stride: int) -> None:
        """Do nothing: the adapter was checked against this stride when the encoder was built."""


def register(adapter: BackboneAdapter, name: str | None = None) -> str:
    """Put an adapter among smp's encoders; each model gets a copy of it, with its weights.

    Args:
        adapter: what the models copy.
        name: for ``encoder_name``. Default: ``'adapter-'`` and the name of the timm model.

    Returns:
        The name.
    """
    name = name or f"adapter-{adapter.model_name}"
    # smp copies the parameters of an encoder for each model.
    encoders[name] = {"encoder": SmpEncoder, "params": {"adapter": adapter}, "pretrained_settings": {}}
    return name


class DPT(smp.DPT):
    """smp's DPT over an adapter: each map is brought to a stride of its own, 4, 8, 16, ..., and they are fused.

    The image's sides are multiples of the last of these strides, since each map is added to the next one doubled.

    Args:
        adapter: gives a map for each of ``decoder_intermediate_channels``, of strides that are powers of two.
        decoder_intermediate_channels: channels to which each map is brought first.
        decoder_fusion_channels: channels of all maps after that.
        classes: channels of the result.
        activation: smp's name of the activation of the result.

    Raises:
        ValueError: the adapter gives another number of maps, or other strides.
    """

    def __init__(
        self,
        adapter: BackboneAdapter,
        decoder_intermediate_channels: Sequence[int] = (256, 512, 1024, 1024),
        decoder_fusion_channels: int = 256,
        classes: int = 1,
        activation: str | None = None,
    ) -> None:
        SegmentationModel.__init__(self)
        self.encoder = _DPTEncoder(adapter, len(decoder_intermediate_channels))
        self.decoder = DPTDecoder(
            [level.channels for level in adapter.levels],
            [level.stride for level in adapter.levels],
            encoder_has_prefix_tokens=False,
            readout="ignore",
            intermediate_channels=decoder_intermediate_channels,
            fusion_channels=decoder_fusion_channels,
        )
        self.segmentation_head = DPTSegmentationHead(decoder_fusion_channels, classes, activation)
        self.classification_head = None
        self.name = f"dpt-{adapter.model_name}"
        self.initialize()


class _DPTEncoder(nn.Module):
    """The maps of an adapter, and no prefix tokens."""

    def __init__(self, adapter: BackboneAdapter, count: int) -> None:
        super().__init__()
        wanted = [2**place for place in range(2, count + 2)]
        strides = [level.stride for level in adapter.levels]
        if len(strides) != count or any(stride & (stride - 1) for stride in strides):
            raise refusal(adapter, f"DPT takes {count} maps whose strides are powers of two", wanted)
        self.adapter = adapter
        #: What smp checks the image's sides against.
        self.output_stride = max(*wanted, *strides)

    def forward(self, image: Tensor) -> tuple[list[Tensor], list[None]]:
        maps = list(self.adapter(image))
        return maps, [None] * len(maps)
