"""Strides that become dilations beyond a limit, so that a network keeps finer volumes.

A layer of stride s that takes each position instead, with every later window spread by s, gives at
the multiples of s the values of the strided network, and new ones between (the algorithme a trous).
"""

import jax

from cnnjax import geometry, ops
from cnnjax.geometry import Fit

__all__ = ["Spacing", "dilated_max_pool"]


class Spacing:
    """Where a network stands: pixels between its positions, and the spread of its windows.

    Attributes:
      reduction: pixels of the image from one position to the next.
      dilation: spacing of the taps of a window now.

    >>> spacing = Spacing(limit=8)
    >>> [spacing.step(2) for _ in range(5)]
    [(2, 1), (2, 1), (2, 1), (1, 1), (1, 2)]
    >>> spacing.reduction, spacing.dilation
    (8, 4)

    Source: Holschneider et al., "A real-time algorithm for signal analysis with the help of the
    wavelet transform", 1989; Chen et al., "DeepLab", 2014, section 3.1.
    """

    def __init__(self, limit: int | None = None) -> None:
        """Start at the image; strides that lead past `limit` pixels become dilations."""
        self._limit = limit
        self.reduction = self.dilation = 1

    def step(self, stride: int) -> tuple[int, int]:
        """The (stride, dilation) of a layer that was published with this stride."""
        dilation = self.dilation
        if self._limit is not None and self.reduction * stride > self._limit:
            self.dilation *= stride
            return 1, dilation
        self.reduction *= stride
        return stride, dilation

    def max_pool(
        self, x: jax.Array, window: int, stride: int, *, padding: int = 0, fit: Fit = "floor"
    ) -> jax.Array:
        """`ops.max_pool` of square windows, strided or dilated as `step` says."""
        taken, dilation = self.step(stride)
        if taken == stride and dilation == 1:
            return ops.max_pool(x, window=window, stride=stride, padding=padding, fit=fit)
        return dilated_max_pool(x, window, stride, padding, fit, dilation)


def dilated_max_pool(
    x: jax.Array, window: int, stride: int, padding: int, fit: Fit, dilation: int
) -> jax.Array:
    """The maximum at each position, whose multiples of stride * dilation are the strided pooling.

    The published pooling sees every `dilation`-th position of `x`. Sizes stay where it tiles
    them: the last windows reach past the end, and what is there never wins.

    Args:
      x: (*batch, height, width, channels).
      window: taps of the published pooling.
      stride: its stride.
      padding: of the published pooling, on both sides.
      fit: which windows it has.
      dilation: spacing of the taps.
    """
    pads, sizes = [], []
    for size in x.shape[-3:-1]:
        published = -(-size // dilation)
        positions = geometry.output_size(published, window, stride=stride, padding=padding, fit=fit)
        wanted = min(size, stride * dilation * positions)
        low = padding * dilation
        valid = size + low - dilation * (window - 1)
        pads.append((low, max(0, wanted - valid)))
        sizes.append(wanted)
    y = ops.max_pool(x, window=window, stride=1, padding=tuple(pads), dilation=dilation)
    return y[..., : sizes[0], : sizes[1], :]
