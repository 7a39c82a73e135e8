"""Multi-scale deformable attention, by the kernel of this package."""

from torch import Tensor

from adapters.kernels.deformable_attention import deformable_attention, gradients_of_attention


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return the sampled values, ``(B, Q, heads * d)``.

    Args:
        value: ``(B, N, heads, d)``, the cells of all levels, one level after the other.
        value_spatial_shapes: ``(levels, 2)``, height and width.
        value_level_start_index: ``(levels,)``, which follows from the sizes.
        sampling_locations: ``(B, Q, heads, levels, points, 2)``, x and y from 0 to 1.
        attention_weights: ``(B, Q, heads, levels, points)``.
        im2col_step: images that the compiled operator takes at once; without a meaning here.
    """
    return deformable_attention(value, _sizes(value_spatial_shapes), sampling_locations, attention_weights)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Write the gradients of values, locations and weights from those of the result, ``(B, Q, heads * d)``."""
    tensors = value, sampling_locations, attention_weights, grad_output
    wide = [tensor.float() if tensor.element_size() < 4 else tensor for tensor in tensors]
    gradients = gradients_of_attention(wide[0], _sizes(value_spatial_shapes), *wide[1:])
    for place, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        place.copy_(gradient)


def _sizes(shapes: Tensor) -> list[tuple[int, int]]:
    return [(height, width) for height, width in shapes.tolist()]
