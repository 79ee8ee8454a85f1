"""What studies measure beyond accuracy: means over seeds, pictures, tables."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_records import draw, make_records, numbers, row_of
from matplotlib.collections import FillBetweenPolyCollection
from scipy import stats as scipy_stats

from experiments import comparisons, measurement_plots, records, report
from experiments.figure_style import style
from experiments.measurements import measured_by
from experiments.records import Record
from experiments.result_tables import measurement_sections

X = (1.0, 2.0, 4.0, 8.0)


def measured(
    num_arms: int = 2,
    num_seeds: int = 5,
    x: Sequence[float] = X,
    *,
    marks: Sequence[Sequence[float]] = (),
    name: str = "shifts",
) -> list[Record]:
    """Records with a measurement of random numbers."""
    generator = np.random.default_rng(0)
    arms = {f"arm {index}": [0.9] * num_seeds for index in range(num_arms)}
    made = make_records(arms)
    for record in made:
        index = record["arm_index"]
        of_arm: dict[str, Any] = {
            "title": "Same answer | shifted",
            "x_title": "shift (pixels)",
            "y_title": "same answers (%)",
            "x": list(map(float, x)),
            "y": (100 - 5 * index + generator.normal(size=len(x))).tolist(),
            "marks": list(marks[index]) if marks else [],
        }
        record["measurements"] = {name: of_arm}
    return made


def test_means_and_intervals_are_those_of_the_seeds() -> None:
    made = measured()
    (found,) = measured_by(comparisons.gather(made))
    assert (found.title, found.x, found.file) == ("Same answer | shifted", list(X), "shifts.png")
    for series in found.series:
        of_arm = [t["measurements"]["shifts"]["y"] for t in made if t["arm"] == series.arm.name]
        y = np.array(of_arm)
        assert list(series.means) == list(X)
        for column, interval in enumerate(series.means.values()):
            low, high = scipy_stats.t.interval(
                0.95, 4, y[:, column].mean(), scipy_stats.sem(y[:, column])
            )
            assert (interval.low, interval.high) == pytest.approx((low, high))


def test_a_place_that_a_seed_lacks_has_no_mean_and_the_order_of_places_does_not_matter() -> None:
    made = measured(num_arms=1, num_seeds=2)
    first, second = (record["measurements"]["shifts"] for record in made)
    first["y"][1] = math.nan
    second["x"], second["y"] = second["x"][::-1], second["y"][::-1]
    ((series,),) = (of.series for of in measured_by(comparisons.gather(made)))
    assert list(series.means) == [1.0, 4.0, 8.0]
    assert series.means[8.0].mean == pytest.approx((first["y"][3] + second["y"][0]) / 2)
    assert series.seeds[0][0] == (1.0, 4.0, 8.0)


def test_arms_without_a_measurement_and_failed_trials_are_left_out() -> None:
    made = measured(num_arms=3)
    for record in made:
        if record["arm"] == "arm 1" or record["seed"] == 0:
            del record["measurements"]  # type: ignore[misc]
    (found,) = measured_by(comparisons.gather(made))
    assert [(s.arm.name, list(s.seeds)) for s in found.series] == [
        ("arm 0", [1, 2, 3, 4]),
        ("arm 2", [1, 2, 3, 4]),
    ]


def test_pictures_of_measurements_never_take_the_name_of_another() -> None:
    made = measured(num_arms=1, num_seeds=1)
    of_one = made[0]["measurements"]["shifts"]
    made[0]["measurements"] = dict.fromkeys(("accuracy", "../up", "a b", "a_b"), of_one)
    files = [of.file for of in measured_by(comparisons.gather(made))]
    assert files == ["___up.png", "a_b.png", "a_b_.png", "accuracy_.png"]


def test_the_picture_has_the_means_the_bands_and_the_marks_in_the_colours_of_the_arms() -> None:
    run = comparisons.gather(measured(num_arms=3, marks=[[2.0], [2.0, 4.0], []]))
    (found,) = measured_by(run)
    figure = measurement_plots.measurement_figure(run, found)
    (axes,) = figure.axes
    thick = [line for line in axes.lines if line.get_linewidth() == 1.8]
    assert [line.get_color() for line in thick] == [style(index).colour for index in range(3)]
    for line, series in zip(thick, found.series, strict=True):
        means = [interval.mean for interval in series.means.values()]
        np.testing.assert_allclose(line.get_ydata(), means)
    bands = [c for c in axes.collections if isinstance(c, FillBetweenPolyCollection)]
    for band, series in zip(bands, found.series, strict=True):
        y = band.get_paths()[0].vertices[:, 1]
        assert y.min() == pytest.approx(min(i.low for i in series.means.values()))
        assert y.max() == pytest.approx(max(i.high for i in series.means.values()))
    ticks = [line for line in axes.lines if line.get_linewidth() == 3]
    assert [(line.get_xdata()[0], line.get_color()) for line in ticks] == [
        (2.0, style(0).colour),
        (2.0, style(1).colour),
        (4.0, style(1).colour),
    ]
    # The second stands on the first, and both below all curves.
    assert ticks[1].get_ydata()[0] >= ticks[0].get_ydata()[1]
    bottom, top = axes.get_ylim()
    lowest = min(y.min() for y in (line.get_ydata() for line in axes.lines if line not in ticks))
    assert bottom + ticks[1].get_ydata()[1] * (top - bottom) < lowest
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:2] == ["arm 0 (n = 5)", "arm 1 (n = 5)"]
    assert labels[3] == "ticks at the bottom: what theory singles out"


def test_24_arms_are_told_apart_and_their_legend_lies_below_the_panel() -> None:
    run = comparisons.gather(measured(num_arms=24, num_seeds=2))
    (found,) = measured_by(run)
    figure = measurement_plots.measurement_figure(run, found)
    figure.draw_without_rendering()
    thick = [line for line in figure.axes[0].lines if line.get_linewidth() == 1.8]
    looks = {(line.get_color(), line.get_marker()) for line in thick}
    assert len(looks) == 24
    (legend,) = figure.legends
    box, panel = legend.get_window_extent(), figure.axes[0].get_window_extent()
    assert box.y1 < panel.y0
    assert box.y0 >= 0
    assert panel.height > 300


def test_a_measurement_at_one_place_is_drawn_side_by_side() -> None:
    run = comparisons.gather(measured(num_arms=3, x=[4.0]))
    (found,) = measured_by(run)
    figure = measurement_plots.measurement_figure(run, found)
    (axes,) = figure.axes
    figure.draw_without_rendering()
    dots = [line for line in axes.lines if line.get_markersize() == 7]
    places = [line.get_transform().transform([[4.0, line.get_ydata()[0]]])[0, 0] for line in dots]
    assert len(places) == 3
    assert (np.diff(places) > 10).all()
    low, high = axes.get_ylim()
    for series in found.series:
        assert low < series.means[4.0].low < series.means[4.0].high < high


@pytest.mark.parametrize(
    ("x", "scale"),
    [
        ((1, 2, 4, 8, 16), "log"),
        ((0, 1, 2, 4, 8), "linear"),
        (range(1, 17), "linear"),
        ((1, 2, 4), "linear"),
        ((0.01, 0.1, 1.0), "log"),
    ],
)
def test_places_spaced_as_powers_are_drawn_so(x: Sequence[float], scale: str) -> None:
    run = comparisons.gather(measured(num_arms=1, x=x))
    (found,) = measured_by(run)
    assert measurement_plots.measurement_figure(run, found).axes[0].get_xscale() == scale


def test_the_report_shows_picture_and_table(tmp_path: Path) -> None:
    made = measured(marks=[[2.0], []])
    text = draw(tmp_path, made)
    assert "## Same answer \\| shifted\n\n![Same answer \\| shifted](shifts.png)" in text
    section = "Same answer \\| shifted"
    y = np.array([t["measurements"]["shifts"]["y"] for t in made if t["arm"] == "arm 1"])
    # Four places are more than two arms: they go down the page.
    cells = row_of(text, "4", section=section)
    half = scipy_stats.t.isf(0.025, 4) * scipy_stats.sem(y[:, 2])
    mean, shown = numbers(cells[2])
    assert (mean, shown) == pytest.approx((y[:, 2].mean(), half), rel=0.05)
    assert "| shift (pixels) | arm 0 (baseline) | arm 1 |" in text
    assert "mean over seeds ± half of Student's 95 % interval, n=5." in text
    assert "What theory singles out (ticks in the picture): arm 0 2." in text


def test_of_many_places_some_are_picked_evenly_and_the_report_says_so(tmp_path: Path) -> None:
    text = draw(tmp_path, measured(num_arms=2, x=range(100)))
    part = text.split("## Same answer")[1].split("\n## ")[0]
    shown = [
        line.split("|")[1].strip() for line in part.splitlines() if line[:3].strip("| ").isdigit()
    ]
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == ("0", "99")
    assert set(np.diff(list(map(int, shown)))) == {9}
    assert "12 of the 100 places measured; the picture has all." in part


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    text = draw(tmp_path, measured(num_seeds=1))
    part = text.split("## Same answer")[1].split("\n## ")[0]
    assert "±" not in part
    assert "mean over seeds, n=1." in part


def test_pictures_of_measurements_are_written_and_the_same_every_time(tmp_path: Path) -> None:
    made = measured(num_arms=3, marks=[[2.0], [], [8.0]])
    for directory in ("first", "second"):
        (tmp_path / directory).mkdir()
        for record in made if directory == "first" else reversed(made):
            records.append(tmp_path / directory / "runs.jsonl", record)
        report.draw(tmp_path / directory)
    first, second = ((tmp_path / name / "shifts.png").read_bytes() for name in ("first", "second"))
    assert first == second
    assert first.startswith(b"\x89PNG")


def test_what_was_observed_beside_is_averaged_over_the_seeds_and_drawn() -> None:
    made = measured(marks=[[2.0], []])
    for trial in made:
        if trial["arm_index"] == 0:
            trial["measurements"]["shifts"]["observed"] = [3.0 + trial["seed"]]
    run = comparisons.gather(made)
    (of_run,) = measured_by(run)
    seeds = [trial["seed"] for trial in made if trial["arm_index"] == 0]
    (interval,) = of_run.series[0].observed
    assert interval.mean == pytest.approx(3.0 + np.mean(seeds))
    assert of_run.series[1].observed == ()
    axes = measurement_plots.measurement_figure(run, of_run).axes[0]
    (triangle,) = [line for line in axes.get_lines() if line.get_marker() == "v"]
    assert np.array_equal(triangle.get_xdata(), [interval.mean])
    lines = measurement_sections(run, [of_run])
    (told,) = [line for line in lines if line.startswith("Measured beside")]
    assert run.arms[0].title in told
    assert run.arms[1].title not in told
