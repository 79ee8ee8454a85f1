"""A sweep: one run for each combination of some flags' values, and one report on all of them.

`experiments.ablate --grid=learning_rate=0.01,0.03 --grid=channels=8,16` comes here. Every
combination is a run of its own in a directory of its own, so that the same command goes on where
it was stopped, and a grid that grows runs only what is new.
"""

import contextlib
import dataclasses
import io
import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax

from cnnjax.data import DatasetError
from cnnjax.files import write_atomically
from experiments import joined_report
from experiments.config import Config
from experiments.joined_runs import JoinedRun, read_run
from experiments.names import check_name, short_digest
from experiments.run_directory import RunDirectoryError, refuse_other_config
from experiments.studies import STUDIES
from experiments.terminal_tables import aligned

__all__ = ["Combination", "combinations", "parse_grid", "sweep"]

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


class _Ablate(Protocol):
    def __call__(self, config: Config, *, dry_run: bool = False) -> None: ...


class Combination(NamedTuple):
    """One point of the grid.

    Attributes:
      label: as in "learning_rate=0.01, channels=8".
      config: of its run, its directory included.
    """

    label: str
    config: Config


def parse_grid(grid: Sequence[str]) -> dict[str, list[Any]]:
    """The flags and their values that `--grid` names.

    Args:
      grid: "flag=value,value" each; true and false for flags that are switched.

    Returns:
      Values by flag, as the flags take them, in the order given.

    Raises:
      ValueError: no such flag, one that changes no number, no value, or one of another kind.

    >>> parse_grid(["learning_rate=0.01,0.03", "flip=true,false"])
    {'learning_rate': [0.01, 0.03], 'flip': [True, False]}
    """
    fields = {field.name: field for field in dataclasses.fields(Config)}
    values: dict[str, list[Any]] = {}
    for text in grid:
        name, equals, listed = text.partition("=")
        name = name.strip().removeprefix("--")
        items = [item.strip() for item in listed.split(",")]
        if not equals or not name or not all(items):
            raise ValueError(
                f"--grid={text}: expected a flag and its values, as in "
                "--grid=learning_rate=0.01,0.03"
            )
        check_name("flag of --grid", name, fields)
        if fields[name].metadata["housekeeping"]:
            raise ValueError(f"--grid={text}: --{name} changes no number; sweep another flag")
        if name == "tune":
            raise ValueError(
                f"--grid={text}: --tune is a list itself; sweep --learning_rate, or leave --grid "
                "out for the best rate of each arm"
            )
        if name in values:
            raise ValueError(f"--grid={text}: --{name} is swept already; name all values at once")
        values[name] = [_parsed(text, item, type(fields[name].default)) for item in items]
    return values


def combinations(
    config: Config, grid: Mapping[str, Sequence[Any]], directory: Path
) -> list[Combination]:
    """Every combination of the values, the last flag's changing fastest.

    Args:
      config: the flags that are not swept.
      grid: of `parse_grid`.
      directory: of the sweep, in which each run has its own.

    Raises:
      ValueError: a value that its flag refuses, or two combinations that are the same run.
    """
    found: list[Combination] = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        label = ", ".join(f"{name}={_text(value)}" for name, value in chosen.items())
        run_dir = str(directory / _file_name(label))
        try:
            of_run = dataclasses.replace(config, **chosen, run_dir=run_dir)
        except ValueError as error:
            raise ValueError(f"{label}: {error}") from None
        same = [c.label for c in found if c.config.identity() == of_run.identity()]
        if same:
            raise ValueError(f"--grid: {same[0]} and {label} are the same run; name a value once")
        found.append(Combination(label, of_run))
    return found


def sweep(
    config: Config,
    grid: Sequence[str],
    sweep_dir: str | None = None,
    *,
    ablate: _Ablate,
    dry_run: bool = False,
) -> None:
    """Run every combination, and report on all of them.

    Nothing is run until every combination was seen to be one that can be. A combination that fails
    all the same is told of at the end, and the others go on.

    Args:
      config: the flags that are not swept.
      grid: "flag=value,value" each.
      sweep_dir: where the runs and the report go; by default a directory under runs/sweeps whose
        name says the study, the data set and, by a digest, the rest.
      ablate: runs one config, `experiments.ablate.ablate`.
      dry_run: print the arm table of every combination and return.

    Raises:
      ValueError: a grid or a combination that is refused; nothing has been run then.
      OSError: the report could not be written.
      SystemExit: stopped by a signal, after saving; or combinations failed.
    """
    values = parse_grid(grid)
    if config.run_dir is not None:
        raise ValueError("--run_dir is one run's directory; name that of the sweep by --sweep_dir")
    check_name("--study", config.study, STUDIES)
    directory = Path(sweep_dir or _default_directory(config, values))
    if (directory / "runs.jsonl").exists():
        raise ValueError(f"--sweep_dir={directory} holds one run; name another directory")
    planned = combinations(config, values, directory)
    with _interrupts():
        _check(planned, ablate, dry_run)
        if dry_run:
            return
        directory.mkdir(parents=True, exist_ok=True)
        write_atomically(directory / "sweep.flags", _flagfile(config, values, directory))
        failures = _run(planned, ablate)
    _report(config, values, planned, failures, directory)
    if failures:
        told = "; ".join(f"{label}: {why}" for label, why in failures.items())
        sys.exit(f"{len(failures)} of {len(planned)} combinations failed: {told}")


def _parsed(text: str, item: str, kind: type) -> Any:
    """One value as its flag takes it."""
    try:
        return _TRUTHS[item.lower()] if kind is bool else kind(item)
    except (ValueError, KeyError):
        expected = {bool: "true or false", int: "an integer", float: "a number"}[kind]
        raise ValueError(f"--grid={text}: {item!r} is not {expected}") from None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _file_name(label: str) -> str:
    """The label as the name of a directory; what cannot stand there is told apart by a digest."""
    name = re.sub(r"[^A-Za-z0-9_.+=,-]", "", label)
    if name == label.replace(" ", "") and len(name) <= 120:
        return name
    return f"{name[:100]}-{short_digest(label)}"


def _default_directory(config: Config, values: Mapping[str, Sequence[Any]]) -> str:
    base = {name: value for name, value in config.identity().items() if name not in values}
    return f"runs/sweeps/{config.study}-{config.dataset}-{short_digest([base, values])}"


def _flagfile(config: Config, values: Mapping[str, Sequence[Any]], directory: Path) -> str:
    swept = {f"--{name}" for name in values} | {f"--no{name}" for name in values}
    flags = [line for line in config.as_flags() if line.partition("=")[0] not in swept]
    grid = [f"--grid={name}={','.join(map(_text, of))}" for name, of in values.items()]
    places = [f"--sweep_dir={directory}"]
    if config.data_dir is not None:
        places.append(f"--data_dir={Path(config.data_dir).resolve()}")
    header = [
        f"# A sweep of {config.study} on {config.dataset}; run again with",
        f"# python -m experiments.ablate --flagfile={directory / 'sweep.flags'}",
    ]
    return "\n".join([*header, *flags, *grid, *places]) + "\n"


@contextlib.contextmanager
def _interrupts() -> Any:
    """Between runs, where nothing needs to be saved, Ctrl-C ends with the code of a run's."""
    try:
        yield
    except KeyboardInterrupt:
        print("stopped by SIGINT; the same command goes on from there", file=sys.stderr)
        sys.exit(130)


def _check(planned: Sequence[Combination], ablate: _Ablate, dry_run: bool) -> None:
    """Build every study and look at its data; print the arm tables if they are asked for."""
    print(f"{len(planned)} combinations, all looked at before the first one runs", flush=True)
    for index, (label, config) in enumerate(planned, start=1):
        if dry_run:
            print(f"\n[{index}/{len(planned)}] {label}", flush=True)
        # Tables of all come before the first run only if they are asked for.
        shown = contextlib.nullcontext() if dry_run else contextlib.redirect_stdout(io.StringIO())
        try:
            with shown:
                ablate(config, dry_run=True)
                if not dry_run:
                    refuse_other_config(Path(config.run_dir or ""), config)
        except (ValueError, RunDirectoryError) as error:
            told = str(error).replace("--run_dir", "--sweep_dir")
            raise ValueError(f"{label}: {told}") from None


def _run(planned: Sequence[Combination], ablate: _Ablate) -> dict[str, str]:
    """Run all; what failed, and why."""
    failures: dict[str, str] = {}
    for index, (label, config) in enumerate(planned, start=1):
        print(f"\n[{index}/{len(planned)}] {label}", flush=True)
        try:
            ablate(config)
        except SystemExit:
            print(f"the sweep stopped in combination {index} of {len(planned)}", file=sys.stderr)
            raise
        # Whatever ends one run; the others have not met it.
        except Exception as error:
            failures[label] = _one_line(error)
            print(f"failed: {failures[label]}", file=sys.stderr, flush=True)
        # Programs of other shapes would stay in memory until the sweep is over.
        jax.clear_caches()
    return failures


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    # These are sentences for the user; of others the kind says more than the words.
    told = isinstance(error, ValueError | OSError | RunDirectoryError | DatasetError)
    return text if told and text else f"{type(error).__name__}: {text}"


def _report(
    config: Config,
    values: Mapping[str, Sequence[Any]],
    planned: Sequence[Combination],
    failures: Mapping[str, str],
    directory: Path,
) -> None:
    runs: list[JoinedRun] = []
    missing = dict(failures)
    for label, of_run in planned:
        try:
            runs.append(read_run(Path(of_run.run_dir or ""), label))
        except (OSError, ValueError) as error:
            missing.setdefault(label, str(error))
    if not runs:
        return
    title = f"{config.study} on {config.dataset}, swept over {' and '.join(values)}"
    print(f"\n{aligned(joined_report.report_lines(title, runs, missing))}")
    print(f"\nreport: {joined_report.write(directory, title, runs, missing)}")
