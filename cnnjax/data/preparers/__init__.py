"""Our TFDS builders that need no TensorFlow, one dataset a file.

`mnist`, `fashion_mnist`, `cifar10` and `cifar100` are drop-ins for TFDS's own builders: same
name, version, features, example ids, order, pixels and splits, from archives with the checksums
that TFDS registers. Once prepared they are read by plain `tfds.data_source`. `mnist_5k` is ours.
Importing this package does not import TFDS.
"""

import importlib
from pathlib import Path
from typing import Any

__all__ = ["PREPARERS", "SPLITS", "builder_class", "can_prepare", "prepare"]

PREPARERS = {
    "mnist_5k": "Mnist5k",
    "mnist": "Mnist",
    "fashion_mnist": "FashionMnist",
    "cifar10": "Cifar10",
    "cifar100": "Cifar100",
}
"""The class of each dataset; it lives in the module that has the dataset's name."""

SPLITS = ("train", "test")
"""What each of them is divided into, known before anything is prepared."""


def builder_class(name: str) -> Any:
    """The builder of one of PREPARERS; imports TFDS.

    >>> builder_class("cifar10").VERSION
    Version('3.0.2')
    """
    module = importlib.import_module(f"cnnjax.data.preparers.{name}")
    return getattr(module, PREPARERS[name])


def can_prepare(name: str, config: str | None = None, version: str | None = None) -> bool:
    """Whether this dataset, of this config and version, can be prepared here.

    >>> can_prepare("cifar10"), can_prepare("imagenet2012")
    (True, False)
    """
    if name not in PREPARERS or config is not None:
        return False
    return version is None or version == str(builder_class(name).VERSION)


def prepare(name: str, data_dir: Path) -> Path:
    """Prepares one of PREPARERS in `data_dir` unless it is there already.

    Args:
      name: one of PREPARERS.
      data_dir: made where it does not exist.

    Returns:
      The dataset's version directory.

    Raises:
      DatasetUnavailableError: its archives are not there and there is no network.
      DatasetCorruptError: its archives are not what TFDS registers, or the directory is damaged.
      OSError: the directory cannot be written.
    """
    from cnnjax.data.preparers import base

    return base.prepare(builder_class(name), Path(data_dir))
