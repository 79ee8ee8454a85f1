"""Local response normalisation against NumPy loops, PyTorch and the formulas of its sources."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cnnjax.ops import LRN_PRESETS, local_response_norm, local_response_norm_within_channel

PAPER = LRN_PRESETS["alexnet"]
each_beta = pytest.mark.parametrize("beta", [0.5, 0.75, 1.0, 0.6, 2.0])


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def value_and_gradient(function, x, cotangent):
    out, pullback = jax.vjp(function, x)
    return out, *pullback(cotangent)


# ---- oracles ----


@each_beta
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 11, 70])
def test_across_channels_is_the_numpy_loops(size, beta):
    x = random(2, 3, 7)
    statics = {"alpha": 0.7, "beta": beta, "k": 1.5}
    with jax.enable_x64(True):
        both = [
            local_response_norm(jnp.asarray(x), size=size, alpha_over=over, **statics)
            for over in ("sum", "mean")
        ]
    for out, weight in zip(both, (0.7, 0.7 / size), strict=True):
        expected = oracles.response_norm_loops(
            x, window=(size,), weight=weight, beta=beta, k=1.5, axes=(2,)
        )
        assert out.dtype == np.float64
        np.testing.assert_allclose(out, expected, rtol=1e-14)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((2, 6, 3), (3,)),
        ((5, 6, 2), (3, 3)),
        ((2, 4, 3, 2), (2, 5)),
        ((2, 1, 3, 4, 3, 1), (3, 2, 1)),
    ],
    ids=["1d", "2d_no_batch_axis", "2d_even_and_larger_than_the_image", "3d_two_batch_axes"],
)
def test_within_a_channel_is_the_numpy_loops(shape, window):
    x = random(*shape)
    with jax.enable_x64(True):
        out = local_response_norm_within_channel(
            jnp.asarray(x), window=window, alpha=0.7, beta=0.75, k=1.5
        )
    first = len(shape) - 1 - len(window)
    expected = oracles.response_norm_loops(
        x,
        window=window,
        weight=0.7 / np.prod(window),
        beta=0.75,
        k=1.5,
        axes=range(first, len(shape) - 1),
    )
    np.testing.assert_allclose(out, expected, rtol=1e-14)


# Few shapes and sizes, so that few programs are compiled; the numbers are drawn for each case.
SHAPES = [(2, 5, 3), (1, 2, 3, 4), (2, 1, 2, 1, 6)]


@functools.partial(jax.jit, static_argnames=("size", "beta"))
def ours(x, cotangent, *, size, beta):
    def function(x):
        return local_response_norm(x, size=size, alpha=0.3, beta=beta, k=1.25, alpha_over="mean")

    return value_and_gradient(function, x, cotangent)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    shape=st.sampled_from(SHAPES),
    size=st.sampled_from([1, 2, 3, 4, 5, 8]),
    beta=st.sampled_from([0.75, 0.6]),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    seed=st.integers(0, 2**16),
)
def test_value_and_gradient_are_pytorchs(torch, shape, size, beta, scale, seed):
    x, cotangent = scale * random(*shape, seed=seed), random(*shape, seed=seed + 1)
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    theirs = torch.nn.functional.local_response_norm(leaf, size, alpha=0.3, beta=beta, k=1.25)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))
    with jax.enable_x64(True):
        out, gradient = ours(jnp.asarray(x), jnp.asarray(cotangent), size=size, beta=beta)
    for our, their in ((out, theirs.detach()), (gradient, leaf.grad)):
        np.testing.assert_allclose(
            our, oracles.channels_last(their.numpy()), rtol=1e-12, atol=1e-13
        )


# ---- presets and worked examples ----


def test_preset_of_the_alexnet_paper_is_its_formula():
    # Krizhevsky et al. 2012, section 3.3: k = 2, n = 5, alpha = 1e-4, beta = 0.75, the sum over
    # max(0, i - n/2) to min(N - 1, i + n/2).
    x = 100 * random(8)
    expected = [
        x[i] / (2 + 1e-4 * sum(x[max(0, i - 2) : min(7, i + 2) + 1] ** 2)) ** 0.75 for i in range(8)
    ]
    with jax.enable_x64(True):
        out = local_response_norm(jnp.asarray(x), **LRN_PRESETS["alexnet"])
    np.testing.assert_allclose(out, expected, rtol=1e-14)


def test_defaults_are_those_of_the_alexnet_paper():
    x = jnp.asarray(100 * random(3, 8), jnp.float32)
    np.testing.assert_array_equal(
        local_response_norm(x, alpha_over="sum"), local_response_norm(x, **PAPER)
    )


def test_preset_of_caffe_is_its_recurrence():
    # lrn_layer.cpp of BVLC/caffe, across channels, defaults of caffe.proto: local_size 5, alpha
    # 1, beta 0.75, k 1; the scale of a channel is that before it, one square in, one out.
    x = random(9)
    squares = np.pad(x**2, 2)
    scale = [1 + squares[:5].sum() / 5]
    for c in range(1, 9):
        scale.append(scale[-1] + (squares[c + 4] - squares[c - 1]) / 5)
    with jax.enable_x64(True):
        out = local_response_norm(jnp.asarray(x), **LRN_PRESETS["caffe"])
    np.testing.assert_allclose(out, x * np.array(scale) ** -0.75, rtol=1e-13)


def test_preset_of_pytorch_is_its_default_at_any_size(torch):
    x = 100 * random(2, 3, 7)
    leaf = torch.tensor(oracles.channels_first(x))
    for size in (2, 5):
        with jax.enable_x64(True):
            out = local_response_norm(jnp.asarray(x), **LRN_PRESETS["pytorch"], size=size)
        expected = torch.nn.LocalResponseNorm(size)(leaf).numpy()
        np.testing.assert_allclose(out, oracles.channels_last(expected), rtol=1e-13)


def test_preset_of_tensorflow_is_its_documented_formula():
    # tf.nn.local_response_normalization: depth_radius 5, bias 1, alpha 1, beta 0.5;
    # sqr_sum[d] = sum(input[d - depth_radius : d + depth_radius + 1] ** 2),
    # output = input / (bias + alpha * sqr_sum) ** beta
    x = random(14)
    sqr_sum = np.array([np.sum(x[max(d - 5, 0) : d + 5 + 1] ** 2) for d in range(14)])
    with jax.enable_x64(True):
        out = local_response_norm(jnp.asarray(x), **LRN_PRESETS["tensorflow"])
    np.testing.assert_allclose(out, x / (1 + sqr_sum) ** 0.5, rtol=1e-14)


@pytest.mark.parametrize("name", LRN_PRESETS)
def test_preset_can_be_overridden(name):
    x = jnp.asarray(random(2, 6), jnp.float32)
    one = local_response_norm(x, **(LRN_PRESETS[name] | {"size": 1, "alpha": 3.0, "beta": 1.0}))
    np.testing.assert_allclose(one, x / (LRN_PRESETS[name]["k"] + 3 * x**2), rtol=1e-6)


def test_within_a_channel_of_caffe_divides_by_the_whole_window_at_the_border():
    # lrn_layer.cpp, WITHIN_CHANNEL: average pooling with pad (n - 1) / 2, whose pool size counts
    # the padding, then (1 + alpha * mean)^-beta with Caffe's defaults alpha 1 and beta 0.75.
    x = random(4, 4)
    energy = np.pad(x**2, 1)[:3, :3].sum() / 9
    with jax.enable_x64(True):
        out = local_response_norm_within_channel(jnp.asarray(x)[..., None], window=3)
    np.testing.assert_allclose(out[0, 0, 0], x[0, 0] * (1 + energy) ** -0.75, rtol=1e-14)


# ---- laws ----


def test_even_size_looks_one_channel_further_back():
    x = jnp.asarray([0.0, 0.0, 1.0, 0.0, 0.0]) + 1e-3
    out = local_response_norm(x, size=2, alpha=1.0, beta=1.0, k=1.0, alpha_over="sum")
    seen = np.flatnonzero(out < 0.9e-3)
    # The large value is channel 2: it weighs on itself and on channel 3, which looks back at it.
    np.testing.assert_array_equal(seen, [3])


def test_the_mean_is_the_sum_with_alpha_divided_by_the_size():
    x = jnp.asarray(random(4, 9), jnp.float32)
    np.testing.assert_array_equal(
        local_response_norm(x, size=5, alpha=0.5, alpha_over="mean"),
        local_response_norm(x, size=5, alpha=0.5 / 5, alpha_over="sum"),
    )


def test_alpha_of_zero_only_divides_by_the_power_of_k():
    x = jnp.asarray(random(4, 9), jnp.float32)
    out = local_response_norm(x, alpha=0.0, beta=0.5, k=4.0, alpha_over="sum")
    np.testing.assert_array_equal(out, x / 2)


@pytest.mark.parametrize("beta", [0.75, 0.6])
def test_derivatives_are_finite_differences_to_second_order_in_both_modes(beta):
    function = functools.partial(
        local_response_norm, size=4, alpha=0.7, beta=beta, k=1.5, alpha_over="sum"
    )
    with jax.enable_x64(True):
        check_grads(jax.jit(function), (jnp.asarray(random(2, 5)),), order=2, modes=("fwd", "rev"))


@each_beta
def test_derivatives_at_zero_are_finite_to_second_order(beta):
    def loss(x):
        return jnp.sum(local_response_norm(x, beta=beta, alpha_over="sum") ** 2)

    x = jnp.zeros((6,))
    assert jnp.isfinite(jax.grad(loss)(x)).all()
    np.testing.assert_allclose(jax.hessian(loss)(x), 2 * 4.0**-beta * np.eye(6), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_value_and_gradient_are_exact_to_the_last_places_of_the_dtype(dtype):
    # At the paper's settings and at the largest activations: float16 squares of 300 overflow.
    x = jnp.asarray(300 * random(64, 16), dtype)
    cotangent = jnp.asarray(random(64, 16, seed=1), dtype)
    function = functools.partial(local_response_norm, **PAPER)
    ours = jax.jit(functools.partial(value_and_gradient, function))(x, cotangent)
    with jax.enable_x64(True):
        exact = value_and_gradient(
            function, jnp.asarray(np.float64(x)), jnp.asarray(np.float64(cotangent))
        )
    for our, their in zip(ours, exact, strict=True):
        assert our.dtype == dtype
        eps, scale = float(jnp.finfo(dtype).eps), np.abs(their).max()
        np.testing.assert_allclose(np.float64(our), their, rtol=4 * eps, atol=1e-6 * scale)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_the_windows_that_see_them(value):
    x = np.ones((3, 9), np.float32)
    x[1, 4] = value
    out = local_response_norm(jnp.asarray(x), size=3, alpha_over="sum")
    with np.errstate(invalid="ignore"):
        expected = oracles.response_norm_loops(
            x, window=(3,), weight=1e-4, beta=0.75, k=2.0, axes=(1,)
        )
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    assert np.isnan(out[1, 4])
    assert np.isfinite(np.delete(out, 4, 1)).all() or np.isnan(value)


def test_gradient_of_values_whose_squares_overflow_is_finite():
    x = jnp.full((4,), 1e30)
    gradient = jax.grad(lambda x: jnp.sum(local_response_norm(x, alpha_over="sum")))(x)
    np.testing.assert_array_equal(gradient, jnp.zeros(4))


# ---- mistakes ----

MISTAKES = {
    "alpha over nothing known": (
        {"alpha_over": "size"},
        ValueError,
        r'alpha_over must be "sum" \(AlexNet\'s paper, TensorFlow\) or "mean" .*, got \'size\'',
    ),
    "size of zero": ({"size": 0}, ValueError, "size must be at least 1, got 0"),
    "fractional size": ({"size": 2.5}, TypeError, r"size must be an integer, got 2\.5"),
    "integers": (
        {"x": jnp.ones((4, 2), jnp.uint8)},
        TypeError,
        r"x has dtype uint8; cast to a floating dtype first, .*astype",
    ),
    "no channels": ({"x": jnp.ones(())}, ValueError, r"x needs an axis of channels, .* got \(\)"),
    "negative alpha": ({"alpha": -1.0}, ValueError, r"alpha must be at least 0, got -1\.0"),
    "alpha as an array": ({"alpha": jnp.ones(2)}, TypeError, r"alpha must be a number, got "),
    "infinite beta": ({"beta": float("inf")}, ValueError, "beta must be finite, got inf"),
    "k of zero": ({"k": 0.0}, ValueError, r"k must be above 0, got 0\.0; .* divides by zero"),
    "bool k": ({"k": True}, TypeError, "k must be a number, got True"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told_before_tracing(arguments, error, message):
    arguments = {"x": jnp.ones((4, 2)), "alpha_over": "sum"} | arguments
    with pytest.raises(error, match=f"^local_response_norm: {message}"):
        local_response_norm(arguments.pop("x"), **arguments)


WITHIN_MISTAKES = {
    "too few axes": (
        {"x": jnp.ones((4, 2))},
        ValueError,
        r"window \(3, 3\) slides over 2 spatial axes, so x needs at least 3 axes",
    ),
    "window of zero": ({"window": (3, 0)}, ValueError, "window must be at least 1, got 0"),
    "integers": ({"x": jnp.ones((4, 4, 2), jnp.int32)}, TypeError, "x has dtype int32; cast to"),
    "k of zero": ({"k": 0}, ValueError, "k must be above 0, got 0"),
}


@pytest.mark.parametrize(
    ("arguments", "error", "message"), WITHIN_MISTAKES.values(), ids=WITHIN_MISTAKES
)
def test_mistake_within_a_channel_is_told_before_tracing(arguments, error, message):
    arguments = {"x": jnp.ones((4, 4, 2)), "window": 3} | arguments
    with pytest.raises(error, match=f"^local_response_norm_within_channel: {message}"):
        local_response_norm_within_channel(arguments.pop("x"), **arguments)


def test_alpha_over_has_no_default():
    with pytest.raises(TypeError, match="alpha_over"):
        local_response_norm(jnp.ones(4))
