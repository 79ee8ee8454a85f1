"""ZFNet: AlexNet with a finer first layer, and one tower.

Zeiler and Fergus, "Visualizing and understanding convolutional networks", 2013, figure 3: 7x7
filters at stride 2 where AlexNet has 11x11 at stride 4, 5x5 at stride 2, and local response
normalisation behind the first two poolings.

Initialisation: the paper sets all weights to 0.01, which is read as a normal distribution of that
standard deviation, and biases to zero.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from cnnjax import ops
from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.spacing import Spacing

__all__ = ["NETWORKS", "ZFNet"]

_INIT: Mapping[str, Any] = MappingProxyType({"kernel_init": nn.initializers.normal(0.01)})
# (window, stride, padding) of each convolution.
_CONVS = ((7, 2, 1), (5, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1))


class ZFNet(Chain, kw_only=True):
    """Five convolutions and three dense layers.

    Attributes:
      widths: filters of each convolution.
      hidden: outputs of the first two dense layers.
      local_response_norm: whether the first two poolings are followed by it.

    >>> [info.reduction for info in ZFNet().feature_info]
    [2, 4, 8, 16, 32]
    """

    widths: tuple[int, int, int, int, int] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    local_response_norm: bool = True

    @property
    def published_stride(self) -> int:
        """2 of each of the first two convolutions and of each of three poolings."""
        return 32

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The volumes in front of each stride, and the last pooling."""
        first, second, *_, last = self.widths
        return self.volumes(
            ("conv0", first, 2),
            ("pool0", first, 4),
            ("conv1", second, 8),
            ("conv4", last, 16),
            ("pool", last, 32),
        )

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, pool0, conv1, pool1, conv2, conv3, conv4, pool."""
        spacing = Spacing(self.output_stride)
        for i, ((window, published, padding), width) in enumerate(
            zip(_CONVS, self.widths, strict=True)
        ):
            stride, dilation = spacing.step(published)
            geometry = {"stride": stride, "padding": padding * dilation, "dilation": dilation}
            x = self.layer(i, x, train, width, window, **geometry, **_INIT)
            yield f"conv{i}", x
            if i < 2:
                x = spacing.max_pool(x, window=3, stride=2, padding=1)
                if self.local_response_norm:
                    x = ops.local_response_norm(x, **ops.LRN_PRESETS["alexnet"])
                yield f"pool{i}", x
        yield "pool", spacing.max_pool(x, window=3, stride=2)

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Three dense layers, the first two with dropout."""
        return self.dense_head(
            self.flattened(x),
            train,
            (self.hidden, self.hidden),
            dropout=0.5,
            hidden_settings=_INIT,
            head_settings=_INIT,
        )


NETWORKS: Mapping[str, Network] = MappingProxyType({"zfnet": ZFNet()})
