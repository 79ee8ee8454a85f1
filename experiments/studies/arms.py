"""What a study is made of: arms that differ in one factor, and what is held equal."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Images
from experiments.config import Config
from experiments.studies.sets import Sets

__all__ = [
    "Arm",
    "Curve",
    "Measured",
    "Order",
    "Pretraining",
    "Study",
    "Task",
    "Trained",
    "batches",
    "compute_dtype",
    "untuned",
]

# What the literature says of an arm against its partner; nothing where it says nothing.
Order = Literal["", "higher", "lower", "level"]


@dataclass(frozen=True)
class Task:
    """What the data asks of a network.

    Attributes:
      image_shape: (height, width, channels) of one image.
      num_classes: scores wanted.
      num_steps: optimiser steps of the whole run.
      class_names: of the classes, where the data is known.
      source: the sets of another task, where the study takes one from the data.
      training: the training images, for networks that are made from their statistics.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_steps: int
    class_names: tuple[str, ...] = ()
    source: Sets | None = None
    training: Images | None = None


@dataclass(frozen=True)
class Pretraining:
    """A training on another task, once a seed, that arms start from.

    Attributes:
      name: identifier beside those of the arms.
      title: how the progress bar calls it.
      module: the network, which shares layers with the arms' by name and shape.
      epochs: length.
      sets: what it learns.
      new_layers: layers at the top of the network that an arm draws anew.
    """

    name: str
    title: str
    module: nn.Module
    epochs: int
    sets: Sets
    new_layers: tuple[str, ...]


@dataclass(frozen=True)
class Arm:
    """One network of a study.

    Attributes:
      name: identifier in records, never changed once results exist.
      title: how reports call it.
      differs_in: the one factor in which it differs from the baseline.
      module: the network.
      account: columns of the arm table, the same keys in every arm of a study.
      initial: the training whose weights it starts from; None starts from those drawn.
      trained: layers at the top of the network that learn; None trains all.
      settings: flags in which it departs from the run's, by name, such as {"flip": True}; not
        those that say which data there are and how many steps are taken.
      sets: the data it learns and is tested on, of the sizes of the run's; None for the run's.
      against: name of the arm that it is compared with; None for the study's baseline, its own
        name for an arm that others are compared with and that is compared with none.
      published: what `Study.published` says of it against that arm, "higher", "lower" or "level";
        empty where it says nothing.
    """

    name: str
    title: str
    differs_in: str
    module: nn.Module
    account: dict[str, int | float | str]
    initial: Pretraining | None = None
    trained: tuple[str, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    sets: Sets | None = None
    against: str | None = None
    published: Order = ""


class Trained(NamedTuple):
    """A trained network as the measurements of a study see it.

    Attributes:
      arm: which.
      seed: of the trial.
      variables: the last ones, Flax collections.
      sets: what it learnt and was tested on.
      normalize: uint8 images to what the network takes.
      scores: uint8 images (N, height, width, channels) to scores (N, classes), in batches.

    `accuracy(part)` is the fraction of images that the scores classify as they are labelled.
    """

    arm: Arm
    seed: int
    variables: Any
    sets: Sets
    normalize: Callable[[jax.Array], jax.Array]
    scores: Callable[[np.ndarray], np.ndarray]

    def accuracy(self, part: Images) -> float:
        """The fraction of images whose highest score is that of their label."""
        return float(np.mean(self.scores(part.images).argmax(axis=-1) == part.labels))


class Curve(NamedTuple):
    """A number of one trained network against another number.

    Attributes:
      title: of the plot, the same for all arms, as all but `y` and `marks`.
      x_title: with its unit.
      y_title: with its unit.
      x: where it was measured.
      y: the measurements, finite.
      marks: values of x that theory singles out for this arm.
      observed: values of x measured of this network, to be held against the marks.
    """

    title: str
    x_title: str
    y_title: str
    x: tuple[float, ...]
    y: tuple[float, ...]
    marks: tuple[float, ...] = ()
    observed: tuple[float, ...] = ()


class Measured(NamedTuple):
    """What a study measures of a trained network, beyond its accuracy on the test set.

    Attributes:
      curves: by name.
      outcome: a fraction that the arms are compared by in place of the test accuracy; what it is
        says `Study.outcome`.
    """

    curves: Mapping[str, Curve] = {}
    outcome: float | None = None


@dataclass(frozen=True)
class Study:
    """A question and the arms that answer it.

    Attributes:
      name: identifier in flags and records.
      question: one sentence with a question mark.
      baseline: name of the arm that the others are compared with.
      headline_arm: name of the arm whose difference answers the question.
      arms: the baseline and the others, in the order of the tables.
      limits: what the comparison does not settle, one sentence each.
      measure: what is measured of each trained network; None for its accuracy alone. The same
        network, seed and data must give the same numbers.
      outcome: what the arms are compared by, as in "points of test accuracy".
      published: the claim of the literature that the arms can bear out, with its source; empty
        where there is none.
    """

    name: str
    question: str
    baseline: str
    headline_arm: str
    arms: tuple[Arm, ...]
    limits: tuple[str, ...]
    measure: Callable[[Trained], Measured] | None = None
    outcome: str = "test accuracy"
    published: str = ""

    def __post_init__(self) -> None:
        """Refuse names that are no arm's.

        Raises:
          ValueError: naming what points nowhere, or an arm that stands twice.
        """
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"Study: two arms of {self.name} have one name: {names}")
        pointed = [self.baseline, self.headline_arm, *(arm.against for arm in self.arms)]
        for name in pointed:
            if name is not None and name not in names:
                raise ValueError(f"Study: {name!r} is no arm of {self.name}; it has {names}")


def batches(images: np.ndarray, size: int = 500) -> Iterator[tuple[int, np.ndarray]]:
    """Images in batches of one size, the last filled up, so that it needs no program of its own.

    Args:
      images: (N, ...), at least one.
      size: of a batch; fewer images are one batch.

    Yields:
      Index of the first image, and the batch; what is beyond N is zeros.

    >>> [(first, batch.tolist()) for first, batch in batches(np.array([1, 2, 3]), 2)]
    [(0, [1, 2]), (2, [3, 0])]
    """
    size = min(size, len(images))
    padded = np.concatenate([images, np.zeros_like(images[: -len(images) % size])])
    for first in range(0, len(padded), size):
        yield first, padded[first : first + size]


def compute_dtype(config: Config) -> Any:
    """The `dtype` option of a study's networks: None for float32, which leaves the input's.

    >>> compute_dtype(Config()), compute_dtype(Config(compute_dtype="bfloat16")).__name__
    (None, 'bfloat16')
    """
    return None if config.compute_dtype == "float32" else jnp.dtype(config.compute_dtype).type


def untuned(config: Config) -> tuple[str, ...]:
    """The limit that holds where the learning rate was not tuned for each arm, if it was not."""
    if config.tune:
        return ()
    return (
        "The learning rate and the other settings are the same in every arm and were not "
        "re-tuned per arm.",
    )
