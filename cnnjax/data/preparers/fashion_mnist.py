"""Fashion-MNIST (Xiao, Rasul, Vollgraf, 2017): 60,000 + 10,000 articles, 28x28 grey."""

from typing import Any

from tensorflow_datasets.image_classification import mnist as official

from cnnjax.data.preparers import _idx, base

__all__ = ["FashionMnist"]


class FashionMnist(base.Preparer, official.FashionMNIST):
    """Drop-in for TFDS's `fashion_mnist`: metadata and checksums are its own.

    >>> FashionMnist.name, str(FashionMnist.VERSION)
    ('fashion_mnist', '3.0.1')
    """

    name = "fashion_mnist"
    url_infos = official.FashionMNIST.url_infos

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return _idx.split_generators(self, dl_manager, self.URL)
