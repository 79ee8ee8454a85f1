"""Closed-form receptive-field arithmetic for a chain of layers, on integers.

With layers l = 1..L of window span k, stride s and low padding p (Araujo, Norris and Sim,
"Computing Receptive Fields of Convolutional Neural Networks", 2019):

    size    r = 1 + sum_l (k_l - 1) prod_{i<l} s_i
    stride  S = prod_l s_l
    padding P = sum_l p_l prod_{i<l} s_i

Output position u sees the input pixels from -P + u S to -P + u S + r - 1.
"""

from collections.abc import Iterable
from typing import NamedTuple

from cnnjax.geometry import window_span

__all__ = ["IDENTITY", "Layer", "ReceptiveField", "compose"]


class Layer(NamedTuple):
    """One axis of a convolution or pooling layer; `padding` is the low (left or top) side."""

    window: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1


class ReceptiveField(NamedTuple):
    """What one output position sees along one axis: size, stride and low padding in pixels."""

    size: int
    stride: int
    padding: int

    def interval(self, position: int) -> tuple[int, int]:
        """First and last input pixel (inclusive) that an output position sees.

        >>> ReceptiveField(size=7, stride=1, padding=3).interval(0)
        (-3, 3)
        """
        first = -self.padding + position * self.stride
        return first, first + self.size - 1

    def center(self, position: int) -> float:
        """Centre, in input pixels, of what an output position sees."""
        return -self.padding + position * self.stride + (self.size - 1) / 2


IDENTITY = ReceptiveField(size=1, stride=1, padding=0)


def compose(layers: Iterable[Layer], field: ReceptiveField = IDENTITY) -> ReceptiveField:
    """Receptive field of a chain of layers, the first nearest to the input.

    Args:
      layers: the chain, from the input on; a dilated window counts as its span.
      field: what lies before the first layer.

    >>> compose([Layer(3, padding=1)] * 3)
    ReceptiveField(size=7, stride=1, padding=3)
    >>> compose([Layer(7, stride=2, padding=3), Layer(3, stride=2, padding=1)])
    ReceptiveField(size=11, stride=4, padding=5)
    """
    size, stride, padding = field
    for layer in layers:
        size += (window_span(layer.window, layer.dilation) - 1) * stride
        padding += layer.padding * stride
        stride *= layer.stride
    return ReceptiveField(size, stride, padding)
