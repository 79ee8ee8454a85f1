"""What a run ran on: commit, versions, device, cores and precision."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

__all__ = ["describe", "differences"]

_PACKAGES = (
    "cnnjax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "numpy",
    "scipy",
    "matplotlib",
)


def describe() -> dict[str, Any]:
    """The environment of this process, as JSON can hold it.

    The number of cores is part of it because XLA splits its sums by them: on another number of
    cores a CPU run has other last bits.
    """
    device = jax.devices()[0]
    commit = _git("rev-parse", "HEAD")
    return {
        "commit": commit,
        "dirty": None if commit is None else bool(_git("status", "--porcelain")),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "cores": _num_cores(),
        "precision": {
            "parameters": "float32",
            "compute": "float32",
            "matmul": jax.config.values["jax_default_matmul_precision"] or "default",
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Where two environments differ, one sentence each.

    >>> differences({"cores": 2, "python": "3.11.7"}, {"cores": 4, "python": "3.11.7"})
    ['cores was 2 and is 4']
    """
    names = [name for name in new if old.get(name) != new[name]]
    return [f"{name} was {old.get(name)} and is {new[name]}" for name in names]


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
