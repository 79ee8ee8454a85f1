"""Graham's networks of 2x2 convolutions and fractional max-pooling, wider by a step at each layer.

Graham, "Fractional max-pooling", 2014: "(32nC2-FMP sqrt 2)_6-C2-C1-output" for MNIST, which wants
images of 36 pixels, and "(160nC2-FMP cbrt 2)_12-C2-C1-output" for CIFAR-10 with dropout that rises
to one half, "(64nC2-FMP cbrt 2)_12-C2-C1-output" for CIFAR-100 without, of 94 pixels. The n-th
layer has n times the filters of the first. Digits of 28 pixels and images of 32 lie in the middle
of these larger ones, with zeros around.

The paper leaves open what his programs (SparseConvNet) decide: regions are fixed 2x2 windows at
pseudorandom places, a grid for each image; the ReLU is "very leaky", of slope 0.333; dropout takes
whole feature maps, the same for all images of a batch, at a rate that rises linearly.

Initialisation, of his programs: uniform within sqrt(6 / (inputs + c outputs)), c being
(window / ratio)^2 where pooling follows, window^2 otherwise, and 10,000 at the classifier, which
so starts near zero; biases zero.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import geometry, ops
from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages

__all__ = ["NETWORKS", "FractionalNet"]

Randomness: TypeAlias = Literal["pseudorandom", "random"]
Regions: TypeAlias = Literal[
    "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped"
]
Share: TypeAlias = Literal["batch", "image", "channel"]

_MIDDLE = (0.5, 0.5)
_AT_THE_CLASSIFIER = 10_000.0


class FractionalNet(Chain, kw_only=True):
    """Pairs of a 2x2 convolution and fractional pooling, then a 2x2, a 1x1 and a dense layer.

    Grids are drawn from the stream "fractional". Without it, which needs train=False, all images
    and channels take the one pseudorandom grid of offset u = 1/2, so that an evaluation is the
    same each time; `ops.average_over_grids` averages over drawn ones.

    Reductions in `feature_info` are means: the volumes named are those that lie a whole number of
    pixels apart on average.

    Attributes:
      filters: of the first convolution; the n-th has n times as many.
      num_poolings: number of pairs.
      ratio: in / out of each pooling.
      randomness: "pseudorandom" or "random", as in `ops.fractional_max_pool`.
      regions: "overlapping_window", "overlapping_edge", "disjoint", ..., likewise.
      share: one grid for the whole "batch", for each "image" or for each "channel".
      convs_per_pooling: convolutions before each pooling. With two and a ratio of 2 the network is
        one of as many layers and weights that pools by ordinary windows.
      centred: whether images of another size than `image_size` are brought to it: zeros around
        smaller ones, of larger ones the middle.
      final_dropout: published rate behind the last hidden layer, reached in equal steps from zero
        behind the first; where `dropout` is given, it stands in this one's place.

    >>> net = FractionalNet(filters=32, num_poolings=6, ratio=2**0.5)
    >>> [(info.name, info.reduction) for info in net.feature_info]
    [('conv0', 1), ('conv2', 2), ('conv4', 4), ('conv7', 8)]
    >>> net = FractionalNet(filters=32, num_poolings=3, ratio=2, convs_per_pooling=2)
    >>> [(info.name, info.reduction) for info in net.feature_info]
    [('conv1', 1), ('conv3', 2), ('conv5', 4), ('conv7', 8)]
    """

    filters: int
    num_poolings: int
    ratio: float
    randomness: Randomness = "pseudorandom"
    regions: Regions = "overlapping_window"
    share: Share = "image"
    convs_per_pooling: int = 1
    centred: bool = False
    final_dropout: float = 0.0

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        self.refuse_output_stride("take fewer num_poolings for a finer volume")
        ops.fractional_sizes(self.num_poolings, self.ratio)  # Refuses what is no net.
        geometry.check_name(self._title, "randomness", self.randomness, get_args(Randomness))
        geometry.check_name(self._title, "regions", self.regions, get_args(Regions))
        geometry.check_name(self._title, "share", self.share, get_args(Share))
        geometry.per_axis(self._title, "convs_per_pooling", self.convs_per_pooling, 1)
        if not 0 <= self.final_dropout < 1:
            raise ValueError(
                f"{self._title}: final_dropout must be in [0, 1), got {self.final_dropout}"
            )

    @property
    def published_stride(self) -> int:
        """Pixels between the last positions, on average."""
        return max(1, round(self.ratio**self.num_poolings))

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The last volume at each whole reduction."""
        found = []
        for n in range(self.num_poolings + 1):
            reduction = self.ratio**n
            # Behind the last pooling stand a 2x2 convolution and a 1x1.
            last = n * self.convs_per_pooling
            last += 1 if n == self.num_poolings else self.convs_per_pooling - 1
            if math.isclose(reduction, round(reduction), rel_tol=1e-3):
                found.append((f"conv{last}", self.filters * (last + 1), round(reduction)))
        return self.volumes(*found)

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, pool0, conv1, pool1, ..., two convolutions."""
        x = self._in_the_middle(x) if self.centred else x
        for i in range(self._num_pooled + 2):
            window = 1 if i > self._num_pooled else 2
            pooling, behind = divmod(i + 1, self.convs_per_pooling)
            pooled = i < self._num_pooled and not behind
            spread = (window / self.ratio if pooled else window) ** 2
            init = _uniform(window**2 * x.shape[-1], spread)
            x = self.layer(i, x, train, self.filters * (i + 1), window, kernel_init=init)
            x = self._drop_maps(i, x, train)
            yield f"conv{i}", x
            if pooled:
                x = self._pool(x, train)
                yield f"pool{pooling - 1}", x

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """A dense layer; the last volume of an image of the published size is one position."""
        inputs = x.shape[-1] * math.prod(self.head_window or x.shape[-3:-1])
        init = {"kernel_init": _uniform(inputs, _AT_THE_CLASSIFIER)}
        return self.dense_head(self.flattened(x), train, (), dropout=0.0, head_settings=init)

    @property
    def _num_pooled(self) -> int:
        """Convolutions before the last pooling."""
        return self.num_poolings * self.convs_per_pooling

    @nn.nowrap
    def _in_the_middle(self, x: jax.Array) -> jax.Array:
        sizes = zip(self.image_size, x.shape[-3:-1], strict=True)
        missing = [wanted - size for wanted, size in sizes]
        # Negative padding crops; halves are rounded towards zero, so that one undoes the other.
        sides = [(int(lack / 2), lack - int(lack / 2), 0) for lack in missing]
        around = [(0, 0, 0)] * (x.ndim - 3) + sides + [(0, 0, 0)]
        return jax.lax.pad(x, jnp.zeros((), x.dtype), around)

    @nn.nowrap
    def _drop_maps(self, number: int, x: jax.Array, train: bool) -> jax.Array:
        final = self.final_dropout if self.dropout is None else self.dropout
        rate = final * number / (self._num_pooled + 1)
        if not rate:
            return x
        return nn.Dropout(
            rate,
            broadcast_dims=tuple(range(x.ndim - 1)),
            deterministic=not train,
            name=f"dropout{number}",
        )(x)

    @nn.nowrap
    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        if self._is_ordinary(x):
            return ops.max_pool(x, window=int(self.ratio))
        if self.has_rng("fractional"):
            return ops.fractional_max_pool(
                x,
                self.make_rng("fractional"),
                ratio=self.ratio,
                randomness=self.randomness,
                regions=self.regions,
                share=self.share,
            )
        if train and not self.is_initializing():
            raise ValueError(
                f'{self._title}: grids are drawn from the stream "fractional" while training; give '
                'rngs={"fractional": jax.random.key(...)}'
            )
        return ops.fractional_max_pool(
            x, u=_MIDDLE, ratio=self.ratio, regions=self.regions, share="batch"
        )

    @nn.nowrap
    def _is_ordinary(self, x: jax.Array) -> bool:
        """Whether every grid is that of windows side by side, so that there is nothing to draw."""
        tiles = all(size % self.ratio == 0 for size in x.shape[-3:-1])
        apart = self.regions in ("disjoint", "overlapping_window")
        return tiles and apart and float(self.ratio).is_integer()


def _uniform(inputs: int, spread: float) -> nn.initializers.Initializer:
    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        limit = math.sqrt(6 / (inputs + spread * shape[-1]))
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return draw


def _published(**options: Any) -> FractionalNet:
    return FractionalNet(activation="very_leaky_relu", **options)


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "fractional_mnist": _published(
            filters=32,
            num_poolings=6,
            ratio=2 ** (1 / 2),
            num_classes=10,
            input_channels=1,
            image_size=(36, 36),
        ),
        "fractional_cifar10": _published(
            filters=160,
            num_poolings=12,
            ratio=2 ** (1 / 3),
            num_classes=10,
            image_size=(94, 94),
            final_dropout=0.5,
        ),
        "fractional_cifar100": _published(
            filters=64,
            num_poolings=12,
            ratio=2 ** (1 / 3),
            num_classes=100,
            image_size=(94, 94),
        ),
    }
)
