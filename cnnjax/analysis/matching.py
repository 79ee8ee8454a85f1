"""The width at which one network costs what another does, so that they compare at equal cost."""

import functools
import operator
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from cnnjax.analysis.account import Account, account

__all__ = ["WidthMatch", "match_width"]

Quantity = Literal["parameters", "macs", "activation_values"]
_WIDEST = 2**20


class WidthMatch(NamedTuple):
    """A width and what it comes to.

    Attributes:
      width: the one nearest to the target, the smaller of two equals.
      value: parameters, MACs or activation values at that width.
      target: what was wanted.
      error: (value - target) / target, what rounding to whole filters leaves.
    """

    width: int
    value: int
    target: int
    error: float


def match_width(
    make: Callable[[int], Any],
    input_shape: tuple[int, ...],
    target: Any,
    *,
    match: Quantity = "parameters",
) -> WidthMatch:
    """Finds the width at which a network costs what a target does.

    The smallest width w with cost(w) >= target is found by doubling and bisection; of w and w - 1
    the one with the smaller |cost - target| is taken.

    Args:
      make: a Flax module for each width of at least 1, whose cost grows with the width.
      input_shape: (*spatial, channels) of one example.
      target: another network, whose cost for the same input is wanted, or a number.
      match: what is to be equal: "parameters", "macs" or "activation_values", as
        `analysis.account` counts them.

    Returns:
      A `WidthMatch`.

    Raises:
      ValueError: an unknown quantity, a target below 1, or one that no width up to 2^20 reaches.

    >>> from cnnjax.models import StackNet
    >>> match = match_width(
    ...     lambda width: StackNet(10, 16, (3, 3, 3), (width, width, 16)),
    ...     (32, 32, 3),
    ...     StackNet(10, 16, (7,), (16,)),
    ... )
    >>> match.width, match.value, match.target, f"{match.error:+.1%}"
    (25, 23589, 23258, '+1.4%')
    """
    if match not in get_args(Quantity):
        raise ValueError(f"match_width: match must be one of {get_args(Quantity)}, got {match!r}")

    def cost(found: Account) -> int:
        return int(getattr(found, match))

    @functools.cache
    def cost_at(width: int) -> int:
        return cost(account(make(width), input_shape))

    try:
        wanted = operator.index(target)
    except TypeError:
        wanted = cost(account(target, input_shape))
    if wanted < 1:
        raise ValueError(f"match_width: the target must be at least 1, got {wanted}")
    low, high = 0, 1
    while cost_at(high) < wanted:
        if high >= _WIDEST:
            raise ValueError(
                f"match_width: {match} are {cost_at(high):,} at a width of {high:,}, still below "
                f"the target of {wanted:,}; do they grow with the width?"
            )
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost_at(middle) < wanted else (low, middle)
    width = min((max(low, 1), high), key=lambda width: abs(cost_at(width) - wanted))
    value = cost_at(width)
    return WidthMatch(width, value, wanted, (value - wanted) / wanted)
