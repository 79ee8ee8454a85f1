"""What residual networks are made of: a stem, stages of blocks, and a block of any kind.

A block is a branch of convolutions beside a shortcut; how many convolutions, of which windows and
widths, where the stride stands and what the shortcut does are settings, so that basic blocks,
bottlenecks and those of ResNeXt, wide and plain networks are one module.

Convolutions have a bias where no norm follows (norm=None), and none otherwise, since a norm takes
it away again.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.style import Style

__all__ = ["Block", "BlockSettings", "ConvSettings", "SqueezeExcite", "Stage", "Stem"]

SHORTCUTS = ("identity", "projection", "padded", None)
_ONES = nn.initializers.ones_init()
_ZEROS = nn.initializers.zeros_init()


@dataclasses.dataclass(frozen=True)
class ConvSettings:
    """One convolution of a branch, padded so that only its stride changes the size.

    Attributes:
      features: number of filters.
      window: taps an axis, odd.
      stride: step of the window.
      dilation: spacing of the taps.
      groups: blocks the channels are split into.

    >>> ConvSettings(64, 3).padding, ConvSettings(64, 3, dilation=2).padding
    (1, 2)
    """

    features: int
    window: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """Pixels on each side."""
        return self.window // 2 * self.dilation


@dataclasses.dataclass(frozen=True)
class BlockSettings:
    """A block: the convolutions of its branch, and what goes beside them.

    Attributes:
      convs: the branch, from its input on.
      shortcut: "identity"; "projection", a 1x1 convolution with a norm; "padded", every
        stride-th position with zeros for the new channels behind the old ones; or None, no
        shortcut: a plain network.
      squeezed: channels between the two layers of squeeze-and-excitation; 0 for none.
      spread: spacing of the positions that the published network has, over which
        squeeze-and-excitation averages.
      zero_scale: whether the scale of the last norm starts at zero, so that the block starts as
        its shortcut.

    >>> BlockSettings((ConvSettings(8, 3, stride=2), ConvSettings(8, 3)), "padded").stride
    2
    """

    convs: tuple[ConvSettings, ...]
    shortcut: str | None = "identity"
    squeezed: int = 0
    spread: int = 1
    zero_scale: bool = False

    @property
    def stride(self) -> int:
        """The step of the whole block."""
        stride = 1
        for conv in self.convs:
            stride *= conv.stride
        return stride


class Stem(nn.Module):
    """The first convolution, its norm and activation.

    Attributes:
      style: norm, activation and dtypes.
      conv: the convolution.
      kernel_init: initialiser of its kernel.

    >>> stem = Stem(Style("batch"), ConvSettings(64, 7, stride=2), nn.initializers.he_normal())
    >>> x = jnp.ones((1, 224, 224, 3))
    >>> jax.eval_shape(lambda: stem.init_with_output(jax.random.key(0), x, False)[0]).shape
    (1, 112, 112, 64)
    """

    style: Style
    conv: ConvSettings
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map (*batch, height, width, channels) to (..., features)."""
        x = _convolved("conv", x, self.conv, self.style, self.kernel_init)
        return self.style.activate(self.style.normalize("norm", x, train))


class SqueezeExcite(nn.Module):
    """Each channel times a gate in (0, 1) that the means of all channels decide.

    y[..., c] = x[..., c] * sigmoid(fc1(activation(fc0(mean of x over its positions))))[c]

    Attributes:
      style: activation and dtypes.
      squeezed: outputs of the first layer.
      spread: spacing of the positions averaged, so that strides turned into dilations leave the
        gate as it was; 1 for all.
      kernel_init: initialiser of both kernels.

    >>> x = jnp.ones((1, 1, 2, 8))
    >>> SqueezeExcite(Style(), 2, 1, nn.initializers.zeros).init_with_output(
    ...     jax.random.key(0), x
    ... )[0][0, 0, :, 0]
    Array([0.5, 0.5], dtype=float32)

    Source: Hu, Shen, Sun, "Squeeze-and-Excitation Networks", 2017.
    """

    style: Style
    squeezed: int
    spread: int
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map (*batch, height, width, channels) to the same shape."""
        seen = x[..., :: self.spread, :: self.spread, :]
        means = ops.global_avg_pool(seen, num_spatial_axes=2)[..., None, None, :]
        settings = {"kernel_init": self.kernel_init}
        gate = self.style.activate(self.style.conv("fc0", self.squeezed, 1, **settings)(means))
        gate = self.style.conv("fc1", x.shape[-1], 1, **settings)(gate)
        return x * jax.nn.sigmoid(gate)


class Block(nn.Module):
    """activation(branch(x) + shortcut(x)); a norm after each convolution, an activation between.

    Attributes:
      style: norm, activation and dtypes.
      settings: what the block is made of.
      kernel_init: initialiser of every kernel.

    >>> settings = BlockSettings((ConvSettings(6, 3, stride=2), ConvSettings(6, 3)), "padded")
    >>> block = Block(Style("batch"), settings, nn.initializers.he_normal())
    >>> x = jnp.ones((1, 8, 8, 3))
    >>> block.apply(block.init(jax.random.key(0), x, False), x, False).shape
    (1, 4, 4, 6)

    Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, section 3.
    """

    style: Style
    settings: BlockSettings
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map (*batch, height, width, channels) to the block's stride and features."""
        style, settings = self.style, self.settings
        last, y = len(settings.convs) - 1, x
        for k, conv in enumerate(settings.convs):
            y = _convolved(f"conv{k}", y, conv, style, self.kernel_init)
            scale_init = _ZEROS if settings.zero_scale and k == last else _ONES
            y = style.normalize(f"norm{k}", y, train, scale_init)
            if k < last:
                y = style.activate(y)
        if settings.squeezed:
            gated = SqueezeExcite(
                style, settings.squeezed, settings.spread, self.kernel_init, name="se"
            )
            y = gated(y)
        if settings.shortcut == "identity":
            y = y + x
        elif settings.shortcut == "padded":
            y = y + _padded(x, settings.stride, y.shape[-1])
        elif settings.shortcut == "projection":
            conv = ConvSettings(y.shape[-1], 1, settings.stride)
            y = y + _Projection(style, conv, self.kernel_init, name="shortcut")(x, train)
        return style.activate(y)


class Stage(nn.Module):
    """Blocks in a row: block0, block1, ...

    Attributes:
      style: norm, activation and dtypes.
      blocks: settings of each.
      kernel_init: initialiser of every kernel.
      kind: `Block`, or what `Network.block` makes of it.

    >>> blocks = (BlockSettings((ConvSettings(4, 3),), None), BlockSettings((ConvSettings(4, 3),)))
    >>> stage = Stage(Style("batch"), blocks, nn.initializers.he_normal())
    >>> shapes = jax.eval_shape(lambda: stage.init(jax.random.key(0), jnp.ones((8, 8, 3)), False))
    >>> list(shapes["params"])
    ['block0', 'block1']
    """

    style: Style
    blocks: tuple[BlockSettings, ...]
    kernel_init: nn.initializers.Initializer
    kind: Any = Block

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Map (*batch, height, width, channels) through all blocks."""
        for j, settings in enumerate(self.blocks):
            x = self.kind(self.style, settings, self.kernel_init, name=f"block{j}")(x, train)
        return x


class _Projection(nn.Module):
    style: Style
    conv: ConvSettings
    kernel_init: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = _convolved("conv", x, self.conv, self.style, self.kernel_init)
        return self.style.normalize("norm", x, train)


def _convolved(
    name: str,
    x: jax.Array,
    conv: ConvSettings,
    style: Style,
    kernel_init: nn.initializers.Initializer,
) -> jax.Array:
    layer = style.conv(
        name,
        conv.features,
        conv.window,
        stride=conv.stride,
        padding=conv.padding,
        dilation=conv.dilation,
        groups=conv.groups,
        use_bias=style.norm is None,
        kernel_init=kernel_init,
    )
    return layer(x)


def _padded(x: jax.Array, stride: int, channels: int) -> jax.Array:
    x = x[..., ::stride, ::stride, :]
    more = [(0, 0)] * (x.ndim - 1) + [(0, channels - x.shape[-1])]
    return jnp.pad(x, more)
