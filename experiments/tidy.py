"""Records as tidy rows, one flat row a trial, in JSON lines and Parquet that pandas reads."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from cnnjax.files import write_atomically
from experiments.record_fields import completed
from experiments.records import Record

__all__ = ["to_jsonl", "to_parquet", "to_row", "write"]

Value = bool | int | float | str | None

# Of columns that may have no value in any row, so that their kind does not hang on the run.
_KINDS = {
    **dict.fromkeys(("outcome", "test_accuracy", "test_loss"), pa.float64()),
    "failure_step": pa.int64(),
}


def to_row(record: Record, **more: Value) -> dict[str, Value]:
    """A record as one flat row; the curve and measurements are left out.

    Args:
      record: a finished trial.
      **more: columns to stand first, such as the run that it belongs to.

    Returns:
      `study`, `arm`, `arm_title`, `baseline`, `against`, `differs_in`, `seed`, `status`, what it is
      compared by as `outcome_name` and `outcome`, all metrics by their names (None where it
      failed), `failure_step`, `failure_reason`, `pretraining_...`, `num_train`, `num_validation`,
      `num_test`, the account as `account_...`, and as `flag_...` the flags that it was trained
      with: the run's, or the arm's own where it departs from them.
    """
    metrics: Mapping[str, Any] = record["metrics"] or {}
    failure: Mapping[str, Any] = record["failure"] or {}
    examples = record["num_examples"]
    row: dict[str, Value] = {
        **more,
        "study": record["study"],
        "arm": record["arm"],
        "arm_title": record["arm_title"],
        "baseline": record["baseline"],
        "against": record.get("against", record["baseline"]),
        "differs_in": record["differs_in"],
        "seed": record["seed"],
        "status": record["status"],
        "outcome_name": record.get("outcome", "test accuracy"),
        "outcome": metrics.get("outcome", metrics.get("test_accuracy")),
        "test_accuracy": metrics.get("test_accuracy"),
        "test_loss": metrics.get("test_loss"),
        **{name: value for name, value in metrics.items() if name != "outcome"},
        "failure_step": failure.get("step"),
        "failure_reason": failure.get("reason"),
    }
    pretraining: Mapping[str, Any] = record.get("pretraining", {})
    row |= {f"pretraining_{name}": value for name, value in pretraining.items()}
    row |= {f"num_{name}": examples[name] for name in ("train", "validation", "test")}
    row |= {f"account_{name}": value for name, value in record["account"].items()}
    flags = {**completed(record["config"]), **record.get("settings", {})}
    return row | {f"flag_{name}": _plain(value) for name, value in flags.items()}


def to_jsonl(rows: Sequence[Mapping[str, Value]]) -> str:
    r"""Rows as JSON lines; a number that is not finite is null, which JSON has.

    >>> to_jsonl([{"arm": "wide", "test_loss": math.inf}])
    '{"arm":"wide","test_loss":null}\n'
    """
    lines = []
    for row in rows:
        finite = {name: None if _not_finite(value) else value for name, value in row.items()}
        lines.append(json.dumps(finite, separators=(",", ":"), allow_nan=False) + "\n")
    return "".join(lines)


def to_parquet(rows: Sequence[Mapping[str, Value]]) -> bytes:
    """Rows as the bytes of a Parquet file, one column for each name in any row.

    A row without a value has null there. A column of one kind of value keeps it, integers beside
    other numbers become floats, and any other mixture becomes text.

    Args:
      rows: of `to_row`, of several runs and studies if need be.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def write(directory: Path, rows: Sequence[Mapping[str, Value]], *, lines: bool = True) -> None:
    """Write records.parquet into a directory, and records.jsonl beside it.

    Args:
      directory: where to.
      rows: of `to_row`.
      lines: whether to write records.jsonl too; a run has its runs.jsonl.

    Raises:
      OSError: a file cannot be written.
    """
    write_atomically(directory / "records.parquet", to_parquet(rows))
    if lines:
        write_atomically(directory / "records.jsonl", to_jsonl(rows))


def _column(name: str, values: Sequence[Value]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([None if value is None else str(value) for value in values], pa.string())
    types = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
    # Text is what every reader knows to show.
    return pa.array(values, types[kinds.pop()] if kinds else _KINDS.get(name, pa.string()))


def _plain(value: Any) -> Value:
    """A flag's value, a list or the like as JSON."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True)


def _not_finite(value: Value) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
