"""Where randomness comes from while training: keys that are functions of a seed and a purpose."""

from typing import NamedTuple

import jax

__all__ = ["Draws", "stream"]

# Only ever appended to: a purpose's number is part of every run's bits.
_PURPOSES = ("initialisation", "order", "augmentation", "dropout", "fractional", "image")


class Draws(NamedTuple):
    """What the augmentation of one step may depend on, besides the images themselves.

    Attributes:
      key: of this step alone.
      image_key: the same in every step of a run, for what is drawn once an image; draw with
        `jax.random.fold_in(image_key, index)`.
      indices: int32, (N,), which images of the training set these are.
      epoch: int32, passes over the training set before this one.
    """

    key: jax.Array
    image_key: jax.Array
    indices: jax.Array
    epoch: jax.Array


def stream(seed: jax.Array | int, purpose: str) -> jax.Array:
    """Key of one purpose of one seed; streams of different purposes never meet.

    Args:
      seed: of the run.
      purpose: "initialisation", "order", "augmentation", "dropout", "fractional" or "image".

    Raises:
      ValueError: another purpose.

    >>> bool(jax.numpy.all(stream(3, "order") == stream(3, "order")))
    True
    """
    if purpose not in _PURPOSES:
        raise ValueError(f"stream: purpose must be one of {_PURPOSES}, got {purpose!r}")
    return jax.random.fold_in(jax.random.key(seed), _PURPOSES.index(purpose))
