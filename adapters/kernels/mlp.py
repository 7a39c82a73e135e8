"""timm's two-layer perceptron through oneDNN, in inference on a CPU.

oneDNN computes GELU together with the product before it. The hidden result of a detector's first stage has 50 to
100 MB, which would go to memory and back between the two layers; it is made a chunk of tokens at a time, small enough
for the caches.
"""

from timm.layers import GELU, GELUTanh, Mlp
from torch import Tensor, nn

from adapters.kernels.cpu import is_untouched
from adapters.kernels.linear import cast_weights, onednn_linear, product_dtype

#: Bytes of the hidden result of a chunk. Larger ones leave the caches, smaller ones repeat fixed costs.
CHUNK_BYTES = 8 * 2**20
_GELUS = {nn.GELU, GELU, GELUTanh}


class FusedMlp(Mlp):
    """timm's perceptron with GELU; it holds the same layers, and calls them as modules wherever oneDNN cannot serve."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply both layers, ``(..., C)`` -> ``(..., C')``."""
        dropping = self.training or self.drop1.training or self.drop2.training
        # The dtype first: it is None where a graph is made, which cannot follow the other questions.
        dtype = None if dropping else product_dtype(x, self.fc1, self.fc2)
        if dtype is None:
            return super().forward(x)
        gelu = gelu_kind(self.act)
        others = ((self.drop1, nn.Dropout), (self.norm, nn.Identity), (self.drop2, nn.Dropout))
        if gelu is None or not all(is_untouched(layer, cls) for layer, cls in others):
            return super().forward(x)
        first, second = cast_weights(self.fc1, dtype), cast_weights(self.fc2, dtype)
        tokens = x.reshape(-1, x.shape[-1])
        length = chunk_length(len(tokens), first[0].shape[0] * dtype.itemsize)
        if length == len(tokens):
            return onednn_linear(onednn_linear(x.to(dtype), *first, gelu), *second)
        out = tokens.new_empty(len(tokens), second[0].shape[0], dtype=dtype)
        for chunk, result in zip(tokens.split(length), out.split(length), strict=True):
            result.copy_(onednn_linear(onednn_linear(chunk.to(dtype), *first, gelu), *second))
        return out.view(*x.shape[:-1], -1)


def gelu_kind(activation: nn.Module) -> str | None:
    """Return oneDNN's name of an activation: ``'none'`` or ``'tanh'`` for an untouched GELU, None for others."""
    if type(activation) not in _GELUS or not is_untouched(activation, type(activation)):
        return None
    if isinstance(activation, nn.GELU):
        return activation.approximate
    return "tanh" if isinstance(activation, GELUTanh) else "none"


def chunk_length(tokens: int, bytes_per_token: int) -> int:
    """Choose how many tokens a chunk has: all of them where the hidden result is no larger than two chunks."""
    if tokens * bytes_per_token < 2 * CHUNK_BYTES:
        return tokens
    return max(1, CHUNK_BYTES // bytes_per_token)


def takes_fused_form(module: nn.Module) -> bool:
    """Tell whether a module is a perceptron of timm's that :class:`FusedMlp` can stand for."""
    return type(module) is Mlp and type(module.norm) is nn.Identity
