"""What every suite measures on: the study's arms, made-up images, the ablation's own program."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import data as datasets
from cnnjax.data import Images
from cnnjax.training import Draws, Optimizer, Program, make_optimizer
from experiments import programs
from experiments.config import Config
from experiments.studies import STUDIES, Arm, Study, Task

__all__ = ["IMAGE_SHAPE", "Setting", "Trainer"]

# The images of the default data set, mnist_5k.
IMAGE_SHAPE = (28, 28, 1)
_NUM_CLASSES = 10


@dataclass(frozen=True)
class Setting:
    """How the suites measure.

    Attributes:
      config: of the ablation whose training is measured.
      rounds: timed calls of each contender.
      steps: training steps a timed call, which is one epoch of the made-up training set.
      only: the operations that the suite "ops" measures; all of them where there is none.
    """

    config: Config
    rounds: int
    steps: int
    only: tuple[str, ...] = ()

    @property
    def num_train(self) -> int:
        """Images of the training set: those of one timed call."""
        return self.steps * self.config.batch_size

    @property
    def num_epochs(self) -> int:
        """Length of the schedule: no shorter than what is timed, so that the rate stays above 0."""
        return max(self.config.epochs, self.rounds + 2)

    @functools.cached_property
    def study(self) -> Study:
        """The study of the config, for images as in its default data set."""
        task = Task(IMAGE_SHAPE, _NUM_CLASSES, self.num_epochs * self.steps)
        return STUDIES[self.config.study](self.config, task)

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.study.arms if arm.name == name)

    @property
    def key_arms(self) -> tuple[Arm, Arm]:
        """The baseline and the arm that answers the question, where all arms would be too many."""
        return self.arm(self.study.baseline), self.arm(self.study.headline_arm)

    @functools.cached_property
    def images(self) -> np.ndarray:
        """uint8 training images of noise, (num_train, height, width, channels)."""
        shape = (self.num_train, *IMAGE_SHAPE)
        return np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int32 labels, (num_train,)."""
        return np.random.default_rng(1).integers(0, _NUM_CLASSES, self.num_train, np.int32)

    @functools.cached_property
    def statistics(self) -> datasets.ChannelStatistics:
        """Mean and standard deviation that normalising removes."""
        return datasets.channel_statistics(self.images)

    def normalize(self, images: jax.Array) -> jax.Array:
        """Normalise as `experiments.ablate` does."""
        return datasets.normalize(images, *self.statistics)

    def augment(self, key: jax.Array, images: jax.Array) -> jax.Array:
        """Augment as `experiments.ablate` does."""
        draws = Draws(key, key, jnp.arange(len(images)), jnp.int32(0))
        return programs.augment(self.config, draws, images)

    def optimizer(self) -> Optimizer:
        """The optimiser that the config describes."""
        return make_optimizer(
            self.config.optimization(), num_epochs=self.num_epochs, steps_per_epoch=self.steps
        )

    def program(self, arm: Arm, num_seeds: int = 1) -> Program:
        """The program of an arm, not yet compiled."""
        training = Images(self.images, self.labels, tuple(map(str, range(_NUM_CLASSES))))
        return programs.make_program(
            arm.module, self.config, training, num_epochs=self.num_epochs, num_seeds=num_seeds
        )


class Trainer:
    """Trains on and on, an epoch a call, as the ablation does within its first epochs."""

    def __init__(self, program: Program, setting: Setting, seeds: list[int]) -> None:
        """Put the data on the device and draw the weights.

        Args:
          program: of `Setting.program`, for as many seeds.
          setting: whose images are trained on.
          seeds: trained together.
        """
        self._program = program
        self._seeds = jnp.asarray(seeds, jnp.int32)
        self._data = jnp.asarray(setting.images), jnp.asarray(setting.labels)
        self._state = program.initialize(self._seeds)
        self._step = 0

    def __call__(self) -> jax.Array:
        """Train for one epoch and return its losses, (num_seeds, steps), when they are there."""
        stop = self._step + self._program.steps_per_epoch
        self._state, losses = self._program.run(
            self._state, self._seeds, *self._data, self._step, stop
        )
        self._step = stop
        return jax.block_until_ready((losses, self._state))[0]
