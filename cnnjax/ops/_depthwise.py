"""Depthwise convolution as a sum of shifted products, one a tap.

XLA hands grouped convolutions on a CPU to a library that is slow for groups of one channel;
slices, products and sums it fuses into one loop over the pixels.
`python -m experiments.benchmark --suite=ops --only=conv_depthwise_3x3` compares them.
"""

import functools
import math

import jax
import jax.numpy as jnp

from cnnjax.ops._conv_forms import Form, shifted_taps
from cnnjax.ops._dtypes import wide
from cnnjax.ops._layers import as_layer, layer_name

# The program grows with the taps.
_MOST_TAPS = 64


def suits(kernel: jax.Array, form: Form) -> bool:
    """Whether this form is for that convolution, on the device that there is."""
    return (
        form.groups > 1
        and kernel.shape[-2] == 1
        and math.prod(form.window) <= _MOST_TAPS
        and jax.default_backend() == "cpu"
    )


def depthwise(x: jax.Array, kernel: jax.Array, form: Form) -> jax.Array:
    """Each channel of (batch, *spatial, channels) with the filters of its own."""
    name = layer_name("convolution", form.window, form.stride, form.padding, form.dilation)
    return as_layer(_shifted_products, name, form=form)(x, kernel)


def _shifted_products(x: jax.Array, kernel: jax.Array, *, form: Form) -> jax.Array:
    channels, num_filters = x.shape[-1], kernel.shape[-1]
    # One output channel for each filter: those of a channel stand side by side.
    taps = shifted_taps(jnp.repeat(x, num_filters // channels, axis=-1), form)
    weights = kernel.reshape(-1, *(1,) * (form.rank + 1), num_filters)
    products = [wide(tap) * wide(weight) for tap, weight in zip(taps, weights, strict=True)]
    return functools.reduce(jnp.add, products).astype(x.dtype)
