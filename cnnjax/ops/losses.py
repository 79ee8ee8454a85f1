"""The losses of the field that neither JAX nor Optax has.

Most are there already: `jax.nn.relu`, `jax.nn.log_softmax`, and in Optax
`softmax_cross_entropy_with_integer_labels` (the softmax classifier), `hinge_loss` (two classes)
and `multiclass_hinge_loss` (the worst rival alone, Crammer and Singer's form).
"""

import math
import numbers

import jax
import jax.numpy as jnp

from cnnjax.ops._windows import check_floating

__all__ = ["multiclass_svm_loss"]


def multiclass_svm_loss(scores: jax.Array, labels: jax.Array, *, margin: float = 1.0) -> jax.Array:
    """Hinge loss of a multiclass support vector machine, summed over the wrong classes.

    L = sum over classes j other than the label y of max(0, scores[j] - scores[y] + margin).
    The gradient at the kink is zero, as that of `jax.nn.relu`.

    Args:
      scores: floating scores of shape (*batch, classes), any number of batch axes.
      labels: integer class of each example, shape (*batch,), from 0 to classes - 1. One outside
        gives NaN, since an array's values are unknown before it is run.
      margin: by how much the right class should lead, in units of the scores, at least 0.

    Returns:
      One loss an example, shape (*batch,) and the dtype of `scores`; mean over a batch:
      `multiclass_svm_loss(scores, labels).mean()`.

    Raises:
      TypeError: scores that are integers, labels that are not, or a margin that is no number.
      ValueError: shapes that do not go together, or a margin out of range.

    >>> import jax.numpy as jnp
    >>> multiclass_svm_loss(jnp.array([13.0, -7.0, 11.0]), jnp.array(0), margin=10.0)
    Array(8., dtype=float32)

    Sources: Weston and Watkins, "Support Vector Machines for Multi-Class Pattern Recognition",
    1999; the example is that of the CS231n course notes, "Linear classification".

    Siblings: `optax.losses.multiclass_hinge_loss` takes the largest rival instead of the sum
    over all (Crammer and Singer, 2001); PyTorch's `multi_margin_loss` divides this sum by the
    number of classes.
    """
    function = "multiclass_svm_loss"
    if scores.ndim < 1 or labels.shape != scores.shape[:-1]:
        raise ValueError(
            f"{function}: scores of shape (*batch, classes) need labels of shape (*batch,), got "
            f"scores {scores.shape} and labels {labels.shape}"
        )
    check_floating(function, scores=scores)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"{function}: labels must be integers, got dtype {labels.dtype}; from one-hot rows "
            "take labels.argmax(-1)"
        )
    number: object = margin
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise TypeError(f"{function}: margin must be a number, got {margin!r}")
    if not math.isfinite(margin) or margin < 0:
        raise ValueError(f"{function}: margin must be finite and at least 0, got {margin}")

    num_classes = scores.shape[-1]
    classes = jnp.arange(num_classes).reshape((1,) * labels.ndim + (-1,))
    right = classes == labels[..., None]
    # A choice by mask, not by index: no gather, whose gradient is a scatter, and a label outside
    # the classes chooses nothing.
    own = jnp.sum(jnp.where(right, scores, 0), -1, keepdims=True)
    known = (labels >= 0) & (labels < num_classes)
    hinges = jax.nn.relu(scores - own + jnp.asarray(margin, scores.dtype))
    return jnp.where(known, jnp.sum(jnp.where(right, 0, hinges), -1), jnp.nan)
