"""The account against published counts, hand counts, and every place a layer can hide in."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from wrapping import with_custom_jvp, with_custom_vjp

from cnnjax import ops
from cnnjax.analysis import account
from cnnjax.models import Conv, StackNet
from cnnjax.ops import avg_pool, conv, max_pool


class LeNet5(nn.Module):
    """LeCun et al. (1998), with full connections between the second pair of layers."""

    @nn.compact
    def __call__(self, x):
        x = avg_pool(nn.tanh(Conv(6, (5, 5), name="c1")(x)), window=2)
        x = avg_pool(nn.tanh(Conv(16, (5, 5), name="c3")(x)), window=2)
        x = nn.tanh(Conv(120, (5, 5), name="c5")(x)).reshape(x.shape[0], -1)
        x = nn.tanh(nn.Dense(84, name="f6")(x))
        return nn.Dense(10, name="output")(x)


class AlexNet(nn.Module):
    """torchvision's alexnet at 224, where its adaptive pooling does nothing."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(64, (11, 11), stride=4, padding=2, name="conv0")(x))
        x = max_pool(x, window=3, stride=2)
        x = nn.relu(Conv(192, (5, 5), padding=2, name="conv1")(x))
        x = max_pool(x, window=3, stride=2)
        for i, width in enumerate((384, 256, 256), start=2):
            x = nn.relu(Conv(width, (3, 3), padding=1, name=f"conv{i}")(x))
        x = max_pool(x, window=3, stride=2).reshape(x.shape[0], -1)
        for i, width in enumerate((4096, 4096)):
            x = nn.relu(nn.Dense(width, name=f"fc{i}")(x))
        return nn.Dense(1000, name="fc2")(x)


class Vgg16(nn.Module):
    """Simonyan and Zisserman (2014), configuration D."""

    @nn.compact
    def __call__(self, x):
        for stage, (width, depth) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)]):
            for i in range(depth):
                x = nn.relu(Conv(width, (3, 3), padding=1, name=f"stage{stage}_conv{i}")(x))
            x = max_pool(x, window=2)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate((4096, 4096)):
            x = nn.relu(nn.Dense(width, name=f"fc{i}")(x))
        return nn.Dense(1000, name="fc2")(x)


def zeros(*shape):
    return jnp.zeros(shape)


def a_layer(x):
    return conv(x, jnp.ones((3, 3, 2, 2)).astype(x.dtype), padding=1)


def only_row(function, input_shape):
    (row,) = account(function, input_shape).rows
    return row


SHAPE = (5, 5, 2)
LAYER_MACS = 5 * 5 * 2 * (3 * 3 * 2)


# ---- published counts ----


@pytest.mark.parametrize(
    ("network", "shape", "parameters", "macs"),
    [
        pytest.param(LeNet5(), (32, 32, 1), 61_706, 416_520, id="LeNet-5"),
        pytest.param(AlexNet(), (224, 224, 3), 61_100_840, 714_188_480, id="torchvision alexnet"),
        pytest.param(Vgg16(), (224, 224, 3), 138_357_544, 15_470_264_320, id="torchvision vgg16"),
    ],
)
def test_parameters_and_macs_are_the_published_ones(network, shape, parameters, macs):
    counted = account(network, shape)
    assert counted.parameters == parameters
    assert counted.macs == macs


def test_vgg16_rows_are_those_of_the_course_notes():
    # CS231n notes, VGG-16 in detail: values H*W*C and weights without biases, row by row.
    counted = account(Vgg16(), (224, 224, 3))
    rows = counted.rows
    assert [(row.operation, row.activation_values) for row in rows] == [
        *[("convolution", 3_211_264)] * 2,
        ("max_pool", 802_816),
        *[("convolution", 1_605_632)] * 2,
        ("max_pool", 401_408),
        *[("convolution", 802_816)] * 3,
        ("max_pool", 200_704),
        *[("convolution", 401_408)] * 3,
        ("max_pool", 100_352),
        *[("convolution", 100_352)] * 3,
        ("max_pool", 25_088),
        *[("dense", 4096), ("dense", 4096), ("dense", 1000)],
    ]
    weights = [
        *[1_728, 36_864, 73_728, 147_456, 294_912, 589_824, 589_824, 1_179_648],
        *[2_359_296] * 5,
        *[102_760_448, 16_777_216, 4_096_000],
    ]
    weighted = [row for row in rows if row.macs]
    # MACs over positions are the weights: what a dense layer holds, and a convolution shares.
    positions = [math.prod(row.output_shape[:-1]) for row in weighted]
    assert [row.macs // n for row, n in zip(weighted, positions, strict=True)] == weights
    biases = [row.output_shape[-1] for row in weighted]
    assert [row.parameters - b for row, b in zip(weighted, biases, strict=True)] == weights
    # The rows sum to this (FACTS of the notes' own rows; the 24 M they print do not).
    assert counted.volume_values == 15_237_608
    assert round(counted.volume_bytes / 2**20, 1) == 58.1


def test_vgg16_rows_see_what_araujos_table_says():
    rows = account(Vgg16(), (224, 224, 3)).rows
    pools = [row.receptive_field for row in rows if row.operation == "max_pool"]
    assert [(f.size[0], f.stride[0], f.padding[0]) for f in pools] == [
        *[(6, 2, 2), (16, 4, 6), (44, 8, 18), (100, 16, 42), (212, 32, 90)],
    ]
    assert all(row.receptive_field.whole for row in rows[-3:])


def test_activation_values_of_vgg16_are_timms_macts():
    assert account(Vgg16(), (224, 224, 3)).activation_values == 13_556_712


@pytest.mark.parametrize(
    ("input_shape", "kernel_shape", "statics", "output_shape", "macs"),
    [
        pytest.param(
            *((32, 32, 3), (5, 5, 3, 10), {"padding": 2}, (32, 32, 10), 768_000),
            id="CS231n: ten 5x5 filters on 3x32x32",
        ),
        pytest.param(
            *((227, 227, 3), (11, 11, 3, 96), {"stride": 4}, (55, 55, 96), 96 * 363 * 3025),
            id="CS231n: AlexNet conv1 as [96 x 363] times [363 x 3025]",
        ),
    ],
)
def test_row_of_a_bare_convolution_is_the_worked_example(
    input_shape, kernel_shape, statics, output_shape, macs
):
    row = only_row(lambda x: conv(x, zeros(*kernel_shape), **statics), input_shape)
    assert row.operation == "convolution"
    assert row.output_shape == output_shape
    assert row.activation_values == math.prod(output_shape)
    assert row.macs == macs


# ---- what a row says ----


def test_row_carries_the_statics_of_its_convolution():
    kernel = zeros(2, 3, 4, 6)
    row = only_row(
        lambda x: conv(x, kernel, stride=(2, 1), padding=((1, 0), (2, 2)), dilation=(1, 3)),
        (9, 12, 4),
    )
    assert row.window == (2, 3)
    assert row.stride == (2, 1)
    assert row.padding == ((1, 0), (2, 2))
    assert row.dilation == (1, 3)
    assert row.output_shape == (5, 10, 6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_divide_the_macs(groups):
    kernel = zeros(3, 3, 4 // groups, 8)
    row = only_row(lambda x: conv(x, kernel, groups=groups, padding=1), (5, 5, 4))
    assert row.macs == 5 * 5 * 8 * 9 * 4 // groups


@pytest.mark.parametrize("shape", [(9, 2), (4, 5, 3, 2)], ids=["1d", "3d"])
def test_convolutions_of_other_ranks_are_counted(shape):
    rank = len(shape) - 1
    row = only_row(lambda x: conv(x, zeros(*(2,) * rank, 2, 3), padding="SAME"), shape)
    assert row.output_shape == (*shape[:-1], 3)
    assert row.macs == math.prod(shape[:-1]) * 3 * 2**rank * 2


def test_dense_over_positions_counts_each_position():
    row = only_row(lambda x: x @ zeros(6, 4), (7, 6))
    assert row.operation == "dense"
    assert row.output_shape == (7, 4)
    assert row.macs == 7 * 6 * 4
    assert row.window == row.stride == row.padding == row.dilation == ()


def test_batched_dense_does_not_multiply_its_batch_axes():
    # One matrix for each of 3 heads: no head meets another.
    row = only_row(lambda x: jnp.einsum("nhi,hij->nhj", x, zeros(3, 4, 5)), (3, 4))
    assert row.macs == 3 * 4 * 5


def test_values_of_a_second_batch_axis_are_counted():
    row = only_row(lambda x: conv(x, zeros(3, 3, 2, 4)), (6, 5, 5, 2))
    assert row.macs == 6 * 3 * 3 * 4 * 18
    assert row.activation_values == 6 * 3 * 3 * 4


def test_rows_come_in_execution_order_and_their_sums_are_the_totals():
    counted = account(lambda x: a_layer(x).reshape(1, -1) @ zeros(50, 3), SHAPE)
    assert [row.operation for row in counted.rows] == ["convolution", "dense"]
    assert counted.macs == LAYER_MACS + 150
    assert counted.activation_values == 50 + 3


def test_bias_activation_and_norm_are_flops_of_the_row_whose_volume_they_change():
    def function(x):
        x = conv(x, jnp.ones((3, 3, 2, 4)), jnp.ones(4), padding=1)
        return nn.relu(x)

    # 5 x 5 x 4 numbers: one addition and one comparison each.
    counted = account(lambda variables, x: function(x), SHAPE, variables={})
    assert counted.bias_flops + counted.other_flops == 200

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = Conv(4, (3, 3), padding=1, name="conv")(x)
            x = nn.BatchNorm(use_running_average=True, name="norm")(x)
            return max_pool(nn.relu(x), window=2)

    convolution, norm, pool = account(Net(), SHAPE).rows
    assert (convolution.macs, convolution.bias_flops, convolution.other_flops) == (1800, 100, 0)
    assert (convolution.parameters, norm.parameters, pool.parameters) == (76, 8, 0)
    # Less the mean, times the scale, plus the shift; the ReLU comes after.
    assert (norm.operation, norm.path, norm.macs) == ("normalization", "Net/norm", 0)
    assert norm.other_flops == 4 * 100
    # Pairs within the 5 rows, then of those: 5 x 2 + 2 x 2 comparisons in each of 4 channels.
    assert (pool.operation, pool.output_shape, pool.other_flops) == ("max_pool", (2, 2, 4), 56)


def test_places_where_paths_meet_are_rows():
    def function(x):
        y = a_layer(x)
        return jnp.concatenate([x + y, y], axis=-1)

    rows = account(function, SHAPE).rows
    assert [(row.operation, row.output_shape) for row in rows] == [
        ("convolution", (5, 5, 2)),
        ("add", (5, 5, 2)),
        ("concatenate", (5, 5, 4)),
    ]
    assert [row.receptive_field.axes[0].smallest for row in rows] == [3, 1, 1]


@pytest.mark.parametrize(
    ("function", "operation", "shape"),
    [
        (lambda x: max_pool(x, window=3, stride=2, padding=1), "max_pool", (3, 3, 2)),
        (lambda x: avg_pool(x, window=3, stride=2, padding=1), "avg_pool", (3, 3, 2)),
        (lambda x: ops.l2_pool(x, window=3, stride=2, padding=1), "l2_pool", (3, 3, 2)),
        (
            lambda x: ops.max_pool_with_switches(x, window=3, stride=2, padding=1)[0],
            *("max_pool_with_switches", (3, 3, 2)),
        ),
        (lambda x: nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), "max_pool", (3, 3, 2)),
        (lambda x: nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))), "sum_pool", (3, 3, 2)),
    ],
)
def test_pooling_is_a_row_with_its_windows(function, operation, shape):
    row = only_row(function, SHAPE)
    assert (row.operation, row.output_shape) == (operation, shape)
    assert (row.window, row.stride, row.padding) == ((3, 3), (2, 2), ((1, 1), (1, 1)))
    assert row.macs == row.parameters == 0
    assert row.receptive_field.size == (3, 3)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (ops.global_avg_pool, "global_avg_pool"),
        (ops.global_max_pool, "global_max_pool"),
        (lambda x: x.mean((1, 2)), "spatial_sum"),
        (lambda x: x.max((1, 2)), "spatial_max"),
        (
            lambda x: ops.fractional_max_pool(x, jax.random.key(0), ratio=1.5),
            "fractional_max_pool",
        ),
        (
            lambda x: ops.local_response_norm(x, **ops.LRN_PRESETS["alexnet"]),
            "local_response_norm",
        ),
    ],
)
def test_layers_without_windows_are_rows_by_their_names(function, operation):
    row = only_row(function, SHAPE)
    assert (row.operation, row.window, row.macs) == (operation, (), 0)


@pytest.mark.parametrize("statics", [{"stride": 2}, {"stride": 3, "padding": 1}, {"stride": 1}])
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolution_multiplies_each_pixel_by_its_kernel(statics, groups):
    # 25 pixels of 2 channels, each times a 3x3 kernel to 4 / groups channels.
    kernel = jnp.ones((3, 3, 4 // groups, 2))
    row = only_row(lambda x: ops.conv_transpose(x, kernel, groups=groups, **statics), SHAPE)
    assert (row.operation, row.macs) == ("transposed_convolution", 25 * 2 * 9 * 4 // groups)
    assert row.stride == (statics["stride"],) * 2


def test_flax_transposed_convolution_is_one_too():
    row = only_row(lambda x: lax.conv_transpose(x, jnp.ones((2, 2, 2, 4)), (2, 2), "VALID"), SHAPE)
    assert (row.operation, row.macs) == ("transposed_convolution", 25 * 2 * 4 * 4)


def test_unshared_convolution_has_the_macs_of_the_shared_one():
    kernels = jnp.ones((3, 3, 3, 3, 2, 4))
    row = only_row(lambda x: ops.locally_connected(x, kernels), SHAPE)
    assert (row.operation, row.macs) == ("locally_connected", 9 * 9 * 2 * 4)


def test_resizing_is_no_dense_layer():
    counted = account(lambda x: a_layer(jax.image.resize(x, (1, 9, 9, 2), "bilinear")), SHAPE)
    (row,) = counted.rows
    assert row.operation == "convolution"
    # Two products of matrices before the first row, two operations for each of their MACs.
    assert counted.input_flops >= 2 * (9 * 5 * 5 * 2 + 9 * 9 * 5 * 2)


def test_shared_weights_are_counted_once_at_their_first_use():
    def function(weights, x):
        return conv(conv(x, weights["kernel"], padding=1), weights["kernel"], padding=1)

    weights = {"kernel": jax.ShapeDtypeStruct((3, 3, 2, 2), jnp.float32)}
    counted = account(function, SHAPE, variables=weights)
    assert counted.parameters == 36
    assert [row.parameters for row in counted.rows] == [36, 0]
    assert counted.parameter_bytes == 144


def test_parameters_of_the_rows_are_all_parameters():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.GroupNorm(2, name="norm0")(nn.relu(Conv(4, (3, 3), name="conv")(x)))
            x = nn.LayerNorm(name="norm1")(x).reshape(x.shape[0], -1)
            return nn.Dense(3, name="head")(x) * self.param("temperature", nn.initializers.ones, ())

    counted = account(Net(), SHAPE)
    assert sum(row.parameters for row in counted.rows) == counted.parameters == 76 + 8 + 8 + 112


def test_bytes_follow_the_dtype_of_what_ran():
    counted = account(lambda x: a_layer(x.astype(jnp.bfloat16)).astype(jnp.float32), SHAPE)
    (row,) = counted.rows
    assert row.activation_bytes == 2 * 50
    assert counted.volume_bytes == 4 * 50 + 2 * 50


def test_path_is_the_path_of_the_module():
    net = StackNet(10, 4, windows=(5, 3), widths=(4, 4))
    paths = [row.path for row in account(net, (8, 8, 1)).rows if row.macs]
    for path, module in zip(paths, ("stem", "stack/conv0", "stack/conv1", "head"), strict=True):
        assert path == f"StackNet/{module}"


def test_path_does_not_repeat_inside_jit_and_remat():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.remat(Conv)(2, (3, 3), padding=1, name="first")(x)
            return nn.jit(Conv)(2, (3, 3), padding=1, name="second")(x)

    for row, name in zip(account(Net(), SHAPE).rows, ("first", "second"), strict=True):
        assert row.path.count("Net") == 1
        assert row.path.count(name) == 1


# ---- parameters ----


@pytest.mark.parametrize(
    "module",
    [
        StackNet(10, 4, windows=(5, 3), widths=(4, 6)),
        Conv(6, (3, 3), groups=2, use_bias=False),
        nn.Dense(3),
    ],
    ids=["StackNet", "grouped Conv", "Dense"],
)
def test_parameters_are_those_of_the_initialised_module(module):
    channels = 2 if isinstance(module, Conv) else 1
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 8, 8, channels)))
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert account(module, (8, 8, channels)).parameters == count


def test_batch_statistics_are_no_parameters():
    # A scale and a shift for each channel are trained, the running mean and variance are not.
    assert account(nn.BatchNorm(use_running_average=True), SHAPE).parameters == 4


def test_module_without_parameters_has_none():
    class Activation(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.relu(x)

    counted = account(Activation(), SHAPE)
    assert counted.parameters == 0
    assert counted.rows == ()


def test_keyword_arguments_reach_the_module():
    class Switched(nn.Module):
        @nn.compact
        def __call__(self, x, *, twice):
            x = nn.Dense(2, name="first")(x)
            return nn.Dense(2, name="second")(x) if twice else x

    assert len(account(Switched(), (2,), twice=False).rows) == 1
    assert len(account(Switched(), (2,), twice=True).rows) == 2


# ---- places a layer can hide in ----


@pytest.mark.parametrize(
    "function",
    [
        jax.jit(a_layer),
        jax.jit(jax.jit(a_layer)),
        jax.checkpoint(a_layer),
        with_custom_jvp(a_layer),
        with_custom_vjp(a_layer),
        jax.jit(lambda x: jax.checkpoint(with_custom_jvp(a_layer))(x)),
    ],
    ids=["jit", "jit in jit", "remat", "custom_jvp", "custom_vjp", "all"],
)
def test_layer_inside_is_found(function):
    assert only_row(function, SHAPE).macs == LAYER_MACS


@pytest.mark.parametrize("length", [0, 1, 5])
def test_scan_multiplies_its_layers(length):
    def function(x):
        return lax.scan(lambda x, _: (a_layer(a_layer(x)), None), x, length=length)[0]

    counted = account(function, SHAPE)
    assert len(counted.rows) == 2 * length
    assert counted.macs == 2 * length * LAYER_MACS


def test_scan_in_scan_multiplies_twice():
    def inner(x):
        return lax.scan(lambda x, _: (a_layer(x), None), x, length=3)[0]

    def function(x):
        return lax.scan(lambda x, _: (inner(x), None), x, length=4)[0]

    assert account(function, SHAPE).macs == 12 * LAYER_MACS


def test_vmap_counts_each_mapped_layer():
    def function(x):
        return jax.vmap(lambda kernel: conv(x, kernel, padding=1))(zeros(3, 3, 3, 2, 2))

    assert account(function, SHAPE).macs == 3 * LAYER_MACS


@pytest.mark.parametrize(
    ("function", "primitive"),
    [
        (lambda x: lax.while_loop(lambda x: jnp.sum(x) > 0, a_layer, x), "while"),
        (lambda x: lax.cond(jnp.sum(x) > 0, a_layer, lambda x: x, x), "cond"),
        (lambda x: lax.switch(jnp.argmax(x), [a_layer, lambda x: x], x), "cond"),
    ],
    ids=["while_loop", "cond", "switch"],
)
def test_layers_that_run_an_unknown_number_of_times_are_refused(function, primitive):
    message = rf"account: a `{primitive}` holds a layer, a convolution at .* use a scan"
    with pytest.raises(ValueError, match=message):
        account(function, SHAPE)


def test_loops_and_branches_without_layers_are_allowed():
    def function(x):
        x = lax.while_loop(lambda x: jnp.sum(x) > 0, lambda x: x - 1, x)
        return a_layer(lax.cond(jnp.sum(x) > 0, jnp.sin, jnp.cos, x))

    assert account(function, SHAPE).macs == LAYER_MACS


def test_nothing_is_allocated():
    # A million by a billion weights: four petabytes, were they made.
    counted = account(nn.Dense(10**9), (10**6,))
    assert counted.parameters == 10**15 + 10**9
    assert counted.macs == 10**15


def test_dtype_of_the_example_reaches_the_function():
    seen = []

    def function(x):
        seen.append(x.dtype)
        return conv(x, jnp.zeros((1, 1, 2, 1), x.dtype))

    assert account(function, SHAPE, dtype=jnp.bfloat16).macs == 50
    assert set(seen) == {np.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_is_a_convolution_however_it_is_computed(rank, groups, stride):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            conv1x1 = Conv(6, (1,) * rank, stride=stride, groups=groups, name="squeeze")
            return nn.Dense(3, name="head")(conv1x1(x))

    costs = account(Net(), (8,) * rank + (4,))
    squeeze, head = costs.rows
    assert squeeze.path.endswith("squeeze")
    assert (squeeze.operation, head.operation) == ("convolution", "dense")
    assert squeeze.window == squeeze.dilation == (1,) * rank
    assert squeeze.stride == (stride,) * rank
    assert squeeze.padding == ((0, 0),) * rank
    assert squeeze.output_shape == (8 // stride,) * rank + (6,)
    assert squeeze.macs == (8 // stride) ** rank * 6 * 4 // groups


def test_a_1x1_convolution_under_vmap_keeps_its_window():
    kernel = jnp.ones((1, 1, 4, 6))
    costs = account(jax.vmap(lambda x: conv(x, kernel)), (8, 8, 4))
    (row,) = costs.rows
    assert (row.operation, row.window, row.macs) == ("convolution", (1, 1), 64 * 24)


def test_a_depthwise_convolution_is_the_row_that_it_is_by_xla():
    # Two calls of equal statics, and one of others, under one path: three rows.
    statics = {"stride": (2, 1), "padding": ((1, 0), (2, 2)), "dilation": (1, 2), "groups": 4}

    def by(convolution):
        def net(x):
            x = convolution(x, jnp.ones((3, 3, 1, 8)), **statics)
            x = convolution(x, jnp.ones((3, 3, 1, 8)), **(statics | {"groups": 8}))
            return convolution(x, jnp.ones((3, 3, 1, 8)), groups=8, padding=1)

        return account(net, (16, 12, 4))

    def xlas(x, kernel, *, stride=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups):
        if padding == 1:
            padding = ((1, 1), (1, 1))
        return lax.conv_general_dilated(
            x,
            kernel,
            stride,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    ours = by(conv)
    assert len(ours.rows) == 3
    assert ours == by(xlas)
