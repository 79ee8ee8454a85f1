"""Run an ablation: python -m experiments.ablate --flagfile=configs/stack_vs_large_kernel.flags.

Prints the arm table (`--dry_run` stops there), trains every arm from every seed, and leaves a
run directory with records, checkpoints and a report. The same command goes on where it was
stopped or killed. Exit codes: 0 done, 1 refused or failed with a sentence, 130 and 143 stopped
by SIGINT and SIGTERM after saving.
"""

import hashlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from cnnjax import data as datasets
from cnnjax.data import Images
from cnnjax.training import (
    Checkpoints,
    Data,
    Interrupted,
    Program,
    Trial,
    make_optimizer,
    stack_variables,
    train,
)
from experiments import config as config_module
from experiments import report
from experiments.arm_table import arm_table
from experiments.config import Config, define_flags, from_flags
from experiments.names import check_name
from experiments.programs import make_program
from experiments.records import SCHEMA, Failure, Record
from experiments.run_directory import RunDirectory, RunDirectoryError
from experiments.studies import STUDIES, Arm, Pretraining, Sets, Study, Task, cut

_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the arm table and exit.")
define_flags()
# So that --help lists them.
flags.adopt_module_key_flags(config_module)


def main(argv: list[str]) -> None:
    """Check, print, run, report; every refusal is one sentence."""
    if len(argv) > 1:
        sys.exit(
            f"unexpected argument {argv[1]!r}: every setting is a flag, --name=value, on a line of "
            "its own in a flagfile"
        )
    if not flags.FLAGS["verbosity"].present:
        # Orbax and TFDS raise it to "info", and tell of every file they touch.
        logging.set_verbosity(logging.WARNING)
    try:
        config = from_flags()
        ablate(config, dry_run=_DRY_RUN.value)
    except (ValueError, OSError, RunDirectoryError, datasets.DatasetError) as error:
        if logging.level_debug():
            raise
        sys.exit(f"experiments.ablate: {error}")


def ablate(config: Config, *, dry_run: bool = False) -> None:
    """Run the ablation that a config describes.

    Args:
      config: what to run.
      dry_run: print the arm table and return.

    Raises:
      ValueError: a name or number that the study or the data refuses.
      DatasetError: the data set is not prepared and cannot be.
      RunDirectoryError: the run directory cannot be used.
      OSError: a file could not be written.
      SystemExit: stopped by a signal, after saving.
    """
    check_name("--study", config.study, STUDIES)
    sets, source = cut(
        config,
        datasets.load(config.dataset, "train", config.data_dir),
        datasets.load(config.dataset, "test", config.data_dir),
    )
    steps_per_epoch = _steps_per_epoch(config, sets, config.epochs)
    height, width, channels = sets.training.images.shape[1:]
    task = Task(
        image_shape=(height, width, channels),
        num_classes=len(sets.training.class_names),
        num_steps=config.epochs * steps_per_epoch,
        class_names=sets.training.class_names,
        source=source,
    )
    study = STUDIES[config.study](config, task)
    for pretraining in {
        arm.initial.name: arm.initial for arm in study.arms if arm.initial
    }.values():
        _steps_per_epoch(config, pretraining.sets, pretraining.epochs)
    print(f"{study.question}\n\n{arm_table(study.arms)}\n")
    num_train, num_validation, num_test = (len(images.labels) for images in sets)
    left_out = num_train - steps_per_epoch * config.batch_size
    print(
        f"{config.dataset}: {num_train:,} training, {num_validation:,} validation and "
        f"{num_test:,} test images; {steps_per_epoch} steps of {config.batch_size} an "
        f"epoch" + (f", {left_out} images sit out each epoch, drawn anew" if left_out else "")
    )
    if dry_run:
        return
    path = config.run_dir or config.default_run_dir()
    with RunDirectory(path, config, _digest(*sets, *(source or ()))) as directory:
        print(f"run directory: {directory.path}", flush=True)
        with _signals() as stop:
            _run_trials(study, config, directory, sets, stop)
        page = report.draw(directory.path)
    print(f"\n{report.verdict(directory.records)}\nreport: {page}")


def _steps_per_epoch(config: Config, sets: Sets, num_epochs: int) -> int:
    """Steps an epoch; refuses what does not fit before anything is written."""
    num_train = len(sets.training.labels)
    if config.batch_size > num_train:
        raise ValueError(
            f"--batch_size={config.batch_size} is larger than the training set of {num_train} "
            "images"
        )
    steps = num_train // config.batch_size
    make_optimizer(config.optimization(), num_epochs=num_epochs, steps_per_epoch=steps)
    return steps


def _digest(*sets: Images) -> str:
    digest = hashlib.sha256()
    for images in sets:
        digest.update(f"{images.images.shape}".encode())
        digest.update(np.ascontiguousarray(images.images).tobytes())
        digest.update(np.ascontiguousarray(images.labels).tobytes())
    return digest.hexdigest()


class _Stop:
    """Which signal asked the run to stop, if any."""

    by: signal.Signals | None = None

    def __call__(self) -> bool:
        return self.by is not None


@contextmanager
def _signals() -> Iterator[_Stop]:
    """Note SIGTERM and SIGINT instead of dying by them; a second one does its usual work."""
    stop = _Stop()

    def note(number: int, frame: FrameType | None) -> None:
        stop.by = signal.Signals(number)
        signal.signal(number, before[stop.by])

    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_trials(
    study: Study,
    config: Config,
    directory: RunDirectory,
    sets: Sets,
    stop: _Stop,
) -> None:
    seeds = config.seed_numbers()
    groups = [seeds] if config.seed_axis == "vmap" else [[seed] for seed in seeds]
    # Seed by seed over the arms, so that a run cut short still has its pairs.
    todo = [
        (arm, group)
        for group in groups
        for arm in study.arms
        if not all(directory.has(arm.name, seed) for seed in group)
    ]
    if not todo:
        return
    done = len(study.arms) * len(groups) - len(todo)
    trainer = _Trainer(config, directory, stop)
    with tqdm(
        total=float(len(study.arms) * len(groups) * config.epochs),
        initial=float(done * config.epochs),
        disable=None,
        unit="epoch",
        dynamic_ncols=True,
        bar_format="{l_bar}{bar}| {n:.1f}/{total:.0f} epochs [{elapsed}<{remaining}]",
    ) as bar:
        for index, (arm, group) in enumerate(todo):
            if stop():
                _stopped(stop, directory, len(study.arms) * len(seeds))
            label = (
                f"seed {', '.join(map(str, group))} ({groups.index(group) + 1}/{len(groups)}), "
                f"arm {study.arms.index(arm) + 1}/{len(study.arms)}: {arm.title}"
            )
            finished = (done + index) * config.epochs

            def show(epochs: float, finished: int = finished) -> None:
                bar.n = finished + epochs
                bar.refresh()

            try:
                started = _Started(None, {})
                if arm.initial:
                    bar.set_description(f"{label}, {arm.initial.title}")
                    started = trainer.pretrain(arm.initial, group)
                if not trainer.is_compiled(arm.name):
                    bar.set_description(f"compiling {arm.title}")
                    trainer.compile(arm.name, arm.module, sets, config.epochs, group, arm.trained)
                bar.set_description(label)
                trials = trainer.train(arm.name, group, started.variables, show)
            except Interrupted:
                bar.close()
                _stopped(stop, directory, len(study.arms) * len(seeds))
            for trial in trials:
                if not directory.has(arm.name, trial.seed):
                    before = started.trials.get(trial.seed)
                    directory.append(_record(study, arm, trial, before, config, sets))


def _stopped(stop: _Stop, directory: RunDirectory, num_trials: int) -> None:
    number = stop.by or signal.SIGTERM
    print(
        f"stopped by {number.name} with {len(directory.records)} of {num_trials} trials finished; "
        f"all of it, and a trial under way, is saved in {directory.path}; the same command goes "
        "on from there",
        file=sys.stderr,
    )
    sys.exit(128 + number)


class _Started(NamedTuple):
    """What trials start from.

    Attributes:
      variables: those given, with a leading axis of seeds; None draws all.
      trials: the pretraining of each seed.
    """

    variables: Any
    trials: dict[int, Trial]


class _Trainer:
    """Trains the networks of a run, each compiled once, its data put on the device once."""

    def __init__(self, config: Config, directory: RunDirectory, stop: _Stop) -> None:
        self._config, self._directory, self._stop = config, directory, stop
        self._programs: dict[str, tuple[Program, Data, int]] = {}
        self._data: dict[int, Data] = {}

    def is_compiled(self, name: str) -> bool:
        return name in self._programs

    def compile(
        self,
        name: str,
        module: nn.Module,
        sets: Sets,
        num_epochs: int,
        seeds: Sequence[int],
        trained: tuple[str, ...] | None = None,
    ) -> None:
        program = make_program(
            module,
            self._config,
            sets.training,
            num_epochs=num_epochs,
            num_seeds=len(seeds),
            trained=trained,
        )
        program.compile(len(sets.validation.labels), len(sets.test.labels))
        if id(sets) not in self._data:
            arrays = (jnp.asarray(array) for images in sets for array in images[:2])
            self._data[id(sets)] = Data(*arrays)
        self._programs[name] = (program, self._data[id(sets)], num_epochs)

    def train(
        self,
        name: str,
        seeds: list[int],
        given: Any = None,
        show: Callable[[float], None] = lambda epochs: None,
    ) -> list[Trial]:
        """Trials of a compiled network; what is finished is only read from its checkpoint."""
        program, data, num_epochs = self._programs[name]
        return train(
            program,
            data,
            seeds,
            num_epochs=num_epochs,
            given=given,
            checkpoints=Checkpoints(self._directory.checkpoints(name, seeds), warn=logging.warning),
            seconds_between_checkpoints=self._config.checkpoint_seconds,
            should_stop=self._stop,
            on_progress=show,
        )

    def pretrain(self, pretraining: Pretraining, seeds: list[int]) -> _Started:
        """What arms start from: the first to ask trains it, the next finds it on the disk."""
        if not self.is_compiled(pretraining.name):
            self.compile(
                pretraining.name, pretraining.module, pretraining.sets, pretraining.epochs, seeds
            )
        trials = self.train(pretraining.name, seeds)
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
        return _Started(stack_variables(kept), {trial.seed: trial for trial in trials})


def _record(
    study: Study, arm: Arm, trial: Trial, before: Trial | None, config: Config, sets: Sets
) -> Record:
    metrics: Any = None
    failure: Failure | None = None
    if before is not None and before.failed_at is not None:
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
        differs_in=arm.differs_in,
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
    if before is not None:
        record["pretraining"] = {
            "test_accuracy": before.test_accuracy,
            "test_loss": before.test_loss,
        }
    return record


if __name__ == "__main__":
    app.run(main)
