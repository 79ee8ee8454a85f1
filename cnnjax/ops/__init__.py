"""The pure functions: channels last, any number of batch axes, rank by the window."""

from cnnjax.ops.adaptive import adaptive_avg_pool
from cnnjax.ops.batch_norm import batch_norm, batch_statistics
from cnnjax.ops.blur import blur_pool
from cnnjax.ops.conv import conv
from cnnjax.ops.fractional import (
    average_over_grids,
    fractional_avg_pool,
    fractional_boundaries,
    fractional_max_pool,
    fractional_max_pool_with_switches,
    fractional_sizes,
)
from cnnjax.ops.local import locally_connected, unshare
from cnnjax.ops.losses import multiclass_svm_loss
from cnnjax.ops.normalize import (
    LRN_PRESETS,
    local_response_norm,
    local_response_norm_within_channel,
)
from cnnjax.ops.patches import conv_as_matmul, conv_matrix, extract_patches, fold_patches
from cnnjax.ops.pool import avg_pool, global_avg_pool, global_max_pool, l2_pool, max_pool
from cnnjax.ops.switches import max_pool_with_switches, max_unpool
from cnnjax.ops.transpose import conv_input_gradient, conv_kernel_gradient, conv_transpose

__all__ = [
    "LRN_PRESETS",
    "adaptive_avg_pool",
    "average_over_grids",
    "avg_pool",
    "batch_norm",
    "batch_statistics",
    "blur_pool",
    "conv",
    "conv_as_matmul",
    "conv_input_gradient",
    "conv_kernel_gradient",
    "conv_matrix",
    "conv_transpose",
    "extract_patches",
    "fold_patches",
    "fractional_avg_pool",
    "fractional_boundaries",
    "fractional_max_pool",
    "fractional_max_pool_with_switches",
    "fractional_sizes",
    "global_avg_pool",
    "global_max_pool",
    "l2_pool",
    "local_response_norm",
    "local_response_norm_within_channel",
    "locally_connected",
    "max_pool",
    "max_pool_with_switches",
    "max_unpool",
    "multiclass_svm_loss",
    "unshare",
]
