"""CIFAR-10 (Krizhevsky, 2009): 50,000 + 10,000 colour images of ten classes, 32x32."""

from typing import Any

from tensorflow_datasets.image_classification import cifar as official

from cnnjax.data.preparers import _cifar, base

__all__ = ["Cifar10"]


class Cifar10(base.Preparer, official.Cifar10):
    """Drop-in for TFDS's `cifar10`: metadata and checksums are its own, reading needs no TF.

    >>> Cifar10.name, str(Cifar10.VERSION)
    ('cifar10', '3.0.2')
    """

    name = "cifar10"
    url_infos = official.Cifar10.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return _cifar.split_generators(self, dl_manager)
