"""Predictions that several networks come to together."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp

from cnnjax.training._trees import check_all_alike

__all__ = ["HOW", "average_predictions", "ensemble", "stack_variables"]

HOW = ("probabilities", "log_probabilities", "votes")


def average_predictions(
    scores: jax.Array,
    *,
    how: Literal["probabilities", "log_probabilities", "votes"] = "probabilities",
) -> jax.Array:
    """Class probabilities that several networks come to together.

    Args:
      scores: unnormalised log-probabilities, (num_networks, *batch, num_classes).
      how: "probabilities" is the arithmetic mean of the networks' softmax; "log_probabilities" the
        geometric mean, normalised, which is also the softmax of the mean scores and lets one
        network veto a class; "votes" the fraction of networks whose highest score is the class
        (the first of equals).

    Returns:
      Probabilities, (*batch, num_classes), in float32 or wider; they sum to 1.

    Raises:
      ValueError: scores without an axis of networks, or an unknown `how`.

    >>> scores = jnp.log(jnp.array([[0.5, 0.5], [0.1, 0.9]]))
    >>> [round(float(p), 3) for p in average_predictions(scores)]
    [0.3, 0.7]
    >>> [round(float(p), 3) for p in average_predictions(scores, how="log_probabilities")]
    [0.25, 0.75]
    >>> average_predictions(scores, how="votes").tolist()
    [0.5, 0.5]

    Source: Krizhevsky et al., 2012, average the predictions of seven networks (18.2 to 15.4 %
    top-5 error); Hinton, "Products of Experts", 2002, for the geometric mean.
    """
    scores = jnp.asarray(scores)
    if how not in HOW:
        raise ValueError(f"average_predictions: how must be one of {HOW}, got {how!r}")
    if scores.ndim < 2 or not scores.shape[0] or not scores.shape[-1]:
        raise ValueError(
            "average_predictions: scores must be (num_networks, *batch, num_classes), at least one "
            f"of each, got shape {scores.shape}; stack the networks' scores with jnp.stack"
        )
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    if how == "votes":
        num_classes = scores.shape[-1]
        choices = jnp.argmax(scores, axis=-1)
        return jnp.mean(jax.nn.one_hot(choices, num_classes, dtype=scores.dtype), axis=0)
    if how == "probabilities":
        return jnp.mean(jax.nn.softmax(scores, axis=-1), axis=0)
    # Each network's scores are normalised first: large ones that differ by a constant would
    # otherwise round the small ones away.
    return jax.nn.softmax(jnp.mean(jax.nn.log_softmax(scores, axis=-1), axis=0), axis=-1)


def ensemble(
    apply: Callable[[Any, Any], jax.Array],
    variables: Sequence[Any],
    x: Any,
    *,
    how: Literal["probabilities", "log_probabilities", "votes"] = "probabilities",
    vmap: bool = False,
) -> jax.Array:
    """Class probabilities of one architecture with several sets of variables.

    Args:
      apply: (variables, x) to scores (*batch, num_classes), such as `module.apply`.
      variables: one tree a network; of other architectures, call `average_predictions` yourself.
      x: input of `apply`.
      how: as in `average_predictions`.
      vmap: stack the variables and map over them, for devices that gain by it. On a CPU that makes
        each convolution a grouped one, and networks one after another are faster.

    Returns:
      Probabilities, (*batch, num_classes).

    Raises:
      ValueError: no variables, trees that differ in structure or shapes, or an unknown `how`.

    >>> def apply(kernel, x):
    ...     return x @ kernel
    >>> kernels = [jnp.eye(2), jnp.eye(2)[::-1]]
    >>> ensemble(apply, kernels, jnp.array([[3.0, -4.0]])).tolist()
    [[0.5, 0.5]]
    """
    variables = list(variables)
    check_all_alike("ensemble", variables)
    if how not in HOW:
        raise ValueError(f"ensemble: how must be one of {HOW}, got {how!r}")
    if vmap:
        scores = jax.vmap(apply, in_axes=(0, None))(stack_variables(variables), x)
    else:
        scores = jnp.stack([apply(one, x) for one in variables])
    return average_predictions(scores, how=how)


def stack_variables(variables: Sequence[Any]) -> Any:
    """Trees of one structure as one tree with a leading axis, for `jax.vmap` and `lax.map`.

    Args:
      variables: one tree a network, at least one.

    Returns:
      The tree, each leaf of shape (num_networks, *shape of the leaf).

    Raises:
      ValueError: no trees, or trees that differ in structure or shapes; the message names the
        first leaf that does.

    >>> stack_variables([{"bias": jnp.zeros(3)}, {"bias": jnp.ones(3)}])["bias"].shape
    (2, 3)
    >>> stack_variables([{"bias": jnp.zeros(3)}, {"bias": jnp.ones(4)}])
    Traceback (most recent call last):
    ValueError: stack_variables: leaf ['bias'] has shape (4,) where (3,) was expected; ...
    """
    variables = list(variables)
    check_all_alike("stack_variables", variables)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *variables)
