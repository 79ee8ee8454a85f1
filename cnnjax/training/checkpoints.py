"""Checkpoints that are only believed when every leaf is what was written.

Orbax writes and reads the arrays. Around it stands a manifest, because a directory of Orbax's is
not proof of itself: it does not notice flipped bits in its data files, a half-deleted directory
still restores in part, and any folder with an integer for a name counts as a step. A checkpoint
here exists when its manifest does. The manifest is written last and removed first, both
atomically; it carries a digest of each leaf and one of itself, and restoring checks them all.
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from cnnjax.files import write_atomically
from cnnjax.weights.verified import array_digest, json_digest, orbax_silent

__all__ = ["Checkpoints", "Restored"]

_LOGGER = logging.getLogger(__name__)
_NAME = re.compile(r"step_(\d{9})\.json")


class Restored(NamedTuple):
    """A checkpoint that was read back whole.

    Attributes:
      step: the step it was saved at.
      tree: the arrays.
      metadata: what was saved beside them.
    """

    step: int
    tree: Any
    metadata: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run in one directory: the newest, and one before it to fall back on.

    >>> import tempfile, numpy as np
    >>> checkpoints = Checkpoints(tempfile.mkdtemp())
    >>> checkpoints.save(10, {"kernel": np.arange(3.0)}, {"epoch": 1})
    >>> restored = checkpoints.restore({"kernel": np.zeros(3)})
    >>> restored.step, restored.metadata, restored.tree["kernel"].tolist()
    (10, {'epoch': 1}, [0.0, 1.0, 2.0])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = 2,
        warn: Callable[[str], None] = _LOGGER.warning,
    ) -> None:
        """Use `directory`, which is made when something is first saved.

        Args:
          directory: a place of its own for this run.
          keep: how many of the newest checkpoints stay.
          warn: called with one sentence when a checkpoint is passed over.
        """
        self._directory = Path(directory).absolute()
        self._keep = keep
        self._warn = warn
        self._orbax = ocp.Checkpointer(ocp.StandardCheckpointHandler())

    def steps(self) -> list[int]:
        """Steps that have a manifest, ascending; whether they are whole, `restore` finds out."""
        if not self._directory.is_dir():
            return []
        matches = (_NAME.fullmatch(entry.name) for entry in self._directory.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def save(self, step: int, tree: Any, metadata: dict[str, Any]) -> None:
        """Save arrays and metadata as one; when this returns they are on the disk.

        Args:
          step: position of the run, at least 0; saving a step again replaces it, and later
            steps are removed.
          tree: any pytree of arrays.
          metadata: a dictionary that JSON can hold.

        Raises:
          OSError: the disk is full or the directory not writable; older checkpoints stay good.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        self._sweep()
        self._remove(step)
        tree = jax.device_get(tree)
        manifest = {
            "step": step,
            "metadata": metadata,
            "leaves": {path: array_digest(leaf) for path, leaf in _leaves(tree)},
        }
        manifest["manifest"] = json_digest(manifest)
        try:
            with orbax_silent():
                self._orbax.save(self._arrays(step), args=ocp.args.StandardSave(tree))
            write_atomically(self._manifest(step), json.dumps(manifest, allow_nan=False))
        except Exception as error:
            self._remove(step)
            self._sweep()
            # TensorStore reports a failed write as a ValueError with the system's code in it.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if code is None and not isinstance(error, OSError):
                raise
            reason = os.strerror(int(code[1])) if code else str(error)
            raise OSError(f"cannot save a checkpoint in {self._directory}: {reason}") from error
        # Later steps are those that `restore` passed over: the run has gone back behind them.
        steps = self.steps()
        for stale in [
            *(s for s in steps if s > step),
            *[s for s in steps if s <= step][: -self._keep],
        ]:
            self._remove(stale)

    def restore(self, target: Any) -> Restored | None:
        """The newest checkpoint that is whole, or None when there is none.

        Args:
          target: a pytree of arrays or `jax.ShapeDtypeStruct` of the shapes and dtypes wanted.

        Returns:
          The newest checkpoint whose manifest and leaves all match their digests, and whose
          shapes and dtypes are those of `target`. Each one passed over is told to `warn`.
        """
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), target)
        for step in reversed(self.steps()):
            try:
                manifest = self._read_manifest(step)
                with orbax_silent():
                    tree = self._orbax.restore(
                        self._arrays(step), args=ocp.args.StandardRestore(abstract)
                    )
                _check_leaves(tree, abstract, manifest["leaves"])
            except Exception as error:
                # Whatever a broken file makes Orbax raise, the answer is the same.
                self._warn(
                    f"checkpoint {self._arrays(step)} is broken ({_first_line(error)}) and is "
                    "passed over; the run goes on from the one before it, or from the start"
                )
                continue
            return Restored(step, tree, manifest["metadata"])
        return None

    def _arrays(self, step: int) -> Path:
        return self._directory / f"step_{step:09d}"

    def _manifest(self, step: int) -> Path:
        return self._directory / f"step_{step:09d}.json"

    def _read_manifest(self, step: int) -> dict[str, Any]:
        manifest = json.loads(self._manifest(step).read_text())
        claimed = manifest.pop("manifest", None)
        if claimed != json_digest(manifest) or manifest["step"] != step:
            raise ValueError("its manifest does not match its own digest")
        return manifest

    def _remove(self, step: int) -> None:
        self._manifest(step).unlink(missing_ok=True)
        shutil.rmtree(self._arrays(step), ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what a killed save left behind: everything that no manifest vouches for."""
        vouched = {self._arrays(step).name for step in self.steps()}
        for entry in self._directory.iterdir():
            if entry.name.startswith("step_") and not _NAME.fullmatch(entry.name):
                if entry.name in vouched:
                    continue
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    return [
        (jax.tree_util.keystr(path), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _check_leaves(tree: Any, abstract: Any, digests: dict[str, str]) -> None:
    found = dict(_leaves(tree))
    if found.keys() != digests.keys():
        raise ValueError(f"leaves {sorted(found.keys() ^ digests.keys())} are missing or extra")
    wanted = dict(_leaves(abstract))
    for path, leaf in found.items():
        # Orbax casts to the dtype asked for without a word; the digest covers the dtype written.
        if leaf.shape != wanted[path].shape or array_digest(leaf) != digests[path]:
            raise ValueError(f"leaf {path} does not match its digest")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
