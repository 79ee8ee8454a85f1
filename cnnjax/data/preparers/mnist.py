"""MNIST (LeCun, Cortes, Burges, 1998): 60,000 + 10,000 handwritten digits, 28x28 grey."""

from typing import Any

from tensorflow_datasets.image_classification import mnist as official

from cnnjax.data.preparers import _idx, base

__all__ = ["Mnist"]


class Mnist(base.Preparer, official.MNIST):
    """Drop-in for TFDS's `mnist`: metadata and checksums are its own, reading needs no TF.

    >>> Mnist.name, str(Mnist.VERSION)
    ('mnist', '3.0.1')
    """

    name = "mnist"
    url_infos = official.MNIST.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return _idx.split_generators(self, dl_manager, self.URL)
