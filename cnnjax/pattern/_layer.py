"""What all layers of a pattern have in common."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cnnjax.pattern import _rules
from cnnjax.pattern.errors import PatternError, Source


@dataclass(frozen=True)
class Layer:
    """What all layers have: settings that are checked, a word, a text, a place in a text.

    Attributes:
      source: where the layer stood; no part of what it is, so equal layers may differ in it.
    """

    rules: ClassVar[Mapping[str, _rules.Rule]] = {}
    _word: ClassVar[str] = ""
    # The settings that stand in brackets behind the word; the others are part of it.
    options: ClassVar[tuple[str, ...]] = ()

    source: Source | None = field(default=None, compare=False, repr=False, kw_only=True)

    def __post_init__(self) -> None:
        for setting, rule in self.rules.items():
            value = getattr(self, setting)
            if value is None and self.default(setting) is None:
                continue
            value = rule.apply(type(self).__name__, setting, value)
            object.__setattr__(self, setting, value)
        self._check_together()

    def _check_together(self) -> None:
        """Refuse settings that are right one by one and wrong together."""

    @classmethod
    def default(cls, setting: str) -> Any:
        """The value of a setting that is not stated."""
        return {f.name: f.default for f in dataclasses.fields(cls)}[setting]

    @property
    def word(self) -> str:
        """The name of the layer in a pattern."""
        return self._word

    def _head(self) -> str:
        return self.word

    def __str__(self) -> str:
        stated = (
            f"{setting}={value_text(getattr(self, setting))}"
            for setting in self.options
            if getattr(self, setting) != self.default(setting)
        )
        options = ", ".join(stated)
        return self._head() + (f"[{options}]" if options else "")

    def fail(self, message: str) -> PatternError:
        """An error that names this layer and points at it."""
        return PatternError(f"{self}: {message}", self.source)


def value_text(value: Any) -> str:
    """A setting's value as it is written: 3x5 for (3, 5), pairs in parentheses.

    >>> value_text((3, 5)), value_text(((0, 1), (2, 2))), value_text(True), value_text(0.1)
    ('3x5', '((0, 1), (2, 2))', 'true', '0.1')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, tuple):
        return value if isinstance(value, str) else repr(value)
    if any(isinstance(entry, tuple) for entry in value):
        return "(" + ", ".join(f"({low}, {high})" for low, high in value) + ")"
    return "x".join(repr(entry) for entry in value)


def pairs(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """Two settings axis by axis, either of which may be one value for all axes.

    Settings of different numbers of axes are told apart later, where the input's are known.

    >>> pairs((3, 5), 1)
    [(3, 1), (5, 1)]
    """
    rank = max(len(value) if isinstance(value, tuple) else 1 for value in (one, other))
    one, other = (v if isinstance(v, Sequence) else (v,) * rank for v in (one, other))
    return list(zip(one, other, strict=False))
