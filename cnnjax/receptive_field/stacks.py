"""The stacks of stride-1 layers that see a wanted field, and what they cost."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import SupportsIndex

from cnnjax.receptive_field._integers import integers
from cnnjax.receptive_field.chains import Layer
from cnnjax.receptive_field.fields import IDENTITY, ReceptiveField, numbers

__all__ = ["Stack", "stack_for"]

# Longer lists are read by nobody, and take minutes to make.
_MOST_STACKS = 100_000


@dataclass(frozen=True)
class Stack:
    """Stride-1 convolutions one after another, with as many channels throughout.

    Their order changes neither what they see nor what they cost.

    Attributes:
      windows: taps of each layer along an axis; the same along every axis.
      rank: number of spatial axes.

    >>> print(Stack((3, 3, 3)))
    3x3 -> 3x3 -> 3x3: 27 C^2 weights, 3 non-linearities
    """

    windows: tuple[int, ...]
    rank: int = 2

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers for `compose`, padded by half a window so that they keep the size."""
        return tuple(Layer(window, padding=(window - 1) // 2) for window in self.windows)

    @property
    def weights_per_channel_pair(self) -> int:
        """Weights for each input and output channel: those of the stack in units of C^2."""
        return sum(window**self.rank for window in self.windows)

    @property
    def num_nonlinearities(self) -> int:
        """Non-linearities, one after each layer."""
        return len(self.windows)

    def num_weights(self, channels: SupportsIndex) -> int:
        """Weights, without biases, of layers from C to C channels: C^2 sum_l F_l^rank.

        >>> Stack((3, 3, 3)).num_weights(64), Stack((7,)).num_weights(64)
        (110592, 200704)
        """
        return self.weights_per_channel_pair * integers("num_weights", "channels", channels, 1) ** 2

    def num_macs(self, channels: SupportsIndex, spatial_shape: Sequence[SupportsIndex]) -> int:
        """Multiply-accumulates on volumes whose size the layers keep, padding included.

        Args:
          channels: C, of the input and of every layer.
          spatial_shape: size of the volume along each axis, `rank` values.

        >>> Stack((3, 3, 3)).num_macs(64, (56, 56))
        346816512
        """
        sizes = [integers("num_macs", "a size", size, 1) for size in spatial_shape]
        if len(sizes) != self.rank:
            raise ValueError(
                f"num_macs: a stack of {self.rank} spatial axes needs {self.rank} sizes, got "
                f"{tuple(spatial_shape)}"
            )
        return self.num_weights(channels) * math.prod(sizes)

    def __str__(self) -> str:
        names = " -> ".join("x".join([str(window)] * self.rank) for window in self.windows)
        plural = "y" if self.num_nonlinearities == 1 else "ies"
        return (
            f"{names or 'no layer'}: {self.weights_per_channel_pair} C^2 weights, "
            f"{self.num_nonlinearities} non-linearit{plural}"
        )


def stack_for(
    receptive_field: SupportsIndex,
    *,
    windows: Sequence[SupportsIndex] = (3, 5, 7),
    max_layers: SupportsIndex | None = None,
    rank: SupportsIndex = 2,
    before: ReceptiveField = IDENTITY,
) -> tuple[Stack, ...]:
    """All stacks of stride-1 layers that see exactly a wanted field, the lightest first.

        r = r_before + S_before sum_l (F_l - 1)

    Args:
      receptive_field: r, pixels of the input that one position of the last layer shall see along
        an axis.
      windows: the windows to choose from, each at least 2, any number of times.
      max_layers: the largest number of layers; as many as it takes by default.
      rank: number of spatial axes, for the weights.
      before: field of the layers that lie before the stack, such as a strided stem.

    Returns:
      The stacks, windows in descending order within each, sorted by their weights, then by their
      number of layers.

    Raises:
      ValueError: a field that no such stack sees (the error names the nearest that one sees), a
        number out of range, or more than 100,000 stacks.
      TypeError: a number that is no integer.

    >>> for stack in stack_for(7):
    ...     print(stack)
    3x3 -> 3x3 -> 3x3: 27 C^2 weights, 3 non-linearities
    5x5 -> 3x3: 34 C^2 weights, 2 non-linearities
    7x7: 49 C^2 weights, 1 non-linearity
    >>> from cnnjax.receptive_field import compose
    >>> stem = compose([Layer(7, stride=2, padding=3), Layer(3, stride=2, padding=1)])
    >>> [stack.windows for stack in stack_for(27, before=stem)]  # 11 pixels, then 4 a step.
    [(3, 3), (5,)]
    >>> stack_for(8)
    Traceback (most recent call last):
    ValueError: stack_for: no stack of the windows (3, 5, 7) sees exactly 8 pixels; the nearest ...

    Source: Simonyan and Zisserman, "Very Deep Convolutional Networks", 2015, section 2.3, where
    27 C^2 weights stand against 49 C^2.
    """
    name = "stack_for"
    wanted = integers(name, "receptive_field", receptive_field, 1)
    choices = sorted({integers(name, "a window", window, 2) for window in windows}, reverse=True)
    if not choices:
        raise ValueError(f"{name}: windows must hold at least one window, got {windows!r}")
    most = wanted if max_layers is None else integers(name, "max_layers", max_layers, 0)
    num_axes = integers(name, "rank", rank, 1)
    size, stride, _ = numbers(name, before)
    # In steps of the stack's own grid: each layer adds its window less one.
    steps, off_grid = divmod(wanted - size, stride)
    fewest = _fewest_layers(max(steps, 0) + choices[0], choices)
    if steps < 0 or off_grid or fewest.get(steps, most + 1) > most:
        reached = [size + stride * s for s, layers in fewest.items() if layers <= most]
        needed = None if off_grid else fewest.get(steps)
        raise ValueError(_unreachable(wanted, choices, most, before, reached, needed))
    found = list(islice(_multisets(steps, choices, most), _MOST_STACKS + 1))
    if len(found) > _MOST_STACKS:
        raise ValueError(
            f"{name}: more than {_MOST_STACKS:,} stacks of the windows {tuple(sorted(choices))} "
            f"see {wanted} pixels; give fewer windows or a smaller max_layers"
        )
    stacks = [Stack(chosen, num_axes) for chosen in found]
    return tuple(
        sorted(stacks, key=lambda s: (s.weights_per_channel_pair, len(s.windows), s.windows))
    )


def _fewest_layers(limit: int, windows: Sequence[int]) -> dict[int, int]:
    """The fewest layers that add up to each number of steps that any do, up to a limit."""
    fewest = {0: 0}
    for steps in range(1, limit + 1):
        shorter = [fewest[steps - w + 1] for w in windows if steps - w + 1 in fewest]
        if shorter:
            fewest[steps] = min(shorter) + 1
    return fewest


def _multisets(steps: int, windows: Sequence[int], most: int) -> Iterator[tuple[int, ...]]:
    """Descending windows that add up to `steps`, `most` of them at the most."""
    # Of the windows from each on, so that no choice is followed that leads nowhere.
    fewest = [_fewest_layers(steps, windows[start:]) for start in range(len(windows) + 1)]

    def from_window(index: int, steps: int, most: int) -> Iterator[tuple[int, ...]]:
        if index == len(windows):
            yield ()
            return
        window = windows[index]
        for count in range(min(steps // (window - 1), most), -1, -1):
            rest = steps - count * (window - 1)
            if fewest[index + 1].get(rest, most + 1) <= most - count:
                for others in from_window(index + 1, rest, most - count):
                    yield (window,) * count + others

    return from_window(0, steps, most)


def _unreachable(
    wanted: int,
    windows: Sequence[int],
    most: int,
    before: ReceptiveField,
    reached: Sequence[int],
    layers_needed: int | None,
) -> str:
    what = f"stack of the windows {tuple(sorted(windows))}"
    if before != IDENTITY:
        what += f" after {before}"
    below = [r for r in reached if r < wanted]
    above = [r for r in reached if r > wanted]
    nearest = [str(r) for r in (max(below, default=None), min(above, default=None)) if r]
    instead = "choose other windows"
    if layers_needed is not None:
        what += f" of at most {most} layers"
        instead = f"allow max_layers={layers_needed}"
    elif before == IDENTITY and all(window % 2 for window in windows):
        instead = "include an even window"
    fields = (
        f"field is {nearest[0]}" if len(nearest) == 1 else f"fields are {' and '.join(nearest)}"
    )
    return (
        f"stack_for: no {what} sees exactly {wanted} pixels; the nearest {fields}: ask for "
        f"that, or {instead}"
    )
