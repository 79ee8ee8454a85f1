"""Names as users type them, with the nearest known one in an error, and as they read them."""

import difflib
from collections.abc import Collection

__all__ = ["check_name", "column_title", "nearest"]

# Words of an account's column names that are not simply words.
_WORDS = {"macs": "MACs", "flops": "FLOPs"}


def nearest(name: str, known: Collection[str]) -> str | None:
    """The known name that looks most like `name`, or None when none does.

    >>> nearest("stack_vs_big_kernel", ["stack_vs_large_kernel", "pooling_kind"])
    'stack_vs_large_kernel'
    """
    lower = {candidate.lower(): candidate for candidate in known}
    matches = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.4)
    return lower[matches[0]] if matches else None


def check_name(what: str, name: str, known: Collection[str]) -> None:
    """Raise for a name that is not known, saying which known one is nearest.

    Raises:
      ValueError: `name` is not in `known`.

    >>> check_name("recipe", "cosin", ("cosine", "alexnet"))
    Traceback (most recent call last):
    ValueError: unknown recipe 'cosin'; did you mean 'cosine'? Known: alexnet, cosine
    """
    if name in known:
        return
    match = nearest(name, known)
    hint = f"; did you mean {match!r}?" if match else "."
    raise ValueError(f"unknown {what} {name!r}{hint} Known: {', '.join(sorted(known))}")


def column_title(column: str) -> str:
    """How a column of an account is called in tables.

    >>> column_title("receptive_field"), column_title("macs")
    ('receptive field', 'MACs')
    """
    return " ".join(_WORDS.get(word, word) for word in column.split("_"))
