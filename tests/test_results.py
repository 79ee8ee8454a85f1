"""The page of results: computed from kept records, so that nobody writes a verdict by hand."""

import copy
import json
import shutil
from pathlib import Path

import pytest

from experiments import comparisons, records, results
from experiments.config import Config

ROOT = Path(__file__).resolve().parent.parent
ONE = ROOT / "results" / "fine_tuning-mnist"


@pytest.fixture(scope="module")
def trials():
    return records.read(ONE / "runs.jsonl")[0]


def run_with(trials, orders, shift=None):
    """The kept run, in which both arms were resolved as higher, with a claim; arms moved."""
    trials = copy.deepcopy(trials)
    for trial in trials:
        trial |= {"published": "So it is (They, 2014).", "published_order": orders[trial["arm"]]}
        trial["metrics"]["test_accuracy"] += (shift or {}).get(trial["arm"], 0.0)
    return comparisons.gather(trials)


@pytest.mark.parametrize(
    ("order", "shift", "word"),
    [
        ("higher", 0.0, "Reproduced"),
        ("lower", 0.0, "Contradicted"),
        ("level", 0.0, "Contradicted"),
        ("lower", -0.05, "Reproduced"),
        ("higher", -0.0175, "Not resolved"),
        ("lower", -0.0175, "Not resolved"),
        ("level", -0.0175, "Not resolved"),
    ],
)
def test_a_published_order_is_reproduced_only_by_a_resolved_difference(trials, order, shift, word):
    orders = {"from_scratch": "", "fine_tuned": order, "new_head": ""}
    run = run_with(trials, orders, {"fine_tuned": shift})
    assert results.published(run) == f"So it is (They, 2014). **{word}.**"


def test_several_published_differences_are_counted(trials):
    run = run_with(trials, {"from_scratch": "", "fine_tuned": "higher", "new_head": "lower"})
    told = "**Of 2 differences, 1 reproduced, 1 contradicted.**"
    assert results.published(run) == f"So it is (They, 2014). {told}"


def test_without_a_claim_there_is_nothing_to_reproduce(trials):
    without = [{name: trial[name] for name in trial if name != "published"} for trial in trials]
    assert results.published(comparisons.gather(without)) == "–"
    nothing = dict.fromkeys(("from_scratch", "fine_tuned", "new_head"), "")
    assert results.published(run_with(trials, nothing)) == "–"


def test_the_command_is_the_nearest_flagfile_and_where_the_run_departs(trials, tmp_path):
    config = Config(study="fine_tuning", dataset="mnist_5k", seeds=7, flip=True)
    (tmp_path / "far.flags").write_text("--study=fine_tuning\n--epochs=3\n--seeds=8\n")
    (tmp_path / "near.flags").write_text("--study=fine_tuning\n--seeds=9\n")
    (tmp_path / "other.flags").write_text("--study=stack_vs_large_kernel\n--seeds=7\n--flip\n")
    run = comparisons.gather([{**trial, "config": config.identity()} for trial in trials])
    command = f"python -m experiments.ablate --flagfile={tmp_path.name}/near.flags --flip --seeds=7"
    assert results.command_of(run, tmp_path) == command
    (tmp_path / "near.flags").unlink()
    departures = "--epochs=6 --flip --seeds=7"
    assert results.command_of(run, tmp_path).endswith(f"far.flags {departures}")
    # A flag that the run left at its default is told all the same, and a sweep is no run.
    (tmp_path / "sweep.flags").write_text("--study=fine_tuning\n--grid=seeds=7,8\n")
    (tmp_path / "far.flags").write_text("--study=fine_tuning\n--train_size=1000\n")
    assert results.command_of(run, tmp_path).endswith("far.flags --flip --seeds=7 --train_size=0")


def test_a_run_far_from_any_flagfile_gives_every_flag(trials, tmp_path):
    config = Config(study="fine_tuning", seeds=7, flip=True, epochs=9, shift=0, channels=3)
    (tmp_path / "near.flags").write_text("--study=fine_tuning\n")
    run = comparisons.gather([{**trial, "config": config.identity()} for trial in trials])
    assert results.command_of(run, tmp_path) == trials[0]["command"]


def test_the_table_stands_between_its_markers(tmp_path, capsys):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(f"before\n{results.BEGIN}\nold\n{results.END}\nafter\n")
    kept = tmp_path / "kept" / "one"
    shutil.copytree(ONE, kept)
    sessions = [{"finished_trials": 20, "seconds": 200.0}, {"finished_trials": 10, "seconds": 40.5}]
    (kept / "sessions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in sessions))
    runs = results.kept_runs(tmp_path / "kept")
    lines = results.table(runs, page, ROOT / "configs")
    text = results.replace_table(page.read_text(), lines)
    assert text == f"before\n{results.BEGIN}\n{lines}\n{results.END}\nafter\n"
    header, rule, row = lines.splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert "](../kept/one/REPORT.md) (MNIST, 250 images, 40 epochs)" in row
    assert "| 4 min | 1 core, AMD EPYC |" in row
    assert runs[0].run.verdict in row
    assert results.replace_table(text, lines) == text


def test_a_session_that_a_full_disk_cut_short_is_passed_over(tmp_path):
    kept = tmp_path / "kept" / "one"
    shutil.copytree(ONE, kept)
    (kept / "sessions.jsonl").write_text('{"finished_trials": 20, "seconds": 200.0}\n{"finished_t')
    (run,) = results.kept_runs(tmp_path / "kept")
    assert run.seconds == 200
    (kept / "environment.json").write_text("{")
    with pytest.raises(ValueError, match=r"one/environment\.json is broken"):
        results.kept_runs(tmp_path / "kept")


def test_a_page_without_markers_and_a_directory_without_runs_are_refused(tmp_path):
    with pytest.raises(ValueError, match="needs the lines <!-- results: begin -->"):
        results.replace_table(f"{results.END}\n{results.BEGIN}\n", "table")
    with pytest.raises(FileNotFoundError, match=r"has no directory with a runs\.jsonl in it"):
        results.kept_runs(tmp_path)
