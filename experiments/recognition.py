"""Class probabilities of photographs, by one network or several, from one view of each or many.

A view is what the network is shown: the centre, its mirror, ten crops, or every position of the
photograph at one size or several. Probabilities are averaged over views, then over networks.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from PIL import Image

from cnnjax import surgery, weights
from cnnjax.models import Network

__all__ = ["TTA", "Recognizer", "Views"]

Item = TypeVar("Item")

TTA = ("none", "flip", "ten_crop")


@dataclasses.dataclass(frozen=True)
class Views:
    """What of each photograph is shown.

    Attributes:
      tta: "none", the centre or the whole; "flip", its mirror too; "ten_crop", corners, centre and
        their mirrors (Krizhevsky et al., 2012).
      dense: whether every position of the whole photograph is scored (VGG's dense evaluation).
      sizes: of a dense evaluation, pixels of the shorter side; empty for the published one.
      stride: of a dense evaluation, pixels between positions; None for the network's.
    """

    tta: str = "none"
    dense: bool = False
    sizes: tuple[int, ...] = ()
    stride: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that do not go together.

        Raises:
          ValueError: naming the flag.
        """
        if self.tta not in TTA:
            raise ValueError(f"--tta must be one of {', '.join(TTA)}, got {self.tta!r}")
        if self.dense and self.tta == "ten_crop":
            raise ValueError("--tta=ten_crop crops, --dense scores all positions: give one of them")
        if not self.dense and (self.sizes or self.stride is not None):
            raise ValueError("--sizes and --stride are for --dense")

    def check(self, network: Network, preprocessing: weights.Preprocessing) -> None:
        """Refuse views that the network cannot be shown.

        Raises:
          ValueError: a size below the network's, a stride that does not divide its own, or crops
            of photographs that are not larger than the network's images.
        """
        if self.tta == "ten_crop" and preprocessing.crop_fraction > 1:
            raise ValueError(
                f"--tta=ten_crop: photographs are made {preprocessing.resize_size} pixels large, "
                f"crops are {preprocessing.image_size}"
            )
        least, own = max(network.image_size), network.feature_info[-1].reduction
        for size in self.sizes:
            if size < least:
                raise ValueError(f"--sizes: {size} is below {least}, the network's own")
        if self.stride is not None and (self.stride < 1 or own % self.stride):
            raise ValueError(f"--stride={self.stride} does not divide {own}, the network's own")


class Recognizer:
    """Networks that look at photographs together.

    Attributes:
      network: their architecture.
      preprocessing: how photographs become inputs.
    """

    def __init__(
        self,
        network: Network,
        variables: Sequence[Mapping[str, Any]],
        preprocessing: weights.Preprocessing,
        views: Views,
        batch_size: int,
    ) -> None:
        """Describe the recogniser; nothing is compiled yet.

        Args:
          network: the architecture.
          variables: one tree a network.
          preprocessing: how photographs become inputs.
          views: what is shown of each.
          batch_size: photographs at once where they are of one size.

        Raises:
          ValueError: views that the network cannot be shown.
        """
        views.check(network, preprocessing)
        self.network, self.preprocessing = network, preprocessing
        self._variables, self._views, self._batch_size = variables, views, batch_size
        self._apply: Any = jax.jit(functools.partial(network.apply, train=False))
        self._slide: Any = jax.jit(
            lambda variables, x: surgery.average_scores(
                surgery.dense_scores(network, variables, x, stride=views.stride)
            )
        )

    def probabilities(self, photographs: Sequence[Image.Image]) -> np.ndarray:
        """Probabilities of shape (photographs, classes), float64; each row sums to 1."""
        shown = self._dense if self._views.dense else self._cropped
        means = [shown(variables, photographs) for variables in self._variables]
        return np.mean(means, axis=0)

    def batches(self, items: Sequence[Item]) -> Iterator[Sequence[Item]]:
        """The items, at most a batch at a time."""
        for start in range(0, len(items), self._batch_size):
            yield items[start : start + self._batch_size]

    def _cropped(self, variables: Any, photographs: Sequence[Image.Image]) -> np.ndarray:
        views = np.stack([self._crops(photograph) for photograph in photographs])
        num, num_views = views.shape[:2]
        # Filled up, so that one program serves the last batch too.
        missing = self._batch_size - num
        views = np.pad(views, [(0, missing)] + [(0, 0)] * (views.ndim - 1))
        scores = self._apply(variables, views.reshape(-1, *views.shape[2:]))
        found = _softmax(scores).reshape(self._batch_size, num_views, -1)
        return found.mean(axis=1)[:num]

    def _crops(self, photograph: Image.Image) -> np.ndarray:
        """(views, height, width, channels)."""
        if self._views.tta == "ten_crop":
            whole = self._whole(photograph, self.preprocessing.resize_size)
            return np.asarray(surgery.ten_crop(whole, self.preprocessing.image_size))
        return self._mirrored(weights.preprocess(photograph, self.preprocessing))

    def _dense(self, variables: Any, photographs: Sequence[Image.Image]) -> np.ndarray:
        """One at a time, as no two photographs need be of one size."""
        found = []
        for photograph in photographs:
            views = []
            for size in self._views.sizes or (self.preprocessing.resize_size,):
                x = self._mirrored(self._whole(photograph, size))
                # Scores are averaged over positions before the softmax, as in the paper.
                views.append(_softmax(self._slide(variables, x)))
            found.append(np.concatenate(views).mean(axis=0))
        return np.stack(found)

    def _mirrored(self, x: np.ndarray) -> np.ndarray:
        return np.stack([x, x[:, ::-1]] if self._views.tta == "flip" else [x])

    def _whole(self, photograph: Image.Image, size: int | tuple[int, int] | None) -> np.ndarray:
        """The whole photograph at a size, as the network takes it."""
        record = dataclasses.replace(self.preprocessing, resize_size=size)
        shape = weights.resized_shape(photograph.height, photograph.width, size)
        return weights.preprocess(photograph, dataclasses.replace(record, image_size=shape))


def _softmax(scores: jax.Array) -> np.ndarray:
    return np.asarray(jax.nn.softmax(scores, axis=-1), np.float64)
