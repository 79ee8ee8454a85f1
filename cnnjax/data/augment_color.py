"""Augmentation of colours on the device, on uint8 images, as pure functions of a key.

As in `cnnjax.data.augment`: a batch (N, H, W, C) makes one draw, image i takes row i of it, and
draws depend on the key and N alone. Factors are drawn on a grid of 1/4096 and bytes are computed
in integers, so that no multiply-add that a compiler fuses moves a byte.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from cnnjax.data._batches import check_batch, check_bytes

__all__ = ["ColorComponents", "color_components", "color_jitter", "pca_lighting"]

_GRID = 4096
# Of a mean in the arithmetic of bytes: halves of 1/128 of a level, and no overflow of int32.
_PARTS = 64


class ColorComponents(NamedTuple):
    """Principal components of the colours of a set of images, on [0, 1], the largest first.

    Attributes:
      std: float64, (C,), standard deviations along the components: roots of the eigenvalues.
      directions: float64, (C, C), row k the unit vector of component k; its sign is arbitrary.
    """

    std: np.ndarray
    directions: np.ndarray


def color_jitter(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
) -> jax.Array:
    """Changes brightness, then contrast, then saturation of each image by factors of its own.

    With f uniform on [1 - s, 1 + s] for each strength s, and each result clipped to [0, 255] and
    cut to whole bytes, x becomes f x, then f x + (1 - f) m, then f x + (1 - f) g, where g is the
    pixel's grey level 0.2989 R + 0.587 G + 0.114 B and m the mean of g over the image.

    Args:
      key: a key; one uniform draw of integers of shape (N, 3) is taken from it.
      images: uint8, (N, H, W, C) with C = 3, or C = 1, which is its own grey level.
      brightness: strength, in [0, 1]; 0 leaves it alone.
      contrast: likewise.
      saturation: likewise.

    Returns:
      uint8 array of the shape of `images`.

    Raises:
      TypeError: `images` is not uint8.
      ValueError: `images` is no batch of one or three channels, or a strength is not in [0, 1].

    >>> images = jnp.full((3, 1, 1, 3), 100, jnp.uint8)
    >>> color_jitter(jax.random.key(0), images, brightness=0.5)[:, 0, 0, 0].tolist()
    [147, 120, 142]

    Sibling: torchvision's `ColorJitter`, which also draws the order of the three.
    """
    check_batch("color_jitter", images)
    check_bytes("color_jitter", images)
    if images.shape[-1] not in (1, 3):
        raise ValueError(
            f"color_jitter: images must have one channel or three, red first, got {images.shape}"
        )
    strengths = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    for name, strength in strengths.items():
        if not 0 <= strength <= 1:
            raise ValueError(f"color_jitter: {name} must be in [0, 1], got {strength}")
    spread = np.array([[round(_GRID * strength) for strength in strengths.values()]], np.int32)
    factors = jax.random.randint(key, (len(images), 3), _GRID - spread, _GRID + spread + 1)
    x = images.astype(jnp.int32)
    if brightness:
        x = _blended(x, jnp.zeros((), jnp.int32), factors[:, 0])
    if contrast:
        x = _blended(x, _mean_in_parts(_grey(x)), factors[:, 1])
    if saturation:
        x = _blended(x, _PARTS * _grey(x)[..., None], factors[:, 2])
    return x.astype(jnp.uint8)


def _grey(x: jax.Array) -> jax.Array:
    """Grey levels (N, H, W), cut to whole bytes."""
    if x.shape[-1] == 1:
        return x[..., 0]
    return (2989 * x[..., 0] + 5870 * x[..., 1] + 1140 * x[..., 2]) // 10_000


def _mean_in_parts(grey: jax.Array) -> jax.Array:
    """The mean level of each image in 1/_PARTS, (N, 1, 1, 1), without a product that overflows."""
    num_pixels = math.prod(grey.shape[1:])
    total = jnp.sum(grey, axis=(1, 2), keepdims=True)[..., None]
    part = ((total % num_pixels) * _PARTS + num_pixels // 2) // num_pixels
    return (total // num_pixels) * _PARTS + part


def _blended(x: jax.Array, parts: jax.Array, factors: jax.Array) -> jax.Array:
    """Factor f: f x + (1 - f) parts / _PARTS, clipped and cut to whole bytes."""
    f = factors[:, None, None, None]
    return jnp.clip((f * (x * _PARTS) + (_GRID - f) * parts) // (_GRID * _PARTS), 0, 255)


def color_components(images: ArrayLike) -> ColorComponents:
    """Principal components of the colours of a training set's pixels.

    Eigenvectors and roots of the eigenvalues of the covariance of the channels over all pixels.

    Args:
      images: uint8 of shape (*batch, H, W, C), at least one pixel; on the host (this is NumPy).

    Returns:
      A `ColorComponents`; the largest entry of each direction is positive.

    Raises:
      TypeError: `images` is not uint8.
      ValueError: `images` has no pixels or no channel axis.

    >>> found = color_components(np.array([[[0, 0]], [[255, 255]]], np.uint8))
    >>> found.std.round(4).tolist(), found.directions[0].round(4).tolist()
    ([0.7071, 0.0], [0.7071, 0.7071])

    Source: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks",
    2012, section 4.1.
    """
    values = np.asarray(images)
    check_bytes("color_components", values)
    if values.ndim < 1 or values.size == 0:
        raise ValueError(
            "color_components: images must hold at least one pixel (*batch, H, W, C), got shape "
            f"{values.shape}"
        )
    pixels = values.reshape(-1, values.shape[-1])
    num_pixels, num_channels = pixels.shape
    total, products = np.zeros(num_channels), np.zeros((num_channels, num_channels))
    # In parts, since float64 copies of a whole training set would be eight times its size.
    for part in np.array_split(pixels, -(-num_pixels // 2**20)):
        exact = part.astype(np.float64)
        total, products = total + exact.sum(0), products + exact.T @ exact
    mean = total / num_pixels
    covariance = (products / num_pixels - np.outer(mean, mean)) / 255**2
    eigenvalues, vectors = np.linalg.eigh(covariance)
    directions = vectors.T[::-1]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(1)[:, None], axis=1)
    return ColorComponents(
        np.sqrt(np.maximum(eigenvalues[::-1], 0.0)), directions * np.sign(largest)
    )


def pca_lighting(
    key: jax.Array, images: jax.Array, components: ColorComponents, *, std: float = 0.1
) -> jax.Array:
    """Adds to all pixels of an image one colour, drawn along the principal components.

    x + 255 sum over k of a_k s_k^2 v_k, rounded to whole bytes and clipped, with a ~ N(0, std^2)
    for each image and component: s_k is the standard deviation along the component v_k of colours
    on [0, 1], and its square the eigenvalue.

    The paper does not say on which range its pixels are. Eigenvalues grow with the square of it, so
    that on bytes they would shift colours by hundreds of levels; the constants of the code that
    followed, 0.2175, 0.0188 and 0.0045, are eigenvalues of ImageNet's colours on [0, 1].

    Args:
      key: a key; one normal draw of shape (N, C) is taken from it.
      images: uint8, (N, H, W, C).
      components: of `color_components`, of the training set.
      std: standard deviation of a, 0 or more.

    Returns:
      uint8 array of the shape of `images`.

    Raises:
      TypeError: `images` is not uint8.
      ValueError: `images` is no batch, components of another number of channels, or std < 0.

    >>> images = jnp.full((3, 1, 1, 1), 100, jnp.uint8)
    >>> components = ColorComponents(np.array([0.5]), np.array([[1.0]]))
    >>> pca_lighting(jax.random.key(0), images, components)[:, 0, 0, 0].tolist()
    [110, 113, 97]

    Source: Krizhevsky et al., 2012, section 4.1; the range: fb.resnet.torch, 2016.
    """
    check_batch("pca_lighting", images)
    check_bytes("pca_lighting", images)
    num_channels = images.shape[-1]
    shapes = np.shape(components.std), np.shape(components.directions)
    if shapes != ((num_channels,), (num_channels, num_channels)):
        raise ValueError(
            f"pca_lighting: components must be of the {num_channels} channels of the images, got "
            f"std of shape {shapes[0]} and directions of shape {shapes[1]}"
        )
    if not std >= 0:
        raise ValueError(f"pca_lighting: std must be 0 or more, got {std}")
    eigenvalues = np.square(np.asarray(components.std, np.float64))
    along = 255 * std * eigenvalues[:, None] * np.asarray(components.directions)
    draw = jax.random.normal(key, (len(images), num_channels))
    shift = jnp.sum(draw[:, :, None] * jnp.asarray(along, jnp.float32)[None], axis=1)
    levels = jnp.round(shift).astype(jnp.int32)
    return jnp.clip(images + levels[:, None, None, :], 0, 255).astype(jnp.uint8)
