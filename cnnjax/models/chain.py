"""What networks of layers in line have in common: flat names, and how a layer is made."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import flax.linen as nn
import jax

from cnnjax import ops
from cnnjax.models.network import FeatureInfo, Network

__all__ = ["Chain"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Chain(Network, kw_only=True):
    """A network whose layers stand in line, named flatly: conv0, norm0, conv1, ..., fc0, head.

    The fields are those of `Network`; with remat=True each convolution with its norm and activation
    is computed again for the gradient.
    """

    @nn.nowrap
    def layer(
        self, number: int, x: jax.Array, train: bool, features: int, window: int, **settings: Any
    ) -> jax.Array:
        """One convolution `conv{number}`, its norm `norm{number}` and its activation.

        Args:
          number: of the layer, from zero.
          x: (*batch, height, width, channels).
          train: whether a batch's own statistics normalise it.
          features: number of filters.
          window: taps an axis.
          **settings: further fields of `Conv`.
        """

        def run(net: Chain, x: jax.Array) -> jax.Array:
            x = net.style.conv(f"conv{number}", features, window, **settings)(x)
            return net.style.activate(net.style.normalize(f"norm{number}", x, train))

        # A lifted function rather than a module: a module would put its name into the parameters'.
        return (nn.remat(run) if self.remat else run)(self, x)

    @nn.nowrap
    def dense_head(
        self,
        x: jax.Array,
        train: bool,
        hidden: tuple[int, ...],
        *,
        dropout: float,
        hidden_settings: Mapping[str, Any] = _NOTHING,
        head_settings: Mapping[str, Any] = _NOTHING,
    ) -> jax.Array:
        """Dense layers `fc0`, ..., each with activation and dropout, and `head`.

        Args:
          x: what `flattened` gives of the last volume.
          train: whether values are dropped.
          hidden: outputs of each layer before `head`.
          dropout: published rate behind each of them.
          hidden_settings: further fields of `Dense` for them.
          head_settings: for `head`.
        """
        for i, width in enumerate(hidden):
            x = self.dense(f"fc{i}", width, first=i == 0, **hidden_settings)(x)
            x = self.drop(f"dropout{i}", self.style.activate(x), train, dropout)
        if self.num_classes:
            return self.dense("head", self.num_classes, first=not hidden, **head_settings)(x)
        if hidden or self.head_window is None:
            return x
        return ops.extract_patches(x, self.head_window, dilation=self.head_dilation)

    @nn.nowrap
    def volumes(self, *volumes: tuple[str, int, int]) -> tuple[FeatureInfo, ...]:
        """(name, channels, published reduction) with the reductions that `output_stride` leaves."""
        limit = self.output_stride or self.published_stride
        return tuple(FeatureInfo(name, width, min(by, limit)) for name, width, by in volumes)
