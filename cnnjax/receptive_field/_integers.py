"""Formulas on integers: exact in Python, checked for overflow on arrays, traceable by JAX."""

import operator
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np


def integers(function: str, name: str, value: Any, minimum: int | None = None) -> Any:
    """An argument as a Python integer, a NumPy int64 array or a JAX array of its default integer.

    NumPy's scalars become Python integers, whose arithmetic is exact at any size.
    """
    if isinstance(value, jax.Array | np.ndarray):
        if not np.issubdtype(value.dtype, np.integer):
            raise TypeError(
                f"{function}: {name} must be an integer or an array of integers, got an array of "
                f"dtype {value.dtype}"
            )
        if isinstance(value, np.ndarray) and not value.ndim:
            return integers(function, name, int(value), minimum)
        if known(value) and value.size:
            host = np.asarray(value)
            if minimum is not None and host.min() < minimum:
                raise ValueError(
                    f"{function}: {name} must be at least {minimum}, got an array that holds "
                    f"{host.min()}"
                )
            _check_range(function, [int(host.min()), int(host.max())], isinstance(value, jax.Array))
        return value.astype(int)
    if isinstance(value, bool | np.bool_) or not isinstance(value, SupportsIndex):
        raise TypeError(
            f"{function}: {name} must be an integer or an array of integers, got {value!r}"
        )
    number = operator.index(value)
    if minimum is not None and number < minimum:
        raise ValueError(f"{function}: {name} must be at least {minimum}, got {number}")
    return number


def evaluate(function: str, formula: Callable[..., Any], values: Sequence[Any]) -> Any:
    """`formula(*values)` for what `integers` returns, arrays broadcast against one another.

    The formula returns a pytree and is written in +, -, *, // and the functions below, which mean
    the same on Python integers, on arrays of integers, of floats and of Python integers. Concrete
    arrays are evaluated in floating point first: where a number comes near the largest of the
    integer dtype, the formula is evaluated again in Python integers and the result is refused if
    it does not fit. Traced values are not known, so that there they wrap around.
    """
    arrays = [value for value in values if not isinstance(value, int)]
    if not arrays:
        return formula(*values)
    try:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
    except ValueError:
        shapes = sorted({array.shape for array in arrays})
        raise ValueError(
            f"{function}: arrays of shapes {shapes} do not broadcast against one another"
        ) from None
    on_device = any(isinstance(array, jax.Array) for array in arrays)
    dtype = _dtype(on_device)
    if not known(*arrays):
        concrete = [value for value in values if known(value)]
        _check_range(function, [n for value in concrete for n in _extremes(value)], on_device)
    else:
        host = [np.asarray(value) for value in values]
        if not _is_far_from_overflow(formula, host, shape, np.iinfo(dtype).max / 4):
            objects = [np.broadcast_to(array.astype(object), shape) for array in host]
            leaves, structure = jax.tree.flatten(formula(*objects))
            _check_range(function, [n for leaf in leaves for n in _extremes(leaf)], on_device)
            module = jnp if on_device else np
            exact = [module.asarray(np.asarray(leaf).astype(dtype)) for leaf in leaves]
            return jax.tree.unflatten(structure, exact)
    if on_device:
        return formula(*(jnp.broadcast_to(jnp.asarray(value, int), shape) for value in values))
    return formula(*(np.broadcast_to(np.asarray(value), shape) for value in values))


def largest(first: Any, *rest: Any) -> Any:
    """The largest of integers or arrays, elementwise."""
    for value in rest:
        if isinstance(first, jax.Array):
            first = jnp.maximum(first, value)
        elif isinstance(first, np.ndarray):
            first = np.maximum(first, value)
        else:
            first = max(first, value)
    return first


def smallest(first: Any, *rest: Any) -> Any:
    """The smallest of integers or arrays, elementwise."""
    return -largest(-first, *(-value for value in rest))


def ceil_divide(numerator: Any, denominator: Any) -> Any:
    """The smallest integer that is at least the quotient, also of negative numbers."""
    return -(-numerator // denominator)


def known(*values: Any) -> bool:
    """Whether every value is concrete, none of them traced."""
    return not any(isinstance(value, jax.core.Tracer) for value in values)


def _dtype(on_device: bool) -> np.dtype:
    return np.dtype(jax.dtypes.canonicalize_dtype(np.int64)) if on_device else np.dtype(np.int64)


def _extremes(value: Any) -> list[int]:
    array = np.asarray(value, object if isinstance(value, int) else None)
    return [int(array.min()), int(array.max())] if array.size else []


def _check_range(function: str, numbers: Sequence[int], on_device: bool) -> None:
    dtype = _dtype(on_device)
    limit = int(np.iinfo(dtype).max)
    worst = max(numbers, key=abs, default=0)
    if abs(worst) > limit:
        instead = "Python integers, one stack at a time"
        if dtype == np.int32:
            instead = "NumPy arrays, which are int64 here, Python integers or jax_enable_x64"
        raise ValueError(
            f"{function}: {worst:,} does not fit {dtype}, which holds {limit:,} at most; use "
            f"{instead}"
        )


def _is_far_from_overflow(
    formula: Callable[..., Any], host: Sequence[np.ndarray], shape: tuple[int, ...], limit: float
) -> bool:
    try:
        floats = [np.broadcast_to(array.astype(float), shape) for array in host]
    except OverflowError:  # A Python integer larger than any float.
        return False
    with np.errstate(all="ignore"):
        leaves = jax.tree.leaves(formula(*floats))
    # Not `>= limit`: a NaN, from infinity less infinity, is no small number.
    return all(bool(np.all(np.abs(leaf) < limit)) for leaf in [*floats, *leaves])
