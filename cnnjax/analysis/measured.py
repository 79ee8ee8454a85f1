"""The receptive field that a function has, measured by gradients or by perturbing its input.

What is measured is a lower bound: a pixel counts when some sample shows its influence. With enough
samples it reaches every pixel that the function depends on, and for a chain of layers with random
weights that is the closed form of `cnnjax.receptive_field` cut to the image, with the holes that
dilation and strides larger than the window leave. It is less where

- a ReLU is off, so that its gradient is zero and small changes vanish: more samples, or a batch,
  switch on every unit that can be;
- a maximum is won by another pixel: a gradient reaches the winner alone (with ties, after a ReLU
  say, the first), a perturbation must win, or have won, to be seen;
- a weight is zero, or contributions are so small that they underflow or round away;
- padding or a size that the windows do not tile leaves out pixels that the closed form counts.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.analysis._probing import Probe, by_axis, pulled_back, responder, rows
from cnnjax.analysis.effective import EffectiveReceptiveField, effective_receptive_field
from cnnjax.geometry import check_name, per_axis

__all__ = [
    "METHODS",
    "MeasuredIntervals",
    "MeasuredReceptiveField",
    "Method",
    "measured_intervals",
    "measured_receptive_field",
]

Method: TypeAlias = Literal["gradient", "perturbation", "nan"]
METHODS = ("gradient", "perturbation", "nan")

_DEFAULT_SAMPLES = 8


@dataclass(frozen=True, eq=False)
class MeasuredReceptiveField:
    """What one output position depends on.

    Attributes:
      position: the output position, one value a spatial axis; () where the output has none.
      first: first input pixel it depends on along each axis; 0 if there is none.
      last: last one (inclusive) along each axis; -1 if there is none.
      support: booleans over the input's spatial axes, true for each pixel it depends on.
      influence: mean absolute gradient, float64 over the input's spatial axes: of random
        combinations of the output channels, summed over the input channels, averaged over samples
        and batch. None unless the method is "gradient".
    """

    position: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    support: np.ndarray
    influence: np.ndarray | None

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels from the first to the last along each axis."""
        return tuple(b - a + 1 for a, b in zip(self.first, self.last, strict=True))

    @property
    def effective(self) -> EffectiveReceptiveField:
        """How the influence is spread, and how far (Luo et al., 2016)."""
        if self.influence is None:
            raise ValueError(
                "MeasuredReceptiveField: the effective field is that of the mean absolute "
                'gradient, which only method="gradient" measures'
            )
        return effective_receptive_field(self.influence)


@dataclass(frozen=True, eq=False)
class MeasuredIntervals:
    """What every output position depends on, axis by axis.

    Attributes:
      first: first input pixel, integers of shape (*output_spatial, num_spatial_axes); 0 where
        there is none.
      last: last input pixel (inclusive), likewise; -1 where there is none.
    """

    first: np.ndarray
    last: np.ndarray


def measured_receptive_field(
    fn: Callable[[jax.Array], jax.Array],
    x: Any,
    *,
    position: SupportsIndex | Sequence[SupportsIndex] | None = None,
    method: Method = "gradient",
    num_spatial_axes: int = 2,
    num_samples: int | None = None,
    key: jax.Array | None = None,
    threshold: float = 0.0,
) -> MeasuredReceptiveField:
    """Pixels of the input that one output position depends on, and how strongly.

    "gradient" draws random combinations of the position's channels, so that no channel cancels
    another, and takes their gradient: one backward pass a sample. "perturbation" replaces rows,
    then single pixels, and compares the outputs bit for bit with those of the same compiled
    program on the unchanged input, place by place in the batch, so that the order of a sum makes
    no difference; it needs no derivative and takes integer outputs. "nan" replaces them by NaN,
    which no weight cancels, no ReLU stops and no maximum outdoes: one sample shows all, though
    weights of zero and branches not taken count too, and comparisons (`where(x > 0, ...)`) stop it.

    Args:
      fn: maps (*batch, *spatial, channels) to (*batch, *output_spatial, output_channels) or, with
        no spatial axes left, to (*batch, output_channels).
      x: a floating array, measured as it is; or a shape or `jax.ShapeDtypeStruct`, for which
        standard normal inputs are drawn. The elements of a batch are further samples.
      position: output position, one value an axis; the centre, n // 2, by default.
      method: "gradient", "perturbation" or "nan".
      num_spatial_axes: spatial axes of `x`, the ones before the channels.
      num_samples: draws of input (unless given), combination and perturbation; 8 by default, 1
        for "nan". The supports are united, the influences averaged.
      key: of the draws; `jax.random.key(0)` by default.
      threshold: absolute gradients up to this count as none. Above 0 only where a backend's
        convolutions leave round-off beyond their windows (FFT, Winograd).

    Returns:
      The support, its extent along each axis and, with "gradient", the influence.

    Raises:
      ValueError: shapes that do not go together, a position or number out of range, gradients
        that are NaN.
      TypeError: an input that is not floating, or with "gradient" an output that is not.

    >>> import jax.numpy as jnp
    >>> from cnnjax import ops
    >>> kernel = jnp.ones((3, 3, 1, 1))
    >>> def fn(x):
    ...     return ops.conv(ops.conv(x, kernel), kernel, stride=2)
    >>> field = measured_receptive_field(fn, (1, 11, 11, 1), position=(1, 2))
    >>> field.first, field.last
    ((2, 4), (6, 8))
    >>> field = measured_receptive_field(lambda x: ops.conv(x, kernel, dilation=2), (7, 7, 1))
    >>> field.support[3].astype(int)  # Of the middle row every other pixel.
    array([0, 1, 0, 1, 0, 1, 0])

    Siblings: `measured_intervals` measures every position at once, along the axes;
    `cnnjax.receptive_field.compose` has the closed form of a chain.

    Source: Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep
    Convolutional Neural Networks", 2016, for the mean absolute gradient.
    """
    name = "measured_receptive_field"
    probe = _probe(name, fn, x, method, num_spatial_axes, num_samples, key, threshold)
    place = _position(name, position, probe.output_spatial)
    if method == "gradient":
        support, influence = pulled_back(name, probe, place)
    else:
        support, influence = _perturbed(name, probe, place), None
    first, last = (0,) * support.ndim, (-1,) * support.ndim
    if support.any():
        pixels = np.argwhere(support)
        first, last = tuple(pixels.min(axis=0).tolist()), tuple(pixels.max(axis=0).tolist())
    return MeasuredReceptiveField(place, first, last, support, influence)


def measured_intervals(
    fn: Callable[[jax.Array], jax.Array],
    x: Any,
    *,
    method: Method = "gradient",
    num_spatial_axes: int = 2,
    num_samples: int | None = None,
    key: jax.Array | None = None,
    threshold: float = 0.0,
) -> MeasuredIntervals:
    """First and last input pixel, along each axis, that every output position depends on.

    Each row of pixels across an axis is moved (a random tangent, or a perturbation) and all
    positions that respond are noted: as many forward passes a sample as the image is high and
    wide together, in batches of bounded memory. A forward derivative is taken as the transpose of
    the reverse one, so that functions with a `custom_vjp` are measured too.

    Args, Raises: as in `measured_receptive_field`, but for the position.

    Returns:
      Intervals for each output position and axis.

    >>> from cnnjax import ops
    >>> measured = measured_intervals(lambda x: ops.max_pool(x, window=2), (1, 6, 4, 3))
    >>> measured.first[2, 1], measured.last[2, 1]
    (array([4, 2]), array([5, 3]))
    """
    name = "measured_intervals"
    probe = _probe(name, fn, x, method, num_spatial_axes, num_samples, key, threshold)
    extents = [_extent(along) for along in by_axis(probe, responder(name, probe)(rows(probe)))]
    first, last = (np.stack(ends, axis=-1) for ends in zip(*extents, strict=True))
    return MeasuredIntervals(first, last)


def _probe(
    function: str,
    fn: Callable[[jax.Array], jax.Array],
    x: Any,
    method: Method,
    num_spatial_axes: int,
    num_samples: int | None,
    key: jax.Array | None,
    threshold: float,
) -> Probe:
    check_name(function, "method", method, METHODS)
    (rank,) = per_axis(function, "num_spatial_axes", num_spatial_axes, 1)
    if num_samples is None:
        num_samples = 1 if method == "nan" else _DEFAULT_SAMPLES
    (num_samples,) = per_axis(function, "num_samples", num_samples, 1)
    if not threshold >= 0:
        raise ValueError(f"{function}: threshold must be at least 0, got {threshold!r}")
    given, struct = _input(function, x)
    if len(struct.shape) < rank + 1 or 0 in struct.shape:
        raise ValueError(
            f"{function}: {rank} spatial axes and the channels need an input of at least "
            f"{rank + 1} axes and one value, (*batch, *spatial, channels), got shape "
            f"{struct.shape}; num_spatial_axes says how many are spatial"
        )
    closed, out = jax.make_jaxpr(fn, return_shape=True)(struct)
    if not isinstance(out, jax.ShapeDtypeStruct):
        raise TypeError(
            f"{function}: fn must return one array, got {jax.tree.structure(out)}; choose one of "
            "them, as in lambda x: fn(x)[0]"
        )
    num_batch_axes = len(struct.shape) - rank - 1
    num_output_axes = len(out.shape) - num_batch_axes - 1
    if num_output_axes not in (0, rank):
        raise ValueError(
            f"{function}: fn maps shape {struct.shape} to {out.shape}; with {rank} spatial axes "
            f"expected {num_batch_axes + rank + 1} axes, (*batch, *spatial, channels), or "
            f"{num_batch_axes + 1}, (*batch, channels); add the axis of the channels with "
            "[..., None], or say num_spatial_axes"
        )
    if method == "gradient" and not jnp.issubdtype(out.dtype, jnp.floating):
        raise TypeError(
            f'{function}: an output of dtype {out.dtype} has no gradient; use method="perturbation"'
        )
    key = jax.random.key(0) if key is None else key
    return Probe(
        closed, method, given, struct, out, rank, num_output_axes, num_samples, key, threshold
    )


def _input(function: str, x: Any) -> tuple[jax.Array | None, jax.ShapeDtypeStruct]:
    given = None
    if isinstance(x, jax.Array | np.ndarray):
        given = jnp.asarray(x)
        struct = jax.ShapeDtypeStruct(given.shape, given.dtype)
    elif isinstance(x, jax.ShapeDtypeStruct):
        struct = x
    elif isinstance(x, Sequence) and all(isinstance(n, SupportsIndex) for n in x):
        struct = jax.ShapeDtypeStruct(tuple(operator.index(n) for n in x), jnp.float32)
    else:
        raise TypeError(
            f"{function}: x must be an array, a shape or a jax.ShapeDtypeStruct, got {x!r}"
        )
    if not jnp.issubdtype(struct.dtype, jnp.floating):
        raise TypeError(
            f"{function}: x must be floating, got dtype {struct.dtype}; convert it, as in x / 255"
        )
    return given, struct


def _position(function: str, position: Any, output_spatial: tuple[int, ...]) -> tuple[int, ...]:
    if position is None:
        return tuple(size // 2 for size in output_spatial)
    if not output_spatial and position != ():
        raise ValueError(
            f"{function}: the output has no spatial axes, so no position {position!r}; leave it out"
        )
    place = per_axis(function, "position", position, len(output_spatial), minimum=0)
    if any(value >= size for value, size in zip(place, output_spatial, strict=True)):
        raise ValueError(
            f"{function}: position {place} lies outside the output, whose spatial axes are "
            f"{output_spatial}"
        )
    return place


def _perturbed(function: str, probe: Probe, position: tuple[int, ...]) -> np.ndarray:
    """Which pixels one output position responds to, among those where responsive rows cross."""
    place: Any = (slice(None), *position)
    responses = responder(function, probe)
    crossing = np.ones((), bool)
    for along in by_axis(probe, responses(rows(probe))[place]):
        crossing = np.logical_and.outer(crossing, along)
    pixels = np.argwhere(crossing)
    support = np.zeros(probe.spatial, bool)
    if len(pixels):
        boxes = np.stack([pixels, pixels + 1], axis=-1).astype(np.int32)
        found = responses(boxes)[place]
        support[tuple(pixels[found].T)] = True
    return support


def _extent(depends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last index along axis 0 that is true; 0 and -1 where none is."""
    some = depends.any(axis=0)
    last = len(depends) - 1 - np.argmax(depends[::-1], axis=0)
    return np.where(some, np.argmax(depends, axis=0), 0), np.where(some, last, -1)
