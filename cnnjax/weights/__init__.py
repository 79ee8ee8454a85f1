"""Weights: those of PyTorch's libraries, of files, of the hub and of checkpoints.

`from_torch` and `to_torch` stay in memory and give variables and state dicts. Whatever reads from
somewhere gives `Loaded`: the network, its variables, its preprocessing and its class names; `load`
chooses the reader by the source. Nothing here reads a pickle.
"""

from cnnjax.weights.checkpoints import load_checkpoint, save_checkpoint
from cnnjax.weights.errors import WeightsError
from cnnjax.weights.files import load_numpy, load_safetensors, save_safetensors
from cnnjax.weights.hub import HUB_REPOSITORIES, from_hub
from cnnjax.weights.imagenet import imagenet_class_names
from cnnjax.weights.loaded import Loaded
from cnnjax.weights.loading import load
from cnnjax.weights.preprocessing import (
    Preprocessing,
    from_config,
    preprocess,
    preprocessing,
    resized_shape,
)
from cnnjax.weights.torch_format import from_torch, to_torch, torch_shapes

__all__ = [
    "HUB_REPOSITORIES",
    "Loaded",
    "Preprocessing",
    "WeightsError",
    "from_config",
    "from_hub",
    "from_torch",
    "imagenet_class_names",
    "load",
    "load_checkpoint",
    "load_numpy",
    "load_safetensors",
    "preprocess",
    "preprocessing",
    "resized_shape",
    "save_checkpoint",
    "save_safetensors",
    "to_torch",
    "torch_shapes",
]
