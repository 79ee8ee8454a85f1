"""The windows of one call, resolved and checked: what all functions that slide have in common."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from cnnjax import geometry
from cnnjax.geometry import Fit, Padding, PerAxis
from cnnjax.ops._layers import layer_name


@dataclass(frozen=True)
class Windows:
    """Windows over the spatial axes of one input of shape (*batch, *spatial, channels).

    Static: integers alone, so that equal calls are equal keys of the compilation cache.

    Attributes:
      batch: sizes of the batch axes.
      spatial: pixels an axis.
      channels: size of the last axis.
      window: taps an axis.
      stride: step between windows, pixels an axis.
      padding: (low, high) pixels an axis, as asked for.
      dilation: spacing of the taps an axis.
      outputs: number of window positions an axis.
    """

    batch: tuple[int, ...]
    spatial: tuple[int, ...]
    channels: int
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    outputs: tuple[int, ...]

    def named(self, operation: str) -> str:
        """The name of a layer with these windows."""
        return layer_name(operation, self.window, self.stride, self.padding, self.dilation)

    @classmethod
    def of(
        cls,
        function: str,
        shape: Sequence[int],
        window: PerAxis,
        *,
        stride: PerAxis | None,
        padding: Padding,
        dilation: PerAxis = 1,
        fit: Fit = "floor",
    ) -> "Windows":
        """Resolve the statics of a call on an input of this shape; errors name `function`.

        A bare integer as window means two axes; a stride of None is the window's own size.
        """
        rank = len(window) if isinstance(window, Sequence) else 2
        windows = geometry.per_axis(function, "window", window, rank)
        batch, spatial, channels = split_axes(function, shape, windows)
        strides = geometry.per_axis(function, "stride", windows if stride is None else stride, rank)
        dilations = geometry.per_axis(function, "dilation", dilation, rank)
        pairs = geometry.padding_pairs(
            function, padding, spatial, windows, stride=strides, dilation=dilations
        )
        try:
            outputs = geometry.output_shape(
                spatial, windows, stride=strides, padding=pairs, dilation=dilations, fit=fit
            )
        except ValueError as error:
            raise ValueError(f"{function}: {error}") from None
        return cls(batch, spatial, channels, windows, strides, pairs, dilations, outputs)

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.window)

    @property
    def taps(self) -> int:
        """Number of pixels that one window sees."""
        return math.prod(self.window)

    @property
    def flat_shape(self) -> tuple[int, ...]:
        """The input's shape with one batch axis."""
        return (math.prod(self.batch), *self.spatial, self.channels)


def split_axes(
    function: str, shape: Sequence[int], window: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    """The batch axes, the spatial axes that a window slides over, and the channels of a shape."""
    rank = len(window)
    if rank < 1:
        raise ValueError(f"{function}: a window needs at least one spatial axis, got {window}")
    if len(shape) < rank + 1:
        raise ValueError(
            f"{function}: window {window} slides over {rank} spatial axes, so x needs at "
            f"least {rank + 1} axes (*batch, *spatial, channels), got shape {tuple(shape)}"
        )
    return tuple(shape[: -rank - 1]), tuple(shape[-rank - 1 : -1]), shape[-1]


def check_floating(function: str, **arrays: jax.Array | None) -> None:
    """Refuse integers, and dtypes unlike the first array's; None stands for an absent array."""
    (first, x), *_ = arrays.items()
    for name, array in arrays.items():
        if array is None or x is None:
            continue
        if not jnp.issubdtype(array.dtype, jnp.inexact):
            raise TypeError(
                f"{function}: {name} has dtype {array.dtype}; cast to a floating dtype first, "
                "images for example with x.astype(jnp.float32) / 255"
            )
        if array.dtype != x.dtype:
            raise TypeError(
                f"{function}: {first} has dtype {x.dtype} and {name} {array.dtype}; cast one to "
                "the other"
            )
