"""What a file of weights gives."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.models import Network
from cnnjax.weights._trees import resolved
from cnnjax.weights.imagenet import imagenet_class_names
from cnnjax.weights.preprocessing import Preprocessing, preprocessing
from cnnjax.weights.torch_format import fit_state, head_classes

__all__ = ["Loaded", "from_state", "loaded_of"]

_NUM_IMAGENET = 1000


class Loaded(NamedTuple):
    """Weights and what is known of them.

    Attributes:
      network: the network that the variables are for, `network.apply(variables, images)`.
      variables: {"params": ..., "batch_stats": ...}, trees of NumPy arrays.
      preprocessing: how images become inputs; None where neither the file nor the network tells.
      class_names: one a class, or None where nobody knows them.
    """

    network: Network
    variables: dict[str, Any]
    preprocessing: Preprocessing | None
    class_names: tuple[str, ...] | None

    def with_class_names(self, names: Sequence[str]) -> "Loaded":
        """With these names, unless the network is one of other classes."""
        if len(names) != self.network.num_classes:
            return self._replace(class_names=None)
        return self._replace(class_names=tuple(names))


def from_state(
    network: str | Network,
    state: Mapping[str, np.ndarray],
    title: str,
    *,
    num_classes: int | None,
    replace_head: bool,
    key: jax.Array | None,
    options: Mapping[str, Any],
) -> Loaded:
    """A state dict that was read from somewhere, which the errors name.

    Raises:
      WeightsError: it does not fit.
    """
    if isinstance(network, str) and num_classes is None and not replace_head:
        num_classes = head_classes(resolved(title, network, None, options), state)
    network = resolved(title, network, num_classes, options)
    variables = fit_state(title, network, state, replace_head, key)
    return loaded_of(network, variables, names_known=not replace_head)


def loaded_of(network: Network, variables: dict[str, Any], *, names_known: bool) -> Loaded:
    """Variables with what is usual for the network."""
    record = preprocessing(network) if network.input_channels in (1, 3) else None
    # Every published network of 1,000 classes is one of ImageNet.
    imagenet = names_known and network.num_classes == _NUM_IMAGENET
    return Loaded(network, variables, record, imagenet_class_names() if imagenet else None)
