"""runs.jsonl: what comes back, what a crash, a kill or a full disk leaves behind."""

import copy
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cnnjax import files
from experiments import records
from experiments.records import Record

ROOT = Path(__file__).resolve().parent.parent


def make_record(arm: str = "one_7x7", seed: int = 0, **changes: Any) -> Record:
    record: dict[str, Any] = {
        "schema": 1,
        "study": "stack_vs_large_kernel",
        "question": "Do three 3x3 layers beat one 7x7 layer that sees the same 7x7?",
        "arm": arm,
        "arm_index": 0,
        "arm_title": "one 7×7",
        "baseline": "one_7x7",
        "differs_in": "nothing: the baseline",
        "account": {"receptive_field": 7, "parameters": 12345, "macs": 2345678, "layers": 5},
        "limits": ["learning rate not re-tuned per arm"],
        "config": {"dataset": "mnist_5k", "learning_rate": 0.1, "epochs": 2},
        "command": "python -m experiments.ablate --flagfile=configs/some.flags",
        "planned_seeds": [0, 1, 2],
        "planned_arms": ["one_7x7", "three_3x3"],
        "seed": seed,
        "status": "completed",
        "failure": None,
        "num_examples": {"train": 3500, "validation": 500, "test": 1000},
        "metrics": {"test_accuracy": 0.971, "test_loss": 0.1 + 0.2},
        "curve": [
            {
                "epoch": 1,
                "step": 70,
                "train_loss": 1 / 3,
                "validation_loss": 0.2,
                "validation_accuracy": 0.9,
            }
        ],
    }
    record.update(changes)
    return record  # type: ignore[return-value]


def write(path: Path, *made: Record) -> Path:
    for record in made:
        records.append(path, record)
    return path


def test_what_is_read_is_what_was_appended(tmp_path: Path) -> None:
    made = [make_record(seed=seed) for seed in (2, 0, 1)]
    path = write(tmp_path / "runs.jsonl", *made)
    assert records.read(path) == (made, None)
    assert path.read_bytes().count(b"\n") == 3


def test_lines_are_canonical_json_with_shortest_floats_and_the_accounts_order(
    tmp_path: Path,
) -> None:
    record = make_record()
    shuffled: Any = dict(sorted(record.items(), key=lambda item: item[0][::-1]))
    first = write(tmp_path / "first", record).read_bytes()
    assert first == write(tmp_path / "second", shuffled).read_bytes()
    line = first.decode("ascii").rstrip("\n")
    value = json.loads(line)
    assert list(value) == sorted(value)
    assert list(value["account"]) == ["receptive_field", "parameters", "macs", "layers"]
    assert '"train_loss":0.3333333333333333,' in line
    assert '"test_loss":0.30000000000000004}' in line


def test_numbers_that_are_not_finite_travel_as_strings_and_come_back(tmp_path: Path) -> None:
    record = make_record(status="failed", metrics=None, failure={"step": 71, "reason": "NaN"})
    for epoch, loss in enumerate((math.nan, math.inf, -math.inf), start=2):
        record["curve"].append({**record["curve"][0], "epoch": epoch, "train_loss": loss})
    path = write(tmp_path / "runs.jsonl", record)

    def refuse(token: str) -> float:
        raise AssertionError(f"bare {token}")

    json.loads(path.read_text(), parse_constant=refuse)
    (back,), dropped = records.read(path)
    losses = [point["train_loss"] for point in back["curve"]]
    assert math.isnan(losses[1])
    assert losses[2:] == [math.inf, -math.inf]
    assert back["failure"] == {"step": 71, "reason": "NaN"}
    assert dropped is None


def test_numbers_that_are_not_finite_are_refused_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config.learning_rate: expected a finite number"):
        records.append(tmp_path / "runs.jsonl", make_record(config={"learning_rate": math.inf}))
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [({"path": Path("x")}, "config.path: JSON cannot carry a"), ({"a": {1: 2}}, "keys must be")],
)
def test_what_json_cannot_carry_is_refused(tmp_path: Path, config: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        records.append(tmp_path / "runs.jsonl", make_record(config=config))


def test_a_trial_is_recorded_once(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl", make_record(seed=0), make_record(seed=1))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="has a line for arm 'one_7x7', seed 1 already"):
        records.append(path, make_record(seed=1))
    assert path.read_bytes() == before
    path.write_bytes(before + before.splitlines(keepends=True)[0])
    with pytest.raises(ValueError, match="lines 1 and 3 both record arm 'one_7x7', seed 0"):
        records.read(path)


def test_a_last_line_cut_at_any_byte_is_dropped_repaired_and_written_again(tmp_path: Path) -> None:
    made = [make_record(seed=seed) for seed in range(2)]
    whole = write(tmp_path / "whole", *made).read_bytes()
    first = whole.index(b"\n") + 1
    path = tmp_path / "runs.jsonl"
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        back, dropped = records.read(path)
        # Without its line feed the last line is whole; without any byte there is no such line.
        is_whole, is_absent = length == len(whole) - 1, length == first
        assert back == made[: 2 if is_whole else 1]
        assert (dropped is None) == (is_whole or is_absent)
        if dropped is not None:
            assert f"line 2, the last, was cut off after {length - first} bytes" in dropped
        assert records.repair(path) == dropped
        assert path.read_bytes() == (whole if is_whole else whole[:first])
        assert records.repair(path) is None
        path.write_bytes(whole[:length])
        if not is_whole and length % 50 == 0:
            # fsync is slow, and append repairs by the function that was just tested.
            records.append(path, made[1])
            assert path.read_bytes() == whole


def test_a_lacking_line_feed_is_added_before_the_next_line(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl", make_record(seed=0))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write(path, make_record(seed=1))
    assert [record["seed"] for record in records.read(path)[0]] == [0, 1]


@pytest.mark.parametrize("junk", [b"\x00" * 40 + b"\n", b"\xff\xfe", b"{\n", b"\n", b'{"a": NaN}'])
def test_a_last_line_that_is_no_json_is_dropped(tmp_path: Path, junk: bytes) -> None:
    path = write(tmp_path / "runs.jsonl", make_record())
    whole = path.read_bytes()
    path.write_bytes(whole + junk)
    back, dropped = records.read(path)
    assert len(back) == 1
    assert "line 2, the last" in str(dropped)
    assert records.repair(path) == dropped
    assert path.read_bytes() == whole


@pytest.mark.parametrize("junk", [b"{broken\n", b"\n", b"\xff\n"])
def test_a_broken_line_before_the_last_is_an_error_that_names_it(
    tmp_path: Path, junk: bytes
) -> None:
    path = write(tmp_path / "runs.jsonl", make_record(seed=0), make_record(seed=1))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + junk + lines[1])
    for function in (records.read, records.repair):
        with pytest.raises(ValueError, match="line 2 is no JSON"):
            function(path)
    with pytest.raises(ValueError, match="line 2 is no JSON"):
        records.append(path, make_record(seed=2))
    assert path.read_bytes() == lines[0] + junk + lines[1]


@pytest.mark.parametrize("content", [b"3\n", b'{"schema": 2}\n', b'{"schema": 1}\n'])
def test_json_that_is_no_record_is_an_error_even_on_the_last_line(
    tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="line 1 is not a record"):
        records.read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "schema: this version reads and writes schema 1, got 2"),
        ({"seed": "0"}, "seed: expected int, got '0'"),
        ({"arm_index": True}, "arm_index: expected int, got True"),
        ({"account": []}, r"account: expected dict, got \[\]"),
        ({"metrics": 3}, "metrics: expected dict or null, got 3"),
        ({"seed": 7}, "seed: 7 is not among planned_seeds"),
        ({"arm": "two"}, "arm: 'two' is not among planned_arms"),
        ({"headline_arm": "two"}, "headline_arm: 'two' is not among planned_arms"),
        ({"status": "running"}, 'status: expected "completed" or "failed"'),
        ({"metrics": None}, "metrics: expected an object with"),
        ({"metrics": {"test_accuracy": 97.1, "test_loss": 0.1}}, "a fraction from 0 to 1"),
        ({"metrics": {"test_accuracy": math.nan, "test_loss": 0.1}}, "a fraction from 0 to 1"),
        ({"metrics": {"test_accuracy": "x", "test_loss": 0.1}}, "test_accuracy: expected int or"),
        ({"status": "failed"}, "failure: expected an object with"),
        ({"curve": [{"epoch": 1}]}, "curve: expected an object with"),
        ({"num_examples": {"train": 1}}, "num_examples: expected an object with"),
    ],
)
def test_a_record_that_breaks_its_promise_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        records.append(tmp_path / "runs.jsonl", make_record(**changes))
    assert not (tmp_path / "runs.jsonl").exists()


@pytest.mark.parametrize("name", sorted(Record.__required_keys__))
def test_every_required_field_is_required(name: str) -> None:
    record: Any = make_record()
    records.validate(record)
    del record[name]
    with pytest.raises(ValueError, match=f"^{name}: "):
        records.validate(record)


def test_an_empty_file_has_no_records_and_a_missing_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    with pytest.raises(FileNotFoundError):
        records.read(path)
    path.touch()
    assert records.read(path) == ([], None)
    assert records.repair(path) is None


def test_appending_does_not_change_the_record(tmp_path: Path) -> None:
    record = make_record()
    before = copy.deepcopy(record)
    write(tmp_path / "runs.jsonl", record)
    assert record == before


def run_with_file_size_limit(code: str, path: Path, limit: int) -> str:
    """Run `code` where no file may grow past `limit` bytes, as on a disk that fills up."""
    program = (
        "import errno, resource, sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from test_records import make_record\n"
        "from cnnjax import files\n"
        "from experiments import records\n"
        "path = Path(sys.argv[1])\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n" + code
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(path)], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def test_a_full_disk_leaves_no_part_of_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl", make_record(seed=0))
    before = path.read_bytes()
    code = (
        "try:\n"
        "    records.append(path, make_record(seed=1))\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno], path.stat().st_size)\n"
    )
    said = run_with_file_size_limit(code, path, len(before) + 100)
    assert said.split() == ["EFBIG", str(len(before))]
    assert path.read_bytes() == before
    write(path, make_record(seed=1))
    assert len(records.read(path)[0]) == 2


def test_a_cut_line_can_be_repaired_on_a_full_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "runs.jsonl", make_record(seed=0))
    before = path.read_bytes()
    path.write_bytes(before + before[:300])
    assert "dropped" in run_with_file_size_limit("print(records.repair(path))", path, 10)
    assert path.read_bytes() == before


def test_writing_atomically_on_a_full_disk_keeps_the_old_file_and_leaves_no_other(
    tmp_path: Path,
) -> None:
    path = tmp_path / "REPORT.md"
    files.write_atomically(path, "old")
    code = (
        "try:\n"
        "    files.write_atomically(path, 'n' * 10_000)\n"
        "except OSError as error:\n"
        "    print(errno.errorcode[error.errno])\n"
    )
    assert run_with_file_size_limit(code, path, 5000) == "EFBIG\n"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["REPORT.md"]


def test_a_process_killed_while_appending_leaves_whole_lines_and_can_go_on(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    program = (
        "import sys\n"
        "sys.path.insert(0, 'tests')\n"
        "from test_records import make_record\n"
        "from cnnjax import files\n"
        "from experiments import records\n"
        "import os\n"
        "path = sys.argv[1]\n"
        "done = len(records.read(path)[0]) if os.path.exists(path) else 0\n"
        "seeds = list(range(400))\n"
        "for seed in range(done, 400):\n"
        "    records.append(path, make_record(seed=seed, planned_seeds=seeds))\n"
    )
    num_lines = 0
    for delay in (0.02, 0.05, 0.11):
        process = subprocess.Popen([sys.executable, "-c", program, str(path)], cwd=ROOT)
        deadline = time.monotonic() + 60
        start = path.stat().st_size if path.exists() else 0
        while not path.exists() or path.stat().st_size == start:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.002)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        back, _ = records.read(path)
        assert [record["seed"] for record in back] == list(range(len(back)))
        assert len(back) >= num_lines
        num_lines = len(back)
    records.repair(path)
    planned = list(range(400))
    # Nothing that a killed process wrote differs from what one that was never killed writes.
    whole = write(
        tmp_path / "whole",
        *(make_record(seed=seed, planned_seeds=planned) for seed in range(min(num_lines, 20))),
    ).read_bytes()
    assert path.read_bytes()[: len(whole)] == whole


def test_writing_atomically_takes_text_and_bytes_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "some file"
    files.write_atomically(path, "é\r\n")
    assert path.read_bytes() == b"\xc3\xa9\r\n"
    files.write_atomically(path, b"\x89PNG")
    assert path.read_bytes() == b"\x89PNG"
    assert os.listdir(tmp_path) == ["some file"]
    with pytest.raises(OSError, match="directory"):
        files.write_atomically(tmp_path / "missing" / "file", "x")
