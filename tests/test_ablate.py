"""The ablation program as its users meet it: whole runs, killed runs, wrong commands."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from absl import flags
from made_records import make_records

from experiments import ablate, records, report
from experiments.config import Config
from experiments.run_directory import RunDirectory, RunDirectoryError

ROOT = Path(__file__).resolve().parent.parent
NUM_ARMS = 5
# 496 training images, 31 steps an epoch: seconds, not minutes.
TINY = {
    "validation_size": 3504,
    "epochs": 3,
    "batch_size": 16,
    "channels": 2,
    "seeds": 1,
    "checkpoint_seconds": 0.0,
}


def command(run_dir, **changes):
    values = {**TINY, **changes}
    return [
        sys.executable,
        "-m",
        "experiments.ablate",
        *(f"--{name}={value}" for name, value in values.items()),
        f"--run_dir={run_dir}",
    ]


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory):
    """Environment of every subprocess: what one has compiled the next need not."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.fixture(scope="session")
def run(surroundings):
    def run_to_its_end(run_dir, **changes):
        return subprocess.run(
            command(run_dir, **changes),
            cwd=ROOT,
            env=surroundings,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    return run_to_its_end


@pytest.fixture(scope="session")
def uninterrupted(run, tmp_path_factory):
    """The run directory of a run that nothing disturbed."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = run(directory)
    assert result.returncode == 0, result.stderr
    return directory, result.stdout


def manifests(directory):
    return set(directory.glob("checkpoints/*/*/*.json"))


def until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def start(run_dir, surroundings, **changes):
    return subprocess.Popen(
        command(run_dir, **changes),
        cwd=ROOT,
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt_in_a_trial(run_dir, surroundings, number):
    """Start the run and send a signal when a trial has newly saved itself half way."""
    before = manifests(run_dir)
    process = start(run_dir, surroundings)
    until(lambda: manifests(run_dir) - before, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    return process.returncode, output, errors


def test_a_run_prints_what_is_held_equal_and_leaves_everything_behind(uninterrupted):
    directory, output = uninterrupted
    assert "held equal: receptive field, steps" in output
    assert "496 training, 3,504 validation and 1,000 test images; 31 steps of 16" in output
    trials, dropped = records.read(directory / "runs.jsonl")
    assert dropped is None
    assert [trial["arm"] for trial in trials] == trials[0]["planned_arms"]
    assert {trial["status"] for trial in trials} == {"completed"}
    assert all(trial["account"]["receptive_field"] == 7 for trial in trials)
    assert all(len(trial["curve"]) == 3 for trial in trials)
    for name in ("REPORT.md", "accuracy.png", "curves.png", "resolved.flags"):
        assert (directory / name).stat().st_size > 0
    environment = json.loads((directory / "environment.json").read_text())["environment"]
    assert {"commit", "dirty", "versions", "device", "precision"} <= environment.keys()
    assert report.verdict(trials) in output


def test_accuracies_are_fractions_of_the_images(uninterrupted):
    trials, _ = records.read(uninterrupted[0] / "runs.jsonl")
    for trial in trials:
        for accuracy, num in (("test_accuracy", 1000), ("validation_accuracy", 3504)):
            count = trial["metrics"][accuracy] * num
            assert trial["metrics"][accuracy] == round(count) / num


@pytest.mark.slow
def test_the_same_command_again_does_nothing_but_draw(uninterrupted, run):
    directory, _ = uninterrupted
    before = (directory / "runs.jsonl").read_bytes()
    (directory / "REPORT.md").unlink()
    result = run(directory)
    assert result.returncode == 0, result.stderr
    assert (directory / "runs.jsonl").read_bytes() == before
    assert (directory / "REPORT.md").exists()


@pytest.mark.slow
def test_nothing_but_the_tables_is_printed_without_a_terminal(uninterrupted, run):
    result = run(uninterrupted[0])
    assert result.stderr == ""
    assert "epochs [" not in result.stdout


@pytest.mark.slow
def test_kill_9_again_and_again_leaves_the_same_bytes(uninterrupted, surroundings, run, tmp_path):
    directory = tmp_path / "run"
    rng = random.Random(0)
    for _ in range(3):
        before = manifests(directory)
        process = start(directory, surroundings)
        until(lambda before=before: manifests(directory) - before, process)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
    assert not (directory / "REPORT.md").exists()
    result = run(directory)
    assert result.returncode == 0, result.stderr
    expected, _ = uninterrupted
    assert (directory / "runs.jsonl").read_bytes() == (expected / "runs.jsonl").read_bytes()


@pytest.mark.slow
def test_sigterm_saves_in_the_middle_of_a_trial_and_exits(
    uninterrupted, surroundings, run, tmp_path
):
    directory = tmp_path / "run"
    code, _, errors = interrupt_in_a_trial(directory, surroundings, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in errors
    assert re.search(r"stopped by SIGTERM with \d of 5 trials finished", errors)
    result = run(directory)
    assert result.returncode == 0, result.stderr
    expected, _ = uninterrupted
    assert (directory / "runs.jsonl").read_bytes() == (expected / "runs.jsonl").read_bytes()


@pytest.mark.slow
def test_a_broken_checkpoint_is_passed_over_and_the_numbers_stay(
    uninterrupted, surroundings, run, tmp_path
):
    directory = tmp_path / "run"
    interrupt_in_a_trial(directory, surroundings, signal.SIGTERM)
    unfinished = max(manifests(directory), key=lambda path: path.stat().st_mtime_ns)
    for path in unfinished.with_suffix("").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 16
            path.write_bytes(content)
    result = run(directory)
    assert result.returncode == 0, result.stderr
    assert re.search(r"checkpoint .* is broken .* and is passed over", result.stderr)
    expected, _ = uninterrupted
    assert (directory / "runs.jsonl").read_bytes() == (expected / "runs.jsonl").read_bytes()


def test_a_truncated_last_line_is_dropped_and_its_trial_repeated(uninterrupted, run, tmp_path):
    expected, _ = uninterrupted
    directory = tmp_path / "run"
    subprocess.run(["cp", "-r", str(expected), str(directory)], check=True)
    whole = (directory / "runs.jsonl").read_bytes()
    (directory / "runs.jsonl").write_bytes(whole[:-100])
    result = run(directory)
    assert result.returncode == 0, result.stderr
    assert "was cut off" in result.stderr
    assert "its trial is run again" in result.stderr
    assert (directory / "runs.jsonl").read_bytes() == whole


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_later(
    uninterrupted, surroundings, run, tmp_path
):
    # No file may grow beyond 6,000 bytes: not the second record, and no checkpoint.
    directory = tmp_path / "run"
    limited = ["bash", "-c", 'ulimit -f 6; exec "$@"', "bash", *command(directory)]
    environment = {k: v for k, v in surroundings.items() if not k.startswith("JAX_COMPILATION")}
    result = subprocess.run(
        limited, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    # Threads of Orbax's may print what they met, in the middle of it too.
    assert re.search(r"experiments\.ablate: cannot save .*File too large", result.stderr)
    result = run(directory)
    assert result.returncode == 0, result.stderr
    expected, _ = uninterrupted
    assert (directory / "runs.jsonl").read_bytes() == (expected / "runs.jsonl").read_bytes()


@pytest.mark.slow
def test_resolved_flags_is_a_flagfile_of_the_same_run(uninterrupted, surroundings):
    directory, _ = uninterrupted
    lines = (directory / "resolved.flags").read_text().splitlines()
    written = [line for line in lines if not line.startswith("#")]
    assert all(line.startswith("--") for line in written)
    named = {line.lstrip("-").split("=")[0].removeprefix("no") for line in written}
    assert named == {name.removeprefix("no") for name in Config().identity()} | {"run_dir"}
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "experiments.ablate",
            f"--flagfile={directory}/resolved.flags",
        ],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"run directory: {directory}" in result.stdout


def test_another_config_in_the_same_directory_is_refused(uninterrupted, run):
    result = run(uninterrupted[0], learning_rate=0.5)
    assert result.returncode == 1
    assert "holds another config: it ran with --learning_rate=0.01" in result.stderr
    assert "you ask for --learning_rate=0.5" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_two_processes_cannot_share_a_directory(surroundings, run, tmp_path):
    directory = tmp_path / "run"
    first = start(directory, surroundings)
    try:
        until(lambda: (directory / "resolved.flags").exists(), first)
        result = run(directory)
        assert result.returncode == 1
        assert "another process is running in" in result.stderr
    finally:
        first.kill()
        first.communicate()


@pytest.mark.slow
def test_a_trial_that_diverges_is_recorded_and_the_others_go_on(run, tmp_path):
    directory = tmp_path / "run"
    result = run(directory, learning_rate=1e30, warmup_epochs=0, epochs=1, weight_decay=0)
    assert result.returncode == 0, result.stderr
    trials, _ = records.read(directory / "runs.jsonl")
    assert len(trials) == NUM_ARMS
    failed = [trial for trial in trials if trial["status"] == "failed"]
    assert failed
    for trial in failed:
        assert 1 <= trial["failure"]["step"] <= 31
        assert trial["failure"]["reason"] == "the training loss was not finite"
        assert trial["metrics"] is None
    count = "1 trial" if len(failed) == 1 else f"{len(failed)} trials"
    assert f"{count} failed" in (directory / "REPORT.md").read_text()


@pytest.mark.slow
def test_vmapped_seeds_leave_the_same_kind_of_records(run, tmp_path):
    directory = tmp_path / "run"
    result = run(directory, seed_axis="vmap", seeds=2, epochs=1, warmup_epochs=0.5)
    assert result.returncode == 0, result.stderr
    trials, _ = records.read(directory / "runs.jsonl")
    assert [(trial["arm_index"], trial["seed"]) for trial in trials] == [
        (arm, seed) for arm in range(NUM_ARMS) for seed in (0, 1)
    ]


@contextmanager
def flag_values(**changes):
    """Other flag values for a while.

    absl's own flagsaver would also delete the flags that libraries define when they are first
    imported meanwhile.
    """
    before = {name: flags.FLAGS[name].value for name in changes}
    try:
        for name, value in changes.items():
            flags.FLAGS[name].value = value
        yield
    finally:
        for name, value in before.items():
            flags.FLAGS[name].value = value


def refusal(**changes):
    """The sentence with which the program, called in this process, refuses these flags."""
    with flag_values(**changes), pytest.raises(SystemExit) as caught:
        ablate.main(["ablate"])
    assert isinstance(caught.value.code, str), caught.value.code
    return caught.value.code


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"study": "stack_vs_big_kernel"}, "did you mean 'stack_vs_large_kernel'"),
        ({"dataset": "mnist_5000"}, "did you mean 'mnist_5k'"),
        ({"recipe": "cosin"}, "unknown --recipe 'cosin'; did you mean 'cosine'?"),
        ({"seed_axis": "vmapped"}, "unknown --seed_axis 'vmapped'; did you mean 'vmap'?"),
        ({"weight_decay": float("nan")}, "--weight_decay must be a finite number, got nan"),
        ({"warmup_epochs": float("inf")}, "--warmup_epochs must be a finite number, got inf"),
        ({"first_seed": 2**31 - 3}, "goes past 2**31 - 1, the largest seed"),
        ({"seeds": 0}, "--seeds must be at least 1, got 0"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"learning_rate": -1.0}, "learning_rate must be above 0, got -1.0"),
        ({"warmup_epochs": 6.0}, "a warm-up of 6 epochs leaves nothing of a run of 6"),
        (
            {"batch_size": 3501},
            "--batch_size=3501 is larger than the training set of 3500 images",
        ),
        ({"validation_size": 4000}, "--validation_size=4000 leaves none of the 4000"),
    ],
)
def test_a_flag_that_means_nothing_is_refused_in_one_sentence(changes, sentence):
    assert sentence in refusal(**changes)


def test_a_run_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    message = refusal(run_dir=str(tmp_path / "file" / "run"))
    assert "cannot write in the run directory" in message
    assert "choose another with --run_dir" in message


def test_a_directory_of_somebody_elses_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    assert "holds other files (thesis.tex) and no run" in refusal(run_dir=str(tmp_path))


def test_a_broken_line_in_the_middle_of_the_records_is_refused(uninterrupted, run, tmp_path):
    directory = tmp_path / "run"
    subprocess.run(["cp", "-r", str(uninterrupted[0]), str(directory)], check=True)
    lines = (directory / "runs.jsonl").read_bytes().split(b"\n")
    lines[1] = lines[1][:50]
    (directory / "runs.jsonl").write_bytes(b"\n".join(lines))
    result = run(directory)
    assert result.returncode == 1
    assert "line 2 is no JSON" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_data_directory_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert str(tmp_path / "file") in refusal(data_dir=str(tmp_path / "file"))


def test_stray_arguments_are_refused():
    with pytest.raises(SystemExit, match=r"unexpected argument 'lr=0\.4': every setting is a flag"):
        ablate.main(["ablate", "lr=0.4"])


def test_dry_run_prints_the_table_and_writes_nothing(tmp_path, capsys):
    with flag_values(dry_run=True, run_dir=str(tmp_path / "run")):
        ablate.main(["ablate"])
    assert "three 3x3, 12 wide" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_an_augmentation_that_the_images_do_not_allow_is_refused_before_anything_runs(tmp_path):
    changes = {"shift": 28, "shift_mode": "reflect", "run_dir": str(tmp_path / "run")}
    with flag_values(**changes), pytest.raises(SystemExit, match=r"random_shift_crop: "):
        ablate.main(["ablate"])
    # Of one arm alone, which reflects where the run does not.
    changes |= {"shift_mode": "constant", "study": "augmentation"}
    changes["augmentations"] = "flips_shifts,reflected"
    with flag_values(**changes), pytest.raises(SystemExit, match=r"random_shift_crop: "):
        ablate.main(["ablate"])
    assert not (tmp_path / "run").exists()


def test_a_directory_for_a_sweep_wants_a_grid(tmp_path):
    with (
        flag_values(sweep_dir=str(tmp_path / "sweep")),
        pytest.raises(SystemExit, match="--grid says what it sweeps"),
    ):
        ablate.main(["ablate"])


def test_trials_of_a_study_that_had_other_arms_are_refused(tmp_path):
    with RunDirectory(tmp_path / "run", Config(), "digest") as directory:
        directory.records = make_records({"base": [0.5], "wide": [0.6]})
        directory.refuse_other_arms(["base", "wide"], "base")
        for arms, baseline in ((["base", "wide", "wider"], "base"), (["base", "wide"], "wide")):
            with pytest.raises(RunDirectoryError, match="of other arms than the study has now"):
                directory.refuse_other_arms(arms, baseline)


def test_the_default_directory_is_that_of_the_config_alone():
    assert Config().default_run_dir() == Config(data_dir="/elsewhere").default_run_dir()
    assert Config().default_run_dir() != Config(learning_rate=0.02).default_run_dir()
    assert Config().default_run_dir().startswith("runs/stack_vs_large_kernel-mnist_5k-")
