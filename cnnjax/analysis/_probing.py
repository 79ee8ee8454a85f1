"""Asking a traced function which outputs respond to which boxes of pixels, or the reverse."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

# Input and output values in one batched call; the layers between hold several times as many.
_VALUES_AT_ONCE = 2**22
_BOXES_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Probe:
    """A function and how to measure it.

    Attributes:
      closed: the traced program, its weights apart.
      method: "gradient", "perturbation" or "nan".
      given: the input, None where inputs are drawn.
      input: shape and dtype of the input.
      output: shape and dtype of the output.
      num_spatial_axes: spatial axes of the input.
      num_output_axes: spatial axes of the output, as many or none.
      num_samples: how many draws.
      key: of the draws.
      threshold: absolute gradients up to this count as none.
    """

    closed: core.ClosedJaxpr
    method: str
    given: jax.Array | None
    input: jax.ShapeDtypeStruct
    output: jax.ShapeDtypeStruct
    num_spatial_axes: int
    num_output_axes: int
    num_samples: int
    key: jax.Array
    threshold: float

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size of the input along its spatial axes."""
        return self.input.shape[-1 - self.num_spatial_axes : -1]

    @property
    def output_spatial(self) -> tuple[int, ...]:
        """Size of the output along its spatial axes."""
        return self.output.shape[-1 - self.num_output_axes : -1]

    def samples(self) -> Iterator[tuple[Any, jax.Array]]:
        """Inputs, each with a key for what else is drawn."""
        for sample_key in jax.random.split(self.key, self.num_samples):
            input_key, key = jax.random.split(sample_key)
            x: Any = self.given
            if x is None:
                x = _drawn(jax.random.normal, input_key, self.input)
            yield x, key

    def call(self, consts: Sequence[Any], x: jax.Array) -> jax.Array:
        """The function's value; its weights are arguments.

        As constants of the compiled program they would be copied into it and folded.
        """
        (out,) = core.jaxpr_as_fun(core.ClosedJaxpr(self.closed.jaxpr, list(consts)))(x)
        return out


def pulled_back(
    function: str, probe: Probe, position: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels one output position's gradient reaches, and its mean absolute value."""
    place = (..., *position, slice(None))
    chosen = jax.eval_shape(lambda out: out[place], probe.output)

    @jax.jit
    def absolute(consts: Sequence[Any], x: jax.Array, draws: jax.Array) -> jax.Array:
        out, pull = jax.vjp(lambda x: probe.call(consts, x), x)
        (gradient,) = pull(jnp.zeros_like(out).at[place].set(draws))
        return jnp.abs(gradient)

    support = np.zeros(probe.spatial, bool)
    influence = np.zeros(probe.spatial)
    for x, key in probe.samples():
        draws = _drawn(jax.random.normal, key, chosen)
        values = np.asarray(absolute(probe.closed.consts, x, draws)).astype(float)
        if np.isnan(values).any():
            raise ValueError(_nan(function))
        values = values.reshape(-1, *values.shape[-1 - probe.num_spatial_axes :])
        support |= (values > probe.threshold).any(axis=(0, -1))
        influence += values.sum(axis=-1).mean(axis=0)
    return support, influence / probe.num_samples


def responder(function: str, probe: Probe) -> Callable[[np.ndarray], np.ndarray]:
    """A function from boxes of pixels to the output positions that respond when they are moved.

    It takes integers (num_boxes, num_spatial_axes, 2), the first pixel and one past the last, and
    gives booleans (num_boxes, *output_spatial): whether a position responds in any sample. It
    compiles one program, however many boxes it is given.
    """
    values = math.prod(probe.input.shape) + math.prod(probe.output.shape)
    at_once = max(1, min(_BOXES_AT_ONCE, _VALUES_AT_ONCE // values))
    move = (_tangents if probe.method == "gradient" else _changes)(function, probe, at_once)

    def responses(boxes: np.ndarray) -> np.ndarray:
        # The last call is filled up with empty boxes.
        padding = np.zeros((-len(boxes) % at_once, *boxes.shape[1:]), boxes.dtype)
        calls = np.concatenate([boxes, padding]).reshape(-1, at_once, *boxes.shape[1:])
        found = np.zeros((len(calls), at_once, *probe.output_spatial), bool)
        for x, key in probe.samples():
            moved = move(x, key)
            for index, call in enumerate(calls):
                found[index] |= moved(call)
        return found.reshape(-1, *probe.output_spatial)[: len(boxes)]

    return responses


def rows(probe: Probe) -> np.ndarray:
    """Boxes, each of all pixels at one index along an axis, axis after axis."""
    boxes = np.zeros((sum(probe.spatial), probe.num_spatial_axes, 2), np.int32)
    boxes[..., 1] = probe.spatial
    start = 0
    for axis, size in enumerate(probe.spatial):
        boxes[start : start + size, axis] = np.arange(size)[:, None] + [0, 1]
        start += size
    return boxes


def by_axis(probe: Probe, responses: np.ndarray) -> list[np.ndarray]:
    """Responses to `rows`, apart for each axis."""
    return np.split(responses, np.cumsum(probe.spatial)[:-1])


_Moved: TypeAlias = Callable[[np.ndarray], np.ndarray]


def _tangents(function: str, probe: Probe, at_once: int) -> Callable[[Any, jax.Array], _Moved]:
    """Positions whose derivative along random tangents is not zero."""
    del at_once

    @jax.jit
    def derivatives(
        consts: Sequence[Any], x: jax.Array, tangent: jax.Array, boxes: jax.Array
    ) -> jax.Array:
        _, pull = jax.vjp(lambda x: probe.call(consts, x), x)
        # The transpose of the reverse derivative, as a `custom_vjp` has no forward one.
        push = jax.linear_transpose(lambda cotangent: pull(cotangent)[0], probe.output)

        def moved(box: jax.Array) -> jax.Array:
            (out,) = push(jnp.where(_inside(probe, box), tangent, jnp.zeros_like(tangent)))
            return out

        return jax.vmap(moved)(boxes)

    def move(x: Any, key: jax.Array) -> _Moved:
        tangent = _drawn(jax.random.normal, key, probe.input)

        def moved(boxes: np.ndarray) -> np.ndarray:
            out = np.asarray(derivatives(probe.closed.consts, x, tangent, boxes)).astype(float)
            if np.isnan(out).any():
                raise ValueError(_nan(function))
            return _any(probe, np.abs(out) > probe.threshold)

        return moved

    return move


def _changes(function: str, probe: Probe, at_once: int) -> Callable[[Any, jax.Array], _Moved]:
    """Positions whose value changes when pixels are replaced."""
    del function

    @jax.jit
    def outputs(
        consts: Sequence[Any], x: jax.Array, replacement: jax.Array, boxes: jax.Array
    ) -> jax.Array:
        def replaced(box: jax.Array) -> jax.Array:
            return probe.call(consts, jnp.where(_inside(probe, box), replacement, x))

        return jax.vmap(replaced)(boxes)

    def move(x: Any, key: jax.Array) -> _Moved:
        replacement = _replacement(probe, x, key)

        def run(boxes: np.ndarray) -> np.ndarray:
            return np.asarray(outputs(probe.closed.consts, x, replacement, boxes))

        # The same program on the unchanged input as often: the kernels that XLA calls may add in
        # another order from place to place in a batch, but not from call to call.
        unchanged = run(np.zeros((at_once, probe.num_spatial_axes, 2), np.int32))

        def moved(boxes: np.ndarray) -> np.ndarray:
            changed = run(boxes)
            different = changed != unchanged
            if jnp.issubdtype(changed.dtype, jnp.inexact):
                # NaN differs from itself.
                different &= ~(np.isnan(changed) & np.isnan(unchanged))
            return _any(probe, different)

        return moved

    return move


def _replacement(probe: Probe, x: Any, key: jax.Array) -> np.ndarray:
    """What stands in for the pixels of a box.

    Steps of either sign and of 1 to 1,000: large ones win maxima and survive rounding, small ones
    stay where functions bend.
    """
    shape, dtype = probe.input.shape, probe.input.dtype
    if probe.method == "nan":
        return np.full(shape, np.nan, dtype)
    sign_key, step_key = jax.random.split(key)
    wide = jax.ShapeDtypeStruct(shape, jnp.float32)
    signs = np.sign(_drawn(jax.random.normal, sign_key, wide))
    steps = 10 ** (3 * _drawn(jax.random.uniform, step_key, wide))
    return (np.asarray(x).astype(np.float32) + signs * steps).astype(dtype)


def _drawn(
    distribution: Callable[..., jax.Array], key: jax.Array, like: jax.ShapeDtypeStruct
) -> np.ndarray:
    """Random numbers of a shape, of a program that is compiled once for all sizes up to a power."""
    size = math.prod(like.shape)
    draws = np.asarray(distribution(key, (1 << (size - 1).bit_length(),), jnp.float32))
    return draws[:size].reshape(like.shape).astype(like.dtype)


def _inside(probe: Probe, box: jax.Array) -> jax.Array:
    """Booleans that broadcast to the input: whether a pixel lies in a box."""
    inside: Any = True
    for axis, size in enumerate(probe.spatial):
        places = jnp.arange(size)
        along = (box[axis, 0] <= places) & (places < box[axis, 1])
        shape = [1] * len(probe.input.shape)
        shape[axis - probe.num_spatial_axes - 1] = size
        inside = inside & along.reshape(shape)
    return inside


def _any(probe: Probe, values: np.ndarray) -> np.ndarray:
    """Over batch and channels: (boxes, *batch, *output_spatial, channels) to (boxes, *spatial)."""
    last_batch_axis = values.ndim - probe.num_output_axes - 1
    return np.asarray(values.any(axis=(*range(1, last_batch_axis), values.ndim - 1)))


def _nan(function: str) -> str:
    return (
        f"{function}: the gradient is NaN, as that of a square root at zero is; give another "
        'input, or use method="perturbation"'
    )
