"""Dense layers to convolutions and back: the same numbers in another shape."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from cnnjax import geometry
from cnnjax.geometry import PerAxis
from cnnjax.models import Network

__all__ = ["conv_to_dense", "dense_to_conv"]


def dense_to_conv(
    model: Network, variables: Mapping[str, Any], *, image_size: PerAxis | None = None
) -> tuple[Network, dict[str, Any]]:
    """The same classifier with its dense layers as convolutions, ready for larger images.

    A dense layer over a volume, y_k = sum over h, w, c of W[(h, w, c), k] x[h, w, c], is a
    convolution whose window is the whole volume; dense layers behind it are 1x1 convolutions, and
    a global average is one over windows of that size. On an image of `image_size` the converted
    network gives the same scores at its only position, (*batch, 1, 1, num_classes); a larger image
    has more positions.

    Args:
      model: a network with `head_window=None`.
      variables: its variables; "params" is converted, other collections are kept.
      image_size: (height, width) of the images that the dense layers were made for, one integer
        for both; by default `model.image_size`.

    Returns:
      The network with `head_window` (the size of the last volume) and `image_size` set, and its
      variables: kernels (H * W * C, K) in the shape (H, W, C, K), bit for bit the same numbers.

    Raises:
      TypeError: a model that is no `cnnjax.models.Network`.
      ValueError: a model without a classifier or already converted; weights that are not a
        network's for this image size, each named.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax import models
    >>> net = models.create("lenet5", image_size=(36, 36))
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 36, 36, 1)))
    >>> slid, slid_variables = dense_to_conv(net, variables)
    >>> slid.head_window, slid_variables["params"]["fc0"]["kernel"].shape
    ((2, 2), (2, 2, 120, 84))
    >>> jax.eval_shape(slid.apply, slid_variables, jnp.zeros((1, 48, 40, 1))).shape
    (1, 4, 2, 10)

    Source: CS231n course notes, "Convolutional Networks", converting FC layers to CONV layers;
    Sermanet et al., "OverFeat" (2013), section 3.5.
    """
    check_classifier("dense_to_conv", model)
    if model.head_window is not None:
        raise ValueError(
            f"dense_to_conv: the head is slid already (head_window={model.head_window}); "
            "conv_to_dense goes back"
        )
    size = model.image_size
    if image_size is not None:
        height, width = geometry.per_axis("dense_to_conv", "image_size", image_size, 2)
        size = (height, width)
    slid = model.clone(head_window=last_volume("dense_to_conv", model, size), image_size=size)
    return slid, _reshaped("dense_to_conv", variables, slid)


def conv_to_dense(model: Network, variables: Mapping[str, Any]) -> tuple[Network, dict[str, Any]]:
    """The inverse of `dense_to_conv`: one vector of scores an image again, the same bits.

    Args:
      model: a network with a `head_window`, whose image of `model.image_size` has one position.
      variables: its variables.

    Returns:
      The network with `head_window=None`, and its variables: kernels (H, W, C, K) of the head in
      the shape (H * W * C, K).

    Raises:
      TypeError: a model that is no `cnnjax.models.Network`.
      ValueError: a model whose head is not slid; weights that are not the network's, each named.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax import models
    >>> net = models.create("lenet5", head_window=(1, 1))
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    >>> dense, dense_variables = conv_to_dense(net, variables)
    >>> dense_variables["params"]["fc0"]["kernel"].shape
    (120, 84)

    Source: as `dense_to_conv`.
    """
    check_classifier("conv_to_dense", model)
    if model.head_window is None:
        raise ValueError("conv_to_dense: the head is not slid, it has no head_window to remove")
    dense = model.clone(head_window=None)
    return dense, _reshaped("conv_to_dense", variables, dense)


def check_classifier(function: str, model: Any) -> None:
    """Refuse what has no scores to slide."""
    if not isinstance(model, Network):
        raise TypeError(
            f"{function}: model must be a cnnjax.models.Network, whose head_window slides its "
            f"head, got {type(model).__name__}"
        )
    if model.features:
        raise ValueError(
            f"{function}: the model gives its pyramid (features=True), not scores; take "
            "model.clone(features=False)"
        )


def last_volume(function: str, model: Network, size: tuple[int, ...]) -> tuple[int, int]:
    """Positions of the published network's last volume: what a head of 1x1 windows would have."""
    _, scores = traced(model.clone(head_window=(1, 1)), size)
    _, whole = traced(model.clone(head_window=None), size)
    if whole.ndim != 2 or scores.ndim != 4:
        raise ValueError(
            f"{function}: {type(model).__name__} gives {whole.shape} for an image of {size}, not "
            "one vector of scores: it has no classifier to slide"
        )
    rows, columns = (-(-positions // model.head_dilation) for positions in scores.shape[1:3])
    return rows, columns


def traced(model: Network, size: tuple[int, ...]) -> tuple[Any, jax.ShapeDtypeStruct]:
    """Shapes of a network's variables and scores for one image of that size."""
    image = jax.ShapeDtypeStruct((1, *size, model.input_channels), jnp.float32)
    made: Any = jax.eval_shape(model.init_with_output, jax.random.key(0), image)
    scores, variables = made
    return variables, scores


def apply(model: Network, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
    """Scores in evaluation."""
    scores: Any = model.apply(variables, images, train=False)
    return scores


def _reshaped(function: str, variables: Mapping[str, Any], model: Network) -> dict[str, Any]:
    """The variables with "params" in the shapes that the model has on its image size."""
    if "params" not in variables:
        raise ValueError(
            f'{function}: variables must hold "params", as model.init gives them, got '
            f"{sorted(variables)}"
        )
    shapes, _ = traced(model, model.image_size)
    wanted = traverse_util.flatten_dict(shapes["params"], sep="/")
    given = traverse_util.flatten_dict(variables["params"], sep="/")
    # All others stay as they are, auxiliary classifiers for another image size among them.
    moved = {name for name, leaf in wanted.items() if leaf.ndim != jnp.ndim(given.get(name, leaf))}
    wrong = [f"{name} is missing" for name in wanted if name not in given]
    wrong += [
        f"{name} has shape {given[name].shape}, not the numbers of {wanted[name].shape}"
        for name in sorted(moved)
        if math.prod(given[name].shape) != math.prod(wanted[name].shape)
    ]
    if wrong:
        raise ValueError(
            f"{function}: these variables are not those of {type(model).__name__} for images of "
            f"{model.image_size}: {'; '.join(wrong)}. If the dense layers see a volume that is "
            "averaged to another size first, give the image_size at which nothing is averaged"
        )
    params = {
        name: leaf.reshape(wanted[name].shape) if name in moved else leaf
        for name, leaf in given.items()
    }
    return {**variables, "params": traverse_util.unflatten_dict(params, sep="/")}
