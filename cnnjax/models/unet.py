"""U-Net: an encoder, a decoder, and at each scale the encoder's volume handed across.

Ronneberger, Fischer, Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", 2015:
scores of each pixel, here 388x388 of an image of 572x572, since no convolution is padded.

Initialisation: normal with standard deviation sqrt(2 / inputs of an output), as the paper's;
biases zero. Convolutions have a bias where norm=None, up-convolutions and the head always.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.style import Style

__all__ = ["NETWORKS", "UNet"]

_HE = nn.initializers.he_normal()
_PADDINGS = {"VALID": 0, "SAME": 1}


class UNet(Network, kw_only=True):
    """Levels of two 3x3 convolutions; down by 2x2 max pooling, up by 2x2 up-convolution.

    (*batch, H, W, channels) to scores (*batch, H', W', num_classes). With depth d and "VALID"
    padding a level loses 4 positions an axis, so H' = H - 12 2^d + 8 (572 - 184 = 388), and H must
    be 2^d n + 4 (2^d - 1); with "SAME" H' = H, a multiple of 2^d. What comes up is joined behind
    the middle of what the encoder had at that scale.

    Dropout in training stands behind the last level of the encoder and at the bottom, where the
    paper has it "at the end of the contracting path"; its rate is that of the authors' Caffe
    program.

    Attributes:
      width: filters of the first level; each level down has twice as many.
      depth: number of poolings.
      padding: "VALID" (2015) or "SAME", one zero around each 3x3 convolution.

    >>> UNet(padding="SAME", depth=2, width=8).feature_info[1:4]  # doctest: +NORMALIZE_WHITESPACE
    (FeatureInfo(name='down1', channels=16, reduction=2),
     FeatureInfo(name='bottom', channels=32, reduction=4),
     FeatureInfo(name='up0', channels=16, reduction=2))
    """

    num_classes: int = 2
    input_channels: int = 1
    image_size: tuple[int, int] = (572, 572)
    width: int = 64
    depth: int = 4
    padding: str = "VALID"

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        title = type(self).__name__
        self.refuse_output_stride("its last volume is as fine as the image; write a smaller depth")
        if self.head_window is not None:
            raise ValueError(
                f"{title}: head_window is not for this network, whose head gives scores at every "
                "position already; leave it out"
            )
        if self.padding not in _PADDINGS:
            raise ValueError(f'{title}: padding must be "VALID" or "SAME", got {self.padding!r}')
        for option in ("width", "depth"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{title}: {option} must be an integer >= 1, got {value!r}")

    @property
    def published_stride(self) -> int:
        """The decoder comes back to the image's positions."""
        return 1

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Each level of the encoder before its pooling, the bottom, each level of the decoder."""
        levels = range(self.depth)
        return (
            *(FeatureInfo(f"down{i}", self.width * 2**i, 2**i) for i in levels),
            FeatureInfo("bottom", self.width * 2**self.depth, 2**self.depth),
            *(
                FeatureInfo(f"up{self.depth - 1 - i}", self.width * 2**i, 2**i)
                for i in levels[::-1]
            ),
        )

    @nn.nowrap
    def checked_input(self, x: jax.Array) -> jax.Array:
        """The images in the compute dtype.

        Raises:
          TypeError: images of integers.
          ValueError: images of another shape than (*batch, height, width, input_channels), or of
            a size that does not halve evenly at each level.
        """
        x = super().checked_input(x)
        step = 2**self.depth
        # With H = step n + 4 (step - 1) the bottom has n positions before its convolutions, and
        # the decoder ends with step (n - 4) - 4 (step - 1).
        offset, least = 0, step
        if self.padding == "VALID":
            offset, least = 4 * (step - 1), step * (5 + 4 * (step - 1) // step) + 4 * (step - 1)
        for axis, size in zip(("height", "width"), x.shape[-3:-1], strict=True):
            if size >= least and (size - offset) % step == 0:
                continue
            below = max(least, (size - offset) // step * step + offset)
            above = below + step if size > least else below
            nearest = f"{below}" if below == above else f"{below} and {above}"
            raise ValueError(
                f'{type(self).__name__}: with depth={self.depth} and padding="{self.padding}" the '
                f"{axis} of x must be {least} or a multiple of {step} more, so that each level "
                f"halves evenly, got {size}; the nearest: {nearest}. Pad or crop the image to it"
            )
        return x

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """down0, down1, ..., bottom, up0, up1, ..."""
        style, padding, kept = self.style, _PADDINGS[self.padding], []
        for i in range(self.depth):
            x = self.block(_Level)(style, self.width * 2**i, padding, name=f"down{i}")(x, train)
            if i == self.depth - 1:
                x = self.drop("dropout0", x, train, published=0.5)
            yield f"down{i}", x
            kept.append(x)
            x = ops.max_pool(x, window=2, stride=2, fit="exact")
        widest = self.width * 2**self.depth
        x = self.block(_Level)(style, widest, padding, name="bottom")(x, train)
        x = self.drop("dropout1", x, train, published=0.5)
        yield "bottom", x
        for i in range(self.depth):
            width = widest // 2 ** (i + 1)
            up = self.block(_UpLevel)(style, width, padding, name=f"up{i}")
            x = up((x, kept.pop()), train)
            yield f"up{i}", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """A 1x1 convolution."""
        if not self.num_classes:
            return x
        return self.style.conv("head", self.num_classes, 1, kernel_init=_HE)(x)


class _Level(nn.Module):
    style: Style
    width: int
    padding: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        return _two_convolutions(self.style, self.width, self.padding, x, train)


class _UpLevel(nn.Module):
    style: Style
    width: int
    padding: int

    @nn.compact
    def __call__(self, volumes: tuple[jax.Array, jax.Array], train: bool) -> jax.Array:
        x, skip = volumes
        x = _Upsample(self.width, name="upsample", **self.style.dtypes)(x)
        joined = jnp.concatenate([_middle(skip, x.shape[-3:-1]), x], axis=-1)
        return _two_convolutions(self.style, self.width, self.padding, joined, train)


class _Upsample(nn.Module):
    """`ops.conv_transpose` of 2x2 windows at stride 2, kernel (2, 2, features, channels of x)."""

    features: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Windows at their own stride: an output sees one tap, and so the channels of x.
        init = nn.initializers.normal(math.sqrt(2 / x.shape[-1]))
        shape = (2, 2, self.features, x.shape[-1])
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,), self.param_dtype)
        dtype = self.dtype or x.dtype
        x, kernel, bias = x.astype(dtype), kernel.astype(dtype), bias.astype(dtype)
        return ops.conv_transpose(x, kernel, bias, stride=2)


def _two_convolutions(
    style: Style, width: int, padding: int, x: jax.Array, train: bool
) -> jax.Array:
    settings = {"padding": padding, "use_bias": style.norm is None, "kernel_init": _HE}
    for k in range(2):
        x = style.conv(f"conv{k}", width, 3, **settings)(x)
        x = style.activate(style.normalize(f"norm{k}", x, train))
    return x


def _middle(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    low = [(have - want) // 2 for have, want in zip(x.shape[-3:-1], size, strict=True)]
    return x[..., low[0] : low[0] + size[0], low[1] : low[1] + size[1], :]


NETWORKS: Mapping[str, Network] = MappingProxyType({"unet": UNet()})
