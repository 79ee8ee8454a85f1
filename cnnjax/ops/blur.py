"""Pooling by a binomial filter, which blurs before it leaves pixels out."""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import geometry
from cnnjax.geometry import Fit, Padding, PerAxis
from cnnjax.ops._dtypes import check_mean, wide
from cnnjax.ops._layers import as_layer
from cnnjax.ops._windows import Windows
from cnnjax.ops.pool import pool_windows, sliding_axes

__all__ = ["blur_pool"]


def blur_pool(
    x: jax.Array,
    *,
    window: PerAxis = 3,
    stride: PerAxis = 2,
    padding: Padding | None = None,
    fit: Fit = "floor",
) -> jax.Array:
    """Mean over each window of the pixels it sees, weighted by binomial coefficients.

    out[..., u, c] = sum over taps t of w_t x[..., u S + t - low, c] / sum of w_t, both over the
    pixels seen, with w the outer product of C(F - 1, t) an axis: (1, 1), (1, 2, 1), (1, 3, 3, 1).
    Before a step of S pixels that takes away the high frequencies which would alias.

    Args:
      x: floating input of shape (*batch, *spatial, channels), any number of batch axes.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
        The paper takes 2 to 7; 1 leaves pixels out without blurring.
      stride: step between windows; 2 by default, whatever the window.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis; None for
        (F - 1) // 2 before and F // 2 after each axis as in the paper's code, which leaves
        ceil(W / S) of W pixels. Padding has no weight.
      fit: "floor", "ceil" or "exact", as in `max_pool`.

    Returns:
      Array of shape (*batch, *output_spatial, channels) and the dtype of `x`, summed in float32 or
      wider.

    Raises:
      TypeError: integer input, whose mean would be floored.
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> blur_pool(jnp.array([0.0, 4.0, 0.0, 0.0, 8.0])[:, None], window=(3,))[:, 0]
    Array([1.3333334, 1.       , 5.3333335], dtype=float32)

    The paper's code reflects the image at its borders, where the first value above would be
    (2 * 0 + 2 * 4) / 4 = 2; here a window that hangs over the border weighs what it sees, as
    `avg_pool` does. Inside the two are the same. Anti-aliased max-pooling is `max_pool` with stride
    1 and then `blur_pool`.

    Sibling: with a window of 2 and no padding this is `avg_pool`.
    Source: Zhang, "Making convolutional networks shift-invariant again" (2019).
    """
    check_mean("blur_pool", x)
    if padding is None:
        rank = len(window) if isinstance(window, Sequence) else 2
        taps = geometry.per_axis("blur_pool", "window", window, rank)
        padding = tuple(((size - 1) // 2, size // 2) for size in taps)
    windows = pool_windows("blur_pool", x, window, stride, padding, 1, fit)
    return as_layer(_blur_pool, windows.named("blur_pool"), windows=windows)(x)


def _blur_pool(x: jax.Array, *, windows: Windows) -> jax.Array:
    total = wide(x).reshape(windows.flat_shape)
    share = np.ones(())
    # The filter is a product of one an axis, so an axis at a time takes F + F products, not F F.
    for number, axis in enumerate(sliding_axes(windows)):
        weights = _binomial(axis.widest)
        taps = axis.taps(total, number + 1, (), 0)
        products = [tap * weight for tap, weight in zip(taps, weights, strict=True)]
        total = functools.reduce(jnp.add, products)
        pixels = axis.starts(()).reshape(-1, 1) + np.arange(axis.widest)
        seen = np.where((pixels >= 0) & (pixels < axis.size), weights, 0)
        share = np.multiply.outer(share, seen.sum(axis=1))
    if (share < 1).any():
        total = total / jnp.asarray(share[None, ..., None], total.dtype)
    out = total.reshape(*windows.batch, *windows.outputs, windows.channels)
    return out.astype(x.dtype)


def _binomial(num_taps: int) -> list[float]:
    """The coefficients of (1 + z)^(F - 1) over their sum."""
    return [math.comb(num_taps - 1, tap) / 2 ** (num_taps - 1) for tap in range(num_taps)]
