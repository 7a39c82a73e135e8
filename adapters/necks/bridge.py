"""A neck that turns a backbone's levels into maps of given channels and strides, for heads that cannot be rewritten.

Some configs have parts whose channels are fixed in code (a C4 detector's ``shared_head`` wants 1024 at stride 16), or
read maps that no classification model has (two of stride 4 for CornerNet, one of stride 1 for ERFNet's head). Before
these, :func:`adapters.openmmlab.fit.fit_backbone` puts this neck.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from adapters.levels import Level
from adapters.necks.rescale import Resample, make_conv
from adapters.registry import register_model


@register_model
class LevelBridge(nn.Module):
    """Maps of given channels and strides, each from all incoming levels that are as coarse or coarser.

    Every such level goes through a 1x1 conv and bilinear upsampling, and the results are added, so that a fine map
    knows what the deep stages know. Where every incoming level is finer than the map, the coarsest is taken.
    A single level that has the right channels and stride passes unchanged.

    Args:
        in_channels: channels of the levels that come in.
        in_strides: their strides, not decreasing.
        out_channels: channels of the maps to give.
        out_strides: their strides, in any order; the same one may come twice.
        single_in_eval: in eval mode give this map alone, as a tensor: what the backbones of DDRNet and PIDNet do, and
            what their heads expect. None gives the tuple in both modes.
        class_tokens: give pairs (map, token), the token being the map's mean, ``(B, C)``: what DPT's head expects of a
            vision transformer.

    Raises:
        ValueError: the lists do not fit each other.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        in_strides: Sequence[int],
        out_channels: Sequence[int],
        out_strides: Sequence[int],
        single_in_eval: int | None = None,
        class_tokens: bool = False,
    ) -> None:
        super().__init__()
        for what, channels, strides in (("in", in_channels, in_strides), ("out", out_channels, out_strides)):
            if len(channels) != len(strides) or not channels:
                raise ValueError(
                    f"LevelBridge takes one stride per level: {what}_channels={tuple(channels)} and "
                    f"{what}_strides={tuple(strides)} must have the same length, at least 1."
                )
        if list(in_strides) != sorted(in_strides):
            raise ValueError(f"in_strides={tuple(in_strides)} must not decrease: give the finest level first.")
        if single_in_eval is not None and not 0 <= single_in_eval < len(out_channels):
            raise ValueError(f"single_in_eval={single_in_eval} must be 0..{len(out_channels) - 1} or None.")
        self.in_channels = tuple(in_channels)
        self.single_in_eval = single_in_eval
        self.class_tokens = class_tokens
        self.levels = tuple(Level(*level) for level in zip(out_channels, out_strides, strict=True))
        self.sources: list[list[int]] = []  # the incoming levels of each map
        self.paths = nn.ModuleList()  # one for each source, map after map
        for level in self.levels:
            sources = [index for index, stride in enumerate(in_strides) if stride >= level.stride]
            sources = sources or [len(in_strides) - 1]
            alone = len(sources) == 1
            self.sources.append(sources)
            self.paths.extend(_make_path(in_channels[index], in_strides[index], level, alone) for index in sources)

    def forward(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...] | tuple[list[Tensor], ...]:
        """Maps ``(B, C_i, h_i, w_i)`` of the incoming levels, to one map for each of ``levels``.

        Raises:
            ValueError: the maps have other channels than ``in_channels``.
        """
        got = tuple(feature_map.shape[1] for feature_map in maps)
        if got != self.in_channels:
            raise ValueError(f"LevelBridge got maps of {got} channels but its in_channels are {self.in_channels}.")
        paths = iter(self.paths)
        outputs = tuple(_add([next(paths)(maps[index]) for index in sources]) for sources in self.sources)
        if self.single_in_eval is not None and not self.training:
            return outputs[self.single_in_eval]
        if self.class_tokens:
            return tuple([output, output.mean(dim=(2, 3))] for output in outputs)
        return outputs


def _make_path(channels: int, stride: int, level: Level, alone: bool) -> nn.Module:
    """A 1x1 conv and a resampling, each where it is needed; convs add up, so one of several is never left out."""
    layers: list[nn.Module] = []
    if channels != level.channels or not alone:
        layers.append(make_conv(channels, level.channels, 1, bias=True))
    if stride != level.stride:
        layers.append(Resample(stride, level.stride))
    return nn.Sequential(*layers)


def _add(maps: Sequence[Tensor]) -> Tensor:
    """Sum of maps whose sizes differ by what a coarse level overhangs: cut to the smallest."""
    height = min(feature_map.shape[-2] for feature_map in maps)
    width = min(feature_map.shape[-1] for feature_map in maps)
    total = maps[0][..., :height, :width]
    for feature_map in maps[1:]:
        total = total + feature_map[..., :height, :width]
    return total.contiguous()
