"""--tune: each arm's step size chosen on validation images, from a seed that no trial has."""

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import flax.linen as nn
import pytest

from cnnjax.training import Program
from experiments import ablate, records, report, studies
from experiments import trials as trials_module
from experiments.config import TUNING_SEED, Config
from experiments.programs import make_program
from experiments.studies import Arm, Pretraining, Study, Task
from experiments.tuning import TuningLog, choose, tune

ROOT = Path(__file__).resolve().parent.parent
# 200 training images, four steps an epoch.
TINY = Config(
    study="made_up",
    validation_size=3800,
    epochs=2,
    seeds=2,
    shift=0,
    warmup_epochs=0,
    learning_rate=0.5,
    checkpoint_seconds=0.0,
)
STEP_SIZES = (1e30, 0.1)
TUNED = dataclasses.replace(TINY, tune="1e30,0.1")


class Net(nn.Module):
    """Two dense layers on the rows and columns of an image."""

    num_classes: int

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.relu(nn.Dense(6, name="body")(x.mean(axis=(1, 3))))
        return nn.Dense(self.num_classes, name="head")(x)


def made_up(config: Config, task: Task) -> Study:
    net = Net(task.num_classes)
    account: dict[str, int | float | str] = {"parameters": 50}
    before = Pretraining("pretraining", "pretraining", net, 1, sets_of(config).sets, ("head",))
    arms = (
        Arm("plain", "plain", "the baseline", net, account),
        Arm("initial", "pretrained", "its body", net, account, initial=before),
    )
    # Without --tune, the first alone: the pretraining's step size is that of the run.
    arms = arms if config.tune else arms[:1]
    return Study("made_up", "Does it?", "plain", arms[-1].name, arms, ())


@functools.cache
def cut_of(validation_size):
    return studies.sets_of(dataclasses.replace(TINY, validation_size=validation_size))


def sets_of(config):
    return cut_of(config.validation_size)


PROGRAMS: dict[tuple, Program] = {}


def program_of(module, config, training, **options):
    """The program of an arm, compiled once for all runs of this file."""
    key = module, config.learning_rate, *sorted(options.items())
    if key not in PROGRAMS:
        program = make_program(module, config, training, **options)
        program.compile(TINY.validation_size, 1000)
        program.compile = lambda *sizes: None
        PROGRAMS[key] = program
    return PROGRAMS[key]


def run(directory, config, *, drawn=False):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(studies.STUDIES, "made_up", made_up)
        patch.setattr(ablate, "sets_of", sets_of)
        patch.setattr(trials_module, "make_program", program_of)
        if not drawn:
            patch.setattr(report, "draw", lambda path: path)
        ablate.ablate(dataclasses.replace(config, run_dir=str(directory)))
    found, _ = records.read(directory / "runs.jsonl")
    return {(record["arm"], record["seed"]): record for record in found}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tuned") / "run"
    return directory, run(directory, TUNED, drawn=True)


def test_what_tuning_sees_is_a_trial_of_the_tuning_seed(uninterrupted, tmp_path):
    _, trials = uninterrupted
    alone = dataclasses.replace(TINY, learning_rate=0.1, seeds=1, first_seed=TUNING_SEED)
    expected = run(tmp_path / "run", alone)["plain", TUNING_SEED]["metrics"]
    accuracies = trials["plain", 0]["tuning"]["validation_accuracies"]
    assert accuracies == [None, expected["validation_accuracy"]]


def test_the_best_on_validation_images_is_chosen_and_a_failure_never(uninterrupted):
    directory, trials = uninterrupted
    for arm in ("plain", "initial"):
        tuning = trials[arm, 0]["tuning"]
        assert tuning["seed"] == TUNING_SEED
        assert tuning["learning_rates"] == list(STEP_SIZES)
        assert tuning["validation_accuracies"][0] is None
        assert tuning["chosen"] == 0.1
        assert trials[arm, 1]["tuning"] == tuning
        assert trials[arm, 1]["settings"] == {"learning_rate": 0.1}
    assert "How the learning rates were chosen" in (directory / "REPORT.md").read_text()


def test_the_trials_are_those_of_a_run_with_the_chosen_step_size(uninterrupted, tmp_path):
    _, trials = uninterrupted
    chosen = run(tmp_path / "run", dataclasses.replace(TINY, learning_rate=0.1))
    for seed in (0, 1):
        for name in ("metrics", "curve"):
            assert trials["plain", seed][name] == chosen["plain", seed][name]


def test_tuning_of_a_pretrained_arm_starts_from_a_pretraining_of_the_tuning_seed(uninterrupted):
    directory, trials = uninterrupted
    seeds = {path.name for path in (directory / "checkpoints" / "pretraining").iterdir()}
    assert seeds == {"seed_0", "seed_1", f"seed_{TUNING_SEED}"}
    plain, pretrained = (trials[arm, 0]["tuning"] for arm in ("plain", "initial"))
    assert plain["validation_accuracies"] != pretrained["validation_accuracies"]


def test_tuning_tests_nothing(tmp_path):
    def refuse(*_):
        raise RuntimeError("a test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Program, "evaluate", refuse)
        with pytest.raises(RuntimeError, match="a test"):
            run(tmp_path / "run", TUNED)
    # All of the tuning is done, with the pretraining that it takes, and no trial.
    log = (tmp_path / "run" / "tuning.jsonl").read_text().splitlines()
    assert [json.loads(line)["arm"] for line in log] == ["plain"] * 2 + ["initial"] * 2
    assert not (tmp_path / "run" / "runs.jsonl").exists()


def test_a_run_that_is_stopped_in_tuning_goes_on_to_the_same_bytes(
    uninterrupted, tmp_path, monkeypatch, capsys
):
    directory = tmp_path / "run"
    asked = []

    def stop(self):
        asked.append(None)
        # Anew in each session, and each time a bit later in the same trainings.
        self.by = signal.SIGTERM if len(asked) % 5 == 0 else None
        return self.by is not None

    monkeypatch.setattr(ablate._Stop, "__call__", stop)
    codes = []
    for _ in range(40):
        try:
            run(directory, TUNED)
            break
        except SystemExit as stopped:
            codes.append(stopped.code)
    assert set(codes) == {128 + signal.SIGTERM}
    assert capsys.readouterr().err.count("with 0 of 4 trials finished") >= 2
    expected, _ = uninterrupted
    for name in ("runs.jsonl", "tuning.jsonl"):
        assert (directory / name).read_bytes() == (expected / name).read_bytes()


def test_finished_trainings_are_not_repeated(uninterrupted, tmp_path, monkeypatch):
    expected, _ = uninterrupted
    directory = tmp_path / "run"
    subprocess.run(["cp", "-r", str(expected), str(directory)], check=True)
    whole = (directory / "runs.jsonl").read_bytes()
    (directory / "runs.jsonl").write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))
    monkeypatch.setattr(
        trials_module.Trainer, "validate", lambda *_: pytest.fail("tuned a second time")
    )
    run(directory, TUNED)
    assert (directory / "runs.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_an_arm_that_fails_with_each_step_size_has_failed_trials_that_say_so(tmp_path):
    directory = tmp_path / "run"
    trials = run(directory, dataclasses.replace(TINY, tune="1e30,1e31", seeds=1))
    for trial in trials.values():
        assert trial["status"] == "failed"
        assert trial["failure"] == {
            "step": 0,
            "reason": "in tuning it failed with each step size of --tune=1e30,1e31",
        }
        assert trial["tuning"]["chosen"] is None


@pytest.mark.slow
def test_seeds_trained_together_are_tuned_too(tmp_path):
    trials = run(tmp_path / "run", dataclasses.replace(TUNED, seed_axis="vmap"))
    assert {trial["settings"]["learning_rate"] for trial in trials.values()} == {0.1}
    assert [key[1] for key in trials] == [0, 1, 0, 1]


def test_a_dry_run_says_what_would_be_tuned(capsys, monkeypatch):
    monkeypatch.setitem(studies.STUDIES, "made_up", made_up)
    ablate.ablate(TUNED, dry_run=True)
    assert "tuned on validation images: step sizes 1e+30, 0.1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("accuracies", "chosen"),
    [
        ([0.5, 0.6, 0.7], 0.03),
        ([0.7, 0.6, 0.7], 0.003),
        ([None, 0.1, None], 0.01),
        ([None, None, 0.0], 0.03),
        ([None, None, None], None),
    ],
)
def test_the_first_of_the_best_is_chosen(accuracies, chosen):
    assert choose([0.003, 0.01, 0.03], accuracies) == chosen


def test_what_was_trained_before_is_read_from_the_log(tmp_path):
    path = tmp_path / "tuning.jsonl"
    log = TuningLog(path)
    log.add("plain", 0.1 + 0.2, 1 / 3)
    log.add("other", 0.1, None)
    trained = []

    def train(step_size):
        trained.append(step_size)
        return 0.25

    tuned = tune("plain", [0.1, 0.1 + 0.2], TuningLog(path), train)
    assert trained == [0.1]
    assert tuned == ((0.1, 0.1 + 0.2), (0.25, 1 / 3), 0.1 + 0.2)
    again = TuningLog(path)
    assert ("other", 0.1) in again
    assert again["other", 0.1] is None
    assert ("other", 0.2) not in again
    assert again["plain", 0.1] == 0.25


@pytest.mark.parametrize("content", ["{", "[]", '{"arm": "plain"}'])
def test_a_log_of_something_else_is_refused(content, tmp_path):
    path = tmp_path / "tuning.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"tuning.jsonl: line 1 is no training of tuning"):
        TuningLog(path)


@pytest.mark.parametrize(
    "text",
    ["0.1", "0.1,0.1", "0.1,1e-1", "0.1,fast", "0.1,", "0.1,-0.2", "0,1", "0.1,inf", "nan,1"],
)
def test_a_grid_that_is_none_is_refused(text):
    with pytest.raises(ValueError, match=r"--tune must be two or more distinct positive numbers"):
        Config(tune=text)


def test_the_tuning_seed_may_not_be_one_of_the_trials():
    with pytest.raises(ValueError, match=f"--tune tunes with seed {TUNING_SEED}, which is among"):
        Config(tune="0.1,0.2", first_seed=TUNING_SEED - 1, seeds=2)
    assert Config(tune="0.1,0.2", first_seed=TUNING_SEED - 2, seeds=2).seed_numbers()
    assert Config(first_seed=TUNING_SEED).seed_numbers()


@pytest.mark.slow
def test_kill_9_in_tuning_leaves_the_same_bytes(tmp_path):
    command = [sys.executable, "-m", "experiments.ablate", "--study=stack_vs_large_kernel"]
    command += ["--validation_size=3504", "--epochs=2", "--batch_size=16", "--channels=2"]
    command += ["--seeds=1", "--checkpoint_seconds=0", "--tune=0.003,0.03"]

    # What one process has compiled the next need not.
    surroundings = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def start(directory):
        return subprocess.Popen(
            [*command, f"--run_dir={directory}"],
            cwd=ROOT,
            env=surroundings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def finish(process):
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(whole))
    for number in range(1, 4):
        process = start(killed)
        saved = killed / "checkpoints" / "tuning"
        while len(list(saved.glob("*/*/*/*.json"))) < 2 * number:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.kill()
        process.communicate()
    assert not (killed / "runs.jsonl").exists()
    finish(start(killed))
    for name in ("runs.jsonl", "tuning.jsonl"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
