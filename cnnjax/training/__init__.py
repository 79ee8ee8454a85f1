"""Training as one XLA program: recipes, the program, the loop around it, checkpoints."""

from cnnjax.training.checkpoints import Checkpoints, Restored
from cnnjax.training.loop import Data, Epoch, Interrupted, Trial, train
from cnnjax.training.optimizers import RECIPES, Optimizer, Recipe, kernels_only, make_optimizer
from cnnjax.training.program import Evaluation, Program, State, stream

__all__ = [
    "RECIPES",
    "Checkpoints",
    "Data",
    "Epoch",
    "Evaluation",
    "Interrupted",
    "Optimizer",
    "Program",
    "Recipe",
    "Restored",
    "State",
    "Trial",
    "kernels_only",
    "make_optimizer",
    "stream",
    "train",
]
