"""Training as one XLA program: recipes, program, loop, checkpoints; and averages."""

from cnnjax.training.averages import (
    Averaging,
    exponential_moving_average,
    refresh_batch_stats,
    stochastic_weight_average,
)
from cnnjax.training.checkpoints import Checkpoints, Restored
from cnnjax.training.ensembles import average_predictions, ensemble, stack_variables
from cnnjax.training.loop import Data, Epoch, Interrupted, Trial, train
from cnnjax.training.losses import cross_entropy, smoothed_targets
from cnnjax.training.optimizers import RECIPES, Optimizer, Recipe, kernels_only, make_optimizer
from cnnjax.training.program import Evaluation, Program, State
from cnnjax.training.streams import Draws, stream

__all__ = [
    "RECIPES",
    "Averaging",
    "Checkpoints",
    "Data",
    "Draws",
    "Epoch",
    "Evaluation",
    "Interrupted",
    "Optimizer",
    "Program",
    "Recipe",
    "Restored",
    "State",
    "Trial",
    "average_predictions",
    "cross_entropy",
    "ensemble",
    "exponential_moving_average",
    "kernels_only",
    "make_optimizer",
    "refresh_batch_stats",
    "smoothed_targets",
    "stack_variables",
    "stochastic_weight_average",
    "stream",
    "train",
]
