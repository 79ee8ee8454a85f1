"""Local response normalisation: each value divided by the energy of its neighbours.

The two conventions of alpha differ by a factor of the window, and both are in use under the same
name; so `local_response_norm` makes the caller say which is meant.
"""

import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import geometry
from cnnjax.geometry import PerAxis
from cnnjax.ops._dtypes import wide
from cnnjax.ops._layers import as_layer, layer_name
from cnnjax.ops._windows import check_floating, split_axes

__all__ = ["LRN_PRESETS", "local_response_norm", "local_response_norm_within_channel"]

_ALPHA_OVER = ("sum", "mean")

# The defaults of each source, as keyword arguments of `local_response_norm`. PyTorch has no
# default size; the one of `local_response_norm` then holds unless the caller gives another.
LRN_PRESETS: Mapping[str, Mapping[str, Any]] = {
    "alexnet": {"size": 5, "alpha": 1e-4, "beta": 0.75, "k": 2.0, "alpha_over": "sum"},
    "caffe": {"size": 5, "alpha": 1.0, "beta": 0.75, "k": 1.0, "alpha_over": "mean"},
    "pytorch": {"alpha": 1e-4, "beta": 0.75, "k": 1.0, "alpha_over": "mean"},
    "tensorflow": {"size": 11, "alpha": 1.0, "beta": 0.5, "k": 1.0, "alpha_over": "sum"},
}


def local_response_norm(
    x: jax.Array,
    *,
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
    alpha_over: Literal["sum", "mean"],
) -> jax.Array:
    """Normalise each value by its neighbours in the channels.

    y[..., c] = x[..., c] / (k + A * sum over j of x[..., j]^2)^beta, where j runs over the `size`
    channels around c, those outside the array counting as zeros: size // 2 before c and
    (size - 1) // 2 after it. So an odd size is centred, and an even one looks one channel
    further back, as in PyTorch (ONNX and cuDNN look one further ahead: flip the channels before
    and after). A is `alpha` with alpha_over="sum" and `alpha / size` with alpha_over="mean", at
    the first and last channels too.

    There is no default for `alpha_over`, since either would surprise half of the callers: the
    sum is what the AlexNet paper's formula, TensorFlow and MatConvNet weigh, the mean what
    cuda-convnet, Caffe, cuDNN, ONNX and PyTorch do. The other defaults are the paper's.
    `LRN_PRESETS` holds the defaults of "alexnet" (the paper), "caffe", "pytorch" (which asks
    for a size) and "tensorflow" (depth_radius=5, hence a size of 11).

    Args:
      x: floating input of shape (*axes, channels), any number of axes before the channels.
      size: number of channels in the window, n >= 1; it may exceed the channels of `x`.
      alpha: weight of the neighbours' squares, at least 0.
      beta: the exponent.
      k: what is added, above 0, so that values and gradients are finite at zero.
      alpha_over: "sum" or "mean", what of the squares in the window `alpha` weighs.

    Returns:
      Array of the shape and dtype of `x`. 16-bit inputs are squared and summed in float32.

    Raises:
      TypeError: integer input, or a setting that is not a number.
      ValueError: a setting out of range, an unknown `alpha_over`, or `x` without axes.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones(4)
    >>> local_response_norm(x, size=3, alpha=1.0, beta=1.0, k=2.0, alpha_over="sum")
    Array([0.25, 0.2 , 0.2 , 0.25], dtype=float32)
    >>> local_response_norm(x, **LRN_PRESETS["pytorch"], size=3).shape
    (4,)

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", 2012, section 3.3, where it follows the ReLU.

    Sibling: `local_response_norm_within_channel` looks at the pixels around, not the channels.
    """
    function = "local_response_norm"
    if alpha_over not in _ALPHA_OVER:
        raise ValueError(
            f'{function}: alpha_over must be "sum" (AlexNet\'s paper, TensorFlow) or "mean" '
            f"(Caffe, PyTorch), got {alpha_over!r}"
        )
    if x.ndim < 1:
        raise ValueError(f"{function}: x needs an axis of channels, (*axes, channels), got ()")
    (size,) = geometry.per_axis(function, "size", size, 1)
    check_floating(function, x=x)
    _check_numbers(function, alpha=alpha, beta=beta, k=k)
    weight = alpha / size if alpha_over == "mean" else alpha
    settings = {"weight": float(weight), "beta": float(beta), "k": float(k)}
    runs = (_Neighbours(x.ndim - 1, size),)
    return as_layer(_normalize, layer_name("local_response_norm"), runs=runs, **settings)(x)


def local_response_norm_within_channel(
    x: jax.Array,
    *,
    window: PerAxis,
    alpha: float = 1.0,
    beta: float = 0.75,
    k: float = 1.0,
) -> jax.Array:
    """Normalise each value by the pixels around it in its own channel.

    y[..., u, c] = x[..., u, c] / (k + alpha * mean over v of x[..., v, c]^2)^beta, where v runs
    over the window around pixel u. Pixels outside the image count as zeros, and the mean divides
    by the taps of the whole window at the borders too: alpha / F^2 for a square window, as in
    Caffe (norm_region: WITHIN_CHANNEL) and in cuda-convnet's same-map normalisation. Axes of even
    size have F // 2 pixels before u and (F - 1) // 2 after it; Caffe takes odd windows alone.

    Args:
      x: floating input of shape (*batch, *spatial, channels); any number of batch axes.
      window: pixels of the window, one value an axis; a bare integer means two axes, (F, F).
      alpha: weight of the mean square, at least 0; Caffe's default.
      beta: the exponent.
      k: what is added, above 0. Caffe always takes 1 here, whatever its `k` says.

    Returns:
      Array of the shape and dtype of `x`. 16-bit inputs are squared and summed in float32.

    Raises:
      TypeError: integer input, or a setting that is not a number.
      ValueError: ranks that do not go together, or a setting out of range.

    >>> import jax.numpy as jnp
    >>> x = jnp.ones((3, 3, 1))
    >>> local_response_norm_within_channel(x, window=3, alpha=9.0, beta=1.0)[..., 0]
    Array([[0.2       , 0.14285715, 0.2       ],
           [0.14285715, 0.1       , 0.14285715],
           [0.2       , 0.14285715, 0.2       ]], dtype=float32)

    Source: Krizhevsky, cuda-convnet, 2011; Jia et al., "Caffe", 2014.

    Sibling: `local_response_norm` looks at the channels around, and is what is meant by the name
    where nothing else is said.
    """
    function = "local_response_norm_within_channel"
    rank = len(window) if isinstance(window, Sequence) else 2
    windows = geometry.per_axis(function, "window", window, rank)
    split_axes(function, x.shape, windows)
    check_floating(function, x=x)
    _check_numbers(function, alpha=alpha, beta=beta, k=k)
    first = x.ndim - 1 - rank
    # Sums of sums, an axis at a time: F + F additions a pixel instead of F x F.
    runs = tuple(_Neighbours(first + i, windows[i]) for i in reversed(range(rank)))
    weight = float(alpha) / math.prod(windows)
    settings = {"weight": weight, "beta": float(beta), "k": float(k)}
    return as_layer(_normalize, layer_name(function), runs=runs, **settings)(x)


class _Neighbours(NamedTuple):
    """The window around each place of one axis: size // 2 places before it, the rest after."""

    axis: int
    size: int

    @property
    def margins(self) -> tuple[int, int]:
        return self.size // 2, (self.size - 1) // 2


def _normalize(
    x: jax.Array, *, runs: Sequence[_Neighbours], weight: float, beta: float, k: float
) -> jax.Array:
    widened = wide(x)
    energy = jnp.square(widened)
    for run in runs:
        energy = _sum_of_neighbours(energy, run)
    return (widened * _inverse_power(k + weight * energy, beta)).astype(x.dtype)


# Beyond this a program of slices takes long to compile, and one reduce-window is as fast.
_MOST_SLICES = 64


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _sum_of_neighbours(x: jax.Array, run: _Neighbours) -> jax.Array:
    # Shifted slices fuse with what stands before and after them, and no value meets another's
    # infinity or NaN, as in a product with a banded matrix; a running sum would lose digits.
    if run.size > _MOST_SLICES:
        return _reduce_neighbours(x, run)
    padding = [(0, 0, 0)] * x.ndim
    padding[run.axis] = (*run.margins, 0)
    padded = lax.pad(x, np.zeros((), x.dtype), padding)
    length = x.shape[run.axis]
    taps = (lax.slice_in_dim(padded, tap, tap + length, axis=run.axis) for tap in range(run.size))
    return functools.reduce(jnp.add, taps)


@_sum_of_neighbours.defjvp
def _sum_of_neighbours_jvp(
    run: _Neighbours, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # Slices transpose to as many padded arrays; a reduce-window to a reduce-window.
    return _sum_of_neighbours(*primals, run), _reduce_neighbours(*tangents, run)


def _reduce_neighbours(x: jax.Array, run: _Neighbours) -> jax.Array:
    window, padding = [1] * x.ndim, [(0, 0)] * x.ndim
    window[run.axis], padding[run.axis] = run.size, run.margins
    # A NumPy zero: under a trace one of JAX's would hide from it that this is a sum.
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, window, (1,) * x.ndim, padding)


_POWERS: Mapping[float, Callable[[jax.Array], jax.Array]] = {
    0.5: lax.sqrt,
    0.75: lambda d: lax.sqrt(d) * lax.sqrt(lax.sqrt(d)),
    1.0: lambda d: d,
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _inverse_power(d: jax.Array, beta: float) -> jax.Array:
    # Square roots run several times as fast as `pow` on the CPU, and end within two units of the
    # last place of the exact power. One rule for the derivative spares it a second power.
    power = _POWERS.get(beta)
    return 1 / power(d) if power else d**-beta


@_inverse_power.defjvp
def _inverse_power_jvp(
    beta: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    (d,), (d_dot,) = primals, tangents
    inverse = _inverse_power(d, beta)
    return inverse, -beta * inverse / d * d_dot


def _check_numbers(function: str, **settings: Any) -> None:
    for name, number in settings.items():
        if isinstance(number, bool) or not isinstance(number, numbers.Real):
            raise TypeError(f"{function}: {name} must be a number, got {number!r}")
        if not math.isfinite(number):
            raise ValueError(f"{function}: {name} must be finite, got {number}")
    if settings["alpha"] < 0:
        raise ValueError(f"{function}: alpha must be at least 0, got {settings['alpha']}")
    if settings["k"] <= 0:
        raise ValueError(
            f"{function}: k must be above 0, got {settings['k']}; without it a window of zeros "
            "divides by zero"
        )
