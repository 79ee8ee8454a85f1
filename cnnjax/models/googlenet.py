"""GoogLeNet: modules of four branches whose channels are joined, and two heads on the way.

Szegedy et al., "Going Deeper with Convolutions", 2014. `googlenet_2014` is the paper's network in
the numbers that it leaves open as Caffe's: 5x5 windows in the third branch, poolings that hang over
the end, local response normalisation, no other norm. `googlenet` is torchvision's: 3x3 windows in
the third branch (a slip that its weights keep), batch normalisation with an epsilon of 0.001, 2x2
windows in the last pooling between modules, no local response normalisation.

Initialisation: `googlenet_2014` uniform within sqrt(3 / inputs) (Caffe's "xavier"), biases of
convolutions and of the first dense layer of an auxiliary head 0.2, others zero, as its published
solver's; `googlenet` normal with standard deviation 0.01, biases zero (torchvision draws those of
dense layers uniformly within 1 / sqrt(inputs), as here). Convolutions have a bias where norm=None.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax import ops
from cnnjax.models.layers import Dense
from cnnjax.models.network import FeatureInfo, Network, Stages
from cnnjax.models.resnet import torch_uniform
from cnnjax.models.spacing import Spacing, dilated_max_pool
from cnnjax.models.style import Style

__all__ = ["NETWORKS", "AuxiliaryScores", "GoogLeNet"]

_XAVIER = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
_NORMAL = nn.initializers.normal(0.01)
_BIAS = 0.2
_CAFFE = {**ops.LRN_PRESETS["caffe"], "alpha": 1e-4}
_Widths = tuple[int, tuple[int, int], tuple[int, int], int]
# Table 1 of the paper: filters of 1x1; 3x3 reduce, 3x3; 5x5 reduce, 5x5; pool proj.
_INCEPTIONS: dict[str, _Widths] = {
    "3a": (64, (96, 128), (16, 32), 32),
    "3b": (128, (128, 192), (32, 96), 64),
    "4a": (192, (96, 208), (16, 48), 64),
    "4b": (160, (112, 224), (24, 64), 64),
    "4c": (128, (128, 256), (24, 64), 64),
    "4d": (112, (144, 288), (32, 64), 64),
    "4e": (256, (160, 320), (32, 128), 128),
    "5a": (256, (160, 320), (32, 128), 128),
    "5b": (384, (192, 384), (48, 128), 128),
}
_AUXILIARY_AFTER = ("inception4a", "inception4d")


class AuxiliaryScores(NamedTuple):
    """What GoogLeNet gives in training.

    Attributes:
      scores: those of the network's end, (*batch, num_classes).
      auxiliary: those after inception4a and inception4d; the paper adds 0.3 times each one's loss.

    >>> net, x = GoogLeNet(num_classes=10), jnp.ones((2, 64, 64, 3))
    >>> variables = jax.eval_shape(net.init, jax.random.key(0), x)
    >>> rngs = {"dropout": jax.random.key(1)}
    >>> out = jax.eval_shape(lambda v: net.apply(v, x, train=True, rngs=rngs), variables)
    >>> out.scores.shape, [scores.shape for scores in out.auxiliary]
    ((2, 10), [(2, 10), (2, 10)])
    """

    scores: jax.Array
    auxiliary: tuple[jax.Array, jax.Array]


class GoogLeNet(Network, kw_only=True):
    """Three convolutions, nine inception modules, the average over the volume, one dense layer.

    With `auxiliary` and train=True it gives `AuxiliaryScores`; their parameters are there from
    `init` on, with train=False too. The auxiliary heads see the whole of their volumes, with
    `output_stride` the positions of the published network, whatever `head_window` is.

    Attributes:
      auxiliary: whether there are two more heads on the way, which training alone uses.
      branch_window: taps of the third branch's second convolution, 5 (2014) or 3.
      last_pool: pixels of the pooling before inception5a, 3 (2014) or 2.
      local_response_norm: whether the first pooling and the third convolution are followed by
        local response normalisation.
      auxiliary_size: (height, width) that an auxiliary head averages its volume to; None for
        windows of 5 at every third position (2014; smaller volumes are averaged whole).

    >>> net = GoogLeNet(auxiliary=False)
    >>> variables = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((1, 224, 224, 3)))
    >>> sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    6998552
    """

    auxiliary: bool = True
    branch_window: int = 5
    last_pool: int = 3
    local_response_norm: bool = True
    auxiliary_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        """Refuse options that mean nothing, before anything is traced."""
        super().__post_init__()
        title = type(self).__name__
        if self.branch_window < 1 or self.branch_window % 2 == 0:
            raise ValueError(
                f"{title}: branch_window must be odd, so that the branches meet, got "
                f"{self.branch_window}; write 5 (2014) or 3"
            )
        if self.last_pool not in (2, 3):
            raise ValueError(f"{title}: last_pool must be 3 (2014) or 2, got {self.last_pool}")

    @property
    def style(self) -> Style:
        """What the layers share."""
        return Style(self.norm, self.activation, self.dtype, self.param_dtype, epsilon=1e-3)

    @property
    def published_stride(self) -> int:
        """The first convolution and four poolings halve."""
        return 32

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """The last volume before each pooling, and the last of all."""
        limit = self.output_stride or self.published_stride
        last = [(f"inception{number}", _num_channels(number)) for number in ("3b", "4e", "5b")]
        return tuple(
            FeatureInfo(name, channels, min(2 ** (i + 1), limit))
            for i, (name, channels) in enumerate((("conv0", 64), ("conv2", 192), *last))
        )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        """Scores of images, with the auxiliary ones in training, or the pyramid."""
        x = self.checked_input(x)
        wanted = {info.name for info in self.feature_info}
        on_the_way = self.auxiliary and (train or self.is_initializing()) and not self.features
        pyramid: dict[str, jax.Array] = {}
        auxiliary: list[jax.Array] = []
        for name, x in self.stages(x, train):  # noqa: B020 - the last one goes on to the head.
            if name in wanted:
                pyramid[name] = x
            if on_the_way and name in _AUXILIARY_AFTER:
                auxiliary.append(self._auxiliary_scores(len(auxiliary), x, train))
        if self.features:
            return pyramid
        scores = self.widened(self.head(x, train))
        if not (self.auxiliary and train):
            return scores
        first, second = auxiliary
        return AuxiliaryScores(scores, (first, second))

    @nn.nowrap
    def stages(self, x: jax.Array, train: bool) -> Stages:
        """conv0, conv1, conv2, inception3a, ..., inception5b."""
        style, spacing = self.style, Spacing(self.output_stride)
        stride, _ = spacing.step(2)
        x = _convolved(style, 0, x, train, 64, window=7, stride=stride)
        yield "conv0", x
        x = self._response_normalized(spacing.max_pool(x, window=3, stride=2, fit="ceil"))
        x = _convolved(style, 1, x, train, 64, window=1)
        yield "conv1", x
        x = self._response_normalized(_convolved(style, 2, x, train, 192, window=3))
        yield "conv2", x
        x = spacing.max_pool(x, window=3, stride=2, fit="ceil")
        for number, widths in _INCEPTIONS.items():
            name = f"inception{number}"
            kind = self.block(_Inception)
            x = kind(style, widths, self.branch_window, spacing.dilation, name=name)(x, train)
            yield name, x
            if number in ("3b", "4e"):
                window = 3 if number == "3b" else self.last_pool
                x = spacing.max_pool(x, window=window, stride=2, fit="ceil")

    @nn.nowrap
    def head(self, x: jax.Array, train: bool) -> jax.Array:
        """One dense layer on the average."""
        published = 0.4 if self.norm is None else 0.2
        return self.pooled_head(x, train, published, **_dense_inits(self.style, x.shape[-1], 0.0))

    @nn.nowrap
    def _response_normalized(self, x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, **_CAFFE) if self.local_response_norm else x

    @nn.nowrap
    def _auxiliary_scores(self, index: int, x: jax.Array, train: bool) -> jax.Array:
        # Both volumes have a stride of 16 as published.
        step = max(1, 16 // (self.output_stride or 16))
        x = x[..., ::step, ::step, :]
        if self.auxiliary_size is not None:
            x = ops.adaptive_avg_pool(x, self.auxiliary_size)
        else:
            height, width = x.shape[-3:-1]
            window = (min(5, height), min(5, width))
            x = ops.avg_pool(x, window=window, stride=3, fit="ceil")
        rate = 0.7 if self.dropout is None else self.dropout
        head = _AuxiliaryHead(self.style, self.num_classes, rate, name=f"aux{index}")
        return self.widened(head(x, train))


class _Inception(nn.Module):
    style: Style
    widths: _Widths
    branch_window: int
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        first, second, third, projected = self.widths
        pooled = dilated_max_pool(x, 3, 1, 1, "floor", self.dilation)
        branches = (
            (x, ((first, 1),)),
            (x, ((second[0], 1), (second[1], 3))),
            (x, ((third[0], 1), (third[1], self.branch_window))),
            (pooled, ((projected, 1),)),
        )
        outputs = [
            _Branch(self.style, convs, self.dilation, name=f"branch{i}")(volume, train)
            for i, (volume, convs) in enumerate(branches)
        ]
        return jnp.concatenate(outputs, axis=-1)


class _Branch(nn.Module):
    style: Style
    convs: tuple[tuple[int, int], ...]
    dilation: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for k, (features, window) in enumerate(self.convs):
            x = _convolved(self.style, k, x, train, features, window=window, dilation=self.dilation)
        return x


class _AuxiliaryHead(nn.Module):
    style: Style
    num_classes: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        style = self.style
        x = _convolved(style, 0, x, train, 128, window=1)
        x = x.reshape(*x.shape[:-3], -1)
        inits = _dense_inits(style, x.shape[-1], _BIAS)
        x = style.activate(Dense(1024, name="fc0", **style.dtypes, **inits)(x))
        if self.dropout:
            x = nn.Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        if not self.num_classes:
            return x
        inits = _dense_inits(style, x.shape[-1], 0.0)
        return Dense(self.num_classes, name="head", **style.dtypes, **inits)(x)


def _convolved(
    style: Style,
    index: int,
    x: jax.Array,
    train: bool,
    features: int,
    *,
    window: int,
    stride: int = 1,
    dilation: int = 1,
) -> jax.Array:
    """conv{index}, norm{index} and the activation; padding keeps the size at stride 1."""
    plain = style.norm is None
    layer = style.conv(
        f"conv{index}",
        features,
        window,
        stride=stride,
        padding=window // 2 * dilation,
        dilation=dilation,
        use_bias=plain,
        kernel_init=_XAVIER if plain else _NORMAL,
        bias_init=nn.initializers.constant(_BIAS),
    )
    return style.activate(style.normalize(f"norm{index}", layer(x), train))


def _dense_inits(style: Style, inputs: int, bias: float) -> dict[str, Any]:
    if style.norm is None:
        return {"kernel_init": _XAVIER, "bias_init": nn.initializers.constant(bias)}
    return torch_uniform(inputs) | {"kernel_init": _NORMAL}


def _num_channels(number: str) -> int:
    first, second, third, projected = _INCEPTIONS[number]
    return first + second[1] + third[1] + projected


NETWORKS: Mapping[str, Network] = MappingProxyType(
    {
        "googlenet_2014": GoogLeNet(),
        "googlenet": GoogLeNet(
            norm="batch",
            branch_window=3,
            last_pool=2,
            local_response_norm=False,
            auxiliary_size=(4, 4),
        ),
    }
)
