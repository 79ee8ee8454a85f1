"""A pattern as a Flax module: the partial application of `cnnjax.ops`, layer by layer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import models, ops
from cnnjax.pattern import specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern.sizing import fractional_arguments, layer_names, volumes, windows
from cnnjax.pattern.tree import Pattern

__all__ = ["PatternNet", "to_module"]

_ACTIVATIONS = {"relu": jax.nn.relu, "tanh": jnp.tanh, "sigmoid": jax.nn.sigmoid}
_POOLS: dict[str, Callable[..., jax.Array]] = {
    "max": ops.max_pool,
    "avg": ops.avg_pool,
    "l2": ops.l2_pool,
    "blur": ops.blur_pool,
}


def to_module(
    pattern: Pattern,
    *,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    kernel_init: nn.initializers.Initializer | None = None,
) -> "PatternNet":
    """The network that a pattern describes.

    Submodules are named by the layer's word in lower case and a number from zero, "conv0",
    "bn0", "fc0", "dropout0"; repetitions are written out. Kernels are drawn by He's normal rule
    where nothing else is said, biases are zero.

    Args:
      pattern: a pattern that starts with INPUT and leaves nothing open.
      dtype: compute dtype; that of the input by default.
      param_dtype: dtype the parameters are kept in.
      kernel_init: initialiser of the kernels of all layers; He normal by default.

    Returns:
      A Flax module, `net.apply(variables, x, train=...)`.

    Raises:
      PatternError: as `volumes`, for a layer that cannot take what comes to it.
      TypeError: something that is no pattern.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax.pattern import parse
    >>> net = to_module(parse("INPUT[8x8x3] -> [CONV3-4 -> RELU]*2 -> POOL2 -> FC-10"))
    >>> variables = jax.jit(net.init)(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
    >>> sorted(variables["params"])
    ['conv0', 'conv1', 'fc0']
    >>> net.apply(variables, jnp.ones((5, 8, 8, 3)), train=False).shape
    (5, 10)

    Source: He, Zhang, Ren and Sun, "Delving deep into rectifiers" (2015), for the kernels.
    """
    layers = tuple(volume.layer for volume in volumes(pattern))
    return PatternNet(layers, dtype, param_dtype, kernel_init)


class PatternNet(nn.Module):
    """The layers of a pattern, one after another; `to_module` checks that they go together.

    Dropout draws from the stream "dropout" while training. FRACPOOL draws its grids from the stream
    "fractional"; without one it needs train=False and takes one pseudorandom grid of offset
    u = 1/2 for all images and channels, so that evaluation is the same each time.

    Attributes:
      layers: the layers, INPUT the first.
      dtype: compute dtype; that of the input by default. What comes out is float32 or wider.
      param_dtype: dtype the parameters are kept in.
      kernel_init: initialiser of the kernels of all layers; None is He normal.

    >>> PatternNet((specs.Input((4,)), specs.Dense(2))).input_shape
    (4,)
    """

    layers: tuple[Layer, ...]
    dtype: Any = None
    param_dtype: Any = jnp.float32
    kernel_init: nn.initializers.Initializer | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """What INPUT says: (*spatial, channels)."""
        (first, *_) = self.layers
        return tuple(getattr(first, "shape", None) or ())

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map (*batch, *spatial, channels) to (*batch, *output)."""
        shape = self.input_shape
        num_batch = x.ndim - len(shape)
        if num_batch < 0 or x.shape[num_batch:] != shape:
            raise ValueError(
                f"PatternNet: x must have shape (*batch, {', '.join(map(str, shape))}), as INPUT "
                f"says, got {x.shape}"
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"PatternNet: x must be floating, got {x.dtype}; images for example by "
                "x.astype(jnp.float32) / 255"
            )
        x = x.astype(self.dtype or x.dtype)
        for name, layer in zip(layer_names(self.layers), self.layers, strict=True):
            x = self._run(name, layer, x, num_batch, train)
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    @nn.nowrap  # Its name would stand in every path.
    def _run(self, name: str, layer: Layer, x: jax.Array, num_batch: int, train: bool) -> jax.Array:
        """One layer. A submodule belongs to the network, whose `__call__` is running."""
        dtypes = {"dtype": x.dtype, "param_dtype": self.param_dtype}
        kernel_init = self.kernel_init or nn.initializers.he_normal()
        shape = x.shape[num_batch:]
        match layer:
            case specs.Conv():
                axes = windows(layer, shape)
                return models.Conv(
                    layer.filters or 0,
                    tuple(axis.window for axis in axes),
                    stride=tuple(axis.stride for axis in axes),
                    padding=tuple((axis.low, axis.high) for axis in axes),
                    dilation=tuple(axis.dilation for axis in axes),
                    groups=layer.groups,
                    use_bias=layer.bias,
                    kernel_init=kernel_init,
                    name=name,
                    **dtypes,
                )(x)
            case specs.Dense():
                return nn.Dense(
                    layer.features or 0,
                    use_bias=layer.bias,
                    kernel_init=kernel_init,
                    name=name,
                    **dtypes,
                )(x.reshape(*x.shape[:num_batch], -1))
            case specs.BatchNorm():
                return nn.BatchNorm(
                    use_running_average=not train,
                    momentum=layer.momentum,
                    epsilon=layer.epsilon,
                    # E[x^2] - E[x]^2 cancels where the mean is large.
                    use_fast_variance=False,
                    name=name,
                    **dtypes,
                )(x)
            case specs.Dropout():
                return nn.Dropout(layer.rate, deterministic=not train, name=name)(x)
            case specs.FractionalPool():
                with jax.named_scope(name):
                    return self._fractional(layer, x, len(shape) - 1, train)
        with jax.named_scope(name):
            return _apply_function(layer, x, shape)

    @nn.nowrap
    def _fractional(
        self, layer: specs.FractionalPool, x: jax.Array, rank: int, train: bool
    ) -> jax.Array:
        arguments = fractional_arguments(layer, rank)
        if self.has_rng("fractional"):
            return ops.fractional_max_pool(x, self.make_rng("fractional"), **arguments)
        if train:
            raise ValueError(
                f'PatternNet: {layer} draws its grids from the stream "fractional" while training; '
                'give rngs={"fractional": jax.random.key(...)}'
            )
        arguments |= {"randomness": "pseudorandom", "share": "batch"}
        return ops.fractional_max_pool(x, u=(0.5,) * rank, **arguments)


def _apply_function(layer: Layer, x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """A layer that has neither parameters nor streams."""
    match layer:
        case specs.Activation():
            if layer.function == "leakyrelu":
                return jax.nn.leaky_relu(x, negative_slope=layer.slope or 0.0)
            return _ACTIVATIONS[layer.function](x)
        case specs.Pool():
            axes = windows(layer, shape)
            mean = {"count_padding": layer.count_padding} if layer.kind == "avg" else {}
            return _POOLS[layer.kind](
                x,
                window=tuple(axis.window for axis in axes),
                stride=tuple(axis.stride for axis in axes),
                padding=tuple((axis.low, axis.high) for axis in axes),
                fit=layer.fit,
                **mean,
            )
        case specs.LocalResponseNorm():
            stated = {
                setting: getattr(layer, setting)
                for setting in ("size", "alpha", "beta", "k", "alpha_over")
                if getattr(layer, setting) is not None
            }
            return ops.local_response_norm(x, **(dict(ops.LRN_PRESETS[layer.preset]) | stated))
        case specs.GlobalAveragePool():
            return ops.global_avg_pool(x, num_spatial_axes=len(shape) - 1)
    return x
