"""The arrays of a network, and which numbers of PyTorch's arrays they are.

A kernel here is (*window, inputs, outputs), in PyTorch (outputs, inputs, *window). A dense layer
over a flattened volume is such a kernel whose window is the volume, flattened here in (height,
width, channels) order and there in (channels, height, width) order. So one exchange of axes serves
all: convolutions, transposed ones (both libraries keep the kernel of the convolution whose adjoint
they are), dense layers, and dense layers that surgery made convolutions of.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cnnjax.models import Network
from cnnjax.weights.errors import WeightsError

__all__ = ["Leaf", "flattened", "leaves_of", "reference_of", "traced"]

Path = tuple[str, ...]


class Leaf(NamedTuple):
    """One array of a network.

    Attributes:
      path: collection, modules, name.
      shape: as in the network.
      window_shape: (*window, inputs, outputs) of a kernel, () of any other array.
      dense: whether it is the kernel of a dense layer.
    """

    path: Path
    shape: tuple[int, ...]
    window_shape: tuple[int, ...] = ()
    dense: bool = False

    @property
    def module(self) -> Path:
        """The modules that it lies in."""
        return self.path[1:-1]

    def torch_shape(self, windowed: bool = False) -> tuple[int, ...]:
        """Shape in PyTorch; `windowed` writes a dense layer as a convolution."""
        if not self.window_shape:
            return self.shape
        *window, inputs, outputs = self.window_shape
        if self.dense and not windowed:
            return (outputs, inputs * math.prod(window))
        return (outputs, inputs, *(window or (1, 1)))

    def to_torch(self, array: np.ndarray, windowed: bool = False) -> np.ndarray:
        """The array as PyTorch keeps it, in C order."""
        if self.window_shape:
            rank = len(self.window_shape)
            axes = (rank - 1, rank - 2, *range(rank - 2))
            array = array.reshape(self.window_shape).transpose(axes)
        return np.array(array, order="C").reshape(self.torch_shape(windowed))

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The array of the network from PyTorch's, of either of its shapes."""
        if self.window_shape:
            *window, inputs, outputs = self.window_shape
            axes = (*range(2, len(self.window_shape)), 1, 0)
            array = array.reshape((outputs, inputs, *window)).transpose(axes)
        return np.array(array, order="C").reshape(self.shape)


def reference_of(network: Network) -> Network:
    """The network with its classifier, as it was before surgery."""
    return network.clone(
        features=False,
        head_window=None,
        output_stride=None,
        num_classes=network.num_classes or 1,
    )


def traced(network: Network) -> dict[Path, tuple[int, ...]]:
    """Shapes of all arrays of a network by path; nothing is computed."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), _images(network))
    return {path: leaf.shape for path, leaf in flattened(shapes).items()}


def leaves_of(network: Network) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...]]:
    """Every array of a network, and every one of its `reference_of`.

    Raises:
      WeightsError: a dense layer whose inputs are of no volume that could be told.
    """
    try:
        hash(network)
    except TypeError:
        # An option of its own that is no constant: nothing to remember it by.
        return _leaves_of.__wrapped__(network)
    return _leaves_of(network)


# A deep network takes a second to trace, and a reader asks for the same one several times.
@functools.lru_cache(maxsize=16)
def _leaves_of(network: Network) -> tuple[tuple[Leaf, ...], tuple[Leaf, ...]]:
    reference = reference_of(network)
    published = traced(reference)
    shapes = published if reference == network else traced(network)

    def described(shapes: dict[Path, tuple[int, ...]]) -> tuple[Leaf, ...]:
        return tuple(_leaf(network, path, shape, published) for path, shape in shapes.items())

    return described(shapes), described(published)


def flattened(tree: Mapping[str, Any]) -> dict[Path, Any]:
    """A tree of mappings by paths of names."""
    return {tuple(map(str, path)): leaf for path, leaf in flatten_dict(dict(tree)).items()}


def _leaf(
    network: Network, path: Path, shape: tuple[int, ...], published: dict[Path, tuple[int, ...]]
) -> Leaf:
    if path[-1] != "kernel":
        return Leaf(path, shape)
    if len(published[path]) > 2:
        return Leaf(path, shape, shape)
    if len(shape) > 2:
        return Leaf(path, shape, shape, dense=True)
    inputs, outputs = shape
    volume = _volume(network, path[1:-1], inputs, published)
    return Leaf(path, shape, (*volume, outputs), dense=True)


def _volume(
    network: Network, module: Path, inputs: int, published: dict[Path, tuple[int, ...]]
) -> tuple[int, ...]:
    """(height, width, channels) that a dense layer sees; (channels,) where that is all."""
    *parent, name = module
    kernels = {
        path[-2]: shape
        for path, shape in published.items()
        if path[:-2] == ("params", *parent) and path[-1] == "kernel"
    }
    first = "fc0" if "fc0" in kernels else "head"
    convolutions = [kernels[key] for key in sorted(kernels) if key.startswith("conv")]
    if name != first or (parent and not convolutions):
        return (inputs,)
    channels = convolutions[-1][-1] if parent else network.feature_info[-1].channels
    if channels == inputs:
        return (inputs,)
    if parent:
        # An auxiliary head, whose volume is pooled to a square.
        side = math.isqrt(inputs // channels)
        size: tuple[int, int] = (side, side)
    else:
        size = getattr(network, "pooled_size", None) or _last_size(network)
    if math.prod(size) * channels != inputs:
        raise WeightsError(
            f"{type(network).__name__}: {'/'.join(module)} has {inputs} inputs, which are no "
            f"volume of {size[0]}x{size[1]}x{channels}, so their order in PyTorch cannot be told"
        )
    return (*size, channels)


def _last_size(network: Network) -> tuple[int, int]:
    pyramid = reference_of(network).clone(features=True)
    volumes = jax.eval_shape(
        lambda key, x: pyramid.init_with_output(key, x)[0], jax.random.key(0), _images(network)
    )
    height, width = volumes[network.feature_info[-1].name].shape[-3:-1]
    return height, width


def _images(network: Network) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *network.input_shape), jnp.float32)
