"""Scores at every position of a larger image: in one pass, or crop by crop.

One pass does the work of overlapping crops once. It gives the crops' own numbers where no score
sees anything beside its crop. A network that pads is another matter: a crop has zeros beyond its
border where the larger image has pixels, and both are right answers to different questions
(`borders`).
"""

import functools
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax import analysis, geometry
from cnnjax.geometry import PerAxis
from cnnjax.models import Network
from cnnjax.models.fractional import FractionalNet
from cnnjax.surgery.conversion import apply, check_classifier, dense_to_conv, last_volume

__all__ = ["Borders", "average_scores", "crop_scores", "dense_scores"]

Borders: TypeAlias = Literal["image", "crop"]


def dense_scores(
    model: Network,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    stride: PerAxis | None = None,
    borders: Borders = "image",
    batch_size: int = 16,
) -> jax.Array:
    """Scores at every position of images that are larger than the network's own.

    Position (i, j) is that of the crop [i s, i s + h) x [j s, j s + w) with (h, w) =
    `model.image_size`; there are (H - h) // s + 1 rows of them, all crops that lie inside the
    image. At the network's own stride S that is one pass of its convolutional form; at a finer
    stride s that divides S, (S / s)^2 passes over shifted images, interleaved.

    Args:
      model: a network, its head dense or slid (`dense_to_conv`).
      variables: its variables.
      images: (*batch, H, W, input_channels), H and W at least those of `model.image_size`.
      stride: pixels from one position to the next, a divisor of the network's; by default the
        network's own, `model.feature_info[-1].reduction`.
      borders: "image": one pass; zeros, as the network pads, lie around the image alone (and
        where a shifted pass begins), and each score sees what is around its crop. "crop": the
        numbers of the crops, each run alone: one pass where no score sees anything beside its
        crop (networks without padding such as LeNet-5), else the crops themselves, in batches
        inside one compiled loop.
      batch_size: crops at a time in that loop.

    Returns:
      Scores of shape (*batch, rows, columns, num_classes), float32 or wider.

    Raises:
      TypeError: a model that is no `cnnjax.models.Network`, integer images, a stride that is no
        integer.
      ValueError: images smaller than the network's, a stride that does not divide its own, an
        unknown name of borders, a network that does not step evenly (fractional pooling).

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax import models
    >>> net = models.create("lenet5")
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    >>> images = jnp.zeros((2, 44, 37, 1))
    >>> jax.jit(lambda x: dense_scores(net, variables, x))(images).shape
    (2, 4, 2, 10)
    >>> jax.eval_shape(lambda x: dense_scores(net, variables, x, stride=2), images).shape
    (2, 7, 3, 10)

    Siblings: `crop_scores` is the loop over crops; `model.clone(output_stride=16)` makes a network
    of finer stride by spreading its windows, without shifting the image's border.
    Source: Sermanet et al., "OverFeat" (2013), section 3.3; Giusti et al., "Fast image scanning
    with deep max-pooling convolutional neural networks" (2013); CS231n course notes.
    """
    function = "dense_scores"
    geometry.check_name(function, "borders", borders, ("image", "crop"))
    (batch_size,) = geometry.per_axis(function, "batch_size", batch_size, 1)
    grid = _Grid.of(function, model, images, stride)
    if borders == "image" and isinstance(model, FractionalNet):
        raise ValueError(
            f"{function}: fractional pooling cuts a larger image by other boundaries than its "
            "crops, so that no pass gives its crops' scores; take borders='crop'"
        )
    if borders == "crop" and not _sees_its_crop_alone(model):
        return _crop_by_crop(model, grid, batch_size, dict(variables), images)
    if model.head_window is None:
        model, variables = dense_to_conv(model, variables)
    return _shifted_passes(model, variables, images, grid)


def crop_scores(
    model: Network,
    variables: Mapping[str, Any],
    images: jax.Array,
    *,
    stride: PerAxis | None = None,
) -> jax.Array:
    """Scores of every crop, one call of the network each: what `dense_scores` is measured against.

    Args:
      model: a network, its head dense or slid.
      variables: its variables.
      images: (*batch, H, W, input_channels), H and W at least those of `model.image_size`.
      stride: pixels from one crop to the next; by default the network's own.

    Returns:
      Scores of shape (*batch, rows, columns, num_classes), float32 or wider.

    Raises:
      TypeError: as `dense_scores`.
      ValueError: as `dense_scores`.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax import models
    >>> net = models.create("lenet5")
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    >>> jax.eval_shape(lambda x: crop_scores(net, variables, x), jnp.zeros((2, 36, 32, 1))).shape
    (2, 2, 1, 10)

    Source: CS231n course notes, "Convolutional Networks", converting FC layers to CONV layers.
    """
    grid = _Grid.of("crop_scores", model, images, stride)
    height, width = grid.size
    rows = []
    for row in range(grid.counts[0]):
        columns = []
        for column in range(grid.counts[1]):
            top, left = row * grid.stride[0], column * grid.stride[1]
            crop = images[..., top : top + height, left : left + width, :]
            columns.append(_of_one_position(model, apply(model, variables, crop)))
        rows.append(jnp.stack(columns, axis=-2))
    return jnp.stack(rows, axis=-3)


def average_scores(
    scores: jax.Array, *, how: Literal["logits", "probabilities"] = "logits"
) -> jax.Array:
    """Mean over the positions of dense scores, one vector an image.

    Args:
      scores: (*batch, rows, columns, num_classes).
      how: "logits": the mean of the scores, as VGG (2014) averages its map; "probabilities": the
        mean of their softmax, as crops are averaged.

    Returns:
      Array of shape (*batch, num_classes): logits or probabilities.

    Raises:
      ValueError: too few axes, or an unknown name.

    >>> import jax.numpy as jnp
    >>> average_scores(jnp.array([[[1.0, 0.0], [3.0, 2.0]]]))
    Array([2., 1.], dtype=float32)

    Source: Simonyan and Zisserman, "Very deep convolutional networks" (2014), section 3.2.
    """
    geometry.check_name("average_scores", "how", how, ("logits", "probabilities"))
    if scores.ndim < 3:
        raise ValueError(
            "average_scores: scores must be (*batch, rows, columns, num_classes), got shape "
            f"{scores.shape}"
        )
    if how == "probabilities":
        scores = jax.nn.softmax(scores)
    return jnp.mean(scores, axis=(-3, -2))


@dataclass(frozen=True)
class _Grid:
    """Where the crops of an image lie.

    Attributes:
      size: pixels of a crop an axis.
      step: the network's stride, pixels.
      stride: pixels from one crop to the next an axis.
      counts: number of crops an axis.
    """

    size: tuple[int, int]
    step: int
    stride: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, function: str, model: Network, images: Any, stride: PerAxis | None) -> "_Grid":
        """The grid of a call, checked."""
        check_classifier(function, model)
        size, step = model.image_size, model.feature_info[-1].reduction
        if jnp.ndim(images) < 3:
            raise ValueError(
                f"{function}: images must be (*batch, height, width, {model.input_channels}), got "
                f"shape {jnp.shape(images)}"
            )
        sizes = images.shape[-3:-1]
        if any(given < own for given, own in zip(sizes, size, strict=True)):
            raise ValueError(
                f"{function}: images of {sizes} hold no crop of {size}, the network's image_size; "
                "enlarge them, for example by surgery.scales"
            )
        strides = geometry.per_axis(function, "stride", step if stride is None else stride, 2)
        if function == "dense_scores" and any(step % s for s in strides):
            raise ValueError(
                f"{function}: stride {strides} must divide the network's own, {step}; take a "
                "divisor of it and leave out positions, scores[..., ::2, ::2, :]"
            )
        counts = tuple(
            (given - own) // s + 1 for given, own, s in zip(sizes, size, strides, strict=True)
        )
        return cls(size, step, strides, counts)

    def shifts(self, axis: int) -> Iterator[tuple[int, int]]:
        """First pixel and number of the positions of each shifted pass along an axis."""
        passes = min(self.step // self.stride[axis], self.counts[axis])
        for shift in range(passes):
            yield shift * self.stride[axis], -(-(self.counts[axis] - shift) // passes)


def _shifted_passes(
    model: Network, variables: Mapping[str, Any], images: jax.Array, grid: _Grid
) -> jax.Array:
    rows = []
    for top, num_rows in grid.shifts(0):
        columns = []
        for left, num_columns in grid.shifts(1):
            scores = apply(model, variables, images[..., top:, left:, :])
            if scores.shape[-3] < num_rows or scores.shape[-2] < num_columns:
                raise ValueError(
                    f"dense_scores: {type(model).__name__} has {scores.shape[-3:-1]} positions, "
                    f"not {(num_rows, num_columns)}: it does not step evenly by {grid.step}; "
                    "borders='crop' runs the crops"
                )
            # What is left over beyond the last crop can add a position where a network pads.
            columns.append(scores[..., :num_rows, :num_columns, :])
        rows.append(_interleaved(columns, -2))
    return _interleaved(rows, -3)


def _interleaved(parts: list[jax.Array], axis: int) -> jax.Array:
    """Element i of part p at place i * len(parts) + p; later parts may be one shorter."""
    if len(parts) == 1:
        return parts[0]
    axis %= parts[0].ndim
    longest, total = parts[0].shape[axis], sum(part.shape[axis] for part in parts)
    padded = []
    for part in parts:
        missing = [(0, 0)] * part.ndim
        missing[axis] = (0, longest - part.shape[axis])
        padded.append(jnp.pad(part, missing))
    stacked = jnp.stack(padded, axis + 1)
    shape = (*stacked.shape[:axis], -1, *stacked.shape[axis + 2 :])
    return lax.slice_in_dim(stacked.reshape(shape), 0, total, axis=axis)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _crop_by_crop(
    model: Network, grid: _Grid, batch_size: int, variables: dict[str, Any], images: jax.Array
) -> jax.Array:
    batch = images.ndim - 3
    places = itertools.product(*map(range, grid.counts))
    starts = [[row * grid.stride[0], column * grid.stride[1]] for row, column in places]

    def scores_of(start: jax.Array) -> jax.Array:
        whole = [jnp.zeros((), start.dtype)] * batch
        first = (*whole, start[0], start[1], jnp.zeros((), start.dtype))
        sizes = (*images.shape[:batch], *grid.size, images.shape[-1])
        crop = lax.dynamic_slice(images, first, sizes)
        return _of_one_position(model, apply(model, variables, crop))

    batch_size = min(batch_size, len(starts))
    scores = lax.map(scores_of, jnp.asarray(starts, jnp.int32), batch_size=batch_size)
    scores = jnp.moveaxis(scores, 0, -2)
    return scores.reshape(*scores.shape[:batch], *grid.counts, scores.shape[-1])


def _of_one_position(model: Network, scores: jax.Array) -> jax.Array:
    """The scores of a crop, which a slid head gives at its first position."""
    return scores if model.head_window is None else scores[..., 0, 0, :]


@functools.lru_cache(maxsize=128)
def _sees_its_crop_alone(model: Network) -> bool:
    """Whether one pass gives the numbers of the crops.

    Traced on an image with two positions an axis. What pads, hangs over the end or takes
    statistics of the whole image makes one of them see pixels beside its crop.
    """
    step, sizes = model.feature_info[-1].reduction, model.image_size
    if isinstance(model, FractionalNet):  # Its regions follow no step.
        return False
    if model.head_window is None:
        model = model.clone(head_window=last_volume("dense_scores", model, sizes))
    image = jax.ShapeDtypeStruct(
        (1, *(size + step for size in sizes), model.input_channels), jnp.float32
    )
    seen = analysis.receptive_field(model, image)
    if seen.unknown or len(seen.axes) != 2:
        return False
    for axis, size in zip(seen.axes, sizes, strict=True):
        if axis.output_axes != (axis.input_axis,):
            return False
        for position, (first, last) in enumerate(zip(axis.first[:2], axis.last[:2], strict=True)):
            if first < position * step or last >= position * step + size:
                return False
    return True
