"""What is asked of trees of variables that a caller gives."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def is_averaged(leaf: Any) -> bool:
    """Whether a leaf holds numbers that have a mean; counts and keys have none."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def check_alike(caller: str, tree: Any, reference: Any) -> None:
    """Raise unless a tree has the paths, shapes and kinds of leaves of another."""
    found, expected = _leaves(tree), _leaves(reference)
    odd = sorted(found.keys() ^ expected.keys())
    if odd:
        what = "missing" if odd[0] in expected else "not expected"
        raise ValueError(
            f"{caller}: leaf {odd[0]} is {what} ({len(odd)} such); the trees of one average must "
            "come from the same network"
        )
    for path, leaf in found.items():
        other = expected[path]
        if jnp.shape(leaf) != jnp.shape(other):
            raise ValueError(
                f"{caller}: leaf {path} has shape {jnp.shape(leaf)} where {jnp.shape(other)} was "
                "expected; the trees of one average must come from the same network"
            )
        if is_averaged(leaf) != is_averaged(other):
            raise TypeError(
                f"{caller}: leaf {path} is {jnp.result_type(leaf)} where {jnp.result_type(other)} "
                "was expected; floating leaves are averaged, of others the last value stands"
            )
    here, there = str(jax.tree.structure(tree)), str(jax.tree.structure(reference))
    if here != there:
        raise ValueError(
            f"{caller}: the trees hold the same leaves in containers of other types, {here} where "
            f"{there} was expected"
        )


def check_all_alike(caller: str, trees: Sequence[Any]) -> None:
    """Raise unless there are trees, and all are like the first."""
    if not trees:
        raise ValueError(f"{caller}: variables must hold at least one tree, got none")
    for tree in trees[1:]:
        check_alike(caller, tree, trees[0])


def replaced(caller: str, drawn: Any, given: Any, path: tuple[str, ...] = ()) -> Any:
    """`drawn` with the leaves of `given`, a part of its tree, in their places."""
    where = "/".join(path)
    if isinstance(drawn, dict):
        if not isinstance(given, dict):
            raise ValueError(
                f"{caller}: given {where} must be a dictionary with some of "
                f"{', '.join(sorted(drawn))}, got {type(given).__name__}"
            )
        strangers = given.keys() - drawn.keys()
        if strangers:
            raise ValueError(
                f"{caller}: given {'/'.join((*path, min(strangers)))} is nothing that the network "
                f"has; there it has {', '.join(sorted(drawn))}"
            )
        return {
            name: replaced(caller, tree, given[name], (*path, name)) if name in given else tree
            for name, tree in drawn.items()
        }
    if jnp.shape(given) != drawn.shape:
        raise ValueError(
            f"{caller}: given {where} has shape {jnp.shape(given)} where the network has "
            f"{drawn.shape}, the first axis one entry a seed"
        )
    return jnp.asarray(given, drawn.dtype)


def _leaves(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
