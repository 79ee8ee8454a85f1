"""Augmentation that mixes the images of a batch, and their targets with them."""

import jax
import jax.numpy as jnp

from cnnjax.data._batches import check_batch

__all__ = ["mixup"]

_GRID = 4096


def mixup(
    key: jax.Array, images: jax.Array, targets: jax.Array, *, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and target with those of another image of the batch.

    l x_i + (1 - l) x_p(i), and the targets likewise: one l ~ Beta(alpha, alpha) for the batch, in
    whole 1/4096, and p a random permutation. Bytes are mixed in integers and rounded to bytes, the
    same bits under `jit` and eager; floating images to rounding.

    Args:
      key: a key; l and p are drawn from the two that it splits into.
      images: (N, H, W, C), uint8 or floating.
      targets: probabilities of the classes, floating, (N, num_classes), as
        `jax.nn.one_hot(labels, num_classes)` gives them.
      alpha: of the Beta distribution, above 0; 1 is uniform, small ones mix little.

    Returns:
      Images and targets of the shapes and dtypes that came.

    Raises:
      TypeError: images that are neither uint8 nor floating, or targets that are not floating.
      ValueError: `images` is no batch, targets are not one row an image, or alpha is not above 0.

    >>> images = jnp.array([0, 200], jnp.uint8).reshape(2, 1, 1, 1)
    >>> mixed, targets = mixup(jax.random.key(4), images, jnp.eye(2), alpha=1.0)
    >>> mixed.ravel().tolist(), (4096 * targets).tolist()
    ([73, 127], [[2591.0, 1505.0], [1505.0, 2591.0]])

    Source: Zhang, Cisse, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", 2018.
    """
    check_batch("mixup", images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"mixup: images must be uint8 or floating, got {images.dtype}")
    if not jnp.issubdtype(targets.dtype, jnp.floating):
        raise TypeError(
            f"mixup: targets must be probabilities, floating, got {targets.dtype}; write "
            "jax.nn.one_hot(labels, num_classes)"
        )
    if targets.ndim != 2 or len(targets) != len(images):
        raise ValueError(
            f"mixup: targets must be (N, num_classes), one row for each of the {len(images)} "
            f"images, got shape {targets.shape}"
        )
    if not alpha > 0:
        raise ValueError(f"mixup: alpha must be above 0, got {alpha}")
    share_key, order_key = jax.random.split(key)
    share = jnp.round(_GRID * jax.random.beta(share_key, alpha, alpha)).astype(jnp.int32)
    others = jax.random.permutation(order_key, len(images))

    def mixed(values: jax.Array) -> jax.Array:
        part = (share / _GRID).astype(values.dtype)
        return part * values + (1 - part) * values[others]

    if images.dtype == jnp.uint8:
        x = images.astype(jnp.int32)
        whole = (share * x + (_GRID - share) * x[others] + _GRID // 2) // _GRID
        return whole.astype(jnp.uint8), mixed(targets)
    return mixed(images), mixed(targets)
