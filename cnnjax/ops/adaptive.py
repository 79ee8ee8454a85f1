"""Adaptive pooling: as many regions as asked for, whatever the size of the image."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import geometry
from cnnjax.geometry import PerAxis
from cnnjax.ops import _runs, _total
from cnnjax.ops._dtypes import check_mean, wide
from cnnjax.ops._layers import as_layer, layer_name
from cnnjax.ops._windows import split_axes

__all__ = ["adaptive_avg_pool"]


def adaptive_avg_pool(x: jax.Array, output_size: PerAxis = (7, 7)) -> jax.Array:
    """Mean over a fixed number of regions, whatever the size of the image.

    Region i of an axis holds the pixels from floor(i in / out) up to ceil((i + 1) in / out).
    Neighbouring regions share a pixel where in/out is no integer, and more where the output is
    the larger of the two; sizes that agree leave the image as it is.

    Args:
      x: floating input of shape (*batch, *spatial, channels), any number of batch axes.
      output_size: regions an axis; a bare integer means two axes, (n, n).

    Returns:
      Array of shape (*batch, *output_size, channels) and the dtype of `x`, summed in float32 or
      wider.

    Raises:
      TypeError: integer input, whose mean would be floored, or sizes that are not integers.
      ValueError: too few axes, a size below 1, or an image without pixels.

    >>> import jax.numpy as jnp
    >>> adaptive_avg_pool(jnp.arange(5.0).reshape(5, 1), (3,))[:, 0]
    Array([0.5, 2. , 3.5], dtype=float32)

    Siblings: `avg_pool` has a window of one size, `global_avg_pool` is `output_size=1` without
    the spatial axes, and `fractional_avg_pool` draws its regions.
    Source: PyTorch's `AdaptiveAvgPool2d`, whose regions these are; torchvision's AlexNet and VGG
    stand on it so that their dense layers take images of any size.
    """
    check_mean("adaptive_avg_pool", x)
    rank = len(output_size) if isinstance(output_size, Sequence) else 2
    outputs = geometry.per_axis("adaptive_avg_pool", "output_size", output_size, rank)
    batch, spatial, channels = split_axes("adaptive_avg_pool", x.shape, outputs)
    if not all(spatial):
        raise ValueError(
            f"adaptive_avg_pool: an image of shape {spatial} has no pixels to take the mean of"
        )
    if spatial == outputs:
        return x
    flat = (math.prod(batch), *spatial, channels)
    regions = tuple(map(_Regions, spatial, outputs))
    pool = as_layer(_means, layer_name("adaptive_avg_pool"), regions=regions)
    return pool(x.reshape(flat)).reshape(*batch, *outputs, channels)


@dataclass(frozen=True)
class _Regions:
    """The regions of one axis."""

    size: int
    num_regions: int

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The first pixel and one past the last of each region."""
        pixels = np.arange(self.num_regions + 1, dtype=np.int64) * self.size
        starts, ends = pixels[:-1] // self.num_regions, -(-pixels[1:] // self.num_regions)
        return starts.astype(np.int32), ends.astype(np.int32)

    @property
    def touch(self) -> bool:
        """Whether the regions tile the axis."""
        return self.size % self.num_regions == 0

    def run(self) -> _runs.Axis:
        """The regions as runs of pixels."""
        if self.touch:
            width = self.size // self.num_regions
            return _runs.Sliding(self.size, self.num_regions, width, width, 0)
        starts, ends = self.bounds
        seeing = [np.sum((starts <= pixel) & (pixel < ends)) for pixel in range(self.size)]
        widest = int(np.max(ends - starts))
        return _runs.Drawn(self.size, self.num_regions, widest, int(max(seeing)))


def _means(x: jax.Array, *, regions: tuple[_Regions, ...]) -> jax.Array:
    if all(axis.touch for axis in regions):
        return _means_of_tiles(x, regions)
    bounds: list[_runs.Bounds] = []
    count = np.ones((), int)
    for axis in regions:
        starts, ends = axis.bounds
        bounds.append(() if axis.touch else (jnp.asarray(starts), jnp.asarray(ends)))
        count = np.multiply.outer(count, ends - starts)
    total = _total.total(wide(x), tuple(bounds), tuple(axis.run() for axis in regions))
    return (total / jnp.asarray(count[None, ..., None], total.dtype)).astype(x.dtype)


def _means_of_tiles(x: jax.Array, regions: tuple[_Regions, ...]) -> jax.Array:
    shape, places = [len(x)], []
    for axis in regions:
        places.append(len(shape) + 1)
        shape += [axis.num_regions, axis.size // axis.num_regions]
    tiled = wide(x).reshape(*shape, x.shape[-1])
    width = math.prod(tiled.shape[place] for place in places)
    return (jnp.sum(tiled, tuple(places)) / width).astype(x.dtype)
