"""Arrays by name against what a network wants: all of it fits, or one error says what does not."""

import difflib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from cnnjax.weights.errors import WeightsError

__all__ = ["Wanted", "as_array", "fit"]

# Above this many comparisons of names, a list of renamed ones helps nobody.
_MOST_COMPARISONS = 10_000


class Wanted(NamedTuple):
    """One array that a network wants.

    Attributes:
      name: of the array where it comes from.
      place: of the array in the network.
      shapes: those that are taken, the usual one first.
      ours: the shape in the network.
      convert: from an array of one of `shapes` to one of `ours`.
    """

    name: str
    place: str
    shapes: tuple[tuple[int, ...], ...]
    ours: tuple[int, ...]
    convert: Callable[[np.ndarray], np.ndarray]


def as_array(value: Any) -> np.ndarray:
    """A NumPy array of anything array-like, tensors of PyTorch included, in its own dtype.

    PyTorch is not imported: a tensor is known by its methods.
    """
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            # NumPy has no such dtype of its own; a float32 holds every bfloat16.
            return np.asarray(value.float().numpy()).astype("bfloat16")
        value = value.numpy()
    return np.asarray(value)


def fit(
    title: str,
    wanted: list[Wanted],
    given: Mapping[str, np.ndarray],
    hints: Callable[[list[str], list[str], list[str]], list[str]] = lambda *_: [],
) -> dict[str, np.ndarray]:
    """Every wanted array, converted, by its place.

    Args:
      title: what does not fit what, the beginning of the error.
      wanted: all that the network has.
      given: all that there is.
      hints: further lines of the error, from names that are missing, unexpected and misshapen.

    Raises:
      WeightsError: names missing or unexpected, arrays of other shapes or of no floating dtype;
        all of them.
    """
    names = {entry.name for entry in wanted}
    missing = [entry for entry in wanted if entry.name not in given]
    unexpected = {name: array for name, array in given.items() if name not in names}
    wrong = {}
    for entry in wanted:
        if entry.name in given and (fault := _fault(entry, given[entry.name])):
            wrong[entry.name] = fault
    if not (missing or unexpected or wrong):
        return {entry.place: entry.convert(given[entry.name]) for entry in wanted}
    lines = [
        f"{title}: of {len(wanted)} arrays wanted {len(missing)} are missing and {len(wrong)} "
        f"misshapen, {len(unexpected)} are unexpected; nothing was loaded"
    ]
    if missing:
        near = _nearest(missing, unexpected)
        lines += ["missing:"]
        lines += [
            f"  {entry.name} {entry.shapes[0]}, here {entry.place}{near.get(entry.name, '')}"
            for entry in missing
        ]
    if unexpected:
        lines += ["unexpected:"]
        lines += [f"  {name} {array.shape}" for name, array in unexpected.items()]
    if wrong:
        lines += ["misshapen:", *(f"  {name}: {fault}" for name, fault in wrong.items())]
    faults = [entry.name for entry in missing], list(unexpected), list(wrong)
    lines += hints(*faults)
    raise WeightsError(
        "\n".join(lines),
        missing=tuple(faults[0]),
        unexpected=tuple(faults[1]),
        misshapen=tuple(faults[2]),
    )


def _fault(entry: Wanted, array: np.ndarray) -> str:
    expected, got = entry.shapes[0], array.shape
    if got not in entry.shapes:
        fault = f"expected {expected}, got {got}"
        if got[::-1] == expected and len(got) == 2:
            return f"{fault}, the transpose; write array.T"
        if got == entry.ours:
            return f"{fault}, the layout of JAX; write numpy.moveaxis(array, (-1, -2), (0, 1))"
        return fault
    # Dtypes that NumPy does not know, such as bfloat16, have no kind of a float.
    if array.dtype.kind != "f" and "float" not in array.dtype.name:
        return f"expected a floating dtype, got {array.dtype}"
    return ""


def _nearest(missing: list[Wanted], unexpected: Mapping[str, np.ndarray]) -> dict[str, str]:
    """For missing names the unexpected one that looks like it, one of an equal shape first."""
    found: dict[str, str] = {}
    if len(missing) * len(unexpected) > _MOST_COMPARISONS:
        return found
    for entry in missing:
        same = [name for name, array in unexpected.items() if array.shape in entry.shapes]
        for candidates, remark in ((same, ""), (list(unexpected), " of another shape")):
            if near := difflib.get_close_matches(entry.name, candidates, n=1):
                found[entry.name] = f"; is it {near[0]!r}{remark}?"
                break
    return found
