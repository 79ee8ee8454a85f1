"""One question a file: each study is a pure function from a config to arms."""

from collections.abc import Callable

from cnnjax import data as datasets
from cnnjax.data import Images
from experiments.config import Config
from experiments.studies.arms import (
    Arm,
    Curve,
    Measured,
    Pretraining,
    Study,
    Task,
    Trained,
)
from experiments.studies.augmentation import augmentation
from experiments.studies.depth import depth
from experiments.studies.dropout import dropout
from experiments.studies.ensemble import ensemble
from experiments.studies.fine_tuning import fine_tuning, halves
from experiments.studies.fractional_max_pooling import fractional_max_pooling, framed
from experiments.studies.head import head
from experiments.studies.initialisation import initialisation
from experiments.studies.normalisation import normalisation
from experiments.studies.padding import anywhere, padding
from experiments.studies.pooling_kind import pooling_kind
from experiments.studies.pooling_vs_stride import pooling_vs_stride
from experiments.studies.receptive_field_probe import receptive_field_probe, two_marks
from experiments.studies.recipe import recipe
from experiments.studies.sets import Cut, Sets, all_classes
from experiments.studies.sharing import centered_and_shifted, sharing
from experiments.studies.stack_vs_large_kernel import stack_vs_large_kernel
from experiments.studies.translation import shifted_crops, translation

__all__ = [
    "STUDIES",
    "Arm",
    "Curve",
    "Cut",
    "Measured",
    "Pretraining",
    "Sets",
    "Study",
    "Task",
    "Trained",
    "cut",
    "sets_of",
]

STUDIES: dict[str, Callable[[Config, Task], Study]] = {
    "augmentation": augmentation,
    "depth": depth,
    "dropout": dropout,
    "ensemble": ensemble,
    "fine_tuning": fine_tuning,
    "fractional_max_pooling": fractional_max_pooling,
    "head": head,
    "initialisation": initialisation,
    "normalisation": normalisation,
    "padding": padding,
    "pooling_kind": pooling_kind,
    "pooling_vs_stride": pooling_vs_stride,
    "receptive_field_probe": receptive_field_probe,
    "recipe": recipe,
    "sharing": sharing,
    "stack_vs_large_kernel": stack_vs_large_kernel,
    "translation": translation,
}

# Studies that do not take the whole of a data set.
_CUTS: dict[str, Callable[[Config, Images, Images], Cut]] = {
    "fine_tuning": halves,
    "fractional_max_pooling": framed,
    "padding": anywhere,
    "sharing": centered_and_shifted,
    "translation": shifted_crops,
}

# Studies that make their data themselves; --dataset names what they make.
_MADE: dict[str, Callable[[Config], Cut]] = {"receptive_field_probe": two_marks}


def sets_of(config: Config) -> Cut:
    """What the config's study takes of the data set that the config names, or makes itself.

    Raises:
      DatasetError: the data set is not prepared and cannot be.
      ValueError: the data set does not have what the flags ask for.
    """
    if config.study in _MADE:
        return _MADE[config.study](config)
    training, test = (
        datasets.load(config.dataset, split, config.data_dir) for split in ("train", "test")
    )
    return cut(config, training, test)


def cut(config: Config, training: Images, test: Images) -> Cut:
    """What the config's study takes of a data set.

    Args:
      config: names the study and says how to cut.
      training: the training split.
      test: the test split.

    Raises:
      ValueError: the data set does not have what the flags ask for.
    """
    return _CUTS.get(config.study, all_classes)(config, training, test)
