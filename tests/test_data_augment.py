"""Laws of augmentation and normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cnnjax.data import (
    alternating_flip,
    channel_statistics,
    cutout,
    normalize,
    random_flip,
    random_shift_crop,
)

DTYPES = [jnp.uint8, jnp.int32, jnp.bfloat16, jnp.float32]


def batch(dtype=jnp.uint8, shape=(7, 6, 5, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape), dtype)


def flip(key, images):
    return random_flip(key, images)


def crop(key, images):
    return random_shift_crop(key, images, pad=2)


def crop_reflect(key, images):
    return random_shift_crop(key, images, pad=2, mode="reflect")


def alternate(key, images):
    return alternating_flip(key, images, indices=jnp.arange(len(images)), epoch=1)


def cut(key, images):
    return cutout(key, images, size=3, fill=[1, 2, 3])


FUNCTIONS = [flip, crop, crop_reflect, alternate, cut]


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_jit_gives_the_bits_of_eager_and_keeps_shape_and_dtype(function, dtype):
    images, key = batch(dtype), jax.random.key(3)
    out = function(key, images)
    assert out.shape == images.shape
    assert out.dtype == images.dtype
    assert jnp.array_equal(jax.jit(function)(key, images), out)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_vmap_over_keys_gives_the_bits_of_a_loop(function):
    images = batch(shape=(4, 7, 6, 5, 3))
    keys = jax.random.split(jax.random.key(0), 4)
    expected = jnp.stack([function(k, x) for k, x in zip(keys, images, strict=True)])
    assert jnp.array_equal(jax.vmap(function)(keys, images), expected)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_draws_do_not_depend_on_pixels_or_dtype(function):
    key, images = jax.random.key(5), batch()
    as_float = function(key, images.astype(jnp.float32))
    assert jnp.array_equal(as_float, function(key, images).astype(jnp.float32))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_empty_batch_stays_empty(function):
    assert function(jax.random.key(0), batch()[:0]).shape == (0, 6, 5, 3)


def test_flipping_twice_with_one_key_is_identity():
    images, key = batch(), jax.random.key(1)
    assert not jnp.array_equal(random_flip(key, images), images)
    assert jnp.array_equal(random_flip(key, random_flip(key, images)), images)


def test_each_image_is_mirrored_or_left_alone_about_equally_often():
    images = batch(shape=(1, 4, 4, 3))
    many = jnp.broadcast_to(images, (2000, 4, 4, 3))
    out = np.asarray(random_flip(jax.random.key(0), many))
    flipped = (out == np.asarray(images[:, :, ::-1])).all((1, 2, 3))
    kept = (out == np.asarray(images)).all((1, 2, 3))
    assert (flipped ^ kept).all()
    # Binomial(2000, 1/2): standard deviation 22.4.
    assert abs(int(flipped.sum()) - 1000) < 5 * 22.4


def test_two_epochs_in_a_row_show_both_sides_of_each_image_and_the_third_the_first_again():
    images, indices, key = batch(), jnp.array([5, 1, 9, 0, 3, 7, 4]), jax.random.key(2)
    first, second, third = (
        alternating_flip(key, images, indices=indices, epoch=epoch) for epoch in (3, 4, 5)
    )
    assert jnp.array_equal(first, second[:, :, ::-1])
    assert jnp.array_equal(first, third)
    changed = np.asarray((first != images).any((1, 2, 3)))
    assert changed.any()
    assert not changed.all()


def test_which_side_comes_first_depends_on_the_image_and_the_key_wherever_it_stands():
    one, key = batch(shape=(1, 4, 4, 3)), jax.random.key(0)
    many, indices = jnp.broadcast_to(one, (2000, 4, 4, 3)), jnp.arange(2000)
    out = alternating_flip(key, many, indices=indices, epoch=0)
    flipped = np.asarray((out != one).any((1, 2, 3)))
    # Binomial(2000, 1/2): standard deviation 22.4.
    assert abs(int(flipped.sum()) - 1000) < 5 * 22.4
    order = np.random.default_rng(0).permutation(2000)
    shuffled = alternating_flip(key, many, indices=jnp.asarray(order), epoch=0)
    np.testing.assert_array_equal((shuffled != one).any((1, 2, 3)), flipped[order])
    other = alternating_flip(jax.random.key(1), many, indices=indices, epoch=0)
    assert (other != out).any()


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([0, 1, 4, 9]),
    st.sampled_from([(3, 5, 4, 2), (2, 3, 6, 1)]),
    st.integers(0, 1000),
)
def test_cutout_equals_slow_loop(size, shape, seed):
    images, key = np.asarray(batch(shape=shape, seed=seed)), jax.random.key(seed)
    num, height, width, channels = shape
    fill = np.arange(channels) + 7
    high = jnp.array([[height, width]])
    centres = np.asarray(jax.random.randint(key, (num, 2), 0, high))
    expected = images.copy()
    for n, (row, column) in enumerate(centres):
        for y in range(row - size // 2, row - size // 2 + size):
            for x in range(column - size // 2, column - size // 2 + size):
                if 0 <= y < height and 0 <= x < width:
                    expected[n, y, x] = fill
    out = cutout(key, jnp.asarray(images), size=size, fill=fill)
    np.testing.assert_array_equal(out, expected)


def test_the_centre_of_a_cutout_reaches_every_pixel_equally_often():
    many = jnp.ones((5000, 5, 5, 1), jnp.uint8)
    counts = np.asarray(1 - cutout(jax.random.key(0), many, size=1), np.int64).sum(0)[..., 0]
    assert counts.sum() == 5000
    # Binomial(5000, 1/25): mean 200, standard deviation 13.9.
    assert np.abs(counts - 200).max() < 5 * 13.9


def slow_shift_crop(key, images, pad, mode):
    offsets = np.asarray(jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1))
    out = np.zeros(images.shape, images.dtype)
    size = images.shape[1:3]
    for n, y, x in np.ndindex(*images.shape[:3]):
        source = [y + offsets[n, 0] - pad, x + offsets[n, 1] - pad]
        if mode == "reflect":
            source = [
                abs(i) if i < length else 2 * (length - 1) - i
                for i, length in zip(source, size, strict=True)
            ]
        if all(0 <= i < length for i, length in zip(source, size, strict=True)):
            out[n, y, x] = images[n, source[0], source[1]]
    return out


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 4),
    st.sampled_from(["constant", "reflect"]),
    st.tuples(st.integers(1, 4), st.integers(5, 7), st.integers(5, 6), st.integers(1, 3)),
    st.integers(0, 1000),
)
def test_crop_equals_slow_loop(pad, mode, shape, seed):
    images, key = np.asarray(batch(shape=shape, seed=seed)), jax.random.key(seed)
    out = random_shift_crop(key, jnp.asarray(images), pad=pad, mode=mode)
    np.testing.assert_array_equal(out, slow_shift_crop(key, images, pad, mode))


def test_crop_with_no_padding_is_identity():
    images = batch()
    assert jnp.array_equal(random_shift_crop(jax.random.key(0), images, pad=0), images)


def test_crop_reaches_every_offset_equally_often():
    # One bright pixel in the middle says where the crop was taken.
    image = jnp.zeros((1, 5, 5, 1), jnp.uint8).at[0, 2, 2, 0].set(1)
    many = jnp.broadcast_to(image, (5000, 5, 5, 1))
    out = random_shift_crop(jax.random.key(0), many, pad=2)
    counts = np.asarray(out, np.int64).sum(0)[..., 0]
    assert counts.sum() == 5000
    # Binomial(5000, 1/25): mean 200, standard deviation 13.9.
    assert np.abs(counts - 200).max() < 5 * 13.9


def test_crop_in_a_loop_body_gives_the_bits_of_eager():
    images, keys = batch(), jax.random.split(jax.random.key(0), 3)
    looped = jax.jit(
        lambda x: jax.lax.fori_loop(0, 3, lambda i, x: random_shift_crop(keys[i], x, pad=2), x)
    )(images)
    expected = images
    for key in keys:
        expected = random_shift_crop(key, expected, pad=2)
    assert jnp.array_equal(looped, expected)


def test_normalize_gives_mean_zero_and_deviation_one():
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3)).astype(np.uint8)
    out = np.asarray(normalize(images, *channel_statistics(images)))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(out.std((0, 1, 2)), 1, atol=1e-6)


def test_normalize_equals_formula_and_jit_gives_the_bits_of_eager():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=-1)
    mean, std = np.array([0.1307, 0.5, 0.0]), np.array([0.3081, 0.25, 1.0])
    expected = (images / 255 - mean) / std
    out = normalize(images, mean, std)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=2e-7)
    assert jnp.array_equal(jax.jit(normalize)(images, mean, std), out)
    assert jnp.array_equal(jax.jit(lambda x: normalize(x, mean, std))(images), out)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3))))
def test_statistics_equal_those_of_double_precision(images):
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1)), rtol=1e-13)
    np.testing.assert_allclose(std, (images / 255).std((0, 1)), rtol=1e-12, atol=1e-14)


def test_statistics_are_exact_where_floating_sums_are_not():
    constant = np.full((40, 100, 100, 1), 77, np.uint8)
    assert channel_statistics(constant).std.tolist() == [0.0]
    assert channel_statistics(constant).mean.tolist() == [77 / 255]


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"random_flip: images must be a batch \(N, H, W, C\), got shape \(4, 4, 1\)",
         lambda k: random_flip(k, jnp.zeros((4, 4, 1)))),
        (ValueError, r"random_shift_crop: images must be a batch",
         lambda k: random_shift_crop(k, jnp.zeros((4, 4)), pad=1)),
        (ValueError, r"pad must be 0 or more, got -1",
         lambda k: random_shift_crop(k, batch(), pad=-1)),
        (TypeError, r"pad must be one integer for every side, got \(1, 2\)",
         lambda k: random_shift_crop(k, batch(), pad=(1, 2))),
        (ValueError, r"mode must be one of .* got 'edge'",
         lambda k: random_shift_crop(k, batch(), pad=1, mode="edge")),
        (ValueError, r"mode='reflect' needs pad below .* height 6 and width 5, got 5",
         lambda k: random_shift_crop(k, batch(), pad=5, mode="reflect")),
        (ValueError, r"alternating_flip: indices must be one for each .* 7 images, got .*\(3,\)",
         lambda k: alternating_flip(k, batch(), indices=jnp.arange(3), epoch=0)),
        (ValueError, r"cutout: size must be 0 or more, got -1",
         lambda k: cutout(k, batch(), size=-1)),
        (TypeError, r"cutout: size must be an integer, got 1.5",
         lambda k: cutout(k, batch(), size=1.5)),
        (ValueError, r"cutout: fill must be one value or one for each of the 3 channels",
         lambda k: cutout(k, batch(), size=1, fill=[1, 2])),
        (TypeError, r"normalize: images must be uint8, got float32",
         lambda k: normalize(batch(jnp.float32), [0.0] * 3, [1.0] * 3)),
        (ValueError, r"normalize: mean must have one value .* got shape \(1,\)",
         lambda k: normalize(batch(), [0.0], [1.0] * 3)),
        (ValueError, r"normalize: std must be above zero",
         lambda k: normalize(batch(), [0.0] * 3, [1.0, 0.0, 1.0])),
        (TypeError, r"channel_statistics: images must be uint8, got float32",
         lambda k: channel_statistics(np.zeros((2, 2, 1), np.float32))),
        (ValueError, r"channel_statistics: images must hold at least one pixel",
         lambda k: channel_statistics(np.zeros((0, 2, 2, 1), np.uint8))),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
