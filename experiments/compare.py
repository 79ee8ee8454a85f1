"""Compare runs: python -m experiments.compare RUN_DIR RUN_DIR ... [--output=DIR].

Joins the records of several runs, of the same study or of others: what differs between their
flags, code, machines and data, every arm with its mean and interval, and each arm of a later run
against the same arm of the first, paired by seed. Prints the report; with --output it is written
too, as REPORT.md and report.html, with arms.png, records.jsonl and records.parquet.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags

from experiments.joined_report import report_lines, write
from experiments.joined_runs import labels_of, read_run
from experiments.terminal_tables import aligned

__all__ = ["compare", "define_flags", "main"]


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the flag of the program."""
    flags.DEFINE_string(
        "output", None, "Directory to write the report and the records to.", flag_values=flag_values
    )


def compare(run_dirs: Sequence[str], output: str | None = None) -> str:
    """The report on several runs, as a terminal shows it.

    Args:
      run_dirs: directories that experiments.ablate wrote to, the first is what others are compared
        with.
      output: directory to write the report to; None for none.

    Raises:
      ValueError: no directory, one twice, one of no records, or an output that is that of a run or
        of a sweep.
      FileNotFoundError: a directory that is not there, or not a run's.
      OSError: a file cannot be read or written.
    """
    paths = [Path(name) for name in run_dirs]
    if not paths:
        raise ValueError(
            "run directories are expected: python -m experiments.compare RUN_DIR RUN_DIR"
        )
    resolved = [path.resolve() for path in paths]
    for index, path in enumerate(resolved):
        if path in resolved[:index]:
            raise ValueError(f"{paths[index]} is named twice")
    for file, what in (("runs.jsonl", "run"), ("sweep.flags", "sweep")):
        if output is not None and (Path(output) / file).exists():
            raise ValueError(
                f"--output={output} holds a {what}, whose report would be lost; name another "
                "directory"
            )
    runs = [read_run(path, label) for path, label in zip(paths, labels_of(paths), strict=True)]
    title = "One run" if len(runs) == 1 else f"{len(runs)} runs compared"
    text = aligned(report_lines(title, runs))
    if output is not None:
        text += f"\n\nreport: {write(Path(output), title, runs)}"
    return text


def main(argv: Sequence[str]) -> int:
    """Print the report on the run directories named on the command line."""
    try:
        print(compare(argv[1:], flags.FLAGS["output"].value))
    except (OSError, ValueError) as error:
        print(f"The runs cannot be compared: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    define_flags()
    app.run(main)
