"""MMCV's compiled operators once more, from torchvision's kernels and plain PyTorch, for CPU and GPU.

Every function has the name and the arguments under which ``mmcv/ops/*.py`` call it in ``mmcv._ext``. MMCV makes the
output tensors and the functions fill them; :mod:`mmkdprune.compat.mmcv_ops` puts them in the place of that module.
"""

from collections.abc import Callable

import torchvision  # noqa: F401  its import makes its kernels known to torch.ops

from .attention import ms_deform_attn_backward, ms_deform_attn_forward
from .boxes import bbox_overlaps, nms
from .carafe import carafe_backward, carafe_forward, carafe_naive_backward, carafe_naive_forward
from .deform_roi_pool import deform_roi_pool_backward, deform_roi_pool_forward
from .deformable import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
)
from .focal_loss import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from .rearrangement import masked_col2im_forward, masked_im2col_forward, psamask_backward, psamask_forward
from .roi_align import roi_align_backward, roi_align_forward
from .roi_pool import roi_pool_backward, roi_pool_forward
from .soft_nms import nms_match, softnms

OPERATORS: dict[str, Callable] = {
    operator.__name__: operator
    for operator in (
        bbox_overlaps,
        carafe_backward,
        carafe_forward,
        carafe_naive_backward,
        carafe_naive_forward,
        deform_conv_backward_input,
        deform_conv_backward_parameters,
        deform_conv_forward,
        deform_roi_pool_backward,
        deform_roi_pool_forward,
        masked_col2im_forward,
        masked_im2col_forward,
        modulated_deform_conv_backward,
        modulated_deform_conv_forward,
        ms_deform_attn_backward,
        ms_deform_attn_forward,
        nms,
        nms_match,
        psamask_backward,
        psamask_forward,
        roi_align_backward,
        roi_align_forward,
        roi_pool_backward,
        roi_pool_forward,
        sigmoid_focal_loss_backward,
        sigmoid_focal_loss_forward,
        softmax_focal_loss_backward,
        softmax_focal_loss_forward,
        softnms,
    )
}

__all__ = ["OPERATORS"]
