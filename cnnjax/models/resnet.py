"""Residual networks for ImageNet: ResNet, its wide, grouped and squeeze-and-excitation kin.

He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015 (`resnet50_v1` and the
like: the stride of a bottleneck on its first 1x1 convolution); Goyal et al., "Accurate, Large
Minibatch SGD", 2017, moved it to the 3x3 (`resnet50` and the like, v1.5, as torchvision's); Xie et
al., "Aggregated Residual Transformations", 2016 (`resnext...`); Zagoruyko and Komodakis, "Wide
Residual Networks", 2016 (`wide_...`); Hu, Shen, Sun, "Squeeze-and-Excitation Networks", 2017
(`se_...`, with timm's widths: a 16th of the channels, in multiples of 8 and at least 8).

Initialisation: convolutions by He's normal rule over the outputs, the head uniform within
1 / sqrt(inputs), its bias too, as torchvision's. Convolutions have a bias where norm=None.
"""

import functools
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.residual import Block, BlockSettings, ConvSettings, Stage, Stem
from cnnjax.models.spacing import Spacing

__all__ = ["NETWORKS", "ResNet", "torch_uniform"]

_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_WIDTHS = (64, 128, 256, 512)
# Outputs of a block over its width.
_EXPANSION = {"basic": 1, "bottleneck": 4}


class ResNet(Network, kw_only=True):
    """A stem, four stages of residual blocks, the average over the volume, and one dense layer.

    With `output_stride` the later stages keep their positions, their windows spread (torchvision's
    replace_stride_with_dilation); at the positions of the published network the features are as
    before, batch statistics in training and norm="group" apart, which see the new ones too.

    Attributes:
      depths: blocks of each stage.
      kind: "basic", two 3x3 convolutions, or "bottleneck", 1x1, 3x3 and 1x1 of four times the
        width.
      groups: blocks the channels of a bottleneck's 3x3 convolution are split into.
      group_width: filters of one group in the first stage; twice as many in each that follows.
      stride_first: whether a bottleneck's stride stands on its first convolution (2015), not on
        the 3x3 (v1.5).
      squeeze_excite: whether each branch ends in squeeze-and-excitation.
      zero_init_residual: whether the scale of each branch's last norm starts at zero.

    >>> net = ResNet(depths=(2, 2, 2, 2), kind="basic", output_stride=16)
    >>> [tuple(info) for info in net.feature_info][2:]
    [('stage1', 128, 8), ('stage2', 256, 16), ('stage3', 512, 16)]
    """

    norm: Any = "batch"
    depths: tuple[int, ...]
    kind: str = "bottleneck"
    groups: int = 1
    group_width: int = 64
    stride_first: bool = False
    squeeze_excite: bool = False
    zero_init_residual: bool = False

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        title = type(self).__name__
        if self.kind not in _EXPANSION:
            raise ValueError(f'{title}: kind must be "basic" or "bottleneck", got {self.kind!r}')
        if self.kind == "basic" and (self.groups, self.group_width) != (1, 64):
            raise ValueError(
                f"{title}: groups and group_width are those of a bottleneck's 3x3 convolution, got "
                f'groups={self.groups}, group_width={self.group_width} with kind="basic"; write '
                'kind="bottleneck"'
            )
        if self.zero_init_residual and not isinstance(self.norm, str):
            raise ValueError(
                f"{title}: zero_init_residual starts the scale of a norm at zero, and "
                f'norm={self.norm!r} has none to set; write norm="batch", "group" or "layer"'
            )

    @property
    def published_stride(self) -> int:
        """The stem, its pooling and each stage but the first halve."""
        return 2 ** (len(self.depths) + 1)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The stem before its pooling, and each stage."""
        limit = self.output_stride or self.published_stride
        expansion = _EXPANSION[self.kind]
        stages = (
            FeatureInfo(f"stage{i}", width * expansion, min(2 ** (i + 2), limit))
            for i, width in enumerate(_WIDTHS[: len(self.depths)])
        )
        return (FeatureInfo("stem", 64, 2), *stages)

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """stem, stage0, stage1, ..."""
        spacing = Spacing(self.output_stride)
        stem = ConvSettings(64, 7, *spacing.step(2))
        x = self.block(Stem)(self.style, stem, _FAN_OUT, name="stem")(x, train)
        yield "stem", x
        x = spacing.max_pool(x, window=3, stride=2, padding=1)
        kind, channels = self.block(Block), x.shape[-1]
        for i, depth in enumerate(self.depths):
            blocks = []
            for j in range(depth):
                stride = 2 if i and j == 0 else 1
                blocks.append(self._block_settings(channels, _WIDTHS[i], stride, spacing))
                channels = blocks[-1].convs[-1].features
            x = Stage(self.style, tuple(blocks), _FAN_OUT, kind, name=f"stage{i}")(x, train)
            yield f"stage{i}", x

    @nn.nowrap
    def _block_settings(
        self, channels: int, width: int, stride: int, spacing: Spacing
    ) -> BlockSettings:
        outputs = width * _EXPANSION[self.kind]
        shortcut = "projection" if stride != 1 or channels != outputs else "identity"
        # A window before or at the stride has the old spread, one behind it the new.
        taken, before = spacing.step(stride)
        after = spacing.dilation
        convs: tuple[ConvSettings, ...]
        if self.kind == "basic":
            convs = (ConvSettings(width, 3, taken, before), ConvSettings(width, 3, 1, after))
        else:
            inner = width * self.group_width // 64 * self.groups
            first, second = (taken, 1) if self.stride_first else (1, taken)
            dilation = after if self.stride_first else before
            convs = (
                ConvSettings(inner, 1, first),
                ConvSettings(inner, 3, second, dilation, self.groups),
                ConvSettings(outputs, 1),
            )
        squeezed = max(8, (outputs // 16 + 4) // 8 * 8) if self.squeeze_excite else 0
        return BlockSettings(convs, shortcut, squeezed, after, self.zero_init_residual)

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """One dense layer on the average."""
        return self.pooled_head(x, train, dropout=0.0, **torch_uniform(x.shape[-1]))


def torch_uniform(inputs: int) -> dict[str, Any]:
    """Initialisers of PyTorch's `Linear`: kernel and bias uniform within 1 / sqrt(inputs).

    >>> bias = torch_uniform(4)["bias_init"](jax.random.key(0), (1000,))
    >>> bool(abs(bias).max() < 0.5), bool(bias.min() < -0.49), bool(bias.max() > 0.49)
    (True, True, True)
    """
    draw = functools.partial(_uniform_within, 1 / math.sqrt(inputs))
    return {"kernel_init": draw, "bias_init": draw}


def _uniform_within(
    bound: float, key: jax.Array, shape: Any, dtype: Any = float, out_sharding: Any = None
) -> jax.Array:
    del out_sharding
    return jax.random.uniform(key, shape, dtype, -bound, bound)


_BASIC = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
_BOTTLENECK = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def _resnext(depth: int, groups: int, group_width: int) -> ResNet:
    return ResNet(depths=_BOTTLENECK[depth], groups=groups, group_width=group_width)


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        **{f"resnet{n}": ResNet(depths=depths, kind="basic") for n, depths in _BASIC.items()},
        **{f"resnet{n}": ResNet(depths=depths) for n, depths in _BOTTLENECK.items()},
        **{
            f"resnet{n}_v1": ResNet(depths=depths, stride_first=True)
            for n, depths in _BOTTLENECK.items()
        },
        "resnext50_32x4d": _resnext(50, groups=32, group_width=4),
        "resnext101_32x8d": _resnext(101, groups=32, group_width=8),
        "resnext101_64x4d": _resnext(101, groups=64, group_width=4),
        "wide_resnet50_2": _resnext(50, groups=1, group_width=128),
        "wide_resnet101_2": _resnext(101, groups=1, group_width=128),
        "se_resnet18": ResNet(depths=_BASIC[18], kind="basic", squeeze_excite=True),
        "se_resnet50": ResNet(depths=_BOTTLENECK[50], squeeze_excite=True),
    }
)
