"""A run's directory: one config, one process at a time, and what a run leaves behind.

resolved.flags     the config, itself a flagfile that runs again
environment.json   what it ran on, and what it went on with when it was resumed elsewhere
arms.json          every arm's network, row by row
runs.jsonl         one line for each finished trial
tuning.jsonl       one line for each finished training of --tune
sessions.jsonl     one line for each process that finished some, with the seconds it took
checkpoints/       the state of each trial
REPORT.md, *.png   drawn from runs.jsonl alone
"""

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from absl import logging

from cnnjax.files import write_atomically
from experiments import environment, records
from experiments.config import Config
from experiments.records import Record

__all__ = ["RunDirectory", "RunDirectoryError", "refuse_other_config"]


class RunDirectoryError(Exception):
    """The directory cannot be used for this run; the message is one sentence for the user."""


def refuse_other_config(path: Path, config: Config) -> None:
    """Refuse a directory that holds a run of another config.

    Raises:
      RunDirectoryError: it does.
      OSError: its flags cannot be read.
    """
    flagfile = path / "resolved.flags"
    if not flagfile.exists():
        return
    written = [line for line in flagfile.read_text().splitlines() if line.startswith("--")]
    # Where a run lies and its data came from is no part of what it is.
    old = [line for line in written if not line.startswith(("--run_dir=", "--data_dir="))]
    lines = config.as_flags()
    if old != lines:
        was, now = sorted(set(old) - set(lines)), sorted(set(lines) - set(old))
        raise RunDirectoryError(
            f"{path} holds another config: it ran with {' '.join(was) or 'fewer flags'}, and you "
            f"ask for {' '.join(now) or 'fewer flags'}; choose another directory with --run_dir"
        )


class RunDirectory:
    """An opened and locked run directory; a context manager that gives the lock back."""

    def __init__(self, path: str | os.PathLike[str], config: Config, dataset_digest: str) -> None:
        """Open a new directory or the one that this very config was run in before.

        Args:
          path: the directory, made when missing.
          config: what is run; a directory that holds another one is refused.
          dataset_digest: of the images and labels, so that the same name means the same data.

        Raises:
          RunDirectoryError: another config, other data, another process, a directory that cannot
            be written, or broken records.
        """
        self.path = Path(path)
        self.config = config
        self._runs = self.path / "runs.jsonl"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # Not "w", which would empty a file of that name that is somebody else's.
            self._lock = open(self.path / "lock", "a")  # noqa: SIM115
        except OSError as error:
            raise RunDirectoryError(
                f"cannot write in the run directory {self.path}: {error.strerror}; choose another "
                "with --run_dir"
            ) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise RunDirectoryError(
                f"another process is running in {self.path}; wait for it or choose another "
                "directory with --run_dir"
            ) from None
        except OSError as error:
            self._lock.close()
            raise RunDirectoryError(
                f"cannot lock the run directory {self.path}: {error.strerror}; choose one on "
                "another file system with --run_dir"
            ) from None
        try:
            self._claim(dataset_digest)
            self.records = self._read_records()
            self._num_before, self._started = len(self.records), time.monotonic()
        except RunDirectoryError:
            self._lock.close()
            raise
        except OSError as error:
            self._lock.close()
            raise RunDirectoryError(f"cannot use the run directory {self.path}: {error}") from None

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._add_session()
        finally:
            self._lock.close()

    def _add_session(self) -> None:
        """Tell how long this process took; a killed one does not, so that sums are lower bounds."""
        finished = len(self.records) - self._num_before
        if not finished:
            return
        seconds = round(time.monotonic() - self._started, 1)
        line = json.dumps({"finished_trials": finished, "seconds": seconds}) + "\n"
        try:
            with open(self.path / "sessions.jsonl", "a") as file:
                file.write(line)
        except OSError as error:
            logging.warning("%s: how long it took was not kept: %s", self.path, error)

    def has(self, arm: str, seed: int) -> bool:
        """Whether the trial is finished."""
        return any(r["arm"] == arm and r["seed"] == seed for r in self.records)

    def refuse_other_arms(self, planned_arms: list[str], baseline: str) -> None:
        """Refuse trials of a study that has other arms now, which no report could join.

        Raises:
          RunDirectoryError: there are such trials.
        """
        for record in self.records:
            if (record["planned_arms"], record["baseline"]) != (planned_arms, baseline):
                raise RunDirectoryError(
                    f"{self.path} holds trials of other arms than the study has now, after a "
                    "change of the code; choose another directory with --run_dir"
                )

    def append(self, record: Record) -> None:
        """Keep the record of a finished trial.

        Raises:
          OSError: it could not be written; the file is as it was.
        """
        records.append(self._runs, record)
        self.records.append(record)

    def checkpoints(self, arm: str, seeds: list[int]) -> Path:
        """Directory for the checkpoints of an arm's trial, or trials trained together."""
        name = f"seed_{seeds[0]}" if len(seeds) == 1 else f"seeds_{seeds[0]}-{seeds[-1]}"
        return self.path / "checkpoints" / arm / name

    def _claim(self, dataset_digest: str) -> None:
        flagfile, described = self.path / "resolved.flags", self.path / "environment.json"
        lines = self.config.as_flags()
        here = environment.describe(self.config.compute_dtype)
        if not flagfile.exists():
            # A process killed between the two writes below leaves an environment and no flags.
            ours = {"lock", "environment.json"}
            names = {entry.name for entry in self.path.iterdir()}
            strangers = {name for name in names - ours if not name.endswith(".tmp")}
            if strangers:
                raise RunDirectoryError(
                    f"{self.path} holds other files ({', '.join(sorted(strangers)[:3])}) and no "
                    "run; choose an empty or new directory with --run_dir"
                )
            first = {"environment": here, "dataset_sha256": dataset_digest, "resumed": []}
            _write_json(described, first)
            header = f"# {self.config.study} on {self.config.dataset}; run again with\n"
            header += f"# python -m experiments.ablate --flagfile={flagfile}\n"
            # The last to be written: with it the directory is this config's.
            places = [f"--run_dir={self.path}"]
            if self.config.data_dir is not None:
                places.append(f"--data_dir={os.path.abspath(self.config.data_dir)}")
            write_atomically(flagfile, header + "\n".join([*lines, *places]) + "\n")
            return
        refuse_other_config(self.path, self.config)
        try:
            known: dict[str, Any] = json.loads(described.read_text())
            known_digest, sessions = known["dataset_sha256"], known["resumed"]
            previous = (sessions[-1] if sessions else known)["environment"]
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise RunDirectoryError(
                f"{described} is missing or broken, so that nobody knows what the finished trials "
                "ran on; start in another directory with --run_dir"
            ) from None
        if known_digest != dataset_digest:
            raise RunDirectoryError(
                f"the data set {self.config.dataset} has other images or labels than the one "
                f"{self.path} was started with; choose another directory with --run_dir"
            )
        changes = environment.differences(previous, here)
        if changes:
            logging.warning(
                "%s goes on in another environment, where results can differ in the last bits or "
                "more: %s",
                self.path,
                "; ".join(changes),
            )
            sessions.append({"environment": here, "finished_trials": _num_lines(self._runs)})
            _write_json(described, known)

    def _read_records(self) -> list[Record]:
        if not self._runs.exists():
            return []
        try:
            dropped = records.repair(self._runs)
            found, _ = records.read(self._runs)
        except ValueError as error:
            raise RunDirectoryError(str(error)) from None
        if dropped:
            logging.warning("%s; its trial is run again", dropped)
        return found


def _num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")
