"""What does the recipe that the studies share reach on this data, and what do its parts give?

Five convolutions with batch normalisation in three stages, C, 2C and 4C wide, trained as the flags
say; and the same with one part of the recipe left out at a time.

Source: the parts' own papers; the network is of the kind of Page, "How to train your ResNet",
2018, and Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.
"""

from collections.abc import Mapping
from typing import Any

from experiments.config import Config
from experiments.names import check_name
from experiments.studies.arms import Arm, Study, Task, untuned
from experiments.studies.nets import columns, of_pattern

__all__ = ["recipe"]

# A part of the recipe, and the flags without it.
_PARTS: Mapping[str, Mapping[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.0},
    "flips": {"flip": False},
    "shifts": {"shift": 0},
    "cutout": {"cutout": 0},
    "test_flips": {"tta_flip": False},
    "weight_decay": {"weight_decay": 0.0},
}


def recipe(config: Config, task: Task) -> Study:
    """The network under the recipe, and without parts of it; see the module's text.

    Raises:
      ValueError: a part that there is not, none, or one that the recipe does not have.
    """
    parts = [name.strip() for name in config.without.split(",") if name.strip()]
    if not parts:
        raise ValueError(f"--without must name some of {', '.join(_PARTS)}")
    for part in parts:
        check_name("--without", part, _PARTS)
        if all(getattr(config, name) == value for name, value in _PARTS[part].items()):
            raise ValueError(f"--without names {part}, which the recipe does not have")
    width = config.channels
    stages = (
        f"CONV3-{width} -> BN -> RELU",
        f"[CONV3-{2 * width} -> BN -> RELU]*2",
        f"[CONV3-{4 * width} -> BN -> RELU]*2 -> GAP",
    )
    module = of_pattern(config, task, " -> POOL2 -> ".join(stages))
    account = columns(module, task)
    return Study(
        name="recipe",
        question="What does the recipe reach, and what do its parts give?",
        baseline="whole",
        headline_arm=f"without_{parts[0]}",
        arms=(
            Arm("whole", "the whole recipe", "the baseline", module, account),
            *(
                Arm(
                    f"without_{part}",
                    f"without {part.replace('_', ' ')}",
                    f"{part.replace('_', ' ')} left out",
                    module,
                    account,
                    settings=dict(_PARTS[part]),
                )
                for part in parts
            ),
        ),
        limits=(
            *untuned(config),
            "What a part gives depends on the other parts, on the length of the training and on "
            "the width of the network: parts left out one at a time do not add up.",
        ),
    )
