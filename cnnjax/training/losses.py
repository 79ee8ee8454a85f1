"""What training minimises: the cross-entropy of scores, of one head or of several."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from cnnjax.models import AuxiliaryScores

__all__ = ["AUXILIARY_WEIGHT", "cross_entropy", "smoothed_targets"]

AUXILIARY_WEIGHT = 0.3


def smoothed_targets(
    labels: jax.Array, num_classes: int, label_smoothing: float = 0.0
) -> jax.Array:
    """Class probabilities that a network is to give, most of it to the label.

    q[k] = (1 - e) [k = label] + e / K for K classes and a smoothing of e.

    Args:
      labels: integers from 0 to num_classes - 1, (*batch,); or probabilities of the classes,
        (*batch, num_classes), as mixing makes them, which are smoothed likewise.
      num_classes: K.
      label_smoothing: e, from 0 to below 1.

    Returns:
      float32, (*batch, num_classes); each example's sum to 1 (for probabilities: as before).

    Raises:
      ValueError: a smoothing outside [0, 1), or probabilities of another number of classes.

    >>> print(smoothed_targets(jnp.array([2]), 4, 0.5))
    [[0.125 0.125 0.625 0.125]]

    Source: Szegedy et al., "Rethinking the Inception architecture", 2015, section 7 (e = 0.1).
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"smoothed_targets: label_smoothing must be in [0, 1), got {label_smoothing}"
        )
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, num_classes, dtype=jnp.float32)
    elif labels.ndim < 1 or labels.shape[-1] != num_classes:
        raise ValueError(
            f"smoothed_targets: probabilities must be of {num_classes} classes, got shape "
            f"{labels.shape}"
        )
    return (1 - label_smoothing) * labels + label_smoothing / num_classes


def cross_entropy(outputs: Any, targets: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    """Cross-entropy of each example, in nats, summed over the heads or members of a network.

    -sum over classes of q log softmax(scores), q the (smoothed) targets. `AuxiliaryScores` count
    the end's loss and 0.3 times each auxiliary one's; of a tuple or list, the members of an
    ensemble, the losses are summed, so that each member gets the gradient that it gets alone.

    Args:
      outputs: scores (*batch, num_classes), `AuxiliaryScores`, or a tuple or list of scores.
      targets: integer labels (*batch,), or probabilities (*batch, num_classes).
      label_smoothing: share of the probability that is spread over all classes, in [0, 1).

    Returns:
      Losses, (*batch,).

    Raises:
      ValueError: a smoothing outside [0, 1), no scores at all, or targets of other shapes.

    >>> scores = jnp.log(jnp.array([[0.25, 0.75]]))
    >>> round(float(cross_entropy(scores, jnp.array([0]))[0]), 4)
    1.3863
    >>> round(float(cross_entropy((scores, scores), jnp.array([0]))[0]), 4)
    2.7726

    Source: Szegedy et al., "Going deeper with convolutions", 2014, section 5, for the weight 0.3.
    """
    if isinstance(outputs, AuxiliaryScores):
        end = cross_entropy(outputs.scores, targets, label_smoothing=label_smoothing)
        others = cross_entropy(outputs.auxiliary, targets, label_smoothing=label_smoothing)
        return end + AUXILIARY_WEIGHT * others
    if isinstance(outputs, tuple | list):
        if not outputs:
            raise ValueError("cross_entropy: outputs must hold at least one array of scores")
        losses = [cross_entropy(one, targets, label_smoothing=label_smoothing) for one in outputs]
        return sum(losses[1:], losses[0])
    soft = jnp.issubdtype(targets.dtype, jnp.floating)
    if targets.shape != (outputs.shape if soft else outputs.shape[:-1]):
        raise ValueError(
            "cross_entropy: targets must be integers, one for each example, or probabilities of "
            f"the shape of the scores {outputs.shape}, got {targets.dtype} of {targets.shape}"
        )
    if not soft and not label_smoothing:
        return optax.softmax_cross_entropy_with_integer_labels(outputs, targets)
    smoothed = smoothed_targets(targets, outputs.shape[-1], label_smoothing)
    return optax.softmax_cross_entropy(outputs, smoothed)
