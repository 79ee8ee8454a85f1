"""Run an ablation: python -m experiments.ablate --flagfile=configs/stack_vs_large_kernel.flags.

Prints the arm table (`--dry_run` stops there), trains every arm from every seed, and leaves a
run directory with records, checkpoints and a report. The same command goes on where it was
stopped or killed. Exit codes: 0 done, 1 refused or failed with a sentence, 130 and 143 stopped
by SIGINT and SIGTERM after saving.
"""

import hashlib
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import jax.numpy as jnp
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from cnnjax import data as datasets
from cnnjax.data import Images
from cnnjax.training import Checkpoints, Data, Interrupted, Program, Trial, make_optimizer, train
from experiments import config as config_module
from experiments import report
from experiments.arm_table import arm_table
from experiments.config import Config, define_flags, from_flags
from experiments.names import check_name
from experiments.programs import make_program
from experiments.records import SCHEMA, Record
from experiments.run_directory import RunDirectory, RunDirectoryError
from experiments.studies import STUDIES, Arm, Study, Task

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
    train_set, validation_set, test_set = _load(config)
    num_train = len(train_set.labels)
    if config.batch_size > num_train:
        raise ValueError(
            f"--batch_size={config.batch_size} is larger than the training set of {num_train} "
            "images"
        )
    steps_per_epoch = num_train // config.batch_size
    height, width, channels = train_set.images.shape[1:]
    task = Task(
        image_shape=(height, width, channels),
        num_classes=len(train_set.class_names),
        num_steps=config.epochs * steps_per_epoch,
    )
    study = STUDIES[config.study](config, task)
    # Refuses a recipe that does not fit the length of the run before anything is written.
    make_optimizer(config.optimization(), num_epochs=config.epochs, steps_per_epoch=steps_per_epoch)
    print(f"{study.question}\n\n{arm_table(study.arms)}\n")
    left_out = num_train - steps_per_epoch * config.batch_size
    print(
        f"{config.dataset}: {num_train:,} training, {len(validation_set.labels):,} validation and "
        f"{len(test_set.labels):,} test images; {steps_per_epoch} steps of {config.batch_size} an "
        f"epoch" + (f", {left_out} images sit out each epoch, drawn anew" if left_out else "")
    )
    if dry_run:
        return
    path = config.run_dir or config.default_run_dir()
    with RunDirectory(path, config, _digest(train_set, validation_set, test_set)) as directory:
        print(f"run directory: {directory.path}", flush=True)
        with _signals() as stop:
            _run_trials(study, config, directory, (train_set, validation_set, test_set), stop)
        page = report.draw(directory.path)
    print(f"\n{report.verdict(directory.records)}\nreport: {page}")


def _load(config: Config) -> tuple[Images, Images, Images]:
    """Training, validation and test sets; validation comes from the training split."""
    everything = datasets.load(config.dataset, "train", config.data_dir)
    test = datasets.load(config.dataset, "test", config.data_dir)
    if config.validation_size >= len(everything.labels):
        raise ValueError(
            f"--validation_size={config.validation_size} leaves none of the "
            f"{len(everything.labels)} training images of {config.dataset} to train on"
        )
    training, validation = datasets.split_validation(
        everything, config.validation_size, config.split_seed
    )
    return training, validation, test


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
    sets: tuple[Images, Images, Images],
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
    data = Data(*(jnp.asarray(array) for images in sets for array in images[:2]))
    programs: dict[str, Program] = {}
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
            if arm.name not in programs:
                bar.set_description(f"compiling {arm.title}")
                programs[arm.name] = _compiled(arm, config, sets, len(group))
            bar.set_description(label)
            finished = (done + index) * config.epochs

            def show(epochs: float, finished: int = finished) -> None:
                bar.n = finished + epochs
                bar.refresh()

            try:
                trials = train(
                    programs[arm.name],
                    data,
                    group,
                    num_epochs=config.epochs,
                    checkpoints=Checkpoints(
                        directory.checkpoints(arm.name, group), warn=logging.warning
                    ),
                    seconds_between_checkpoints=config.checkpoint_seconds,
                    should_stop=stop,
                    on_progress=show,
                )
            except Interrupted:
                bar.close()
                _stopped(stop, directory, len(study.arms) * len(seeds))
            for trial in trials:
                if not directory.has(arm.name, trial.seed):
                    directory.append(_record(study, arm, trial, config, sets))


def _stopped(stop: _Stop, directory: RunDirectory, num_trials: int) -> None:
    number = stop.by or signal.SIGTERM
    print(
        f"stopped by {number.name} with {len(directory.records)} of {num_trials} trials finished; "
        f"all of it, and a trial under way, is saved in {directory.path}; the same command goes "
        "on from there",
        file=sys.stderr,
    )
    sys.exit(128 + number)


def _compiled(
    arm: Arm, config: Config, sets: tuple[Images, Images, Images], num_seeds: int
) -> Program:
    training, validation, test = sets
    program = make_program(
        arm.module, config, training, num_epochs=config.epochs, num_seeds=num_seeds
    )
    program.compile(len(validation.labels), len(test.labels))
    return program


def _record(
    study: Study, arm: Arm, trial: Trial, config: Config, sets: tuple[Images, Images, Images]
) -> Record:
    failed = trial.failed_at is not None
    metrics: Any = None
    if not failed:
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
    return Record(
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
        status="failed" if failed else "completed",
        failure={"step": trial.failed_at, "reason": "the training loss was not finite"}
        if trial.failed_at is not None
        else None,
        num_examples={"train": training, "validation": validation, "test": test},
        metrics=metrics,
        curve=[entry._asdict() for entry in trial.curve],  # type: ignore[misc]
    )


if __name__ == "__main__":
    app.run(main)
