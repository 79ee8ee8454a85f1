"""Filling in what a pattern leaves open, and writing it out layer by layer.

Open are the symbols of counts (`[...]*N`), what is optional (`POOL?`) and the bare words (`INPUT`,
`CONV`, `FC`, `POOL`). A sequence in place of one value has a value for each *pass*: a pass is one
run through the body of an outermost repetition, or an outermost item that is not repeated; those
that leave the name open count, in the order of the text.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnjax.pattern import _rules, specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern.errors import PatternError, Source
from cnnjax.pattern.tree import Item, OptionalLayers, Pattern, Repeat

__all__ = ["bind", "expand", "unbound"]

# Layers beyond these are a slip of the pen in a count, and would take minutes to write out.
_MOST_LAYERS = 10_000

# What a bare word leaves open: the field, and the name that `bind` knows it by.
_OPEN: Mapping[type[Layer], tuple[tuple[str, str], ...]] = {
    specs.Input: (("shape", "input_shape"),),
    specs.Conv: (("window", "window"), ("filters", "filters")),
    specs.Pool: (("window", "pool_window"),),
    specs.Dense: (("features", "features"),),
}
_SEQUENCES = ("filters", "features")


def bind(
    pattern: Pattern,
    *,
    input_shape: Sequence[int] | None = None,
    window: int | Sequence[int] | None = None,
    filters: int | Sequence[int] | None = None,
    pool_window: int | Sequence[int] | None = None,
    features: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    **bindings: int | bool | Sequence[int] | Sequence[bool],
) -> Pattern:
    """Replace symbols, optional layers and bare words; what gets no value stays open.

    Args:
      pattern: the pattern.
      input_shape: (*spatial, channels) of a bare INPUT.
      window: taps of each CONV that states none, one number or one an axis.
      filters: filters of each CONV that states none; one number, or one a pass.
      pool_window: window of each POOL, AVGPOOL, L2POOL or BLURPOOL that states none.
      features: outputs of each FC that states none; one number, or one a pass.
      num_classes: outputs of the last item, where that is a bare FC outside of brackets; it is
        asked for by this name alone.
      **bindings: a count of at least 0 for each symbol by its name (`N=2`), and for each optional
        layer, by its word in lower case (`pool=` for POOL?, `bn=` for BN?; a group by its first
        layer), True to keep it or False to leave it out. One value, or one a pass.

    Returns:
      The pattern without what was bound. Passes that came out alike stay together as one
      repetition, others are written one after another.

    Raises:
      ValueError: a name that the pattern does not leave open, or a sequence of the wrong length.
      TypeError: values of the wrong kind.
      PatternError: a value that the layer it goes to cannot have.

    >>> from cnnjax.pattern import parse
    >>> stages = parse("[[CONV3 -> RELU]*N -> POOL2?]*M")
    >>> print(bind(stages, N=(1, 2, 2), M=3, filters=(8, 16, 16), pool=(True, False, False)))
    [CONV3-8 -> RELU]*1 -> POOL2 -> [[CONV3-16 -> RELU]*2]*2

    Source: CS231n course notes, "Convolutional Networks", layer patterns.
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(f"bind: pattern must be a Pattern, got {pattern!r}; parse(text) makes one")
    settings = {
        "input_shape": input_shape,
        "window": window,
        "filters": filters,
        "pool_window": pool_window,
        "features": features,
        "num_classes": num_classes,
    }
    given: dict[str, Any] = {name: v for name, v in settings.items() if v is not None} | bindings
    opened = unbound(pattern)
    for name in given:
        if name not in opened:
            names = ", ".join(opened) or "nothing"
            raise ValueError(f"bind: {name}: the pattern leaves open {names}, but not {name}")
    scalars = {name: v for name, v in given.items() if not _is_sequence(name, v)}
    scalars = {name: _checked(name, value) for name, value in scalars.items()}
    queues = {
        name: [_checked(name, entry) for entry in value]
        for name, value in given.items()
        if name not in scalars
    }
    if not given:
        return pattern
    bound = _bind_passes(pattern, scalars, queues)
    if not bound:
        raise ValueError("bind: with these values no layer is left")
    return Pattern(bound)


def unbound(pattern: Pattern) -> tuple[str, ...]:
    """The names of all that a pattern leaves open, in the order of the text.

    Args:
      pattern: the pattern.

    Returns:
      Symbols, words of optional layers, and names of `bind`'s arguments for bare words.

    >>> from cnnjax.pattern import parse
    >>> unbound(parse("INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC"))
    ('input_shape', 'M', 'N', 'window', 'filters', 'pool', 'pool_window', 'K', 'features',
     'num_classes')
    """
    return tuple(dict.fromkeys(name for name, _ in _opened(pattern)))


def expand(pattern: Pattern) -> tuple[Layer, ...]:
    """The layers one after another, repetitions written out.

    Args:
      pattern: a pattern that leaves nothing open.

    Returns:
      The layers from the input on; those repeated 0 times are none of them.

    Raises:
      PatternError: names still open, all of them told, or more than 10,000 layers.
      TypeError: something that is no pattern.

    >>> from cnnjax.pattern import parse
    >>> print(*expand(parse("[CONV3-4 -> RELU]*2 -> [POOL2]*0 -> FC-10")))
    CONV3-4 RELU CONV3-4 RELU FC-10
    """
    if not isinstance(pattern, Pattern):
        raise TypeError(
            f"expand: pattern must be a Pattern, got {pattern!r}; parse(text) makes one"
        )
    names = unbound(pattern)
    if names:
        (_, source), *_ = _opened(pattern)
        arguments = ", ".join(f"{name}=..." for name in names)
        raise PatternError(
            f"expand: the pattern leaves open {', '.join(names)}; bind(pattern, {arguments})",
            source,
        )
    count = _count(pattern.items)
    if count > _MOST_LAYERS:
        raise PatternError(f"expand: {count:,} layers are more than {_MOST_LAYERS:,}")
    return tuple(_expand(pattern.items))


def _bind_passes(
    pattern: Pattern, scalars: Mapping[str, Any], queues: Mapping[str, list]
) -> tuple[Item, ...]:
    iterators = {name: iter(queue) for name, queue in queues.items()}
    num_passes = dict.fromkeys(queues, 0)
    bound: list[Item] = []
    for item, is_last in _with_last(pattern):
        names = {name for name, _ in _opened_in(item, is_last)} & queues.keys()
        if not names:
            bound += _bind(item, scalars, is_last)
            continue
        body: tuple[Item, ...] = (item,)
        times = 1
        if isinstance(item, Repeat):
            body, times = item.body, _times(item, scalars, sorted(names))
        passes = []
        for _ in range(times):
            values = dict(scalars)
            for name in names:
                num_passes[name] += 1
                values[name] = next(iterators[name], None)
            if None not in values.values():
                parts = (_bind(part, values, is_last) for part in body)
                passes.append(tuple(itertools.chain.from_iterable(parts)))
        for one, alike in itertools.groupby(passes):
            number = len(list(alike))
            bound += [Repeat(one, number, source=item.source)] if one and number > 1 else one
    for name, queue in queues.items():
        if len(queue) != num_passes[name]:
            raise ValueError(
                f"bind: {name} has {len(queue)} values for {num_passes[name]} passes; give one "
                "value for all, or one for each pass through an outermost repetition (or an item "
                "outside of any) that leaves it open"
            )
    return tuple(bound)


def _times(item: Repeat, scalars: Mapping[str, Any], names: Sequence[str]) -> int:
    """How many passes an outermost repetition has."""
    times = item.times if isinstance(item.times, int) else scalars.get(item.times)
    if times is None:
        raise PatternError(
            f"bind: {', '.join(names)} with a value for each pass needs the number of passes: "
            f"give {item.times} one integer",
            item.source,
        )
    if times > _MOST_LAYERS:
        raise PatternError(f"bind: {times:,} passes are more than {_MOST_LAYERS:,}", item.source)
    return int(times)


def _bind(item: Item, values: Mapping[str, Any], is_last: bool = False) -> tuple[Item, ...]:
    """What becomes of an item: itself, its parts, or nothing."""
    if isinstance(item, Layer):
        return (_bind_layer(item, values, is_last),)
    body = tuple(itertools.chain.from_iterable(_bind(part, values) for part in item.body))
    if isinstance(item, OptionalLayers):
        if item.word in values:
            return body if values[item.word] else ()
        return (dataclasses.replace(item, body=body),) if body else ()
    times = values.get(item.times, item.times) if isinstance(item.times, str) else item.times
    return (dataclasses.replace(item, body=body, times=times),) if body else ()


def _bind_layer(layer: Layer, values: Mapping[str, Any], is_last: bool) -> Layer:
    changes = {
        setting: values[name] for setting, name in _open_settings(layer, is_last) if name in values
    }
    if not changes:
        return layer
    try:
        return dataclasses.replace(layer, **changes)
    except PatternError:
        raise
    except ValueError as error:
        raise PatternError(f"bind: {error}", layer.source) from None


def _with_last(pattern: Pattern) -> Iterator[tuple[Item, bool]]:
    """The outermost items, and whether each is an FC that gives the scores."""
    for number, item in enumerate(pattern.items, 1):
        yield item, number == len(pattern.items) and isinstance(item, specs.Dense)


def _opened(pattern: Pattern) -> Iterator[tuple[str, Source | None]]:
    for item, is_last in _with_last(pattern):
        yield from _opened_in(item, is_last)


def _opened_in(item: Item, is_last: bool = False) -> Iterator[tuple[str, Source | None]]:
    """The open names of an item, and where they stand."""
    if isinstance(item, Layer):
        for _, name in _open_settings(item, is_last):
            yield name, item.source
        return
    if isinstance(item, OptionalLayers):
        yield item.word, item.source
    elif isinstance(item.times, str):
        yield item.times, item.source
    for part in item.body:
        yield from _opened_in(part)


def _open_settings(layer: Layer, is_last: bool) -> Iterator[tuple[str, str]]:
    """The settings that a bare word leaves open, and their names."""
    for setting, name in _OPEN.get(type(layer), ()):
        if getattr(layer, setting) is None:
            yield setting, "num_classes" if is_last and name == "features" else name


def _is_sequence(name: str, value: Any) -> bool:
    """Whether a value is one a pass; a shape or a window is a sequence for another reason."""
    per_pass = name in _SEQUENCES or not _is_argument(name)
    return per_pass and isinstance(value, Sequence) and not isinstance(value, str)


def _is_argument(name: str) -> bool:
    return name == "num_classes" or any(
        name == argument for settings in _OPEN.values() for _, argument in settings
    )


def _checked(name: str, value: Any) -> Any:
    """The value of a symbol or a decision; those of layers are checked by the layers."""
    if name in ("filters", "features", "num_classes"):
        return _rules.integer(1).apply("bind", name, value)
    if _is_argument(name):
        return value
    if name[0].isupper():
        return _rules.integer(0).apply("bind", name, value)
    return _rules.flag().apply("bind", name, value)


def _count(items: tuple[Item, ...]) -> int:
    return sum(
        1 if isinstance(item, Layer) else int(getattr(item, "times", 1)) * _count(item.body)
        for item in items
    )


def _expand(items: tuple[Item, ...]) -> Iterator[Layer]:
    for item in items:
        if isinstance(item, Layer):
            yield item
        elif isinstance(item, Repeat):
            for _ in range(int(item.times)):
                yield from _expand(item.body)
