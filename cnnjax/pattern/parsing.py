"""From text to a pattern: a reader that goes over the characters once, and points at the wrong one.

pattern := item ("->" item)*
item    := layer mark? | "[" pattern "]" mark?
mark    := "*" times | "?"
times   := an integer of at least 0 | a symbol in upper case
layer   := word settings ("[" option "=" value ("," option "=" value)* "]")?
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from cnnjax.pattern import specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern.binding import bind
from cnnjax.pattern.errors import PatternError, Source
from cnnjax.pattern.tree import SYMBOL, Item, OptionalLayers, Pattern, Repeat

__all__ = ["parse"]

# Word: class, the settings that the word itself makes, and the form of what is glued to it.
_WORDS: Mapping[str, tuple[type[Layer], Mapping[str, Any], str]] = {
    "INPUT": (specs.Input, {}, ""),
    "CONV": (specs.Conv, {}, "CONV3-64, a window and filters"),
    "RELU": (specs.Activation, {"function": "relu"}, ""),
    "LEAKYRELU": (specs.Activation, {"function": "leakyrelu"}, "LEAKYRELU0.1, a slope"),
    "TANH": (specs.Activation, {"function": "tanh"}, ""),
    "SIGMOID": (specs.Activation, {"function": "sigmoid"}, ""),
    "POOL": (specs.Pool, {"kind": "max"}, "POOL2 or POOL3/2, a window and its stride"),
    "MAXPOOL": (specs.Pool, {"kind": "max"}, "MAXPOOL2 or MAXPOOL3/2, a window and its stride"),
    "AVGPOOL": (specs.Pool, {"kind": "avg"}, "AVGPOOL2 or AVGPOOL3/2, a window and its stride"),
    "L2POOL": (specs.Pool, {"kind": "l2"}, "L2POOL2 or L2POOL3/2, a window and its stride"),
    "BLURPOOL": (specs.Pool, {"kind": "blur"}, "BLURPOOL3/2, a window and its stride"),
    "FRACPOOL": (specs.FractionalPool, {}, ""),
    "LRN": (specs.LocalResponseNorm, {}, ""),
    "BN": (specs.BatchNorm, {}, ""),
    "DROPOUT": (specs.Dropout, {}, "DROPOUT0.5, a rate"),
    "GAP": (specs.GlobalAveragePool, {}, ""),
    "FC": (specs.Dense, {}, "FC-4096, a number of outputs"),
}
_SPACE = re.compile(r"\s*")
_ARROW = re.compile(r"->|→")
_WORD = re.compile(r"L2POOL|[A-Za-z_]+", re.IGNORECASE)
_GLUED = re.compile(r"[A-Za-z0-9_]+")
_DIGITS = re.compile(r"[0-9]+")
_NUMBER = re.compile(r"-?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_BY = re.compile(r"[x×]")
# Deeper brackets than anybody writes would end in Python's own recursion error.
_DEEPEST = 50
_MOST_DIGITS = 15


def parse(
    text: str,
    *,
    input_shape: Sequence[int] | None = None,
    window: int | Sequence[int] | None = None,
    filters: int | Sequence[int] | None = None,
    pool_window: int | Sequence[int] | None = None,
    features: int | Sequence[int] | None = None,
    num_classes: int | None = None,
    **bindings: int | bool | Sequence[int] | Sequence[bool],
) -> Pattern:
    """Read a layer pattern; `to_text` writes it back.

    Names of layers may be in lower case, "→" stands for "->" and "×" for "x", a group may be
    repeated by "*2", "x2" or "×2", and there may be space between items and in brackets.

    Args:
      text: the pattern.
      input_shape: as in `bind`, like all that follow; without any of them the pattern keeps its
        symbols, optional layers and bare words.
      window: taps of a CONV that states none.
      filters: filters of a CONV that states none.
      pool_window: window of a POOL, AVGPOOL, L2POOL or BLURPOOL that states none.
      features: outputs of an FC that states none.
      num_classes: outputs of the last layer, where it is a bare FC.
      **bindings: counts for symbols, decisions for optional layers.

    Returns:
      The pattern; its parts remember their place in the text.

    Raises:
      PatternError: text that is no pattern; it shows the text and a caret under the character.
      TypeError: text that is no string; for the rest see `bind`.

    >>> net = parse("INPUT[32x32x3] -> [[CONV3-64 -> RELU]*2 -> POOL2]*3 -> FC-10")
    >>> net.items[0]
    Input(shape=(32, 32, 3))
    >>> print(parse("INPUT -> [[CONV -> RELU]*N -> POOL?]*M -> [FC -> RELU]*K -> FC", N=2, M=3))
    INPUT -> [[CONV -> RELU]*2 -> POOL?]*3 -> [FC -> RELU]*K -> FC

    Source: CS231n course notes, "Convolutional Networks", layer patterns.
    """
    if not isinstance(text, str):
        raise TypeError(f"parse: text must be a string, got {text!r}")
    reader = _Reader(text)
    pattern = Pattern(reader.items(0, 0))
    return bind(
        pattern,
        input_shape=input_shape,
        window=window,
        filters=filters,
        pool_window=pool_window,
        features=features,
        num_classes=num_classes,
        **bindings,
    )


class _Reader:
    """Reads one text from left to right; `at` is the next character."""

    def __init__(self, text: str):
        self.text = text
        self.at = 0

    def items(self, depth: int, opening: int) -> tuple[Item, ...]:
        """Items up to the bracket that closes this depth, or to the end of the text."""
        read = list(self.item(depth))
        while True:
            self.space()
            if self.take(_ARROW):
                read += self.item(depth)
            elif self.take("]") if depth else self.at == len(self.text):
                return tuple(read)
            else:
                ending = f'"]" for the "[" at character {opening}' if depth else "the end"
                self.expected(f'"->" or {ending}')

    def item(self, depth: int) -> tuple[Item, ...]:
        """One item; several where a group has no mark, since then it means nothing."""
        self.space()
        start = self.at
        group = bool(self.take("["))
        body: tuple[Item, ...]
        if group:
            if depth == _DEEPEST:
                self.fail(f"brackets deeper than {_DEEPEST}", start)
            body = self.items(depth + 1, start)
        else:
            body = (self.layer(),)
        end = self.at
        self.space()
        if self.take("*") or (group and self.take(re.compile(r"×|[xX](?=\s*[0-9])"))):
            self.space()
            times = self.times()
            marked: Item = Repeat(body, times, source=Source(self.text, start, self.at))
        elif self.take("?"):
            marked = OptionalLayers(body, source=Source(self.text, start, self.at))
        else:
            self.at = end
            return body
        end = self.at
        self.space()
        if self.peek() in ("*", "?"):
            inner = self.text[start:end]
            self.fail(f'a second mark; put brackets around the first: "[{inner}]{self.peek()}"')
        self.at = end
        return (marked,)

    def times(self) -> int | str:
        """A count or a symbol."""
        if self.peek().isdigit():
            return self.integer("a count")
        match = self.take(SYMBOL)
        if not match:
            self.expected("an integer of at least 0 or a symbol in upper case, as N")
        return match.group()

    def layer(self) -> Layer:
        """A layer with all its settings."""
        start = self.at
        match = self.take(_WORD)
        if not match:
            self.expected('a layer or "["')
        word = match.group().upper()
        if word not in _WORDS:
            glued = _GLUED.match(self.text, start)
            self.unknown(word, glued.group().upper() if glued else word, start)
        kind, made, form = _WORDS[word]
        settings = dict(made)
        self.glued(word, kind, settings, form)
        bracket = self.at
        self.space()
        if self.take("["):
            if kind is specs.Input:
                self.shape(settings)
            else:
                self.options(word, kind, settings, bracket)
        else:
            self.at = bracket
        return kind(**settings, source=Source(self.text, start, self.at))

    def glued(self, word: str, kind: type[Layer], settings: dict[str, Any], form: str) -> None:
        """The settings that follow a word without space: CONV3x5-64, POOL3/2, FC-10, DROPOUT0.5."""
        if kind in (specs.Conv, specs.Pool) and self.peek().isdigit():
            self.setting(kind, settings, "window", self.dimensions)
        if kind is specs.Pool and self.take("/"):
            self.setting(kind, settings, "stride", self.dimensions)
        if kind in (specs.Conv, specs.Dense) and self.take(re.compile(r"-(?!>)")):
            name = "filters" if kind is specs.Conv else "features"
            self.setting(kind, settings, name, lambda: self.integer(f"a number of {name}"))
        takes_number = kind is specs.Dropout or word == "LEAKYRELU"
        if takes_number and (self.peek().isdigit() or self.peek() == "."):
            name = "rate" if kind is specs.Dropout else "slope"
            self.setting(kind, settings, name, self.number)
        if re.match(r"[\w./]|-(?!>)", self.text[self.at :]):
            self.expected(f"{word} alone" if not form else f"what {word} takes, as in {form}")

    def shape(self, settings: dict[str, Any]) -> None:
        """What stands between the brackets of INPUT, and the closing one."""
        self.space()
        if not self.peek().isdigit():
            self.expected("the sizes of an image and its channels, as in INPUT[224x224x3]")
        self.setting(specs.Input, settings, "shape", lambda: self.dimensions(several=True))
        self.space()
        if not self.take("]"):
            self.expected('"x" and a size, or "]", as in INPUT[224x224x3]')

    def options(self, word: str, kind: type[Layer], settings: dict[str, Any], bracket: int) -> None:
        """What stands between the brackets of other layers, and the closing one."""
        group = 'put "->" before the "[" of a group'
        if not kind.options:
            self.fail(f"{word} takes no options; {group}", bracket)
        known = ", ".join(kind.options)
        stated: set[str] = set()
        while True:
            self.space()
            start = self.at
            match = self.take(_GLUED)
            if not match:
                self.expected(f"an option of {word} ({known})")
            name = match.group()
            if name not in kind.options:
                near = difflib.get_close_matches(name.lower(), kind.options, 1)
                hint = f"did you mean {near[0]}?" if near else f"it takes {known}; or {group}"
                self.fail(f"{word} has no option {name}; {hint}", start)
            if name in stated:
                self.fail(f"{word} states {name} twice", start)
            stated.add(name)
            self.space()
            if not self.take("="):
                self.expected(f'"=" and a value for {name}')
            self.space()
            self.setting(kind, settings, name, lambda: self.value(0))
            self.space()
            if self.take("]"):
                return
            if not self.take(","):
                self.expected('"," or "]"')

    def setting(self, kind: type[Layer], settings: dict[str, Any], name: str, read: Any) -> None:
        """Read a value and check it where it stands."""
        start = self.at
        value = read()
        rule = kind.rules[name]
        if isinstance(value, str):
            value = next((n for n in rule.names if n.lower() == value.lower()), value)
        try:
            settings[name] = rule.apply(kind.__name__, name, value)
        except (TypeError, ValueError) as error:
            raise PatternError(f"parse: {error}", Source(self.text, start, self.at)) from None

    def value(self, depth: int) -> Any:
        """A number, numbers by "x", a name, true, false, or values in parentheses."""
        if self.take("("):
            if depth == 2:
                self.fail("parentheses deeper than pairs an axis", self.at - 1)
            values = []
            while True:
                self.space()
                values.append(self.value(depth + 1))
                self.space()
                if self.take(")"):
                    return tuple(values)
                if not self.take(","):
                    self.expected('"," or ")"')
        if self.peek().isdigit() or self.peek() in ("-", "."):
            values = [self.number()]
            while self.take(_BY):
                values.append(self.number())
            return values[0] if len(values) == 1 else tuple(values)
        match = self.take(_GLUED)
        if not match:
            self.expected('a number, a name or "("')
        return {"true": True, "false": False}.get(match.group().lower(), match.group())

    def dimensions(self, several: bool = False) -> int | tuple[int, ...]:
        """3, or 3x5."""
        values = [self.integer("an integer")]
        while True:
            here = self.at
            if several:
                self.space()
            if not self.take(_BY):
                self.at = here
                return values[0] if len(values) == 1 and not several else tuple(values)
            if several:
                self.space()
            values.append(self.integer('an integer after "x"'))

    def integer(self, what: str) -> int:
        """Digits."""
        match = self.take(_DIGITS)
        if not match:
            self.expected(what)
        if len(match.group()) > _MOST_DIGITS:
            self.fail(f"a number of more than {_MOST_DIGITS} digits", match.start())
        return int(match.group())

    def number(self) -> int | float:
        """An integer or a decimal fraction."""
        match = self.take(_NUMBER)
        if not match:
            self.expected("a number")
        text = match.group()
        if _DIGITS.fullmatch(text.removeprefix("-")) and len(text) <= _MOST_DIGITS:
            return int(text)
        return float(text)

    def space(self) -> None:
        self.take(_SPACE)

    def peek(self) -> str:
        character = self.text[self.at : self.at + 1]
        return character if character.isascii() else ""

    def take(self, what: "str | re.Pattern[str]") -> "re.Match[str] | None":
        """Go past what stands here; None, without a step, where it does not."""
        pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
        match = pattern.match(self.text, self.at)
        if match:
            self.at = match.end()
        return match

    def expected(self, what: str) -> NoReturn:
        rest = self.text[self.at :]
        word = _GLUED.match(rest)
        came = f'"{word.group() if word else rest[0]}"' if rest else "the end of the text"
        self.fail(f"expected {what}, got {came}")

    def unknown(self, word: str, glued: str, start: int) -> NoReturn:
        near = difflib.get_close_matches(word, _WORDS, 1, 0.6) or [
            known for known in _WORDS if glued.startswith(known)
        ]
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(_WORDS)}"
        self.fail(f"no layer is called {word}; {hint}", start)

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        start = self.at if at is None else at
        raise PatternError(f"parse: {message}", Source(self.text, start, start + 1))
