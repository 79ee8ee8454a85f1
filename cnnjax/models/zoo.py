"""The classic networks by name."""

import difflib
import fnmatch
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cnnjax.models import (
    alexnet,
    all_cnn,
    cifar_convnet,
    cifar_resnet,
    fractional,
    googlenet,
    lenet,
    resnet,
    unet,
    vgg,
    zfnet,
)
from cnnjax.models.network import Network, options_of

__all__ = ["NETWORKS", "create", "names"]

_FILES = (
    lenet,
    alexnet,
    zfnet,
    vgg,
    resnet,
    cifar_resnet,
    googlenet,
    all_cnn,
    fractional,
    cifar_convnet,
    unet,
)

# Each file's networks as published; `create` copies one with other options.
NETWORKS: Mapping[str, Network] = MappingProxyType(
    {name: network for file in _FILES for name, network in file.NETWORKS.items()}
)


def create(name: str, num_classes: int | None = None, **options: Any) -> Network:
    """A classic network by its name, as published but for what is asked otherwise.

    Args:
      name: one of `names()`.
      num_classes: scores an image, 0 for the features that the head would see; by default as
        published.
      **options: fields of the network's class, those of `cnnjax.models.Network` and its own:
        input_channels, features, output_stride, norm, activation, dropout, dtype, ...

    Returns:
      A Flax module, `net.apply(variables, images, train=...)`.

    Raises:
      ValueError: an unknown name, or an option that the network cannot take.
      TypeError: an option that it does not have.

    >>> import jax, jax.numpy as jnp
    >>> net = create("vgg11", num_classes=10, input_channels=1, hidden=32)
    >>> shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 64, 64, 1)))
    >>> shapes["params"]["head"]["kernel"].shape
    (32, 10)
    """
    if name not in NETWORKS:
        near = difflib.get_close_matches(str(name), NETWORKS, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(
            f"create: no network is called {name!r}; {hint}models.names() lists all {len(NETWORKS)}"
        )
    network = NETWORKS[name]
    if unknown := sorted(set(options) - set(options_of(network))):
        raise TypeError(
            f"create: {name} has no option {', '.join(unknown)}; it takes "
            f"{', '.join(options_of(network))}"
        )
    if num_classes is not None:
        options["num_classes"] = num_classes
    return network.clone(**options)


def names(pattern: str = "*") -> tuple[str, ...]:
    """Names of the networks, those that match a pattern of the shell.

    >>> names("vgg1?")
    ('vgg11', 'vgg13', 'vgg16', 'vgg19')
    """
    return tuple(name for name in NETWORKS if fnmatch.fnmatchcase(name, pattern))
