"""How reports put numbers and sentences."""

from collections.abc import Sequence

from cnnjax import stats

__all__ = ["CONFIDENCE", "capitalized", "one_line", "p_value", "percent", "points", "upper_first"]

CONFIDENCE = 0.95


def points(*fractions: float) -> list[str]:
    """Signed percentage points, with digits enough that none but 0 is printed as 0.

    >>> points(0.0066, -0.0002), points(0.00001, 0.0)
    (['+0.66', '-0.02'], ['+0.001', '+0.000'])
    """
    for digits in (2, 3, 4):
        if all(value == 0 or round(100 * value, digits) != 0 for value in fractions):
            break
    # Adding 0.0 makes a negative zero positive.
    return [f"{round(100 * value, digits) + 0.0:+.{digits}f}" for value in fractions]


def percent(values: Sequence[float]) -> tuple[str, str]:
    """The mean of fractions in percent, and Student's interval; "–" for what there is not.

    >>> percent([0.5, 0.75]), percent([0.5]), percent([])
    (('62.50 %', '[-96.33, 221.33]'), ('50.00 %', '–'), ('–', '–'))
    """
    if not values:
        return "–", "–"
    interval = stats.mean_interval(values, CONFIDENCE)
    mean = f"{100 * interval.mean:.2f} %"
    if interval.n == 1:
        return mean, "–"
    return mean, f"[{100 * interval.low:.2f}, {100 * interval.high:.2f}]"


def p_value(p: float) -> str:
    """A p value to three decimals.

    >>> p_value(0.0496), p_value(1e-9)
    ('0.050', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def one_line(text: str) -> str:
    """Text with its white space as single blanks."""
    return " ".join(text.split())


def capitalized(text: str) -> str:
    """Text as a sentence, with a capital letter and a full stop where it has none.

    >>> capitalized("three 3x3 beat one 7x7"), capitalized("Why?")
    ('Three 3x3 beat one 7x7.', 'Why?')
    """
    text = upper_first(text)
    return text if text.endswith((".", "?", "!")) else f"{text}."


def upper_first(text: str) -> str:
    """Text with a capital letter."""
    return text[:1].upper() + text[1:]
