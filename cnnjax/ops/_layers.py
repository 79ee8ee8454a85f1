"""Operations as one equation of a traced program, under a name that tells what they are.

Slices, maxima and sums would tell a reader of the program nothing; `cnnjax.analysis` reads the
names instead. A layer is a jitted function, so that its equations stay together; XLA sees through
it.
"""

import functools
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import jax

__all__ = ["ALWAYS_HOLDS", "Named", "as_layer", "is_layer", "layer_name", "read_name"]

# The condition of `_memory.kept`, which depends on no value although it is computed from one.
ALWAYS_HOLDS = "condition_that_always_holds"

_PREFIX = "layer_"
_SLIDING = re.compile(
    r"(?P<operation>\w+)__window(?P<window>[\dx]*)_stride(?P<stride>[\dx]*)"
    r"_padding(?P<padding>[\dx_]*)_dilation(?P<dilation>[\dx]*)"
)


class Named(NamedTuple):
    """What the name of a layer tells: its operation and, if it slides, its windows."""

    operation: str
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()


def layer_name(
    operation: str,
    window: Iterable[int] = (),
    stride: Iterable[int] = (),
    padding: Iterable[Sequence[int]] = (),
    dilation: Iterable[int] = (),
) -> str:
    """The name of a layer.

    >>> layer_name("max_pool", (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 1))
    'layer_max_pool__window3x3_stride2x2_padding0_1x0_1_dilation1x1'
    """
    if not window:
        return _PREFIX + operation
    pairs = "x".join(f"{low}_{high}" for low, high in padding)
    return (
        f"{_PREFIX}{operation}__window{_times(window)}_stride{_times(stride)}_padding{pairs}"
        f"_dilation{_times(dilation)}"
    )


def is_layer(name: str) -> bool:
    """Whether a name is one of a layer."""
    return name.startswith(_PREFIX)


def read_name(name: str) -> Named | None:
    """What a name tells, or None if it is not one of a layer.

    >>> read_name("layer_max_pool__window3x3_stride2x2_padding0_1x0_1_dilation1x1").padding
    ((0, 1), (0, 1))
    """
    if not is_layer(name):
        return None
    name = name.removeprefix(_PREFIX)
    match = _SLIDING.fullmatch(name)
    if match is None:
        return Named(name)
    window, stride, dilation = (
        tuple(map(int, match[part].split("x"))) for part in ("window", "stride", "dilation")
    )
    pairs = (pair.split("_") for pair in match["padding"].split("x"))
    padding = tuple((int(low), int(high)) for low, high in pairs)
    return Named(match["operation"], window, stride, padding, dilation)


@functools.cache
def as_layer(function: Callable[..., Any], name: str, **statics: Hashable) -> Callable[..., Any]:
    """The function with these keyword arguments, as a layer of that name."""

    def layer(*arrays: Any) -> Any:
        return function(*arrays, **statics)

    layer.__name__ = name
    return jax.jit(layer)


def _times(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))
