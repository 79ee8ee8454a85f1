"""Whitening of patches against loops, its law, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import ops
from cnnjax.data import patch_whitening


def images(shape=(7, 6, 5, 3), seed=0):
    """Neighbouring pixels and channels that are correlated, as in photographs."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(shape)
    return noise + 2 * np.roll(noise, 1, axis=1) + np.roll(noise, 1, axis=2).sum(-1, keepdims=True)


def moments(kernel, x):
    """Mean products of the outputs of two filters each."""
    y = np.asarray(ops.conv(jnp.asarray(x, jnp.float32), jnp.asarray(kernel)))
    y = y.reshape(-1, y.shape[-1]).astype(np.float64)
    return y.T @ y / len(y)


@pytest.mark.parametrize("window", [1, 2, 3])
def test_whitened_patches_are_uncorrelated_and_of_variance_one(window):
    x = images((400, 8, 8, 3))
    half = 3 * window * window
    kernel = patch_whitening(x, window=window, epsilon=0.0)
    assert kernel.shape == (window, window, 3, 2 * half)
    assert kernel.dtype == np.float32
    np.testing.assert_allclose(moments(kernel[..., :half], x), np.eye(half), atol=2e-4)


def test_the_second_half_is_the_negative_of_the_first():
    kernel = patch_whitening(images(), window=2)
    np.testing.assert_array_equal(kernel[..., 12:], -kernel[..., :12])


def test_filters_are_scaled_eigenvectors_of_the_patches_second_moments():
    x, window, epsilon = images(), 2, 0.3
    total, count = np.zeros((12, 12)), 0
    for image in x:
        for i in range(6 - 1):
            for j in range(5 - 1):
                patch = image[i : i + 2, j : j + 2, :].ravel()
                total, count = total + np.outer(patch, patch), count + 1
    kernel = patch_whitening(x, window=window, epsilon=epsilon)
    filters = kernel[..., :12].reshape(12, 12).astype(np.float64)
    lengths = np.linalg.norm(filters, axis=0)
    eigenvalues = 1 / lengths**2 - epsilon
    np.testing.assert_allclose(total / count @ filters, filters * eigenvalues, rtol=1e-4, atol=1e-4)
    assert (np.diff(eigenvalues) < 0).all()
    assert (np.take_along_axis(filters, np.abs(filters).argmax(0)[None], axis=0) > 0).all()


def test_an_epsilon_shrinks_what_hardly_varies():
    x = images((300, 6, 6, 3))
    variances = 1 / (patch_whitening(x, window=1, epsilon=0.0)[0, 0, :, :3] ** 2).sum(0)
    shrunk = moments(patch_whitening(x, window=1, epsilon=0.5)[..., :3], x)
    np.testing.assert_allclose(np.diag(shrunk), variances / (variances + 0.5), rtol=1e-4)


def test_many_images_are_the_mean_of_their_parts():
    """The images are read in parts; all of one part twice is that part."""
    x = images((600, 4, 4, 2))
    np.testing.assert_allclose(
        patch_whitening(np.concatenate([x, x]), window=2), patch_whitening(x, window=2), rtol=1e-4,
        atol=1e-5,
    )  # fmt: skip


def test_arrays_on_the_device_give_the_same():
    x = images().astype(np.float32)
    np.testing.assert_array_equal(
        patch_whitening(jax.device_put(x), window=2), patch_whitening(x, window=2)
    )


@pytest.mark.parametrize(
    ("x", "options", "error", "sentence"),
    [
        (images()[0], {}, ValueError, r"must be a batch \(N, H, W, C\)"),
        (images().astype(np.uint8), {}, TypeError, "must be floating, got uint8; normalise"),
        (images()[:0], {}, ValueError, "at least one pixel"),
        (images(), {"window": 6}, ValueError, "between 1 and the 5 pixels .* got 6"),
        (images(), {"window": 0}, ValueError, "got 0"),
        (images(), {"epsilon": -1.0}, ValueError, "epsilon must be 0 or more, got -1.0"),
        (np.ones((2, 4, 4, 3)), {"epsilon": 0.0}, ValueError, "do not vary"),
    ],
)
def test_what_cannot_be_whitened_is_refused(x, options, error, sentence):
    with pytest.raises(error, match=sentence):
        patch_whitening(x, **{"window": 2, **options})
