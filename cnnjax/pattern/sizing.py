"""The volumes between the layers of a pattern: shapes, parameters, and what does not fit.

A window of F taps spanning d (F - 1) + 1 pixels, on W pixels padded by (low, high), at stride S,
has (W + low + high - span) / S + 1 positions. Where that is no integer the layer does not fit,
which frameworks hide by flooring; here it is an error until the layer says fit=floor.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from cnnjax import geometry, ops
from cnnjax.geometry import Fit
from cnnjax.pattern import specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern.binding import expand
from cnnjax.pattern.errors import PatternError
from cnnjax.pattern.tree import Pattern

__all__ = ["AxisWindow", "NearestFits", "Volume", "layer_names", "volumes"]


@dataclass(frozen=True)
class Volume:
    """One layer of a written-out pattern and what comes out of it.

    Attributes:
      name: the layer's word in lower case and a number from zero for each word: "conv0"; for
        layers with parameters the name of the submodule in `to_module`.
      layer: the layer.
      shape: what comes out, (*spatial, channels), or (features,) after FC and GAP.
      num_parameters: learned numbers: weights and biases, or scales and offsets of BN.

    >>> Volume("conv0", specs.Conv(3, 64), (224, 224, 64), 1792).num_values
    3211264
    """

    name: str
    layer: Layer
    shape: tuple[int, ...]
    num_parameters: int

    @property
    def num_values(self) -> int:
        """Values that come out for one image."""
        return math.prod(self.shape)


class NearestFits(NamedTuple):
    """Settings next to one that does not fit, each with all others kept.

    Attributes:
      sizes: pixels of the layer's input, the nearest below and above.
      paddings: (low, high), with the nearest smaller and larger sums.
      strides: the nearest below and above.
    """

    sizes: tuple[int, ...]
    paddings: tuple[tuple[int, int], ...]
    strides: tuple[int, ...]


class AxisWindow(NamedTuple):
    """The window of a layer along one axis, in pixels; `span` counts the gaps of dilation."""

    size: int
    window: int
    stride: int
    low: int
    high: int
    dilation: int

    @property
    def span(self) -> int:
        """Pixels from the first to the last tap."""
        return geometry.window_span(self.window, self.dilation)

    @property
    def room(self) -> int:
        """Pixels of the padded input that the first window leaves; negative: it does not fit."""
        return self.size + self.low + self.high - self.span

    @property
    def unseen(self) -> int:
        """Pixels at the end that no window sees when the positions are floored."""
        return self.room % self.stride

    def nearest(self) -> NearestFits:
        """Settings that tile, next to these.

        >>> AxisWindow(size=10, window=3, stride=2, low=0, high=0, dilation=1).nearest()
        NearestFits(sizes=(9, 11), paddings=((0, 1),), strides=(1,))
        """
        if self.room < 0:
            # The smallest that hold one window.
            missing = -self.room
            return NearestFits((self.size + missing,), (self._split(missing),), ())
        more = self.stride - self.unseen
        sizes = [n for n in (self.size - self.unseen, self.size + more) if n >= 1]
        fewer = [self._split(-self.unseen)] if self.low + self.high >= self.unseen else []
        divisors = [s for s in range(1, self.room + 1) if self.room % s == 0]
        below = [s for s in divisors if s < self.stride][-1:]
        # A stride beyond the window would pass over pixels.
        above = [s for s in divisors if self.stride < s <= self.span][:1]
        return NearestFits(tuple(sizes), (*fewer, self._split(more)), tuple(below + above or [1]))

    def _split(self, change: int) -> tuple[int, int]:
        """The padding's sum changed; spread evenly, an odd pixel at the end."""
        total = self.low + self.high + change
        return total // 2, total - total // 2


def volumes(pattern: Pattern) -> tuple[Volume, ...]:
    """What comes out of each layer, by `cnnjax.geometry`'s sizes, and its parameters.

    Args:
      pattern: a pattern that starts with INPUT and leaves nothing open.

    Returns:
      One volume for each layer of the written-out pattern, INPUT the first.

    Raises:
      PatternError: something open, no INPUT, or a layer that cannot take what comes to it: windows
        that do not tile while fit is "exact", a window larger than the padded image, groups that
        do not divide the channels, an image wanted where there is a vector.
      TypeError: something that is no pattern.

    >>> from cnnjax.pattern import parse
    >>> for volume in volumes(parse("INPUT[32x32x3] -> CONV5-10 -> RELU -> POOL2 -> FC-10")):
    ...     print(volume.name, volume.shape, volume.num_parameters)
    input0 (32, 32, 3) 0
    conv0 (32, 32, 10) 760
    relu0 (32, 32, 10) 0
    pool0 (16, 16, 10) 0
    fc0 (10,) 25610

    Source: CS231n course notes, "Convolutional Networks", spatial arrangement.
    """
    layers = input_first("volumes", pattern)
    found: list[Volume] = []
    shape: tuple[int, ...] = ()
    for name, layer in zip(layer_names(layers), layers, strict=True):
        out = output_shape(layer, shape)
        found.append(Volume(name, layer, out, num_parameters(layer, shape)))
        shape = out
    return tuple(found)


def input_first(function: str, pattern: Pattern) -> tuple[Layer, ...]:
    """The written-out layers, the first of which is INPUT."""
    if not isinstance(pattern, Pattern):
        raise TypeError(
            f"{function}: pattern must be a Pattern, got {pattern!r}; parse(text) makes one"
        )
    layers = expand(pattern)
    if not layers or not isinstance(layers[0], specs.Input):
        raise PatternError(
            f"{function}: the first layer must be INPUT with its sizes, as in INPUT[224x224x3]",
            layers[0].source if layers else None,
        )
    return layers


def layer_names(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Each layer's word in lower case with a number from zero.

    >>> layer_names([specs.Conv(3, 4), specs.Pool(2), specs.Conv(3, 4)])
    ('conv0', 'pool0', 'conv1')
    """
    counts: dict[str, int] = {}
    names = []
    for layer in layers:
        word = layer.word.lower()
        names.append(f"{word}{counts.setdefault(word, 0)}")
        counts[word] += 1
    return tuple(names)


def output_shape(layer: Layer, shape: tuple[int, ...], fit: str | None = None) -> tuple[int, ...]:
    """The shape that a layer makes of another, with its own fit unless one is given."""
    match layer:
        case specs.Input():
            return cast(tuple[int, ...], layer.shape)
        case specs.Conv() | specs.Pool():
            axes = windows(layer, shape)
            _check_windows(layer, shape, axes, fit or layer.fit)
            sizes = tuple(positions(axis, fit or layer.fit) for axis in axes)
            return (*sizes, shape[-1] if isinstance(layer, specs.Pool) else layer.filters or 0)
        case specs.FractionalPool():
            _need_image(layer, shape)
            return _fractional_shape(layer, shape)
        case specs.GlobalAveragePool():
            _need_image(layer, shape)
            return shape[-1:]
        case specs.Dense():
            return (layer.features or 0,)
    return shape


def num_parameters(layer: Layer, shape: tuple[int, ...]) -> int:
    """Learned numbers of a layer over an input of a shape."""
    match layer:
        case specs.Conv():
            taps = math.prod(axis.window for axis in windows(layer, shape))
            filters = layer.filters or 0
            return taps * (shape[-1] // layer.groups) * filters + layer.bias * filters
        case specs.Dense():
            return (math.prod(shape) + layer.bias) * (layer.features or 0)
        case specs.BatchNorm():
            return 2 * shape[-1]
    return 0


def windows(layer: "specs.Conv | specs.Pool", shape: tuple[int, ...]) -> tuple[AxisWindow, ...]:
    """The windows of a layer over an input of a shape, axis by axis."""
    _need_image(layer, shape)
    spatial = shape[:-1]
    rank = len(spatial)
    stride = layer.window if layer.stride is None else layer.stride
    dilation = layer.dilation if isinstance(layer, specs.Conv) else 1
    try:
        taps, strides, dilations = (
            geometry.per_axis(layer.word, name, cast(Any, value), rank)
            for name, value in (
                ("window", layer.window),
                ("stride", stride),
                ("dilation", dilation),
            )
        )
        padding = layer.padding
        if padding is None:
            spans = map(geometry.window_span, taps, dilations)
            padding = tuple(((span - 1) // 2,) * 2 for span in spans)
        sides = geometry.padding_pairs(
            layer.word, padding, spatial, taps, stride=strides, dilation=dilations
        )
    except ValueError as error:
        raise layer.fail(str(error)) from None
    return tuple(
        AxisWindow(size, window, s, low, high, d)
        for size, window, s, (low, high), d in zip(
            spatial, taps, strides, sides, dilations, strict=True
        )
    )


def misfit(axes: Sequence[AxisWindow]) -> int | None:
    """The first axis along which the windows do not tile the padded input."""
    return next((number for number, axis in enumerate(axes) if axis.room < 0 or axis.unseen), None)


def misfit_text(layer: "specs.Conv | specs.Pool", axis: AxisWindow, number: int) -> str:
    """What does not fit, with the formula's numbers."""
    along = f"along axis {number} a window spanning {axis.span} at stride {axis.stride}"
    padded = f"{axis.size} + {axis.low} + {axis.high}"
    if axis.room < 0:
        return f"{along} is larger than the padded input of {padded} pixels"
    positions = axis.room / axis.stride + 1
    return f"{along} has ({padded} - {axis.span}) / {axis.stride} + 1 = {positions:g} positions"


def nearest_text(layer: "specs.Conv | specs.Pool", axis: AxisWindow) -> str:
    """The nearest settings that fit, in words."""
    near = axis.nearest()
    paddings = near.paddings
    if isinstance(layer, specs.Pool):
        # Padding as wide as the window would make a window that sees nothing else.
        paddings = tuple(pair for pair in paddings if max(pair) < axis.window)
    fits = ["an input of " + _or(near.sizes)] if near.sizes else []
    fits += ["padding of (low, high) " + _or(paddings)] if paddings else []
    fits += ["a stride of " + _or(near.strides)] if near.strides else []
    return ", ".join(fits)


def _check_windows(
    layer: "specs.Conv | specs.Pool",
    shape: tuple[int, ...],
    axes: Sequence[AxisWindow],
    fit: str,
) -> None:
    if isinstance(layer, specs.Conv) and shape[-1] % layer.groups:
        raise layer.fail(
            f"groups={layer.groups} must divide the {shape[-1]} channels that come in and the "
            f"{layer.filters} filters"
        )
    if isinstance(layer, specs.Pool):
        for axis in axes:
            if axis.window <= max(axis.low, axis.high):
                raise layer.fail(
                    f"padding ({axis.low}, {axis.high}) must stay below the window of "
                    f"{axis.window}, else a window sees only padding"
                )
    number = misfit(axes)
    if number is None or (fit != "exact" and all(axis.room >= 0 for axis in axes)):
        return
    if fit != "exact":
        number = next(n for n, axis in enumerate(axes) if axis.room < 0)
    axis = axes[number]
    message = f"{misfit_text(layer, axis, number)}; nearest that fit: {nearest_text(layer, axis)}"
    if axis.room >= 0:
        message += f"; fit=floor leaves the last {axis.unseen} of the padded input unseen"
        if isinstance(layer, specs.Pool):
            message += ", fit=ceil adds a window"
    raise layer.fail(message)


def positions(axis: AxisWindow, fit: str) -> int:
    """Number of windows along an axis."""
    return geometry.output_size(
        axis.size,
        axis.window,
        stride=axis.stride,
        padding=(axis.low, axis.high),
        dilation=axis.dilation,
        fit=cast(Fit, fit),
    )


def _need_image(layer: Layer, shape: tuple[int, ...]) -> None:
    if len(shape) < 2:
        raise layer.fail(
            f"an image (*spatial, channels) is needed, but what comes in is a vector of {shape[0]} "
            "values; FC and GAP flatten, so put it before them"
        )


def fractional_arguments(layer: specs.FractionalPool, rank: int) -> dict[str, Any]:
    """The keyword arguments of `cnnjax.ops.fractional_max_pool`, one value an axis."""

    def every_axis(setting: str) -> Any:
        value = getattr(layer, setting)
        if isinstance(value, tuple) and len(value) != rank:
            raise layer.fail(
                f"{setting} has {len(value)} values for {rank} spatial axes; give one or {rank}"
            )
        return value if value is None or isinstance(value, tuple) else (value,) * rank

    return {
        "output_size": every_axis("output_size"),
        "ratio": every_axis("ratio"),
        "window": every_axis("window"),
        "randomness": layer.randomness,
        "regions": layer.regions,
        "share": layer.share,
    }


def _fractional_shape(layer: specs.FractionalPool, shape: tuple[int, ...]) -> tuple[int, ...]:
    # The function itself says, so that there is one rule for its sizes.
    arguments = fractional_arguments(layer, len(shape) - 1)
    pool = functools.partial(ops.fractional_max_pool, **arguments)
    try:
        key = jax.eval_shape(lambda: jax.random.key(0))
        out = jax.eval_shape(pool, jax.ShapeDtypeStruct((1, *shape), jnp.float32), key)
    except ValueError as error:
        raise layer.fail(str(error)) from None
    return tuple(out.shape[1:])


def _or(values: Sequence[Any]) -> str:
    return " or ".join(map(str, values))
