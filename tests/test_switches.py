"""Switches and unpooling against PyTorch, NumPy, and what putting back must keep."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from compiling import compile_cheaply
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cnnjax.ops import max_pool, max_pool_with_switches, max_unpool


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def rectified(*shape, seed=0):
    """Small integers after a ReLU: every other window holds ties."""
    return np.maximum(np.random.default_rng([seed, *shape]).integers(-3, 3, shape), 0.0)


def switches_by_hand(x, *, window, stride, padding, fit="floor"):
    """For each window the first of its largest pixels, looked up one by one in row-major order."""
    spatial = x.shape[1:-1]
    starts = [
        oracles.window_starts(size, w, s, low, high, fit=fit)
        for size, w, s, (low, high) in zip(spatial, window, stride, padding, strict=True)
    ]
    out = np.zeros((len(x), *map(len, starts), x.shape[-1]), int)
    for n, *place, c in np.ndindex(*out.shape):
        best = None
        for tap in np.ndindex(*window):
            pixel = tuple(starts[a][place[a]] + tap[a] for a in range(len(window)))
            if not all(0 <= p < size for p, size in zip(pixel, spatial, strict=True)):
                continue
            value = x[(n, *pixel, c)]
            if best is None or (not np.isnan(best) and not value <= best):
                best = value
                out[(n, *place, c)] = np.ravel_multi_index(pixel, spatial)
    return out


CASES = {
    "1d": ((2, 9, 2), {"window": (3,), "stride": (2,), "padding": ((1, 0),)}),
    "2d_touching": ((2, 6, 4, 2), {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0),) * 2}),
    "2d_overlapping": (
        (1, 6, 7, 2),
        {"window": (3, 3), "stride": (2, 1), "padding": ((1, 1),) * 2},
    ),
    "2d_large": ((1, 14, 15, 2), {"window": (12, 13), "stride": (1, 1), "padding": ((0, 0),) * 2}),
    "3d": ((1, 4, 3, 5, 2), {"window": (2, 2, 3), "stride": (2, 1, 2), "padding": ((1, 0),) * 3}),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@cases
@pytest.mark.parametrize("fit", ["floor", "ceil"])
def test_switches_are_the_first_largest_pixels_one_by_one(case, fit):
    shape, statics = case
    x = rectified(*shape).astype(np.float32)
    x.flat[::11] = np.nan
    x.flat[::7] = -np.inf
    y, switches = max_pool_with_switches(x, fit=fit, **statics)
    assert switches.dtype == jnp.int32
    np.testing.assert_array_equal(switches, switches_by_hand(x, fit=fit, **statics))
    np.testing.assert_array_equal(y, max_pool(x, fit=fit, **statics))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_])
def test_switches_of_integers(dtype):
    x = rectified(1, 6, 6, 2).astype(dtype)
    statics = {"window": (3, 3), "stride": (2, 2), "padding": ((1, 1), (1, 1))}
    y, switches = max_pool_with_switches(jnp.asarray(x), **statics)
    assert y.dtype == dtype
    np.testing.assert_array_equal(switches, switches_by_hand(x.astype(float), **statics))


@st.composite
def problems(draw):
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    axes = []
    for _ in range(rank):
        window = draw(st.integers(1, 3 if rank < 3 else 2))
        padding = draw(st.integers(0, window // 2))
        axes.append(
            (draw(st.integers(window, window + 5)), window, draw(st.integers(1, 3)), padding)
        )
    spatial, window, stride, padding = map(tuple, zip(*axes, strict=True))
    return (2, *spatial, 2), window, {"stride": stride, "padding": padding}


def compare_with_pytorch(torch, problem, jit):
    shape, window, statics = problem
    rank = len(window)
    x = rectified(*shape)
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    functional = torch.nn.functional
    theirs, positions = getattr(functional, f"max_pool{rank}d")(
        leaf, window, return_indices=True, **statics
    )
    expected_switches = oracles.channels_last(positions.numpy())
    # Windows that share a pixel share its value, so PyTorch's order of writing decides nothing.
    values = theirs.detach()
    unpooled = getattr(functional, f"max_unpool{rank}d")(
        values, positions, window, output_size=[2, 2, *shape[1:-1]], **statics
    )

    @jit
    def ours(x):
        y, pull_back, switches = jax.vjp(
            lambda x: max_pool_with_switches(x, window=window, **statics), x, has_aux=True
        )
        return y, switches, max_unpool(y, switches, shape[1:-1]), *pull_back(y + 1)

    with jax.enable_x64(True):
        y, switches, restored, gradient = ours(jnp.asarray(x))
    theirs.backward(values + 1)
    np.testing.assert_array_equal(y, oracles.channels_last(values.numpy()))
    np.testing.assert_array_equal(switches, expected_switches)
    np.testing.assert_array_equal(restored, oracles.channels_last(unpooled.numpy()))
    np.testing.assert_allclose(gradient, oracles.channels_last(leaf.grad.numpy()), rtol=1e-12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(problem=problems())
def test_switches_and_unpooling_are_pytorchs(torch, problem):
    compare_with_pytorch(torch, problem, jax.jit)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True)
@given(problem=problems())
def test_switches_and_unpooling_are_pytorchs_on_many_random_shapes(torch, problem):
    compare_with_pytorch(torch, problem, compile_cheaply)


@cases
def test_unpooling_keeps_the_maxima_in_place(case):
    shape, statics = case
    x = np.abs(random(*shape)).astype(np.float32) + 1
    y, switches = max_pool_with_switches(x, **statics)
    restored = np.asarray(max_unpool(y, switches, shape[1:-1]))
    won = np.zeros_like(x)
    for n, c in np.ndindex(shape[0], shape[-1]):
        won[n, ..., c].flat[np.unique(switches[n, ..., c])] = 1
    np.testing.assert_array_equal(restored, x * won)
    np.testing.assert_array_equal(max_pool(restored, **statics), y)


def test_last_of_several_values_for_one_pixel_is_kept_and_gets_the_gradient():
    y = jnp.array([[1.0], [2.0], [3.0], [4.0]])
    switches = jnp.array([[2], [0], [2], [2]])
    np.testing.assert_array_equal(max_unpool(y, switches, (3,))[:, 0], [2, 0, 4])
    gradient = jax.grad(lambda y: jnp.sum(max_unpool(y, switches, (3,)) ** 2))(y)
    np.testing.assert_array_equal(gradient[:, 0], [0, 4, 0, 8])


@cases
def test_gradient_is_that_of_max_pool(case):
    shape, statics = case
    x = jnp.asarray(rectified(*shape), jnp.float32)
    with_switches = jax.grad(lambda x: jnp.sum(max_pool_with_switches(x, **statics)[0] ** 2))
    np.testing.assert_allclose(
        with_switches(x), jax.grad(lambda x: jnp.sum(max_pool(x, **statics) ** 2))(x), rtol=1e-6
    )


def test_unpooling_is_linear_and_its_derivatives_are_finite_differences():
    x = rectified(2, 6, 6, 2)
    with jax.enable_x64(True):
        y, switches = max_pool_with_switches(x, window=3, stride=2)
        unpool = functools.partial(max_unpool, switches=switches, output_shape=(6, 6))
        check_grads(lambda y: unpool(y) ** 2, (jnp.asarray(y),), order=2, modes=("fwd", "rev"))


def test_positions_outside_the_output_are_dropped_where_they_cannot_be_told():
    y = jnp.array([[1.0], [2.0], [3.0]])
    switches = jnp.array([[-1], [1], [5]])
    out = jax.jit(max_unpool, static_argnums=2)(y, switches, (3,))
    np.testing.assert_array_equal(out[:, 0], [0, 2, 0])


MISTAKES = {
    "switches of another shape": (
        {"switches": jnp.zeros((2, 2, 2), jnp.int32)},
        ValueError,
        r"every value needs its switch, got y of shape \(2, 2, 1\) and switches of shape",
    ),
    "switches that are no integers": (
        {"switches": jnp.zeros((2, 2, 1))},
        TypeError,
        "switches must be integers, flat positions, got dtype float32",
    ),
    "too few axes": (
        {"output_shape": (2, 2, 2)},
        ValueError,
        r"output_shape \(2, 2, 2\) has 3 spatial axes, so y needs at least 4 axes",
    ),
    "no spatial axes": ({"output_shape": ()}, ValueError, r"has 0 spatial axes"),
    "one number for the output": (
        {"output_shape": 4},
        TypeError,
        "output_shape must hold the pixels of each spatial axis, got 4",
    ),
    "fractional output": (
        {"output_shape": (4.5, 2)},
        TypeError,
        "output_shape must be an integer, got 4.5",
    ),
    "switch beyond the output": (
        {"switches": jnp.full((2, 2, 1), 16)},
        ValueError,
        r"switches from 16 to 16 do not fit an output of shape \(4, 4\), whose .* are 0 to 15",
    ),
    "negative switch": (
        {"switches": jnp.full((2, 2, 1), -1)},
        ValueError,
        "switches from -1 to -1 do not fit",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told_before_anything_runs(arguments, error, message):
    arguments = {
        "y": jnp.ones((2, 2, 1)),
        "switches": jnp.zeros((2, 2, 1), jnp.int32),
        "output_shape": (4, 4),
    } | arguments
    with pytest.raises(error, match=f"^max_unpool: .*{message}"):
        max_unpool(**arguments)


def test_mistake_in_a_window_is_told_by_the_function_that_was_called():
    with pytest.raises(ValueError, match=r"^max_pool_with_switches: .*spanning 9"):
        max_pool_with_switches(jnp.ones((8, 8, 1)), window=9)
