"""The host's side of training: calls the program, saves, stops when asked, and resumes.

The numbers of a trial depend on its program, data and seeds alone. Where it was interrupted, and
when it was saved, leaves no trace in them.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.training.checkpoints import Checkpoints
from cnnjax.training.program import Program

__all__ = ["Data", "Epoch", "Interrupted", "Trial", "train"]


class Data(NamedTuple):
    """The three sets on the device: uint8 images (N, H, W, C) and int32 labels (N,)."""

    train_images: jax.Array
    train_labels: jax.Array
    validation_images: jax.Array
    validation_labels: jax.Array
    test_images: jax.Array
    test_labels: jax.Array


class Epoch(NamedTuple):
    """One point of a learning curve."""

    epoch: int
    step: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float


@dataclasses.dataclass
class Trial:
    """What one seed came to.

    Attributes:
      seed: which.
      curve: one entry an epoch, up to the failure if there was one.
      failed_at: first step (counted from 0) whose loss was not finite, or None.
      test_loss: cross-entropy of the last variables on the test set, in nats; None if failed.
      test_accuracy: their accuracy.
      best_epoch: epoch with the best validation accuracy, the first of equals.
      test_accuracy_at_best: test accuracy of that epoch's variables.
      variables: the last variables, of whatever they came to if the trial failed.
    """

    seed: int
    curve: list[Epoch] = dataclasses.field(default_factory=list)
    failed_at: int | None = None
    test_loss: float | None = None
    test_accuracy: float | None = None
    best_epoch: int | None = None
    test_accuracy_at_best: float | None = None
    variables: Any = dataclasses.field(default=None, compare=False, repr=False)


class Interrupted(Exception):  # noqa: N818
    """The trial was asked to stop, and saved first."""


def train(
    program: Program,
    data: Data,
    seeds: Sequence[int],
    *,
    num_epochs: int,
    given: Any = None,
    tested: bool = True,
    checkpoints: Checkpoints | None = None,
    seconds_between_checkpoints: float = 30.0,
    should_stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[float], None] = lambda epochs: None,
    seconds_per_call: float = 2.0,
) -> list[Trial]:
    """Train and test one network with each seed, going on from a checkpoint if there is one.

    Args:
      program: what is compiled; `len(seeds)` must be its `num_seeds`.
      data: the sets.
      seeds: one trial each, trained together.
      num_epochs: length of the run.
      given: variables to start from in place of those drawn, as `Program.initialize` takes them.
      tested: whether the end of the run is tested; without, no test image is looked at, and what
        the test would say of a trial is None.
      checkpoints: where to save and resume from; None keeps nothing.
      seconds_between_checkpoints: how much work a killed process may lose.
      should_stop: asked after every call of the program.
      on_progress: told how many epochs are done, fractions included.
      seconds_per_call: about how long one call of the program may take, which bounds how long a
        request to stop waits. It moves where the run is cut, never its numbers.

    Returns:
      One `Trial` a seed.

    Raises:
      Interrupted: `should_stop` said so; the state is saved.
      OSError: a checkpoint could not be written.
    """
    run = _Run(program, data, tuple(seeds), num_epochs, checkpoints, given)
    last_save = time.monotonic()
    steps_per_call = program.steps_per_epoch if seconds_per_call == math.inf else 1
    on_progress(run.step / program.steps_per_epoch)
    while run.step < run.num_steps and not run.all_failed:
        started = time.monotonic()
        taken = run.advance(steps_per_call)
        seconds = time.monotonic() - started
        if seconds_per_call != math.inf:
            steps_per_call = max(
                1, min(4 * steps_per_call, int(taken * seconds_per_call / seconds))
            )
        on_progress(run.step / program.steps_per_epoch)
        stop = should_stop() and run.step < run.num_steps
        if stop or time.monotonic() - last_save > seconds_between_checkpoints:
            run.save()
            last_save = time.monotonic()
        if stop:
            raise Interrupted
    return run.finish(tested)


class _Run:
    """State of a training run on the host: where it is, and what it has seen."""

    def __init__(
        self,
        program: Program,
        data: Data,
        seeds: tuple[int, ...],
        num_epochs: int,
        checkpoints: Checkpoints | None,
        given: Any,
    ) -> None:
        self.program, self.data, self.checkpoints = program, data, checkpoints
        self.num_steps = num_epochs * program.steps_per_epoch
        self.seeds = jnp.asarray(seeds, jnp.int32)
        self.step = 0
        self._saved: int | None = None
        self.state = program.initialize(self.seeds, given)
        # Losses of the epoch under way, (num_seeds, steps so far).
        self.losses = np.zeros((len(seeds), 0), np.float32)
        self.trials = [Trial(seed) for seed in seeds]
        restored = checkpoints.restore(self._tree()) if checkpoints else None
        if restored:
            self.step = self._saved = restored.step
            self.state = jax.tree.map(jnp.asarray, restored.tree["state"])
            self.losses = np.asarray(restored.tree["losses"])[:, : self._column]
            for trial, saved in zip(self.trials, restored.metadata["trials"], strict=True):
                trial.failed_at = saved["failed_at"]
                trial.curve = [Epoch(*entry) for entry in saved["curve"]]

    @property
    def all_failed(self) -> bool:
        return all(trial.failed_at is not None for trial in self.trials)

    @property
    def _column(self) -> int:
        return self.step % self.program.steps_per_epoch

    def advance(self, num_steps: int) -> int:
        """Take up to `num_steps` steps of the epoch under way; returns how many were taken."""
        per_epoch = self.program.steps_per_epoch
        epoch_end = (self.step // per_epoch + 1) * per_epoch
        stop = min(self.step + num_steps, epoch_end)
        column = self._column
        self.state, losses = self.program.run(
            self.state,
            self.seeds,
            self.data.train_images,
            self.data.train_labels,
            self.step,
            stop,
        )
        taken = stop - self.step
        new = np.asarray(losses)[:, column : column + taken]
        for trial, row in zip(self.trials, new, strict=True):
            if trial.failed_at is None and not np.isfinite(row).all():
                trial.failed_at = self.step + int(np.argmin(np.isfinite(row)))
        self.losses = np.concatenate([self.losses, new], axis=1)
        self.step = stop
        if stop == epoch_end and not self.all_failed:
            self._end_epoch(epoch_end // per_epoch)
        return taken

    def _end_epoch(self, epoch: int) -> None:
        self.state, result = self.program.validate(
            self.state, self.data.validation_images, self.data.validation_labels
        )
        for i, trial in enumerate(self.trials):
            validation_loss = float(result.loss[i])
            if trial.failed_at is None and not math.isfinite(validation_loss):
                # The last update broke the weights: the next step would be the first to show it.
                trial.failed_at = self.step
            if trial.failed_at is None:
                train_loss = float(np.mean(self.losses[i], dtype=np.float64))
                accuracy = int(result.num_correct[i]) / len(self.data.validation_labels)
                trial.curve.append(Epoch(epoch, self.step, train_loss, validation_loss, accuracy))
        self.losses = self.losses[:, :0]

    def save(self) -> None:
        # A step that is on the disk already is not replaced: a kill meanwhile would lose it.
        if self.checkpoints and self.step != self._saved:
            trials = [
                {"seed": trial.seed, "failed_at": trial.failed_at, "curve": trial.curve}
                for trial in self.trials
            ]
            self.checkpoints.save(self.step, self._tree(), {"trials": trials})
            self._saved = self.step

    def _tree(self) -> dict[str, Any]:
        # Of one shape wherever the run stands, so that a restore knows what to ask for.
        losses = np.zeros((len(self.trials), self.program.steps_per_epoch), np.float32)
        losses[:, : self.losses.shape[1]] = self.losses
        return {"state": self.state, "losses": losses}

    def finish(self, tested: bool) -> list[Trial]:
        """Save the end of the run and test it, if it is to be tested."""
        self.save()
        for i, trial in enumerate(self.trials):
            trial.variables = jax.tree.map(lambda leaf, i=i: leaf[i], self.state.variables)
        if self.all_failed or not tested:
            return self.trials
        test = self.data.test_images, self.data.test_labels
        last = self.program.evaluate(self.state.variables, *test)
        best = self.program.evaluate(self.state.best_variables, *test)
        num_test = len(self.data.test_labels)
        for i, trial in enumerate(self.trials):
            if trial.failed_at is None:
                trial.test_loss = float(last.loss[i])
                trial.test_accuracy = int(last.num_correct[i]) / num_test
                trial.best_epoch = max(
                    trial.curve, key=lambda entry: (entry.validation_accuracy, -entry.epoch)
                ).epoch
                trial.test_accuracy_at_best = int(best.num_correct[i]) / num_test
        return self.trials
