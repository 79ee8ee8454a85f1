"""Test-time augmentation: several views of each image, scored and averaged, as pure functions."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import geometry
from cnnjax.geometry import PerAxis
from cnnjax.models import Network
from cnnjax.surgery.dense import Borders, average_scores, dense_scores

__all__ = [
    "How",
    "average_views",
    "diagonal_shifts",
    "horizontal_flips",
    "multi_scale_scores",
    "predict_tta",
    "scales",
    "ten_crop",
]

How: TypeAlias = Literal["probabilities", "logits"]
_HOW = ("probabilities", "logits")
# An array with an axis of views in front, or images that differ in size one after another.
Views: TypeAlias = jax.Array | Sequence[jax.Array]


def ten_crop(images: jax.Array | np.ndarray, size: PerAxis) -> jax.Array:
    """The four corners and the centre of each image, then their mirrors.

    Args:
      images: (*batch, height, width, channels), any dtype.
      size: (height, width) of a crop, one integer for both.

    Returns:
      Array of shape (10, *batch, height, width, channels): top left, top right, bottom left,
      bottom right, centre (from (H - h) // 2, (W - w) // 2 on), and the same mirrored left to
      right in that order.

    Raises:
      TypeError: a size that is no integer.
      ValueError: too few axes, or crops larger than the images.

    >>> import jax.numpy as jnp
    >>> crops = ten_crop(jnp.arange(9).reshape(3, 3, 1), 2)
    >>> crops[:, 0, 0, 0].tolist()
    [0, 1, 3, 4, 0, 1, 2, 4, 5, 1]

    Sibling: torchvision's `ten_crop` orders the mirrored crops by the mirrored image's corners.
    Source: Krizhevsky et al., "ImageNet classification with deep convolutional neural networks"
    (2012), section 4.1.
    """
    _check_images("ten_crop", images)
    height, width = geometry.per_axis("ten_crop", "size", size, 2)
    rows, columns = images.shape[-3] - height, images.shape[-2] - width
    if rows < 0 or columns < 0:
        raise ValueError(
            f"ten_crop: crops of {(height, width)} are larger than the images, "
            f"{images.shape[-3:-1]}"
        )
    corners = [(0, 0), (0, columns), (rows, 0), (rows, columns), (rows // 2, columns // 2)]
    crops = jnp.stack(
        [images[..., top : top + height, left : left + width, :] for top, left in corners]
    )
    return jnp.concatenate([crops, _mirrored(crops)])


def horizontal_flips(images: jax.Array | np.ndarray) -> jax.Array:
    """Each image and its mirror, left to right.

    Args:
      images: (*batch, height, width, channels), any dtype.

    Returns:
      Array of shape (2, *batch, height, width, channels).

    Raises:
      ValueError: too few axes.

    >>> import jax.numpy as jnp
    >>> horizontal_flips(jnp.arange(3).reshape(1, 3, 1))[..., 0].tolist()
    [[[0, 1, 2]], [[2, 1, 0]]]

    Source: Simonyan and Zisserman, "Very deep convolutional networks" (2014), section 3.2.
    """
    _check_images("horizontal_flips", images)
    return jnp.stack([images, _mirrored(images)])


def diagonal_shifts(images: jax.Array | np.ndarray, pixels: int) -> jax.Array:
    """Each image, and the image moved up and to the left, and down and to the right.

    What moves in is the image mirrored about its border, the border itself not repeated.

    Args:
      images: (*batch, height, width, channels), any dtype.
      pixels: how far they move along each axis, 0 or more and below height and width.

    Returns:
      Array of shape (3, *batch, height, width, channels).

    Raises:
      TypeError: pixels that are no integer.
      ValueError: too few axes, or pixels that the images do not have.

    >>> import jax.numpy as jnp
    >>> image = jnp.arange(9).reshape(3, 3, 1)
    >>> diagonal_shifts(image, 1)[1:, :, :, 0].tolist()
    [[[4, 5, 4], [7, 8, 7], [4, 5, 4]], [[4, 3, 4], [1, 0, 1], [4, 3, 4]]]

    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3.5, which
    gives the image itself twice the weight of each of the two others.
    """
    _check_images("diagonal_shifts", images)
    pixels = operator.index(pixels)
    height, width = images.shape[-3:-1]
    if not 0 <= pixels < min(height, width):
        raise ValueError(
            f"diagonal_shifts: pixels must be from 0 to {min(height, width) - 1} for images of "
            f"{height}x{width}, got {pixels}"
        )
    margins = [(0, 0)] * (images.ndim - 3) + [(pixels, pixels)] * 2 + [(0, 0)]
    padded = jnp.pad(images, margins, mode="reflect")
    starts = (pixels, 2 * pixels, 0)
    return jnp.stack(
        [padded[..., start : start + height, start : start + width, :] for start in starts]
    )


def scales(
    images: jax.Array, sizes: Iterable[int | tuple[int, int]], *, method: str = "linear"
) -> tuple[jax.Array, ...]:
    """The images at several sizes.

    Args:
      images: floating, (*batch, height, width, channels).
      sizes: for each scale the pixels of the shorter side, the longer one in proportion and
        rounded to the nearest, or (height, width).
      method: of `jax.image.resize`; smoothed before it is made smaller.

    Returns:
      One array of shape (*batch, new_height, new_width, channels) for each size, in the dtype of
      `images`; a size that they have leaves them as they are.

    Raises:
      TypeError: integer images, or a size that is no integer.
      ValueError: too few axes, no sizes, or one below 1.

    >>> import jax.numpy as jnp
    >>> [image.shape for image in scales(jnp.ones((40, 60, 3)), (20, 80, (32, 32)))]
    [(20, 30, 3), (80, 120, 3), (32, 32, 3)]

    Source: Simonyan and Zisserman (2014), section 3.2: "isotropically rescaled to a pre-defined
    smallest image side".
    """
    _check_images("scales", images)
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(
            f"scales: images has dtype {images.dtype}; cast to a floating dtype first, for "
            "example by x.astype(jnp.float32) / 255"
        )
    wanted = [_scaled_size(images.shape[-3:-1], size) for size in sizes]
    if not wanted:
        raise ValueError("scales: sizes must hold at least one size")
    return tuple(
        images
        if size == images.shape[-3:-1]
        else jax.image.resize(
            images, (*images.shape[:-3], *size, images.shape[-1]), method, antialias=True
        )
        for size in wanted
    )


def predict_tta(
    score_fn: Callable[[jax.Array], jax.Array],
    images: jax.Array,
    *,
    views: Callable[[jax.Array], Views] = horizontal_flips,
    how: How = "probabilities",
) -> jax.Array:
    """Mean of what a classifier says of several views of each image.

    Args:
      score_fn: images to logits, (*batch, num_classes); called once a view. Compile it
        (`jax.jit`) rather than the whole, which would hold it once for each view.
      images: handed to `views`.
      views: images to views, an array with an axis of views in front, or a sequence of arrays
        where they differ in size: `horizontal_flips`,
        `functools.partial(ten_crop, size=224)`, `lambda x: scales(x, (256, 384))`.
      how: "probabilities" averages softmax, as AlexNet and VGG do; "logits" averages scores.

    Returns:
      Array of shape (*batch, num_classes): probabilities, or logits.

    Raises:
      ValueError: no views, views whose scores differ in shape, or an unknown name.

    >>> import jax.numpy as jnp
    >>> def score(images):
    ...     return images[..., 0, :2, 0]
    >>> predict_tta(score, jnp.array([[[1.0], [2.0], [4.0]]]), how="logits")
    Array([2.5, 2. ], dtype=float32)

    Source: Krizhevsky et al. (2012), section 4.1.
    """
    geometry.check_name("predict_tta", "how", how, _HOW)
    return average_views([score_fn(view) for view in views(images)], how=how)


def average_views(scores: Views, *, how: How = "probabilities") -> jax.Array:
    """Mean over views of softmax probabilities, or of logits.

    Args:
      scores: logits, (views, *batch, num_classes), or a sequence of (*batch, num_classes).
      how: "probabilities" or "logits".

    Returns:
      Array of shape (*batch, num_classes).

    Raises:
      ValueError: no views, views whose scores differ in shape, or an unknown name.

    >>> import jax.numpy as jnp
    >>> average_views(jnp.array([[0.0, 0.0], [jnp.log(3.0), 0.0]]))
    Array([0.625, 0.375], dtype=float32)
    """
    geometry.check_name("average_views", "how", how, _HOW)
    if len(scores) == 0:
        raise ValueError("average_views: there are no views to average")
    shapes = {jnp.shape(each) for each in scores}
    if len(shapes) > 1 or shapes == {()}:
        raise ValueError(
            "average_views: each view must have scores of one shape (*batch, num_classes), got "
            f"{sorted(shapes)}; average_scores makes one vector of dense scores"
        )
    stacked = jnp.stack(list(scores))
    return jnp.mean(jax.nn.softmax(stacked) if how == "probabilities" else stacked, axis=0)


def multi_scale_scores(
    model: Network,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    sizes: Sequence[int | tuple[int, int]],
    flips: bool = True,
    stride: PerAxis | None = None,
    borders: Borders = "image",
    how: How = "probabilities",
) -> jax.Array:
    """Dense evaluation as VGG's: over sizes and mirrors, each map of scores averaged over space.

    Args:
      model: a network, its head dense or slid.
      variables: its variables.
      images: floating, (*batch, height, width, input_channels).
      sizes: as in `scales`, none smaller than the network's `image_size`. VGG took {256, 384, 512}
        for a network trained on sides from 256 to 512.
      flips: whether mirrors are averaged too.
      stride: as in `dense_scores`.
      borders: as in `dense_scores`.
      how: "probabilities" (softmax of each averaged map, then the mean, as in the paper) or
        "logits".

    Returns:
      Array of shape (*batch, num_classes): probabilities, or logits.

    Raises:
      TypeError: as `scales` and `dense_scores`.
      ValueError: as `scales` and `dense_scores`.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax import models
    >>> net = models.create("lenet5")
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    >>> def predict(images):
    ...     return multi_scale_scores(net, variables, images, sizes=(32, 40))
    >>> jax.eval_shape(predict, jnp.zeros((2, 28, 28, 1))).shape
    (2, 10)

    Source: Simonyan and Zisserman (2014), section 3.2 and table 4.
    """

    def views(images: jax.Array) -> list[jax.Array]:
        scaled = scales(images, sizes)
        if not flips:
            return list(scaled)
        return [view for image in scaled for view in horizontal_flips(image)]

    def score(view: jax.Array) -> jax.Array:
        dense = dense_scores(model, variables, view, stride=stride, borders=borders)
        return average_scores(dense)

    return predict_tta(score, images, views=views, how=how)


def _mirrored(images: Any) -> Any:
    return images[..., ::-1, :]


def _check_images(function: str, images: Any) -> None:
    if jnp.ndim(images) < 3:
        raise ValueError(
            f"{function}: images must be (*batch, height, width, channels), got shape "
            f"{jnp.shape(images)}"
        )


def _scaled_size(sizes: tuple[int, ...], size: int | tuple[int, int]) -> tuple[int, ...]:
    if isinstance(size, Sequence):
        return geometry.per_axis("scales", "sizes", size, 2)
    (shorter,) = geometry.per_axis("scales", "sizes", size, 1)
    least = min(sizes)
    # Half a pixel upwards, in integers.
    return tuple((2 * operator.index(whole) * shorter + least) // (2 * least) for whole in sizes)
