"""Datasets by name through TFDS, a validation split, augmentation: real images as arrays.

Importing this package imports neither TFDS nor, ever, TensorFlow; `load` imports TFDS when it is
called.
"""

from cnnjax.data.augment import (
    ChannelStatistics,
    channel_statistics,
    normalize,
    random_flip,
    random_shift_crop,
)
from cnnjax.data.errors import DatasetCorruptError, DatasetError, DatasetUnavailableError
from cnnjax.data.images import Images
from cnnjax.data.loading import load
from cnnjax.data.splits import split_validation, stratified_indices

__all__ = [
    "ChannelStatistics",
    "DatasetCorruptError",
    "DatasetError",
    "DatasetUnavailableError",
    "Images",
    "channel_statistics",
    "load",
    "normalize",
    "random_flip",
    "random_shift_crop",
    "split_validation",
    "stratified_indices",
]
