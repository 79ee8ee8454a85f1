"""What a study takes of a data set: three sets to learn, and others to have learnt before."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cnnjax.data import Images, split_validation, stratified_indices
from experiments.config import Config

__all__ = ["Cut", "Sets", "all_classes", "of_classes", "with_validation"]


class Sets(NamedTuple):
    """Training, validation and test images of one task."""

    training: Images
    validation: Images
    test: Images


class Cut(NamedTuple):
    """What a study takes of a data set.

    Attributes:
      sets: of the task that its arms learn.
      source: of another task, for arms that start from a network which has learnt it; or None.
    """

    sets: Sets
    source: Sets | None = None


def all_classes(config: Config, training: Images, test: Images) -> Cut:
    """The whole data set, with a validation set from its training split."""
    return Cut(with_validation(config, training, test))


def with_validation(config: Config, training: Images, test: Images) -> Sets:
    """Sets whose validation images come from the training split, as the flags say.

    Raises:
      ValueError: nothing would be left to train on, or fewer than asked for.
    """
    if config.validation_size >= len(training.labels):
        raise ValueError(
            f"--validation_size={config.validation_size} leaves none of the "
            f"{len(training.labels)} training images of {config.dataset} to train on"
        )
    left, validation = split_validation(training, config.validation_size, config.split_seed)
    if config.train_size:
        left = _some(left, config)
    return Sets(left, validation, test)


def _some(images: Images, config: Config) -> Images:
    """As many training images as --train_size says, the classes in proportion."""
    num_images = len(images.labels)
    if config.train_size > num_images:
        raise ValueError(
            f"--train_size={config.train_size} is more than the {num_images} training images of "
            f"{config.dataset} that --validation_size={config.validation_size} leaves"
        )
    if config.train_size == num_images:
        return images
    chosen = stratified_indices(images.labels, config.train_size, config.split_seed)
    return Images(images.images[chosen], images.labels[chosen], images.class_names)


def of_classes(images: Images, classes: Sequence[int]) -> Images:
    """The images of some classes, in their order, labelled 0, 1, ... in the order of `classes`.

    Args:
      images: the images.
      classes: distinct labels.

    Raises:
      ValueError: a class twice, or one that the images do not have a name for.

    >>> digits = Images(np.zeros((4, 2, 2, 1), np.uint8), np.array([7, 5, 0, 7]), tuple("01234567"))
    >>> of_classes(digits, (5, 7)).labels, of_classes(digits, (5, 7)).class_names
    (array([1, 0, 1], dtype=int32), ('5', '7'))
    """
    num_classes = len(images.class_names)
    if len(set(classes)) != len(classes) or not all(0 <= c < num_classes for c in classes):
        raise ValueError(
            f"of_classes: classes must be distinct labels from 0 to {num_classes - 1}, got "
            f"{tuple(classes)}"
        )
    new_label = np.full(num_classes, -1, np.int32)
    new_label[list(classes)] = np.arange(len(classes))
    # An unlabelled image, -1, belongs to no class.
    labels = np.where(images.labels >= 0, new_label[images.labels], -1).astype(np.int32)
    chosen = labels >= 0
    names = tuple(images.class_names[c] for c in classes)
    return Images(images.images[chosen], labels[chosen], names)
