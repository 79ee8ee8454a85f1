"""The traced receptive field against published tables, hand-solved graphs and measurements.

A measurement by NaN (`measured_intervals(..., method="nan")`) shares no code with the tracer: it
runs the program. It finds every pixel that a value is computed from, whatever the weights.
"""

import re
from fractions import Fraction

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from wrapping import with_custom_jvp, with_custom_vjp

from cnnjax import ops
from cnnjax.analysis import measured_intervals, receptive_field
from cnnjax.models import Conv


def struct(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def conv(x, window, features=None, **statics):
    """A convolution of equal windows on all spatial axes, of weights that are not zero."""
    features = x.shape[-1] if features is None else features
    in_group = x.shape[-1] // statics.get("groups", 1)
    return ops.conv(x, jnp.ones((window,) * (x.ndim - 2) + (in_group, features)), **statics)


def conv_transpose(x, window, **statics):
    channels = x.shape[-1]
    return ops.conv_transpose(x, jnp.ones((window,) * (x.ndim - 2) + (channels,) * 2), **statics)


def along(x, **settings):
    """Pooling settings for as many axes as x has, from one number each."""
    rank = x.ndim - 2
    return {name: (v,) * rank if isinstance(v, int) else v for name, v in settings.items()}


def max_pool(x, **settings):
    return ops.max_pool(x, **along(x, **settings))


def law(field, axis=0):
    """(size, stride, padding) of one axis."""
    return field.size[axis], field.stride[axis], field.padding[axis]


def seen(field, axis=0):
    """The pairs of first and last pixel, position by position."""
    one = field.axes[axis]
    return list(zip(one.first.tolist(), one.last.tolist(), strict=True))


def traced(fn, size, channels=1):
    """The field of a function of a one-dimensional image."""
    return receptive_field(fn, struct(1, size, channels))


# ---- published tables ----


class Vgg16(nn.Module):
    """Simonyan and Zisserman (2014), configuration D, without its dense layers."""

    @nn.compact
    def __call__(self, x):
        for stage, (width, depth) in enumerate([(4, 2), (4, 2), (4, 3), (4, 3), (4, 3)], start=1):
            for i in range(1, depth + 1):
                x = nn.relu(Conv(width, (3, 3), padding=1, name=f"conv{stage}_{i}")(x))
            x = ops.max_pool(x, window=2)
        return x


def test_vgg16_is_araujos_table_layer_by_layer():
    field, layers = receptive_field(Vgg16(), struct(1, 224, 224, 3), intermediate=True)
    table = {
        "conv1_1": (3, 1, 1),
        "Vgg16#0": (6, 2, 2),
        "conv2_1": (10, 2, 4),
        "Vgg16#1": (16, 4, 6),
        "conv3_1": (24, 4, 10),
        "conv3_2": (32, 4, 14),
        "Vgg16#2": (44, 8, 18),
        "conv4_1": (60, 8, 26),
        "conv4_2": (76, 8, 34),
        "Vgg16#3": (100, 16, 42),
        "conv5_1": (132, 16, 58),
        "conv5_2": (164, 16, 74),
        "Vgg16#4": (212, 32, 90),
    }
    assert len(layers) == 13 + 5
    for name, expected in table.items():
        path = name if "#" in name else f"Vgg16/{name}"
        assert law(layers[path], 0) == law(layers[path], 1) == expected
    assert law(field) == (212, 32, 90)
    assert field.aligned


def test_alexnet_v2_is_araujos_table():
    def layers(x):
        x = conv(x, 11, stride=4)
        yield x
        x = ops.max_pool(x, window=3, stride=2)
        yield x
        x = conv(x, 5, padding=2)
        yield x
        x = ops.max_pool(x, window=3, stride=2)
        for _ in range(3):
            x = conv(x, 3, padding=1)
            yield x
        yield ops.max_pool(x, window=3, stride=2)

    fields = receptive_field(lambda x: list(layers(x)), struct(1, 224, 224, 1))
    assert [law(field) for field in fields] == [
        *[(11, 4, 0), (19, 8, 0), (51, 8, 16), (99, 16, 32)],
        *[(131, 16, 48), (163, 16, 64), (195, 32, 64)],
    ]


def resnet(x, blocks, *, bottleneck, stride_on_3x3=True, pool_padding=1):
    """He et al. (2015) in four channels: its windows are what a receptive field is made of."""
    x = nn.relu(conv(x, 7, 4, stride=2, padding=3))
    x = ops.max_pool(x, window=3, stride=2, padding=pool_padding)
    for stage, depth in enumerate(blocks):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            y = x
            if bottleneck:
                first, second = (1, stride) if stride_on_3x3 else (stride, 1)
                y = nn.relu(conv(y, 1, stride=first))
                y = nn.relu(conv(y, 3, stride=second, padding=1))
                y = conv(y, 1)
            else:
                y = nn.relu(conv(y, 3, stride=stride, padding=1))
                y = conv(y, 3, padding=1)
            if stride > 1 or not block:
                x = conv(x, 1, stride=stride)
            x = nn.relu(x + y)
    return x


@pytest.mark.parametrize(
    ("blocks", "options", "expected"),
    [
        pytest.param((2, 2, 2, 2), {"bottleneck": False}, (435, 32, 217), id="ResNet-18"),
        pytest.param((3, 4, 6, 3), {"bottleneck": True}, (427, 32, 213), id="ResNet-50 v1.5"),
        pytest.param(
            *((3, 4, 6, 3), {"bottleneck": True, "stride_on_3x3": False}, (483, 32, 241)),
            id="ResNet-50 v1, symmetric padding",
        ),
    ],
)
def test_resnets_are_the_published_fields(blocks, options, expected):
    field = receptive_field(lambda x: resnet(x, blocks, **options), struct(1, 224, 224, 1))
    assert law(field) == expected
    assert field.axes[0].largest == expected[0]
    # The shortcuts alone: the stem's 7x7 and 3x3 window.
    assert field.axes[0].smallest == 11
    assert field.aligned


def test_resnet50_v1_is_araujos_row_with_tensorflows_padding_of_the_pooling():
    # TF-Slim pads its convolutions by (F - 1) / 2 and its 3x3/2 pooling on 112 pixels by (0, 1).
    options = {"bottleneck": True, "stride_on_3x3": False, "pool_padding": "SAME"}
    field = receptive_field(lambda x: resnet(x, (3, 4, 6, 3), **options), struct(1, 224, 224, 1))
    assert law(field) == (483, 32, 239)
    assert field.aligned


def test_152_layers_are_traced_without_their_weights():
    class ResNet152(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(152):
                x = nn.relu(x + Conv(10**6, (3, 3), padding=1, name=f"conv{i}")(x))
            return x

    # 152 layers of nine trillion weights.
    field = receptive_field(ResNet152(), struct(1, 32, 32, 10**6))
    assert law(field) == (305, 1, 152)
    assert field.axes[0].smallest == 1


# ---- hand-solved ----


@pytest.mark.parametrize(
    ("fn", "size", "expected"),
    [
        pytest.param(lambda x: x, 5, (1, 1, 0), id="identity"),
        pytest.param(lambda x: conv(x, 3, padding=1), 5, (3, 1, 1), id="3 taps"),
        pytest.param(lambda x: conv(x, 2), 5, (2, 1, 0), id="even window"),
        pytest.param(lambda x: conv(x, 3, padding=((2, 0),)), 5, (3, 1, 2), id="causal padding"),
        pytest.param(lambda x: conv(x, 3, dilation=4), 12, (9, 1, 0), id="dilation"),
        pytest.param(lambda x: conv(conv(x, 3), 3, dilation=2), 12, (7, 1, 0), id="dilated second"),
        pytest.param(lambda x: conv(x, 3, stride=5), 13, (3, 5, 0), id="stride above the window"),
        pytest.param(lambda x: conv(x, 3, groups=2, padding=1), 5, (3, 1, 1), id="groups"),
        pytest.param(lambda x: conv(x, 1, stride=2), 6, (1, 2, 0), id="strided 1 tap"),
        pytest.param(lambda x: max_pool(x, window=2), 6, (2, 2, 0), id="max"),
        pytest.param(lambda x: max_pool(x, window=6, stride=2), 12, (6, 2, 0), id="large max"),
        pytest.param(
            lambda x: max_pool(x, window=3, stride=2, padding=1), 7, (3, 2, 1), id="padded max"
        ),
        pytest.param(
            lambda x: ops.avg_pool(x, **along(x, window=3, stride=2)), 7, (3, 2, 0), id="average"
        ),
        pytest.param(lambda x: ops.avg_pool(x, **along(x, window=2)), 8, (2, 2, 0), id="tiles"),
        pytest.param(
            lambda x: ops.l2_pool(x, **along(x, window=3, stride=1)), 7, (3, 1, 0), id="L2"
        ),
        pytest.param(
            lambda x: ops.max_pool_with_switches(x, window=(2,))[0], 8, (2, 2, 0), id="switches"
        ),
        pytest.param(
            lambda x: ops.max_pool_with_switches(x, window=(2,))[1], 8, (2, 2, 0), id="the switch"
        ),
        pytest.param(
            lambda x: ops.local_response_norm_within_channel(x, window=(5,)),
            *(9, (5, 1, 2)),
            id="LRN within a channel",
        ),
        pytest.param(
            lambda x: ops.local_response_norm(x, size=3, alpha=1.0, alpha_over="sum"),
            *(9, (1, 1, 0)),
            id="LRN",
        ),
        pytest.param(
            lambda x: ops.locally_connected(x, jnp.ones((7, 3, 2, 2))), 9, (3, 1, 0), id="unshared"
        ),
        pytest.param(
            lambda x: ops.conv_as_matmul(x, jnp.ones((3, 2, 2)), padding=1),
            9,
            (3, 1, 1),
            id="im2col",
        ),
        pytest.param(lambda x: nn.max_pool(x, (3,), (2,)), 9, (3, 2, 0), id="Flax's max"),
        pytest.param(
            lambda x: nn.avg_pool(x, (3,), (2,), "SAME"), 9, (3, 2, 1), id="Flax's average"
        ),
        pytest.param(lambda x: x[:, 1:] - x[:, :-1], 6, (2, 1, 0), id="difference"),
        pytest.param(lambda x: conv(x[:, 2:-2], 3), 9, (3, 1, -2), id="crop"),
        pytest.param(lambda x: x[:, ::3], 9, (1, 3, 0), id="every third"),
        pytest.param(lambda x: x[:, 1::3], 9, (1, 3, -1), id="every third from the second"),
        pytest.param(lambda x: jnp.take(x, jnp.arange(1, 9, 2), 1), 9, (1, 2, -1), id="take"),
        pytest.param(lambda x: jnp.pad(x, ((0, 0), (3, 1), (0, 0))), 5, (1, 1, 3), id="pad"),
        pytest.param(
            lambda x: jnp.concatenate([jnp.ones((1, 2, 2)), x], 1),
            5,
            (1, 1, 2),
            id="concatenated pad",
        ),
        pytest.param(lambda x: x.reshape(1, 4, 3, 2).max(2), 12, (3, 3, 0), id="pool by reshape"),
        pytest.param(lambda x: x.reshape(1, 4, 6), 12, (3, 3, 0), id="space to depth"),
        pytest.param(lambda x: jnp.repeat(x, 2, 1), 5, (1, Fraction(1, 2), 0), id="repeat"),
        pytest.param(
            lambda x: conv(jnp.repeat(x, 2, 1), 3, stride=2, padding=1),
            5,
            (2, 1, 1),
            id="up and down",
        ),
        pytest.param(
            lambda x: conv_transpose(x, 4, stride=2, padding=1), 5, (2, Fraction(1, 2), 1), id="up"
        ),
        pytest.param(
            lambda x: conv(conv_transpose(x, 2, stride=2), 2, stride=2), 5, (1, 1, 0), id="up, down"
        ),
        pytest.param(lambda x: conv_transpose(x, 3), 5, (3, 1, 2), id="full"),
        pytest.param(
            lambda x: jnp.swapaxes(conv(jnp.swapaxes(x, 0, 1)[..., None], 1)[..., 0], 0, 1),
            *(5, (1, 1, 0)),
            id="transpose and back",
        ),
    ],
)
def test_law_of_small_programs(fn, size, expected):
    field = receptive_field(fn, struct(1, size, 2))
    assert law(field) == expected
    assert field.aligned


@pytest.mark.parametrize(
    ("fn", "expected"),
    [
        pytest.param(lambda x: conv(x, 3, padding=1), [(0, 1), (0, 2), (1, 3), (2, 3)], id="conv"),
        pytest.param(
            lambda x: conv(x, 2, padding=((3, 0),)),
            [(0, -1), (0, -1), (0, 0), (0, 1), (1, 2), (2, 3)],
            id="positions that see only padding",
        ),
        pytest.param(
            lambda x: conv_transpose(x, 1, stride=2),
            [(0, 0), (0, -1), (1, 1), (0, -1), (2, 2), (0, -1), (3, 3)],
            id="holes",
        ),
        pytest.param(
            lambda x: jnp.pad(x, ((0, 0), (2, 1), (0, 0)), "reflect"),
            [(2, 2), (1, 1), (0, 0), (1, 1), (2, 2), (3, 3), (2, 2)],
            id="reflection",
        ),
        pytest.param(
            lambda x: jnp.roll(x, 1, 1), [(3, 3), (0, 0), (1, 1), (2, 2)], id="circular shift"
        ),
        pytest.param(lambda x: x[:, ::-1], [(3, 3), (2, 2), (1, 1), (0, 0)], id="reversed"),
        pytest.param(lambda x: jnp.cumsum(x, 1), [(0, 0), (0, 1), (0, 2), (0, 3)], id="cumsum"),
        pytest.param(
            lambda x: lax.cumsum(x, 1, reverse=True), [(0, 3), (1, 3), (2, 3), (3, 3)], id="reverse"
        ),
        pytest.param(
            lambda x: x * (np.arange(4) % 2).reshape(1, 4, 1),
            [(0, -1), (1, 1), (0, -1), (3, 3)],
            id="mask",
        ),
        pytest.param(
            lambda x: jnp.where(jnp.arange(4).reshape(1, 4, 1) < 2, x, x[:, ::-1]),
            [(0, 0), (1, 1), (1, 1), (0, 0)],
            id="where",
        ),
        pytest.param(
            lambda x: x.at[:, 1].set(0.0), [(0, 0), (0, -1), (2, 2), (3, 3)], id="overwritten"
        ),
        pytest.param(
            lambda x: x.at[:, 1].add(x[:, 3]), [(0, 0), (1, 3), (2, 2), (3, 3)], id="added to"
        ),
        pytest.param(
            lambda x: lax.dynamic_slice(x, (0, 2, 0), (1, 2, 1)), [(2, 2), (3, 3)], id="dynamic"
        ),
        pytest.param(
            lambda x: lax.dynamic_update_slice(x, jnp.ones((1, 2, 1)), (0, 1, 0)),
            [(0, 0), (0, -1), (0, -1), (3, 3)],
            id="dynamic update",
        ),
        pytest.param(
            lambda x: ops.fractional_max_pool(x, u=[(0.5,)], output_size=(3,)),
            [(0, 1), (2, 2), (3, 3)],
            id="fractional: b = floor((j + u) 4/3) - floor(4 u/3) = 0, 2, 3, 4",
        ),
    ],
)
def test_support_of_small_programs(fn, expected):
    assert seen(traced(fn, 4)) == expected


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x.reshape(1, -1) @ jnp.ones((24, 3)),
        lambda x: x.mean((1, 2)),
        lambda x: ops.global_avg_pool(x),
        lambda x: ops.global_max_pool(x),
        lambda x: nn.softmax(x, (1, 2)),
        lambda x: jnp.sort(jnp.sort(x, 1), 2),
        lambda x: jnp.fft.fft2(x, axes=(1, 2)).real,
        lambda x: jnp.einsum("nhwij,nijc->nhwc", jnp.einsum("nhwc,nijc->nhwij", x, x), x),
        lambda x: x * nn.sigmoid(ops.global_avg_pool(conv(x, 3)))[:, None, None],
        lambda x: (x - x.mean((0, 1, 2), keepdims=True)) * 2.0,
    ],
    ids=[
        "dense",
        "mean",
        "global_average",
        "global_max",
        "softmax",
        "sort",
        "Fourier",
        "attention",
        "SE",
        "centred",
    ],
)
def test_what_sees_everything_sees_the_whole_input(fn):
    field = receptive_field(fn, struct(1, 4, 3, 2))
    assert field.whole
    assert field.size == field.stride == field.padding == (None, None)
    assert [(axis.first.min(), axis.last.max()) for axis in field.axes] == [(0, 3), (0, 2)]


def test_dense_layer_behind_a_crop_sees_what_the_crop_left():
    field = receptive_field(
        lambda x: x[:, 1:3].reshape(1, -1) @ jnp.ones((6, 5)), struct(1, 4, 3, 1)
    )
    assert not field.whole
    assert seen_of_all(field) == [(1, 2), (0, 2)]


def seen_of_all(field):
    return [(int(axis.first), int(axis.last)) for axis in field.axes]


def test_squeeze_and_excitation_keeps_the_smallest_path():
    def block(x):
        y = conv(x, 3, padding=1)
        return x + y * nn.sigmoid(ops.global_avg_pool(y))[:, None, None]

    field = receptive_field(block, struct(1, 9, 9, 1))
    assert field.whole
    assert [axis.smallest for axis in field.axes] == [1, 1]


def test_axes_are_followed_apart():
    kernel = jnp.ones((1, 7, 2, 2))
    field = receptive_field(lambda x: ops.conv(x, kernel, stride=(2, 3)), struct(1, 9, 21, 2))
    assert (field.size, field.stride) == ((1, 7), (2, 3))
    # Input axis 2 runs along output axis 1 after a transpose.
    turned = receptive_field(lambda x: x.swapaxes(1, 2), struct(1, 9, 21, 2))
    assert [axis.output_axes for axis in turned.axes] == [(2,), (1,)]


def test_three_dimensions_and_batch_axes():
    field = receptive_field(lambda x: conv(conv(x, 3), 3, stride=2), struct(2, 9, 10, 11, 1))
    assert (field.size, field.stride) == ((5,) * 3, (2,) * 3)
    batched = receptive_field(
        lambda x: ops.conv(x, jnp.ones((3, 1, 1))), struct(4, 5, 9, 1), spatial_axes=(2,)
    )
    assert law(batched) == (3, 1, 0)


def test_interval_and_center_are_those_of_the_law():
    (axis,) = traced(lambda x: conv(conv(x, 3, stride=2, padding=1), 3, padding=1), 20).axes
    assert [axis.interval(u) for u in (0, 1, -2)] == [(-3, 3), (-1, 5), (-7, -1)]
    assert axis.center(4) == 8.0


# ---- branches ----


def test_inception_block_is_the_union_with_its_smallest_and_largest_path():
    def block(x):
        return jnp.concatenate(
            [
                conv(x, 1),
                conv(x, 3, padding=1),
                conv(x, 5, padding=2),
                max_pool(x, window=3, stride=1, padding=1),
            ],
            -1,
        )

    field = traced(lambda x: conv(block(block(x)), 1), 20)
    (axis,) = field.axes
    assert (axis.size, axis.smallest, axis.largest) == (9, 1, 9)
    assert field.aligned


def test_misaligned_centres_are_reported_and_the_union_is_larger_than_any_path():
    field = traced(lambda x: conv(x, 3, padding=((2, 0),)) + conv(x, 3, padding=((0, 2),)), 9)
    (axis,) = field.axes
    assert (axis.size, axis.smallest, axis.largest, axis.padding) == (5, 3, 3, 2)
    (merge,) = field.misaligned
    assert (merge.operation, merge.axis, merge.offset) == ("add", 1, 2.0)
    assert not field.aligned


def test_misaligned_strides_are_reported_and_leave_intervals():
    # One arm halves the image, the other crops it to the same five positions.
    field = traced(lambda x: x[:, ::2] + x[:, :5] * conv(x, 1)[:, :5], 10)
    (merge,) = field.misaligned
    assert merge.strides == (2, 1)
    assert merge.offset is None
    assert field.size == (None,)
    assert seen(field) == [(0, 0), (1, 2), (2, 4), (3, 6), (4, 8)]
    with pytest.raises(
        ValueError, match="interval: the field depends on the position without a law"
    ):
        field.axes[0].interval(0)


def test_an_even_window_beside_a_shortcut_is_off_by_half_a_pixel():
    (merge,) = traced(lambda x: x + conv(x, 2, padding=((0, 1),)), 6).misaligned
    assert merge.offset == 0.5


def test_merge_is_named_by_its_module_path():
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + Conv(1, (3,), padding=((2, 0),), name="conv")(x)

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Block(name="block")(nn.relu(x))

    (merge,) = receptive_field(Net(), struct(1, 8, 1)).misaligned
    assert merge.path == "Net/block"


def test_taps_cut_from_one_array_are_a_window_not_paths():
    def by_slices(x):
        y = jnp.pad(x, ((0, 0), (2, 1), (0, 0)))
        return sum(weight * y[:, tap : tap + 8] for tap, weight in enumerate((1.0, 2.0, 3.0, 4.0)))

    field = traced(by_slices, 8)
    (axis,) = field.axes
    assert (axis.size, axis.smallest, axis.largest, axis.padding) == (4, 4, 4, 2)
    assert field.aligned


def unet(x, depth=2, padding=1):
    """Ronneberger et al. (2015): down by maxima, up by transposed convolutions, shortcuts."""
    x = conv(conv(x, 3, padding=padding), 3, padding=padding)
    if depth:
        y = unet(max_pool(x, window=2), depth - 1, padding)
        y = conv_transpose(y, 2, stride=2)
        crop = [
            (size - other) // 2 for size, other in zip(x.shape[1:-1], y.shape[1:-1], strict=True)
        ]
        inner = tuple(slice(c, c + size) for c, size in zip(crop, y.shape[1:-1], strict=True))
        x = jnp.concatenate([x[(slice(None), *inner)], y], -1)
        x = conv(conv(x, 3, 1, padding=padding), 3, padding=padding)
    return x


def test_unet_has_a_field_that_depends_on_the_position():
    field = traced(unet, 32)
    (axis,) = field.axes
    assert axis.period == 4
    assert axis.stride == 1
    # Four positions in a row see the same coarsest one and different fine ones: [position, field].
    intervals = measured_intervals(unet, struct(1, 32, 1), method="nan", num_spatial_axes=1)
    assert seen(field) == list(
        zip(intervals.first[:, 0].tolist(), intervals.last[:, 0].tolist(), strict=True)
    )
    # Its size stays, but it moves by leaps: neighbours share what the coarse level sees.
    firsts = [axis.interval(u)[0] for u in range(5)]
    assert sum(np.diff(firsts)) == 4
    assert set(np.diff(firsts)) != {1}


def test_unet_without_padding_crops_its_shortcuts():
    field = traced(lambda x: unet(x, 2, 0), 60)
    intervals = measured_intervals(
        lambda x: unet(x, 2, 0), struct(1, 60, 1), method="nan", num_spatial_axes=1
    )
    assert seen(field) == list(
        zip(intervals.first[:, 0].tolist(), intervals.last[:, 0].tolist(), strict=True)
    )


# ---- whatever a program is wrapped in ----


def a_layer(x):
    return max_pool(nn.relu(conv(x, 3, padding=1)), window=2)


@pytest.mark.parametrize(
    "wrapped",
    [
        jax.jit(a_layer),
        jax.checkpoint(a_layer),
        with_custom_jvp(a_layer),
        with_custom_vjp(a_layer),
        lambda x: jax.vmap(a_layer, -1, -1)(x[..., None])[..., 0],
        lambda x: lax.cond(True, a_layer, a_layer, x),
        lambda x: lax.map(lambda image: a_layer(image[None])[0], x),
        lambda x: lax.optimization_barrier(a_layer(x)),
    ],
    ids=["jit", "remat", "custom_jvp", "custom_vjp", "vmap", "cond", "map", "barrier"],
)
def test_wrappers_change_nothing(wrapped):
    plain, other = (receptive_field(fn, struct(2, 12, 1)) for fn in (a_layer, wrapped))
    assert law(plain) == law(other) == (4, 2, 1)
    assert seen(plain) == seen(other)


@pytest.mark.parametrize("reverse", [False, True])
def test_scan_repeats_its_body(reverse):
    def fn(x):
        def body(x, kernel):
            return ops.conv(x, kernel, padding=1), x[:, :1]

        return lax.scan(body, x, jnp.ones((4, 3, 1, 1)), reverse=reverse)

    last, firsts = receptive_field(fn, struct(1, 30, 1))
    assert law(last) == (9, 1, 4)
    seen_by_step = [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert seen(firsts) == (seen_by_step[::-1] if reverse else seen_by_step)


def test_scan_over_the_image_is_recurrent():
    def fn(x):
        return lax.scan(lambda state, row: (state + row, state), jnp.zeros(2), x[0])[1]

    assert seen(traced(fn, 4, 2)) == [(0, -1), (0, 0), (0, 1), (0, 2)]


def test_loop_whose_number_of_steps_changes_nothing_is_followed():
    def newton(x):
        return lax.while_loop(lambda s: s[0] < 20, lambda s: (s[0] + 1, s[1] / 2 + 1), (0, x))[1]

    assert law(traced(lambda x: newton(conv(x, 3)), 9)) == (3, 1, 0)


def test_conditional_unites_its_branches():
    (field,) = receptive_field(
        lambda x, flag: [
            lax.cond(flag, lambda x: conv(x, 5, padding=2), lambda x: conv(x, 3, padding=1), x)
        ],
        struct(1, 9, 1),
        jax.ShapeDtypeStruct((), jnp.bool_),
    )
    (axis,) = field.axes
    assert (axis.size, axis.smallest, axis.largest) == (5, 3, 5)


def test_condition_that_is_known_chooses_its_branch():
    def fn(x, flag):
        return lax.cond(flag, lambda x: conv(x, 5, padding=2), lambda x: conv(x, 3, padding=1), x)

    assert law(receptive_field(fn, struct(1, 9, 1), np.bool_(False))) == (3, 1, 1)


# ---- what is not known ----


@pytest.mark.parametrize(
    ("fn", "reason"),
    [
        (lambda x: jnp.linalg.qr(x)[0], "`qr` at the top: no rule"),
        (
            lambda x: jax.pure_callback(np.sort, jax.ShapeDtypeStruct((1, 6, 6), jnp.float32), x),
            "`pure_callback` at the top: no rule",
        ),
        (
            lambda x: lax.dynamic_slice_in_dim(x, jnp.argmax(x[0, :, 0]), 2, 1),
            "steer it depend on the input",
        ),
        (
            lambda x: lax.while_loop(lambda s: s.sum() > 0, lambda x: conv(x, 3, padding=1), x),
            "`while` at the top: what its result sees depends on the number of its steps",
        ),
        (
            lambda x: ops.max_unpool(*ops.max_pool_with_switches(x, window=(2,)), (6,)),
            "only a run knows|depend on the input",
        ),
    ],
    ids=["qr", "callback", "argmax", "while", "unpooling"],
)
def test_what_cannot_be_followed_is_named(fn, reason):
    field = receptive_field(lambda x: conv(fn(x) * 2.0, 1), struct(1, 6, 6))
    assert field.axes == ()
    assert not field.aligned
    assert any(re.search(reason, text) for text in field.unknown)


def test_the_path_of_what_cannot_be_followed_is_said():
    class Odd(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.linalg.qr(x)[0]

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Odd(name="odd")(x)

    (reason,) = receptive_field(Net(), struct(1, 6, 6)).unknown
    assert "`qr` at Net/odd" in reason


def test_drawn_regions_are_known_by_their_key_alone():
    def fn(x, key):
        return ops.fractional_max_pool(x, key, output_size=(5,))

    key = jax.random.key(3)
    starts, ends = ops.fractional_boundaries(jax.random.fold_in(key, 0), 8, 5)
    shared = receptive_field(
        lambda x, key: ops.fractional_max_pool(x, key, output_size=(5,), share="batch"),
        *(struct(1, 8, 1), key),
    )
    assert seen(shared) == list(zip(starts.tolist(), (ends - 1).tolist(), strict=True))
    shape = jax.eval_shape(lambda: key)
    (reason,) = receptive_field(fn, struct(1, 8, 1), shape, argnum=0).unknown
    assert "only a run knows" in reason


def test_an_unknown_branch_leaves_the_others_known():
    one, other = receptive_field(lambda x: (conv(x, 3), jnp.linalg.qr(x)[0]), struct(1, 6, 6))
    assert law(one) == (3, 1, 0)
    assert other.unknown


# ---- against measurements ----


def agrees(fn, shape, method="nan", **settings):
    rank = len(shape) - 2
    measured = measured_intervals(
        fn, struct(*shape), method=method, num_spatial_axes=rank, **settings
    )
    field = receptive_field(fn, struct(*shape))
    for number, axis in enumerate(field.axes):
        assert axis.output_axes in ((number + 1,), ())
        # The measurement has every output position; the tracer those of its own axis.
        others = tuple(a for a in range(rank) if a != number)
        empty = measured.last[..., number] < 0
        first = np.where(empty, 10**6, measured.first[..., number]).min(others)
        last = measured.last[..., number].max(others)
        np.testing.assert_array_equal(np.broadcast_to(axis.last, last.shape), last)
        np.testing.assert_array_equal(
            np.broadcast_to(axis.first, first.shape), np.where(last < 0, 0, first)
        )
        if axis.size is not None and axis.output_axes:
            for position in range(len(last)):
                low, high = axis.interval(position)
                assert low <= first[position] or last[position] < 0
                assert last[position] <= high or last[position] < 0
    return field


def branches(first, *others):
    return lambda x: sum((branch(x) for branch in others), first(x))


@st.composite
def steps(draw, depth=2):
    """A layer that keeps a one-dimensional image's channels, whatever its length."""
    window, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    low, high = draw(st.integers(0, window - 1)), draw(st.integers(0, window - 1))
    dilation = draw(st.integers(1, 2))
    pair = ((low, high),)
    kinds = {
        "conv": lambda x: conv(x, window, stride=stride, padding=pair, dilation=dilation),
        "transposed": lambda x: conv_transpose(x, window, stride=stride),
        "depthwise": lambda x: conv(x, window, stride=stride, padding=pair, groups=2),
        "max": lambda x: ops.max_pool(x, window=(window,), stride=(stride,), padding=pair),
        "average": lambda x: ops.avg_pool(
            x, window=(window,), stride=(stride,), padding=pair, fit="ceil"
        ),
        # A sum: XLA's reduce-window on the CPU loses the NaN of some maxima.
        "reduce_window": lambda x: nn.avg_pool(x, (window,), (stride,), pair),
        "crop": lambda x: x[:, low : x.shape[1] - high],
        "pad": lambda x: jnp.pad(x, ((0, 0), *pair, (0, 0))),
        "wrap": lambda x: jnp.pad(x, ((0, 0), (1, 1), (0, 0)), "wrap"),
        "stride": lambda x: x[:, ::stride],
        "repeat": lambda x: jnp.repeat(x, stride, 1),
        "flip": lambda x: x[:, ::-1],
        "relu": nn.relu,
        "normalise": lambda x: ops.local_response_norm_within_channel(x, window=(window,)),
    }
    if depth:
        kinds["residual"] = lambda x: x + keeping(x, inner)
        kinds["concatenate"] = lambda x: conv(jnp.concatenate([x, keeping(x, inner)], -1), 1, 2)
        kinds["gate"] = lambda x: x * keeping(x, inner)
        inner = draw(steps(depth=depth - 1))
    return kinds[draw(st.sampled_from(sorted(kinds)))]


def keeping(x, step):
    """The step's result cut or padded at the end to the length of its input."""
    y = step(x)
    missing = max(x.shape[1] - y.shape[1], 0)
    return jnp.pad(y, ((0, 0), (0, missing), (0, 0)))[:, : x.shape[1]]


def fits(fn, size):
    try:
        return 0 < jax.eval_shape(fn, struct(1, size, 2)).shape[1] < 60
    except ValueError:
        return False


def check_drawn(layers, size):
    def network(x):
        for layer in layers:
            y = layer(x)
            x = y if y.shape[1] else x
        return x

    if fits(network, size):
        agrees(network, (1, size, 2))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(steps(), min_size=1, max_size=4), st.integers(8, 20))
def test_drawn_networks_are_seen_as_they_are_measured(layers, size):
    check_drawn(layers, size)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.lists(steps(), min_size=1, max_size=6), st.integers(8, 30))
def test_many_drawn_networks_are_seen_as_they_are_measured(layers, size):
    check_drawn(layers, size)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: unet(x, 2),
        lambda x: resnet(x, (1, 1), bottleneck=False),
        lambda x: jax.image.resize(x, (1, 24, 7, 1), "nearest"),
        lambda x: conv(x, 3, padding=1) + conv(max_pool(x, window=3, stride=1, padding=1), 1),
    ],
    ids=["unet", "resnet", "nearest", "inception"],
)
def test_networks_of_two_axes_are_seen_as_they_are_measured(fn):
    agrees(fn, (1, 16, 12, 1))


@pytest.mark.parametrize("method", ["bilinear", "cubic"])
def test_resizing_is_seen_by_its_weights(method):
    # A NaN spreads through weights of zero; a gradient does not.
    agrees(lambda x: jax.image.resize(x, (1, 13, 1), method), (1, 8, 1), "gradient")


def test_gradients_stop_at_relus_that_are_off_and_the_trace_does_not():
    def fn(x):
        return nn.relu(conv(x, 3, padding=1) - 1e3)

    field = traced(fn, 6)
    measured = measured_intervals(fn, struct(1, 6, 1), num_spatial_axes=1)
    assert seen(field)[2] == (1, 3)
    assert (measured.last < 0).all()


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((), {}, "0 of the 0 example inputs are arrays"),
        ((struct(1, 4, 1), struct(1, 4, 1)), {}, "2 of the 2 example inputs .* say by argnum"),
        ((struct(1, 4, 1),), {"argnum": 1}, "argnum must name one of 1 example inputs, got 1"),
        (({"a": struct(1, 4, 1)},), {"argnum": 0}, "input 0 is a tree of arrays, not an image"),
        ((struct(1, 4),), {}, "spatial_axes must be distinct axes from 0 to 1"),
        ((struct(1, 4, 1),), {"spatial_axes": (3,)}, r"from 0 to 2 .* got \(3,\)"),
        ((struct(1, 4, 1),), {"spatial_axes": (1, 1)}, r"distinct axes .* got \(1, 1\)"),
    ],
)
def test_mistakes_are_told(arguments, options, message):
    with pytest.raises(ValueError, match=f"receptive_field: .*{message}"):
        receptive_field(lambda *inputs: jax.tree.leaves(inputs)[0], *arguments, **options)


def test_argnum_chooses_the_image():
    fn, inputs = lambda a, b: conv(a, 3)[:, :4] + b, (struct(1, 6, 1), struct(1, 4, 1))
    assert law(receptive_field(fn, *inputs, argnum=0)) == (3, 1, 0)
    assert law(receptive_field(fn, *inputs, argnum=1)) == (1, 1, 0)


def test_outputs_keep_their_tree_and_what_sees_nothing_says_so():
    fields = receptive_field(
        lambda x: {"a": conv(x, 3), "b": (jnp.ones((1, 3, 1)),)}, struct(1, 5, 1)
    )
    assert law(fields["a"]) == (3, 1, 0)
    assert fields["b"][0].size == (0,)
    assert seen_of_all(fields["b"][0]) == [(0, -1)]


def test_layers_of_one_path_are_numbered():
    _, layers = receptive_field(
        lambda x: conv(max_pool(conv(x, 3), window=2), 3), struct(1, 12, 1), intermediate=True
    )
    assert {name: law(field) for name, field in layers.items()} == {
        "convolution#0": (3, 1, 0),
        "max_pool": (4, 2, 0),
        "convolution#1": (8, 2, 0),
    }
