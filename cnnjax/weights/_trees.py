"""Networks and their trees, as all readers and writers of weights take and give them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from cnnjax import models
from cnnjax.models import Network
from cnnjax.weights._fit import Wanted, as_array, fit
from cnnjax.weights._leaves import Leaf, flattened
from cnnjax.weights._names import is_head

__all__ = [
    "as_wanted",
    "channel_hint",
    "check_replacement",
    "class_hint",
    "completed",
    "fit_variables",
    "own_hints",
    "resolved",
]


def resolved(
    function: str, network: str | Network, num_classes: int | None, options: Mapping[str, Any]
) -> Network:
    """The network that is meant.

    Raises:
      TypeError: no name and no network, or a network with options beside it.
      ValueError: a name that is not known.
    """
    if isinstance(network, str):
        return models.create(network, num_classes, **options)
    if not isinstance(network, Network):
        raise TypeError(
            f"{function}: network must be a name or a network of models.create, got "
            f"{type(network).__name__}"
        )
    if num_classes is not None or options:
        given = sorted([*options, *(["num_classes"] if num_classes is not None else [])])
        raise TypeError(
            f"{function}: {', '.join(given)} goes with a name; a network has its own options, "
            "network.clone(...) makes one of others"
        )
    return network


def check_replacement(function: str, replace_head: bool, key: jax.Array | None) -> None:
    """Refuse a classifier to draw without a key, and a key for nothing.

    Raises:
      ValueError: one without the other.
    """
    if replace_head and key is None:
        raise ValueError(
            f"{function}: replace_head draws a classifier and needs key=jax.random.key(...)"
        )
    if key is not None and not replace_head:
        raise ValueError(f"{function}: key is for replace_head=True, which draws a classifier")


def fit_variables(
    function: str, network: Network, variables: Any, leaves: tuple[Leaf, ...]
) -> dict[str, np.ndarray]:
    """Variables as arrays by path, when they are those of the network.

    Raises:
      TypeError: no tree of mappings.
      WeightsError: they are not.
    """
    if not isinstance(variables, Mapping):
        raise TypeError(
            f"{function}: variables must be what network.init gives, got {type(variables).__name__}"
        )
    given = {"/".join(path): as_array(value) for path, value in flattened(variables).items()}
    wanted = [as_wanted(leaf) for leaf in leaves]
    title = f"{function}: the variables do not fit {type(network).__name__}"
    return fit(title, wanted, given, functools.partial(own_hints, network, given))


def as_wanted(leaf: Leaf) -> Wanted:
    """A leaf under its own path and in its own layout."""
    path = "/".join(leaf.path)
    return Wanted(path, path, (leaf.shape,), leaf.shape, functools.partial(np.array, order="C"))


def completed(
    network: Network, arrays: Mapping[str, np.ndarray], key: jax.Array | None
) -> dict[str, Any]:
    """The tree of arrays by path, its classifier drawn where there is a key."""
    tree = {tuple(path.split("/")): array for path, array in arrays.items()}
    if key is not None:
        images = jnp.zeros((1, *network.input_shape))

        def heads(key: jax.Array) -> dict[tuple[str, ...], jax.Array]:
            drawn = flattened(network.init(key, images))
            return {path: leaf for path, leaf in drawn.items() if is_head(path[1:-1])}

        # Jitted, so that of the whole network only the classifier's numbers are drawn.
        tree |= {path: np.array(leaf) for path, leaf in jax.jit(heads)(key).items()}
    return unflatten_dict(dict(sorted(tree.items())))


def own_hints(
    network: Network,
    given: Mapping[str, np.ndarray],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
) -> list[str]:
    """What to write when classes or channels are others; names are paths here."""
    lines = []
    for name in misshapen:
        array = given[name]
        if is_head(tuple(name.split("/")[1:-1])) and name.endswith("/kernel"):
            lines += class_hint(array.shape[-1], network)
        elif array.ndim == 4 and array.shape[-2] != network.input_channels:
            lines += channel_hint(name, array.shape[-2], network)
    return lines[:2]


def class_hint(got: int, network: Network) -> list[str]:
    """What to write when the weights have another number of classes."""
    if got == network.num_classes:
        return []
    return [
        f"these weights tell {got} classes, the network {network.num_classes}: write "
        f"num_classes={got} for a network as theirs, or replace_head=True, "
        "key=jax.random.key(...) to draw the classifier anew and keep all else"
    ]


def channel_hint(place: str, got: int, network: Network) -> list[str]:
    """What to write when the weights are for images of other channels."""
    first = place.startswith(("params/conv0/", "params/stem/conv", "params/stage0/conv0/"))
    if not first or got == network.input_channels:
        return []
    return [
        f"these weights are for images of {got} channels, the network for "
        f"{network.input_channels}: write input_channels={got}, or convert the images"
    ]
