"""Fair timing on a machine that others use too: alternation, and ratios taken round by round.

A machine's speed drifts by more than the differences worth knowing. So contenders take turns
within each round, each round begins with another one, and what is reported is the ratio within
a round: drift that is slow against a round cancels in it.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tqdm import tqdm

__all__ = ["Contender", "Spread", "Timings", "alternate", "spread"]

# Returns when its work is done, not when it is queued.
Contender = Callable[[], object]

# Thread pools that spin before they sleep (OpenMP's does) are quiet after this long.
_SETTLE_SECONDS = 0.02


class Spread(NamedTuple):
    """Median, smallest and largest of n values.

    >>> Spread(1.25, 1.0, 1.5, 7).text(2)
    '1.25 (1.00 to 1.50)'
    """

    median: float
    low: float
    high: float
    n: int

    def text(self, decimals: int) -> str:
        """The median and, in parentheses, the range; n belongs in the heading of the table."""
        return (
            f"{self.median:,.{decimals}f} ({self.low:,.{decimals}f} to {self.high:,.{decimals}f})"
        )


def spread(values: Sequence[float]) -> Spread:
    """The spread of one or more values.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0, n=3)
    """
    return Spread(statistics.median(values), min(values), max(values), len(values))


@dataclass(frozen=True)
class Timings:
    """Seconds of each contender in each round, for the same amount of work.

    Attributes:
      seconds: for each contender its rounds in order; as many for every contender.
      work: units done in one timed call, for example images.
    """

    seconds: Mapping[str, Sequence[float]]
    work: float

    def rate(self, name: str) -> Spread:
        """Units of work a second."""
        return spread([self.work / seconds for seconds in self.seconds[name]])

    def ratio(self, name: str, reference: str) -> Spread:
        """How many times as fast as the reference, each round against the same round.

        >>> timings = Timings({"ours": [1.0, 2.0], "theirs": [2.0, 4.0]}, work=10)
        >>> timings.ratio("ours", "theirs").text(1)
        '2.0 (2.0 to 2.0)'
        """
        pairs = zip(self.seconds[reference], self.seconds[name], strict=True)
        return spread([theirs / own for theirs, own in pairs])


def alternate(
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    work: float,
    label: str = "",
    clock: Callable[[], float] = time.perf_counter,
    settle: Callable[[float], None] = time.sleep,
) -> Timings:
    """Time contenders in turn, `rounds` times each, after one call of each that is not timed.

    Args:
      contenders: what is timed, by name; each does the same work and returns when it is done.
      rounds: timed calls of each; round r begins with contender r modulo their number.
      work: units that one call does.
      label: what the progress bar says; there is none where output is not a terminal.
      clock: seconds from some origin.
      settle: waits between two calls, so that the threads of one are asleep in the next.

    Returns:
      The `Timings`.

    Raises:
      ValueError: no rounds, or a clock that saw no time pass.
    """
    if rounds < 1:
        raise ValueError(f"alternate: rounds must be at least 1, got {rounds}")
    names = list(contenders)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with tqdm(
        total=len(names) * (rounds + 1), desc=label, disable=None, leave=False, dynamic_ncols=True
    ) as bar:
        for name in names:
            contenders[name]()
            bar.update()
        for round_number in range(rounds):
            first = round_number % len(names)
            for name in names[first:] + names[:first]:
                settle(_SETTLE_SECONDS)
                start = clock()
                contenders[name]()
                elapsed = clock() - start
                if elapsed <= 0:
                    raise ValueError(
                        f"alternate: the clock saw no time pass in {name!r}; time more work a call"
                    )
                seconds[name].append(elapsed)
                bar.update()
    return Timings(seconds, work)
