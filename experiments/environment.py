"""What a run ran on: commit, versions, device, cores and precision."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import jax

import cnnjax

__all__ = ["cpu_model", "describe", "differences"]

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


def describe(compute_dtype: str = "float32") -> dict[str, Any]:
    """The environment of this process, as JSON can hold it.

    Args:
      compute_dtype: what the networks of the run compute in.

    The number of cores is part of it because XLA splits its sums by them: on another number of
    cores a CPU run has other last bits.
    """
    device = jax.devices()[0]
    commit = _git("rev-parse", "HEAD")
    # Tracked files alone: a run directory inside the checkout is no change of the code.
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": commit,
        "dirty": None if changes is None else bool(changes),
        # What neither commit nor dirty bit tell: which changes, and new files.
        "sources_sha256": _digest_of_sources(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
        },
        "processor": cpu_model(),
        "cores": _num_cores(),
        "precision": {
            "parameters": "float32",
            "compute": compute_dtype,
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


def cpu_model() -> str:
    """The processor's own name where the system tells it, else its architecture.

    XLA compiles for the instructions that the processor has, so that the last bits are its too.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _digest_of_sources() -> str:
    digest = hashlib.sha256()
    for package in (Path(cnnjax.__file__).parent, Path(__file__).parent):
        for path in sorted(package.rglob("*.py")):
            digest.update(str(path.relative_to(package.parent)).encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


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
