"""The contents of the stand-in of ``mmcv._ext``: a function for each operator that mmdet and mmseg call."""

from collections.abc import Callable
from typing import Any, NoReturn

import torch

from adapters.openmmlab.operators import (
    attention,
    carafe,
    deform_conv,
    deform_roi_pool,
    focal_loss,
    masked_conv,
    nms,
    psa_mask,
    roi_align,
    roi_pool,
    sync_bn,
)

COMPILED_REMEDY = (
    "install mmcv with its compiled operators: `make setup-compiled` in a clone of dense-adapters, or, where torch is "
    "installed, `pip install --no-build-isolation --no-cache-dir --force-reinstall --no-deps onedl-mmcv`"
)


def get_compiler_version() -> str:
    """Return the place of the compiler's version in a report of the environment."""
    return "none: mmcv was not compiled"


def get_compiling_cuda_version() -> str:
    """Return the place of CUDA's version in a report of the environment: the one that torch was compiled with."""
    return torch.version.cuda or "not available"


def lacking(name: str) -> Callable[..., NoReturn]:
    """Make the function of an operator that is not served; it raises when it is called.

    Raises:
        AttributeError: the name is one of Python's own, such as ``__path__``.
    """
    if name.startswith("__"):
        raise AttributeError(f"module 'mmcv._ext' has no attribute {name!r}")

    def operator(*_: Any, **__: Any) -> NoReturn:
        # By design: mmcv.ops looks up all operators when it is imported, so one that no algorithm of mmdet or mmseg
        # calls must be there, and must not compute something else.
        raise NotImplementedError(f"mmcv's operator {name!r} is not served without a compiler: {COMPILED_REMEDY}.")

    return operator


#: Every operator that is served, by its name in ``mmcv._ext``.
OPERATORS: dict[str, Callable] = {
    function.__name__: function
    for function in (
        attention.ms_deform_attn_backward,
        attention.ms_deform_attn_forward,
        carafe.carafe_backward,
        carafe.carafe_forward,
        carafe.carafe_naive_backward,
        carafe.carafe_naive_forward,
        deform_conv.deform_conv_backward_input,
        deform_conv.deform_conv_backward_parameters,
        deform_conv.deform_conv_forward,
        deform_conv.modulated_deform_conv_backward,
        deform_conv.modulated_deform_conv_forward,
        deform_roi_pool.deform_roi_pool_backward,
        deform_roi_pool.deform_roi_pool_forward,
        focal_loss.sigmoid_focal_loss_backward,
        focal_loss.sigmoid_focal_loss_forward,
        focal_loss.softmax_focal_loss_backward,
        focal_loss.softmax_focal_loss_forward,
        get_compiler_version,
        get_compiling_cuda_version,
        masked_conv.masked_col2im_forward,
        masked_conv.masked_im2col_forward,
        nms.nms,
        nms.nms_match,
        nms.softnms,
        psa_mask.psamask_backward,
        psa_mask.psamask_forward,
        roi_align.roi_align_backward,
        roi_align.roi_align_forward,
        roi_pool.roi_pool_backward,
        roi_pool.roi_pool_forward,
        sync_bn.sync_bn_backward_data,
        sync_bn.sync_bn_backward_param,
        sync_bn.sync_bn_forward_mean,
        sync_bn.sync_bn_forward_output,
        sync_bn.sync_bn_forward_var,
    )
}
