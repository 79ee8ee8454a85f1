"""Weights from wherever they are, by one name."""

import os
from pathlib import Path
from typing import Any

from cnnjax.models import Network
from cnnjax.weights.checkpoints import load_checkpoint
from cnnjax.weights.files import load_numpy, load_safetensors, readable
from cnnjax.weights.hub import from_hub
from cnnjax.weights.loaded import Loaded

__all__ = ["load"]

_HUB = "hf:"


def load(network: str | Network, source: str | os.PathLike[str], **options: Any) -> Loaded:
    """Weights and what is known of them, from a file, a checkpoint or the hub.

    | source | read by |
    |---|---|
    | a path that ends in .safetensors | `load_safetensors` |
    | a path that ends in .npz | `load_numpy` |
    | a directory | `load_checkpoint` |
    | hf:owner/name, hf:owner/name@revision, or hf: for the usual one | `from_hub` |

    Args:
      network: name of a network, or one made by `models.create`.
      source: where the weights are.
      **options: as the function that reads it takes them: num_classes, replace_head, key, and with
        a name the network's own.

    Returns:
      The network, its variables, preprocessing and class names.

    Raises:
      WeightsError: weights that cannot be read, do not fit, or are a pickle.
      TypeError, ValueError: as in `from_torch`.

    >>> load("resnet50", "resnet50.pth")
    Traceback (most recent call last):
    ...
    cnnjax.weights.errors.WeightsError: load: resnet50.pth is not read: ...
    """
    if isinstance(source, str) and source.startswith(_HUB):
        repo, _, revision = source.removeprefix(_HUB).partition("@")
        return from_hub(network, repo or None, revision=revision or None, **options)
    path = Path(source)
    if path.is_dir():
        return load_checkpoint(network, path, **options)
    path = readable("load", path, (".safetensors", ".npz"))
    read = load_numpy if path.suffix == ".npz" else load_safetensors
    return read(network, path, **options)
