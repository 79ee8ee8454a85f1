"""VGG: stages of 3x3 convolutions, each stage halved by pooling and twice as wide as the last.

Configurations A (11 layers), A-LRN, B (13), C (16, with 1x1 convolutions), D (16) and E (19) of
Simonyan and Zisserman, "Very Deep Convolutional Networks", 2014, and A, B, D, E with batch
normalisation after each convolution, as torchvision has them.

Initialisation: convolutions by He's normal rule over the outputs, dense layers normal with standard
deviation 0.01, biases zero, as torchvision's (the paper draws all from a deviation of 0.01 and
starts the deeper networks from the trained network A).
"""

from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax

from cnnjax import ops
from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.spacing import Spacing
from cnnjax.models.style import Style

__all__ = ["NETWORKS", "VGG"]

_FAN_OUT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
_DENSE = {"kernel_init": nn.initializers.normal(0.01)}


class VGG(Chain, kw_only=True):
    """Stages of convolutions and max pooling, then three dense layers.

    Attributes:
      windows: taps of each convolution, stage by stage.
      widths: filters of each stage.
      hidden: outputs of the first two dense layers.
      pooled_size: (height, width) of what the dense layers see: the last volume is averaged to it
        (torchvision's adaptive pooling; nothing happens at 224x224). None: the volume as it is.
      local_response_norm: whether the first layer is followed by local response normalisation.

    >>> net = VGG(windows=((3,), (3, 3)), widths=(8, 16), pooled_size=(2, 2), hidden=32)
    >>> net.feature_info[-1]
    FeatureInfo(name='pool', channels=16, reduction=4)
    """

    windows: tuple[tuple[int, ...], ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    pooled_size: tuple[int, int] | None = (7, 7)
    local_response_norm: bool = False

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        if not self.windows or len(self.windows) != len(self.widths):
            raise ValueError(
                f"{self._title}: windows and widths need one value for each stage, got "
                f"{len(self.windows)} and {len(self.widths)}"
            )
        if any(window % 2 == 0 for stage in self.windows for window in stage):
            raise ValueError(
                f"{self._title}: windows must be odd, so that padding keeps the size, got "
                f"{self.windows}"
            )

    @property
    def published_stride(self) -> int:
        """Each stage halves."""
        return 2 ** len(self.windows)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Each stage before its pooling, and the last pooling."""
        stages = ((f"stage{i}", width, 2**i) for i, width in enumerate(self.widths))
        return self.volumes(*stages, ("pool", self.widths[-1], self.published_stride))

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """stage0, stage1, ..., pool."""
        spacing = Spacing(self.output_stride)
        for i, (windows, width) in enumerate(zip(self.windows, self.widths, strict=True)):
            stage = self.block(_Stage)(
                self.style, windows, width, spacing.dilation, name=f"stage{i}"
            )
            x = stage(x, train)
            if i == 0 and self.local_response_norm:
                x = ops.local_response_norm(x, **ops.LRN_PRESETS["alexnet"])
            yield f"stage{i}", x
            x = spacing.max_pool(x, window=2, stride=2)
        yield "pool", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Three dense layers, the first two with dropout."""
        return self.dense_head(
            self.flattened(x, self.pooled_size),
            train,
            (self.hidden, self.hidden),
            dropout=0.5,
            hidden_settings=_DENSE,
            head_settings=_DENSE,
        )


class _Stage(nn.Module):
    style: Style
    windows: tuple[int, ...]
    width: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for j, window in enumerate(self.windows):
            x = self.style.conv(
                f"conv{j}",
                self.width,
                window,
                padding=window // 2 * self.dilation,
                dilation=self.dilation,
                kernel_init=_FAN_OUT,
            )(x)
            x = self.style.activate(self.style.normalize(f"norm{j}", x, train))
        return x


_WINDOWS = {
    "vgg11": ((3,), (3,), (3, 3), (3, 3), (3, 3)),
    "vgg13": ((3, 3),) * 5,
    "vgg16": ((3, 3), (3, 3), (3, 3, 3), (3, 3, 3), (3, 3, 3)),
    "vgg19": ((3, 3), (3, 3), (3,) * 4, (3,) * 4, (3,) * 4),
}

NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        **{name: VGG(windows=windows) for name, windows in _WINDOWS.items()},
        **{f"{name}_bn": VGG(windows=w, norm="batch") for name, w in _WINDOWS.items()},
        "vgg11_lrn": VGG(windows=_WINDOWS["vgg11"], local_response_norm=True),
        "vgg16_c": VGG(windows=((3, 3), (3, 3), (3, 3, 1), (3, 3, 1), (3, 3, 1))),
    }
)
