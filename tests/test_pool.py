"""Pooling against NumPy loops, PyTorch, and the laws every operation keeps."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from compiling import compile_cheaply
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.test_util import check_grads

from cnnjax import analysis
from cnnjax.ops import (
    avg_pool,
    conv,
    global_avg_pool,
    global_max_pool,
    l2_pool,
    max_pool,
    max_pool_with_switches,
)


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def distinct(*shape, seed=0):
    """No ties, and gaps far wider than the steps of a finite difference."""
    values = np.random.default_rng([seed, *shape]).permutation(np.prod(shape))
    return values.reshape(shape).astype(float)


def rectified(*shape, seed=0):
    """Small integers after a ReLU: every other window holds ties."""
    return np.maximum(np.random.default_rng([seed, *shape]).integers(-3, 3, shape), 0.0)


# (shape of x, window, stride, (low, high) pairs, fit); channels are the last axis of x.
CASES = {
    "1d": ((2, 9, 2), (3,), (2,), ((0, 0),), "floor"),
    "1d_no_batch_axis": ((8, 1), (3,), (1,), ((1, 1),), "exact"),
    "2d_touching": ((2, 6, 4, 2), (2, 2), (2, 2), ((0, 0), (0, 0)), "exact"),
    "2d_overlapping_ceil": ((1, 6, 6, 2), (3, 3), (2, 2), ((0, 0), (0, 0)), "ceil"),
    "2d_unseen_pixels": ((1, 7, 8, 1), (2, 3), (3, 3), ((0, 0), (0, 0)), "floor"),
    "2d_padded": ((1, 5, 6, 2), (3, 2), (2, 1), ((1, 1), (0, 1)), "floor"),
    "2d_padded_ceil": ((1, 6, 5, 1), (3, 3), (2, 3), ((1, 0), (1, 1)), "ceil"),
    "2d_smaller_than_the_window": ((1, 2, 1, 1), (3, 3), (1, 1), ((1, 1), (2, 2)), "floor"),
    "2d_two_batch_axes": ((2, 3, 4, 4, 1), (2, 2), (1, 1), ((0, 0), (0, 0)), "floor"),
    "3d": ((1, 4, 3, 5, 2), (2, 2, 3), (2, 1, 2), ((1, 0), (0, 0), (1, 1)), "floor"),
    "3d_two_batch_axes": ((2, 1, 3, 3, 3, 1), (2, 2, 2), (2, 2, 2), ((0, 0),) * 3, "ceil"),
}
cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
# Compiling is what takes the time: laws that hold case by case alike see two unlike cases.
few_cases = pytest.mark.parametrize(
    "case", [CASES["2d_padded_ceil"], CASES["1d"]], ids=["2d", "1d"]
)
POOLS = {
    "max_pool": (max_pool, oracles.largest),
    "avg_pool": (avg_pool, oracles.mean_of_seen),
    "avg_pool_counting_padding": (
        functools.partial(avg_pool, count_padding=True),
        oracles.mean_of_counted,
    ),
    "l2_pool": (l2_pool, oracles.root_of_squares),
}
each_pool = pytest.mark.parametrize("name", POOLS)


def call(name, case):
    _, window, stride, padding, fit = case
    return functools.partial(POOLS[name][0], window=window, stride=stride, padding=padding, fit=fit)


# ---- oracles ----


@each_pool
@cases
def test_pool_is_the_numpy_loops(name, case):
    shape, window, stride, padding, fit = case
    x = random(*shape)
    with jax.enable_x64(True):
        out = call(name, case)(jnp.asarray(x))
        assert out.dtype == jnp.float64
    expected = oracles.pool_loops(
        x, POOLS[name][1], window=window, stride=stride, padding=padding, fit=fit
    )
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-13)


@few_cases
@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, np.bool_])
def test_max_pool_of_integers_is_exact_at_the_ends_of_the_dtype(case, dtype):
    shape, window, stride, padding, fit = case
    ends = [False, True] if dtype == np.bool_ else [np.iinfo(dtype).min, np.iinfo(dtype).max, 0]
    x = np.random.default_rng(0).choice(np.array(ends, dtype), shape)
    out = call("max_pool", case)(jnp.asarray(x))
    assert out.dtype == dtype
    expected = oracles.pool_loops(
        x, oracles.largest, window=window, stride=stride, padding=padding, fit=fit
    )
    np.testing.assert_array_equal(out, expected)


@st.composite
def problems(draw):
    """Shapes and statics that PyTorch takes: symmetric padding of at most half the window."""
    axes = []
    rank = draw(st.sampled_from([1, 2, 2, 3]))
    for _ in range(rank):
        window = draw(st.integers(1, 4 if rank < 3 else 3))
        padding = draw(st.integers(0, window // 2))
        # avg_pool3d refuses windows larger than the input before padding.
        size = draw(st.integers(window, window + 6))
        axes.append((size, window, draw(st.integers(1, 4)), padding))
    spatial, window, stride, padding = map(tuple, zip(*axes, strict=True))
    statics = {"stride": stride, "padding": padding}
    return (2, *spatial, 2), window, statics, draw(st.sampled_from(["floor", "ceil"]))


POOLS_OF_PYTORCH = {
    "max_pool": ("max_pool", {}),
    "avg_pool": ("avg_pool", {"count_include_pad": False}),
    "avg_pool_counting_padding": ("avg_pool", {"count_include_pad": True}),
}
# lp_pool knows no padding, and its gradient at zero is NaN: see the tests of l2_pool.


def compare_with_pytorch(torch, name, problem, jit):
    shape, window, statics, fit = problem
    x = rectified(*shape)
    their_name, options = POOLS_OF_PYTORCH[name]
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    theirs = getattr(torch.nn.functional, f"{their_name}{len(window)}d")(
        leaf, window, ceil_mode=fit == "ceil", **statics, **options
    )
    expected = oracles.channels_last(theirs.detach().numpy())
    cotangent = random(*expected.shape)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))

    @jit
    def out_and_gradient(x, cotangent):
        out, pullback = jax.vjp(
            functools.partial(POOLS[name][0], window=window, fit=fit, **statics), x
        )
        return out, *pullback(cotangent)

    with jax.enable_x64(True):
        out, gradient = out_and_gradient(jnp.asarray(x), jnp.asarray(cotangent))
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        gradient, oracles.channels_last(leaf.grad.numpy()), rtol=1e-12, atol=1e-12
    )


@settings(max_examples=25, deadline=None, derandomize=True)
@given(name=st.sampled_from(list(POOLS_OF_PYTORCH)), problem=problems())
def test_pool_and_its_gradient_are_pytorchs_ties_included(torch, name, problem):
    compare_with_pytorch(torch, name, problem, jax.jit)


@pytest.mark.slow
@settings(max_examples=150, deadline=None, derandomize=True)
@given(name=st.sampled_from(list(POOLS_OF_PYTORCH)), problem=problems())
def test_pool_and_its_gradient_are_pytorchs_on_many_random_shapes(torch, name, problem):
    compare_with_pytorch(torch, name, problem, compile_cheaply)


# ---- laws ----


@given(
    value=st.sampled_from([0.0, 1.0, -3.0, 0.5]),
    size=st.integers(1, 9),
    window=st.integers(1, 5),
    stride=st.integers(1, 4),
    fit=st.sampled_from(["floor", "ceil"]),
    data=st.data(),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_avg_pool_of_constant_is_constant(value, size, window, stride, fit, data):
    below_window = st.integers(0, window - 1)
    low, high = data.draw(below_window), data.draw(below_window)
    if size + low + high < window:
        return
    x = jnp.full((size, 1), value)
    out = avg_pool(x, window=(window,), stride=stride, padding=[(low, high)], fit=fit)
    np.testing.assert_array_equal(out, jnp.full(out.shape, value))


@each_pool
@few_cases
def test_jit_equals_eager(name, case):
    x, function = rectified(*case[0]).astype(np.float32), call(name, case)
    # Not bit for bit: under jit XLA divides by a constant count through its reciprocal.
    rtol = 0 if name == "max_pool" else 2e-7
    np.testing.assert_allclose(jax.jit(function)(x), function(x), rtol=rtol)


@each_pool
@few_cases
def test_gradient_under_jit_equals_eager(name, case):
    x = rectified(*case[0]).astype(np.float32)
    gradient = jax.grad(lambda x: jnp.sum(call(name, case)(x) ** 2))
    np.testing.assert_allclose(jax.jit(gradient)(x), gradient(x), rtol=1e-6)


@each_pool
@few_cases
def test_vmap_equals_the_batch(name, case):
    x = rectified(*case[0]).astype(np.float32)
    images = jnp.stack([x, 2 * x, -x])
    function = call(name, case)
    np.testing.assert_array_equal(jax.vmap(function)(images), function(images))


@each_pool
def test_vmap_of_gradients_equals_one_after_another(name):
    function = call(name, CASES["2d_padded_ceil"])
    images = jnp.stack([rectified(1, 6, 5, 1, seed=i).astype(np.float32) for i in range(3)])
    gradient = jax.grad(lambda x: jnp.sum(function(x) ** 2))
    np.testing.assert_allclose(
        jax.vmap(gradient)(images), jnp.stack([gradient(x) for x in images]), rtol=1e-6
    )


@pytest.mark.slow
@each_pool
def test_derivatives_are_finite_differences_to_second_order_in_both_modes(name):
    shape = (1, 4, 5, 1)
    case = (shape, (3, 2), (2, 1), ((1, 0), (1, 1)), "ceil")
    with jax.enable_x64(True):
        # The square gives the second derivative something to find.
        check_grads(
            jax.jit(lambda x: call(name, case)(x) ** 2),
            (jnp.asarray(distinct(*shape)),),
            order=2,
            modes=("fwd", "rev"),
        )


@pytest.mark.parametrize(("fit", "hanging"), [("floor", 1), ("ceil", 2)])
@pytest.mark.parametrize("make", [distinct, rectified], ids=["distinct", "tied"])
def test_max_pool_and_its_gradient_are_those_of_xlas_reduce_window(fit, hanging, make):
    x = jnp.asarray(make(2, 11, 9, 2), jnp.float32)

    def ours(x):
        return max_pool(x, window=(4, 3), stride=(3, 2), padding=((1, 2), (0, 1)), fit=fit)

    def xlas(x):
        padding = ((0, 0), (1, 2), (0, hanging), (0, 0))
        return lax.reduce_window(x, -np.inf, lax.max, (1, 4, 3, 1), (1, 3, 2, 1), padding)

    for function in (lambda f: jax.jit(f)(x), lambda f: jax.grad(lambda x: jnp.sum(f(x) ** 2))(x)):
        np.testing.assert_array_equal(function(ours), function(xlas))


@pytest.mark.parametrize("window", [(8, 8), (60,)], ids=["8x8", "60"])
def test_large_window_is_the_numpy_loops(window):
    rank = len(window)
    x = random(*(window[0] + 2,) * rank, 1).astype(np.float32)
    out = max_pool(jnp.asarray(x), window=window, stride=2, padding=1)
    expected = oracles.pool_loops(
        x, oracles.largest, window=window, stride=(2,) * rank, padding=((1, 1),) * rank
    )
    np.testing.assert_array_equal(out, expected)


def test_gradient_of_a_large_window_under_jit_is_one_at_its_maximum():
    x = distinct(10, 10, 1).astype(np.float32)
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, window=10))))(x)
    np.testing.assert_array_equal(gradient, x == x.max())


@pytest.mark.parametrize("window", [2, 8])
def test_gradient_of_a_max_that_is_nan_goes_to_the_nan(window):
    # As in PyTorch.
    x = np.ones((window, window, 1), np.float32)
    x[0, 1] = np.nan
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, window=window)))(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, np.isnan(x))


def test_gradient_of_a_max_over_minus_infinities_stays_in_the_input():
    # PyTorch's padding never wins a tie either.
    x = jnp.full((2, 2, 1), -jnp.inf)
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, window=2, stride=2, padding=1)))(x)
    np.testing.assert_array_equal(gradient, jnp.ones_like(x))


def test_gradient_of_tied_maxima_goes_to_the_first_in_row_major_order():
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, window=2)))(jnp.zeros((4, 4, 1)))
    expected = np.zeros((4, 4, 1))
    expected[::2, ::2] = 1
    np.testing.assert_array_equal(gradient, expected)


@each_pool
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_the_windows_that_see_them_as_in_numpy(name, value):
    case = CASES["2d_padded"]
    shape, window, stride, padding, fit = case
    x = random(*shape).astype(np.float32)
    x[0, 2, 3, 0] = value
    expected = oracles.pool_loops(
        x, POOLS[name][1], window=window, stride=stride, padding=padding, fit=fit
    )
    np.testing.assert_allclose(call(name, case)(jnp.asarray(x)), expected, rtol=1e-6)


def test_large_window_passes_nan_on():
    x = jnp.zeros((9, 9, 1)).at[4, 4, 0].set(jnp.nan)
    assert jnp.isnan(max_pool(x, window=8, stride=1)).all()


@each_pool
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_through_value_and_gradient(name, dtype):
    case = CASES["2d_padded_ceil"]
    x = jnp.asarray(rectified(*case[0]), dtype)
    out, pullback = jax.vjp(call(name, case), x)
    (gradient,) = pullback(jnp.ones_like(out))
    assert out.dtype == gradient.dtype == dtype
    exact = call(name, case)(x.astype(jnp.float32))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=4 * eps, atol=0)


@each_pool
@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_empty_batch_gives_an_empty_batch(name, batch):
    out = POOLS[name][0](jnp.zeros((*batch, 6, 6, 2)), window=3, stride=2)
    assert out.shape == (*batch, 2, 2, 2)


@each_pool
def test_stride_is_the_window_by_default(name):
    x = jnp.asarray(random(6, 9, 2), jnp.float32)
    np.testing.assert_array_equal(
        POOLS[name][0](x, window=(2, 3)), POOLS[name][0](x, window=(2, 3), stride=(2, 3))
    )


@each_pool
def test_bare_window_means_two_axes(name):
    x = jnp.asarray(random(3, 6, 6, 2), jnp.float32)
    np.testing.assert_array_equal(POOLS[name][0](x, window=2), POOLS[name][0](x, window=(2, 2)))


def test_pooling_2x2_by_2_halves_the_sides_and_keeps_a_quarter():
    # CS231n notes: 224x224x64 becomes 112x112x64, 25 % of the activations.
    x = jax.ShapeDtypeStruct((224, 224, 64), jnp.float32)
    out = jax.eval_shape(functools.partial(max_pool, window=2), x)
    assert out.shape == (112, 112, 64)
    assert 4 * out.size == x.size


@pytest.mark.parametrize("padding", ["VALID", "SAME", "FULL"])
@each_pool
def test_padding_by_name_is_its_pairs(name, padding):
    pairs = {"VALID": (0, 0), "SAME": (1, 1), "FULL": (2, 2)}[padding]
    x = jnp.asarray(random(5, 5, 1), jnp.float32)
    np.testing.assert_array_equal(
        POOLS[name][0](x, window=3, stride=1, padding=padding),
        POOLS[name][0](x, window=3, stride=1, padding=(pairs, pairs)),
    )


# ---- the L2 norm ----


@pytest.mark.parametrize(
    ("window", "stride", "fit"), [(2, 2, "floor"), (3, 2, "ceil"), (3, 1, "floor")]
)
def test_l2_pool_and_its_gradient_are_pytorchs_where_no_window_is_all_zeros(
    torch, window, stride, fit
):
    x = random(2, 7, 8, 2)
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    theirs = torch.nn.functional.lp_pool2d(leaf, 2, window, stride, ceil_mode=fit == "ceil")
    theirs.sum().backward()
    pool = functools.partial(l2_pool, window=window, stride=stride, fit=fit)
    with jax.enable_x64(True):
        out, gradient = pool(jnp.asarray(x)), jax.grad(lambda x: jnp.sum(pool(x)))(jnp.asarray(x))
    inside = slice(None) if fit == "floor" else slice(0, -1)
    # Over the end PyTorch scales the windows that hang over by the pixels that they miss.
    np.testing.assert_allclose(
        out[:, inside, inside],
        oracles.channels_last(theirs.detach().numpy())[:, inside, inside],
        rtol=1e-12,
    )
    if fit == "floor":
        np.testing.assert_allclose(gradient, oracles.channels_last(leaf.grad.numpy()), rtol=1e-12)


def test_gradient_of_l2_pool_is_zero_where_a_window_is_all_zeros():
    x = jnp.zeros((4, 4, 1)).at[0, 0, 0].set(3.0).at[0, 1, 0].set(4.0)
    gradient = jax.grad(lambda x: jnp.sum(l2_pool(x, window=2)))(x)
    expected = np.zeros((4, 4, 1))
    expected[0, :2, 0] = [0.6, 0.8]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)
    second = jax.grad(lambda x: jnp.sum(jax.grad(lambda x: jnp.sum(l2_pool(x, window=2)))(x)))(x)
    assert jnp.isfinite(second).all()


def test_l2_pool_is_homogeneous_and_between_the_maximum_and_its_multiple():
    x = jnp.asarray(random(2, 9, 9, 3), jnp.float32)
    pool = functools.partial(l2_pool, window=3, stride=2)
    np.testing.assert_allclose(pool(-4 * x), 4 * pool(x), rtol=1e-6)
    largest = max_pool(jnp.abs(x), window=3, stride=2)
    assert (pool(x) >= largest * (1 - 1e-6)).all()
    assert (pool(x) <= 3 * largest * (1 + 1e-6)).all()


# ---- pixels of a window spaced apart ----

# (shape of x, window, stride, (low, high) pairs, dilation, fit)
DILATED = {
    "1d": ((2, 11, 2), (3,), (2,), ((2, 1),), (2,), "floor"),
    "2d": ((2, 7, 8, 2), (2, 3), (1, 2), ((0, 0), (3, 2)), (4, 3), "floor"),
    "2d_ceil": ((1, 13, 12, 2), (3, 2), (4, 6), ((0, 0), (1, 3)), (6, 4), "ceil"),
}
each_dilated = pytest.mark.parametrize("case", DILATED.values(), ids=DILATED)


def dilated_loops(x, reduce, *, window, stride, padding, dilation, fit):
    """`reduce(pixels, num_counted)` of each window, its taps visited one by one."""
    rank = len(window)
    batch, spatial = x.shape[: -rank - 1], x.shape[-rank - 1 : -1]
    starts = [
        oracles.window_starts(size, w, s, low, high, d, fit)
        for size, w, s, (low, high), d in zip(
            spatial, window, stride, padding, dilation, strict=True
        )
    ]
    out = np.zeros((*batch, *map(len, starts), x.shape[-1]))
    for position in np.ndindex(*out.shape):
        index, place = position[: len(batch)], position[len(batch) : -1]
        pixels, num_counted = [], 0
        for tap in np.ndindex(*window):
            pixel = [starts[a][place[a]] + tap[a] * dilation[a] for a in range(rank)]
            if all(0 <= p < size for p, size in zip(pixel, spatial, strict=True)):
                pixels.append(x[(*index, *pixel, position[-1])])
            num_counted += all(
                -low <= p < size + high
                for p, size, (low, high) in zip(pixel, spatial, padding, strict=True)
            )
        out[position] = reduce(np.array(pixels), num_counted)
    return out


@each_pool
@each_dilated
def test_dilated_pool_is_the_numpy_loops(name, case):
    shape, *statics = case
    arguments = dict(zip(("window", "stride", "padding", "dilation", "fit"), statics, strict=True))
    x = random(*shape)
    function, reduce = POOLS[name]
    with jax.enable_x64(True):
        out = function(jnp.asarray(x), **arguments)
    expected = dilated_loops(x, reduce, **arguments)
    np.testing.assert_allclose(out, expected, rtol=1e-13, atol=1e-13)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    window=st.tuples(st.integers(1, 3), st.integers(2, 5)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    dilation=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    extra=st.tuples(st.integers(2, 6), st.integers(2, 6)),
    padded=st.booleans(),
    channels=st.sampled_from([1, 2]),
)
def test_dilated_max_pool_its_switches_and_gradient_are_pytorchs_ties_included(
    torch, window, stride, dilation, extra, padded, channels
):
    spans = [d * (w - 1) + 1 for w, d in zip(window, dilation, strict=True)]
    sizes = [span + more for span, more in zip(spans, extra, strict=True)]
    padding = tuple(w // 2 if padded else 0 for w in window)
    x = rectified(2, *sizes, channels)
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    theirs, places = torch.nn.functional.max_pool2d(
        leaf, window, stride, padding, dilation, return_indices=True
    )
    expected = oracles.channels_last(theirs.detach().numpy())
    cotangent = random(*expected.shape)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))
    arguments = {"window": window, "stride": stride, "padding": padding, "dilation": dilation}
    with jax.enable_x64(True):
        out, pull_back = jax.vjp(functools.partial(max_pool, **arguments), jnp.asarray(x))
        (gradient,) = pull_back(jnp.asarray(cotangent))
        _, switches = max_pool_with_switches(jnp.asarray(x), **arguments)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(switches, oracles.channels_last(places.numpy()))
    np.testing.assert_allclose(gradient, oracles.channels_last(leaf.grad.numpy()), atol=1e-12)


def test_max_pool_at_the_stride_of_its_dilation_is_the_pool_of_one_phase():
    x = jnp.asarray(random(2, 12, 9, 2), jnp.float32)
    out = max_pool(x, window=2, stride=3, dilation=3)
    np.testing.assert_array_equal(out, max_pool(x[:, ::3, ::3], window=2, stride=1))


@each_pool
def test_traced_field_of_a_dilated_window_counts_its_span(name):
    # d (k - 1) + 1 (Araujo et al., 2019): 2 (3 - 1) + 1 = 5, behind a 3x3 at stride 2.
    def network(x):
        x = conv(x, jnp.ones((3, 3, 1, 2)), stride=2)
        return POOLS[name][0](x, window=3, stride=2, dilation=2)

    costs = analysis.account(network, (33, 41, 1))
    seen = costs.rows[-1].receptive_field
    assert (seen.size, seen.stride) == ((3 + 4 * 2, 3 + 4 * 2), (4, 4))
    assert costs.rows[-1].dilation == (2, 2)


@pytest.mark.parametrize("function", [max_pool, avg_pool, l2_pool])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dilation": 0}, ValueError, ": dilation must be at least 1, got 0"),
        ({"dilation": (1, 1, 1)}, ValueError, r": dilation has 3 values .* for 2 spatial axes"),
        ({"dilation": 8}, ValueError, r": .*spanning 9 \(window 2, dilation 8\) is larger than"),
        (
            {"x": jnp.ones((1, 8, 1)), "dilation": 2, "padding": 1, "stride": 1},
            ValueError,
            r": a window of \(2, 2\) pixels, \(2, 2\) apart, .* steps over all of the \(1, 8\)",
        ),
    ],
)
def test_dilation_that_cannot_be_is_told(function, arguments, error, message):
    arguments = {"x": jnp.ones((8, 8, 2)), "window": 2} | arguments
    with pytest.raises(error, match=f"^{function.__name__}{message}"):
        function(arguments.pop("x"), **arguments)


# ---- the whole image ----

GLOBAL = {
    "global_max_pool": (global_max_pool, np.max),
    "global_avg_pool": (global_avg_pool, np.mean),
}
each_global = pytest.mark.parametrize("name", GLOBAL)


@each_global
@pytest.mark.parametrize(
    ("shape", "rank"), [((5, 3), 1), ((4, 5, 3), 2), ((2, 3, 4, 5, 2), 2), ((2, 3, 2, 4, 2), 3)]
)
def test_global_pool_is_numpys_reduction(name, shape, rank):
    function, reduce = GLOBAL[name]
    x = random(*shape)
    with jax.enable_x64(True):
        out = function(jnp.asarray(x), num_spatial_axes=rank)
    expected = reduce(x, axis=tuple(range(-rank - 1, -1)))
    # The order of a sum is the processor's, and a mean of values of either sign may all but cancel:
    # its rounding is of the size of the values.
    np.testing.assert_allclose(out, expected, rtol=1e-14, atol=1e-15)


@each_global
def test_global_pool_is_the_pool_of_a_window_as_large_as_the_image(name):
    pool = {"global_max_pool": max_pool, "global_avg_pool": avg_pool}[name]
    x = jnp.asarray(rectified(2, 5, 6, 3), jnp.float32)

    def value_and_gradient(function):
        return jax.value_and_grad(lambda x: jnp.sum(function(x).reshape(2, 3) ** 2))(x)

    ours = value_and_gradient(GLOBAL[name][0])
    theirs = value_and_gradient(functools.partial(pool, window=(5, 6)))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@each_global
def test_global_pool_has_derivatives_of_finite_differences(name):
    with jax.enable_x64(True):
        x = jnp.asarray(distinct(2, 3, 3, 1))
        check_grads(lambda x: GLOBAL[name][0](x) ** 2, (x,), order=2, modes=("fwd", "rev"))


@each_global
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": jnp.ones((4, 3))}, ValueError, r"2 spatial axes and the channels need at least 3"),
        ({"x": jnp.ones((0, 4, 3))}, ValueError, r"an image of shape \(0, 4\) has no pixels"),
        ({"num_spatial_axes": 0}, ValueError, "num_spatial_axes must be at least 1, got 0"),
        ({"num_spatial_axes": 2.0}, TypeError, "num_spatial_axes must be an integer, got 2.0"),
    ],
)
def test_global_pool_refuses_what_it_cannot_reduce(name, arguments, error, message):
    arguments = {"x": jnp.ones((4, 4, 3))} | arguments
    with pytest.raises(error, match=f"^{name}: {message}"):
        GLOBAL[name][0](arguments.pop("x"), **arguments)


@pytest.mark.parametrize(
    "mean", [global_avg_pool, functools.partial(avg_pool, window=40)], ids=["global", "window"]
)
def test_mean_in_bfloat16_is_added_up_in_float32(mean):
    # Added up in bfloat16 the sum of ones would stop at 256.
    x = jnp.ones((40, 40, 1), jnp.bfloat16)
    np.testing.assert_array_equal(mean(x).astype(jnp.float32), 1.0)


# ---- mistakes ----

MISTAKES = {
    "too few axes": (
        {"x": jnp.ones((8, 2))},
        ValueError,
        r": window \(2, 2\) slides over 2 spatial axes, so x needs at least 3 axes .*got .*8, 2\)",
    ),
    "bool window": ({"window": True}, TypeError, r": window must be an integer, got True"),
    "window of zero": ({"window": (2, 0)}, ValueError, r": window must be at least 1, got 0"),
    "fractional stride": ({"stride": 1.5}, TypeError, r": stride must be an integer, got 1.5"),
    "stride of zero": ({"stride": 0}, ValueError, r": stride must be at least 1, got 0"),
    "stride for another rank": (
        {"stride": (1, 1, 1)},
        ValueError,
        r": stride has 3 values \(1, 1, 1\) for 2 spatial axes; give one integer or 2 of them",
    ),
    "window too large": (
        {"window": 9},
        ValueError,
        r": .*spanning 9 .* is larger than the padded input of 8 \+ 0 \+ 0 = 8 pixels",
    ),
    "padding of a whole window": (
        {"padding": 2},
        ValueError,
        r": padding \(\(2, 2\), \(2, 2\)\) must stay below the window \(2, 2\) .*only padding",
    ),
    "padding of a whole window on one side": (
        {"padding": ((0, 0), (0, 2))},
        ValueError,
        r": padding .* must stay below the window \(2, 2\) on every axis",
    ),
    "negative padding": ({"padding": -1}, ValueError, r": padding: padding must be at least 0"),
    "padding by an unknown name": (
        {"padding": "REFLECT"},
        ValueError,
        r": padding: unknown name 'REFLECT'; use one of \('VALID', 'SAME', 'FULL'\)",
    ),
    "padding for another rank": (
        {"padding": (0, 0, 0)},
        ValueError,
        r": padding has 3 entries \(0, 0, 0\) for 2 spatial axes",
    ),
    "no padding given": ({"padding": None}, TypeError, r": padding"),
    "windows that do not tile": (
        {"window": 3, "fit": "exact"},
        ValueError,
        r": .*spanning 3 at stride 3 does not tile 8 pixels",
    ),
    "unknown fit": (
        {"fit": "round"},
        ValueError,
        r": .*fit must be one of \('exact', 'floor', 'ceil'\), got 'round'",
    ),
}


@pytest.mark.parametrize("function", [max_pool, avg_pool, l2_pool])
@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told_by_the_function_that_was_called(function, arguments, error, message):
    arguments = {"x": jnp.ones((8, 8, 2)), "window": 2} | arguments
    with pytest.raises(error, match=f"^{function.__name__}{message}"):
        function(arguments.pop("x"), **arguments)


@pytest.mark.parametrize("dtype", [jnp.uint8, jnp.int32, jnp.bool_])
@pytest.mark.parametrize("function", [avg_pool, l2_pool, global_avg_pool])
def test_mean_of_integers_is_refused_and_says_what_to_write(function, dtype):
    message = r"x has dtype .*floored; cast to a floating dtype first, .*astype"
    options = {} if function is global_avg_pool else {"window": 2}
    with pytest.raises(TypeError, match=f"^{function.__name__}: {message}"):
        function(jnp.ones((4, 4, 1), dtype), **options)


@pytest.mark.parametrize("function", [max_pool, avg_pool])
def test_statics_are_keyword_only(function):
    with pytest.raises(TypeError, match="positional"):
        function(jnp.ones((4, 4, 1)), 2)
