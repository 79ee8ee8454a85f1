"""Windows, padding rules and output sizes: plain integers, one named rule a function.

Everything here is static: Python integers in, Python integers out, errors before any tracing.
A window of F taps with dilation d spans d(F - 1) + 1 pixels; on W pixels padded by (low, high)
with stride S it has (W + low + high - span) / S + 1 positions. When S does not divide the
numerator the window does not fit: `fit` says whether that is an error ("exact"), whether the
last pixels go unseen ("floor", what every framework does for convolutions), or whether one more
window hangs over the end ("ceil", Caffe's pooling).
"""

import operator
from collections.abc import Sequence
from typing import Literal, SupportsIndex, TypeAlias

AxisPadding: TypeAlias = str | SupportsIndex | Sequence[SupportsIndex]
Padding: TypeAlias = str | SupportsIndex | Sequence[SupportsIndex | Sequence[SupportsIndex]]
PerAxis: TypeAlias = SupportsIndex | Sequence[SupportsIndex]
Fit: TypeAlias = Literal["exact", "floor", "ceil"]

PADDING_NAMES = ("VALID", "SAME", "FULL")
FITS = ("exact", "floor", "ceil")

__all__ = [
    "FITS",
    "PADDING_NAMES",
    "AxisPadding",
    "Fit",
    "Padding",
    "PerAxis",
    "axis_padding",
    "check_name",
    "output_shape",
    "output_size",
    "padding_pairs",
    "per_axis",
    "window_span",
]


def window_span(window: int, dilation: int = 1) -> int:
    """Pixels from the first to the last tap of a dilated window: d(F - 1) + 1.

    >>> window_span(3, dilation=2)
    5
    """
    return dilation * (window - 1) + 1


def output_size(
    size: SupportsIndex,
    window: SupportsIndex,
    *,
    stride: SupportsIndex = 1,
    padding: AxisPadding = 0,
    dilation: SupportsIndex = 1,
    fit: Fit = "exact",
) -> int:
    """Number of window positions along one axis: (W + low + high - span) / S + 1.

    Args:
      size: pixels of the input along the axis, W >= 1.
      window: taps of the window, F >= 1.
      stride: step between windows in pixels, S >= 1.
      padding: pixels added on each side, a (low, high) pair, or "VALID", "SAME", "FULL".
      dilation: spacing of the taps; 1 is no gap (some notes count that as 0).
      fit: "exact" raises when the windows do not tile the padded input; "floor" leaves the
        last pixels unseen; "ceil" adds a window that hangs over the end, provided that it
        starts inside the input or the low padding (the rule of Caffe and PyTorch).

    Returns:
      The number of positions, at least 1.

    Raises:
      ValueError: a number out of range, an unknown name, a span larger than the padded input,
        or, with fit="exact", windows that do not tile it.
      TypeError: a number that is not an integer.

    >>> output_size(227, 11, stride=4)  # AlexNet's first layer (Krizhevsky et al., 2012)
    55
    >>> output_size(10, 3, stride=2, fit="floor"), output_size(10, 3, stride=2, fit="ceil")
    (4, 5)
    >>> output_size(10, 3, stride=2)
    Traceback (most recent call last):
    ValueError: output_size: a window spanning 3 at stride 2 does not tile 10 pixels ...

    Source: CS231n course notes, "Convolutional Networks", spatial arrangement.
    """
    size = _integer("output_size", "size", size, 1)
    window = _integer("output_size", "window", window, 1)
    stride = _integer("output_size", "stride", stride, 1)
    dilation = _integer("output_size", "dilation", dilation, 1)
    check_name("output_size", "fit", fit, FITS)
    low, high = axis_padding(padding, size, window, stride=stride, dilation=dilation)
    span = window_span(window, dilation)
    room = size + low + high - span
    if room < 0:
        raise ValueError(
            f"output_size: a window spanning {span} (window {window}, dilation {dilation}) is "
            f"larger than the padded input of {size} + {low} + {high} = {size + low + high} "
            "pixels; use a smaller window or more padding"
        )
    steps, unseen = divmod(room, stride)
    if unseen and fit == "exact":
        raise ValueError(
            f"output_size: a window spanning {span} at stride {stride} does not tile {size} "
            f"pixels padded by ({low}, {high}): ({size} + {low + high} - {span}) / {stride} + 1 "
            f"= {room / stride + 1:g}; pad {stride - unseen} more, crop {unseen}, or choose "
            'fit="floor" or fit="ceil"'
        )
    if unseen and fit == "ceil" and (steps + 1) * stride < size + low:
        steps += 1
    return steps + 1


def output_shape(
    shape: Sequence[SupportsIndex],
    window: PerAxis,
    *,
    stride: PerAxis = 1,
    padding: Padding = 0,
    dilation: PerAxis = 1,
    fit: Fit = "exact",
) -> tuple[int, ...]:
    """`output_size` for every axis of a spatial shape.

    >>> output_shape((32, 48), 5, stride=(1, 2), padding=((2, 2), (2, 1)))
    (32, 24)
    """
    sizes = tuple(operator.index(size) for size in shape)
    windows = per_axis("output_shape", "window", window, len(sizes))
    strides = per_axis("output_shape", "stride", stride, len(sizes))
    dilations = per_axis("output_shape", "dilation", dilation, len(sizes))
    pairs = padding_pairs(
        "output_shape", padding, sizes, windows, stride=strides, dilation=dilations
    )
    return tuple(
        output_size(size, w, stride=s, padding=p, dilation=d, fit=fit)
        for size, w, s, p, d in zip(sizes, windows, strides, pairs, dilations, strict=True)
    )


def axis_padding(
    padding: AxisPadding, size: int, window: int, *, stride: int = 1, dilation: int = 1
) -> tuple[int, int]:
    """Pixels added before and after one axis by a padding rule.

    "VALID" adds none. "SAME" is XLA's rule: ceil(W / S) outputs, the odd pixel at the end (so
    3 taps at stride 2 on an even size pad (0, 1), where PyTorch's `padding=1` pads (1, 1)).
    "FULL" adds span - 1 on each side, so that every pixel is visited equally often.

    >>> axis_padding("SAME", 224, 3, stride=2), axis_padding("FULL", 10, 3), axis_padding(1, 9, 3)
    ((0, 1), (2, 2), (1, 1))
    """
    span = window_span(window, dilation)
    if isinstance(padding, str):
        match padding:
            case "VALID":
                return 0, 0
            case "SAME":
                num_outputs = -(-size // stride)
                total = max((num_outputs - 1) * stride + span - size, 0)
                return total // 2, total - total // 2
            case "FULL":
                return span - 1, span - 1
        raise ValueError(
            f"padding: unknown name {padding!r}; use one of {PADDING_NAMES}, an integer, or "
            "(low, high) pairs"
        )
    if isinstance(padding, Sequence):
        if len(padding) != 2:
            raise ValueError(f"padding: one axis takes a (low, high) pair, got {padding!r}")
        return (
            _integer("padding", "low", padding[0], 0),
            _integer("padding", "high", padding[1], 0),
        )
    both = _integer("padding", "padding", padding, 0)
    return both, both


def per_axis(
    function: str, name: str, value: PerAxis, rank: int, *, minimum: int = 1
) -> tuple[int, ...]:
    """One integer for each of `rank` axes, from an integer or a sequence of that length.

    >>> per_axis("conv", "stride", 2, 3)
    (2, 2, 2)
    """
    if isinstance(value, Sequence):
        if len(value) != rank:
            raise ValueError(
                f"{function}: {name} has {len(value)} values {tuple(value)} for {rank} spatial "
                f"axes; give one integer or {rank} of them"
            )
        return tuple(_integer(function, name, v, minimum) for v in value)
    return (_integer(function, name, value, minimum),) * rank


def check_name(function: str, name: str, value: object, known: Sequence[str]) -> None:
    """Refuse a value that is none of the known names.

    >>> check_name("conv", "padding", "same", ("VALID", "SAME"))
    Traceback (most recent call last):
    ValueError: conv: padding must be one of ('VALID', 'SAME'), got 'same'
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{function}: {name} must be one of {tuple(known)}, got {value!r}")


def padding_pairs(
    function: str,
    padding: Padding,
    sizes: Sequence[int],
    windows: Sequence[int],
    *,
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[tuple[int, int], ...]:
    """A (low, high) pair for each axis, from a name, an integer, or one entry an axis.

    >>> padding_pairs("conv", [1, (0, 2)], (8, 8), (3, 3), stride=(1, 1), dilation=(1, 1))
    ((1, 1), (0, 2))
    """
    rank = len(sizes)
    entries: Sequence[AxisPadding]
    if isinstance(padding, str | SupportsIndex):
        entries = (padding,) * rank
    elif not isinstance(padding, Sequence):
        raise TypeError(
            f"{function}: padding must be a name of {PADDING_NAMES}, one integer, or {rank} "
            f"integers or (low, high) pairs, got {padding!r}"
        )
    elif len(padding) != rank:
        raise ValueError(
            f"{function}: padding has {len(padding)} entries {padding!r} for {rank} spatial axes; "
            f"give a name of {PADDING_NAMES}, one integer, or {rank} integers or (low, high) pairs"
        )
    else:
        entries = padding
    try:
        return tuple(
            axis_padding(entry, size, window, stride=s, dilation=d)
            for entry, size, window, s, d in zip(
                entries, sizes, windows, stride, dilation, strict=True
            )
        )
    except (TypeError, ValueError) as error:
        raise type(error)(f"{function}: {error}") from None


def _integer(function: str, name: str, value: object, minimum: int) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{function}: {name} must be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:  # An array of several values has __index__ too.
        raise TypeError(f"{function}: {name} must be an integer, got {value!r}") from None
    if number < minimum:
        raise ValueError(f"{function}: {name} must be at least {minimum}, got {number}")
    return number
