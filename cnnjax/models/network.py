"""What all networks of the zoo have in common: a sequence of named volumes, then a head.

A subclass says which volumes it makes, `stages`, and how scores come of the last one, `head`; the
options that every network takes are fields here.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.layers import Dense
from cnnjax.models.style import ACTIVATIONS, NORMS, Style

__all__ = ["FeatureInfo", "Network", "Stages", "options_of"]

OUTPUT_STRIDES = (8, 16, 32)

Stages = Iterator[tuple[str, jax.Array]]


class FeatureInfo(NamedTuple):
    """A volume of the pyramid that `features=True` gives.

    Attributes:
      name: its key.
      channels: size of its last axis.
      reduction: pixels of the image from one position to the next.
    """

    name: str
    channels: int
    reduction: int


class Network(nn.Module, kw_only=True):
    """A classifier of images, (*batch, height, width, channels) to (*batch, num_classes).

    Attributes:
      num_classes: scores an image; 0 for the features that the head would see.
      input_channels: channels of an image.
      image_size: (height, width) that the network was published for.
      features: whether to give the pyramid, a mapping of names to volumes, the last one at each
        reduction after its activation, in place of scores; see `feature_info`.
      output_stride: pixels between the positions of the last volume, 8, 16 or 32; the strides
        beyond become dilations, so that the positions of the published network keep their values.
        None for the published one.
      head_window: None where the head sees the whole of the last volume, one vector of scores; or
        (height, width) of the part that it is slid over, without padding: scores
        (*batch, rows, columns, num_classes). `cnnjax.surgery.dense_to_conv` sets it.
      norm: "batch", "group", "layer", None, or a function of `name` that gives a Flax module.
      activation: a key of `style.ACTIVATIONS`, or a function.
      dropout: share of the values set to zero in training; None for the published.
      remat: whether blocks are computed again for the gradient rather than kept in memory.
      dtype: compute dtype; that of the images by default. Scores are float32 or wider.
      param_dtype: dtype the parameters are kept in.
    """

    num_classes: int = 1000
    input_channels: int = 3
    image_size: tuple[int, int] = (224, 224)
    features: bool = False
    output_stride: int | None = None
    head_window: tuple[int, int] | None = None
    norm: str | Callable[..., nn.Module] | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dropout: float | None = None
    remat: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        self._check_options()

    # ---- what a subclass says ----

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The volumes that `features=True` gives, from the image on."""
        raise NotImplementedError

    def stages(self, x: jax.Array, train: bool) -> Stages:
        """Names and volumes, each made of the one before; the last is what `head` gets."""
        raise NotImplementedError

    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """Scores of the last volume, or features with num_classes=0."""
        raise NotImplementedError

    # ---- what all do ----

    @property
    def published_stride(self) -> int:
        """Pixels between the positions of the last volume without `output_stride`."""
        raise NotImplementedError

    @property
    def head_dilation(self) -> int:
        """Spacing of the positions that the head of the published network sees."""
        return max(1, self.published_stride // (self.output_stride or self.published_stride))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of an image as published."""
        return (*self.image_size, self.input_channels)

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        """Scores of images, or the pyramid with features=True."""
        x = self.checked_input(x)
        wanted = {info.name for info in self.feature_info}
        pyramid = {}
        for name, x in self.stages(x, train):  # noqa: B020 - the last one goes on to the head.
            if name in wanted:
                pyramid[name] = x
        if self.features:
            return pyramid
        return self.widened(self.head(x, train))

    @nn.nowrap
    def checked_input(self, x: jax.Array) -> jax.Array:
        """The images in the compute dtype.

        Raises:
          TypeError: images of integers.
          ValueError: images of another shape than (*batch, height, width, input_channels).
        """
        if x.ndim < 3 or x.shape[-1] != self.input_channels:
            raise ValueError(
                f"{self._title}: x must be (*batch, height, width, {self.input_channels}), got "
                f"{x.shape}; another number of channels is input_channels=..."
            )
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(
                f"{self._title}: x must be floating, got {x.dtype}; images for example by "
                "x.astype(jnp.float32) / 255"
            )
        return x.astype(self.dtype or x.dtype)

    @nn.nowrap
    def widened(self, scores: jax.Array) -> jax.Array:
        """Scores in float32 or wider."""
        return scores.astype(jnp.promote_types(scores.dtype, jnp.float32))

    @property
    def style(self) -> Style:
        """What the layers share."""
        return Style(self.norm, self.activation, self.dtype, self.param_dtype)

    @nn.nowrap
    def dense(self, name: str, features: int, *, first: bool = False, **settings: Any) -> Dense:
        """A dense layer in the network's dtypes; `first` is the one over the last volume.

        With `head_window` it is a convolution, the first of that window, the others of 1x1.
        """
        window = None if self.head_window is None else (1, 1)
        if first and window:
            settings |= {"window": self.head_window, "dilation": self.head_dilation}
        return Dense(features, name=name, **({"window": window} | self.style.dtypes | settings))

    @nn.nowrap
    def drop(self, name: str, x: jax.Array, train: bool, published: float) -> jax.Array:
        """Dropout of the network's rate."""
        rate = published if self.dropout is None else self.dropout
        if not rate:
            return x
        return nn.Dropout(rate, deterministic=not train, name=name)(x)

    @nn.nowrap
    def block(self, kind: type[nn.Module]) -> Any:
        """A class of modules, computed again for the gradient with remat=True.

        `train` is to be its second argument, by position.
        """
        return nn.remat(kind, static_argnums=(2,)) if self.remat else kind

    @nn.nowrap
    def pooled_head(self, x: jax.Array, train: bool, dropout: float, **settings: Any) -> jax.Array:
        """Average over the volume, or over each window of `head_window`, then one dense layer."""
        window = self.head_window
        if window is None:
            x = ops.global_avg_pool(x, num_spatial_axes=2)
        else:
            x = ops.avg_pool(x, window=window, stride=1, dilation=self.head_dilation)
        x = self.drop("dropout", x, train, dropout)
        if not self.num_classes:
            return x
        return self.dense("head", self.num_classes, **settings)(x)

    @nn.nowrap
    def flattened(self, x: jax.Array, pooled_size: tuple[int, int] | None = None) -> jax.Array:
        """The last volume for a dense layer: as a vector in (height, width, channels) order.

        With `head_window` the volume itself, which the head is slid over. With `output_stride` the
        vector is of the positions that the published network has.

        Args:
          x: the last volume.
          pooled_size: (height, width) that it is averaged to first; None for none.
        """
        if self.head_window:
            return x
        step = self.head_dilation
        x = x[..., ::step, ::step, :]
        if pooled_size is not None:
            x = ops.adaptive_avg_pool(x, pooled_size)
        return x.reshape(*x.shape[:-3], -1)

    # ---- checks ----

    @property
    def _title(self) -> str:
        return type(self).__name__

    @nn.nowrap
    def refuse_output_stride(self, instead: str) -> None:
        """For networks whose strides cannot become dilations.

        Raises:
          ValueError: an output_stride was asked for.
        """
        if self.output_stride is not None:
            raise ValueError(f"{self._title}: output_stride is not for this network; {instead}")

    @nn.nowrap
    def _check_options(self) -> None:
        title = self._title
        for option, least in (("num_classes", 0), ("input_channels", 1)):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{title}: {option} must be an integer, got {value!r}")
            if value < least:
                raise ValueError(f"{title}: {option} must be at least {least}, got {value}")
        if isinstance(self.activation, str) and self.activation not in ACTIVATIONS:
            raise ValueError(
                f"{title}: activation must be one of {', '.join(ACTIVATIONS)} or a function, got "
                f"{self.activation!r}"
            )
        if isinstance(self.norm, str) and self.norm not in NORMS:
            raise ValueError(
                f"{title}: norm must be one of {', '.join(NORMS)}, None or a function of a name, "
                f"got {self.norm!r}"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"{title}: dropout must be in [0, 1) or None, got {self.dropout}")
        if self.output_stride not in (None, *OUTPUT_STRIDES):
            raise ValueError(
                f"{title}: output_stride must be one of {OUTPUT_STRIDES} or None, got "
                f"{self.output_stride!r}"
            )
        for option in ("image_size", "head_window"):
            value = getattr(self, option)
            if value is not None and not _is_pair(value):
                raise ValueError(
                    f"{title}: {option} must be two integers of at least 1, (height, width), got "
                    f"{value!r}"
                )


def options_of(network: Network) -> tuple[str, ...]:
    """The options that a network takes.

    >>> class Tiny(Network):
    ...     width: int = 8
    >>> [option for option in options_of(Tiny()) if option not in options_of(Network())]
    ['width']
    """
    hidden = ("parent", "name")
    return tuple(f.name for f in dataclasses.fields(network) if f.init and f.name not in hidden)


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(size, int) and size >= 1 for size in value)
    )
