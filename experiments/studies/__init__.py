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
from experiments.studies.fine_tuning import fine_tuning, halves
from experiments.studies.sets import Cut, Sets, all_classes
from experiments.studies.stack_vs_large_kernel import stack_vs_large_kernel

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
    "fine_tuning": fine_tuning,
    "stack_vs_large_kernel": stack_vs_large_kernel,
}

# Studies that do not take the whole of a data set.
_CUTS: dict[str, Callable[[Config, Images, Images], Cut]] = {"fine_tuning": halves}

# Studies that make their data themselves; --dataset names what they make.
_MADE: dict[str, Callable[[Config], Cut]] = {}


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
