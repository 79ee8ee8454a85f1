"""The report says what SciPy says, admits what it does not know, and is the same every time."""

import itertools
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from made_records import TITLES, draw, make_records, numbers, row_of
from PIL import Image
from scipy import stats as scipy_stats

from experiments import comparisons, plots, report

ROOT = Path(__file__).resolve().parent.parent
SURE = "How sure the differences are"
BASE = [0.960, 0.958, 0.966, 0.963, 0.956]
MUCH_BETTER = [0.968, 0.964, 0.971, 0.972, 0.961]
NO_CLEARER = [0.961, 0.957, 0.969, 0.962, 0.957]


def test_numbers_are_those_of_scipy(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": BASE, "three_3x3": MUCH_BETTER}))
    cells = row_of(text, "three 3x3", section="Results")
    mean = 100 * np.mean(MUCH_BETTER)
    low, high = scipy_stats.t.interval(0.95, 4, mean, 100 * scipy_stats.sem(MUCH_BETTER))
    assert numbers(cells[1]) == [round(mean, 2)]
    assert numbers(cells[2]) == [round(low, 2), round(high, 2)]
    assert cells[3] == "5"
    test = scipy_stats.ttest_rel(MUCH_BETTER, BASE)
    interval = test.confidence_interval(0.95)
    difference = 100 * np.mean(np.subtract(MUCH_BETTER, BASE))
    assert numbers(cells[4]) == [round(difference, 2)]
    assert numbers(cells[5]) == [round(100 * interval.low, 2), round(100 * interval.high, 2)]
    assert cells[6] == "higher"
    assert row_of(text, "one 7x7 (baseline)", section="Results")[4:] == ["–", "–", "baseline"]
    sure = row_of(text, "three 3x3", section=SURE)
    assert sure[1] == "5"
    bootstrap = scipy_stats.bootstrap(
        (100 * np.subtract(MUCH_BETTER, BASE),), np.mean, rng=np.random.default_rng(1)
    ).confidence_interval
    assert numbers(sure[2]) == pytest.approx([bootstrap.low, bootstrap.high], abs=0.03)
    # One comparison needs no correction.
    assert numbers(sure[3]) == numbers(sure[4]) == [round(test.pvalue, 3)]


def test_verdict_comes_first_and_names_the_winner_when_it_is_resolved(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": BASE, "three_3x3": MUCH_BETTER}))
    lines = text.splitlines()
    assert lines[0] == "# Do three 3x3 layers beat one 7x7 layer that sees the same 7x7?"
    assert lines[2] == (
        "**Three 3x3 beat one 7x7 by 0.66 points of test accuracy, 95 % interval "
        "[+0.43, +0.89], n=5.**"
    )
    worse = draw(tmp_path / "worse", make_records({"one_7x7": MUCH_BETTER, "three_3x3": BASE}))
    assert "**Three 3x3 fell behind one 7x7 by 0.66 points of test accuracy" in worse
    assert row_of(worse, "three 3x3", section="Results")[6] == "lower"


def seeds_to_resolve(ours: Sequence[float], theirs: Sequence[float]) -> int:
    """By SciPy's noncentral t, from two pairs upwards."""
    differences = np.subtract(ours, theirs)
    effect = abs(differences.mean()) / differences.std(ddof=1)
    for n in itertools.count(2):
        t = scipy_stats.t.isf(0.025, n - 1)
        if scipy_stats.nct.sf(t, n - 1, np.sqrt(n) * effect) >= 0.8:
            return n
    raise AssertionError


def test_verdict_says_not_resolved_with_n_and_interval(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": BASE, "three_3x3": NO_CLEARER}))
    interval = scipy_stats.ttest_rel(NO_CLEARER, BASE).confidence_interval(0.95)
    assert text.splitlines()[2] == (
        "**Not resolved at n=5: three 3x3 differed from one 7x7 by +0.06 points of test accuracy, "
        f"95 % interval [{100 * interval.low:+.2f}, {100 * interval.high:+.2f}]; about "
        f"{seeds_to_resolve(NO_CLEARER, BASE)} seeds would resolve a difference of this size "
        "(80 % power).**"
    )


def test_headline_is_the_arm_that_the_study_names_else_the_first_after_the_baseline(
    tmp_path: Path,
) -> None:
    made = make_records({"one_7x7": BASE, "5x5_3x3": NO_CLEARER, "three_3x3": MUCH_BETTER})
    text = draw(tmp_path / "named", made)
    assert text.splitlines()[2].startswith("**Three 3x3 beat")
    assert "\n- Not resolved at n=5: 5x5 then 3x3 differed from one 7x7" in text
    assert "\n- Three 3x3 beat one 7x7" in text
    for record in made:
        del record["headline_arm"]
    assert report.verdict(made).startswith("Not resolved at n=5: 5x5")
    assert report.verdict(made[:-1]).startswith("So far, not resolved at n=5: 5x5")
    assert report.verdict(made[:2]).startswith("So far, no verdict on 5x5_3x3")
    assert draw(tmp_path / "first", made).splitlines()[2].startswith("**Not resolved at n=5: 5x5")


def test_a_lone_arm_is_told_by_its_mean_and_compared_with_nothing(tmp_path: Path) -> None:
    made = make_records({"one_7x7": BASE})
    text = draw(tmp_path, made)
    mean = 100 * np.mean(BASE)
    low, high = scipy_stats.t.interval(0.95, 4, mean, 100 * scipy_stats.sem(BASE))
    told = f"came to {mean:.2f} % test accuracy, 95 % interval [{low:.2f}, {high:.2f}], n=5."
    assert text.splitlines()[2] == f"**One 7x7 {told}**"
    assert row_of(text, "one 7x7", section="Results")[1:] == [
        f"{mean:.2f} %",
        f"[{low:.2f}, {high:.2f}]",
        "5",
    ]
    for of_comparisons in ("baseline", "paired", "ifference", "held equal", "verdict"):
        assert of_comparisons not in text
    panels = plots.accuracy_figure(comparisons.gather(made)).axes
    assert [axes.get_xlabel() for axes in panels] == ["test accuracy (%)"]
    assert report.verdict(made[:1]) == (
        "So far, one 7x7 came to 96.00 % test accuracy, from one seed, which gives no interval."
    )


def test_a_lone_arm_whose_seeds_failed_has_no_verdict() -> None:
    made = make_records({"one_7x7": [None, 0.5]})
    assert report.verdict(made).endswith("gives no interval; 1 of 2 seeds failed in one 7x7.")
    (failed,) = (record for record in made if record["failure"] is not None)
    assert report.verdict([failed]) == (
        "So far, no verdict on one 7x7: no seed is completed; 1 of 1 seeds failed in one 7x7."
    )


def test_ends_close_to_zero_are_printed_with_digits_enough(tmp_path: Path) -> None:
    for name, units, printed in (
        ("above", (1.0, 1.2, 1.5), "[+0.001, +0.002]"),
        ("across", (1.0, 2.0, 3.0), "[-0.0005, +0.0045]"),
    ):
        values = [0.5 + unit * 1e-5 for unit in units]
        text = draw(tmp_path / name, make_records({"one_7x7": [0.5] * 3, "three_3x3": values}))
        assert f"95 % interval {printed}" in text
        assert row_of(text, "three 3x3", section="Results")[5] == printed
        interval = scipy_stats.ttest_1samp(np.subtract(values, 0.5), 0.0).confidence_interval()
        assert numbers(printed) == pytest.approx([100 * end for end in interval], abs=5e-4)


def test_the_same_difference_in_every_seed_is_not_called_certain(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": [0.97, 0.96], "three_3x3": [0.98, 0.97]}))
    assert "**Not resolved at n=2: three 3x3 differed from one 7x7 by +1.00 points" in text
    assert "in every seed, which leaves no spread to judge by.**" in text


def test_no_difference_in_any_seed_is_not_resolved(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": BASE, "three_3x3": BASE}))
    assert "**Not resolved at n=5: three 3x3 differed from one 7x7 by +0.00 points" in text
    assert "95 % interval [+0.00, +0.00].**" in text


def test_one_seed_gives_no_interval_and_says_so(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": [0.96], "three_3x3": [0.9625]}))
    assert text.splitlines()[2] == (
        "**Not resolved at n=1: three 3x3 differed from one 7x7 by +0.25 points of test accuracy, "
        "and one seed gives no interval.**"
    )
    cells = row_of(text, "three 3x3", section="Results")
    assert cells[1:] == ["96.25 %", "–", "1", "+0.25", "–", "no interval"]
    assert SURE not in text
    assert "nan" not in text.lower()


def test_account_lists_what_is_equal_and_flags_what_is_not(tmp_path: Path) -> None:
    text = draw(tmp_path, make_records({"one_7x7": BASE, "5x5_3x3": BASE, "three_3x3": BASE}))
    assert "Held equal in every arm: receptive field 7, MACs 2,345,678." in text
    assert "Not held equal: **parameters**." in text
    section = "What is held equal, and what is not"
    assert row_of(text, "one 7x7 (baseline)", section=section)[2:] == ["7", "12,345", "2,345,678"]
    assert row_of(text, "5x5 then 3x3", section=section)[3] == "9,000 (0.73×)"
    assert "| receptive field | **parameters** | MACs |" in text


def test_failures_are_counted_listed_and_left_out(tmp_path: Path) -> None:
    failing = [0.97, None, 0.98, None, 0.96]
    text = draw(tmp_path, make_records({"one_7x7": BASE, "three_3x3": failing}))
    assert "2 trials failed, left out of every mean and listed below." in text
    part = text.split("## Failed trials")[1]
    assert "| three 3x3 | 1 | 1,137 | the training loss became NaN |" in part
    cells = row_of(text, "three 3x3", section="Results")
    assert (cells[1], cells[3]) == ("97.00 %", "3")
    paired = scipy_stats.ttest_rel([0.97, 0.98, 0.96], [0.960, 0.966, 0.956])
    sure = row_of(text, "three 3x3", section=SURE)
    assert sure[1] == "3"
    assert numbers(sure[3]) == [round(paired.pvalue, 3)]
    assert row_of(text, "1", section="Every seed") == ["1", "95.80", "failed at step 1,137"]
    assert "which flatters an arm that fails" in text


def test_pairs_are_the_seeds_that_both_arms_completed(tmp_path: Path) -> None:
    made = make_records(
        {"one_7x7": [None, *BASE[1:]], "three_3x3": MUCH_BETTER}, not_run=[("three_3x3", 4)]
    )
    text = draw(tmp_path, made)
    cells, sure = (row_of(text, "three 3x3", section=part) for part in ("Results", SURE))
    test = scipy_stats.ttest_rel(MUCH_BETTER[1:4], BASE[1:4])
    assert (cells[3], sure[1]) == ("4", "3")
    assert numbers(sure[3]) == [round(test.pvalue, 3)]


def test_a_trial_that_failed_within_its_first_epoch_is_drawn(tmp_path: Path) -> None:
    made = make_records({"one_7x7": [0.9, None], "three_3x3": [None, 0.8]})
    for record in made:
        if record["status"] == "failed":
            record["curve"] = []
    text = draw(tmp_path, made, pictures=True)
    assert "2 trials failed" in text


def test_all_trials_failed_is_a_report_without_a_verdict(tmp_path: Path) -> None:
    text = draw(
        tmp_path, make_records({"one_7x7": [None] * 2, "three_3x3": [None] * 2}), pictures=True
    )
    told = (
        "no seed is completed in both; 2 of 2 seeds failed in three 3x3; 2 of 2 seeds failed in one"
    )
    assert f"**No verdict on three 3x3 against one 7x7: {told} 7x7.**" in text
    assert row_of(text, "three 3x3", section="Results")[1:] == [
        *("–", "–", "0", "–", "–", "no pairs")
    ]
    assert {path.name for path in tmp_path.glob("*.png")} == {"accuracy.png", "curves.png"}


def test_an_unfinished_run_says_how_much_is_in(tmp_path: Path) -> None:
    accuracies = {"one_7x7": BASE, "three_3x3": MUCH_BETTER, "three_3x3_wide": BASE}
    not_run = [("three_3x3", 4)] + [("three_3x3_wide", seed) for seed in range(5)]
    text = draw(tmp_path, make_records(accuracies, not_run=not_run))
    assert "9 of 15 trials are in; this is a report on an unfinished run." in text
    assert text.splitlines()[2].startswith("**So far, three 3x3 beat one 7x7 by")
    # An arm without any trial yet goes by its key.
    assert row_of(text, "three_3x3_wide", section="Results")[6] == "no pairs"
    assert row_of(text, "4", section="Every seed")[2:] == ["not yet run", "not yet run"]


def test_a_cut_last_line_is_mentioned_and_its_trial_missing(tmp_path: Path) -> None:
    draw(tmp_path, make_records({"one_7x7": BASE, "three_3x3": MUCH_BETTER}))
    path = tmp_path / "runs.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    text = report.draw(tmp_path).read_text("utf-8")
    assert "9 of 10 trials are in" in text
    assert re.search(r"runs.jsonl: line 10, the last, was cut off after \d+ bytes", text)


def test_the_same_records_give_the_same_files_in_any_order_of_lines(tmp_path: Path) -> None:
    made = make_records({"one_7x7": BASE, "three_3x3": [*MUCH_BETTER[:4], None]})
    first = draw(tmp_path / "first", made, pictures=True)
    assert draw(tmp_path / "second", reversed(made), pictures=True) == first
    for name in ("accuracy.png", "curves.png"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert str(tmp_path) not in first


def test_limits_are_the_studys_and_honest_derived_ones(tmp_path: Path) -> None:
    two = draw(tmp_path / "two", make_records({"one_7x7": BASE, "three_3x3": BASE}))
    limits = two.split("## Limits")[1].split("## ")[0]
    assert "- Learning rate not re-tuned per arm.\n" in limits
    assert "Few seeds (n=5 in the smallest arm)" in limits
    # 1.96 sqrt(0.9606 x 0.0394 / 1000) in points.
    assert "one test set of 1,000, and at 96.1 %" in limits
    assert "by about ±1.2 points" in limits
    assert "Holm" not in limits
    five = draw(tmp_path / "five", make_records(dict.fromkeys(TITLES, BASE)))
    assert "the verdicts are corrected for it (Holm)" in five
    high = draw(tmp_path / "high", make_records({"one_7x7": [1.0, 0.98], "three_3x3": [1.0, 1.0]}))
    assert "Student's t not knowing where accuracy ends" in high


def test_report_tells_how_to_run_it_again_and_where_it_ran(tmp_path: Path) -> None:
    made = make_records({"one_7x7": [0.9], "three_3x3": [0.9]})
    text = draw(tmp_path, made)
    assert "```\npython -m experiments.ablate --flagfile=configs/some.flags\n```" in text
    assert "resolved.flags" in text
    assert '| `dataset` | "mnist_5k" |' in text
    assert "Where it ran" not in text
    (tmp_path / "environment.json").write_text('{"jax": "0.10", "commit": "abc"}')
    assert '"commit": "abc",\n  "jax": "0.10"' in report.draw(tmp_path).read_text("utf-8")
    (tmp_path / "environment.json").write_text("{broken")
    assert "environment.json cannot be read" in report.draw(tmp_path).read_text("utf-8")


def test_text_from_a_study_cannot_break_the_tables(tmp_path: Path) -> None:
    made = make_records(
        {"one_7x7": [0.9], "three_3x3": [0.8]}, differs_in="a | b\nc", arm_title="$x_$ | same"
    )
    text = draw(tmp_path, made)
    # Two arms under one title go by their keys.
    assert row_of(text, "three_3x3", section="Results")[1] == "80.00 %"
    assert "| a \\| b c |" in text
    assert len(row_of(text, "three_3x3", section="Results")) == 7


@pytest.mark.parametrize(
    ("num_arms", "num_seeds", "spread"), [(2, 1, 0.0), (5, 5, 0.004), (10, 20, 0.0002)]
)
def test_pictures_decode_to_a_sensible_size_and_are_not_empty(
    tmp_path: Path, num_arms: int, num_seeds: int, spread: float
) -> None:
    generator = np.random.default_rng(0)
    draws = 0.98 + spread * generator.normal(size=(num_arms, num_seeds))
    names = [f"an arm with a long name and a $ in it, number {arm}" for arm in range(num_arms)]
    draw(tmp_path, make_records(dict(zip(names, draws.tolist(), strict=True))), pictures=True)
    for name in ("accuracy.png", "curves.png"):
        with Image.open(tmp_path / name) as image:
            width, height = image.size
            assert width == 1650
            assert 350 <= height <= 2000
            assert len(image.convert("L").getcolors() or ()) > 20


@pytest.mark.parametrize("num_arms", [2, 5, 10])
def test_labels_of_long_names_do_not_overlap(num_arms: int) -> None:
    names = [f"{arm} " + "a name that is long enough to wrap " * 3 for arm in range(num_arms)]
    figure = plots.accuracy_figure(comparisons.gather(make_records(dict.fromkeys(names, BASE))))
    figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert len(boxes) == num_arms
    for upper, lower in itertools.pairwise(boxes):
        assert upper.y0 > lower.y1
    titles = [axes.title.get_window_extent() for axes in figure.axes]
    assert titles[0].x1 < titles[1].x0
    assert min(box.x0 for box in boxes) >= 0
    assert titles[1].x1 <= figure.bbox.x1


def test_records_of_two_runs_are_refused(tmp_path: Path) -> None:
    made = make_records({"one_7x7": BASE, "three_3x3": BASE})
    made[3]["config"] = {"dataset": "cifar10"}
    with pytest.raises(ValueError, match="these records mix two runs: config differs between"):
        draw(tmp_path, made)


def test_drawing_loads_neither_pyplot_nor_jax(tmp_path: Path) -> None:
    draw(tmp_path, make_records({"one_7x7": [0.9], "three_3x3": [0.8]}))
    program = (
        "import sys; from experiments import report; report.draw(sys.argv[1]);"
        "print(sorted({'matplotlib.pyplot', 'jax', 'flax'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.stdout == "[]\n", finished.stderr


def test_program_prints_the_path_of_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, make_records({"one_7x7": [0.9], "three_3x3": [0.8]}))
    assert report.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'REPORT.md'}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no runs.jsonl"),
        ("", "holds no finished trial yet"),
        ("x\n{}\n", "line 1 is no JSON"),
        ("[]", "line 1 is not a record"),
    ],
)
def test_program_refuses_a_directory_without_records_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str
) -> None:
    assert report.main(["report", str(tmp_path / "missing")]) == 1
    assert "missing is not a directory" in capsys.readouterr().err
    if content is not None:
        (tmp_path / "runs.jsonl").write_text(content)
    assert report.main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert message in said.err
    assert str(tmp_path) in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_program_names_what_it_cannot_write(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path, make_records({"one_7x7": [0.9], "three_3x3": [0.8]}))
    (tmp_path / "REPORT.md").unlink()
    (tmp_path / "REPORT.md").mkdir()
    assert report.main(["report", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "REPORT.md" in said
    assert "irectory" in said
    assert not list(tmp_path.glob(".*.tmp"))


def test_program_wants_exactly_one_directory(capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["report", "one", "two"]) == 1
    assert capsys.readouterr().err.startswith("One run directory is expected, got 2: one two")
    finished = subprocess.run(
        [sys.executable, "-m", "experiments.report"], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 1
    assert finished.stderr.startswith("One run directory is expected: python -m")
    assert finished.stderr.count("\n") == 1
