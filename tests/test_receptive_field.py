"""The closed form against sets of pixels carried through the layers, and published tables."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnjax.receptive_field import IDENTITY, Layer, ReceptiveField, compose

# Simonyan and Zisserman (2014), configuration D: conv 3x3 stride 1 padding 1, pool 2x2 stride 2.
_CONV3, _POOL2 = Layer(3, padding=1), Layer(2, stride=2)
VGG16 = {
    **{f"conv1_{i}": _CONV3 for i in (1, 2)},
    "pool1": _POOL2,
    **{f"conv2_{i}": _CONV3 for i in (1, 2)},
    "pool2": _POOL2,
    **{f"conv3_{i}": _CONV3 for i in (1, 2, 3)},
    "pool3": _POOL2,
    **{f"conv4_{i}": _CONV3 for i in (1, 2, 3)},
    "pool4": _POOL2,
    **{f"conv5_{i}": _CONV3 for i in (1, 2, 3)},
    "pool5": _POOL2,
}
VGG16_FIELDS = {
    "conv1_1": (3, 1, 1),
    "pool1": (6, 2, 2),
    "conv2_1": (10, 2, 4),
    "pool2": (16, 4, 6),
    "conv3_1": (24, 4, 10),
    "conv3_2": (32, 4, 14),
    "pool3": (44, 8, 18),
    "conv4_1": (60, 8, 26),
    "conv4_2": (76, 8, 34),
    "pool4": (100, 16, 42),
    "conv5_1": (132, 16, 58),
    "conv5_2": (164, 16, 74),
    "pool5": (212, 32, 90),
}
# TF-Slim: conv1 and the pools are VALID, the other convolutions SAME.
ALEXNET_V2 = {
    "conv1": Layer(11, stride=4),
    "pool1": Layer(3, stride=2),
    "conv2": Layer(5, padding=2),
    "pool2": Layer(3, stride=2),
    "conv3": Layer(3, padding=1),
    "conv4": Layer(3, padding=1),
    "conv5": Layer(3, padding=1),
    "pool5": Layer(3, stride=2),
}
ALEXNET_V2_FIELDS = {
    "conv1": (11, 4, 0),
    "pool1": (19, 8, 0),
    "conv2": (51, 8, 16),
    "conv3": (99, 16, 32),
    "conv4": (131, 16, 48),
    "conv5": (163, 16, 64),
    "pool5": (195, 32, 64),
}

layers = st.builds(
    Layer,
    window=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
chains = st.lists(layers, max_size=5)
exhaustive = settings(max_examples=200, deadline=None, derandomize=True)


def pixels_seen(chain, position):
    """Walk back from one output position, tap by tap, to the input pixels it reads."""
    positions = {position}
    for layer in reversed(chain):
        positions = {
            p * layer.stride - layer.padding + tap * layer.dilation
            for p in positions
            for tap in range(layer.window)
        }
    return positions


def up_to(network, last):
    names = list(network)
    return [network[name] for name in names[: names.index(last) + 1]]


@exhaustive
@given(chains, st.integers(0, 6))
def test_interval_is_the_reach_of_the_pixels_seen(chain, position):
    seen = pixels_seen(chain, position)
    assert compose(chain).interval(position) == (min(seen), max(seen))


@exhaustive
@given(chains, st.integers(0, 6))
def test_center_is_the_middle_of_the_interval(chain, position):
    field = compose(chain)
    assert field.center(position) == sum(field.interval(position)) / 2


@exhaustive
@given(chains)
def test_size_is_the_length_of_the_interval_and_stride_its_step(chain):
    field = compose(chain)
    (first, last), (next_first, _) = field.interval(0), field.interval(1)
    assert field.size == last - first + 1
    assert field.stride == next_first - first
    assert field.padding == -first


@exhaustive
@given(chains, chains)
def test_composing_in_two_parts_is_composing_at_once(head, tail):
    assert compose(tail, compose(head)) == compose(head + tail)


def test_no_layer_sees_one_pixel():
    assert compose([]) == IDENTITY == ReceptiveField(1, 1, 0)


@pytest.mark.parametrize(("last", "expected"), VGG16_FIELDS.items(), ids=VGG16_FIELDS)
def test_vgg16_agrees_with_araujo_norris_and_sim_2019(last, expected):
    assert compose(up_to(VGG16, last)) == expected


@pytest.mark.parametrize(("last", "expected"), ALEXNET_V2_FIELDS.items(), ids=ALEXNET_V2_FIELDS)
def test_alexnet_v2_agrees_with_araujo_norris_and_sim_2019(last, expected):
    assert compose(up_to(ALEXNET_V2, last)) == expected


@pytest.mark.parametrize("windows", [(7,), (5, 3), (3, 3, 3)])
def test_three_3x3_layers_see_what_one_7x7_sees(windows):
    # CS231n notes.
    assert compose(Layer(w, padding=(w - 1) // 2) for w in windows) == (7, 1, 3)


@given(num_layers=st.integers(0, 30), window=st.integers(1, 11))
def test_stride_1_layers_see_one_plus_layers_times_window_less_one(num_layers, window):
    # CS231n notes: L layers of K see 1 + L (K - 1).
    assert compose([Layer(window)] * num_layers).size == 1 + num_layers * (window - 1)


@given(window=st.integers(1, 7), dilation=st.integers(1, 5), rest=chains)
def test_a_dilated_window_counts_as_its_span(window, dilation, rest):
    span = dilation * (window - 1) + 1
    assert compose([Layer(window, dilation=dilation), *rest]) == compose([Layer(span), *rest])
