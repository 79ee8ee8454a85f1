"""Blurred pooling against a loop over pixels, PyTorch's depthwise convolution, and its laws."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import channels_first, channels_last, window_starts

from cnnjax import analysis, ops, pattern
from cnnjax.ops import avg_pool, blur_pool, max_pool

# Pascal's triangle, written down.
ROWS = {
    1: [1],
    2: [1, 1],
    3: [1, 2, 1],
    4: [1, 3, 3, 1],
    5: [1, 4, 6, 4, 1],
    6: [1, 5, 10, 10, 5, 1],
    7: [1, 6, 15, 20, 15, 6, 1],
}


def random(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


def loops(x, window, stride, padding, fit="floor"):
    """The weighted mean of the pixels seen, one product at a time; one image, no batch."""
    spatial = x.shape[:-1]
    starts = [
        window_starts(size, w, s, low, high, fit=fit)
        for size, w, s, (low, high) in zip(spatial, window, stride, padding, strict=True)
    ]
    out = np.zeros((*map(len, starts), x.shape[-1]))
    for place in np.ndindex(*out.shape):
        total = weights = 0.0
        for tap in itertools.product(*map(range, window)):
            pixel = [s[u] + t for s, u, t in zip(starts, place, tap, strict=False)]
            if all(0 <= p < size for p, size in zip(pixel, spatial, strict=True)):
                weight = math.prod(ROWS[w][t] for w, t in zip(window, tap, strict=True))
                total += weight * x[(*pixel, place[-1])]
                weights += weight
        out[place] = total / weights
    return out


@pytest.mark.parametrize(
    ("shape", "window", "stride", "padding", "fit"),
    [
        ((9, 2), (3,), (2,), ((1, 1),), "floor"),
        ((6, 7, 2), (3, 4), (2, 3), ((1, 1), (1, 2)), "floor"),
        ((6, 5, 1), (2, 5), (3, 2), ((0, 0), (2, 0)), "ceil"),
        ((2, 3, 1), (7, 6), (1, 1), ((3, 3), (2, 3)), "floor"),
        ((4, 3, 5, 1), (2, 3, 1), (2, 1, 2), ((0, 1), (1, 1), (0, 0)), "floor"),
    ],
)
def test_blur_pool_is_the_loop_over_pixels(shape, window, stride, padding, fit):
    x = random(*shape)
    with jax.enable_x64(True):
        ours = blur_pool(jnp.asarray(x), window=window, stride=stride, padding=padding, fit=fit)
    np.testing.assert_allclose(ours, loops(x, window, stride, padding, fit), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize(("window", "size"), [(2, 9), (3, 8), (3, 9), (4, 10), (5, 9), (7, 12)])
def test_blur_pool_is_a_depthwise_convolution_of_pytorch_over_that_of_ones(window, size):
    torch = pytest.importorskip("torch")
    x, row = random(2, size, size + 1, 3), np.array(ROWS[window], float)
    kernel = torch.tensor(np.outer(row, row) / row.sum() ** 2).expand(3, 1, -1, -1)
    low, high = (window - 1) // 2, math.ceil((window - 1) / 2)

    def blurred(array, mode):
        padded = torch.nn.functional.pad(array, (low, high, low, high), mode=mode)
        return torch.nn.functional.conv2d(padded, kernel, stride=2, groups=3)

    image = torch.tensor(channels_first(x))
    weighed = blurred(image, "constant") / blurred(torch.ones_like(image), "constant")
    with jax.enable_x64(True):
        ours = np.asarray(blur_pool(jnp.asarray(x), window=window))
    assert ours.shape == (2, math.ceil(size / 2), math.ceil((size + 1) / 2), 3)
    np.testing.assert_allclose(ours, channels_last(weighed.numpy()), rtol=1e-12, atol=1e-13)
    # The published code reflects at the borders: the same where no border is seen.
    reflected = channels_last(blurred(image, "reflect").numpy())
    inner = slice(math.ceil(low / 2), (size - 1 - high) // 2 + 1)
    assert ours[:, inner, inner].size
    np.testing.assert_allclose(ours[:, inner, inner], reflected[:, inner, inner], atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.integers(4, 9), st.integers(1, 7), st.integers(1, 3))
def test_blur_pool_of_a_constant_is_constant_at_a_ceiling_of_positions(size, window, stride):
    out = blur_pool(jnp.full((size, 2), 3.0), window=(window,), stride=stride)
    assert out.shape == (math.ceil(size / stride), 2)
    np.testing.assert_allclose(out, 3.0, rtol=1e-6)


def test_blur_pool_is_linear():
    x, y = (jnp.asarray(random(2, 7, 6, 3) + shift, jnp.float32) for shift in (0, 1))
    whole = blur_pool(2 * x - 3 * y)
    np.testing.assert_allclose(whole, 2 * blur_pool(x) - 3 * blur_pool(y), rtol=1e-5, atol=1e-5)


def test_blur_pool_of_two_pixels_is_avg_pool():
    x = jnp.asarray(random(2, 6, 7, 3), jnp.float32)
    ours = blur_pool(x, window=2, stride=2, padding="VALID")
    np.testing.assert_allclose(ours, avg_pool(x, window=2), atol=1e-6)


def test_blur_pool_of_a_sign_that_alternates_is_nothing():
    # The highest frequency is what a step of two would alias to a constant.
    x = jnp.tile(jnp.array([1.0, -1.0]), 5)[:, None]
    assert blur_pool(x, window=(3,), padding="VALID").tolist() == [[0.0]] * 4
    assert blur_pool(x, window=(1,))[:, 0].tolist() == [1.0] * 5


def test_anti_aliased_max_pool_of_a_step_moves_by_quarters():
    # Solved by hand: the dense maximum is 0 0 1 1 1 1 1, and 0 0 0 1 1 1 1 a pixel later.
    edge = jnp.array([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0])[:, None]
    later = jnp.concatenate([edge[:1], edge[:-1]])
    for x, expected in ((edge, [0, 0.75, 1, 1]), (later, [0, 0.25, 1, 1])):
        dense = max_pool(x, window=(2,), stride=1)
        np.testing.assert_allclose(blur_pool(dense, window=(3,))[:, 0], expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: blur_pool(x.astype(jnp.int32)), TypeError, "blur_pool: x has dtype int32"),
        (lambda x: blur_pool(x, window=0), ValueError, "blur_pool: window must be at least 1"),
        (lambda x: blur_pool(x, stride=0), ValueError, "blur_pool: stride must be at least 1"),
        (lambda x: blur_pool(x, padding=3), ValueError, r"blur_pool: padding .* must stay below"),
        (lambda x: blur_pool(x, window=(3, 3, 3)), ValueError, "slides over 3 spatial axes"),
        (lambda x: blur_pool(x, fit="exact"), ValueError, "does not tile 6 pixels padded by"),
    ],
)
def test_what_blur_pool_cannot_take_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.ones((6, 6, 3)))


def test_blur_pool_is_a_row_with_its_windows():
    costs = analysis.account(lambda x: blur_pool(x, window=5), (10, 12, 3))
    (row,) = costs.rows
    assert (row.operation, row.output_shape) == ("blur_pool", (5, 6, 3))
    assert (row.window, row.stride, row.padding) == ((5, 5), (2, 2), ((2, 2), (2, 2)))
    assert row.macs == row.parameters == 0
    assert row.receptive_field.size == (5, 5)


# ---- as a layer of a pattern ----


def test_blurpool_is_a_pooling_of_the_layer_patterns():
    text = "INPUT[9x8x2] -> POOL2/1 -> BLURPOOL3/2[padding=1, fit=floor]"
    net = pattern.parse(text)
    assert str(net) == text
    assert pattern.parse("input[9x8x2] -> blurpool2").items[1].kind == "blur"
    assert pattern.volumes(net)[-1].shape == (4, 4, 2)
    x = jnp.asarray(random(3, 9, 8, 2), jnp.float32)
    expected = ops.blur_pool(ops.max_pool(x, window=2, stride=1))
    np.testing.assert_array_equal(pattern.to_module(net).apply({}, x), expected)


def test_a_blurpool_is_linear_and_wide_ones_lose_little():
    def rules(pool):
        text = f"INPUT[32x32x3] -> CONV3-8 -> {pool} -> CONV3-8 -> RELU -> FC-10"
        return {advice.rule for advice in pattern.check(pattern.parse(text))}

    assert rules("BLURPOOL5/2[padding=((2, 1), (2, 1))]") == {"linear", "small_field"}
    assert rules("POOL5/2[padding=((2, 1), (2, 1))]") == {"pool_window", "small_field"}
