"""Depthwise convolution as a sum of shifted products, one a tap.

XLA hands grouped convolutions on a CPU to a library that is slow for groups of one channel;
slices, products and sums it fuses into one loop over the pixels.
`python -m experiments.benchmark --suite=ops --only=conv_depthwise_3x3` compares them.
"""

import functools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from cnnjax.ops._conv_forms import Form, shifted_taps
from cnnjax.ops._dtypes import wide

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
    return _named(form)(x, kernel)


@functools.cache
def _named(form: Form) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The sum of products as one equation of a traced program, under a name that tells it all.

    `cnnjax.analysis` reads the name: slices and products would tell it nothing.
    """

    def shifted_products(x: jax.Array, kernel: jax.Array) -> jax.Array:
        channels, num_filters = x.shape[-1], kernel.shape[-1]
        # One output channel for each filter: those of a channel stand side by side.
        taps = shifted_taps(jnp.repeat(x, num_filters // channels, axis=-1), form)
        weights = kernel.reshape(-1, *(1,) * (form.rank + 1), num_filters)
        products = [wide(tap) * wide(weight) for tap, weight in zip(taps, weights, strict=True)]
        return functools.reduce(jnp.add, products).astype(x.dtype)

    padding = "x".join(f"{low}_{high}" for low, high in form.padding)
    shifted_products.__name__ = (
        f"depthwise_convolution_window{_times(form.window)}_stride{_times(form.stride)}"
        f"_padding{padding}_dilation{_times(form.dilation)}"
    )
    return jax.jit(shifted_products)


def _times(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
