"""The network of Jordan's airbench94: made to learn CIFAR-10 in few epochs.

A whitening of patches, then three groups of two 3x3 convolutions, each group halving the image by
max-pooling between its first convolution and that one's norm; the maximum over what is left; one
dense layer. What makes it learn fast is how it starts: the first layer is computed from the
training images rather than learnt, so that what it gives is uncorrelated, and every convolution
behind it starts as the identity as far as its channels go.

Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, section 3; it descends from Page,
"How to train your ResNet", 2018, and from hlb-CIFAR10 (Balsam, 2023), whose groups had 64, 256 and
512 filters. Here the bias of the first layer learns to the end, where Jordan's stops after three
epochs, to save time.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.layers import BatchNorm, Conv, Dense

__all__ = ["AirbenchNet", "Whitening", "identity_init"]

# Of the whitened patches.
_WINDOW = 2
# What scores are multiplied by, lest the softmax is sure of itself from the start.
_SCALE = 1 / 9
# What running averages keep at a step: few, since the weights behind them change quickly.
_MOMENTUM = 0.6
# U(-b, b) with b = 1 / sqrt(inputs), PyTorch's default.
_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def identity_init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    """Kernel of a convolution that hands on its channels, as far as it has filters for them.

    Filter k is 1 at the centre of channel k and 0 elsewhere; filters beyond the channels are drawn
    from U(-b, b), b = 1 / sqrt(taps * channels), PyTorch's default.

    Args:
      key: for the filters beyond.
      shape: (*window, channels, filters), odd windows.
      dtype: of the kernel.

    Raises:
      ValueError: a window without a centre.

    >>> identity_init(jax.random.key(0), (3, 3, 2, 2))[1, 1].tolist()
    [[1.0, 0.0], [0.0, 1.0]]

    Sibling: `torch.nn.init.dirac_`, which leaves filters beyond the channels at zero.
    Source: Zagoruyko and Komodakis, "DiracNets", 2017.
    """
    *window, channels, filters = shape
    if any(size % 2 == 0 for size in window):
        raise ValueError(f"identity_init: windows must be odd, to have a centre, got {shape}")
    drawn = _torch_uniform(key, shape, dtype)
    centre = tuple(size // 2 for size in window)
    identity = jnp.zeros_like(drawn).at[centre].set(jnp.eye(channels, filters, dtype=dtype))
    return jnp.where(jnp.arange(filters) < channels, identity, drawn)


class AirbenchNet(nn.Module):
    """Whitened patches, three groups of two convolutions, a maximum and a dense layer.

    Attributes:
      num_classes: scores an image.
      widths: filters of both convolutions of each group, which halves the image.
      whitening: initialiser of the first layer's kernel (2, 2, channels, 8 * channels), a constant
        such as `nn.initializers.constant(patch_whitening(images, window=2))`; it stands in the
        collection "constants" and is not trained, the bias behind it is. None for a layer that is
        drawn and trained like others.
      identity: whether the 3x3 convolutions start as `identity_init` rather than by PyTorch's
        default.
      dtype: compute dtype; that of the images by default. Scores are float32 or wider.
      param_dtype: dtype the parameters are kept in.

    >>> net = AirbenchNet(10)
    >>> variables = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 32, 32, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    1971640
    """

    num_classes: int
    widths: tuple[int, ...] = (64, 256, 256)
    whitening: nn.initializers.Initializer | None = None
    identity: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Scores (*batch, num_classes) of images (*batch, height, width, channels)."""
        x = x.astype(self.dtype or x.dtype)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        filters = 2 * _WINDOW**2 * x.shape[-1]
        if self.whitening is None:
            x = Conv(filters, (_WINDOW, _WINDOW), name="whiten", **dtypes)(x)
        else:
            x = Whitening(filters, (_WINDOW, _WINDOW), self.whitening, name="whiten", **dtypes)(x)
        x = _gelu(x)
        for i, width in enumerate(self.widths):
            x = _Group(width, self.identity, name=f"group{i}", **dtypes)(x, train)
        x = ops.global_max_pool(x, num_spatial_axes=2)
        head = Dense(
            self.num_classes, use_bias=False, kernel_init=_torch_uniform, name="head", **dtypes
        )
        scores = head(x) * _SCALE
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))


class Whitening(nn.Module):
    """A convolution without padding whose kernel is given and stays; its bias is trained.

    The kernel stands in the collection "constants", so that no optimiser and no weight decay sees
    it and it is not counted among the parameters.

    Attributes:
      features: number of filters.
      window: taps an axis.
      kernel_init: says the kernel, of the shape (*window, channels, features).
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the kernel and the bias are kept in.

    >>> layer = Whitening(2, (1, 1), nn.initializers.constant(jnp.array([[[[1.0, -1.0]]]])))
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 1)))
    >>> jax.tree.map(jnp.shape, variables)
    {'constants': {'kernel': (1, 1, 1, 2)}, 'params': {'bias': (2,)}}

    Source: Page, "How to train your ResNet 8: bag of tricks", 2019.
    """

    features: int
    window: tuple[int, ...]
    kernel_init: nn.initializers.Initializer
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (*batch, *spatial, channels) to (*batch, *output_spatial, features)."""
        shape, dtype = (*self.window, x.shape[-1], self.features), self.dtype or x.dtype

        def given() -> jax.Array:
            return self.kernel_init(self.make_rng("params"), shape, self.param_dtype)

        kernel = self.variable("constants", "kernel", given).value
        bias = self.param("bias", nn.initializers.zeros_init(), shape[-1:], self.param_dtype)
        return ops.conv(x.astype(dtype), kernel.astype(dtype), bias.astype(dtype))


class _Group(nn.Module):
    """Two 3x3 convolutions, of which the first is followed by 2x2 max-pooling."""

    features: int
    identity: bool
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map (*batch, height, width, channels) to (*batch, height // 2, width // 2, features)."""
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(2):
            x = Conv(
                self.features,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=identity_init if self.identity else _torch_uniform,
                name=f"conv{i}",
                **dtypes,
            )(x)
            if i == 0:
                x = ops.max_pool(x, window=2)
            norm = BatchNorm(_MOMENTUM, use_scale=False, name=f"bn{i}", **dtypes)
            x = _gelu(norm(x, train=train))
        return x


def _gelu(x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x, approximate=False)
