"""A 1x1 convolution as the matrix product that it is."""

import jax
from jax import lax

from cnnjax.ops._layers import as_layer, layer_name


def pointwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1x1 convolution as the matrix product that it is, faster than XLA's convolution.

    Its name tells it from a dense layer; nothing else in the traced program does.
    """
    ones = (1,) * (kernel.ndim - 2)
    name = layer_name("convolution", ones, ones, ((0, 0),) * len(ones), ones)
    return as_layer(_matrix_product, name)(x, kernel)


def _matrix_product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    matrix = kernel.reshape(kernel.shape[-2:])
    return lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())))
