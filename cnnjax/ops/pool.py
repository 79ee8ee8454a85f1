"""Pooling: the maximum or the mean of each window, channel by channel."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import geometry
from cnnjax.geometry import Fit, Padding, PerAxis

__all__ = ["avg_pool", "max_pool"]


def max_pool(
    x: jax.Array,
    *,
    window: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    fit: Fit = "floor",
) -> jax.Array:
    """Maximum over each window: out[..., u, c] = max over taps t of x[..., u S + t - low, c].

    Padding never wins: it counts as the lowest value of the dtype. NaN in a window gives NaN.
    The gradient goes to the window's first maximum in row-major order, as in PyTorch (the mean
    over tied maxima, which `jnp.max` takes, differs wherever a ReLU left several zeros).

    Args:
      x: input of shape (*batch, *spatial, channels); any number of batch axes, none included.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      stride: step between windows; the window's own size (tiles that touch) by default.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis.
      fit: "floor" leaves the pixels unseen that fill no window, "ceil" adds a window that hangs
        over the end (Caffe, GoogLeNet), "exact" raises when the windows do not tile the input.

    Returns:
      Array of shape (*batch, *output_spatial, channels) and the dtype of `x`.

    Raises:
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> x = jnp.arange(16.0).reshape(4, 4, 1)
    >>> max_pool(x, window=2)[..., 0]
    Array([[ 5.,  7.],
           [13., 15.]], dtype=float32)

    Sibling: `avg_pool` takes the mean and must decide whether padding counts.
    """
    windows = _Windows.of("max_pool", x, window, stride, padding, fit)
    out = windows.flatten(x)
    # Axis by axis, the last one first: of the rows that hold the maximum the first one wins, and
    # in it the first pixel, which is row-major order at F + F instead of F x F comparisons.
    for axis in reversed(range(1, out.ndim - 1)):
        out = _max_along(out, windows.run(axis))
    return out.reshape(windows.output_shape)


def avg_pool(
    x: jax.Array,
    *,
    window: PerAxis,
    stride: PerAxis | None = None,
    padding: Padding = "VALID",
    fit: Fit = "floor",
    count_padding: bool = False,
) -> jax.Array:
    """Mean over each window of the pixels it sees.

    Args:
      x: floating input of shape (*batch, *spatial, channels), any number of batch axes.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      stride: step between windows; the window's own size by default.
      padding: "VALID", "SAME" (XLA's rule), an integer, or (low, high) pairs an axis.
      fit: "floor", "ceil" or "exact", as in `max_pool`.
      count_padding: divide by the pixels seen (False, as Haiku does) or by the window's part
        that lies on the padded input (True, the default of Flax, Equinox and PyTorch). What
        `fit="ceil"` hangs over the end of the padding never counts.

    Returns:
      Array of shape (*batch, *output_spatial, channels) and the dtype of `x`.

    Raises:
      TypeError: integer input, whose mean would be floored.
      ValueError: ranks or sizes that do not go together, or a window that sees only padding.

    >>> import jax.numpy as jnp
    >>> avg_pool(jnp.ones((3, 3, 1)), window=2, stride=1, padding=1)[0, :, 0]
    Array([1., 1., 1., 1.], dtype=float32)
    >>> avg_pool(jnp.ones((3, 3, 1)), window=2, stride=1, padding=1, count_padding=True)[0, :, 0]
    Array([0.25, 0.5 , 0.5 , 0.25], dtype=float32)
    """
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        raise TypeError(
            f"avg_pool: x has dtype {x.dtype}, whose mean would be floored; cast to a floating "
            "dtype first, for example x.astype(jnp.float32)"
        )
    windows = _Windows.of("avg_pool", x, window, stride, padding, fit)
    # A NumPy zero: under a trace one of JAX's would hide from it that this is a sum.
    total = lax.reduce_window(
        windows.flatten(x),
        np.zeros((), x.dtype),
        lax.add,
        windows.window,
        windows.stride,
        windows.padding,
    )
    count = windows.pixels_counted(count_padding)
    return (total / jnp.asarray(count, x.dtype)).reshape(windows.output_shape)


class _Windows:
    """The windows of one pooling call over a flat batch (N, *spatial, channels), checked."""

    def __init__(
        self,
        batch: tuple[int, ...],
        spatial: tuple[int, ...],
        channels: int,
        window: tuple[int, ...],
        stride: tuple[int, ...],
        pairs: tuple[tuple[int, int], ...],
        outputs: tuple[int, ...],
    ) -> None:
        # Windows that hang over the end (fit="ceil") are ordinary ones with more high padding.
        hanging = tuple(
            max((out - 1) * s + w - (size + low + high), 0)
            for out, s, w, size, (low, high) in zip(
                outputs, stride, window, spatial, pairs, strict=True
            )
        )
        self.asked_padding = pairs
        self.spatial, self.outputs = spatial, outputs
        self.window = (1, *window, 1)
        self.stride = (1, *stride, 1)
        self.padding = (
            (0, 0),
            *((low, high + more) for (low, high), more in zip(pairs, hanging, strict=True)),
            (0, 0),
        )
        self.flat_shape = (math.prod(batch), *spatial, channels)
        self.output_shape = (*batch, *outputs, channels)

    @classmethod
    def of(
        cls,
        function: str,
        x: jax.Array,
        window: PerAxis,
        stride: PerAxis | None,
        padding: Padding,
        fit: Fit,
    ) -> "_Windows":
        rank = len(window) if isinstance(window, Sequence) else 2
        windows = geometry.per_axis(function, "window", window, rank)
        if x.ndim < rank + 1:
            raise ValueError(
                f"{function}: window {windows} slides over {rank} spatial axes, so x needs at "
                f"least {rank + 1} axes (*batch, *spatial, channels), got shape {x.shape}"
            )
        strides = geometry.per_axis(function, "stride", windows if stride is None else stride, rank)
        batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
        pairs = geometry.padding_pairs(
            function, padding, spatial, windows, stride=strides, dilation=(1,) * rank
        )
        if any(w <= max(pair) for w, pair in zip(windows, pairs, strict=True)):
            raise ValueError(
                f"{function}: padding {pairs} must stay below the window {windows} on every axis, "
                "else a window sees only padding"
            )
        try:
            outputs = geometry.output_shape(
                spatial, windows, stride=strides, padding=pairs, fit=fit
            )
        except ValueError as error:
            raise ValueError(f"{function}: {error}") from None
        return cls(batch, spatial, x.shape[-1], windows, strides, pairs, outputs)

    def flatten(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.flat_shape)

    def run(self, axis: int) -> "_Run":
        """The windows along one axis of the flat batch."""
        low, high = self.padding[axis]
        return _Run(axis, self.window[axis], self.stride[axis], low, high, self.outputs[axis - 1])

    def pixels_counted(self, count_padding: bool) -> np.ndarray:
        """How many pixels the mean of each window divides by, shape (1, *outputs, 1)."""
        counts = np.ones((), int)
        for size, w, s, (low, high), out in zip(
            self.spatial,
            self.window[1:-1],
            self.stride[1:-1],
            self.asked_padding,
            self.outputs,
            strict=True,
        ):
            first, last = (-low, size + high) if count_padding else (0, size)
            starts = np.arange(out) * s - low
            seen = np.minimum(starts + w, last) - np.maximum(starts, first)
            counts = np.multiply.outer(counts, seen)
        return counts[None, ..., None]


class _Run(NamedTuple):
    """Windows along one axis: `num_outputs` of them over the axis padded by (low, high)."""

    axis: int
    window: int
    stride: int
    low: int
    high: int
    num_outputs: int

    def taps(self, x: jax.Array, fill: object) -> list[jax.Array]:
        """For each tap of the window its pixel at every position."""
        padding = [(0, 0, 0)] * x.ndim
        padding[self.axis] = (self.low, self.high, 0)
        padded = lax.pad(x, np.asarray(fill, x.dtype), padding)
        reach = (self.num_outputs - 1) * self.stride + 1
        return [
            lax.slice_in_dim(padded, tap, tap + reach, self.stride, self.axis)
            for tap in range(self.window)
        ]

    def seen(self, tap: int, x: jax.Array) -> np.ndarray:
        """Whether the tap lies on the input, not on padding, at every position."""
        pixels = np.arange(self.num_outputs) * self.stride + tap - self.low
        inside = (pixels >= 0) & (pixels < x.shape[self.axis])
        return inside.reshape([-1 if axis == self.axis else 1 for axis in range(x.ndim)])


def _lowest(dtype: np.dtype) -> object:
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf
    return False if dtype == jnp.bool_ else jnp.iinfo(dtype).min


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_along(x: jax.Array, run: _Run) -> jax.Array:
    return functools.reduce(jnp.maximum, run.taps(x, _lowest(x.dtype)))


@_max_along.defjvp
def _max_along_jvp(
    run: _Run, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # A mask for each tap, instead of XLA's select-and-scatter: elementwise code, which the CPU
    # backend fuses, which ties like PyTorch, and which is linear in the tangent at every order.
    (x,), (x_dot,) = primals, tangents
    out = _max_along(x, run)
    taken = jnp.zeros(out.shape, bool)
    out_dot = jnp.zeros_like(out)
    pixels = zip(run.taps(x, _lowest(x.dtype)), run.taps(x_dot, 0), strict=True)
    for tap, (pixel, pixel_dot) in enumerate(pixels):
        # NaN is a maximum that equals nothing, itself included. Padding never wins, not even
        # where all that a window sees is as low as padding.
        first = ((pixel == out) | (pixel != pixel)) & run.seen(tap, x) & ~taken
        taken = taken | first
        out_dot = out_dot + jnp.where(first, pixel_dot, jnp.zeros_like(pixel_dot))
    return out, out_dot
