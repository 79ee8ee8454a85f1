"""The records of a run: one line of JSON for each finished trial, and files written whole.

`runs.jsonl` is the only thing that a report needs. A trial is one arm trained from one seed; its
line is written once, when it is finished, and holds neither times nor dates, so that a run that
was interrupted and went on leaves the same bytes as one that never was. A process may die at
any moment: what `append` leaves behind is always whole lines, save perhaps for the last one,
which `read` leaves out and `repair` cuts off.
"""

import contextlib
import io
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from cnnjax.files import sync_directory
from experiments.record_fields import (
    CurvePoint,
    Failure,
    Measurement,
    Metrics,
    NumExamples,
    PretrainingMetrics,
    Record,
    TuningRecord,
)

__all__ = [
    "SCHEMA",
    "CurvePoint",
    "Failure",
    "Measurement",
    "Metrics",
    "NumExamples",
    "PretrainingMetrics",
    "Record",
    "TuningRecord",
    "append",
    "read",
    "repair",
    "validate",
]

SCHEMA = 1

# JSON has no such numbers, and the bare tokens that Python would write are no JSON.
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# Where measured numbers stand: a loss that diverged belongs into the record as it was.
_MEASURED = ("curve", "metrics", "measurements", "pretraining")


_TEXTS = ("study", "question", "arm", "arm_title", "baseline", "differs_in", "command", "status")
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("schema", "arm_index", "seed"), (int,)),
    **dict.fromkeys(_TEXTS, (str,)),
    **dict.fromkeys(("account", "config", "num_examples"), (dict,)),
    **dict.fromkeys(("limits", "planned_seeds", "planned_arms", "curve"), (list,)),
    **dict.fromkeys(("failure", "metrics"), (dict, type(None))),
}


def validate(record: Mapping[str, Any]) -> None:
    """Check that `record` has the fields, types and consistency that `Record` promises.

    Args:
      record: before it is written or after it was read; it may have other fields too.

    Raises:
      ValueError: naming the field, what was expected and what came.

    >>> validate({"schema": 2})
    Traceback (most recent call last):
    ValueError: schema: this version reads and writes schema 1, got 2
    """
    if record.get("schema") != SCHEMA:
        raise ValueError(
            f"schema: this version reads and writes schema {SCHEMA}, got {record.get('schema')!r}"
        )
    for name, types in _TYPES.items():
        if name not in record:
            raise ValueError(f"{name}: missing; see experiments.records.Record for the fields")
        if not isinstance(record[name], types) or isinstance(record[name], bool):
            expected = " or ".join("null" if t is type(None) else t.__name__ for t in types)
            raise ValueError(f"{name}: expected {expected}, got {record[name]!r}")
    for name in ("arm", "baseline", "headline_arm"):
        if name in record and record[name] not in record["planned_arms"]:
            raise ValueError(
                f"{name}: {record[name]!r} is not among planned_arms {record['planned_arms']}"
            )
    seed, planned_seeds = record["seed"], record["planned_seeds"]
    if seed not in planned_seeds:
        raise ValueError(f"seed: {seed} is not among planned_seeds {planned_seeds}")
    _need("num_examples", record["num_examples"], NumExamples.__required_keys__)
    for point in record["curve"]:
        _need("curve", point, CurvePoint.__required_keys__)
    if record["status"] == "completed":
        _need("metrics", record["metrics"], Metrics.__required_keys__)
        for name in ("test_accuracy", "outcome"):
            if not 0 <= record["metrics"].get(name, 0.0) <= 1:
                raise ValueError(
                    f"metrics: {name} is a fraction from 0 to 1, got {record['metrics'][name]}; a "
                    'trial without one has status "failed"'
                )
    elif record["status"] == "failed":
        _need("failure", record["failure"], Failure.__required_keys__, (int, str))
    else:
        raise ValueError(f'status: expected "completed" or "failed", got {record["status"]!r}')


def append(path: str | os.PathLike[str], record: Record) -> None:
    """Add one line to the file and bring it to the disk, or leave the file as it was.

    The line is canonical: keys sorted (the account keeps its order of columns), no spaces,
    floats as Python's shortest text that reads back to the same bits, ASCII alone. A measured
    number that is not finite is written as the string "NaN", "Infinity" or "-Infinity", and `read`
    turns it back. A last line that was cut off is repaired first. One process alone may append.

    Args:
      path: the file; made when missing, its directory is not.
      record: the finished trial.

    Raises:
      ValueError: a record that `validate` refuses, a number elsewhere that is not finite, an
        (arm, seed) that the file has already, or a file with a broken line in it.
      TypeError: a value that JSON cannot carry.
      OSError: the file cannot be written, for example on a full disk; it has been cut back to
        the length it had.
    """
    path = Path(path)
    validate(record)
    line = json.dumps(_encoded(dict(record), ()), separators=(",", ":"), allow_nan=False) + "\n"
    if path.exists():
        repair(path)
        arm, seed = record["arm"], record["seed"]
        if (arm, seed) in ((other["arm"], other["seed"]) for other in read(path)[0]):
            raise ValueError(f"{path} has a line for arm {arm!r}, seed {seed} already")
    _append_bytes(path, line.encode("ascii"))


def read(path: str | os.PathLike[str]) -> tuple[list[Record], str | None]:
    """All records of the file, in the order of its lines.

    Args:
      path: the file; an empty one has no records.

    Returns:
      (records, dropped): `dropped` is None, or says that the last line is no JSON, as when the
      process died while writing it; its trial is not among the records. A last line that lacks
      nothing but its line feed is whole.

    Raises:
      ValueError: a broken line before the last, a line that is JSON but not a record, or an
        (arm, seed) that appears twice; the message names the line number.
      OSError: the file cannot be read.
    """
    path = Path(path)
    records, _, dropped = _parse(path, path.read_bytes())
    return records, dropped


def repair(path: str | os.PathLike[str]) -> str | None:
    """Cut a broken last line off the file; give a whole one the line feed that it may lack.

    It is shortened in place by one system call, which no crash can halve and a full disk allows.

    Args:
      path: the file.

    Returns:
      What was dropped, as `read` says it, or None.

    Raises:
      ValueError: as `read`; then the file is left alone.
      OSError: the file cannot be read or written.
    """
    path = Path(path)
    content = path.read_bytes()
    _, end, dropped = _parse(path, content)
    if dropped is not None:
        with path.open("r+b", buffering=0) as file:
            file.truncate(end)
            os.fsync(file.fileno())
    elif content and not content.endswith(b"\n"):
        _append_bytes(path, b"\n")
    return dropped


def _append_bytes(path: Path, data: bytes) -> None:
    new = not path.exists()
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        length = os.fstat(descriptor).st_size
        try:
            # One write as a rule. A disk that fills up takes a part first, and only the write
            # that follows says why.
            while data:
                data = data[os.write(descriptor, data) :]
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, length)
            raise
    finally:
        os.close(descriptor)
    if new:
        sync_directory(path.parent)


def _parse(path: Path, content: bytes) -> tuple[list[Record], int, str | None]:
    """Records, the number of bytes that hold them, and what was dropped behind those."""
    records: list[Record] = []
    first_line: dict[tuple[str, int], int] = {}
    end = 0
    # Not splitlines, which would also break at a carriage return.
    for number, line in enumerate(io.BytesIO(content), start=1):
        try:
            value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
        except ValueError as error:
            if end + len(line) == len(content):
                cut = "was cut off" if not line.endswith(b"\n") else "is no JSON"
                dropped = f"{path}: line {number}, the last, {cut} after {len(line)} bytes; dropped"
                return records, end, dropped
            raise ValueError(
                f"{path}: line {number} is no JSON ({error}), and it is not the last, which an "
                "interrupted run can leave behind; repair or remove it by hand"
            ) from error
        try:
            if not isinstance(value, dict):
                raise ValueError(f"expected an object, got {value!r}")
            record = _decoded(value)
            validate(record)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not a record: {error}") from error
        key = (record["arm"], record["seed"])
        if key in first_line:
            raise ValueError(
                f"{path}: lines {first_line[key]} and {number} both record arm {key[0]!r}, seed "
                f"{key[1]}; remove one by hand"
            )
        first_line[key] = number
        records.append(record)
        end += len(line)
    return records, end, None


def _need(
    name: str, value: object, keys: frozenset[str], types: tuple[type, ...] = (int, float)
) -> None:
    if not isinstance(value, dict) or not keys <= value.keys():
        raise ValueError(f"{name}: expected an object with {sorted(keys)}, got {value!r}")
    for key in sorted(keys):
        if not isinstance(value[key], types):
            expected = " or ".join(t.__name__ for t in types)
            raise ValueError(f"{name}: {key}: expected {expected}, got {value[key]!r}")


def _refuse_constant(token: str) -> float:
    raise ValueError(f"{token} is not a JSON number")


def _encoded(value: Any, where: tuple[str, ...]) -> Any:
    """`value` with keys in canonical order and numbers that are not finite as strings."""
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{'.'.join(where)}: keys must be text, got {key!r}")
        # The account keeps the study's order of columns; everything else is sorted.
        keys = list(value) if where == ("account",) else sorted(value)
        return {key: _encoded(value[key], (*where, key)) for key in keys}
    if isinstance(value, list | tuple):
        return [_encoded(item, where) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        if where[0] not in _MEASURED:
            raise ValueError(
                f"{'.'.join(where)}: expected a finite number, got {value}; only "
                f"{' and '.join(_MEASURED)} may hold others"
            )
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(
        f"{'.'.join(where)}: JSON cannot carry a {type(value).__name__}; pass Python's own "
        "float, int, str, list or dict"
    )


def _decoded(record: dict[str, Any]) -> Record:
    for name in _MEASURED:
        if name in record:
            record[name] = _numbers(record[name])
    return cast(Record, record)


def _numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
