"""Run an ablation: python -m experiments.ablate --flagfile=configs/stack_vs_large_kernel.flags.

Prints the arm table (`--dry_run` stops there), trains every arm from every seed, and leaves a
run directory with records, checkpoints and a report. `--grid` makes it a sweep, a run for each
combination of flags. The same command goes on where it was stopped or killed. Exit codes: 0 done,
1 refused or failed with a sentence, 130 and 143 stopped by SIGINT and SIGTERM after saving.
"""

import hashlib
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from cnnjax import data as datasets
from cnnjax.data import Images
from cnnjax.training import Interrupted, Trial, make_optimizer
from experiments import config_flags, report, sweep
from experiments.arm_table import arm_table
from experiments.arms_file import write_arms
from experiments.config import Config
from experiments.config_flags import define_flags, from_flags
from experiments.names import check_name
from experiments.programs import refuse_augmentation
from experiments.run_directory import RunDirectory, RunDirectoryError
from experiments.studies import STUDIES, Arm, Sets, Study, Task, sets_of
from experiments.trials import Result, Trainer, make_record, with_step_size
from experiments.tuning import Tuned, TuningLog, tune

_DRY_RUN = flags.DEFINE_bool("dry_run", False, "Print the arm table and exit.")
_GRID = flags.DEFINE_multi_string(
    "grid", [], "A flag and values to sweep it over, as in learning_rate=0.01,0.03; repeatable."
)
_SWEEP_DIR = flags.DEFINE_string(
    "sweep_dir", None, "Where a sweep is kept; by default runs/sweeps/STUDY-DATASET-DIGEST."
)
define_flags()
# So that --help lists them.
flags.adopt_module_key_flags(config_flags)


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
        if _SWEEP_DIR.value and not _GRID.value:
            raise ValueError("--sweep_dir is where a sweep goes, and --grid says what it sweeps")
        if _GRID.value:
            sweep.sweep(
                config, _GRID.value, _SWEEP_DIR.value, ablate=ablate, dry_run=_DRY_RUN.value
            )
        else:
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
    sets, source = sets_of(config)
    steps_per_epoch = _steps_per_epoch(config, sets, config.epochs)
    height, width, channels = sets.training.images.shape[1:]
    task = Task(
        image_shape=(height, width, channels),
        num_classes=len(sets.training.class_names),
        num_steps=config.epochs * steps_per_epoch,
        class_names=sets.training.class_names,
        source=source,
        training=sets.training,
    )
    study = STUDIES[config.study](config, task)
    _check_arms(study, config, sets)
    print(f"{study.question}\n\n{arm_table(study.arms)}\n")
    num_train, num_validation, num_test = (len(images.labels) for images in sets)
    left_out = num_train - steps_per_epoch * config.batch_size
    print(
        f"{config.dataset}: {num_train:,} training, {num_validation:,} validation and "
        f"{num_test:,} test images; {steps_per_epoch} steps of {config.batch_size} an "
        f"epoch" + (f", {left_out} images sit out each epoch, drawn anew" if left_out else "")
    )
    if config.step_sizes():
        tried = ", ".join(f"{step_size:g}" for step_size in config.step_sizes())
        print(f"before its trials each arm is tuned on validation images: step sizes {tried}")
    if dry_run:
        return
    path = config.run_dir or config.default_run_dir()
    own = [images for arm in study.arms for images in arm.sets or ()]
    with RunDirectory(path, config, _digest(*sets, *(source or ()), *own)) as directory:
        directory.refuse_other_arms([arm.name for arm in study.arms], study.baseline)
        print(f"run directory: {directory.path}", flush=True)
        with _signals() as stop:
            write_arms(directory.path, study, task.image_shape)
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


def _check_arms(study: Study, config: Config, sets: Sets) -> None:
    """Refuse what an arm alone would meet, before anything is written."""
    for arm in study.arms:
        settings = config.with_settings(arm.settings)
        refuse_augmentation(settings, (arm.sets or sets).training.images.shape[1:])
        make_optimizer(
            settings.optimization(),
            num_epochs=config.epochs,
            steps_per_epoch=len(sets.training.labels) // config.batch_size,
        )
        if arm.initial:
            _steps_per_epoch(settings, arm.initial.sets, arm.initial.epochs)
        sizes = [len(images.labels) for images in arm.sets or sets]
        if sizes != [len(images.labels) for images in sets]:
            raise ValueError(f"Study: the sets of {arm.name!r} are not of the sizes of the run's")


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
    num_trials, step_sizes = len(study.arms) * len(groups), config.step_sizes()
    log = TuningLog(directory.path / "tuning.jsonl")
    # By name, as an arm holds what cannot be hashed.
    arms = {arm.name: arm for arm, _ in todo}
    untuned = sum((name, size) not in log for name in arms for size in step_sizes)
    total = num_trials + len(study.arms) * len(step_sizes)
    trainer = Trainer(config, directory, sets, stop)
    with tqdm(
        total=float(total * config.epochs),
        initial=float((total - untuned - len(todo)) * config.epochs),
        disable=None,
        unit="epoch",
        dynamic_ncols=True,
        bar_format="{l_bar}{bar}| {n:.1f}/{total:.0f} epochs [{elapsed}<{remaining}]",
    ) as bar:
        progress = _Progress(bar, config.epochs)
        try:
            tuned = {
                name: _tune(arm, step_sizes, trainer, log, progress, stop)
                for name, arm in arms.items()
                if step_sizes
            }
            for arm, group in todo:
                if stop():
                    raise Interrupted
                label = (
                    f"seed {', '.join(map(str, group))} ({groups.index(group) + 1}/{len(groups)}), "
                    f"arm {study.arms.index(arm) + 1}/{len(study.arms)}: {arm.title}"
                )
                found = tuned.get(arm.name)
                if found is not None and found.chosen is not None:
                    arm = with_step_size(arm, found.chosen)
                if found is not None and found.chosen is None:
                    results = [Result(Trial(seed, failed_at=0)) for seed in group]
                else:
                    results = trainer.run(arm, group, label, bar.set_description, progress.show)
                progress.finish()
                for result in results:
                    if directory.has(arm.name, result.trial.seed):
                        continue
                    measured = trainer.measure(study, arm, result.trial)
                    directory.append(make_record(study, arm, result, measured, config, sets, found))
        except Interrupted:
            bar.close()
            _stopped(stop, directory, len(study.arms) * len(seeds))


def _tune(
    arm: Arm,
    step_sizes: Sequence[float],
    trainer: Trainer,
    log: TuningLog,
    progress: "_Progress",
    stop: _Stop,
) -> Tuned:
    """Choose an arm's step size by trainings that nothing else is taken from."""

    def train(step_size: float) -> float | None:
        if stop():
            raise Interrupted
        label = f"tuning {arm.title}, step size {step_size:g}"
        with_size = with_step_size(arm, step_size)
        accuracy = trainer.validate(with_size, label, progress.bar.set_description, progress.show)
        progress.finish()
        return accuracy

    tuned = tune(arm.name, step_sizes, log, train)
    trainer.forget(arm, keep=tuned.chosen)
    return tuned


class _Progress:
    """A bar that counts epochs, told of each training how many it has behind it."""

    def __init__(self, bar: tqdm, num_epochs: int) -> None:
        self.bar, self._num_epochs, self._before = bar, num_epochs, bar.n

    def show(self, epochs: float) -> None:
        """So many epochs of the training under way are done."""
        self.bar.n = self._before + epochs
        self.bar.refresh()

    def finish(self) -> None:
        """The training under way is done, in however many epochs."""
        self._before += self._num_epochs
        self.show(0)


def _stopped(stop: _Stop, directory: RunDirectory, num_trials: int) -> None:
    number = stop.by or signal.SIGTERM
    print(
        f"stopped by {number.name} with {len(directory.records)} of {num_trials} trials finished; "
        f"all of it, and a trial under way, is saved in {directory.path}; the same command goes "
        "on from there",
        file=sys.stderr,
    )
    sys.exit(128 + number)


if __name__ == "__main__":
    app.run(main)
