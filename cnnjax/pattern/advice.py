"""Sizing advice: what in a pattern does not fit, and what the field's rules of thumb say of it.

Advice is about arithmetic that anybody can redo, not about accuracy.
"""

import itertools

from cnnjax import geometry
from cnnjax.pattern import _design_advice as design
from cnnjax.pattern import _size_advice as size
from cnnjax.pattern._survey import Advice, walk
from cnnjax.pattern.sizing import input_first, layer_names
from cnnjax.pattern.tree import Pattern

__all__ = ["Advice", "check"]

_RULES = (
    size.fit,
    size.divisible,
    size.borders,
    size.pool_windows,
    size.strides,
    size.last_field,
    design.wide_first_window,
    design.linear_in_a_row,
    design.no_relu,
    design.memory,
    design.huge_dense,
)


def check(
    pattern: Pattern, *, memory_limit: int = 64 * 2**20, bytes_per_value: int = 4
) -> tuple[Advice, ...]:
    """Sizing advice on a pattern, errors first, then in the order of the layers.

    Told are: a layer that does not fit, with the nearest settings that do, and one that cannot
    take what comes to it; an input that cannot be halved as often as the network halves it; padding
    that lets the borders go; pooling windows above 3, and strides that pass over pixels; a last
    receptive field smaller than the image or more than twice as large; a wide first window on a
    small image; layers with weights and no nonlinearity between them, and a network without RELU;
    activations of more memory than the limit; a huge FC.

    Memory counts one image's values behind INPUT and every layer that keeps a result (RELU and
    its like, and DROPOUT, work in place), twice: forward and gradient.

    Args:
      pattern: a pattern that starts with INPUT and leaves nothing open.
      memory_limit: bytes an image may take; 64 MiB by default, 8 GiB for a batch of 128.
      bytes_per_value: 4 for float32, 2 for 16 bits.

    Returns:
      The advice; an empty tuple where there is none.

    Raises:
      PatternError: something open, or no INPUT.
      TypeError: something that is no pattern, or limits that are not integers.
      ValueError: limits below 1.

    >>> from cnnjax.pattern import parse
    >>> (advice,) = check(parse("INPUT[33x33x3] -> CONV3-8 -> RELU -> POOL2 -> FC-10"))[:1]
    >>> print(advice.severity, advice.name, advice.rule)
    error pool0 fit
    >>> check(parse("INPUT[8x8x3] -> [CONV3-8 -> RELU]*2 -> POOL2 -> CONV3-8 -> RELU -> GAP"))
    ()

    Source: CS231n course notes, "Convolutional Networks".
    """
    layers = input_first("check", pattern)
    (memory_limit,) = geometry.per_axis("check", "memory_limit", memory_limit, 1)
    (bytes_per_value,) = geometry.per_axis("check", "bytes_per_value", bytes_per_value, 1)
    net = walk(layers, memory_limit, bytes_per_value)
    advice = [*net.broken, *itertools.chain.from_iterable(rule(net) for rule in _RULES)]
    order = {name: number for number, name in enumerate(layer_names(layers))}
    return tuple(sorted(advice, key=lambda a: (a.severity != "error", order.get(a.name, -1))))
