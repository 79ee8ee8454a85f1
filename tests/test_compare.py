"""Several runs side by side: SciPy's numbers, honest pairs, and clear refusals."""

import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas
import pytest
from absl import flags
from made_runs import make_run
from PIL import Image
from scipy import stats as scipy_stats

from experiments import compare, joined_report, joined_runs
from experiments.joined_plot import arms_figure
from experiments.joined_runs import labels_of, read_run
from experiments.terminal_tables import aligned

FIRST = {"narrow": [0.50, 0.52, 0.57], "wide": [0.60, 0.65, 0.61]}
SECOND = {"narrow": [0.55, 0.58, 0.61], "wide": [0.60, 0.64, 0.63]}
ANOTHER_RATE = {"config": {"dataset": "mnist_5k", "learning_rate": 0.03, "flip": False}}


def joined(*directories: Path):
    return [read_run(path, path.name) for path in directories]


def rows_of(text: str, section: str) -> list[list[str]]:
    """The cells of the first table of a section, without its header."""
    part = text.split(f"## {section}\n")[1].split("\n## ")[0]
    table = part[part.index("\n| ") + 1 :].split("\n\n")[0]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]


@pytest.fixture
def two(tmp_path):
    return [
        make_run(tmp_path / "first", FIRST),
        make_run(tmp_path / "second", SECOND, **ANOTHER_RATE),
    ]


def text_of(*directories: Path) -> str:
    return "\n".join(joined_report.report_lines("A title", joined(*directories)))


def test_every_arm_of_every_run_has_the_mean_and_interval_of_scipy(two):
    rows = rows_of(text_of(*two), "Every arm of every run")
    assert [row[:2] for row in rows] == [
        [run, f"the {arm} one"] for run in ("first", "second") for arm in ("narrow", "wide")
    ]
    for row, values in zip(rows, [*FIRST.values(), *SECOND.values()], strict=True):
        percent = 100 * np.array(values)
        low, high = scipy_stats.t.interval(0.95, 2, percent.mean(), scipy_stats.sem(percent))
        assert row[2:6] == [f"{percent.mean():.2f} %", f"[{low:.2f}, {high:.2f}]", "3", "0"]
    assert [row[6:] for row in rows] == [["1,000", "2,000"], ["1,500", "2,000"]] * 2


def test_the_same_arm_of_two_runs_is_compared_over_shared_seeds_with_holms_p(two):
    rows = rows_of(text_of(*two), "Between the runs")
    p_values = []
    for row, arm in zip(rows, ("narrow", "wide"), strict=True):
        test = scipy_stats.ttest_rel(SECOND[arm], FIRST[arm])
        interval = test.confidence_interval(0.95)
        difference = 100 * np.mean(np.subtract(SECOND[arm], FIRST[arm]))
        assert row[:3] == [f"the {arm} one", "second", f"{difference:+.2f}"]
        assert row[3] == f"[{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]"
        assert row[4:6] == ["3", f"{test.pvalue:.3f}"]
        p_values.append(test.pvalue)
    # Holm by hand, of two: the smaller is doubled, the larger is no smaller than that.
    smaller, larger = sorted(p_values)
    adjusted = {smaller: min(1, 2 * smaller), larger: max(larger, 2 * smaller)}
    assert [row[6] for row in rows] == [f"{adjusted[p]:.3f}" for p in p_values]
    assert [row[7] for row in rows] == ["higher", "not resolved"]


def test_pairs_are_the_seeds_that_both_runs_completed(tmp_path, two):
    third = make_run(tmp_path / "third", {"narrow": [0.5, None, 0.6, 0.7], "wide": [None] * 4})
    narrow, wide = rows_of(text_of(two[0], third), "Between the runs")
    assert narrow[4] == "2"
    assert narrow[2] == f"{100 * np.mean([0.0, 0.03]):+.2f}"
    assert wide[2:] == ["–", "–", "0", "–", "–", "no pairs"]


def test_what_differs_between_the_configs_is_a_table_of_those_flags_alone(two):
    text = text_of(*two)
    assert rows_of(text, "What differs between the runs") == [["first", "0.01"], ["second", "0.03"]]
    assert "| run | `learning_rate` |" in text
    assert "`dataset`" not in text


def test_a_flag_that_one_run_leaves_at_its_default_is_told_with_it(tmp_path, two):
    config = {"dataset": "mnist_5k", "learning_rate": 0.01, "flip": False, "cutout": 8}
    third = make_run(tmp_path / "third", {"narrow": [0.5], "wide": [0.6]}, config=config)
    text = text_of(two[0], third)
    assert "| run | `cutout` |" in text
    assert rows_of(text, "What differs between the runs") == [["first", "0"], ["third", "8"]]


def test_learning_rates_that_were_tuned_stand_beside_their_arms(tmp_path, two):
    tuning = {"seed": 9, "learning_rates": [0.1, 0.3], "validation_accuracies": [0.5, 0.6]}
    third = make_run(
        tmp_path / "third", {"narrow": [0.5], "wide": [0.6]}, tuning={**tuning, "chosen": 0.3}
    )
    text = text_of(two[0], third)
    table = rows_of(text, "Every arm of every run")
    assert [row[-1] for row in table[:4]] == ["–", "–", "0.3", "0.3"]
    assert "The largest learning rate of the grid was the best for" in text
    assert "learning rate, tuned" in text
    assert "learning rate, tuned" not in text_of(*two)


def test_runs_of_one_config_say_that_no_flag_differs(tmp_path, two):
    again = make_run(tmp_path / "again", SECOND)
    assert "No flag: the runs have the same config." in text_of(two[0], again)


def test_the_report_says_what_pairs_rest_on(tmp_path, two):
    other = make_run(tmp_path / "other", SECOND, digest="two")
    unknown = make_run(tmp_path / "unknown", SECOND, digest=None)
    text = text_of(*two, other, unknown)
    assert "- second: the same images and labels." in text
    assert (
        "- other: images or labels differ in one of the three sets; pairs rest on seeds alone."
        in (text)
    )
    assert "- unknown: whether the images and labels are the same is not known; pairs rest on" in (
        text
    )
    assert "Nothing is known of what unknown ran on." in text


def test_a_run_on_another_machine_is_told_of(tmp_path, two):
    other = make_run(tmp_path / "other", SECOND, environment={"cores": 64, "commit": "a" * 40})
    text = text_of(two[0], other)
    assert "- Cores differ: 2 (first), 64 (other)." in text
    # One commit that is known differs from none.
    assert "Commits" not in text


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"study": "depths"}, "another study (depths, not widths)"),
        ({"config": {"dataset": "mnist"}}, "another data set (mnist, not mnist_5k)"),
        ({"outcome": "accuracy at the border"}, "another outcome (accuracy at the border, not"),
    ],
)
def test_runs_that_answer_something_else_are_shown_but_not_paired(tmp_path, two, changes, why):
    other = make_run(tmp_path / "other", SECOND, **changes)
    text = text_of(two[0], other)
    assert f"- other is not compared: {why}" in text
    assert len(rows_of(text, "Every arm of every run")) == 4
    assert not joined_runs.between_runs(joined(two[0], other))


def test_runs_without_an_arm_in_common_are_not_paired(tmp_path, two):
    other = make_run(tmp_path / "other", {"deep": [0.5, 0.6], "deeper": [0.5, 0.6]})
    assert "other is not compared: no arm of the same name" in text_of(two[0], other)


def test_an_unfinished_run_and_a_cut_line_are_told_of(tmp_path, two):
    path = two[1] / "runs.jsonl"
    path.write_bytes(path.read_bytes()[:-30])
    text = text_of(*two)
    assert "- second is unfinished: 5 of 6 trials." in text
    assert "line 6, the last, was cut off" in text


def test_one_run_alone_is_a_table_without_pairs(two):
    text = text_of(two[0])
    assert "There is one run." in text
    assert "Between the runs" not in text
    assert len(rows_of(text, "Within each run")) == 1


def test_the_program_prints_and_writes_the_report(tmp_path, two, capsys):
    output = tmp_path / "out" / "compared"
    values = flags.FlagValues()
    compare.define_flags(values)
    values(["compare", f"--output={output}"])
    assert values["output"].value == str(output)
    printed = compare.compare([str(path) for path in two], str(output))
    assert printed.startswith("# 2 runs compared\n\n- first: ")
    assert printed.endswith(f"report: {output / 'REPORT.md'}")
    names = {"REPORT.md", "report.html", "arms.png", "records.jsonl", "records.parquet"}
    assert {path.name for path in output.iterdir()} == names
    frame = pandas.read_parquet(output / "records.parquet")
    means = frame.groupby(["run", "arm"])["test_accuracy"].mean()
    assert means["second", "wide"] == pytest.approx(np.mean(SECOND["wide"]))
    lines = (output / "records.jsonl").read_text().splitlines()
    assert [json.loads(line)["run"] for line in lines] == ["first"] * 6 + ["second"] * 6
    with Image.open(output / "arms.png") as image:
        assert image.size[0] == 1650
        assert len(image.convert("L").getcolors() or ()) > 20
    HTMLParser().feed((output / "report.html").read_text())
    assert 'aria-label="The arms of every run"' in (output / "report.html").read_text()
    before = {path.name: path.read_bytes() for path in output.iterdir()}
    compare.compare([str(path) for path in two], str(output))
    assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_the_figure_has_a_dot_for_every_completed_trial(tmp_path, two):
    failing = make_run(tmp_path / "failing", {"narrow": [None, None, 0.5], "wide": [None] * 3})
    (axes,) = arms_figure(joined(*two, failing)).axes
    dots = [line for line in axes.lines if line.get_alpha() == 0.5]
    assert sorted(x for line in dots for x in line.get_xdata()) == pytest.approx(
        sorted(100 * x for values in (*FIRST.values(), *SECOND.values(), [0.5]) for x in values)
    )
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["first", "second", "failing"]


def test_the_figure_of_runs_that_all_failed_says_so(tmp_path):
    run = make_run(tmp_path / "run", {"narrow": [None], "wide": [None]})
    (axes,) = arms_figure(joined(run)).axes
    assert [text.get_text() for text in axes.texts] == ["no completed trials"]


def test_what_is_no_run_is_refused_in_one_sentence(tmp_path, two, capsys, monkeypatch):
    monkeypatch.setattr(compare, "flags", _Flags(None))
    (tmp_path / "empty").mkdir()
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "runs.jsonl").touch()
    for names, words in (
        ([], "run directories are expected"),
        ([tmp_path / "none"], "is not a directory"),
        ([two[0], tmp_path / "empty"], "holds no runs.jsonl"),
        ([two[0], unfinished], "holds no finished trial yet"),
        ([two[0], two[1], two[0] / ".." / "first"], "is named twice"),
    ):
        code = compare.main(["compare", *map(str, names)])
        said = capsys.readouterr()
        assert (code, said.out) == (1, "")
        assert words in said.err
        assert said.err.count("\n") == 1
    monkeypatch.setattr(compare, "flags", _Flags(str(two[0])))
    assert compare.main(["compare", *map(str, two)]) == 1
    assert "holds a run, whose report would be lost" in capsys.readouterr().err
    (tmp_path / "empty" / "sweep.flags").touch()
    monkeypatch.setattr(compare, "flags", _Flags(str(tmp_path / "empty")))
    assert compare.main(["compare", *map(str, two)]) == 1
    assert "holds a sweep, whose report would be lost" in capsys.readouterr().err


class _Flags:
    """Flags as absl has parsed them."""

    def __init__(self, output):
        self.FLAGS = {"output": type("Flag", (), {"value": output})}


def test_labels_are_as_short_as_they_can_be():
    assert labels_of([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert labels_of([Path("x/a"), Path("y/a"), Path("b")]) == [
        "x/a",
        "y/a",
        f"{Path.cwd().name}/b",
    ]


def test_a_terminal_sees_columns_beneath_one_another():
    lines = ["**Yes.**", "", "| `a` | b \\| c |", "| --- | ---: |", "| long text | 5 |", ""]
    lines += ["![about](x.png)", "", "```", "code", "```"]
    assert aligned(lines) == (
        "Yes.\n\na          b | c\n---------  -----\nlong text      5\n\ncode"
    )
