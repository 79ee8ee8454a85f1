"""What a study is made of: arms that differ in one factor, and what is held equal."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn

from experiments.studies.sets import Sets

__all__ = ["Arm", "Pretraining", "Study", "Task", "nearest_width"]


@dataclass(frozen=True)
class Task:
    """What the data asks of a network.

    Attributes:
      image_shape: (height, width, channels) of one image.
      num_classes: scores wanted.
      num_steps: optimiser steps of the whole run.
      class_names: of the classes, where the data is known.
      source: the sets of another task, where the study takes one from the data.
    """

    image_shape: tuple[int, int, int]
    num_classes: int
    num_steps: int
    class_names: tuple[str, ...] = ()
    source: Sets | None = None


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
    """

    name: str
    title: str
    differs_in: str
    module: nn.Module
    account: dict[str, int | float | str]
    initial: Pretraining | None = None
    trained: tuple[str, ...] | None = None


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
    """

    name: str
    question: str
    baseline: str
    headline_arm: str
    arms: tuple[Arm, ...]
    limits: tuple[str, ...]


def nearest_width(num_parameters: Callable[[int], int], target: int) -> int:
    """Width whose number of parameters is nearest to a target (the smaller of two equals).

    Args:
      num_parameters: parameters at a width of at least 1; must grow with the width.
      target: parameters wanted.

    >>> nearest_width(lambda width: 9 * width * width, 1000)
    11
    """
    low, high = 1, 2
    while num_parameters(high) < target:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if num_parameters(middle) < target else (low, middle)
    return min((low, high), key=lambda width: abs(num_parameters(width) - target))
