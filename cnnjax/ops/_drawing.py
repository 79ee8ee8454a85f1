"""The runs that fractional pooling cuts an axis into: how many, how wide, how they are drawn."""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import geometry
from cnnjax.geometry import PerAxis
from cnnjax.ops import _runs
from cnnjax.ops._windows import split_axes

Randomness: TypeAlias = Literal["pseudorandom", "random"]
Regions: TypeAlias = Literal[
    "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped"
]

Share: TypeAlias = Literal["batch", "image", "channel"]
Ratio: TypeAlias = float | Sequence[float]

RANDOMNESSES = ("pseudorandom", "random")
SHARES = ("batch", "image", "channel")
REGIONS = ("disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped")


@dataclass(frozen=True)
class Runs:
    """Runs of one axis whose boundaries climb `span` pixels in `steps` steps of k or k + 1.

    Attributes:
      axis: what `_runs` needs to know beforehand.
      span: pixels between the first boundary and the last.
      steps: number of steps between them.
      randomness: how the steps are drawn.
      regions: what lies between two boundaries.
    """

    axis: _runs.Drawn
    span: int
    steps: int
    randomness: Randomness
    regions: Regions

    @classmethod
    def of(
        cls,
        function: str,
        size: int,
        output_size: int,
        window: int | None,
        randomness: Randomness,
        regions: Regions,
    ) -> "Runs":
        """Check the numbers of one axis; errors name `function`."""
        if regions == "overlapping":
            raise ValueError(
                f'{function}: regions="overlapping" has three meanings; write '
                '"overlapping_window" (fixed windows: PyTorch, Graham\'s programs), '
                '"overlapping_edge" (one row shared: Graham\'s paper) or '
                '"overlapping_edge_clipped" (TensorFlow)'
            )
        geometry.check_name(function, "regions", regions, REGIONS)
        geometry.check_name(function, "randomness", randomness, RANDOMNESSES)
        (size,) = geometry.per_axis(function, "size", size, 1)
        (out,) = geometry.per_axis(function, "output_size", output_size, 1)
        if regions == "overlapping_window":
            return cls._windows(function, size, out, window, randomness)
        if window is not None:
            raise ValueError(
                f'{function}: window={window} belongs to regions="overlapping_window", not to '
                f'"{regions}", whose regions have the width of their steps'
            )
        shared = regions == "overlapping_edge"
        span = size - shared
        if out > span:
            raise ValueError(
                f'{function}: output_size {out} is more than the "{regions}" regions of {size} '
                f"pixels can be; at most {span}"
            )
        cls._check_integers(function, span, out)
        widest = -(-span // out) + (regions != "disjoint")
        covering = 1 if regions == "disjoint" else min(2, out)
        axis = _runs.Drawn(size, out, min(widest, size), covering)
        return cls(axis, span, out, randomness, regions)

    @classmethod
    def _windows(
        cls, function: str, size: int, out: int, window: int | None, randomness: Randomness
    ) -> "Runs":
        if window is None:
            # The largest step must not pass over a pixel.
            window = 2
            while window < size and out > 1 and -(-(size - window) // (out - 1)) > window:
                window += 1
        (window,) = geometry.per_axis(function, "window", window, 1)
        span, steps = size - window, out - 1
        if span < steps:
            raise ValueError(
                f"{function}: {out} windows of {window} pixels at steps of at least 1 need "
                f"{steps + window} pixels, the axis has {size}; use a smaller output_size or window"
            )
        cls._check_integers(function, span, out)
        covering = min(-(-window // (span // steps)), out) if steps else 1
        axis = _runs.Drawn(size, out, window, covering)
        return cls(axis, span, steps, randomness, "overlapping_window")

    @staticmethod
    def _check_integers(function: str, span: int, out: int) -> None:
        if span * (out + 1) > np.iinfo(np.int32).max:
            raise ValueError(
                f"{function}: {span} pixels in {out} steps need products beyond 32-bit integers"
            )

    def draw(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Starts and ends by a key, int32 of shape (runs,)."""
        if self.randomness == "pseudorandom":
            return self._pseudorandom(jax.random.randint(key, (), 0, max(self.span, 1)))
        if not self.steps:
            return self._between(jnp.full((1,), self.span, jnp.int32))
        short, longer = divmod(self.span, self.steps)
        steps = np.full(self.steps, short, np.int32)
        steps[:longer] += 1
        ends = jnp.cumsum(jax.random.permutation(key, steps), dtype=jnp.int32)
        return self._between(jnp.concatenate([jnp.zeros(1, jnp.int32), ends]))

    def from_offset(self, u: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Starts and ends by the pseudorandom offset u in [0, 1)."""
        return self._pseudorandom(jnp.floor(u * self.span).astype(jnp.int32))

    def _pseudorandom(self, offset: jax.Array) -> tuple[jax.Array, jax.Array]:
        # floor((j + u) span / steps) in integers: of u only offset = floor(u span) matters.
        if not self.steps:
            return self._between(jnp.full((1,), self.span, jnp.int32))
        climbed = jnp.arange(self.steps + 1, dtype=jnp.int32) * self.span + offset
        return self._between(climbed // self.steps - offset // self.steps)

    def _between(self, boundaries: jax.Array) -> tuple[jax.Array, jax.Array]:
        if self.regions == "overlapping_window":
            return boundaries, boundaries + self.axis.widest
        starts, ends = boundaries[:-1], boundaries[1:]
        if self.regions != "disjoint":
            ends = jnp.minimum(ends + 1, self.axis.size)
        return starts, ends


class Plan(NamedTuple):
    """A fractional pooling made ready: its input, flat, its runs, and the way back."""

    flat: jax.Array
    bounds: tuple[_runs.Bounds, ...]
    axes: tuple[_runs.Drawn, ...]
    restore: Callable[[jax.Array], jax.Array]


def plan_pooling(
    function: str,
    x: jax.Array,
    key: jax.Array | None,
    output_size: PerAxis | None,
    ratio: Ratio | None,
    window: PerAxis | None,
    randomness: Randomness,
    regions: Regions,
    share: Share,
    u: Any,
) -> Plan:
    """Check a call of a fractional pooling and draw its grids; errors name `function`."""
    if (output_size is None) == (ratio is None):
        raise ValueError(
            f"{function}: give output_size or ratio, one of the two, got "
            f"output_size={output_size!r} and ratio={ratio!r}"
        )
    given: Any = ratio if output_size is None else output_size
    rank = len(given) if isinstance(given, Sequence) else 2
    batch, spatial, channels = split_axes(function, x.shape, (1,) * rank)
    if output_size is None:
        ratios = given if isinstance(given, Sequence) else (given,) * rank
        sizes = tuple(
            size_by_ratio(size, check_ratio(function, r))
            for size, r in zip(spatial, ratios, strict=True)
        )
    else:
        sizes = geometry.per_axis(function, "output_size", output_size, rank)
    windows: tuple[int | None, ...] = (None,) * rank
    if window is not None:
        windows = geometry.per_axis(function, "window", window, rank)
    all_runs = tuple(
        Runs.of(function, size, out, w, randomness, regions)
        for size, out, w in zip(spatial, sizes, windows, strict=True)
    )
    geometry.check_name(function, "share", share, SHARES)
    grids = {"batch": None, "image": batch, "channel": (*batch, channels)}[share]
    bounds = draw_bounds(function, key, u, randomness, all_runs, grids)

    images = math.prod(batch)
    # Drawn for each channel, the channels are images of one channel.
    moved = share == "channel"
    if moved:
        flat = jnp.moveaxis(x.reshape(images, *spatial, channels), -1, 1)
        flat = flat.reshape(images * channels, *spatial, 1)
    else:
        flat = x.reshape(images, *spatial, channels)

    def restore(out: jax.Array) -> jax.Array:
        if moved:
            out = jnp.moveaxis(out.reshape(images, channels, *sizes), 1, -1)
        return out.reshape(*batch, *sizes, channels)

    return Plan(flat, bounds, tuple(runs.axis for runs in all_runs), restore)


def draw_bounds(
    function: str,
    key: jax.Array | None,
    u: Any,
    randomness: Randomness,
    all_runs: tuple[Runs, ...],
    grids: tuple[int, ...] | None,
) -> tuple[_runs.Bounds, ...]:
    """Starts and ends of each axis: one grid for all (grids is None), or a row for each grid."""
    key = check_source(function, key, u, randomness)
    if key is not None:
        sources = [jax.random.fold_in(key, number) for number in range(len(all_runs))]
        if grids is not None:
            sources = [jax.random.split(source, math.prod(grids)) for source in sources]
    else:
        offsets = offsets_of(function, u, (*(grids or ()), len(all_runs)))
        sources = [offsets[..., number] for number in range(len(all_runs))]
        if grids is not None:
            sources = [source.reshape(-1) for source in sources]
    found = []
    for runs, source in zip(all_runs, sources, strict=True):
        make = runs.from_offset if key is None else runs.draw
        found.append(make(source) if grids is None else jax.vmap(make)(source))
    if grids is not None and math.prod(grids) == 1:  # Shared places make for cheaper gathers.
        found = [(starts[0], ends[0]) for starts, ends in found]
    return tuple(found)


def offsets_of(function: str, u: Any, shape: tuple[int, ...]) -> jax.Array:
    """The offsets as a floating array of this shape, checked where their values are known."""
    offsets = jnp.asarray(u)
    if not jnp.issubdtype(offsets.dtype, jnp.floating):
        raise TypeError(f"{function}: u must be floating offsets in [0, 1), got {offsets.dtype}")
    if offsets.shape != shape:
        raise ValueError(
            f"{function}: u must have shape {shape}, one offset for each grid and axis, got "
            f"{offsets.shape}"
        )
    if not isinstance(offsets, jax.core.Tracer):
        values = np.asarray(offsets)
        if not ((values >= 0) & (values < 1)).all():
            raise ValueError(f"{function}: u must lie in [0, 1), got {values.tolist()}")
    return offsets


def size_by_ratio(size: int, ratio: float) -> int:
    """The output's size, rounded to the nearest; at least one less unless the ratio is 1."""
    if ratio == 1:
        return size
    return max(min(math.floor(size / ratio + 0.5), size - 1), 1)


def check_ratio(function: str, ratio: Any) -> float:
    """A finite number of at least 1."""
    if isinstance(ratio, bool) or not isinstance(ratio, numbers.Real):
        raise TypeError(f"{function}: ratio must be a number, in / out, got {ratio!r}")
    ratio = float(ratio)
    if not 1 <= ratio < math.inf:
        raise ValueError(
            f"{function}: ratio is in / out and must be at least 1, got {ratio:g}"
            + (f"; PyTorch's output_ratio is 1 / ratio, {1 / ratio:g}" if 0 < ratio < 1 else "")
        )
    return ratio


def check_source(function: str, key: Any, u: Any, randomness: Randomness) -> jax.Array | None:
    """The key that draws the runs, or None where the offsets u set them; never both."""
    if (key is None) == (u is None):
        what = "both" if u is not None else "neither"
        raise ValueError(
            f"{function}: give a key or offsets u, got {what}; a key is jax.random.key(seed)"
        )
    if key is None:
        if randomness != "pseudorandom":
            raise ValueError(
                f'{function}: offsets u set "pseudorandom" runs alone, got '
                f'randomness="{randomness}"; give a key'
            )
        return None
    shape = _key_shape(function, key)
    if shape:
        raise ValueError(
            f"{function}: one key draws all grids, got keys of shape {shape}; use jax.vmap over "
            "them"
        )
    return key


def check_keys(function: str, keys: Any) -> int:
    """The number of keys in an array of them, at least one."""
    shape = _key_shape(function, keys)
    if len(shape) != 1 or not shape[0]:
        raise ValueError(
            f"{function}: keys must have shape (num_grids,), at least one, got shape {shape}; "
            "write jax.random.split(key, num_grids)"
        )
    return shape[0]


def _key_shape(function: str, key: Any) -> Sequence[int]:
    """The shape of an array of keys, typed or raw."""
    dtype = getattr(key, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        return tuple(key.shape)
    # A raw key is a row of 32-bit words; how many depends on the generator.
    if dtype == jnp.uint32 and key.ndim >= 1 and key.shape[-1] in (2, 4):
        return tuple(key.shape[:-1])
    seed = key if isinstance(key, int) else "seed"
    got = repr(key) if dtype is None else f"{dtype} of shape {key.shape}"
    raise TypeError(
        f"{function}: key must be a jax.random.key, got {got}; write jax.random.key({seed})"
    )
