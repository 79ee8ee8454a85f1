"""The tree of a pattern: a sequence of layers, repetitions and optional layers.

A tree prints as its canonical text, which parses to the same tree.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from cnnjax.pattern import specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern._rules import integer
from cnnjax.pattern.errors import PatternError, Source

__all__ = ["Item", "OptionalLayers", "Pattern", "Repeat", "layers_of", "to_text"]

SYMBOL = re.compile(r"[A-Z][A-Z0-9_]*")


@dataclass(frozen=True)
class Repeat:
    """Items a number of times over, none included: `[CONV3-64 -> RELU]*2`.

    Attributes:
      body: the items, at least one.
      times: how often, at least 0, or a symbol such as "N" that `bind` replaces.
      source: where it stood; no part of what it is.

    >>> str(Repeat((specs.Conv(3, 64), specs.Activation()), "N"))
    '[CONV3-64 -> RELU]*N'
    """

    body: tuple["Item", ...]
    times: int | str
    source: Source | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", _items("Repeat", self.body, self.source))
        if not isinstance(self.times, str):
            object.__setattr__(self, "times", integer(0).apply("Repeat", "times", self.times))
        elif not SYMBOL.fullmatch(self.times):
            raise PatternError(
                "Repeat: times must be an integer of at least 0 or a symbol in upper case, as N, "
                f"got {self.times!r}",
                self.source,
            )

    def __str__(self) -> str:
        return f"[{_join(self.body)}]*{self.times}"


@dataclass(frozen=True)
class OptionalLayers:
    """Items that `bind` keeps or leaves out: `POOL2?`, or `[POOL2 -> LRN]?`.

    Attributes:
      body: the items, at least one.
      source: where they stood; no part of what they are.

    >>> str(OptionalLayers((specs.Pool(2),)))
    'POOL2?'
    """

    body: tuple["Item", ...]
    source: Source | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "body", _items("OptionalLayers", self.body, self.source))

    @property
    def word(self) -> str:
        """The name by which `bind` decides: the first layer's word in lower case."""
        return next(layers_of(self.body)).word.lower()

    def __str__(self) -> str:
        if len(self.body) == 1 and isinstance(self.body[0], Layer):
            return f"{self.body[0]}?"
        return f"[{_join(self.body)}]?"


Item: TypeAlias = Layer | Repeat | OptionalLayers


@dataclass(frozen=True)
class Pattern:
    """A whole pattern. `str` gives its canonical text.

    Attributes:
      items: layers, repetitions and optional layers, at least one. INPUT can only stand first.

    >>> print(Pattern((specs.Input((8, 8, 3)), Repeat((specs.Conv(3, 4),), 2), specs.Dense(10))))
    INPUT[8x8x3] -> [CONV3-4]*2 -> FC-10
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        items = _items("Pattern", self.items, None)
        object.__setattr__(self, "items", items)
        rest = items[1:] if isinstance(items[0], specs.Input) else items
        for layer in layers_of(rest):
            if isinstance(layer, specs.Input):
                raise PatternError(
                    f"Pattern: {layer} can only stand first, once and outside of brackets",
                    layer.source,
                )

    def __str__(self) -> str:
        return _join(self.items)


def to_text(pattern: Pattern) -> str:
    """The canonical text of a pattern, which `parse` reads back as an equal pattern.

    Arrows are "->", repetitions "[...]*2", a group around a single item or without a repetition
    is gone, and a setting that has its default value is not stated.

    Args:
      pattern: a pattern, bound or not.

    Returns:
      One line of text.

    Raises:
      TypeError: something that is no pattern.

    >>> from cnnjax.pattern import parse
    >>> to_text(parse("input[8×8×3] → [conv3-4[stride=1] → relu]x2 → [maxpool2] → fc-10"))
    'INPUT[8x8x3] -> [CONV3-4 -> RELU]*2 -> POOL2 -> FC-10'
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(
            f"to_text: pattern must be a Pattern, got {pattern!r}; parse(text) makes one"
        )
    return str(pattern)


def layers_of(items: tuple[Item, ...]) -> Iterator[Layer]:
    """Every layer that is written, each once, in order.

    >>> [str(layer) for layer in layers_of((Repeat((specs.Conv(3, 4), specs.Dropout()), 2),))]
    ['CONV3-4', 'DROPOUT0.5']
    """
    for item in items:
        if isinstance(item, Layer):
            yield item
        else:
            yield from layers_of(item.body)


def _items(function: str, items: tuple[Item, ...], source: Source | None) -> tuple[Item, ...]:
    items = tuple(items)
    for item in items:
        if not isinstance(item, Layer | Repeat | OptionalLayers):
            raise TypeError(
                f"{function}: an item must be a layer, a Repeat or OptionalLayers, got {item!r}"
            )
    if not items:
        raise PatternError(f"{function}: at least one layer is needed, got none", source)
    return items


def _join(items: tuple[Item, ...]) -> str:
    return " -> ".join(map(str, items))
