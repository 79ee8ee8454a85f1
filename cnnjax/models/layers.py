"""Flax modules that are the partial application of a pure function of `cnnjax.ops`."""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import geometry, ops
from cnnjax.geometry import Padding

__all__ = ["BatchNorm", "Conv", "Dense", "LocallyConnected"]


class Conv(nn.Module):
    """`cnnjax.ops.conv` with its kernel and bias as parameters.

    Attributes:
      features: number of filters.
      window: taps an axis, one value an axis.
      stride: step of the window in pixels.
      padding: as in `cnnjax.ops.conv`.
      dilation: spacing of the taps.
      groups: blocks the channels are split into.
      use_bias: whether each filter has a bias.
      kernel_init: initialiser; He normal by default (He et al., 2015).
      bias_init: initialiser; zeros by default.
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in.

    >>> import jax, jax.numpy as jnp
    >>> layer = Conv(8, (3, 3), padding="SAME")
    >>> variables = layer.init(jax.random.key(0), jnp.ones((1, 5, 5, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"])
    {'bias': (8,), 'kernel': (3, 3, 3, 8)}
    """

    features: int
    window: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: Padding = "VALID"
    dilation: int | tuple[int, ...] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolve (*batch, *spatial, channels) to (*batch, *output_spatial, features)."""
        shape = (*self.window, x.shape[-1] // self.groups, self.features)
        x, kernel, bias = _operands(self, x, shape, self.kernel_init)
        return ops.conv(
            x,
            kernel,
            bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )


def _operands(
    layer: "Conv | Dense | LocallyConnected",
    x: jax.Array,
    shape: tuple[int, ...],
    kernel_init: nn.initializers.Initializer,
    positions: tuple[int, ...] = (),
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """The input, the kernel of that shape and the bias, if there is one, in the compute dtype."""
    dtype = layer.dtype or x.dtype
    kernel = layer.param("kernel", kernel_init, shape, layer.param_dtype).astype(dtype)
    bias = None
    if layer.use_bias:
        sizes = (*positions, shape[-1])
        bias = layer.param("bias", layer.bias_init, sizes, layer.param_dtype).astype(dtype)
    return x.astype(dtype), kernel, bias


class Dense(nn.Module):
    """A fully connected layer, either over a whole volume or slid over a larger one.

    Both are the same sum. Over the volume, kernel (H * W * C, features); with a window (H, W) it
    is a convolution without padding, kernel (H, W, C, features), which gives one output at each
    position of the window: the same numbers in the same order.

    Attributes:
      features: number of outputs.
      window: (H, W) of the volume that one output sees; None for the last axis alone.
      dilation: spacing of the window's positions.
      use_bias: whether each output has a bias.
      kernel_init: initialiser, of the shape (inputs, features).
      bias_init: initialiser; zeros by default.
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    >>> variables = Dense(5).init(jax.random.key(1), x.reshape(2, -1))
    >>> kernel = variables["params"]["kernel"].reshape(4, 4, 3, 5)
    >>> slid = Dense(5, window=(4, 4)).apply(
    ...     {"params": variables["params"] | {"kernel": kernel}}, x
    ... )
    >>> bool(jnp.allclose(slid[:, 0, 0], Dense(5).apply(variables, x.reshape(2, -1)), atol=1e-5))
    True

    Source: Sermanet et al., "OverFeat", 2013, section 3.5; Long, Shelhamer, Darrell, "Fully
    Convolutional Networks", 2014.
    """

    features: int
    window: tuple[int, int] | None = None
    dilation: int = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (*batch, inputs), or (*batch, height, width, channels) with a window."""
        shape = (*(self.window or ()), x.shape[-1], self.features)
        x, kernel, bias = _operands(self, x, shape, self._draw_kernel)
        if self.window is not None:
            return ops.conv(x, kernel, bias, dilation=self.dilation)
        y = x @ kernel
        return y if bias is None else y + jnp.expand_dims(bias, tuple(range(y.ndim - 1)))

    @nn.nowrap
    def _draw_kernel(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """As a matrix, so that a key gives the same weights whether they are slid or not."""
        matrix = self.kernel_init(key, (math.prod(shape[:-1]), shape[-1]), dtype)
        return matrix.reshape(shape)


class LocallyConnected(nn.Module):
    """`cnnjax.ops.locally_connected`: a `Conv` whose positions have weights of their own.

    Attributes:
      features: number of filters at each position.
      window: taps an axis, one value an axis.
      stride: step of the window in pixels.
      padding: as in `cnnjax.ops.locally_connected`.
      dilation: spacing of the taps.
      use_bias: whether each filter has a bias at each position.
      kernel_init: initialiser of one position's kernel, which draws each of them from a key of
        its own; He normal by default (He et al., 2015).
      bias_init: initialiser; zeros by default.
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in.

    >>> import jax, jax.numpy as jnp
    >>> layer = LocallyConnected(8, (3, 3), stride=2)
    >>> variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 5, 5, 3)))
    >>> jax.tree.map(jnp.shape, variables["params"])
    {'bias': (2, 2, 8), 'kernel': (2, 2, 3, 3, 3, 8)}

    Source: LeCun, "Generalization and Network Design Strategies", 1989; Taigman et al.,
    "DeepFace", 2014, for faces, which are aligned.
    """

    features: int
    window: tuple[int, ...]
    stride: int | tuple[int, ...] = 1
    padding: Padding = "VALID"
    dilation: int | tuple[int, ...] = 1
    use_bias: bool = True
    kernel_init: nn.initializers.Initializer = nn.initializers.he_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros_init()
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (*batch, *spatial, channels) to (*batch, *output_spatial, features)."""
        rank = len(self.window)
        static: dict[str, Any] = {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
        }
        pixels = x.shape[-rank - 1 : -1]
        positions = geometry.output_shape(pixels, self.window, **static, fit="floor")
        shape = (*positions, *self.window, x.shape[-1], self.features)
        x, kernel, bias = _operands(self, x, shape, self._draw_kernels, positions)
        return ops.locally_connected(x, kernel, bias, **static)

    @nn.nowrap
    def _draw_kernels(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """One position after another: an initialiser would count the positions as fan-in."""
        rank = len(self.window)
        positions, kernel = shape[:rank], shape[rank:]
        keys = jax.random.split(key, math.prod(positions))
        return jax.vmap(lambda key: self.kernel_init(key, kernel, dtype))(keys).reshape(shape)


class BatchNorm(nn.Module):
    """`cnnjax.ops.batch_norm` with scale and bias as parameters and running averages beside.

    In training the batch's own statistics normalise it, and the running averages move,
    running = momentum * running + (1 - momentum) * batch's, where the batch's variance counts
    N / (N - 1) of the biased one as in PyTorch, whose momentum is 1 minus this one. (Flax's own
    layer averages the biased variance.) Statistics are taken in float32 or wider. Under `jit` with
    sharded images they are those of the whole batch, on all devices.

    Attributes:
      momentum: share of the old average kept at a step.
      epsilon: what is added to the variance.
      scale_init: initialiser; ones by default, zeros to start a residual branch closed.
      use_scale: whether there is a scale; without one the variance stays one.
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in; the running averages are float32 or wider.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.array([[1.0], [3.0]])
    >>> variables = BatchNorm().init(jax.random.key(0), x)
    >>> _, moved = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
    >>> {name: round(float(value[0]), 6) for name, value in moved["batch_stats"].items()}
    {'mean': 0.2, 'var': 1.1}

    Source: Ioffe and Szegedy, "Batch Normalization", 2015.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: nn.initializers.Initializer = nn.initializers.ones_init()
    use_scale: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map (*batch, *spatial, channels) to the same shape."""
        x = x.astype(self.dtype or x.dtype)
        shape, kept = x.shape[-1:], jnp.promote_types(self.param_dtype, jnp.float32)
        scale = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), shape, self.param_dtype)
        mean = self.variable("batch_stats", "mean", functools.partial(jnp.zeros, shape, kept))
        var = self.variable("batch_stats", "var", functools.partial(jnp.ones, shape, kept))
        if not train:
            return ops.batch_norm(x, mean.value, var.value, scale, bias, epsilon=self.epsilon)
        widened = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        batch_mean, batch_var = ops.batch_statistics(widened)
        if not self.is_initializing() and self.is_mutable_collection("batch_stats"):
            count = x.size // x.shape[-1]
            # One value alone has no spread to estimate; PyTorch refuses it.
            unbiased = batch_var * (count / max(count - 1, 1))
            for average, new in ((mean, batch_mean), (var, unbiased)):
                moved = self.momentum * average.value + (1 - self.momentum) * new.astype(kept)
                average.value = moved.astype(kept)
        return ops.batch_norm(x, batch_mean, batch_var, scale, bias, epsilon=self.epsilon)
