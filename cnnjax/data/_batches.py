"""What augmentations ask of the images that they are given."""

from typing import Any

import numpy as np

__all__ = ["check_batch", "check_bytes"]


def check_batch(function: str, images: Any) -> None:
    """Refuse what is no batch (N, H, W, C).

    Raises:
      ValueError: naming the function.
    """
    if images.ndim != 4:
        raise ValueError(
            f"{function}: images must be a batch (N, H, W, C), got shape {images.shape}; give one "
            "image as images[None]"
        )


def check_bytes(function: str, images: Any) -> None:
    """Refuse images that are not uint8.

    Raises:
      TypeError: naming the function.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"{function}: images must be uint8, got {images.dtype}")
