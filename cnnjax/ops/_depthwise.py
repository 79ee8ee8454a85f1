"""Depthwise convolution as a sum of shifted products, one a tap.

XLA hands grouped convolutions on a CPU to a library that is slow for groups of one channel;
slices, products and sums it fuses into one loop over the pixels.
`python -m experiments.benchmark --suite=ops --only=conv_depthwise_3x3` compares them.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax.ops._conv_forms import Form
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
        sides = zip(form.padding, form.reach, form.spans, form.spatial, strict=True)
        margins = [
            (low, max(reach + span - 1 - low - size, 0), 0) for (low, _), reach, span, size in sides
        ]
        padded = lax.pad(x, np.zeros((), x.dtype), [(0, 0, 0), *margins, (0, 0, 0)])
        # One output channel for each filter: those of a channel stand side by side.
        padded = jnp.repeat(padded, num_filters // channels, axis=-1)
        weights = kernel.reshape(-1, *(1,) * (form.rank + 1), num_filters)
        starts = itertools.product(
            *(range(0, w * d, d) for w, d in zip(form.window, form.dilation, strict=True))
        )
        products = []
        for start, weight in zip(starts, weights, strict=True):
            ends = (first + reach for first, reach in zip(start, form.reach, strict=True))
            tap = lax.slice(
                padded, (0, *start, 0), (len(x), *ends, num_filters), (1, *form.stride, 1)
            )
            products.append(wide(tap) * wide(weight))
        return functools.reduce(jnp.add, products).astype(x.dtype)

    padding = "x".join(f"{low}_{high}" for low, high in form.padding)
    shifted_products.__name__ = (
        f"depthwise_convolution_window{_times(form.window)}_stride{_times(form.stride)}"
        f"_padding{padding}_dilation{_times(form.dilation)}"
    )
    return jax.jit(shifted_products)


def _times(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
