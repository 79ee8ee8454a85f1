"""Suite "seeds": how to train several seeds on one machine.

One after another, under `vmap`, in one single-threaded process a core, or on virtual devices of
one process. The last two need their own flags of XLA, which are read once a process; so every
contender lives in processes of its own, which compile, warm up, and then wait for the word.
"""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments.benchmarking import machine, markdown
from experiments.benchmarking.setting import Setting
from experiments.benchmarking.timing import Contender, alternate
from experiments.studies import Arm

__all__ = ["seeds_suite"]

# A process a core wants memory and compile time a core.
_MOST_CORES = 8
_ROOT = Path(__file__).resolve().parents[2]
_WORKER_MODULE = "experiments.benchmarking.seed_worker"
_SINGLE_THREADED = "--xla_cpu_multi_thread_eigen=false"

_SEQUENTIAL = "one after another"
_NOTE = """\
Each timed call is {num_seeds} seeds of {steps} steps, on {cores} cores{pinned}; every contender
waits in processes of its own, is told to start, and is done when the last of them is. Getting
ready is tracing, compiling and a first epoch, in all processes of a contender at once."""


def seeds_suite(setting: Setting) -> str:
    """Total images a second of several seeds, for the two arms that matter.

    Args:
      setting: how to measure.

    Returns:
      Markdown: one table an arm.

    Raises:
      RuntimeError: a process died.
    """
    cores = machine.cores()[:_MOST_CORES]
    seeds = list(range(max(2, len(cores))))
    n = f"n = {setting.rounds}"
    tables = []
    for arm in setting.key_arms:
        with contextlib.ExitStack() as stack:
            groups = {
                name: stack.enter_context(_started(workers))
                for name, workers in _workers(arm, setting, seeds, cores).items()
            }
            contenders: dict[str, Contender] = dict(groups)
            timings = alternate(
                contenders,
                rounds=setting.rounds,
                work=len(seeds) * setting.num_train,
                label=f"seeds: {arm.title}",
            )
        rows = [
            [
                name,
                timings.rate(name).text(0),
                timings.ratio(name, _SEQUENTIAL).text(2),
                f"{group.ready_seconds:.1f}",
            ]
            for name, group in groups.items()
        ]
        header = [
            arm.title,
            f"images/s of all seeds, median (min to max), {n}",
            f"relative to {_SEQUENTIAL}, {n}",
            "getting ready, s, n = 1",
        ]
        tables.append(markdown.table(header, rows))
    note = _NOTE.format(
        num_seeds=len(seeds),
        steps=setting.steps,
        cores=len(cores),
        pinned="" if hasattr(os, "sched_setaffinity") else " (not pinned: not possible here)",
    )
    return "\n\n".join([*tables, markdown.paragraphs(note)])


@dataclasses.dataclass(frozen=True)
class _Worker:
    """One process: the argument of `seed_worker`, and its flags of XLA."""

    order: dict[str, Any]
    xla_flags: str = ""


def _workers(
    arm: Arm, setting: Setting, seeds: Sequence[int], cores: Sequence[int]
) -> dict[str, list[_Worker]]:
    def order(seed_axis: str, seeds: Sequence[int], cores: Sequence[int]) -> dict[str, Any]:
        return {
            "config": dataclasses.asdict(setting.config),
            "rounds": setting.rounds,
            "steps": setting.steps,
            "arm": arm.name,
            "seed_axis": seed_axis,
            "seeds": list(seeds),
            "cores": list(cores),
        }

    workers = {
        _SEQUENTIAL: [_Worker(order("sequential", seeds, cores))],
        "vmap": [_Worker(order("vmap", seeds, cores))],
    }
    if jax.default_backend() != "cpu":
        return workers
    workers["a single-threaded process a core"] = [
        _Worker(order("sequential", [seed], [cores[i % len(cores)]]), _SINGLE_THREADED)
        for i, seed in enumerate(seeds)
    ]
    workers["shard_map over virtual devices"] = [
        _Worker(
            order("devices", seeds, cores), f"--xla_force_host_platform_device_count={len(seeds)}"
        )
    ]
    return workers


class _Group:
    """Processes that stand ready; a call makes all of them train, and waits for the last."""

    def __init__(self, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._processes = processes
        self.ready_seconds = max(float(self._heard(p, "ready")) for p in processes)

    def __call__(self) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write("go\n")
                process.stdin.flush()
        for process in self._processes:
            self._heard(process, "done")

    @staticmethod
    def _heard(process: subprocess.Popen[str], word: str) -> str:
        line = process.stdout.readline() if process.stdout is not None else ""
        said, _, rest = line.strip().partition(" ")
        if said != word:
            raise RuntimeError(
                f"a process of the seeds suite ended, or said {line!r} where {word!r} was due; "
                "its own message stands above"
            )
        return rest or "0"


@contextlib.contextmanager
def _started(workers: Sequence[_Worker]) -> Iterator[_Group]:
    """Processes of one contender, ready; ended when the block is left, however it is left."""
    processes = []
    try:
        for worker in workers:
            environment = dict(os.environ)
            # XLA takes a value that starts with a space for the name of a file.
            xla_flags = f"{os.environ.get('XLA_FLAGS', '')} {worker.xla_flags}".strip()
            environment["XLA_FLAGS"] = xla_flags
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")])
            )
            # On an accelerator the processes share one memory, of which this one has most.
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", _WORKER_MODULE, json.dumps(worker.order)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                )
            )
        yield _Group(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
