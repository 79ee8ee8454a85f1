"""What the numbers were measured on, and whether PyTorch can be measured beside us."""

import importlib.metadata
import importlib.util
import os

import jax

from experiments import environment

__all__ = ["cores", "describe", "has_torch", "peer_name", "peer_threads", "why_no_peer"]

# Threads a core that other work may keep busy before the numbers are in doubt.
_BUSY = 0.3
_WARNING = (
    "BUSY: other work takes cores away, which slows PyTorch's OpenMP threads, who wait for the "
    "last of them, far more than XLA's; measure again on a quiet machine"
)


def cores() -> list[int]:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def describe() -> str:
    """Processor, cores, device and versions, as Markdown list items."""
    known = environment.describe()
    versions = {"python": known["python"]}
    versions |= {name: known["versions"][name] for name in ("jax", "jaxlib", "flax")}
    try:
        versions["torch"] = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        versions["torch"] = "not installed"
    device = known["device"]
    lines = [
        f"processor: {known['processor']}, {known['cores']} cores for this process",
        f"device: {device['count']} x {device['kind']} ({device['platform']})",
        "versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()),
    ]
    if known["xla_flags"]:
        lines.append(f"XLA_FLAGS: {known['xla_flags']}")
    if known["commit"]:
        lines.append(f"commit: {known['commit'][:12]}" + (" with changes" * bool(known["dirty"])))
    if hasattr(os, "getloadavg"):
        load = os.getloadavg()[0]
        busy = load > _BUSY * known["cores"]
        lines.append(f"load average of the minute before: {load:.1f}" + f" ({_WARNING})" * busy)
    return "\n".join(f"- {line}" for line in lines)


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def why_no_peer() -> str | None:
    """One sentence on why there is no PyTorch column, or None when there is one."""
    if not has_torch():
        return (
            "PyTorch is not installed, so ours stands alone; "
            '`pip install -e ".[torch]" -c constraints.txt` brings it.'
        )
    if jax.default_backend() != "cpu":
        return (
            f"JAX runs on {jax.default_backend()} and the PyTorch peer on the CPU alone, so ours "
            "stands alone; set JAX_PLATFORMS=cpu to compare the two."
        )
    return None


def peer_threads() -> list[int]:
    """Numbers of threads that PyTorch is measured with: one a core, and one.

    Small networks and busy machines can make one the faster; the peer is to be at its best.
    """
    return sorted({len(cores()), 1}, reverse=True)


def peer_name(threads: int) -> str:
    """How tables call PyTorch with so many threads.

    >>> peer_name(2)
    'PyTorch eager, 2 threads'
    """
    return f"PyTorch eager, {threads} thread{'s' * (threads > 1)}"
