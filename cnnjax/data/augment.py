"""Augmentation and normalisation of image batches on the device, as pure functions of a key.

Each function takes a batch (N, H, W, C), makes one batch of draws from its key (image i of the
batch uses row i of the draw), and gives the same bits under `jit`, `vmap` and eager. Draws depend
on the key and N alone, never on pixels, dtype or model: arms that share a key share their draws.
"""

import operator
from typing import Literal, NamedTuple, SupportsIndex, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from cnnjax.data._batches import check_batch

__all__ = [
    "ChannelStatistics",
    "alternating_flip",
    "channel_statistics",
    "cutout",
    "normalize",
    "random_flip",
    "random_shift_crop",
]

ShiftMode: TypeAlias = Literal["constant", "reflect"]
_MODES = ("constant", "reflect")


class ChannelStatistics(NamedTuple):
    """Mean and population standard deviation of each channel, float64 of shape (C,), on [0, 1]."""

    mean: np.ndarray
    std: np.ndarray


def random_flip(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors each image left to right with probability one half.

    Args:
      key: a key; one Bernoulli draw of shape (N,) is taken from it.
      images: (N, H, W, C), any dtype.

    Returns:
      Array of the shape and dtype of `images`.

    Raises:
      ValueError: `images` has not four axes.

    >>> images = jnp.arange(6).reshape(3, 1, 2, 1)
    >>> random_flip(jax.random.key(1), images)[..., 0].tolist()
    [[[1, 0]], [[2, 3]], [[5, 4]]]
    """
    check_batch("random_flip", images)
    return _mirrored(images, jax.random.bernoulli(key, shape=images.shape[:1]))


def alternating_flip(
    key: jax.Array, images: jax.Array, *, indices: jax.Array, epoch: jax.Array | int
) -> jax.Array:
    """Mirrors each image left to right in every second epoch, so that two show both sides of it.

    Image i is mirrored in epoch e where b_i + e is odd, b_i a fair bit drawn once an image.

    Args:
      key: the same in all epochs; b_i is drawn from it and `indices[i]` alone.
      images: (N, H, W, C), any dtype.
      indices: integers, (N,), which images of the training set these are.
      epoch: passes over the training set before this one.

    Returns:
      Array of the shape and dtype of `images`.

    Raises:
      ValueError: `images` has not four axes, or `indices` are not one an image.

    >>> images = jnp.arange(6).reshape(3, 1, 2, 1)
    >>> for epoch in (0, 1):
    ...     both = alternating_flip(jax.random.key(1), images, indices=jnp.arange(3), epoch=epoch)
    ...     print(both[..., 0].tolist())
    [[[0, 1]], [[3, 2]], [[4, 5]]]
    [[[1, 0]], [[2, 3]], [[5, 4]]]

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.6.
    """
    check_batch("alternating_flip", images)
    indices = jnp.asarray(indices)
    if indices.shape != images.shape[:1]:
        raise ValueError(
            f"alternating_flip: indices must be one for each of the {len(images)} images, got "
            f"shape {indices.shape}"
        )
    first = jax.vmap(lambda index: jax.random.bernoulli(jax.random.fold_in(key, index)))(indices)
    return _mirrored(images, first ^ (jnp.asarray(epoch) % 2 == 1))


def _mirrored(images: jax.Array, which: jax.Array) -> jax.Array:
    return jnp.where(which[:, None, None, None], images[:, :, ::-1], images)


def random_shift_crop(
    key: jax.Array, images: jax.Array, *, pad: SupportsIndex, mode: ShiftMode = "constant"
) -> jax.Array:
    """Pads every side by `pad` pixels and crops each image back to its size at a random place.

    out[n, y, x] = padded[n, y + r_n, x + c_n], with r_n and c_n uniform on 0 to 2 pad, so that
    each of the (2 pad + 1)^2 shifts of up to `pad` pixels is equally likely (the CIFAR recipe
    with pad=4, Lee et al., Deeply-Supervised Nets, 2015).

    Args:
      key: a key; one uniform draw of integers of shape (N, 2), row then column, is taken from it.
      images: (N, H, W, C), any dtype.
      pad: pixels on each side, 0 or more.
      mode: "constant" pads with zeros (black before `normalize`, the mean after it), "reflect"
        mirrors about the border pixel, which needs pad < H and pad < W.

    Returns:
      Array of the shape and dtype of `images`.

    Raises:
      TypeError: `pad` is not an integer.
      ValueError: `images` has not four axes, `pad` is negative or too large to reflect, or `mode`
        is neither of the two.

    >>> image = jnp.arange(1, 10).reshape(1, 3, 3, 1)
    >>> random_shift_crop(jax.random.key(1), image, pad=1)[0, :, :, 0].tolist()
    [[2, 3, 0], [5, 6, 0], [8, 9, 0]]
    """
    check_batch("random_shift_crop", images)
    try:
        pad = operator.index(pad)
    except TypeError:
        raise TypeError(
            f"random_shift_crop: pad must be one integer for every side, got {pad!r}"
        ) from None
    if pad < 0:
        raise ValueError(f"random_shift_crop: pad must be 0 or more, got {pad}")
    if mode not in _MODES:
        raise ValueError(f"random_shift_crop: mode must be one of {_MODES}, got {mode!r}")
    num_images, height, width, channels = images.shape
    if mode == "reflect" and pad >= min(height, width):
        raise ValueError(
            f"random_shift_crop: mode='reflect' needs pad below the image's height {height} and "
            f"width {width}, got {pad}; use a smaller pad or mode='constant'"
        )
    offsets = jax.random.randint(key, (num_images, 2), 0, 2 * pad + 1)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
    # A dynamic slice an image, with width and channels in one axis so that each row of a crop is
    # one run of memory. In a CPU fori_loop, a batch of 128 images of 32x32x3 uint8 took 0.11 ms;
    # 0.15 with the axes apart, 0.2 as a gather of rows and columns, 0.25 as a loop over images,
    # 0.5 as a barrel shifter, 1.4 as one-hot products, 3.1 selecting among static slices.
    rows = padded.reshape(num_images, height + 2 * pad, (width + 2 * pad) * channels)
    crops = jax.vmap(
        lambda image, offset: lax.dynamic_slice(
            image, (offset[0], offset[1] * channels), (height, width * channels)
        )
    )(rows, offsets)
    return crops.reshape(images.shape)


def cutout(
    key: jax.Array, images: jax.Array, *, size: SupportsIndex, fill: ArrayLike = 0
) -> jax.Array:
    """Fills a square of each image, at a random place, with one colour.

    The square of rows r - size // 2 to r - size // 2 + size - 1, and columns likewise, has its
    centre (r, c) uniform on the pixels and is clipped at the border, so that it may be smaller.

    Args:
      key: a key; one uniform draw of shape (N, 2), row then column, is taken from it.
      images: (N, H, W, C), any dtype.
      size: pixels on a side, 0 or more.
      fill: a value, or one a channel, as the images have them: black by default. For the paper's
        zero after normalising give the training set's mean colour.

    Returns:
      Array of the shape and dtype of `images`.

    Raises:
      TypeError: `size` is not an integer.
      ValueError: `images` has not four axes, `size` is negative, or `fill` is neither one value
        nor one a channel.

    >>> image = jnp.arange(1, 10).reshape(1, 3, 3, 1)
    >>> cutout(jax.random.key(1), image, size=2)[0, :, :, 0].tolist()
    [[1, 0, 0], [4, 0, 0], [7, 8, 9]]

    Source: DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks with
    Cutout", 2017 (size 16 for CIFAR-10).
    """
    check_batch("cutout", images)
    try:
        size = operator.index(size)
    except TypeError:
        raise TypeError(f"cutout: size must be an integer, got {size!r}") from None
    if size < 0:
        raise ValueError(f"cutout: size must be 0 or more, got {size}")
    num_images, height, width, channels = images.shape
    colour = jnp.asarray(fill, images.dtype)
    if colour.shape not in ((), (channels,)):
        raise ValueError(
            f"cutout: fill must be one value or one for each of the {channels} channels, got shape "
            f"{colour.shape}"
        )
    centres = jax.random.randint(key, (num_images, 2), 0, jnp.array([[height, width]]))
    first = centres - size // 2

    def covered(axis: int, length: int) -> jax.Array:
        distance = jnp.arange(length)[None, :] - first[:, axis, None]
        return (distance >= 0) & (distance < size)

    square = covered(0, height)[:, :, None] & covered(1, width)[:, None, :]
    return jnp.where(square[..., None], colour.reshape(1, 1, 1, -1), images)


def normalize(images: ArrayLike, mean: ArrayLike, std: ArrayLike) -> jax.Array:
    """Images of bytes as float32 with the given statistics removed: (x / 255 - mean) / std.

    Args:
      images: uint8 of shape (*batch, H, W, C).
      mean: of shape (C,), on the [0, 1] scale, as `channel_statistics` gives it.
      std: of shape (C,), on the same scale, above zero.

    Returns:
      float32 array of the shape of `images`.

    Raises:
      TypeError: `images` is not uint8 (already normalised?).
      ValueError: `mean` or `std` has not one value a channel, or a `std` that is known outside
        tracing is not above zero.

    >>> normalize(jnp.array([[[0], [255]]], jnp.uint8), [0.5], [0.25])[..., 0].tolist()
    [[-2.0, 2.0]]
    """
    x = jnp.asarray(images)
    if x.dtype != jnp.uint8:
        raise TypeError(
            f"normalize: images must be uint8, got {x.dtype}; values on another scale would be "
            "divided by 255 in silence"
        )
    center, scale = jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32)
    for name, value in (("mean", center), ("std", scale)):
        if x.ndim < 1 or value.shape != x.shape[-1:]:
            raise ValueError(
                f"normalize: {name} must have one value for each channel of images of shape "
                f"{x.shape}, got shape {value.shape}"
            )
    if not isinstance(scale, jax.core.Tracer) and not bool((scale > 0).all()):
        raise ValueError(
            f"normalize: std must be above zero, got {scale.tolist()}; a channel that never "
            "varies carries nothing: drop it, or give 1"
        )
    # Subtract, then multiply: no multiply-add that a compiler could fuse, so the bits under jit
    # are those of eager.
    shape = (1,) * (x.ndim - 1) + (-1,)
    offset, factor = (255 * center).reshape(shape), (1 / (255 * scale)).reshape(shape)
    return (x.astype(jnp.float32) - offset) * factor


def channel_statistics(images: ArrayLike) -> ChannelStatistics:
    """Mean and population standard deviation of each channel, exact to the last rounding.

    Sums of bytes and of their squares are integers and are kept as integers; only the final
    division and root round. Statistics belong to the training set alone.

    Args:
      images: uint8 of shape (*batch, H, W, C), at least one pixel; on the host (this is NumPy).

    Returns:
      (mean, std), float64 of shape (C,) each, on the scale where byte 255 is 1.

    Raises:
      TypeError: `images` is not uint8.
      ValueError: `images` has no pixels or no channel axis.

    >>> mean, std = channel_statistics(np.array([[[0], [255]]], np.uint8))
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    values = np.asarray(images)
    if values.dtype != np.uint8:
        raise TypeError(f"channel_statistics: images must be uint8, got {values.dtype}")
    if values.ndim < 1 or values.size == 0:
        raise ValueError(
            f"channel_statistics: images must hold at least one pixel (*batch, H, W, C), got "
            f"shape {values.shape}"
        )
    pixels = values.reshape(-1, values.shape[-1])
    num_pixels = len(pixels)
    means, deviations = [], []
    for channel in pixels.T:
        # 256 counts hold all that the two sums need.
        counts = np.bincount(channel, minlength=256).tolist()
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / (255 * num_pixels))
        variance = (num_pixels * squares - total * total) / (255 * num_pixels) ** 2
        deviations.append(variance**0.5)
    return ChannelStatistics(np.array(means), np.array(deviations))
