"""Datasets by name through TFDS, a validation split, augmentation: real images as arrays.

Importing this package imports neither TFDS nor, ever, TensorFlow; `load` imports TFDS when it is
called.
"""

from cnnjax.data.augment import (
    ChannelStatistics,
    alternating_flip,
    channel_statistics,
    cutout,
    normalize,
    random_flip,
    random_shift_crop,
)
from cnnjax.data.augment_color import (
    ColorComponents,
    color_components,
    color_jitter,
    pca_lighting,
)
from cnnjax.data.errors import DatasetCorruptError, DatasetError, DatasetUnavailableError
from cnnjax.data.images import Images
from cnnjax.data.loading import load
from cnnjax.data.mixing import mixup
from cnnjax.data.splits import split_validation, stratified_indices
from cnnjax.data.whitening import patch_whitening

__all__ = [
    "ChannelStatistics",
    "ColorComponents",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetUnavailableError",
    "Images",
    "alternating_flip",
    "channel_statistics",
    "color_components",
    "color_jitter",
    "cutout",
    "load",
    "mixup",
    "normalize",
    "patch_whitening",
    "pca_lighting",
    "random_flip",
    "random_shift_crop",
    "split_validation",
    "stratified_indices",
]
