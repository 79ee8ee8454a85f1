"""All-CNN and its companions: what pooling is for, asked of three small networks for CIFAR.

Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the all convolutional
net", 2014, tables 1 and 2. Models A (one 5x5 layer before each pooling), B (5x5 and 1x1) and C (two
3x3), each in four variants: "base" pools over 3x3 at stride 2; "strided" has no pooling and the
stride in the layer that was before it; "conv_pool" has one more 3x3 layer before each pooling;
"all" has a 3x3 layer of stride 2 in place of each pooling.

The scores are rectified before they are averaged over positions, as in the paper's table 1. Pooling
rounds as Caffe does, since 32 pixels are to become 16 and then 8. The 1.3 million parameters that
the paper counts for base C and strided C do not come of its table, which gives 0.95 million.

Initialisation: He's normal rule, biases zero; the paper gives none.
"""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax

from cnnjax import ops
from cnnjax.models.chain import Chain
from cnnjax.models.network import FeatureInfo, Network, Stages

__all__ = ["NETWORKS", "AllCNN"]

_MODELS = {"a": (5,), "b": (5, 1), "c": (3, 3)}
_VARIANTS = ("base", "strided", "conv_pool", "all")
_POOLING_VARIANTS = ("base", "conv_pool")
_POOLINGS = ("max", "avg", "blurred_max")


class _Layer(NamedTuple):
    window: int
    width: int
    stride: int = 1
    padding: int = 0


class AllCNN(Chain, kw_only=True):
    """Convolutions, with or without pooling, and the mean over positions.

    Attributes:
      model: "a", "b" or "c".
      variant: "base", "strided", "conv_pool" or "all".
      pooling: of the variants that pool, each over 3x3 at stride 2: "max" as published, "avg", or
        "blurred_max", the maximum at every position and then `ops.blur_pool` (Zhang, 2019).
      widths: filters before the first pooling, and of all later layers.

    >>> AllCNN(num_classes=10, image_size=(32, 32)).feature_info  # doctest: +NORMALIZE_WHITESPACE
    (FeatureInfo(name='conv1', channels=96, reduction=1),
     FeatureInfo(name='conv4', channels=192, reduction=2),
     FeatureInfo(name='conv7', channels=192, reduction=4))
    """

    model: str = "c"
    variant: str = "all"
    pooling: str = "max"
    widths: tuple[int, int] = (96, 192)

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        self.refuse_output_stride("its volumes are 4 pixels apart at the coarsest")
        options = (("model", tuple(_MODELS)), ("variant", _VARIANTS), ("pooling", _POOLINGS))
        for option, known in options:
            if getattr(self, option) not in known:
                raise ValueError(
                    f"{self._title}: {option} must be one of {', '.join(known)}, got "
                    f"{getattr(self, option)!r}"
                )
        if self.pooling != "max" and self.variant not in _POOLING_VARIANTS:
            raise ValueError(
                f"{self._title}: pooling={self.pooling!r} is for the variants that pool, "
                f"{' and '.join(_POOLING_VARIANTS)}; {self.variant!r} does not"
            )

    @property
    def published_stride(self) -> int:
        """Two poolings, or their replacements, halve."""
        return 4

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The last convolution at each reduction."""
        last: dict[int, tuple[str, int, int]] = {}
        number, reduction = 0, 1
        for layer in self._layers():
            if layer is None:
                reduction *= 2
                continue
            reduction *= layer.stride
            last[reduction] = (f"conv{number}", layer.width, reduction)
            number += 1
        return self.volumes(*last.values())

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, conv1, ..., with pool0 and pool1 where there is pooling."""
        x = self.drop("dropout0", x, train, published=0.2)
        number = halved = 0
        for layer in self._layers():
            if layer is None:
                x = self._pool(x)
                yield f"pool{halved}", x
            else:
                geometry: dict[str, Any] = {"stride": layer.stride, "padding": layer.padding}
                x = self.layer(number, x, train, layer.width, layer.window, **geometry)
                yield f"conv{number}", x
                number += 1
            if layer is None or layer.stride == 2:
                halved += 1
                x = self.drop(f"dropout{halved}", x, train, published=0.5)

    @nn.nowrap
    def _pool(self, x: jax.Array) -> jax.Array:
        """Windows of 3x3 at every second position, the last of which may hang over the end."""
        if self.pooling == "blurred_max":
            # One pixel more at the end gives every position of which the others take the second.
            dense = ops.max_pool(x, window=3, stride=1, padding=((0, 1), (0, 1)))
            return ops.blur_pool(dense, window=3, stride=2)
        pool = ops.avg_pool if self.pooling == "avg" else ops.max_pool
        return pool(x, window=3, stride=2, fit="ceil")

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """A convolution of 1x1 with its activation, then the mean; or the mean of its input."""
        if self.num_classes:
            x = self.style.activate(self.style.conv("head", self.num_classes, 1)(x))
        if self.head_window is None:
            return ops.global_avg_pool(x, num_spatial_axes=2)
        return ops.avg_pool(x, window=self.head_window, stride=1)

    @nn.nowrap
    def _layers(self) -> Iterator[_Layer | None]:
        """The convolutions before `head`, and None for each pooling."""
        windows = _MODELS[self.model]
        for width in self.widths:
            *front, last = (_Layer(window, width, padding=window // 2) for window in windows)
            yield from front
            yield last._replace(stride=2) if self.variant == "strided" else last
            if self.variant == "conv_pool":
                yield _Layer(3, width, padding=1)
            if self.variant == "all":
                yield _Layer(3, width, stride=2, padding=1)
            if self.variant in _POOLING_VARIANTS:
                yield None
        yield _Layer(3, self.widths[-1])
        yield _Layer(1, self.widths[-1])


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        f"{variant}_cnn_{model}": AllCNN(
            num_classes=10, image_size=(32, 32), model=model, variant=variant
        )
        for variant in _VARIANTS
        for model in _MODELS
    }
)
