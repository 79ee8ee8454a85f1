"""Pooling: the maximum or the mean of each window, channel by channel."""

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import geometry
from cnnjax.geometry import Fit, Padding, PerAxis

__all__ = ["avg_pool", "max_pool"]

# Up to this many taps a window is the elementwise maximum of strided slices, which the CPU
# backend runs faster than its reduce-window and select-and-scatter (docs/speed.md); beyond it
# the program would grow with the window.
_MOST_TAPS_AS_SLICES = 49


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
    return _max_of_windows(windows.flatten(x), windows).reshape(windows.output_shape)


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
    total = lax.reduce_window(
        windows.flatten(x),
        jnp.zeros((), x.dtype),
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
        # Windows that hang over the end (fit="ceil") are ordinary ones with more high padding;
        # pixels that no window reaches (fit="floor") are cut by the strided slices below.
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
        self.flat_shape = (-1, *spatial, channels)
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

    def __hash__(self) -> int:
        return hash(self._key())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Windows) and self._key() == other._key()

    def _key(self) -> tuple:
        return self.flat_shape, self.output_shape, self.window, self.stride, self.padding

    def flatten(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.flat_shape)

    def taps(self, x: jax.Array, fill: object) -> list[jax.Array]:
        """For each tap of the window, in row-major order, its pixel at every position."""
        padded = lax.pad(
            x, jnp.asarray(fill, x.dtype), [(low, high, 0) for low, high in self.padding]
        )
        ends = [(out - 1) * s + 1 for out, s in zip(self.outputs, self.stride[1:-1], strict=True)]
        slices = []
        for offset in itertools.product(*(range(w) for w in self.window[1:-1])):
            start = (0, *offset, 0)
            stop = (
                x.shape[0],
                *(o + end for o, end in zip(offset, ends, strict=True)),
                x.shape[-1],
            )
            slices.append(lax.slice(padded, start, stop, self.stride))
        return slices

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


def _lowest(dtype: np.dtype) -> object:
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf
    return False if dtype == jnp.bool_ else jnp.iinfo(dtype).min


def _max_of_windows(x: jax.Array, windows: _Windows) -> jax.Array:
    if math.prod(windows.window) > _MOST_TAPS_AS_SLICES:
        lowest = jnp.asarray(_lowest(x.dtype), x.dtype)
        return lax.reduce_window(
            x, lowest, lax.max, windows.window, windows.stride, windows.padding
        )
    return _max_over_taps(x, windows)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_over_taps(x: jax.Array, windows: _Windows) -> jax.Array:
    return functools.reduce(jnp.maximum, windows.taps(x, _lowest(x.dtype)))


@_max_over_taps.defjvp
def _max_over_taps_jvp(
    windows: _Windows, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # A mask for each tap, instead of XLA's select-and-scatter: elementwise code, which the CPU
    # backend fuses, which ties like PyTorch, and which is linear in the tangent at every order.
    (x,), (x_dot,) = primals, tangents
    out = _max_over_taps(x, windows)
    taken = jnp.zeros(out.shape, bool)
    out_dot = jnp.zeros_like(out)
    for tap, tap_dot in zip(windows.taps(x, _lowest(x.dtype)), windows.taps(x_dot, 0), strict=True):
        # NaN is a maximum that equals nothing, itself included.
        first = ((tap == out) | (tap != tap)) & ~taken
        taken = taken | first
        out_dot = out_dot + jnp.where(first, tap_dot, jnp.zeros_like(tap_dot))
    return out, out_dot
