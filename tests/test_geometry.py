"""Sizes and paddings against quoted examples, brute-force counts and XLA."""

import math

import jax
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from oracles import window_starts

from cnnjax import geometry
from cnnjax.geometry import axis_padding, output_shape, output_size, padding_pairs, per_axis

CS231N = "CS231n notes, Convolutional Networks"

many_examples = settings(max_examples=300, deadline=None, derandomize=True)

AXIS = {
    "size": st.integers(1, 24),
    "window": st.integers(1, 6),
    "stride": st.integers(1, 5),
    "low": st.integers(0, 5),
    "high": st.integers(0, 5),
    "dilation": st.integers(1, 3),
}


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "expected"),
    [
        pytest.param(5, 3, 1, 1, 5, id=f"{CS231N}: W=5 F=3 P=1 S=1"),
        pytest.param(5, 3, 2, 1, 3, id=f"{CS231N}: W=5 F=3 P=1 S=2"),
        pytest.param(227, 11, 4, 0, 55, id=f"{CS231N}: AlexNet conv1"),
        pytest.param(32, 5, 1, 2, 32, id=f"{CS231N}: ten 5x5 filters on 32x32"),
        pytest.param(11, 5, 2, 0, 4, id=f"{CS231N}: 11x11x4 volume"),
        pytest.param(224, 2, 2, 0, 112, id=f"{CS231N}: 2x2 pooling of 224x224x64"),
    ],
)
def test_output_size_of_quoted_example(size, window, stride, padding, expected):
    assert output_size(size, window, stride=stride, padding=padding) == expected


def test_quoted_example_that_does_not_fit_raises_and_is_floored_or_ceiled():
    # CS231n notes: W=10 F=3 P=0 S=2 does not fit.
    message = r"does not tile 10 pixels padded by \(0, 0\): .* = 4.5; .*fit=\"floor\" or fit=\"ceil"
    with pytest.raises(ValueError, match=message):
        output_size(10, 3, stride=2)
    assert output_size(10, 3, stride=2, fit="floor") == 4
    assert output_size(10, 3, stride=2, fit="ceil") == 5


def test_ceil_adds_no_window_that_would_start_in_the_high_padding():
    # CS231n notes: W=5 F=3 P=1 S=3 does not fit; its third window would start at pixel 5 of 0..4.
    with pytest.raises(ValueError, match=r"does not tile 5 pixels padded by \(1, 1\)"):
        output_size(5, 3, stride=3, padding=1)
    assert output_size(5, 3, stride=3, padding=1, fit="floor") == 2
    assert output_size(5, 3, stride=3, padding=1, fit="ceil") == 2


@pytest.mark.parametrize("window", [1, 3, 5, 7, 11])
def test_half_padding_of_an_odd_window_keeps_the_size_at_stride_1(window):
    # CS231n notes: P = (F - 1) / 2.
    assert output_size(17, window, padding=(window - 1) // 2) == 17


@given(window=st.integers(1, 12), dilation=st.integers(1, 6))
def test_window_span_reaches_from_the_first_to_the_last_tap(window, dilation):
    taps = range(0, window * dilation, dilation)
    assert geometry.window_span(window, dilation) == taps[-1] - taps[0] + 1


@many_examples
@given(**AXIS)
@pytest.mark.parametrize("fit", ["floor", "ceil"])
def test_output_size_counts_the_window_positions(fit, size, window, stride, low, high, dilation):
    starts = window_starts(size, window, stride, low, high, dilation, fit="floor")
    assume(starts)
    starts = window_starts(size, window, stride, low, high, dilation, fit=fit)
    assert output_size(
        size, window, stride=stride, padding=(low, high), dilation=dilation, fit=fit
    ) == len(starts)


@many_examples
@given(**AXIS)
def test_exact_raises_if_and_only_if_the_windows_do_not_tile(
    size, window, stride, low, high, dilation
):
    starts = window_starts(size, window, stride, low, high, dilation)
    assume(starts)
    tiled = starts[-1] + dilation * (window - 1) == size + high - 1

    def exact():
        return output_size(size, window, stride=stride, padding=(low, high), dilation=dilation)

    if tiled:
        assert exact() == len(starts)
    else:
        with pytest.raises(ValueError, match="does not tile"):
            exact()


@many_examples
@given(**AXIS)
def test_ceil_is_the_rule_that_pytorch_documents(size, window, stride, low, high, dilation):
    # torch.nn.MaxPool2d: "sliding windows are allowed to go off-bounds if they start within the
    # left padding or the input. Sliding windows that would start in the right padded region are
    # ignored." PyTorch takes paddings of at most half a window.
    assume(2 * max(low, high) <= window)
    room = size + low + high - dilation * (window - 1) - 1
    assume(room >= 0)
    count = math.ceil(room / stride) + 1
    if (count - 1) * stride >= size + low:
        count -= 1
    assert count == output_size(
        size, window, stride=stride, padding=(low, high), dilation=dilation, fit="ceil"
    )


@many_examples
@given(
    size=st.integers(1, 4),
    window=st.integers(4, 9),
    stride=AXIS["stride"],
    low=st.integers(0, 1),
    high=st.integers(0, 2),
    dilation=AXIS["dilation"],
)
def test_window_larger_than_the_padded_input_raises(size, window, stride, low, high, dilation):
    assume(not window_starts(size, window, stride, low, high, dilation))
    with pytest.raises(ValueError, match=r"larger than the padded input of .*use a smaller window"):
        output_size(size, window, stride=stride, padding=(low, high), dilation=dilation)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(size=AXIS["size"], window=AXIS["window"], stride=AXIS["stride"], dilation=AXIS["dilation"])
def test_same_is_the_rule_of_xla(size, window, stride, dilation):
    pair = axis_padding("SAME", size, window, stride=stride, dilation=dilation)
    # XLA's own rule, which takes the span of the dilated window as its size.
    span = (window - 1) * dilation + 1
    assert pair == tuple(lax.padtype_to_pads((size,), (span,), (stride,), "SAME")[0])
    traced = jax.eval_shape(
        lambda x, k: lax.conv_general_dilated(
            x,
            k,
            (stride,),
            "SAME",
            rhs_dilation=(dilation,),
            dimension_numbers=("NWC", "WIO", "NWC"),
        ),
        jax.ShapeDtypeStruct((1, size, 1), np.float32),
        jax.ShapeDtypeStruct((window, 1, 1), np.float32),
    )
    num_outputs = output_size(
        size, window, stride=stride, padding="SAME", dilation=dilation, fit="floor"
    )
    assert num_outputs == traced.shape[1] == math.ceil(size / stride)


@many_examples
@given(size=AXIS["size"], window=AXIS["window"], dilation=AXIS["dilation"])
def test_full_padding_visits_every_pixel_equally_often(size, window, dilation):
    low, high = axis_padding("FULL", size, window, dilation=dilation)
    assert low == high == (window - 1) * dilation
    visits = np.zeros(size, int)
    for start in window_starts(size, window, 1, low, high, dilation):
        for tap in range(window):
            pixel = start + tap * dilation
            if 0 <= pixel < size:
                visits[pixel] += 1
    assert set(visits) == {window}


def test_valid_adds_nothing_and_an_integer_both_sides():
    assert axis_padding("VALID", 10, 3) == (0, 0)
    assert axis_padding(2, 10, 3) == (2, 2)
    assert axis_padding((1, 2), 10, 3) == (1, 2)


def test_same_pads_the_odd_pixel_at_the_end():
    # FACTS: XLA pads (0, 1) where PyTorch's padding=1 pads (1, 1).
    assert axis_padding("SAME", 224, 3, stride=2) == (0, 1)


@pytest.mark.parametrize(
    "sizes", [(5, 6, 7), (5, 9, 7), (8, 6, 7), (8, 9, 7)], ids=lambda s: "x".join(map(str, s))
)
def test_output_shape_is_output_size_along_each_axis(sizes):
    statics = {
        "window": (3, 2, 1),
        "stride": (2, 1, 3),
        "padding": ((1, 0), (0, 2), (1, 1)),
        "dilation": (1, 3, 2),
    }
    expected = tuple(
        output_size(size, w, stride=s, padding=p, dilation=d, fit="floor")
        for size, w, s, p, d in zip(sizes, *statics.values(), strict=True)
    )
    window = statics.pop("window")
    assert output_shape(sizes, window, fit="floor", **statics) == expected


def test_numpy_integers_are_integers():
    assert output_size(np.int64(227), np.int32(11), stride=np.int8(4)) == 55
    assert per_axis("conv", "stride", [np.int64(2), 3], 2) == (2, 3)


def test_padding_entries_may_mix_names_integers_and_pairs():
    pairs = padding_pairs(
        "conv", ["SAME", 2, (0, 1)], (8, 8, 8), (3, 3, 3), stride=(1, 1, 1), dilation=(1, 1, 1)
    )
    assert pairs == ((1, 1), (2, 2), (0, 1))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"size": 0}, ValueError, r"output_size: size must be at least 1, got 0"),
        ({"window": 0}, ValueError, r"output_size: window must be at least 1, got 0"),
        ({"stride": 0}, ValueError, r"output_size: stride must be at least 1, got 0"),
        ({"dilation": 0}, ValueError, r"output_size: dilation must be at least 1, got 0"),
        ({"size": 8.0}, TypeError, r"output_size: size must be an integer, got 8.0"),
        ({"window": True}, TypeError, r"output_size: window must be an integer, got True"),
        ({"stride": "2"}, TypeError, r"output_size: stride must be an integer, got '2'"),
        ({"dilation": None}, TypeError, r"output_size: dilation must be an integer, got None"),
        ({"fit": "round"}, ValueError, r"fit must be one of \('exact', 'floor', 'ceil'\), got 'ro"),
        ({"padding": -1}, ValueError, r"padding: padding must be at least 0, got -1"),
        ({"padding": (0, -1)}, ValueError, r"padding: high must be at least 0, got -1"),
        ({"padding": (-2, 0)}, ValueError, r"padding: low must be at least 0, got -2"),
        ({"padding": (1, 2, 3)}, ValueError, r"one axis takes a \(low, high\) pair, got \(1, 2, 3"),
        ({"padding": 1.5}, TypeError, r"padding: padding must be an integer, got 1.5"),
        ({"padding": "same"}, ValueError, r"padding: unknown name 'same'; use one of .*'SAME'"),
        ({"padding": True}, TypeError, r"padding: padding must be an integer, got True"),
        ({"size": 3, "window": 5}, ValueError, r"spanning 5 \(window 5, dilation 1\) is larger"),
        ({"window": 3, "stride": 2}, ValueError, r"pad 1 more, crop 1, or choose fit=\"floor\""),
    ],
)
def test_output_size_error_says_what_came_and_what_to_write(arguments, error, message):
    arguments = {"size": 8, "window": 3} | arguments
    size, window = arguments.pop("size"), arguments.pop("window")
    with pytest.raises(error, match=message):
        output_size(size, window, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"window": (3, 3, 3)},
            r"output_shape: window has 3 values \(3, 3, 3\) for 2 spatial",
        ),
        ({"stride": (1,)}, r"stride has 1 values \(1,\) for 2 spatial axes; give one integer or 2"),
        ({"dilation": (1, 0)}, r"output_shape: dilation must be at least 1, got 0"),
        (
            {"padding": (1, 1, 1)},
            r"padding has 3 entries \(1, 1, 1\) for 2 spatial axes; give a",
        ),
        ({"padding": ("SAME", "NONE")}, r"output_shape: padding: unknown name 'NONE'"),
    ],
)
def test_output_shape_error_names_the_argument_and_the_axes(arguments, message):
    arguments = {"window": 3} | arguments
    window = arguments.pop("window")
    with pytest.raises(ValueError, match=message):
        output_shape((8, 8), window, **arguments)


@pytest.mark.parametrize("padding", [1.5, None])
def test_padding_of_a_wrong_type_is_named(padding):
    with pytest.raises(TypeError, match=r"output_shape: padding"):
        output_shape((8, 8), 3, padding=padding)
