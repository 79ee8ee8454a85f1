"""Laws of what changes colours and mixes images."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.data import ColorComponents, color_components, color_jitter, mixup, pca_lighting

GRID = 4096
COMPONENTS = ColorComponents(np.array([0.3, 0.1, 0.02]), np.linalg.qr(np.eye(3) + 0.3)[0])


def batch(shape=(7, 6, 5, 3), seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 256, shape), jnp.uint8)


def jitter(key, images):
    return color_jitter(key, images, brightness=0.4, contrast=0.6, saturation=0.8)


def light(key, images):
    return pca_lighting(key, images, COMPONENTS, std=0.4)


def mix(key, images):
    return mixup(key, images, jnp.eye(len(images)), alpha=0.7)[0]


FUNCTIONS = [jitter, light, mix]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_jit_gives_the_bits_of_eager_and_bytes_stay_bytes(function):
    images, key = batch(), jax.random.key(3)
    out = function(key, images)
    assert out.shape == images.shape
    assert out.dtype == jnp.uint8
    assert (out != images).any()
    assert jnp.array_equal(jax.jit(function)(key, images), out)


@pytest.mark.parametrize(
    "function", [light, *(pytest.param(f, marks=pytest.mark.slow) for f in (jitter, mix))]
)
def test_vmap_over_keys_gives_the_bits_of_a_loop(function):
    images = batch((4, 7, 6, 5, 3))
    keys = jax.random.split(jax.random.key(0), 4)
    expected = jnp.stack([function(k, x) for k, x in zip(keys, images, strict=True)])
    assert jnp.array_equal(jax.vmap(function)(keys, images), expected)


def slow_jitter(factors, images, strengths):
    """Byte by byte in exact whole numbers, a mean in 1/64 of a level."""

    def blended(f, x, other):
        return max(0, min(255, (f * x * 64 + (GRID - f) * other) // (GRID * 64)))

    def grey(pixel):
        return (
            pixel[0]
            if len(pixel) == 1
            else (2989 * pixel[0] + 5870 * pixel[1] + 1140 * pixel[2]) // 10_000
        )

    out = []
    for image, of_image in zip(images.astype(int), factors.tolist(), strict=True):
        pixels = [list(map(int, pixel)) for pixel in image.reshape(-1, image.shape[-1])]
        for kind, (f, strength) in enumerate(zip(of_image, strengths, strict=True)):
            if not strength:
                continue
            total = sum(grey(pixel) for pixel in pixels)
            mean = (64 * total + len(pixels) // 2) // len(pixels)
            others = [(0, mean, 64 * grey(pixel))[kind] for pixel in pixels]
            pixels = [
                [blended(f, x, other) for x in pixel]
                for pixel, other in zip(pixels, others, strict=True)
            ]
        out.append(np.reshape(pixels, image.shape))
    return np.array(out)


@settings(max_examples=6, deadline=None)
@given(
    st.sampled_from([(0.25, 0.5, 1.0), (0.0, 1.0, 0.3)]),
    st.sampled_from([(3, 4, 5, 3), (2, 5, 5, 1)]),
    st.integers(0, 1000),
)
def test_jitter_equals_slow_loop(strengths, shape, seed):
    images, key = batch(shape, seed), jax.random.key(seed)
    spread = jnp.asarray([[round(GRID * s) for s in strengths]])
    factors = jax.random.randint(key, (shape[0], 3), GRID - spread, GRID + spread + 1)
    names = ("brightness", "contrast", "saturation")
    out = color_jitter(key, images, **dict(zip(names, strengths, strict=True)))
    expected = slow_jitter(np.asarray(factors), np.asarray(images), strengths)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_each_change_is_that_of_torchvision(name):
    _, torch = torchvision_oracle.load()
    functional = importlib.import_module("torchvision.transforms.functional")
    images, key = batch((6, 8, 8, 3)), jax.random.key(1)
    column = ("brightness", "contrast", "saturation").index(name)
    spread = np.zeros((1, 3), int)
    spread[0, column] = GRID // 2
    factors = jax.random.randint(key, (6, 3), GRID - spread, GRID + spread + 1)[:, column] / GRID
    ours = np.asarray(color_jitter(key, images, **{name: 0.5}), int)
    adjust = getattr(functional, f"adjust_{name}")
    for image, factor, got in zip(images, factors, ours, strict=True):
        theirs = adjust(torch.tensor(np.asarray(image)).permute(2, 0, 1), float(factor))
        # Theirs are cut to bytes in float32, which may lie below a whole number.
        assert np.abs(theirs.permute(1, 2, 0).numpy().astype(int) - got).max() <= 1


def test_factors_reach_all_strengths_equally_often():
    grey = jnp.full((4000, 1, 1, 1), 100, jnp.uint8)
    levels = np.asarray(color_jitter(jax.random.key(0), grey, brightness=0.5), float).ravel()
    # Uniform on 50 to 150, cut to whole levels.
    assert levels.min() == 50
    assert levels.max() >= 149
    assert abs(levels.mean() - 99.5) < 5 * 100 / 12**0.5 / 4000**0.5


def test_components_are_those_of_double_precision():
    rng = np.random.default_rng(0)
    images = np.clip(rng.normal(120, 30, (9, 6, 6, 1)) + rng.normal(0, 9, (9, 6, 6, 3)), 0, 255)
    images = images.astype(np.uint8)
    std, directions = color_components(images)
    _, singular, rows = np.linalg.svd(
        (images.reshape(-1, 3) - images.reshape(-1, 3).mean(0)) / 255, full_matrices=False
    )
    np.testing.assert_allclose(std, singular / len(images.reshape(-1, 3)) ** 0.5, rtol=1e-9)
    np.testing.assert_allclose(np.abs((directions * rows).sum(-1)), 1, rtol=1e-9)
    assert (directions[np.arange(3), np.abs(directions).argmax(1)] > 0).all()


def test_lighting_adds_one_colour_to_all_pixels_of_an_image():
    key, images = jax.random.key(4), batch((5, 3, 3, 3)) // 2 + 64
    draw = np.asarray(jax.random.normal(key, (5, 3)), np.float64)
    out = np.asarray(pca_lighting(key, images, COMPONENTS, std=0.1), int)
    for image, got, a in zip(np.asarray(images, int), out, draw, strict=True):
        colour = sum(
            255 * 0.1 * a[k] * COMPONENTS.std[k] ** 2 * COMPONENTS.directions[k] for k in range(3)
        )
        np.testing.assert_array_equal(got, image + np.round(colour).astype(int))


def test_lighting_is_that_of_the_published_constants():
    # fb.resnet.torch: eigenvalues of ImageNet's colours on [0, 1], eigenvectors in columns, and
    # rgb = sum over k of eigenvector[:, k] * alpha[k] * eigenvalue[k].
    eigenvalues = np.array([0.2175, 0.0188, 0.0045])
    eigenvectors = np.array(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    )
    key, images = jax.random.key(11), jnp.full((40, 1, 1, 3), 128, jnp.uint8)
    alpha = 0.1 * np.asarray(jax.random.normal(key, (40, 3)), np.float64)
    expected = 128 + np.round(255 * (alpha * eigenvalues) @ eigenvectors.T)
    components = ColorComponents(np.sqrt(eigenvalues), eigenvectors.T)
    got = np.asarray(pca_lighting(key, images, components, std=0.1), float)[:, 0, 0]
    np.testing.assert_array_equal(got, expected)
    assert 2 < np.abs(got - 128).mean() < 4


def test_lighting_that_leaves_the_bytes_is_clipped():
    images = jnp.asarray([[[[0] * 3, [255] * 3]]] * 50, jnp.uint8)
    out = np.asarray(light(jax.random.key(0), images), int)
    assert (out[..., 0, :] == 0).any()
    assert (out[..., 1, :] == 255).any()
    assert out[..., 0, :].max() < 200
    assert out[..., 1, :].min() > 55


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_mixes_images_and_targets_with_the_same_partner_and_share(alpha):
    images, targets = batch((6, 3, 3, 2)), jnp.eye(6)
    shares = []
    for seed in range(20):
        mixed, labels = mixup(jax.random.key(seed), images, targets, alpha=alpha)
        labels = np.asarray(labels, np.float64)
        np.testing.assert_array_equal(labels.sum(-1), 1)
        # The targets tell partner and share: images must have been mixed by them.
        partners = [int(np.argmax(np.where(np.eye(6)[i], -1, row))) for i, row in enumerate(labels)]
        for i, partner in enumerate(partners):
            other = partner if labels[i, partner] else i
            share = labels[i, i] if other != i else 1.0
            wanted = share * np.float64(images[i]) + (1 - share) * np.float64(images[other])
            np.testing.assert_array_equal(mixed[i], np.floor(wanted + 0.5))
            if other != i:
                shares.append(share)
                assert labels[i, other] == 1 - share
        of_batch = {row[i] for i, row in enumerate(labels) if row[i] < 1}
        assert len(of_batch) <= 1
    spread = np.std(shares)
    # Beta(a, a): a standard deviation of 1 / (2 sqrt(2 a + 1)): 0.42 and 0.29.
    assert 0.5 / (2 * alpha + 1) ** 0.5 == pytest.approx(spread, rel=0.35)


def test_mixing_floating_images_is_the_weighted_mean():
    images = jax.random.normal(jax.random.key(0), (4, 2, 2, 3))
    mixed, labels = mixup(jax.random.key(3), images, jnp.eye(4), alpha=1.0)
    expected = np.tensordot(np.float64(labels), np.float64(images), axes=1)
    np.testing.assert_allclose(mixed, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"color_jitter: images must be a batch", lambda k: jitter(k, batch()[0])),
        (TypeError, r"color_jitter: images must be uint8, got float32",
         lambda k: jitter(k, batch() / 255)),
        (ValueError, r"color_jitter: images must have one channel or three",
         lambda k: jitter(k, batch()[..., :2])),
        (ValueError, r"color_jitter: contrast must be in \[0, 1\], got -0.1",
         lambda k: color_jitter(k, batch(), contrast=-0.1)),
        (TypeError, r"color_components: images must be uint8",
         lambda k: color_components(np.zeros((2, 2, 3)))),
        (ValueError, r"color_components: images must hold at least one pixel",
         lambda k: color_components(np.zeros((0, 2, 2, 3), np.uint8))),
        (ValueError, r"pca_lighting: components must be of the 1 channels of the images",
         lambda k: light(k, batch()[..., :1])),
        (ValueError, r"pca_lighting: std must be 0 or more, got -1",
         lambda k: pca_lighting(k, batch(), COMPONENTS, std=-1)),
        (TypeError, r"mixup: targets must be probabilities, floating, got int32",
         lambda k: mixup(k, batch(), jnp.arange(7), alpha=1.0)),
        (ValueError, r"mixup: targets must be \(N, num_classes\), one row for each of the 7",
         lambda k: mixup(k, batch(), jnp.eye(6), alpha=1.0)),
        (ValueError, r"mixup: alpha must be above 0, got 0",
         lambda k: mixup(k, batch(), jnp.eye(7), alpha=0)),
        (TypeError, r"mixup: images must be uint8 or floating, got int32",
         lambda k: mixup(k, batch().astype(jnp.int32), jnp.eye(7), alpha=1.0)),
    ],
)  # fmt: skip
def test_bad_arguments_are_named(error, message, call):
    with pytest.raises(error, match=message):
        call(jax.random.key(0))
