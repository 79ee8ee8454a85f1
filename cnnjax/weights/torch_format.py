"""Weights as PyTorch's libraries name and lay them out, to those of a network and back.

What a network is called in PyTorch: those of torchvision as there; VGG and the squeeze-and-excite
ResNets as in timm as well; every other network by its own paths joined with dots, in PyTorch's
layouts. PyTorch is not needed: a state dict is any mapping of names to arrays.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from cnnjax.models import Network
from cnnjax.weights._fit import Wanted, as_array, fit
from cnnjax.weights._leaves import Leaf, leaves_of
from cnnjax.weights._names import LEAVES, STYLES, Called, is_head, module_names
from cnnjax.weights._trees import (
    channel_hint,
    check_replacement,
    class_hint,
    completed,
    fit_variables,
    resolved,
)

__all__ = ["fit_state", "from_torch", "head_classes", "to_torch", "torch_shapes"]

_COUNTER = "num_batches_tracked"


def from_torch(
    network: str | Network,
    state_dict: Mapping[str, Any],
    *,
    num_classes: int | None = None,
    replace_head: bool = False,
    key: jax.Array | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Variables of a network from a state dict of PyTorch.

    Convolutions (out, in // groups, *window) become (*window, in // groups, out), dense layers
    (out, in) become (in, out) with the inputs of a flattened volume from (channels, height, width)
    order to (height, width, channels) order, running averages go to "batch_stats". No number
    changes, and every array keeps its dtype.

    Args:
      network: name of a network, or one made by `models.create`; with `head_window` set the dense
        layers become its convolutions.
      state_dict: names to arrays or tensors, in the style of torchvision or of timm.
        `num_batches_tracked` is left out, and so is a classifier that the network does not have
        (features=True, num_classes=0), or auxiliary heads (auxiliary=False).
      num_classes: with a name, classes of the network; by default as published.
      replace_head: whether the classifier is drawn anew, by the network's own initialiser, rather
        than read; the way to another number of classes.
      key: of `jax.random`, for the classifier that is drawn.
      **options: with a name, further options of the network.

    Returns:
      {"params": ..., "batch_stats": ...}, the latter where there is batch normalisation, trees of
      NumPy arrays that share no memory with the state dict.

    Raises:
      WeightsError: whatever does not fit, all names in one message.
      TypeError: options beside a network that has its own.
      ValueError: an unknown network; replace_head without a key, or a key without it.

    >>> import numpy as np
    >>> state_dict = {name: np.ones(shape) for name, shape in torch_shapes("lenet5").items()}
    >>> variables = from_torch("lenet5", state_dict)
    >>> state_dict["conv0.weight"].shape, variables["params"]["conv0"]["kernel"].shape
    ((6, 1, 5, 5), (5, 5, 1, 6))
    """
    network = resolved("from_torch", network, num_classes, options)
    check_replacement("from_torch", replace_head, key)
    return fit_state("from_torch: the state dict", network, state_dict, replace_head, key)


def to_torch(
    network: str | Network,
    variables: Mapping[str, Any],
    *,
    style: str = "torchvision",
    num_classes: int | None = None,
    **options: Any,
) -> dict[str, np.ndarray]:
    """The state dict of PyTorch of a network's variables: `from_torch` backwards.

    Args:
      network: name of a network, or one made by `models.create`.
      variables: as `net.init` gives them.
      style: "torchvision", or "timm", which names the dense layers of VGG otherwise and has them
        as convolutions.
      num_classes: with a name, classes of the network; by default as published.
      **options: with a name, further options of the network.

    Returns:
      Names to NumPy arrays in C order, which share no memory with the variables; beside running
      averages a `num_batches_tracked` of 0, since `load_state_dict` asks for it.

    Raises:
      WeightsError: variables that are not those of the network, all names in one message.
      TypeError: options beside a network that has its own.
      ValueError: an unknown network or style.

    >>> import numpy as np
    >>> given = {name: np.ones(shape) for name, shape in torch_shapes("lenet5").items()}
    >>> state_dict = to_torch("lenet5", from_torch("lenet5", given))
    >>> state_dict["head.bias"].shape, state_dict["head.weight"].shape
    ((10,), (10, 84))
    """
    network = resolved("to_torch", network, num_classes, options)
    _check_style("to_torch", style)
    leaves, published = leaves_of(network)
    names, called = _names(published, style), _called(published, style)
    given = fit_variables("to_torch", network, variables, leaves)
    state_dict: dict[str, np.ndarray] = {}
    for leaf in leaves:
        name = names[leaf.path]
        array = given["/".join(leaf.path)]
        state_dict[name] = leaf.to_torch(array, called[leaf.module].windowed)
        if counter := _counter(leaf, name):
            state_dict[counter] = np.zeros((), np.int64)
    return dict(sorted(state_dict.items()))


def torch_shapes(
    network: str | Network,
    *,
    style: str = "torchvision",
    num_classes: int | None = None,
    **options: Any,
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict that `to_torch` gives; nothing is computed.

    Args:
      network: name of a network, or one made by `models.create`.
      style: as in `to_torch`.
      num_classes: with a name, classes of the network; by default as published.
      **options: with a name, further options of the network.

    Raises:
      TypeError: options beside a network that has its own.
      ValueError: an unknown network or style.

    >>> shapes = torch_shapes("resnet50")
    >>> len(shapes), shapes["fc.weight"], shapes["layer4.2.conv3.weight"]
    (320, (1000, 2048), (2048, 512, 1, 1))
    """
    network = resolved("torch_shapes", network, num_classes, options)
    _check_style("torch_shapes", style)
    leaves, published = leaves_of(network)
    names, called = _names(published, style), _called(published, style)
    shapes: dict[str, tuple[int, ...]] = {}
    for leaf in leaves:
        shapes[names[leaf.path]] = leaf.torch_shape(called[leaf.module].windowed)
        if counter := _counter(leaf, names[leaf.path]):
            shapes[counter] = ()
    return dict(sorted(shapes.items()))


def fit_state(
    title: str,
    network: Network,
    state_dict: Mapping[str, Any],
    replace_head: bool,
    key: jax.Array | None,
) -> dict[str, Any]:
    """`from_torch` with the beginning of its error.

    Raises:
      TypeError: no mapping of names to arrays.
      WeightsError: it does not fit.
    """
    _check_state(title, state_dict)
    given = {
        name: as_array(value)
        for name, value in state_dict.items()
        if name.rpartition(".")[2] != _COUNTER
    }
    leaves, published = leaves_of(network)
    best: tuple[int, str] | None = None
    for style in STYLES:
        found = sum(name in given for name in _names(published, style).values())
        if best is None or found > best[0]:
            best = found, style
    style = best[1] if best else STYLES[0]
    names, called = _names(published, style), _called(published, style)
    paths = {leaf.path for leaf in leaves}
    # What the whole network has and this one was told to do without.
    spare = {
        name for path, name in names.items() if path not in paths or _drawn(path, replace_head)
    }
    if not any(path[1] == "aux0" for path in paths):
        spare |= {name for name in given if name.startswith(("aux1.", "aux2."))}
    wanted = [
        Wanted(
            names[leaf.path],
            "/".join(leaf.path),
            _accepted(leaf, called[leaf.module].windowed),
            leaf.shape,
            leaf.from_torch,
        )
        for leaf in leaves
        if not _drawn(leaf.path, replace_head)
    ]
    fitting = fit(
        f"{title} does not fit {type(network).__name__}",
        wanted,
        {name: array for name, array in given.items() if name not in spare},
        functools.partial(_hints, network, {e.name: e for e in wanted}, given),
    )
    return completed(network, fitting, key)


def head_classes(network: Network, state_dict: Mapping[str, Any]) -> int | None:
    """How many classes a state dict for this kind of network tells; None where it does not."""
    _, published = leaves_of(network)
    (head,) = (leaf for leaf in published if leaf.path == ("params", "head", "kernel"))
    for style in STYLES:
        shape = np.shape(state_dict.get(_names(published, style)[head.path], ()))
        # Of other inputs it is an array to complain of, not to count.
        if shape and shape[1:] in (accepted[1:] for accepted in _accepted(head, False)):
            return shape[0]
    return None


def _check_state(title: str, state_dict: Any) -> None:
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"{title} must be a mapping of names to arrays, got {type(state_dict).__name__}; "
            "weights.load(...) reads files"
        )
    if inner := [name for name, value in state_dict.items() if isinstance(value, Mapping)]:
        raise TypeError(
            f"{title} must be a mapping of names to arrays, got one that holds others; is it "
            f"state_dict[{inner[0]!r}]?"
        )


def _hints(
    network: Network,
    wanted: Mapping[str, Wanted],
    given: Mapping[str, np.ndarray],
    missing: list[str],
    unexpected: list[str],
    misshapen: list[str],
) -> list[str]:
    """What to write when classes or channels are others, or all names begin alike."""
    lines = []
    for name in misshapen:
        array, path = given[name], tuple(wanted[name].place.split("/"))
        if is_head(path[1:-1]) and path[-1] == "kernel":
            if array.shape != wanted[name].shapes[0][::-1]:
                lines += class_hint(array.shape[0] if array.ndim else 0, network)
        elif array.ndim == 4:
            lines += channel_hint(wanted[name].place, array.shape[1], network)
    if any(path.startswith("aux1.") for path in missing):
        lines += ["without the auxiliary heads the network is create('googlenet', auxiliary=False)"]
    prefixes = {name.partition(".")[0] for name in given}
    if len(missing) == len(wanted) and len(prefixes) == 1:
        (prefix,) = prefixes
        lines += [
            f"every name begins with {prefix!r}: write "
            f"{{name.removeprefix('{prefix}.'): array for name, array in state_dict.items()}}"
        ]
    return list(dict.fromkeys(lines))


def _called(leaves: tuple[Leaf, ...], style: str) -> dict[tuple[str, ...], Called]:
    return module_names({leaf.module for leaf in leaves}, style)


def _names(leaves: tuple[Leaf, ...], style: str) -> dict[tuple[str, ...], str]:
    called = _called(leaves, style)
    return {
        leaf.path: f"{called[leaf.module].name}.{LEAVES.get(leaf.path[-1], leaf.path[-1])}"
        for leaf in leaves
    }


def _counter(leaf: Leaf, name: str) -> str:
    """PyTorch's count of batches that stands beside running averages, "" beside anything else."""
    return f"{name.rpartition('.')[0]}.{_COUNTER}" if leaf.path[0] == "batch_stats" else ""


def _check_style(function: str, style: str) -> None:
    if style not in STYLES:
        raise ValueError(f"{function}: style must be one of {', '.join(STYLES)}, got {style!r}")


def _accepted(leaf: Leaf, windowed: bool) -> tuple[tuple[int, ...], ...]:
    """Shapes of PyTorch's array; a dense layer may be a convolution there, whatever the style."""
    shapes = [leaf.torch_shape(windowed)]
    if leaf.window_shape:
        *window, inputs, outputs = leaf.window_shape
        if leaf.dense:
            shapes += [leaf.torch_shape(not windowed), (outputs, inputs, *(window or (1, 1)))]
        elif math.prod(window) == 1:
            shapes += [(outputs, inputs)]
    return tuple(dict.fromkeys(shapes))


def _drawn(path: tuple[str, ...], replace_head: bool) -> bool:
    return replace_head and is_head(path[1:-1])
