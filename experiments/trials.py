"""The trials of a run: each arm's network compiled once, trained from each seed, and measured."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from cnnjax.training import (
    Checkpoints,
    Data,
    Program,
    Trial,
    stack_variables,
    train,
)
from experiments.config import TUNING_SEED, Config
from experiments.programs import make_normalize, make_program
from experiments.records import SCHEMA, Failure, Measurement, Record
from experiments.run_directory import RunDirectory
from experiments.studies import Arm, Curve, Measured, Pretraining, Sets, Study, Trained
from experiments.studies.arms import batches
from experiments.tuning import Tuned

__all__ = ["Result", "Trainer", "make_record", "with_step_size"]

Normalize = Callable[[jax.Array], jax.Array]
Scores = Callable[[Any, np.ndarray], np.ndarray]


class Result(NamedTuple):
    """A trial of an arm, and the pretraining that it started from, if any."""

    trial: Trial
    before: Trial | None = None


class _Compiled(NamedTuple):
    program: Program
    data: Data
    num_epochs: int


class Trainer:
    """Trains the networks of a run, each compiled once, its data put on the device once."""

    def __init__(
        self, config: Config, directory: RunDirectory, sets: Sets, stop: Callable[[], bool]
    ) -> None:
        """Compile nothing yet.

        Args:
          config: the run's.
          directory: where checkpoints go.
          sets: the run's data; an arm may have its own.
          stop: asked now and then whether to save and raise `Interrupted`.
        """
        self._config, self._directory, self._sets, self._stop = config, directory, sets, stop
        self._compiled: dict[tuple[str, float, int], _Compiled] = {}
        self._data: dict[int, Data] = {}
        self._measuring: dict[str, tuple[Normalize, Scores]] = {}

    def run(
        self,
        arm: Arm,
        seeds: list[int],
        label: str,
        say: Callable[[str], None],
        show: Callable[[float], None] = lambda epochs: None,
    ) -> list[Result]:
        """Trials of an arm; what is finished is only read from its checkpoint.

        Args:
          arm: the network, its data and where it departs from the run's flags.
          seeds: trained together.
          label: what is under way, for `say`.
          say: told what is under way.
          show: told how many epochs are done, fractions included.

        Raises:
          Interrupted: `stop` said so; the state is saved.
          OSError: a checkpoint could not be written.
        """
        compiled, given, before = self._prepare(arm, seeds, label, say)
        trials = self._train(compiled, arm.name, seeds, given, show)
        return [Result(trial, before.get(trial.seed)) for trial in trials]

    def validate(
        self,
        arm: Arm,
        label: str,
        say: Callable[[str], None],
        show: Callable[[float], None] = lambda epochs: None,
    ) -> float | None:
        """Validation accuracy that an arm comes to from the tuning seed, or None where it fails.

        The arguments and what is raised are those of `run`. No test image is looked at.
        """
        seeds = [TUNING_SEED]
        compiled, given, before = self._prepare(arm, seeds, label, say, tested=False)
        step_size = self._config.with_settings(arm.settings).learning_rate
        name = f"tuning/{arm.name}/{step_size}"
        (trial,) = self._train(compiled, name, seeds, given, show, tested=False)
        failed = any(t.failed_at is not None for t in (trial, *before.values()))
        return None if failed else trial.curve[-1].validation_accuracy

    def forget(self, arm: Arm, *, keep: float | None) -> None:
        """Give back what was compiled for an arm's step sizes, all but one of them."""
        for name, step_size, num_seeds in list(self._compiled):
            if name == arm.name and step_size != keep:
                del self._compiled[name, step_size, num_seeds]

    def _prepare(
        self,
        arm: Arm,
        seeds: list[int],
        label: str,
        say: Callable[[str], None],
        *,
        tested: bool = True,
    ) -> tuple[_Compiled, Any, dict[int, Trial]]:
        """The compiled arm, what it starts from, and the pretraining that this comes from."""
        config = self._config.with_settings(arm.settings)
        given: Any = None
        before: dict[int, Trial] = {}
        if arm.initial:
            say(f"{label}, {arm.initial.title}")
            given, before = self._pretrain(arm.initial, seeds, tested=tested)
        key = arm.name, config.learning_rate, len(seeds)
        if key not in self._compiled:
            say(f"compiling {arm.title}")
            sets = arm.sets or self._sets
            self._compile(key, arm.module, config, sets, config.epochs, arm.trained)
        say(label)
        return self._compiled[key], given, before

    def measure(self, study: Study, arm: Arm, trial: Trial) -> Measured:
        """What the study measures of a finished trial; nothing of one that failed."""
        if study.measure is None or trial.failed_at is not None:
            return Measured()
        sets = arm.sets or self._sets
        if arm.name not in self._measuring:
            normalize = make_normalize(sets.training)
            self._measuring[arm.name] = normalize, _scorer(arm.module, normalize)
        normalize, scores = self._measuring[arm.name]
        return study.measure(
            Trained(
                arm=arm,
                seed=trial.seed,
                variables=trial.variables,
                sets=sets,
                normalize=normalize,
                scores=functools.partial(scores, trial.variables),
            )
        )

    def _compile(
        self,
        key: tuple[str, float, int],
        module: nn.Module,
        config: Config,
        sets: Sets,
        num_epochs: int,
        trained: tuple[str, ...] | None = None,
    ) -> None:
        """Compile a network; the key is its name, step size and number of seeds."""
        program = make_program(
            module,
            config,
            sets.training,
            num_epochs=num_epochs,
            num_seeds=key[-1],
            trained=trained,
        )
        program.compile(len(sets.validation.labels), len(sets.test.labels))
        if id(sets) not in self._data:
            arrays = (jnp.asarray(array) for images in sets for array in images[:2])
            self._data[id(sets)] = Data(*arrays)
        self._compiled[key] = _Compiled(program, self._data[id(sets)], num_epochs)

    def _train(
        self,
        compiled: _Compiled,
        name: str,
        seeds: list[int],
        given: Any = None,
        show: Callable[[float], None] = lambda epochs: None,
        *,
        tested: bool = True,
    ) -> list[Trial]:
        return train(
            compiled.program,
            compiled.data,
            seeds,
            num_epochs=compiled.num_epochs,
            given=given,
            tested=tested,
            checkpoints=Checkpoints(self._directory.checkpoints(name, seeds), warn=logging.warning),
            seconds_between_checkpoints=self._config.checkpoint_seconds,
            should_stop=self._stop,
            on_progress=show,
        )

    def _pretrain(
        self, pretraining: Pretraining, seeds: list[int], *, tested: bool
    ) -> tuple[Any, dict[int, Trial]]:
        """Variables to start from, with a leading axis of seeds, and the trials they come from.

        The first arm to ask trains it, the next finds it on the disk.
        """
        config, sets = self._config, pretraining.sets
        key = pretraining.name, config.learning_rate, len(seeds)
        if key not in self._compiled:
            self._compile(key, pretraining.module, config, sets, pretraining.epochs)
        trials = self._train(self._compiled[key], pretraining.name, seeds, tested=tested)
        kept = [
            {
                collection: {
                    layer: tree
                    for layer, tree in layers.items()
                    if layer not in pretraining.new_layers
                }
                for collection, layers in trial.variables.items()
            }
            for trial in trials
        ]
        return stack_variables(kept), {trial.seed: trial for trial in trials}


def _scorer(module: nn.Module, normalize: Normalize) -> Scores:
    """Scores of uint8 images of any number, one compilation for each shape of a batch."""

    @jax.jit
    def of_batch(variables: Any, images: jax.Array) -> Any:
        return module.apply(variables, normalize(images), train=False)

    def scores(variables: Any, images: np.ndarray) -> np.ndarray:
        found = [of_batch(variables, batch) for _, batch in batches(images)]
        return np.concatenate(found)[: len(images)]

    return scores


def with_step_size(arm: Arm, step_size: float) -> Arm:
    """The arm with a step size of its own."""
    return dataclasses.replace(arm, settings={**arm.settings, "learning_rate": step_size})


def make_record(
    study: Study,
    arm: Arm,
    result: Result,
    measured: Measured,
    config: Config,
    sets: Sets,
    tuned: Tuned | None = None,
) -> Record:
    """The record of a finished trial.

    Args:
      study: the question.
      arm: one of its arms.
      result: its trial.
      measured: what the study measured of it.
      config: the run's.
      sets: the run's data.
      tuned: how the arm's step size was chosen, if it was.
    """
    trial, before = result
    metrics: Any = None
    failure: Failure | None = None
    if tuned is not None and tuned.chosen is None:
        reason = f"in tuning it failed with each step size of --tune={config.tune}"
        failure = {"step": 0, "reason": reason}
    elif before is not None and before.failed_at is not None:
        reason = f"its pretraining failed at step {before.failed_at:,} of its own"
        failure = {"step": 0, "reason": reason}
    elif trial.failed_at is not None:
        failure = {"step": trial.failed_at, "reason": "the training loss was not finite"}
    else:
        best = next(entry for entry in trial.curve if entry.epoch == trial.best_epoch)
        metrics = {
            "test_accuracy": trial.test_accuracy,
            "test_loss": trial.test_loss,
            "validation_accuracy": trial.curve[-1].validation_accuracy,
            "validation_loss": trial.curve[-1].validation_loss,
            "best_validation_accuracy": best.validation_accuracy,
            "best_epoch": trial.best_epoch,
            "test_accuracy_at_best_validation": trial.test_accuracy_at_best,
        }
        if measured.outcome is not None:
            metrics["outcome"] = float(measured.outcome)
    names = [other.name for other in study.arms]
    training, validation, test = (len(images.labels) for images in sets)
    record = Record(
        schema=SCHEMA,
        study=study.name,
        question=study.question,
        arm=arm.name,
        arm_index=names.index(arm.name),
        arm_title=arm.title,
        baseline=study.baseline,
        headline_arm=study.headline_arm,
        against=arm.against or study.baseline,
        outcome=study.outcome,
        differs_in=arm.differs_in,
        settings=dict(arm.settings),
        account=arm.account,
        limits=list(study.limits),
        config=config.identity(),
        command=" ".join(["python -m experiments.ablate", *config.as_flags()]),
        planned_seeds=config.seed_numbers(),
        planned_arms=names,
        seed=trial.seed,
        status="failed" if failure else "completed",
        failure=failure,
        num_examples={"train": training, "validation": validation, "test": test},
        metrics=metrics,
        curve=[entry._asdict() for entry in trial.curve],  # type: ignore[misc]
    )
    if measured.curves and not failure:
        record["measurements"] = {
            name: _measurement(curve) for name, curve in measured.curves.items()
        }
    if study.published:
        record["published"] = study.published
        record["published_order"] = arm.published
    if tuned is not None:
        record["tuning"] = tuned.as_record()
    if before is not None:
        record["pretraining"] = {
            "test_accuracy": before.test_accuracy,
            "test_loss": before.test_loss,
        }
    return record


def _measurement(curve: Curve) -> Measurement:
    made = Measurement(
        title=curve.title,
        x_title=curve.x_title,
        y_title=curve.y_title,
        x=[float(value) for value in curve.x],
        y=[float(value) for value in curve.y],
        marks=[float(value) for value in curve.marks],
    )
    if curve.observed:
        made["observed"] = [float(value) for value in curve.observed]
    return made
