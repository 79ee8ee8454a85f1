"""Volumes of patterns against published tables, and the settings next to one that does not fit."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import window_starts

from cnnjax.pattern import PatternError, parse, volumes
from cnnjax.pattern.sizing import AxisWindow

# CS231n notes, Convolutional Networks: VGGNet in detail; values and weights without biases.
VGG_16_ROWS = [
    ("input0", 150_528, 0),
    ("conv0", 3_211_264, 1_728),
    ("conv1", 3_211_264, 36_864),
    ("pool0", 802_816, 0),
    ("conv2", 1_605_632, 73_728),
    ("conv3", 1_605_632, 147_456),
    ("pool1", 401_408, 0),
    ("conv4", 802_816, 294_912),
    ("conv5", 802_816, 589_824),
    ("conv6", 802_816, 589_824),
    ("pool2", 200_704, 0),
    ("conv7", 401_408, 1_179_648),
    ("conv8", 401_408, 2_359_296),
    ("conv9", 401_408, 2_359_296),
    ("pool3", 100_352, 0),
    ("conv10", 100_352, 2_359_296),
    ("conv11", 100_352, 2_359_296),
    ("conv12", 100_352, 2_359_296),
    ("pool4", 25_088, 0),
    ("fc0", 4_096, 102_760_448),
    ("fc1", 4_096, 16_777_216),
    ("fc2", 1_000, 4_096_000),
]
VGG_16 = (
    "INPUT[224x224x3] -> [CONV3-64 -> RELU]*2 -> POOL2 -> [CONV3-128 -> RELU]*2 -> POOL2 -> "
    "[CONV3-256 -> RELU]*3 -> POOL2 -> [[CONV3-512 -> RELU]*3 -> POOL2]*2 -> "
    "[FC-4096 -> RELU]*2 -> FC-1000"
)


def shapes(text):
    return {volume.name: volume.shape for volume in volumes(parse(text))}


def test_vgg_16_row_by_row():
    rows = [v for v in volumes(parse(VGG_16)) if not v.name.startswith("relu")]
    assert [(v.name, v.num_values) for v in rows] == [row[:2] for row in VGG_16_ROWS]
    # Each filter or output has a bias besides the weights of the table.
    biases = {"conv": lambda v: v.shape[-1], "fc": lambda v: v.shape[-1]}
    for volume, (name, _, weights) in zip(rows, VGG_16_ROWS, strict=True):
        bias = biases.get(name.rstrip("0123456789"), lambda v: 0)(volume)
        assert volume.num_parameters == weights + bias, name
    assert sum(v.num_values for v in rows) == 15_237_608
    assert sum(v.num_parameters for v in rows) == 138_357_544


def test_a_relu_keeps_the_shape_and_learns_nothing():
    relus = [v for v in volumes(parse(VGG_16)) if v.name.startswith("relu")]
    assert len(relus) == 15
    assert relus[0].shape == (224, 224, 64)
    assert not any(v.num_parameters for v in relus)


@pytest.mark.parametrize(
    ("text", "name", "shape"),
    [
        # CS231n notes, Convolutional Networks, spatial arrangement.
        ("INPUT[227x227x3] -> CONV11-96[stride=4, padding=0]", "conv0", (55, 55, 96)),
        ("INPUT[32x32x3] -> CONV5-10[padding=2]", "conv0", (32, 32, 10)),
        ("INPUT[32x32x3] -> CONV5-10", "conv0", (32, 32, 10)),
        ("INPUT[11x11x4] -> CONV5-2[stride=2, padding=VALID]", "conv0", (4, 4, 2)),
        ("INPUT[224x224x64] -> POOL2", "pool0", (112, 112, 64)),
        ("INPUT[5x5x1] -> CONV3-1[stride=2]", "conv0", (3, 3, 1)),
        ("INPUT[10x10x1] -> CONV3-1[padding=0, stride=2, fit=floor]", "conv0", (4, 4, 1)),
        # By hand: 5 of 10 windows hang over the end; a dilated window spans 5; full padding adds 2.
        ("INPUT[10x10x1] -> POOL3/2[fit=ceil]", "pool0", (5, 5, 1)),
        ("INPUT[9x9x1] -> CONV3-1[dilation=2]", "conv0", (9, 9, 1)),
        ("INPUT[9x9x1] -> CONV3-1[dilation=2, padding=0]", "conv0", (5, 5, 1)),
        ("INPUT[9x9x1] -> CONV3-1[padding=FULL]", "conv0", (11, 11, 1)),
        ("INPUT[8x8x1] -> CONV3-1[padding=SAME, stride=2]", "conv0", (4, 4, 1)),
        ("INPUT[8x9x1] -> CONV3x1-2[padding=((0, 1), (2, 0)), stride=2x2]", "conv0", (4, 6, 2)),
        ("INPUT[16000x1] -> CONV25-16[stride=5, padding=((10, 10))]", "conv0", (3200, 16)),
        ("INPUT[16x112x112x3] -> CONV3-64", "conv0", (16, 112, 112, 64)),
        ("INPUT[16x112x112x3] -> POOL1x2x2", "pool0", (16, 56, 56, 3)),
        ("INPUT[8x6x5] -> GAP", "gap0", (5,)),
        ("INPUT[784] -> FC-10", "fc0", (10,)),
        # Graham (2014): six layers of ratio sqrt 2 start 36 -> 25 with a C2 between.
        ("INPUT[35x35x3] -> FRACPOOL[ratio=1.4142135623730951]", "fracpool0", (25, 25, 3)),
        ("INPUT[25x25x1] -> FRACPOOL[output_size=18x20]", "fracpool0", (18, 20, 1)),
    ],
)
def test_volume_of_a_worked_example(text, name, shape):
    assert shapes(text)[name] == shape


@pytest.mark.parametrize(
    ("text", "count"),
    [
        # AlexNet's first layer: 34,848 weights and 96 biases.
        ("INPUT[227x227x3] -> CONV11-96[stride=4, padding=0]", 34_944),
        ("INPUT[32x32x3] -> CONV5-10", 760),
        ("INPUT[16x16x20] -> CONV3-1[bias=false]", 180),
        # Depthwise: nine weights a channel.
        ("INPUT[16x16x20] -> CONV3-20[groups=20, bias=false]", 180),
        # LeNet-5 with full connections.
        (
            "INPUT[32x32x1] -> CONV5-6[padding=0] -> TANH -> AVGPOOL2 -> CONV5-16[padding=0] -> "
            "TANH -> AVGPOOL2 -> FC-120 -> TANH -> FC-84 -> TANH -> FC-10",
            61_706,
        ),
        # torchvision's alexnet, one tower.
        (
            "INPUT[224x224x3] -> CONV11-64[stride=4, padding=2, fit=floor] -> RELU -> POOL3/2 -> "
            "CONV5-192 -> RELU -> POOL3/2 -> CONV3-384 -> RELU -> [CONV3-256 -> RELU]*2 -> "
            "POOL3/2 -> [DROPOUT0.5 -> FC-4096 -> RELU]*2 -> FC-1000",
            61_100_840,
        ),
        # AlexNet in two groups (Krizhevsky et al., 2012), summed by hand:
        # 34,944 + 307,456 + 885,120 + 663,936 + 442,624 + 37,752,832 + 16,781,312 + 4,097,000.
        (
            "INPUT[227x227x3] -> CONV11-96[stride=4, padding=0] -> RELU -> LRN -> POOL3/2 -> "
            "CONV5-256[groups=2] -> RELU -> LRN -> POOL3/2 -> CONV3-384 -> RELU -> "
            "CONV3-384[groups=2] -> RELU -> CONV3-256[groups=2] -> RELU -> POOL3/2 -> "
            "[FC-4096 -> RELU -> DROPOUT0.5]*2 -> FC-1000",
            60_965_224,
        ),
        # torchvision's vgg16_bn: 8,448 more than vgg16.
        (
            VGG_16.replace(" -> RELU]*2 -> POOL2", " -> BN -> RELU]*2 -> POOL2").replace(
                " -> RELU]*3", " -> BN -> RELU]*3"
            ),
            138_365_992,
        ),
    ],
    ids=lambda value: value if isinstance(value, int) else "",
)
def test_published_number_of_parameters(text, count):
    assert sum(volume.num_parameters for volume in volumes(parse(text))) == count


@pytest.mark.parametrize(
    ("marked", "message"),
    [
        (
            "INPUT[10x10x1] -> ^CONV3-4[stride=2, padding=0] -> RELU",
            "along axis 0 a window spanning 3 at stride 2 has (10 + 0 + 0 - 3) / 2 + 1 = 4.5 "
            "positions; nearest that fit: an input of 9 or 11, padding of (low, high) (0, 1), a "
            "stride of 1; fit=floor leaves the last 1 of the padded input unseen",
        ),
        (
            "INPUT[8x9x3] -> ^POOL2",
            "along axis 1 a window spanning 2 at stride 2 has (9 + 0 + 0 - 2)",
        ),
        ("INPUT[9x9x3] -> ^POOL2", "fit=ceil adds a window"),
        ("INPUT[4x4x3] -> ^CONV7-8[padding=0]", "larger than the padded input of 4 + 0 + 0 pixels"),
        (
            "INPUT[4x4x3] -> ^POOL5[fit=floor]",
            "larger than the padded input of 4 + 0 + 0 pixels; n",
        ),
        ("INPUT[8x8x3] -> ^CONV3-8[groups=2]", "groups=2 must divide the 3 channels that come in"),
        ("INPUT[8x8x3] -> ^CONV3x3x3-8", "window has 3 values (3, 3, 3) for 2 spatial axes; give"),
        ("INPUT[8x8x3] -> ^POOL2[padding=2]", "padding (2, 2) must stay below the window of 2"),
        ("INPUT[8x8x3] -> ^CONV3-8[padding=((1, 1), (1, 1), (0, 0))]", "padding has 3 entries"),
        (
            "INPUT[8x8x3] -> FC-9 -> ^CONV3-8",
            "what comes in is a vector of 9 values; FC and GAP fl",
        ),
        (
            "INPUT[8x8x3] -> GAP -> ^GAP",
            "what comes in is a vector of 3 values; FC and GAP flatten",
        ),
        (
            "INPUT[8] -> ^POOL2",
            "an image (*spatial, channels) is needed, but what comes in is a vec",
        ),
        (
            "INPUT[8x8x3] -> ^FRACPOOL[output_size=9]",
            'more than the "disjoint" regions of 8 pixels',
        ),
        (
            "INPUT[8x8x3] -> ^FRACPOOL[ratio=1.5x1.5x1.5]",
            "ratio has 3 values for 2 spatial axes; g",
        ),
        (
            "^CONV3-8 -> RELU",
            "volumes: the first layer must be INPUT with its sizes, as in INPUT[2",
        ),
        (
            "INPUT[8x8x3] -> [[RELU]*0 -> ^CONV4-8[padding=0, stride=3]]*2",
            "has (8 + 0 + 0 - 4) / 3",
        ),
    ],
)
def test_a_layer_that_cannot_take_its_input_is_pointed_at(marked, message):
    text = marked.replace("^", "")
    with pytest.raises(PatternError) as caught:
        volumes(parse(text))
    assert message in caught.value.message
    assert caught.value.position == marked.index("^")


def test_volumes_takes_a_pattern_alone():
    with pytest.raises(TypeError, match="volumes: pattern must be a Pattern, got 'RELU'; parse"):
        volumes("RELU")


# ---- settings next to one that does not fit ----


def tiles(size, window, stride, low, high, dilation):
    """By counting: there is a window, and the last one ends with the padded input."""
    starts = window_starts(size, window, stride, low, high, dilation)
    return bool(starts) and starts[-1] + dilation * (window - 1) == size + high - 1


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    size=st.integers(1, 20),
    window=st.integers(1, 6),
    stride=st.integers(1, 6),
    low=st.integers(0, 3),
    high=st.integers(0, 3),
    dilation=st.integers(1, 3),
)
def test_suggested_settings_tile_and_none_nearer_does(size, window, stride, low, high, dilation):
    assume(not tiles(size, window, stride, low, high, dilation))
    near = AxisWindow(size, window, stride, low, high, dilation).nearest()
    fits = [n for n in range(1, 45) if tiles(n, window, stride, low, high, dilation)]
    below, above = [n for n in fits if n < size][-1:], [n for n in fits if n > size][:1]
    assert list(near.sizes) == below + above
    total = low + high
    sums = [n for n in range(45) if tiles(size, window, stride, 0, n, dilation)]
    below, above = [n for n in sums if n < total][-1:], [n for n in sums if n > total][:1]
    assert [sum(pair) for pair in near.paddings] == below + above
    assert all(high - low in (0, 1) for low, high in near.paddings)
    span = dilation * (window - 1) + 1
    steps = [s for s in range(1, 45) if tiles(size, window, s, low, high, dilation)]
    below = [s for s in steps if s < stride][-1:]
    above = [s for s in steps if stride < s <= span][:1]
    assert list(near.strides) == below + above
