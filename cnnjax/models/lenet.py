"""LeNet-5: two pairs of convolution and averaging, a convolution to one position, dense layers.

LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998,
in the form that is taught: every map of the second convolution sees all maps of the first, pooling
has no coefficients, the activation is tanh without scales, and the classifier is a dense layer
rather than radial basis functions.

Initialisation: normal with variance 1 / fan-in, biases zero, the rule of LeCun, Bottou, Orr and
Müller, "Efficient BackProp", 1998. (The paper's own, uniform within 2.4 / fan-in, assumes inputs
that move together; with this tanh it starts with scores near 1e-4.)
"""

from collections.abc import Mapping
from types import MappingProxyType

import flax.linen as nn
import jax

from cnnjax import ops
from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages

__all__ = ["NETWORKS", "LeNet"]

_INIT = {"kernel_init": nn.initializers.lecun_normal()}


class LeNet(Chain, kw_only=True):
    """Convolutions of 5x5 without padding, averaging between them, then dense layers.

    Attributes:
      widths: filters of the three convolutions, C1, C3 and C5.
      hidden: outputs of the dense layer before the classifier, F6.

    >>> net = LeNet(num_classes=10, input_channels=1, image_size=(32, 32), activation="tanh")
    >>> net.feature_info[-1]
    FeatureInfo(name='conv2', channels=120, reduction=4)
    """

    widths: tuple[int, int, int] = (6, 16, 120)
    hidden: int = 84

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        self.refuse_output_stride("its volumes are 4 pixels apart at the coarsest")

    @property
    def published_stride(self) -> int:
        """Two poolings halve."""
        return 4

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Each convolution."""
        return self.volumes(*((f"conv{i}", width, 2**i) for i, width in enumerate(self.widths)))

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, pool0, conv1, pool1, conv2."""
        for i, width in enumerate(self.widths):
            x = self.layer(i, x, train, width, 5, **_INIT)
            yield f"conv{i}", x
            if i < 2:
                x = ops.avg_pool(x, window=2)
                yield f"pool{i}", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Two dense layers."""
        return self.dense_head(
            self.flattened(x),
            train,
            (self.hidden,),
            dropout=0.0,
            hidden_settings=_INIT,
            head_settings=_INIT,
        )


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "lenet5": LeNet(num_classes=10, input_channels=1, image_size=(32, 32), activation="tanh"),
    }
)
