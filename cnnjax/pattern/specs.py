"""The tree's layers: one frozen dataclass a kind.

Every layer is hashable, compares by what it says and not by where it stood in a text, and prints
as its canonical text. A setting of None was not stated: a convolution's padding of None keeps the
size at stride 1, and a window, filters, features or shape of None waits for `bind`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from cnnjax.geometry import FITS, Fit, window_span
from cnnjax.pattern import _rules
from cnnjax.pattern._layer import Layer, pairs, value_text

__all__ = [
    "Activation",
    "BatchNorm",
    "Conv",
    "Dense",
    "Dropout",
    "FractionalPool",
    "GlobalAveragePool",
    "Input",
    "Layer",
    "LocalResponseNorm",
    "Pool",
]

PerAxis: TypeAlias = int | tuple[int, ...]
Padding: TypeAlias = str | int | tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Input(Layer):
    """The images: `INPUT[224x224x3]`, or `INPUT` until `bind` says.

    Attributes:
      shape: (*spatial, channels) without batch axes; as many spatial axes as there are sizes
        before the channels, none for vectors.

    >>> str(Input((16000, 1)))
    'INPUT[16000x1]'
    """

    shape: tuple[int, ...] | None = None

    rules: ClassVar[Mapping[str, _rules.Rule]] = {"shape": _rules.shape()}
    _word = "INPUT"

    def _head(self) -> str:
        return "INPUT" if self.shape is None else f"INPUT[{value_text(self.shape)}]"


@dataclass(frozen=True)
class Conv(Layer):
    """A convolution: `CONV3-64` has 3x3 windows and 64 filters.

    Attributes:
      window: taps, one number for all axes or one an axis.
      filters: number of filters.
      stride: step of the window in pixels.
      padding: "VALID", "SAME" (XLA's rule), "FULL", an integer, or (low, high) pairs an axis;
        not stated, (span - 1) / 2, which keeps the size at stride 1.
      dilation: spacing of the taps, 1 for none.
      groups: blocks the channels are split into.
      bias: whether each filter has a bias.
      fit: "exact" refuses windows that do not tile the padded input, "floor" leaves the last
        pixels unseen.

    >>> str(Conv((1, 7), 64, stride=(1, 2), padding="VALID"))
    'CONV1x7-64[stride=1x2, padding=VALID]'

    Source: CS231n course notes, "Convolutional Networks", layer patterns and sizing.
    """

    window: PerAxis | None = None
    filters: int | None = None
    stride: PerAxis = 1
    padding: Padding | None = None
    dilation: PerAxis = 1
    groups: int = 1
    bias: bool = True
    fit: Fit = "exact"

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "window": _rules.per_axis(1),
        "filters": _rules.integer(1),
        "stride": _rules.per_axis(1),
        "padding": _rules.padding(),
        "dilation": _rules.per_axis(1),
        "groups": _rules.integer(1),
        "bias": _rules.flag(),
        # No convolution lets a window hang over the end.
        "fit": _rules.name("exact", "floor"),
    }
    options = ("stride", "padding", "dilation", "groups", "bias", "fit")
    _word = "CONV"

    def _head(self) -> str:
        window = "" if self.window is None else value_text(self.window)
        filters = "" if self.filters is None else f"-{self.filters}"
        return f"CONV{window}{filters}"

    def _check_together(self) -> None:
        if self.filters is not None and self.filters % self.groups:
            raise self.fail(
                f"groups={self.groups} must divide the {self.filters} filters; the nearest "
                f"number of filters is {max(1, round(self.filters / self.groups)) * self.groups}"
            )
        if self.window is None or self.padding is not None:
            return
        for window, dilation in pairs(self.window, self.dilation):
            span = window_span(window, dilation)
            if span % 2 == 0:
                raise self.fail(
                    f"a window spanning {span} has no padding (span - 1) / 2 that keeps the size; "
                    f"state one, as in padding=SAME, padding=VALID or padding={span // 2}"
                )


@dataclass(frozen=True)
class Activation(Layer):
    """A nonlinearity, value by value: `RELU`, `LEAKYRELU0.1`, `TANH` or `SIGMOID`.

    Attributes:
      function: "relu", "leakyrelu", "tanh" or "sigmoid".
      slope: of "leakyrelu" alone, what negative values are multiplied by, in [0, 1); 0.01 there
        where it is not stated.

    >>> str(Activation("leakyrelu", 0.1))
    'LEAKYRELU0.1'
    """

    function: str = "relu"
    slope: float | None = None

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "function": _rules.name("relu", "leakyrelu", "tanh", "sigmoid"),
        "slope": _rules.real("a number in [0, 1)", lambda slope: 0 <= slope < 1),
    }

    def _check_together(self) -> None:
        if self.function == "leakyrelu":
            object.__setattr__(self, "slope", 0.01 if self.slope is None else self.slope)
        elif self.slope is not None:
            raise self.fail(f"slope={self.slope} belongs to LEAKYRELU")

    @property
    def word(self) -> str:
        """The name of the layer in a pattern."""
        return self.function.upper()

    def _head(self) -> str:
        return self.word + ("" if self.slope is None else repr(self.slope))


@dataclass(frozen=True)
class Pool(Layer):
    """Pooling: `POOL2` is the maximum of 2x2 at stride 2, `AVGPOOL3/2` a mean that overlaps.

    Attributes:
      window: pixels of the window, one number for all axes or one an axis.
      stride: step between windows; the window's own size where it is not stated.
      kind: "max", "avg", "l2" or "blur".
      padding: as in `Conv`, but none where it is not stated.
      fit: "exact" refuses windows that do not tile the padded input, "floor" leaves the last
        pixels unseen, "ceil" adds a window that hangs over the end.
      count_padding: for "avg" alone, whether the mean divides by padded pixels too.

    >>> str(Pool(3, 2, padding=1)), str(Pool(2, kind="l2"))
    ('POOL3/2[padding=1]', 'L2POOL2')
    """

    window: PerAxis | None = None
    stride: PerAxis | None = None
    kind: str = "max"
    padding: Padding = 0
    fit: Fit = "exact"
    count_padding: bool = False

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "window": _rules.per_axis(1),
        "stride": _rules.per_axis(1),
        "kind": _rules.name("max", "avg", "l2", "blur"),
        "padding": _rules.padding(),
        "fit": _rules.name(*FITS),
        "count_padding": _rules.flag(),
    }
    options = ("padding", "fit", "count_padding")

    def _check_together(self) -> None:
        if self.stride == self.window:
            object.__setattr__(self, "stride", None)
        if self.count_padding and self.kind != "avg":
            raise self.fail("count_padding belongs to AVGPOOL; padding never enters other kinds")

    @property
    def word(self) -> str:
        """The name of the layer in a pattern."""
        words = {"max": "POOL", "avg": "AVGPOOL", "l2": "L2POOL", "blur": "BLURPOOL"}
        return words[self.kind]

    def _head(self) -> str:
        window = "" if self.window is None else value_text(self.window)
        stride = "" if self.stride is None else f"/{value_text(self.stride)}"
        return self.word + window + stride


@dataclass(frozen=True)
class FractionalPool(Layer):
    """Maximum over drawn regions: `FRACPOOL[ratio=1.5]` (`cnnjax.ops.fractional_max_pool`).

    Attributes:
      ratio: in / out, at least 1, one number or one an axis; either this or `output_size`.
      output_size: regions an axis.
      window: pixels of a run, for "overlapping_window" alone.
      regions: "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped".
      randomness: "pseudorandom" or "random".
      share: one grid for the whole "batch", for each "image" or for each "channel".

    >>> str(FractionalPool(2**0.5, share="batch"))
    'FRACPOOL[ratio=1.4142135623730951, share=batch]'

    Source: Graham, "Fractional max-pooling" (2014).
    """

    ratio: float | tuple[float, ...] | None = None
    output_size: PerAxis | None = None
    window: PerAxis | None = None
    regions: str = "disjoint"
    randomness: str = "pseudorandom"
    share: str = "image"

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "ratio": _rules.reals_per_axis("a number of at least 1, or one an axis", lambda a: a >= 1),
        "output_size": _rules.per_axis(1),
        "window": _rules.per_axis(1),
        "regions": _rules.name(
            "disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped"
        ),
        "randomness": _rules.name("pseudorandom", "random"),
        "share": _rules.name("batch", "image", "channel"),
    }
    options = ("ratio", "output_size", "window", "regions", "randomness", "share")
    _word = "FRACPOOL"

    def _check_together(self) -> None:
        if (self.ratio is None) == (self.output_size is None):
            raise self.fail(
                "state either ratio (in / out) or output_size, as in FRACPOOL[ratio=1.5]"
            )
        if self.window is not None and self.regions != "overlapping_window":
            raise self.fail("window belongs to regions=overlapping_window")


@dataclass(frozen=True)
class LocalResponseNorm(Layer):
    """Local response normalisation: `LRN` alone is AlexNet's (`cnnjax.ops.local_response_norm`).

    Attributes:
      preset: whose constants hold where none is stated: "alexnet", "caffe", "pytorch" or
        "tensorflow" (`cnnjax.ops.LRN_PRESETS`).
      size: channels in the window.
      alpha: weight of the neighbours' squares.
      beta: the exponent.
      k: what is added.
      alpha_over: whether alpha weighs the "sum" or the "mean" of the squares.

    >>> str(LocalResponseNorm("caffe", size=3))
    'LRN[preset=caffe, size=3]'

    Source: Krizhevsky, Sutskever, Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks" (2012).
    """

    preset: str = "alexnet"
    size: int | None = None
    alpha: float | None = None
    beta: float | None = None
    k: float | None = None
    alpha_over: str | None = None

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "preset": _rules.name("alexnet", "caffe", "pytorch", "tensorflow"),
        "size": _rules.integer(1),
        "alpha": _rules.real("a number of at least 0", lambda alpha: alpha >= 0),
        "beta": _rules.real("a number", lambda beta: True),
        "k": _rules.real("a number above 0", lambda k: k > 0),
        "alpha_over": _rules.name("sum", "mean"),
    }
    options = ("preset", "size", "alpha", "beta", "k", "alpha_over")
    _word = "LRN"


@dataclass(frozen=True)
class BatchNorm(Layer):
    """Batch normalisation over all axes but the channels: `BN` (Ioffe and Szegedy, 2015).

    Attributes:
      momentum: what the running averages keep of themselves at each step, in [0, 1).
      epsilon: what is added to the variance, above 0.

    >>> str(BatchNorm(momentum=0.99))
    'BN[momentum=0.99]'
    """

    momentum: float = 0.9
    epsilon: float = 1e-5

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "momentum": _rules.real("a number in [0, 1)", lambda momentum: 0 <= momentum < 1),
        "epsilon": _rules.real("a number above 0", lambda epsilon: epsilon > 0),
    }
    options = ("momentum", "epsilon")
    _word = "BN"


@dataclass(frozen=True)
class Dropout(Layer):
    """Dropout of single values while training: `DROPOUT0.5` (Srivastava et al., 2014).

    Attributes:
      rate: the probability of a value's being dropped, in [0, 1).

    >>> str(Dropout())
    'DROPOUT0.5'
    """

    rate: float = 0.5

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "rate": _rules.real("a number in [0, 1)", lambda rate: 0 <= rate < 1)
    }
    _word = "DROPOUT"

    def _head(self) -> str:
        return f"DROPOUT{self.rate!r}"


@dataclass(frozen=True)
class GlobalAveragePool(Layer):
    """The mean over the whole image, which leaves a vector of channels: `GAP` (Lin et al., 2013).

    >>> str(GlobalAveragePool())
    'GAP'
    """

    _word = "GAP"


@dataclass(frozen=True)
class Dense(Layer):
    """A fully connected layer, over all values of an image: `FC-4096`.

    Attributes:
      features: number of outputs.
      bias: whether each output has a bias.

    >>> str(Dense(10, bias=False))
    'FC-10[bias=false]'
    """

    features: int | None = None
    bias: bool = True

    rules: ClassVar[Mapping[str, _rules.Rule]] = {
        "features": _rules.integer(1),
        "bias": _rules.flag(),
    }
    options = ("bias",)
    _word = "FC"

    def _head(self) -> str:
        return "FC" if self.features is None else f"FC-{self.features}"
