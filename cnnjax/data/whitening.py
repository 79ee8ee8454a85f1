"""Whitening of small patches: the filters that make neighbouring pixels uncorrelated."""

import numpy as np
from jax.typing import ArrayLike

from cnnjax.data._batches import check_batch

__all__ = ["patch_whitening"]

# Images looked at together: their patches are as many times as large as a patch has pixels.
_IMAGES_AT_ONCE = 500


def patch_whitening(images: ArrayLike, *, window: int, epsilon: float = 5e-4) -> np.ndarray:
    """Kernel of a convolution whose outputs are uncorrelated on these images, and its negative.

    With the second moments M = mean of p p^T over all patches p of window x window x C values, and
    M = sum over k of l_k v_k v_k^T, filter k is v_k / sqrt(l_k + epsilon): its outputs have a mean
    square of l_k / (l_k + epsilon), and those of two filters a mean product of zero. The negatives
    of these filters follow, so that a rectifier behind them loses nothing.

    Args:
      images: floating, (N, H, W, C), normalised as the network gets them: M is about zero, not
        about their mean. On the host (this is NumPy, in float64).
      window: pixels of a patch an axis, F.
      epsilon: what is added to the eigenvalues, 0 or more, lest directions that hardly vary, such
        as noise, are blown up.

    Returns:
      float32, (F, F, C, 2 F F C), filters of the largest eigenvalue first; the largest entry of
      each in the first half is positive.

    Raises:
      TypeError: `images` is not floating.
      ValueError: no batch, no images, a window below 1 or larger than they are, a negative
        epsilon, or directions in which they do not vary without an epsilon.

    >>> pixels = np.array([[1.0], [-1.0], [3.0], [-3.0]]).reshape(4, 1, 1, 1)
    >>> patch_whitening(pixels, window=1, epsilon=0.2).ravel().round(4)
    array([ 0.4385, -0.4385], dtype=float32)

    Sibling: `color_components` are the directions of single pixels' colours, for `pca_lighting`.
    Source: Page, "How to train your ResNet 8: bag of tricks", 2019; the negatives: hlb-CIFAR10
    (Balsam, 2023) and Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.2.
    """
    x = np.asarray(images)
    check_batch("patch_whitening", x)
    if not np.issubdtype(x.dtype, np.floating):
        raise TypeError(
            f"patch_whitening: images must be floating, got {x.dtype}; normalise them as for the "
            "network first, for example by cnnjax.data.normalize"
        )
    num_images, height, width, channels = x.shape
    if not x.size:
        raise ValueError(f"patch_whitening: images must hold at least one pixel, got {x.shape}")
    if not 1 <= window <= min(height, width):
        raise ValueError(
            f"patch_whitening: window must be between 1 and the {min(height, width)} pixels of the "
            f"images' shorter side, got {window}"
        )
    if not epsilon >= 0:
        raise ValueError(f"patch_whitening: epsilon must be 0 or more, got {epsilon}")
    size = window * window * channels
    products, num_patches = np.zeros((size, size)), 0
    for first in range(0, num_images, _IMAGES_AT_ONCE):
        part = x[first : first + _IMAGES_AT_ONCE].astype(np.float64)
        patches = np.lib.stride_tricks.sliding_window_view(part, (window, window), axis=(1, 2))
        # (N, rows, columns, C, F, F) to kernel order, (patches, F F C).
        rows = np.moveaxis(patches, 3, -1).reshape(-1, size)
        products, num_patches = products + rows.T @ rows, num_patches + len(rows)
    eigenvalues, vectors = np.linalg.eigh(products / num_patches)
    eigenvalues, filters = np.maximum(eigenvalues[::-1], 0.0) + epsilon, vectors[:, ::-1]
    if eigenvalues[-1] <= 1e-12 * eigenvalues[0]:
        raise ValueError(
            "patch_whitening: in some directions the patches do not vary, and cannot be given a "
            "variance of one; give an epsilon such as 5e-4"
        )
    largest = np.take_along_axis(filters, np.abs(filters).argmax(0)[None], axis=0)
    filters = (filters * np.sign(largest) / np.sqrt(eigenvalues)).reshape(
        window, window, channels, -1
    )
    return np.concatenate([filters, -filters], axis=-1).astype(np.float32)
