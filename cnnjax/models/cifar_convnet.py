"""A small network to learn and teach with: [[CONV -> RELU]*2 -> POOL]*3 -> FC on 32x32 images.

The choices are those of the CS231n course notes, "Convolutional Networks", layer patterns and
sizing: 32 pixels halve five times; 3x3 windows of stride 1 whose padding keeps the size, so that
pooling alone makes volumes smaller; two convolutions before each pooling, since more of them see
more before positions are lost; filters double where positions quarter; and no hidden dense layer,
where most parameters of older networks lie. 307,498 parameters, of which the classifier has 20,490.

Initialisation: He's normal rule over the inputs for the convolutions, standard deviation 0.01 for
the classifier, so that training starts at a loss of ln 10; biases zero.
"""

from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax

from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.spacing import Spacing

__all__ = ["NETWORKS", "CifarConvNet"]

_HEAD = {"kernel_init": nn.initializers.normal(0.01)}


class CifarConvNet(Chain, kw_only=True):
    """Pairs of 3x3 convolutions, each halved by pooling, and one dense layer.

    Attributes:
      widths: filters of both convolutions of each pair.

    >>> net = CifarConvNet(num_classes=10, image_size=(32, 32))
    >>> net.feature_info[-1]
    FeatureInfo(name='pool', channels=128, reduction=8)
    """

    widths: tuple[int, ...] = (32, 64, 128)

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        if not self.widths:
            raise ValueError(f"{self._title}: widths needs one value at least, got ()")

    @property
    def published_stride(self) -> int:
        """Each pair is halved."""
        return 2 ** len(self.widths)

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """What each pooling sees, and the last pooling."""
        seen = ((f"conv{2 * i + 1}", width, 2**i) for i, width in enumerate(self.widths))
        return self.volumes(*seen, ("pool", self.widths[-1], self.published_stride))

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, conv1, pool0, conv2, ..., pool."""
        spacing = Spacing(self.output_stride)
        for i, width in enumerate(self.widths):
            for number in (2 * i, 2 * i + 1):
                spread = spacing.dilation
                x = self.layer(number, x, train, width, 3, padding=spread, dilation=spread)
                yield f"conv{number}", x
            x = spacing.max_pool(x, window=2, stride=2)
            yield "pool" if i == len(self.widths) - 1 else f"pool{i}", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """One dense layer, behind dropout where the option asks for it."""
        x = self.drop("dropout", self.flattened(x), train, published=0.0)
        return self.dense_head(x, train, (), dropout=0.0, head_settings=_HEAD)


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {"cifar_convnet": CifarConvNet(num_classes=10, image_size=(32, 32))}
)
