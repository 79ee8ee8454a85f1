"""CIFAR-100 (Krizhevsky, 2009): 50,000 + 10,000 images of 100 classes in 20 groups, 32x32."""

from typing import Any

from tensorflow_datasets.image_classification import cifar as official

from cnnjax.data.preparers import _cifar, base

__all__ = ["Cifar100"]


class Cifar100(base.Preparer, official.Cifar100):
    """Drop-in for TFDS's `cifar100`; `load` reads the fine label, as its supervised_keys say.

    >>> Cifar100.name, str(Cifar100.VERSION)
    ('cifar100', '3.0.2')
    """

    name = "cifar100"
    url_infos = official.Cifar100.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return _cifar.split_generators(self, dl_manager)
