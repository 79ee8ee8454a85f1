"""Names a user may mistype, and the error that says which one was meant."""

import difflib
from collections.abc import Collection

__all__ = ["check_name", "nearest"]


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
