"""Networks as they are, used otherwise: dense layers as convolutions, dense scores, many views.

Dense layers over a volume and convolutions of that window are the same sums: `dense_to_conv` and
`conv_to_dense` carry weights from one to the other, so that a network trained on crops gives the
scores of every position of a larger image in one pass (`dense_scores`). What is averaged over
positions, crops, mirrors and sizes at test time is written out in plain functions beside.
"""

from cnnjax.surgery.conversion import conv_to_dense, dense_to_conv
from cnnjax.surgery.dense import average_scores, crop_scores, dense_scores
from cnnjax.surgery.views import (
    average_views,
    diagonal_shifts,
    horizontal_flips,
    multi_scale_scores,
    predict_tta,
    scales,
    ten_crop,
)

__all__ = [
    "average_scores",
    "average_views",
    "conv_to_dense",
    "crop_scores",
    "dense_scores",
    "dense_to_conv",
    "diagonal_shifts",
    "horizontal_flips",
    "multi_scale_scores",
    "predict_tta",
    "scales",
    "ten_crop",
]
