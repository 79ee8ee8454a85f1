"""Names and flags as users type them, the nearest known one in an error, and as they read them."""

import difflib
import hashlib
import json
from collections.abc import Collection
from typing import Any

__all__ = ["as_flag", "check_name", "column_title", "nearest", "operation_title", "short_digest"]

# Words of an account's column names that are not simply words.
_WORDS = {"macs": "MACs", "flops": "FLOPs"}
# Of an account's operations, where drawings have little room.
_SHORT = {
    "convolution": "conv",
    "transposed_convolution": "transposed conv",
    "locally_connected": "local conv",
    "normalization": "norm",
    "concatenate": "concat",
}


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


def as_flag(name: str, value: Any) -> str:
    """A flag as a command line or a flagfile has it.

    >>> as_flag("seeds", 5), as_flag("flip", True), as_flag("flip", False)
    ('--seeds=5', '--flip', '--noflip')
    """
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no{name}"
    return f"--{name}={value}"


def short_digest(value: Any) -> str:
    """Eight hexadecimal digits that tell values apart which JSON can carry.

    >>> short_digest({"a": 1, "b": 2}) == short_digest({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def column_title(column: str) -> str:
    """How a column of an account is called in tables.

    >>> column_title("receptive_field"), column_title("macs")
    ('receptive field', 'MACs')
    """
    return " ".join(_WORDS.get(word, word) for word in column.split("_"))


def operation_title(operation: str) -> str:
    """How an operation of an account is called in drawings.

    >>> operation_title("convolution"), operation_title("max_pool")
    ('conv', 'max pool')
    """
    return _SHORT.get(operation, operation.replace("_", " "))
