"""Batch normalisation in two halves: the statistics of a batch, and the affine map they give."""

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.ops._dtypes import wide
from cnnjax.ops._layers import as_layer, layer_name
from cnnjax.ops._windows import check_floating

__all__ = ["batch_norm", "batch_statistics"]


def batch_statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of each channel over all other axes.

    mean[c] = sum over n of x[n, c] / N and variance[c] = sum over n of (x[n, c] - mean[c])^2 / N,
    where n runs over the N = batch x pixels values of channel c. The variance is the biased one
    that training divides by; running averages in PyTorch take N / (N - 1) of it. It is computed
    from differences, not as E[x^2] - mean^2, which cancels where the mean is large.

    Args:
      x: floating input of shape (*batch, *spatial, channels), at least one value a channel.

    Returns:
      (mean, variance), each of shape (channels,) and the dtype of `x`; 16-bit inputs are added up
      in float32.

    Raises:
      TypeError: integer input.
      ValueError: `x` without an axis beside the channels, or without values.

    >>> import jax.numpy as jnp
    >>> mean, variance = batch_statistics(jnp.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> mean.tolist(), variance.tolist()
    ([2.0, 5.0], [1.0, 0.0])

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithm 1.
    """
    function = "batch_statistics"
    check_floating(function, x=x)
    if x.ndim < 2 or not x.size:
        raise ValueError(
            f"{function}: x must be (*batch, *spatial, channels) with at least one value a "
            f"channel, got shape {x.shape}"
        )
    return as_layer(_statistics, layer_name(function))(x)


def batch_norm(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    epsilon: float = 1e-5,
) -> jax.Array:
    """Normalise each channel by a mean and a variance, then scale and shift it.

    y[..., c] = (x[..., c] - mean[c]) / sqrt(variance[c] + epsilon) * scale[c] + bias[c]

    With the statistics of the batch itself (`batch_statistics`) this is batch normalisation in
    training; with running averages, in evaluation.

    Args:
      x: floating input of shape (*axes, channels), any number of axes before the channels.
      mean: shape (channels,).
      variance: shape (channels,), not negative.
      scale: shape (channels,); ones by default.
      bias: shape (channels,); zeros by default.
      epsilon: what is added to the variance, above 0.

    Returns:
      Array of the shape and dtype of `x`; 16-bit inputs are computed in float32.

    Raises:
      TypeError: integer input.
      ValueError: a vector whose shape is not (channels,), or an epsilon that is not above 0.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[1.0, 5.0], [3.0, 5.0]])
    >>> batch_norm(x, *batch_statistics(x), epsilon=1e-12)
    Array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)

    Source: Ioffe and Szegedy, "Batch Normalization", 2015, algorithms 1 and 2.
    """
    function = "batch_norm"
    check_floating(function, x=x)
    if x.ndim < 1:
        raise ValueError(f"{function}: x needs an axis of channels, (*axes, channels), got ()")
    if not epsilon > 0:
        raise ValueError(f"{function}: epsilon must be above 0, got {epsilon}")
    vectors = {"mean": mean, "variance": variance, "scale": scale, "bias": bias}
    for name, vector in vectors.items():
        if vector is not None and vector.shape != x.shape[-1:]:
            raise ValueError(
                f"{function}: {name} must have shape {x.shape[-1:]}, the channels of x, got "
                f"{vector.shape}"
            )
    layer = as_layer(_normalize, layer_name(function), epsilon=float(epsilon))
    return layer(x, mean, variance, scale, bias)


def _statistics(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    widened = wide(x)
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(widened, axes)
    variance = jnp.mean(jnp.square(widened - jnp.expand_dims(mean, axes)), axes)
    return mean.astype(x.dtype), variance.astype(x.dtype)


def _normalize(
    x: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    scale: jax.Array | None,
    bias: jax.Array | None,
    *,
    epsilon: float,
) -> jax.Array:
    widened = wide(x)

    def widen(vector: jax.Array) -> jax.Array:
        return jnp.expand_dims(vector.astype(widened.dtype), tuple(range(x.ndim - 1)))

    factor = lax.rsqrt(widen(variance) + epsilon)
    if scale is not None:
        factor = factor * widen(scale)
    y = (widened - widen(mean)) * factor
    if bias is not None:
        y = y + widen(bias)
    return y.astype(x.dtype)
