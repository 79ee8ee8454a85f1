"""Files of weights: safetensors and NumPy's, never a pickle.

Whoever can write a pickle runs code on the machine that reads it, and PyTorch's .pt, .pth and .bin
files are pickles. Neither format here can hold code.
"""

import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from cnnjax.files import write_atomically
from cnnjax.models import Network
from cnnjax.weights._trees import check_replacement, resolved
from cnnjax.weights.errors import WeightsError
from cnnjax.weights.loaded import Loaded, from_state
from cnnjax.weights.preprocessing import Preprocessing
from cnnjax.weights.torch_format import to_torch

__all__ = ["load_numpy", "load_safetensors", "save_safetensors"]

PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".tar")
_KEY = "cnnjax"


def load_safetensors(
    network: str | Network,
    path: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    replace_head: bool = False,
    key: jax.Array | None = None,
    **options: Any,
) -> Loaded:
    """Weights of a .safetensors file in PyTorch's names, as timm and `save_safetensors` write it.

    Args:
      network: name of a network, or one made by `models.create`.
      path: the file.
      num_classes: with a name, classes of the network; by default those of the file.
      replace_head: whether the classifier is drawn anew, as in `from_torch`.
      key: of `jax.random`, for that.
      **options: with a name, further options of the network.

    Returns:
      The network, its variables, and what the file or the network's name tells of preprocessing
      and class names.

    Raises:
      WeightsError: a file that is missing, broken or of another kind, or that does not fit.
      TypeError, ValueError: as in `from_torch`.

    Source: https://huggingface.co/docs/safetensors, the format.
    """
    path = readable("load_safetensors", path, (".safetensors",))
    check_replacement("load_safetensors", replace_head, key)
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, TypeError) as error:
        raise WeightsError(
            f"load_safetensors: {path} cannot be read ({error}); it is no safetensors file or was "
            "cut short, fetch it again"
        ) from error
    loaded = from_state(
        network,
        state,
        f"load_safetensors: {path}",
        num_classes=num_classes,
        replace_head=replace_head,
        key=key,
        options=options,
    )
    return _with_metadata(loaded, metadata.get(_KEY), names_known=not replace_head)


def save_safetensors(
    network: str | Network,
    variables: Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    style: str = "torchvision",
    preprocessing: Preprocessing | None = None,
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    **options: Any,
) -> None:
    """Write weights in PyTorch's names, whole or not at all.

    Args:
      network: name of a network, or one made by `models.create`.
      variables: as `net.init` gives them.
      path: the file, .safetensors.
      style: as in `to_torch`; "timm" for files that timm is to read.
      preprocessing: kept in the file's metadata, for `load_safetensors`.
      class_names: likewise.
      num_classes: with a name, classes of the network; by default as published.
      **options: with a name, further options of the network.

    Raises:
      WeightsError: variables that are not those of the network.
      ValueError: another suffix, an unknown network or style, or too few class names.
      OSError: the file cannot be written; an older one is untouched.

    >>> import tempfile, numpy as np
    >>> from cnnjax.weights import from_torch, torch_shapes
    >>> state_dict = {name: np.ones(shape) for name, shape in torch_shapes("lenet5").items()}
    >>> path = Path(tempfile.mkdtemp()) / "lenet5.safetensors"
    >>> variables = from_torch("lenet5", state_dict)
    >>> save_safetensors("lenet5", variables, path, class_names=list("0123456789"))
    >>> load_safetensors("lenet5", path).class_names[7]
    '7'
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"save_safetensors: the file must end in .safetensors, got {path.name!r}")
    network = resolved("save_safetensors", network, num_classes, options)
    check_class_names("save_safetensors", class_names, network)
    state = to_torch(network, variables, style=style)
    # "pt" says that the layouts are PyTorch's; other readers ask for it.
    metadata = {"format": "pt"}
    if preprocessing is not None or class_names is not None:
        kept = {
            "preprocessing": preprocessing.as_dict() if preprocessing else None,
            "class_names": list(class_names) if class_names is not None else None,
        }
        metadata[_KEY] = json.dumps(kept)
    write_atomically(path, safetensors.numpy.save(state, metadata))


def load_numpy(
    network: str | Network,
    path: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    replace_head: bool = False,
    key: jax.Array | None = None,
    **options: Any,
) -> Loaded:
    """Weights of an .npz file in PyTorch's names, such as `numpy.savez(path, **to_torch(...))`.

    Args and Raises are those of `load_safetensors`; arrays that would need a pickle are refused.

    >>> import tempfile, numpy as np
    >>> from cnnjax.weights import from_torch, torch_shapes
    >>> state_dict = {name: np.ones(shape) for name, shape in torch_shapes("lenet5").items()}
    >>> path = Path(tempfile.mkdtemp()) / "lenet5.npz"
    >>> np.savez(path, **state_dict)
    >>> load_numpy("lenet5", path).preprocessing.image_size
    (32, 32)
    """
    path = readable("load_numpy", path, (".npz",))
    check_replacement("load_numpy", replace_head, key)
    try:
        with np.load(path, allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise WeightsError(
            f"load_numpy: {path} cannot be read ({error}); it is no .npz file of plain arrays or "
            "was cut short"
        ) from error
    return from_state(
        network,
        state,
        f"load_numpy: {path}",
        num_classes=num_classes,
        replace_head=replace_head,
        key=key,
        options=options,
    )


def readable(function: str, path: str | os.PathLike[str], suffixes: tuple[str, ...]) -> Path:
    """The path of a file that is there and of a kind that can be read.

    Raises:
      WeightsError: it is not.
    """
    path = Path(path)
    if path.suffix in PICKLES:
        raise WeightsError(
            f"{function}: {path} is not read: a {path.suffix} file of PyTorch is a pickle, and "
            "reading one can run any code that its writer put there. Where you trust it, on a "
            "machine with PyTorch:\n"
            f'  state = torch.load("{path.name}", map_location="cpu", weights_only=True)\n'
            f'  safetensors.torch.save_file(state, "{path.stem}.safetensors")'
        )
    if path.suffix not in suffixes:
        raise WeightsError(
            f"{function}: {path} must end in {' or '.join(suffixes)}, got {path.suffix!r}"
        )
    if not path.is_file():
        raise WeightsError(f"{function}: there is no file {path}")
    return path


def check_class_names(function: str, names: Sequence[str] | None, network: Network) -> None:
    """Refuse another number of names than the network has classes.

    Raises:
      ValueError: it is another.
    """
    if names is not None and len(names) != network.num_classes:
        raise ValueError(
            f"{function}: class_names must be one a class, {network.num_classes}, got {len(names)}"
        )


def _with_metadata(loaded: Loaded, kept: str | None, *, names_known: bool) -> Loaded:
    """What `save_safetensors` wrote beside the arrays, where it still fits the network."""
    if kept is None:
        return loaded
    record = json.loads(kept)
    if record["preprocessing"] is not None:
        found = Preprocessing.from_dict(record["preprocessing"])
        loaded = loaded._replace(preprocessing=found)
    if names_known and record["class_names"] is not None:
        return loaded.with_class_names(record["class_names"])
    return loaded
