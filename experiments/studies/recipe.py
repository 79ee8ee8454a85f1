"""What does the recipe that the studies share reach on this data, and what do its parts give?

Jordan's airbench network, C, 4C and 8C wide, trained as the flags say: patches of the training
images whitened by a first layer that is computed and not learnt, convolutions that start as the
identity, a maximum over the last positions. And the same with one part of the recipe left out at a
time. `--without=` leaves none out: one arm, which is compared with nothing.

Source: the parts' own papers; the network is that of Jordan, "94% on CIFAR-10 in 3.29 Seconds on a
Single GPU", 2024, with the widths of hlb-CIFAR10 (Balsam, 2023), which it descends from.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from cnnjax.data import Images, patch_whitening
from cnnjax.models import AirbenchNet
from experiments.config import Config
from experiments.names import check_name
from experiments.programs import make_normalize
from experiments.studies.arms import Arm, Study, Task, compute_dtype, untuned
from experiments.studies.nets import columns

__all__ = ["recipe"]

# A part of the recipe, and the flags without it.
_FLAGS: Mapping[str, Mapping[str, Any]] = {
    "label_smoothing": {"label_smoothing": 0.0},
    "flips": {"flip": False},
    "shifts": {"shift": 0},
    "cutout": {"cutout": 0},
    "test_flips": {"tta_flip": False},
    "test_shifts": {"tta_shift": 0},
    "weight_decay": {"weight_decay": 0.0},
}
# A part of the network, and its options without it.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "whitening": {"whitening": None},
    "identity": {"identity": False},
}
_TITLES = {"identity": "starting as the identity"}
# Whose patches are whitened, of the training set; Jordan takes as many.
_NUM_WHITENED = 5_000
_ADDING_UP = (
    "What a part gives depends on the other parts, on the length of the training and on the width "
    "of the network: parts left out one at a time do not add up."
)
_ALONE = "One arm says what the whole reaches, not what any part of it gives."


def recipe(config: Config, task: Task) -> Study:
    """The network under the recipe, and without parts of it; see the module's text.

    Raises:
      ValueError: a part that there is not, or one that the recipe does not have; a task without
        training images.
    """
    if task.training is None:
        raise ValueError(
            "--study=recipe whitens patches of the training images and has no arms without them; "
            "run it by experiments.ablate"
        )
    parts = [name.strip() for name in config.without.split(",") if name.strip()]
    for part in parts:
        check_name("--without", part, {**_FLAGS, **_OPTIONS})
        flags = _FLAGS.get(part, {})
        if flags and all(getattr(config, name) == value for name, value in flags.items()):
            raise ValueError(f"--without names {part}, which the recipe does not have")
    width = config.channels
    options: dict[str, Any] = {
        "widths": (width, 4 * width, 8 * width),
        "whitening": nn.initializers.constant(_whitening(task.training)),
        "dtype": compute_dtype(config),
    }

    def arm(name: str, title: str, differs_in: str, part: str = "") -> Arm:
        module = AirbenchNet(task.num_classes, **{**options, **_OPTIONS.get(part, {})})
        account = columns(module, task)
        return Arm(name, title, differs_in, module, account, settings=dict(_FLAGS.get(part, {})))

    def without(part: str) -> Arm:
        title = _TITLES.get(part, part.replace("_", " "))
        return arm(f"without_{part}", f"without {title}", f"{title} left out", part)

    return Study(
        name="recipe",
        question=f"What does the recipe reach{', and what do its parts give' if parts else ''}?",
        baseline="whole",
        headline_arm=f"without_{parts[0]}" if parts else "whole",
        arms=(arm("whole", "the whole recipe", "the baseline"), *map(without, parts)),
        limits=(*untuned(config), _ADDING_UP) if parts else (_ALONE,),
    )


def _whitening(training: Images) -> jnp.ndarray:
    """The kernel that whitens patches of the first images as the network gets them."""
    some = make_normalize(training)(jnp.asarray(training.images[:_NUM_WHITENED]))
    return jnp.asarray(patch_whitening(np.asarray(some), window=2))
