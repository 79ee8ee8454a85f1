"""Weights in a directory, by the network's own paths, with a digest of each array.

A checkpoint exists when its manifest does: the manifest is written last and removed first. The
checkpoints that training keeps of a run are read too.
"""

import functools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnnjax.files import write_atomically
from cnnjax.models import Network
from cnnjax.weights._fit import as_array, fit
from cnnjax.weights._leaves import flattened, leaves_of
from cnnjax.weights._names import is_head
from cnnjax.weights._trees import (
    as_wanted,
    check_replacement,
    completed,
    fit_variables,
    own_hints,
    resolved,
)
from cnnjax.weights.errors import WeightsError
from cnnjax.weights.files import check_class_names
from cnnjax.weights.loaded import Loaded, loaded_of
from cnnjax.weights.preprocessing import Preprocessing
from cnnjax.weights.verified import (
    array_digest,
    json_digest,
    read_manifest,
    restore_arrays,
    save_arrays,
)

__all__ = ["load_checkpoint", "save_checkpoint"]

_MANIFEST, _ARRAYS = "weights.json", "arrays"
_OF_A_RUN = re.compile(r"step_(\d{9})\.json")


def save_checkpoint(
    directory: str | os.PathLike[str],
    network: str | Network,
    variables: Mapping[str, Any],
    *,
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> None:
    """Keep weights in a directory; when this returns they are on the disk.

    Args:
      directory: a place of its own, made when missing; a checkpoint that is there is replaced.
      network: name of a network, or one made by `models.create`.
      variables: as `net.init` gives them, or as training left them.
      preprocessing: how images became inputs.
      class_names: one a class.
      num_classes: with a name, classes of the network; by default as published.
      **options: with a name, further options of the network.

    Raises:
      WeightsError: variables that are not those of the network.
      ValueError: a directory that holds something else, or too few class names.
      OSError: the disk is full or the directory not writable.

    >>> import tempfile, numpy as np
    >>> from cnnjax.weights import from_torch, torch_shapes
    >>> state_dict = {name: np.ones(shape) for name, shape in torch_shapes("lenet5").items()}
    >>> variables = from_torch("lenet5", state_dict)
    >>> directory = Path(tempfile.mkdtemp()) / "digits"
    >>> save_checkpoint(directory, "lenet5", variables, class_names=list("0123456789"))
    >>> load_checkpoint("lenet5", directory).class_names[3]
    '3'
    """
    directory = Path(directory).absolute()
    network = resolved("save_checkpoint", network, num_classes, options)
    check_class_names("save_checkpoint", class_names, network)
    leaves, _ = leaves_of(network)
    arrays = fit_variables("save_checkpoint", network, variables, leaves)
    directory.mkdir(parents=True, exist_ok=True)
    if others := sorted({entry.name for entry in directory.iterdir()} - {_MANIFEST, _ARRAYS}):
        raise ValueError(
            f"save_checkpoint: {directory} holds something else ({others[0]}); give a directory of "
            "its own"
        )
    manifest: dict[str, Any] = {
        "network": type(network).__name__,
        "num_classes": network.num_classes,
        "preprocessing": preprocessing.as_dict() if preprocessing else None,
        "class_names": list(class_names) if class_names is not None else None,
        "leaves": {
            path: {
                "shape": array.shape,
                "dtype": array.dtype.name,
                "digest": array_digest(array),
            }
            for path, array in arrays.items()
        },
    }
    manifest = json.loads(json.dumps(manifest))
    manifest["manifest"] = json_digest(manifest)
    (directory / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(directory / _ARRAYS, ignore_errors=True)
    save_arrays(directory / _ARRAYS, completed(network, arrays, None))
    write_atomically(directory / _MANIFEST, json.dumps(manifest))


def load_checkpoint(
    network: str | Network,
    directory: str | os.PathLike[str],
    *,
    seed_index: int = 0,
    num_classes: int | None = None,
    replace_head: bool = False,
    key: jax.Array | None = None,
    **options: Any,
) -> Loaded:
    """Weights of `save_checkpoint`, or the best ones of a run's newest checkpoint.

    Args:
      network: name of a network, or one made by `models.create`.
      directory: of `save_checkpoint`, or of a run: run_dir/checkpoints/arm/seed_0. Of a run the
        variables with the best validation accuracy are read, the latest before the first
        validation.
      seed_index: which of the seeds that a run trained together.
      num_classes: with a name, classes of the network; by default those of the checkpoint.
      replace_head: whether the classifier is drawn anew, as in `from_torch`.
      key: of `jax.random`, for that.
      **options: with a name, further options of the network.

    Returns:
      The network, its variables, and what the checkpoint or the network's name tells of
      preprocessing and class names.

    Raises:
      WeightsError: no checkpoint there, a broken one, or one that does not fit.
      TypeError, ValueError: as in `from_torch`.
    """
    directory = Path(directory).absolute()
    check_replacement("load_checkpoint", replace_head, key)
    given, manifest = _read(directory, seed_index)
    head = given.get("params/head/kernel")
    if isinstance(network, str) and num_classes is None and not replace_head and head is not None:
        num_classes = head.shape[-1]
    network = resolved("load_checkpoint", network, num_classes, options)
    if replace_head:
        given = {path: a for path, a in given.items() if not is_head(_modules(path))}
    leaves, published = leaves_of(network)
    paths = {leaf.path for leaf in leaves}
    # What the whole network has and this one was told to do without.
    spare = {"/".join(leaf.path) for leaf in published if leaf.path not in paths}
    wanted = [as_wanted(leaf) for leaf in leaves if not (replace_head and is_head(leaf.module))]
    fitting = fit(
        f"load_checkpoint: {directory} does not fit {type(network).__name__}",
        wanted,
        {path: array for path, array in given.items() if path not in spare},
        functools.partial(own_hints, network, given),
    )
    loaded = loaded_of(network, completed(network, fitting, key), names_known=not replace_head)
    if manifest.get("preprocessing") is not None:
        loaded = loaded._replace(preprocessing=Preprocessing.from_dict(manifest["preprocessing"]))
    if manifest.get("class_names") is not None and not replace_head:
        loaded = loaded.with_class_names(manifest["class_names"])
    return loaded


def _read(directory: Path, seed_index: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays by path, and the manifest."""
    if (directory / _MANIFEST).is_file():
        return _read_own(directory)
    steps = (
        sorted(entry.name for entry in directory.iterdir() if _OF_A_RUN.fullmatch(entry.name))
        if directory.is_dir()
        else []
    )
    if not steps:
        raise WeightsError(
            f"load_checkpoint: there is no checkpoint in {directory}, neither {_MANIFEST} of "
            "save_checkpoint nor step_*.json of a run"
        )
    return _read_run(directory / steps[-1], seed_index), {}


def _read_own(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    manifest = read_manifest(directory / _MANIFEST)
    target = {
        path: np.empty(leaf["shape"], np.dtype(leaf["dtype"]))
        for path, leaf in manifest["leaves"].items()
    }
    tree = restore_arrays(directory / _ARRAYS, _nested(target))
    given = {"/".join(path): as_array(leaf) for path, leaf in flattened(tree).items()}
    broken = [
        path
        for path, leaf in manifest["leaves"].items()
        if path not in given or array_digest(given[path]) != leaf["digest"]
    ]
    _refuse_broken(directory / _ARRAYS, broken)
    return given, manifest


def _read_run(path: Path, seed_index: int) -> dict[str, np.ndarray]:
    manifest, arrays = read_manifest(path), path.with_suffix("")
    state = restore_arrays(arrays)["state"]
    best = np.asarray(state["best_correct"])
    if not 0 <= seed_index < len(best):
        raise WeightsError(
            f"load_checkpoint: {arrays} has {len(best)} seeds trained together, so seed_index is "
            f"from 0 to {len(best) - 1}, got {seed_index}"
        )
    field = "best_variables" if best[seed_index] >= 0 else "variables"
    leaves = {names: as_array(leaf) for names, leaf in flattened(state[field]).items()}
    broken = [
        "/".join(names)
        for names, leaf in leaves.items()
        if manifest["leaves"].get(_key_of(field, names)) != array_digest(leaf)
    ]
    _refuse_broken(arrays, broken)
    return {"/".join(names): leaf[seed_index] for names, leaf in leaves.items()}


def _key_of(field: str, names: tuple[str, ...]) -> str:
    """How the manifest of a run calls a leaf: as `jax.tree_util.keystr` does."""
    return f"['state'].{field}" + "".join(f"[{name!r}]" for name in names)


def _refuse_broken(where: Path, broken: list[str]) -> None:
    if broken:
        raise WeightsError(
            f"load_checkpoint: {where} is broken: {', '.join(broken)} not as written, by digest"
        )


def _nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return tree


def _modules(path: str) -> tuple[str, ...]:
    return tuple(path.split("/")[1:-1])
