"""Rules of what reads or writes at places that other operands name."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from cnnjax.analysis import _edges
from cnnjax.analysis._course import Course
from cnnjax.analysis._equations import shape_of
from cnnjax.analysis._rules import (
    CannotFollowError,
    Report,
    Rule,
    cut,
    lost_elsewhere,
    table,
    the_seen,
)
from cnnjax.analysis._values import (
    Known,
    Seen,
    Value,
    varying,
)

__all__ = ["RULES"]

RULES: dict[str, Rule] = {}
rule = table(RULES)


@rule("dynamic_slice")
def dynamic_slice(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """A slice that starts where other operands say."""
    shape, sizes = shape_of(equation.invars[0]), equation.params["slice_sizes"]
    seen = the_seen(operands)
    starts = []
    for axis, (size, length) in enumerate(zip(shape, sizes, strict=True)):
        start = operands[axis + 1]
        if isinstance(start, Known):
            starts.append(min(max(int(start.array), 0), size - length))
        elif size == length or not any(axis in varying(edges) for edges in seen.edges):
            starts.append(0)
        else:
            raise CannotFollowError(f"it starts where only a run knows, along axis {axis}")
    limits = [start + length for start, length in zip(starts, sizes, strict=True)]
    return [cut(seen, shape, starts, limits, (1,) * len(shape))]


@rule("gather")
def gather(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Slices at places that another operand names."""
    params, shape = equation.params, shape_of(equation.invars[0])
    numbers, sizes = params["dimension_numbers"], params["slice_sizes"]
    seen, indices = the_seen(operands), operands[1]
    batching = tuple(getattr(numbers, "operand_batching_dims", ()))
    steered = [axis for axis in numbers.start_index_map if sizes[axis] < shape[axis]]
    if not isinstance(indices, Known):
        if any(axis in varying(e) for e in seen.edges for axis in (*steered, *batching)):
            raise CannotFollowError("it looks up places that only a run knows")
        places: Any = np.zeros(shape_of(equation.invars[1]), np.int32)
    else:
        places = indices.array
    full = {*numbers.start_index_map, *numbers.collapsed_slice_dims, *batching}
    offsets = [a for a in range(len(shape)) if a not in (*numbers.collapsed_slice_dims, *batching)]

    def looked_up(array: np.ndarray) -> np.ndarray:
        """Of one array whose axes have full size or, off the places looked up, size 1."""
        short = tuple(1 if array.shape[a] == 1 else size for a, size in enumerate(sizes))
        with jax.ensure_compile_time_eval():
            return np.asarray(
                lax.gather(
                    jnp.asarray(array),
                    jnp.asarray(places),
                    numbers,
                    short,
                    mode=params["mode"],
                    fill_value=_edges.EMPTY,
                )
            )

    def edges(e: np.ndarray) -> np.ndarray:
        e = _edges.expanded(e, shape, full)
        return _edges.compressed(np.stack([looked_up(e[0]), looked_up(e[1])]))

    def course(law: Course, e: np.ndarray) -> Course | None:
        if law.axis is None:
            return law if law.is_still else None
        if law.axis not in full and not lost_elsewhere(law, e, steered):
            return law.moved(numbers.offset_dims[offsets.index(law.axis)])
        if lost_elsewhere(law, e, range(len(shape))):
            return None
        wide = np.arange(shape[law.axis], dtype=np.int32).reshape(_edges.along(shape, law.axis))
        wide = _edges.expanded(wide[None], shape, full)[0]
        return _along_a_line(law, looked_up(wide))

    return [seen.moved(edges, course)]


def _along_a_line(law: Course, places: np.ndarray) -> Course | None:
    """The law of positions looked up at these places, if they proceed evenly along one axis."""
    places = _edges.compressed(places[None])[0]
    axes = [axis for axis, size in enumerate(places.shape) if size > 1]
    line = places.reshape(-1)
    if (line < 0).any() or len(axes) > 1:
        return None
    if not axes:
        return law.strided(int(line[0]), 1).fixed()
    steps = np.unique(np.diff(line))
    if len(steps) > 1 or steps[0] < 1:
        return None
    return law.strided(int(line[0]), int(steps[0])).moved(axes[0])


@rule("scatter", "scatter-add", "scatter_add", "scatter-mul", "scatter-min", "scatter-max")
def scatter(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """Updates put at, or added to, places that another operand names."""
    target, indices, updates = operands
    shape, update_shape = shape_of(equation.invars[0]), shape_of(equation.invars[2])
    if not isinstance(indices, Known):
        raise CannotFollowError("it writes to places that only a run knows")
    params = equation.params
    (seen, *_) = (value for value in operands if isinstance(value, Seen))

    def written(edges: np.ndarray, onto: np.ndarray) -> np.ndarray:
        with jax.ensure_compile_time_eval():
            return np.asarray(
                lax.scatter_max(
                    jnp.asarray(onto),
                    jnp.asarray(indices.array),
                    jnp.asarray(edges),
                    params["dimension_numbers"],
                    mode=params["mode"],
                )
            )

    none = np.full(shape, _edges.EMPTY, np.int32)
    overwrites = equation.primitive.name == "scatter"
    hit = written(np.zeros(update_shape, np.int32), none) == 0
    result = []
    for number in range(len(seen.edges)):
        halves = []
        for half in (0, 1):
            before = after = none
            if isinstance(target, Seen):
                full = _edges.expanded(target.edges[number], shape, range(len(shape)))[half]
                before = np.where(hit, _edges.EMPTY, full) if overwrites else full
            if isinstance(updates, Seen):
                every = range(len(update_shape))
                full = _edges.expanded(updates.edges[number], update_shape, every)[half]
                after = written(full, none)
            halves.append(np.maximum(before, after))
        result.append(_edges.compressed(np.stack(halves)))
    return [Seen(result, [None] * len(result), seen.tracked)]


@rule("dynamic_update_slice")
def dynamic_update_slice(
    equation: core.JaxprEqn, operands: list[Value], scope: str, report: Report
) -> Sequence[Value]:
    """A block of an array replaced by another."""
    target, updates, *starts = operands
    shape, block = shape_of(equation.invars[0]), shape_of(equation.invars[1])
    if not all(isinstance(start, Known) for start in starts):
        raise CannotFollowError("it writes to a place that only a run knows")
    (seen, *_) = (value for value in (target, updates) if isinstance(value, Seen))
    region = tuple(
        slice(first, first + length)
        for first, length in (
            (min(max(int(start.array), 0), size - length), length)  # type: ignore[union-attr]
            for start, size, length in zip(starts, shape, block, strict=True)
        )
    )
    edges = []
    for number in range(len(seen.edges)):
        full = np.full((2, *shape), _edges.EMPTY, np.int32)
        if isinstance(target, Seen):
            full[...] = target.edges[number]
        inner = updates.edges[number] if isinstance(updates, Seen) else _edges.EMPTY
        full[(slice(None), *region)] = inner
        edges.append(_edges.compressed(full))
    return [Seen(edges, [None] * len(edges), seen.tracked)]
