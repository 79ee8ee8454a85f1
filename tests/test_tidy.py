"""Tidy rows hold what the records hold, and pandas reads them in one line."""

import dataclasses
import io
import json
import math

import pandas
import pytest
from made_runs import made_record
from pyarrow import parquet

from experiments import tidy
from experiments.config import Config
from experiments.record_fields import completed

LATER = {
    "flag_compute_dtype": "float32",
    "flag_peak_fraction": 0.25,
    "flag_shift_mode": "constant",
    "flag_flip_kind": "random",
    "flag_color_jitter": 0.0,
    "flag_pca_lighting": 0.0,
    "flag_mixup": 0.0,
    "flag_label_smoothing": 0.0,
    "flag_tune": "",
    "flag_adam_learning_rate": 0.01,
    "flag_tta_shift": 0,
}


def frame(rows):
    return pandas.read_parquet(io.BytesIO(tidy.to_parquet(rows)))


def test_a_row_holds_the_trial_its_account_and_the_flags_that_it_was_trained_with():
    record = made_record("wide", 2, 0.75, settings={"flip": True}, against="narrow")
    record["metrics"]["best_epoch"] = 1
    record["pretraining"] = {"test_accuracy": 0.5, "test_loss": 1.5}
    row = tidy.to_row(record, run="first")
    # Flags that came after the first runs, at the defaults that the record leaves out.
    later = {name: row.pop(name) for name in ("flag_train_size", "flag_cutout", "flag_tta_flip")}
    assert later == {"flag_train_size": 0, "flag_cutout": 0, "flag_tta_flip": False}
    others = [name for name in row if name in LATER]
    assert {name: row.pop(name) for name in others} == {name: LATER[name] for name in others}
    assert row == {
        "run": "first",
        "study": "widths",
        "arm": "wide",
        "arm_title": "the wide one",
        "baseline": "narrow",
        "against": "narrow",
        "differs_in": "the width",
        "seed": 2,
        "status": "completed",
        "outcome_name": "test accuracy",
        "outcome": 0.75,
        "test_accuracy": 0.75,
        "test_loss": 0.5,
        "best_epoch": 1,
        "failure_step": None,
        "failure_reason": None,
        "pretraining_test_accuracy": 0.5,
        "pretraining_test_loss": 1.5,
        "num_train": 400,
        "num_validation": 50,
        "num_test": 100,
        "account_parameters": 1500,
        "account_macs": 2000,
        "account_steps": 30,
        "flag_dataset": "mnist_5k",
        "flag_learning_rate": 0.01,
        # Of the arm, not of the run.
        "flag_flip": True,
    }


def test_what_records_leave_out_is_what_the_config_leaves_out():
    later = {f.name: f.default for f in dataclasses.fields(Config) if f.metadata["later"]}
    assert completed({}) == later
    config = Config(cutout=8)
    assert completed(config.identity()) == {**later, **config.identity()}


def test_runs_can_be_grouped_by_a_flag_that_one_of_them_leaves_at_its_default():
    config = made_record("wide", 0, 0.5)["config"]
    rows = [
        tidy.to_row(made_record("wide", seed, 0.5, config={**config, **more}))
        for seed, more in enumerate(({}, {"cutout": 8}))
    ]
    assert frame(rows).groupby("flag_cutout")["seed"].max().to_dict() == {0: 0, 8: 1}


def test_the_outcome_is_what_the_study_measures_where_it_measures_one():
    record = made_record("wide", 0, 0.75, outcome="accuracy at the border")
    record["metrics"]["outcome"] = 0.25
    row = tidy.to_row(record)
    assert (row["outcome_name"], row["outcome"]) == ("accuracy at the border", 0.25)
    assert row["test_accuracy"] == 0.75


def test_a_failed_trial_has_no_numbers_but_says_where_it_failed():
    row = tidy.to_row(made_record("wide", 0, None))
    assert (row["status"], row["failure_step"]) == ("failed", 17)
    assert row["outcome"] is row["test_accuracy"] is None


def test_a_column_is_of_the_same_kind_whether_trials_failed_or_not():
    finished = frame([tidy.to_row(made_record("wide", 0, 0.5))])
    failed = frame([tidy.to_row(made_record("wide", 0, None))])
    schemas = [
        {field.name: field.type for field in parquet.read_schema(io.BytesIO(tidy.to_parquet(rows)))}
        for rows in (
            [tidy.to_row(made_record("wide", 0, 0.5))],
            [tidy.to_row(made_record("wide", 0, None))],
        )
    ]
    assert schemas[0] == schemas[1]
    assert finished["test_accuracy"].tolist() == [0.5]
    assert failed["test_accuracy"].isna().all()


def test_parquet_gives_back_every_value():
    rows = [
        tidy.to_row(made_record(arm, seed, 0.1 + seed))
        for arm in ("narrow", "wide")
        for seed in (0, 1, 2)
    ]
    rows[1] |= {"outcome": 1 / 3, "flag_note": 'a "quoted", text\nof two lines'}
    read = frame(rows)
    assert list(read.columns) == list(dict.fromkeys(name for row in rows for name in row))
    for row, (_, seen) in zip(rows, read.iterrows(), strict=True):
        for name, value in row.items():
            assert pandas.isna(seen[name]) if value is None else seen[name] == value
    assert read["flag_note"].isna().tolist() == [True, False, *[True] * 4]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([1, "7x7", None], ["1", "7x7", None]),
        ([True, None, False], [True, None, False]),
        ([True, 2, None], ["True", "2", None]),
        ([None, None, None], [None, None, None]),
    ],
)
def test_columns_that_mix_kinds_become_the_narrowest_that_holds_all(values, expected):
    rows = [{"x": value} for value in values]
    table = parquet.read_table(io.BytesIO(tidy.to_parquet(rows)))
    assert table.column("x").to_pylist() == expected


def test_the_same_rows_give_the_same_bytes():
    rows = [tidy.to_row(made_record("wide", seed, 0.5)) for seed in (0, 1)]
    assert tidy.to_parquet(rows) == tidy.to_parquet(rows)


def test_json_lines_are_json_whatever_the_loss(tmp_path):
    record = made_record("wide", 0, 0.5)
    record["metrics"]["test_loss"] = math.nan
    rows = [tidy.to_row(record), tidy.to_row(made_record("wide", 1, 0.5))]
    tidy.write(tmp_path, rows)
    lines = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert [line["test_loss"] for line in lines] == [None, 0.5]
    assert pandas.read_json(tmp_path / "records.jsonl", lines=True)["seed"].tolist() == [0, 1]
    # Parquet has numbers for those.
    assert math.isnan(parquet.read_table(tmp_path / "records.parquet")["test_loss"][0].as_py())


def test_a_run_which_has_its_runs_jsonl_gets_the_parquet_alone(tmp_path):
    tidy.write(tmp_path, [tidy.to_row(made_record("wide", 0, 0.5))], lines=False)
    assert [path.name for path in tmp_path.iterdir()] == ["records.parquet"]
