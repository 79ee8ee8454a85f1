"""What does the recipe that the studies share reach on this data, and what do its parts give?

Six convolutions with batch normalisation in four stages, C, 2C, 4C and 8C wide, trained as the
flags say; and the same with one part of the recipe left out at a time. `--without=` leaves none
out: one arm, which is compared with nothing.

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
_ADDING_UP = (
    "What a part gives depends on the other parts, on the length of the training and on the width "
    "of the network: parts left out one at a time do not add up."
)
_ALONE = "One arm says what the whole reaches, not what any part of it gives."


def recipe(config: Config, task: Task) -> Study:
    """The network under the recipe, and without parts of it; see the module's text.

    Raises:
      ValueError: a part that there is not, or one that the recipe does not have.
    """
    parts = [name.strip() for name in config.without.split(",") if name.strip()]
    for part in parts:
        check_name("--without", part, _PARTS)
        if all(getattr(config, name) == value for name, value in _PARTS[part].items()):
            raise ValueError(f"--without names {part}, which the recipe does not have")
    width = config.channels
    # The 28 pixels of MNIST come to 7, which windows of 2 do not tile.
    pool = " -> POOL2[fit=ceil] -> "
    stages = (
        f"CONV3-{width} -> BN -> RELU",
        f"[CONV3-{2 * width} -> BN -> RELU]*2",
        f"[CONV3-{4 * width} -> BN -> RELU]*2",
        f"CONV3-{8 * width} -> BN -> RELU -> GAP",
    )
    module = of_pattern(config, task, pool.join(stages))
    account = columns(module, task)
    return Study(
        name="recipe",
        question=f"What does the recipe reach{', and what do its parts give' if parts else ''}?",
        baseline="whole",
        headline_arm=f"without_{parts[0]}" if parts else "whole",
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
        limits=(*untuned(config), _ADDING_UP) if parts else (_ALONE,),
    )
