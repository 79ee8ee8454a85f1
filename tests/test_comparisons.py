"""Comparisons of several arms: partners, outcomes, Holm's correction, what is published."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import draw, make_records, numbers, row_of
from scipy import stats as scipy_stats

from experiments import plots, records, report
from experiments.comparisons import gather
from experiments.records import Record

BASE = [0.960, 0.958, 0.966, 0.963, 0.956]
SHIFTED = {
    # Differences of points, each with its spread: clear, a little clear, not clear.
    "clear": [0.9, 1.0, 1.1, 1.0, 0.9],
    "doubtful": [0.1, 0.4, 0.2, 0.5, 0.1],
    "level": [0.1, -0.1, 0.3, -0.1, 0.1],
}


def shifted(name: str) -> list[float]:
    return [b + d / 100 for b, d in zip(BASE, SHIFTED[name], strict=True)]


def changed(made: Sequence[Record], changes: Mapping[str, Mapping[str, Any]]) -> list[Record]:
    """Records whose arms have other fields; `changes` by arm."""
    return [{**record, **changes.get(record["arm"], {})} for record in made]  # type: ignore[misc]


def by_arm(made: Sequence[Record]) -> dict[str, Any]:
    return {comparison.arm.name: comparison for comparison in gather(made).comparisons}


def raw_p(name: str) -> float:
    return float(scipy_stats.ttest_1samp(SHIFTED[name], 0.0).pvalue)


def test_a_difference_that_its_interval_alone_would_resolve_is_corrected_by_holm() -> None:
    found = by_arm(make_records({"base": BASE} | {name: shifted(name) for name in SHIFTED}))
    # One comparison alone would call it higher; of three it is the second smallest p.
    assert 0.025 < raw_p("doubtful") < 0.05
    alone = by_arm(make_records({"base": BASE, "doubtful": shifted("doubtful")}))["doubtful"]
    assert (alone.word, alone.num_comparisons) == ("higher", 1)
    assert alone.adjusted_p_value == pytest.approx(raw_p("doubtful"))
    doubtful = found["doubtful"]
    assert doubtful.adjusted_p_value == pytest.approx(2 * raw_p("doubtful"))
    assert (doubtful.word, doubtful.num_comparisons) == ("not resolved", 3)
    assert doubtful.sentence.startswith(
        "not resolved at n=5 after Holm's correction over 3 comparisons: doubtful differed from "
        "base by +0.26 points of test accuracy, 95 % interval [+0.0"
    )
    assert doubtful.seeds_to_resolve > 5
    assert found["clear"].word == "higher"
    assert found["clear"].adjusted_p_value == pytest.approx(3 * raw_p("clear"))
    assert found["level"].sentence.startswith("not resolved at n=5: level differed from base by")


def test_comparisons_without_a_test_do_not_count() -> None:
    made = make_records(
        {"base": BASE, "doubtful": shifted("doubtful"), "same": [b + 0.01 for b in BASE]}
        | {"failed": [None] * 5, "alone": [0.97, None, None, None, None]}
    )
    found = by_arm(made)
    assert {c.num_comparisons for c in found.values()} == {1}
    assert found["doubtful"].word == "higher"
    for name, word in {
        "same": "not resolved",
        "failed": "no pairs",
        "alone": "no interval",
    }.items():
        assert found[name].word == word
        assert math.isnan(found[name].adjusted_p_value)
        assert (found[name].bootstrap, found[name].seeds_to_resolve) == (None, None)


def test_a_difference_too_small_for_any_number_of_seeds_says_so() -> None:
    tiny = [b + d for b, d in zip(BASE, (0.001, -0.001, 0.00101, -0.001, 0.0), strict=True)]
    comparison = by_arm(make_records({"base": BASE, "tiny": tiny}))["tiny"]
    assert comparison.seeds_to_resolve is None
    assert comparison.sentence.endswith(
        "; more than 10,000 seeds would resolve a difference of this size (80 % power)"
    )


def partners(made: Sequence[Record]) -> list[Record]:
    against = {"a": "a", "b": "a", "c": "c", "d": "c"}
    return changed(made, {name: {"against": other} for name, other in against.items()})


def test_each_arm_is_compared_with_its_own_partner() -> None:
    low = [b - 0.2 for b in BASE]
    values = {"a": BASE, "b": shifted("clear"), "c": low, "d": [x + 0.02 for x in low]}
    values["d"][0] += 0.001
    run = gather(partners(make_records(values)))
    assert [(c.arm.name, c.against.name) for c in run.comparisons] == [("b", "a"), ("d", "c")]
    assert run.partners_differ
    for comparison in run.comparisons:
        ours, theirs = (values[arm.name] for arm in (comparison.arm, comparison.against))
        assert comparison.difference.mean == pytest.approx(np.mean(np.subtract(ours, theirs)))
        assert comparison.difference.p_value == pytest.approx(
            scipy_stats.ttest_rel(ours, theirs).pvalue, rel=1e-6
        )
    assert {c.num_comparisons for c in run.comparisons} == {2}
    # The headline arm that make_records names is the last, "d".
    assert run.verdict.startswith("D beat c by 2.02 points")


def test_tables_name_the_partners_where_they_differ(tmp_path: Path) -> None:
    low = [b - 0.2 for b in BASE]
    values = {"a": BASE, "b": shifted("clear"), "c": low, "d": shifted("level")}
    text = draw(tmp_path, partners(make_records(values)))
    assert row_of(text, "a (baseline)", section="Results")[4:] == ["–", "–", "–", "baseline"]
    assert row_of(text, "c", section="Results")[4:] == ["–", "–", "–", "not compared"]
    assert row_of(text, "d", section="Results")[4] == "c"
    assert row_of(text, "d against c", section="How sure the differences are")[1] == "5"
    plain = draw(tmp_path / "plain", make_records(values))
    assert "compared with" not in plain
    assert "against" not in plain.split("## Results")[1]


def test_a_partner_that_is_no_arm_is_refused() -> None:
    made = changed(make_records({"base": BASE, "b": BASE}), {"b": {"against": "c"}})
    with pytest.raises(ValueError, match="arm 'b' is compared with 'c', which is no arm"):
        gather(made)


def with_outcome(made: Sequence[Record], outcomes: Mapping[str, Sequence[float]]) -> list[Record]:
    found = []
    for record in made:
        metrics = record["metrics"]
        if metrics is not None:
            metrics = {**metrics, "outcome": outcomes[record["arm"]][record["seed"]]}
        found.append({**record, "metrics": metrics, "outcome": "accuracy at the border"})
    return found  # type: ignore[return-value]


def test_an_outcome_takes_the_place_of_the_test_accuracy(tmp_path: Path) -> None:
    made = make_records({"base": BASE, "other": [*shifted("clear")[:4], None]})
    outcomes = {"base": [0.5, 0.52, 0.51, 0.55, 0.5], "other": [0.45, 0.44, 0.48, 0.49, 0.0]}
    text = draw(tmp_path, with_outcome(made, outcomes))
    difference = np.subtract(outcomes["other"][:4], outcomes["base"][:4])
    assert text.splitlines()[2].startswith(
        f"**Other fell behind base by {-100 * difference.mean():.2f} points of accuracy at the "
        "border, 95 % interval ["
    )
    cells = row_of(text, "other", section="Results")
    assert numbers(cells[1]) == [round(100 * np.mean(outcomes["other"][:4]), 2)]
    assert numbers(cells[3]) == [round(100 * np.mean(shifted("clear")[:4]), 2)]
    assert numbers(cells[6]) == [round(100 * difference.mean(), 2)]
    assert "Accuracy at the border in percent." in text
    assert row_of(text, "1", section="Every seed") == ["1", "52.00", "44.00"]
    assert "![Accuracy at the border of every seed, and paired differences]" in text


def test_the_picture_shows_outcomes_and_differences_from_partners() -> None:
    values = {"a": BASE, "b": shifted("clear"), "c": BASE, "d": shifted("level")}
    outcomes = {name: [v / 2 for v in of_arm] for name, of_arm in values.items()}
    run = gather(partners(with_outcome(make_records(values), outcomes)))
    figure = plots.accuracy_figure(run)
    left, right = figure.axes
    assert left.get_xlabel() == "accuracy at the border (%)"
    drawn = [line.get_xdata() for line in left.lines if line.get_linestyle() == "None"]
    shown = [list(x) for x in drawn if len(x) == 5]
    assert shown == [pytest.approx([100 * v for v in of_arm]) for of_arm in outcomes.values()]
    drawn = [line.get_xdata() for line in right.lines if line.get_linestyle() == "None"]
    shown = [list(x) for x in drawn if len(x) == 5]
    assert shown == [
        pytest.approx([d / 2 for d in SHIFTED[name]], abs=1e-9) for name in ("clear", "level")
    ]
    assert [note.get_text() for note in right.texts] == [
        *("baseline", "from a\nn = 5 pairs", "compared\nwith none", "from c\nn = 5 pairs")
    ]


def test_an_outcome_that_is_no_fraction_is_not_recorded(tmp_path: Path) -> None:
    (record,) = with_outcome(make_records({"base": [0.5]}), {"base": [math.nan]})
    with pytest.raises(ValueError, match="outcome is a fraction from 0 to 1, got nan"):
        records.append(tmp_path / "runs.jsonl", record)


@pytest.mark.parametrize(
    ("published", "arm", "answer"),
    [
        ("higher", "clear", "yes"),
        ("lower", "clear", "no, the opposite"),
        ("level", "clear", "no, they differ"),
        ("higher", "level", "not resolved"),
        ("level", "level", "not resolved"),
        ("", "clear", ""),
    ],
)
def test_what_is_published_is_held_against_the_comparison(
    published: str, arm: str, answer: str
) -> None:
    made = make_records({"base": BASE, arm: shifted(arm)})
    claim = {"published": "Wider is better.", "published_order": published}
    comparison = by_arm(changed(made, {arm: claim}))[arm]
    assert (comparison.published, comparison.borne_out) == (published, answer)


def test_seeds_that_failed_are_in_the_verdict_and_bear_nothing_out() -> None:
    good = shifted("clear")
    made = make_records({"base": BASE, "arm": [None, *good[1:]]})
    comparison = by_arm(changed(made, {"arm": {"published_order": "higher"}}))["arm"]
    assert comparison.word == "higher"
    assert comparison.sentence.endswith("n=4; 1 of 5 seeds failed in arm")
    assert comparison.borne_out == "not resolved"
    made = make_records({"base": [None, *BASE[1:]], "arm": [None, *good[1:]]})
    comparison = by_arm(changed(made, {"arm": {"published_order": "higher"}}))["arm"]
    both = "n=4; 1 of 5 seeds failed in arm; 1 of 5 seeds failed in base"
    assert comparison.sentence.endswith(both)
    assert comparison.borne_out == "yes"


def test_the_report_shows_the_claim_and_what_became_of_it(tmp_path: Path) -> None:
    made = make_records({"base": BASE, "clear": shifted("clear"), "level": shifted("level")})
    claim = {"published": "Wider is better (Doe, 2015)"}
    orders = {"base": "", "clear": "higher", "level": ""}
    made = changed(made, {arm: claim | {"published_order": o} for arm, o in orders.items()})
    text = draw(tmp_path, made)
    sure = "How sure the differences are"
    assert row_of(text, "clear", section=sure)[-2:] == ["higher", "yes"]
    assert row_of(text, "level", section=sure)[-2:] == ["–", "–"]
    assert "\nPublished: Wider is better (Doe, 2015).\n" in text


def test_settings_of_its_own_stand_beside_what_an_arm_differs_in(tmp_path: Path) -> None:
    made = make_records({"base": BASE, "other": BASE})
    own = {"settings": {"flip": True, "weight_decay": 0.0}}
    text = draw(tmp_path, changed(made, {"other": own}))
    section = "What is held equal, and what is not"
    assert row_of(text, "other", section=section)[2] == "`--flip=True`, `--weight_decay=0`"
    assert row_of(text, "base (baseline)", section=section)[2] == "–"
    assert "its own flags" not in draw(tmp_path / "none", made)


def test_the_accuracy_of_the_pretraining_is_shown(tmp_path: Path) -> None:
    made = make_records({"base": BASE, "tuned": BASE})
    before = [0.91, 0.92, 0.93, 0.94, 0.95]
    for record in made:
        if record["arm"] == "tuned":
            accuracy = before[record["seed"]]
            record["pretraining"] = {"test_accuracy": accuracy, "test_loss": 0.1}
    text = draw(tmp_path, made)
    cells = row_of(text, "tuned", section="What the pretraining came to")
    assert (numbers(cells[1]), cells[3]) == ([93.0], "5")
    low, high = scipy_stats.t.interval(0.95, 4, 93.0, 100 * scipy_stats.sem(before))
    assert numbers(cells[2]) == [round(low, 2), round(high, 2)]


def tuned(made: Sequence[Record], chosen: Mapping[str, float | None]) -> list[Record]:
    table: dict[float | None, list[float | None]] = {
        0.003: [0.75, 0.5, None],
        0.01: [0.5, 0.75, 0.625],
        None: [None, None, None],
    }
    return changed(
        made,
        {
            arm: {
                "settings": {"learning_rate": rate},
                "tuning": {
                    "seed": 2**30,
                    "learning_rates": [0.003, 0.01, 0.03],
                    "validation_accuracies": table[rate],
                    "chosen": rate,
                },
            }
            for arm, rate in chosen.items()
        },
    )


def test_tuning_is_a_table_with_the_chosen_ones_marked_and_a_limit_at_the_edge(
    tmp_path: Path,
) -> None:
    made = make_records({"base": BASE, "edge": BASE, "none": [None] * 5})
    text = draw(tmp_path, tuned(made, {"base": 0.01, "edge": 0.003, "none": None}))
    section = "How the learning rates were chosen"
    assert row_of(text, "base (baseline)", section=section)[1:] == [
        *("50.00", "**75.00**", "62.50", "0.01")
    ]
    assert row_of(text, "edge", section=section)[1:] == ["**75.00**", "50.00", "failed", "0.003"]
    assert row_of(text, "none", section=section)[1:] == ["failed", "failed", "failed", "none"]
    assert "from seed 1073741824, which no trial has" in text
    limits = text.split("## Limits")[1]
    assert "The smallest learning rate of the grid was the best for edge: a smaller one" in limits
    assert "largest learning rate" not in limits
    assert "its own flags" not in text, "the tuned rates have a table of their own"


def test_many_arms_have_a_row_for_each_in_the_table_of_seeds(tmp_path: Path) -> None:
    values = {f"arm {index}": BASE for index in range(24)}
    text = draw(tmp_path, make_records(values))
    row = row_of(text, "arm 23", section="Every seed")
    assert row[1:] == ["96.00", "95.80", "96.60", "96.30", "95.60"]
    widest = max(len(line.split("|")) for line in text.splitlines())
    assert widest <= 12


def test_the_page_and_the_report_say_the_same_of_a_run(tmp_path: Path) -> None:
    made = make_records({"base": BASE, "clear": shifted("clear")})
    for record in made:
        records.append(tmp_path / "runs.jsonl", record)
    text, pictures = report.compose(tmp_path)
    assert f"**{report.verdict(made)}**" in text
    assert list(pictures) == ["accuracy.png", "curves.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"], "nothing is written yet"
