"""Where a layer stands in its text, and the error that points there."""

from typing import NamedTuple

__all__ = ["PatternError", "Source"]

# A line longer than this is cut around the caret: a terminal that wraps it would move the caret.
_LONGEST_LINE = 96


class Source(NamedTuple):
    r"""A stretch of a pattern's text: the characters from `start` up to `end`, counted from 0.

    >>> Source("INPUT[8x8x3] -> RELU", 16, 20).show()
    '  INPUT[8x8x3] -> RELU\n                  ^'
    """

    text: str
    start: int
    end: int

    def show(self) -> str:
        """The line of the text that holds the first character, and a caret under it."""
        first = self.text.rfind("\n", 0, self.start) + 1
        last = self.text.find("\n", self.start)
        line = self.text[first : len(self.text) if last < 0 else last]
        column = self.start - first
        if len(line) > _LONGEST_LINE:
            left = max(0, min(column - _LONGEST_LINE // 2, len(line) - _LONGEST_LINE))
            right = left + _LONGEST_LINE
            before, after = "..." * (left > 0), "..." * (right < len(line))
            line = before + line[left:right] + after
            column += len(before) - left
        # A tab under a tab, so that the caret stands where the character does.
        indent = "".join("\t" if character == "\t" else " " for character in line[:column])
        return f"  {line}\n  {indent}^"


class PatternError(ValueError):
    """A pattern that cannot be read, bound, sized or built; the message shows where.

    Attributes:
      message: what was expected and what came, without the picture of the text.
      text: the pattern's text; None for a layer that was made without one.
      position: index into `text` of the character that the caret stands under; None likewise.

    >>> from cnnjax.pattern import parse
    >>> parse("INPUT[8x8x3] -> CONVV3-64")
    Traceback (most recent call last):
    cnnjax.pattern.errors.PatternError: parse: no layer is called CONVV; did you mean CONV?
      INPUT[8x8x3] -> CONVV3-64
                      ^
    """

    def __init__(self, message: str, source: Source | None = None):
        super().__init__(message if source is None else f"{message}\n{source.show()}")
        self.message = message
        self.text = None if source is None else source.text
        self.position = None if source is None else source.start
