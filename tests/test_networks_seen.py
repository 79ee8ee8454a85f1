"""Whole networks: what is traced is the closed form of their rows, and what is measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import pattern
from cnnjax.analysis import account, measured_intervals, receptive_field
from cnnjax.models import StackNet
from cnnjax.models.stack import Stack
from cnnjax.pattern.classics import PATTERNS
from cnnjax.receptive_field import Layer, compose

# Published parameters: LeCun et al. (1998); torchvision's alexnet and vggs; Springenberg et al.
PARAMETERS = {
    "lenet5": 61_706,
    "alexnet": 61_100_840,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "all_cnn_c": 1_369_738,
}
MACS = {
    "lenet5": 416_520,
    "alexnet": 714_188_480,
    "vgg11": 7_609_090_048,
    "vgg16": 15_470_264_320,
}
each_classic = pytest.mark.parametrize("name", PATTERNS)


def costs_of(name):
    net = pattern.parse(PATTERNS[name])
    return account(pattern.to_module(net), pattern.volumes(net)[0].shape)


@each_classic
def test_classics_are_canonical_text(name):
    assert str(pattern.parse(PATTERNS[name])) == PATTERNS[name]


@each_classic
def test_classics_have_the_published_parameters_and_macs(name):
    costs = costs_of(name)
    if name in PARAMETERS:
        assert costs.parameters == PARAMETERS[name]
    if name in MACS:
        assert costs.macs == MACS[name]
    # Two-group AlexNet, layer by layer, weights and biases (Krizhevsky et al., 2012).
    if name == "alexnet_2012":
        assert [row.parameters for row in costs.rows if row.macs] == [
            *[34_848 + 96, 307_200 + 256, 884_736 + 384, 663_552 + 384, 442_368 + 256],
            *[37_748_736 + 4096, 16_777_216 + 4096, 4_096_000 + 1000],
        ]


@each_classic
def test_each_row_sees_the_closed_form_of_the_rows_up_to_it(name):
    layers = ([], [])
    for row in costs_of(name).rows:
        if not row.window:
            continue
        for axis in (0, 1):
            layers[axis].append(
                Layer(row.window[axis], row.stride[axis], row.padding[axis][0], row.dilation[axis])
            )
            expected = compose(layers[axis])
            field = row.receptive_field.axes[axis]
            assert (field.size, field.stride, field.padding) == expected
    assert len(layers[0]) > 4


def check(fn, shape, method="nan"):
    """Traced equals measured, position by position, along both axes."""
    measured = measured_intervals(fn, jax.ShapeDtypeStruct(shape, jnp.float32), method=method)
    field = receptive_field(fn, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert not field.unknown
    for number, axis in enumerate(field.axes):
        others = tuple({0, 1} - {number})
        np.testing.assert_array_equal(
            np.broadcast_to(axis.first, measured.first.shape[number]),
            measured.first[..., number].min(others),
        )
        np.testing.assert_array_equal(
            np.broadcast_to(axis.last, measured.last.shape[number]),
            measured.last[..., number].max(others),
        )
    return field


def of_module(module, shape, **kwargs):
    variables = jax.jit(lambda key, x: module.init(key, x, **kwargs))(
        jax.random.key(0), jnp.ones(shape)
    )
    return lambda x: module.apply(variables, x, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "INPUT[32x32x1] -> CONV5-6[padding=0] -> TANH -> AVGPOOL2 -> CONV5-16[padding=0] -> TANH "
        "-> AVGPOOL2 -> CONV5-8[padding=0]",
        "INPUT[28x32x3] -> [CONV3-6 -> RELU]*2 -> CONV3-6[stride=2, fit=floor] -> RELU -> "
        "[CONV3-8 -> RELU]*2 -> CONV3-8[stride=2, fit=floor] -> CONV3-8[padding=0]",
        "INPUT[39x31x3] -> CONV11-6[stride=4, padding=2, fit=floor] -> RELU -> LRN -> POOL3/2 -> "
        "CONV5-8[groups=2]",
        "INPUT[17x13x2] -> CONV3-4[dilation=2] -> BN -> LEAKYRELU -> L2POOL3/2 -> CONV3x5-4 -> "
        "AVGPOOL3/1[padding=1] -> CONV1-3 -> SIGMOID",
        "INPUT[25x19x2] -> [CONV2-4[padding=0] -> RELU -> FRACPOOL[ratio=1.4142]]*2 -> CONV2-4"
        "[padding=0]",
        "INPUT[20x20x1] -> CONV4-4[padding=SAME] -> DROPOUT -> POOL4x2/3x1[fit=ceil] -> "
        "CONV3-4[padding=FULL]",
    ],
)
def test_patterns_are_seen_as_they_are_measured(text):
    net = pattern.parse(text)
    shape = (1, *pattern.volumes(net)[0].shape)
    check(of_module(pattern.to_module(net), shape, train=False), shape)


@pytest.mark.parametrize("windows", [(7,), (5, 3), (3, 3, 3)])
def test_stacks_are_seen_as_they_are_measured(windows):
    shape = (1, 16, 12, 2)
    field = check(of_module(Stack(windows, (2,) * len(windows)), shape), shape)
    assert field.size == (7, 7)


def test_stack_net_sees_the_whole_image():
    shape = (1, 12, 12, 1)
    net = StackNet(10, 4, windows=(3, 3), widths=(4, 4))
    field = receptive_field(of_module(net, shape), jnp.ones(shape))
    assert field.whole
    measured = measured_intervals(
        lambda x: of_module(net, shape)(x)[:, None, None], jnp.ones(shape), method="nan"
    )
    assert measured.first.ravel().tolist() == [0, 0]
    assert measured.last.ravel().tolist() == [11, 11]
