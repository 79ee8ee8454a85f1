"""Adaptive pooling against NumPy loops over the definition, PyTorch, and its own laws."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax import analysis
from cnnjax.ops import adaptive_avg_pool, avg_pool, conv, global_avg_pool


def random(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


def regions(size, num_regions):
    """The pixels of each region, each bound rounded on its own, in floating point."""
    return [
        range(math.floor(i * size / num_regions), math.ceil((i + 1) * size / num_regions))
        for i in range(num_regions)
    ]


def loops(x, output_size):
    """Each region's pixels added one by one."""
    rank = len(output_size)
    batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    axes = [regions(size, out) for size, out in zip(spatial, output_size, strict=True)]
    result = np.zeros((*batch, *output_size, x.shape[-1]))
    for place in np.ndindex(*output_size):
        pixels = [()]
        for axis, index in enumerate(place):
            pixels = [(*p, q) for p in pixels for q in axes[axis][index]]
        total = sum(x[(..., *pixel, slice(None))] for pixel in pixels)
        result[(..., *place, slice(None))] = total / len(pixels)
    return result


@pytest.mark.parametrize(
    ("shape", "output_size"),
    [
        ((2, 12, 9, 3), (7, 7)),
        ((2, 1, 8, 1), (3,)),
        ((2, 6, 2), (3,)),
        ((1, 3, 4, 2), (5, 7)),
        ((1, 4, 3, 5, 2), (3, 3, 2)),
        ((2, 8, 6, 1), (4, 1)),
    ],
)
def test_adaptive_pool_is_the_loops_over_its_regions(shape, output_size):
    x = random(*shape)
    with jax.enable_x64(True):
        out = adaptive_avg_pool(jnp.asarray(x), output_size)
    assert out.dtype == np.float64
    np.testing.assert_allclose(out, loops(x, output_size), rtol=1e-13, atol=1e-13)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 13), st.integers(1, 13)),
    outputs=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_adaptive_pool_and_its_gradient_are_pytorchs(torch, sizes, outputs):
    x, cotangent = random(1, *sizes, 2), random(1, *outputs, 2)
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    theirs = torch.nn.functional.adaptive_avg_pool2d(leaf, outputs)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))
    with jax.enable_x64(True):
        pool = functools.partial(adaptive_avg_pool, output_size=outputs)
        out, pull_back = jax.vjp(pool, jnp.asarray(x))
        (gradient,) = pull_back(jnp.asarray(cotangent))
    np.testing.assert_allclose(out, oracles.channels_last(theirs.detach().numpy()), atol=1e-13)
    expected = oracles.channels_last(leaf.grad.numpy())
    np.testing.assert_allclose(gradient, expected, atol=1e-13)


def test_sizes_that_agree_add_nothing_to_the_program():
    program = jax.make_jaxpr(adaptive_avg_pool)(jnp.ones((2, 7, 7, 3)))
    assert not program.eqns


def test_one_region_is_the_global_mean():
    x = jnp.asarray(random(2, 5, 6, 3), jnp.float32)
    np.testing.assert_allclose(adaptive_avg_pool(x, 1)[:, 0, 0], global_avg_pool(x), rtol=1e-6)


def test_sizes_that_divide_are_touching_windows():
    x = jnp.asarray(random(2, 14, 21, 3), jnp.float32)
    np.testing.assert_allclose(adaptive_avg_pool(x), avg_pool(x, window=(2, 3)), atol=1e-6)


def test_adaptive_pool_of_constant_is_constant():
    x = jnp.full((9, 10, 1), 0.3)
    np.testing.assert_allclose(adaptive_avg_pool(x, (4, 7)), 0.3, rtol=1e-6)


def test_field_of_each_region_is_its_own_pixels():
    # One 3x3 convolution before: region [a, b) of its outputs sees pixels a to b + 1.
    def network(x):
        return adaptive_avg_pool(conv(x, jnp.ones((3, 3, 1, 1))), (7, 5))

    seen = analysis.receptive_field(network, jax.ShapeDtypeStruct((1, 14, 12, 1), jnp.float32))
    for axis, size, out in zip(seen.axes, (12, 10), (7, 5), strict=True):
        expected = regions(size, out)
        assert axis.first.tolist() == [region.start for region in expected]
        assert axis.last.tolist() == [region.stop + 1 for region in expected]
    assert seen.axes[0].stride is None, "12 pixels in 7 regions follow no law"
    assert (seen.axes[1].size, seen.axes[1].stride) == (4, 2)


def test_account_has_one_row_of_the_adaptive_pool():
    costs = analysis.account(adaptive_avg_pool, (12, 10, 3))
    (row,) = costs.rows
    assert (row.operation, row.output_shape, row.macs) == ("adaptive_avg_pool", (7, 7, 3), 0)


def test_mean_in_bfloat16_is_added_up_in_float32():
    for size in (80, 81):
        out = adaptive_avg_pool(jnp.ones((size, size, 1), jnp.bfloat16), 2)
        assert out.dtype == jnp.bfloat16
        np.testing.assert_array_equal(out.astype(jnp.float32), 1.0)


@pytest.mark.parametrize(
    ("x", "output_size", "error", "message"),
    [
        (jnp.ones((4, 4, 1), jnp.int32), 2, TypeError, "x has dtype int32, whose mean would be"),
        (jnp.ones((4, 1)), 2, ValueError, r"window \(2, 2\) slides over 2 spatial axes, so x"),
        (jnp.ones((4, 4, 1)), (2, 0), ValueError, "output_size must be at least 1, got 0"),
        (jnp.ones((4, 4, 1)), 2.5, TypeError, "output_size must be an integer, got 2.5"),
        (jnp.ones((0, 4, 1)), 2, ValueError, r"an image of shape \(0, 4\) has no pixels"),
    ],
)
def test_mistake_is_told_before_tracing(x, output_size, error, message):
    with pytest.raises(error, match=f"^adaptive_avg_pool: {message}"):
        adaptive_avg_pool(x, output_size)
