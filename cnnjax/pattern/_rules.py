"""What the settings of a layer may be: one rule a setting, for Python's callers and for text."""

import math
import numbers
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

from cnnjax.geometry import PADDING_NAMES


@dataclass(frozen=True)
class Rule:
    """A setting's values: in words, as a check that returns the value in its one form, and names.

    The check raises a TypeError or ValueError without a text; `apply` gives it one.
    """

    expected: str
    check: Callable[[Any], Any]
    names: tuple[str, ...] = ()

    def apply(self, function: str, setting: str, value: Any) -> Any:
        """The value in its one form, or an error that names function and setting."""
        try:
            return self.check(value)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            message = f"{function}: {setting} must be {self.expected}, got {value!r}"
            hint = str(error)
            raise kind(f"{message}; {hint}" if hint else message) from None


def integer(minimum: int) -> Rule:
    """An integer from a minimum on."""
    return Rule(f"an integer of at least {minimum}", lambda value: _integer(value, minimum))


def per_axis(minimum: int) -> Rule:
    """An integer, or one an axis; a sequence of one is that one."""

    def check(value: Any) -> int | tuple[int, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return _integer(value, minimum)
        return _one_or_several(tuple(_integer(v, minimum) for v in value))

    return Rule(f"an integer of at least {minimum}, or one an axis", check)


def shape() -> Rule:
    """A shape without batch axes: (*spatial, channels)."""

    def check(value: Any) -> tuple[int, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise TypeError
        if not value:
            raise ValueError
        return tuple(_integer(v, 1) for v in value)

    return Rule("a shape (*spatial, channels) of integers of at least 1", check)


def padding() -> Rule:
    """A name, an integer, or (low, high) pairs an axis."""

    def check(value: Any) -> str | int | tuple[tuple[int, int], ...]:
        if isinstance(value, str):
            if value not in PADDING_NAMES:
                raise ValueError
            return value
        if not isinstance(value, Sequence):
            return _integer(value, 0)
        if value and not any(isinstance(entry, Sequence) for entry in value):
            # conv reads (1, 2) as one value an axis, others as (low, high): so neither is guessed.
            entries = tuple(_integer(entry, 0) for entry in value)
            hint = "write (" + ", ".join(f"({n}, {n})" for n in entries) + ") for one value an axis"
            if len(entries) == 2:
                low, high = entries
                hint += (
                    f" and (({low}, {high}), ({low}, {high})) for {low} before and {high} after "
                    "each of two axes"
                )
            raise ValueError(hint)
        if not value or any(isinstance(e, str) or len(e) != 2 for e in value):
            raise ValueError
        return tuple((_integer(low, 0), _integer(high, 0)) for low, high in value)

    expected = f"one of {PADDING_NAMES}, an integer, or (low, high) pairs, one an axis"
    return Rule(expected, check, PADDING_NAMES)


def name(*names: str) -> Rule:
    """One of some names."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError
        if value not in names:
            raise ValueError
        return value

    return Rule(f"one of {names}", check, names)


def flag() -> Rule:
    """True or False."""

    def check(value: Any) -> bool:
        if not isinstance(value, bool):
            raise TypeError
        return value

    return Rule("true or false", check)


def real(expected: str, accepted: Callable[[float], bool]) -> Rule:
    """A finite number that is accepted."""
    return Rule(expected, lambda value: _real(value, accepted))


def reals_per_axis(expected: str, accepted: Callable[[float], bool]) -> Rule:
    """A finite number that is accepted, or one an axis."""

    def check(value: Any) -> float | tuple[float, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return _real(value, accepted)
        return _one_or_several(tuple(_real(v, accepted) for v in value))

    return Rule(expected, check)


def _one_or_several(values: tuple) -> Any:
    if not values:
        raise ValueError
    return values[0] if len(values) == 1 else values


def _integer(value: Any, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError
    number = operator.index(value)
    if number < minimum:
        raise ValueError
    return number


def _real(value: Any, accepted: Callable[[float], bool]) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    number = float(value)
    if not math.isfinite(number) or not accepted(number):
        raise ValueError
    return number
