"""The form in which every dataset leaves this package."""

from typing import NamedTuple

import numpy as np

__all__ = ["Images"]


class Images(NamedTuple):
    """Labelled images of one size, in memory.

    Attributes:
      images: uint8 array of shape (N, H, W, C), channels last, values 0 to 255.
      labels: int32 array of shape (N,); `class_names[label]` is the class, -1 means unlabelled.
      class_names: one name a class, in the order of the labels.
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
