"""Arrays on the disk that are only believed when they are what was written.

Orbax writes and reads them; it notices neither flipped bits nor a half-deleted directory, so a
digest of every leaf stands beside.
"""

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cnnjax.weights.errors import WeightsError

__all__ = [
    "array_digest",
    "json_digest",
    "orbax_silent",
    "read_manifest",
    "restore_arrays",
    "save_arrays",
]


def array_digest(leaf: Any) -> str:
    """SHA-256 of dtype, shape and bytes."""
    array = np.asarray(leaf)
    header = f"{array.dtype.name}{array.shape}".encode()
    return hashlib.sha256(header + np.ascontiguousarray(array).tobytes()).hexdigest()


def json_digest(value: Any) -> str:
    """SHA-256 of JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest that is what was written.

    Raises:
      WeightsError: it is not.
    """
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        claimed = manifest.pop("manifest", None)
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError(f"load_checkpoint: {path} cannot be read ({error})") from error
    if claimed != json_digest(manifest):
        raise WeightsError(f"load_checkpoint: {path} is broken: it does not match its own digest")
    return manifest


def save_arrays(directory: Path, tree: Any) -> None:
    """Write a tree of arrays to a directory that is not there yet."""
    import orbax.checkpoint as ocp

    with orbax_silent():
        ocp.Checkpointer(ocp.StandardCheckpointHandler()).save(
            directory, args=ocp.args.StandardSave(tree)
        )


def restore_arrays(directory: Path, target: Any = None) -> Any:
    """Read the tree of arrays of a directory, as NumPy arrays.

    Args:
      directory: where they were saved.
      target: arrays of the shapes and dtypes that were saved, or None for what there is, with
        mappings in place of named tuples.

    Raises:
      WeightsError: it cannot be read.
    """
    import orbax.checkpoint as ocp

    try:
        with orbax_silent():
            return ocp.Checkpointer(ocp.StandardCheckpointHandler()).restore(
                directory, args=ocp.args.StandardRestore(target)
            )
    except Exception as error:
        # Whatever a broken file makes Orbax raise, the answer is the same.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(f"load_checkpoint: {directory} is broken ({reason})") from error


@contextlib.contextmanager
def orbax_silent() -> Iterator[None]:
    """Keep Orbax from logging, with tracebacks of its threads, what it raises as well."""

    def is_not_orbax(record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_not_orbax)
    try:
        yield
    finally:
        logger.removeFilter(is_not_orbax)
