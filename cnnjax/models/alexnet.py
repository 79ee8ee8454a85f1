"""AlexNet: five convolutions, three of them pooled over overlapping windows, three dense layers.

"alexnet_2012" is the network of Krizhevsky, Sutskever and Hinton, "ImageNet classification with
deep convolutional neural networks", 2012: two groups, which were two GPUs, local response
normalisation behind the first two layers, and images of 227 pixels (the paper writes 224, of which
its sizes do not come). "alexnet" is the one tower of Krizhevsky, "One weird trick for parallelizing
convolutional neural networks", 2014, as torchvision has it: no normalisation, padded images of any
size, the last volume averaged to 6x6, dropout in front of the hidden layers.

Initialisation of "alexnet_2012", section 5 of the paper: normal with standard deviation 0.01;
biases one in the second, fourth and fifth convolution and in the hidden dense layers, which hands
their ReLUs positive inputs at first, zero elsewhere. Of "alexnet", PyTorch's default: kernels and
biases uniform within 1 / sqrt(fan-in).
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.spacing import Spacing

__all__ = ["NETWORKS", "AlexNet"]

_WINDOWS = (11, 5, 3, 3, 3)
_POOLED = (0, 1, 4)
_NORMAL = nn.initializers.normal(0.01)
_BIAS_OF_ONE = (1, 3, 4)


class AlexNet(Chain, kw_only=True):
    """Five convolutions and three dense layers; the defaults are those of 2012.

    Attributes:
      widths: filters of each convolution.
      groups: blocks that each convolution splits its channels into.
      first_padding: pixels around the image.
      hidden: outputs of the first two dense layers.
      local_response_norm: whether the first two convolutions are followed by it.
      pooled_size: (height, width) that the last volume is averaged to for the dense layers. None:
        the volume as it is.
      dropout_first: whether dropout stands in front of the hidden layers rather than behind them.
      uniform_init: whether parameters are drawn by PyTorch's default rather than the paper's.

    >>> AlexNet(output_stride=16).feature_info[-2:]  # doctest: +NORMALIZE_WHITESPACE
    (FeatureInfo(name='conv4', channels=256, reduction=16),
     FeatureInfo(name='pool', channels=256, reduction=16))
    """

    widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    groups: tuple[int, int, int, int, int] = (1, 2, 1, 2, 2)
    first_padding: int = 0
    hidden: int = 4096
    local_response_norm: bool = True
    pooled_size: tuple[int, int] | None = None
    dropout_first: bool = False
    uniform_init: bool = False

    @property
    def published_stride(self) -> int:
        """4 of the first convolution, 2 of each pooling."""
        return 32

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """What each pooling sees, and the last pooling."""
        seen = ((f"conv{i}", self.widths[i], 4 * 2**n) for n, i in enumerate(_POOLED))
        return self.volumes(*seen, ("pool", self.widths[-1], 32))

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, pool0, conv1, pool1, conv2, conv3, conv4, pool."""
        spacing = Spacing(self.output_stride)
        for i, (window, width, groups) in enumerate(
            zip(_WINDOWS, self.widths, self.groups, strict=True)
        ):
            stride, dilation = spacing.step(4 if i == 0 else 1)
            padding = self.first_padding if i == 0 else window // 2 * dilation
            geometry = {"stride": stride, "padding": padding, "dilation": dilation}
            inputs = window**2 * (x.shape[-1] // groups)
            x = self.layer(
                i, x, train, width, window, groups=groups, **geometry, **self._conv_init(i, inputs)
            )
            if self.local_response_norm and i < 2:
                x = ops.local_response_norm(x, **ops.LRN_PRESETS["alexnet"])
            yield f"conv{i}", x
            if i in _POOLED:
                x = spacing.max_pool(x, window=3, stride=2)
                yield "pool" if i == 4 else f"pool{i}", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Three dense layers, dropout on both sides of the second or in front of the first two."""
        x = self.flattened(x, self.pooled_size)
        for i in range(2):
            if self.dropout_first:
                x = self.drop(f"dropout{i}", x, train, published=0.5)
            settings = self._dense_init(x, first=i == 0, bias=1.0)
            x = self.style.activate(self.dense(f"fc{i}", self.hidden, first=i == 0, **settings)(x))
            if not self.dropout_first:
                x = self.drop(f"dropout{i}", x, train, published=0.5)
        if not self.num_classes:
            return x
        return self.dense("head", self.num_classes, **self._dense_init(x, first=False, bias=0.0))(x)

    @nn.nowrap
    def _conv_init(self, number: int, inputs: int) -> dict[str, Any]:
        if self.uniform_init:
            return _uniform(inputs)
        return _paper(1.0 if number in _BIAS_OF_ONE else 0.0)

    @nn.nowrap
    def _dense_init(self, x: jax.Array, *, first: bool, bias: float) -> dict[str, Any]:
        if not self.uniform_init:
            return _paper(bias)
        window = self.head_window if first and self.head_window else (1, 1)
        return _uniform(x.shape[-1] * math.prod(window))


def _paper(bias: float) -> dict[str, Any]:
    return {"kernel_init": _NORMAL, "bias_init": nn.initializers.constant(bias)}


def _uniform(inputs: int) -> dict[str, Any]:
    limit = 1 / math.sqrt(inputs)

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return {"kernel_init": draw, "bias_init": draw}


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "alexnet_2012": AlexNet(image_size=(227, 227)),
        "alexnet": AlexNet(
            widths=(64, 192, 384, 256, 256),
            groups=(1, 1, 1, 1, 1),
            first_padding=2,
            local_response_norm=False,
            pooled_size=(6, 6),
            dropout_first=True,
            uniform_init=True,
        ),
    }
)
