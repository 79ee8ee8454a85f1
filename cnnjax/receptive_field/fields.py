"""The receptive field of one axis, and that of paths that meet.

Output position u of size r, stride S and low padding P sees the input pixels from -P + u S to
-P + u S + r - 1.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cnnjax.receptive_field._integers import (
    ceil_divide,
    evaluate,
    integers,
    known,
    largest,
    smallest,
)

__all__ = ["IDENTITY", "Integers", "ReceptiveField", "aligned", "merge"]

# An int, or an array of integers; results are what the arguments are.
Integers: TypeAlias = Any


class ReceptiveField(NamedTuple):
    """What one output position sees along one axis: size, stride and low padding in pixels."""

    size: Integers
    stride: Integers
    padding: Integers

    def interval(self, position: Integers) -> tuple[Integers, Integers]:
        """First and last input pixel (inclusive) that an output position sees.

        Pixels below 0 or past the image are padding.

        >>> ReceptiveField(size=7, stride=1, padding=3).interval(0)
        (-3, 3)
        """

        def formula(size: Any, stride: Any, padding: Any, position: Any) -> tuple[Any, Any]:
            first = position * stride - padding
            return first, first + size - 1

        values = [*numbers("interval", self), integers("interval", "position", position)]
        return evaluate("interval", formula, values)

    def center(self, position: Integers) -> Any:
        """Centre, in input pixels, of what an output position sees: -P + u S + (r - 1) / 2.

        A float, or an array of floats: an even size has its centre between two pixels.

        >>> ReceptiveField(size=6, stride=2, padding=2).center(0)
        0.5
        """

        def formula(size: Any, stride: Any, padding: Any, position: Any) -> Any:
            return 2 * (position * stride - padding) + size - 1

        values = [*numbers("center", self), integers("center", "position", position)]
        return evaluate("center", formula, values) / 2

    def positions_covering(
        self, pixel: Integers, num_positions: Integers | None = None
    ) -> tuple[Integers, Integers]:
        """First and last output position (inclusive) whose interval covers an input pixel.

            ceil((x + P - r + 1) / S) <= u <= floor((x + P) / S)

        Pixels that the taps of a dilated window skip count as covered.

        Args:
          pixel: x, any integer; below 0 is the padding.
          num_positions: how many positions exist, from 0 on; all integers by default.

        Returns:
          (first, last); where no position covers the pixel, last = first - 1.

        Raises:
          ValueError: a negative `num_positions`.
          TypeError: a number that is no integer.

        >>> from cnnjax.receptive_field import Layer, compose
        >>> field = compose([Layer(3, stride=2, padding=1), Layer(3)])
        >>> field
        ReceptiveField(size=7, stride=2, padding=1)
        >>> field.positions_covering(6), field.positions_covering(0, num_positions=10)
        ((1, 3), (0, 0))
        >>> ReceptiveField(size=1, stride=4, padding=0).positions_covering(2)
        (1, 0)
        """

        def formula(size: Any, stride: Any, padding: Any, x: Any, *num: Any) -> tuple[Any, Any]:
            first = ceil_divide(x + padding - size + 1, stride)
            last = (x + padding) // stride
            return _existing(first, last, *num)

        name = "positions_covering"
        values = [*numbers(name, self), integers(name, "pixel", pixel)]
        return evaluate(name, formula, values + _number_of_positions(name, num_positions))

    def valid_positions(
        self, num_pixels: Integers, num_positions: Integers | None = None
    ) -> tuple[Integers, Integers]:
        """First and last output position (inclusive) that sees the image and no padding.

            ceil(P / S) <= u <= floor((W - r + P) / S)

        Args:
          num_pixels: W, the size of the image along the axis.
          num_positions: how many positions exist, from 0 on; all integers by default.

        Returns:
          (first, last); where every position sees padding, last = first - 1.

        Raises:
          ValueError: a negative number of pixels or positions.
          TypeError: a number that is no integer.

        >>> from cnnjax.receptive_field import Layer, compose
        >>> compose([Layer(3, padding=1)] * 3).valid_positions(32)
        (3, 28)
        >>> compose([Layer(3, padding=1)] * 3).valid_positions(6)
        (3, 2)
        """

        def formula(size: Any, stride: Any, padding: Any, w: Any, *num: Any) -> tuple[Any, Any]:
            first = ceil_divide(padding, stride)
            last = largest((w - size + padding) // stride, first - 1)
            return _existing(first, last, *num)

        name = "valid_positions"
        values = [*numbers(name, self), integers(name, "num_pixels", num_pixels, 0)]
        return evaluate(name, formula, values + _number_of_positions(name, num_positions))


IDENTITY = ReceptiveField(size=1, stride=1, padding=0)


def aligned(fields: Iterable[ReceptiveField]) -> Any:
    """Whether paths that merge see the input alike: equal strides S and centres -P + (r - 1) / 2.

    Returns:
      A bool, or an array of them where the fields hold arrays.

    Raises:
      ValueError: no field, or arrays that do not go together.
      TypeError: something else than receptive fields.

    >>> from cnnjax.receptive_field import Layer, compose
    >>> block, shortcut = compose([Layer(3, padding=1)] * 2), IDENTITY
    >>> aligned([block, shortcut])
    True
    >>> aligned([compose([Layer(3)]), shortcut])  # Without padding the block lies a pixel off.
    False

    Source: Araujo, Norris and Sim, 2019, section "Arbitrary computation graphs".
    """

    def formula(*values: Any) -> tuple[Any, Any, Any, Any]:
        strides = values[1::3]
        centers = [2 * p - r for r, p in zip(values[::3], values[2::3], strict=True)]
        return largest(*strides), smallest(*strides), largest(*centers), smallest(*centers)

    most, least, right, left = evaluate("aligned", formula, _flat_fields("aligned", fields))
    return (most == least) & (right == left)


def merge(fields: Iterable[ReceptiveField], *, require_aligned: bool = True) -> ReceptiveField:
    """Receptive field of a sum or concatenation of paths: the smallest that covers them all.

    Where the paths are aligned it is the largest of them.

    Args:
      fields: of the paths, at least one; of equal strides.
      require_aligned: whether paths whose centres differ are an error. Under `jit` nothing is.

    Raises:
      ValueError: no field, unequal strides, or centres that differ.
      TypeError: something else than receptive fields.

    >>> from cnnjax.receptive_field import Layer, compose
    >>> merge([compose([Layer(3, padding=1)] * 2), IDENTITY])
    ReceptiveField(size=5, stride=1, padding=2)
    >>> merge([compose([Layer(3)]), ReceptiveField(1, 1, 0)])
    Traceback (most recent call last):
    ValueError: merge: the paths are not aligned: their centres at position 0 are ...

    Source: as for `aligned`.
    """
    fields = tuple(fields)
    values = _flat_fields("merge", fields)
    if known(*values):
        strides = [np.asarray(stride) for stride in values[1::3]]
        if any(np.any(stride != strides[0]) for stride in strides):
            raise ValueError(
                f"merge: paths of unequal strides {_distinct(strides)} drift apart from position "
                "to position; give each path the same product of strides"
            )
        if require_aligned and not np.all(aligned(fields)):
            centers = _distinct([np.asarray(field.center(0)) for field in fields])
            raise ValueError(
                f"merge: the paths are not aligned: their centres at position 0 are {centers}; "
                "pad each layer by half its span less one, or pass require_aligned=False for the "
                "field that covers them all"
            )

    def formula(*values: Any) -> ReceptiveField:
        padding = largest(*values[2::3])
        beyond = [r - p for r, p in zip(values[::3], values[2::3], strict=True)]
        return ReceptiveField(largest(*beyond) + padding, values[1], padding)

    return evaluate("merge", formula, values)


def _existing(first: Any, last: Any, num_positions: Any = None) -> tuple[Any, Any]:
    """Cut to 0..num_positions - 1; what is empty stays so, with last = first - 1."""
    if num_positions is None:
        return first, last
    start = smallest(largest(first, 0), num_positions)
    stop = smallest(largest(last + 1, 0), num_positions)
    return start, stop - 1


def _distinct(arrays: Sequence[np.ndarray]) -> list[Any]:
    return np.unique(np.concatenate([array.ravel() for array in arrays]))[:8].tolist()


def _number_of_positions(function: str, num_positions: Integers | None) -> list[Any]:
    if num_positions is None:
        return []
    return [integers(function, "num_positions", num_positions, 0)]


def numbers(function: str, field: ReceptiveField) -> list[Any]:
    """The three numbers of a field, checked."""
    if not isinstance(field, ReceptiveField):
        raise TypeError(
            f"{function}: expected a ReceptiveField(size, stride, padding), got {field!r}"
        )
    return [
        integers(function, "the field's size", field.size, 1),
        integers(function, "the field's stride", field.stride, 1),
        integers(function, "the field's padding", field.padding),
    ]


def _flat_fields(function: str, fields: Iterable[ReceptiveField]) -> list[Any]:
    if isinstance(fields, ReceptiveField):
        raise TypeError(f"{function}: expected several fields, got one; write [{fields!r}]")
    values = [number for field in fields for number in numbers(function, field)]
    if not values:
        raise ValueError(f"{function}: expected at least one field, got none")
    return values
