"""The closed form against sets of pixels carried through the layers, and published tables."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cnnjax.receptive_field import (
    IDENTITY,
    Layer,
    ReceptiveField,
    Stack,
    aligned,
    backward_fields,
    compose,
    forward_fields,
    input_interval,
    merge,
    stack_for,
)

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

# He et al. (2015), the path of a block's 3x3 layers, which is the longer one.
_RESNET_STEM = [Layer(7, stride=2, padding=3), Layer(3, stride=2, padding=1)]
_RESNET_UNITS = (3, 4, 6, 3)


def resnet50(stride_on):
    """Bottleneck blocks; the first of each stage but the first has the stride."""
    chain = []
    for stage, num_units in enumerate(_RESNET_UNITS):
        for unit in range(num_units):
            stride = 2 if stage and not unit else 1
            first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
            chain += [Layer(1, stride=first), Layer(3, stride=second, padding=1), Layer(1)]
    return chain


RESNETS = {
    # TF-Slim pads its strided 7x7 by 3 itself (`conv2d_same`); its SAME pooling of 112 pixels
    # has no padding before.
    "resnet_v1_50, TF-Slim at 224": (
        [Layer(7, stride=2, padding=3), Layer(3, stride=2), *resnet50("1x1")],
        (483, 32, 239),
    ),
    "resnet50, torchvision": ([*_RESNET_STEM, *resnet50("3x3")], (427, 32, 213)),
    "resnet18, torchvision": (
        [
            *_RESNET_STEM,
            *[Layer(3, padding=1)] * 4,
            *[Layer(3, stride=2, padding=1), *[Layer(3, padding=1)] * 3] * 3,
        ],
        (435, 32, 217),
    ),
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


@pytest.mark.parametrize(
    ("network", "published"),
    [(VGG16, VGG16_FIELDS), (ALEXNET_V2, ALEXNET_V2_FIELDS)],
    ids=["vgg16", "alexnet_v2"],
)
def test_every_layer_agrees_with_araujo_norris_and_sim_2019(network, published):
    fields = dict(zip(network, forward_fields(network.values()), strict=True))
    assert {name: tuple(fields[name]) for name in published} == published


@pytest.mark.parametrize(("chain", "published"), RESNETS.values(), ids=RESNETS)
def test_resnets_agree_with_araujo_norris_and_sim_2019(chain, published):
    assert compose(chain) == backward_fields(chain)[0] == published


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


@exhaustive
@given(chains)
def test_forward_fields_see_what_each_layer_sees_of_the_input(chain):
    fields = forward_fields(chain)
    assert len(fields) == len(chain)
    for end, field in enumerate(fields, start=1):
        seen, next_seen = pixels_seen(chain[:end], 0), pixels_seen(chain[:end], 1)
        assert field == (max(seen) - min(seen) + 1, min(next_seen) - min(seen), -min(seen))


@exhaustive
@given(chains)
def test_backward_fields_see_what_the_output_sees_of_each_layer(chain):
    fields = backward_fields(chain)
    assert len(fields) == len(chain)
    for start, field in enumerate(fields):
        seen, next_seen = pixels_seen(chain[start:], 0), pixels_seen(chain[start:], 1)
        assert field == (max(seen) - min(seen) + 1, min(next_seen) - min(seen), -min(seen))


@exhaustive
@given(st.lists(layers, min_size=1, max_size=6))
def test_both_recurrences_end_in_the_same_field(chain):
    assert backward_fields(chain)[0] == forward_fields(chain)[-1]


@exhaustive
@given(chains, st.integers(-4, 6), st.integers(0, 4))
def test_input_interval_is_the_reach_of_all_its_positions(chain, first, more):
    seen = set().union(*(pixels_seen(chain, u) for u in range(first, first + more + 1)))
    assert input_interval(chain, first, first + more) == (min(seen), max(seen))
    assert input_interval(chain, first) == compose(chain).interval(first)


def test_numbers_are_exact_beyond_64_bits():
    # Sums of geometric series: 2^100 - 1 steps of one pixel, and so for the padding.
    field = compose([Layer(2, stride=2, padding=1)] * 100)
    assert field == (2**100, 2**100, 2**100 - 1)
    assert field.interval(3) == (2**101 + 1, 3 * 2**100)
    assert field.positions_covering(5 * 2**100) == (5, 5)


def covering(field, pixel, positions):
    """The positions, one by one, whose field covers a pixel."""
    return [
        u for u in positions if 0 <= pixel - (u * field.stride - field.padding) <= field.size - 1
    ]


fields = st.builds(
    ReceptiveField,
    size=st.integers(1, 9),
    stride=st.integers(1, 5),
    padding=st.integers(-3, 6),
)


@exhaustive
@given(fields, st.integers(-12, 12))
def test_positions_covering_a_pixel_are_those_whose_interval_holds_it(field, pixel):
    first, last = field.positions_covering(pixel)
    assert list(range(first, last + 1)) == covering(field, pixel, range(-40, 40))
    assert last >= first - 1


@exhaustive
@given(fields, st.integers(-12, 40), st.integers(0, 7))
def test_positions_covering_are_cut_to_those_that_exist(field, pixel, num_positions):
    first, last = field.positions_covering(pixel, num_positions)
    assert list(range(first, last + 1)) == covering(field, pixel, range(num_positions))
    assert last >= first - 1


@exhaustive
@given(fields, st.integers(0, 30), st.none() | st.integers(0, 7))
def test_valid_positions_see_no_padding(field, num_pixels, num_positions):
    exist = range(-40, 41) if num_positions is None else range(num_positions)
    image = range(num_pixels)
    valid = [u for u in exist if all(pixel in image for pixel in range_of(field, u))]
    first, last = field.valid_positions(num_pixels, num_positions)
    assert list(range(first, last + 1)) == valid
    assert last >= first - 1


def range_of(field, position):
    start = position * field.stride - field.padding
    return range(start, start + field.size)


def test_a_stride_larger_than_the_window_leaves_pixels_that_nothing_covers():
    field = compose([Layer(2, stride=5)])
    assert [field.positions_covering(pixel) for pixel in range(6)] == [
        (0, 0),
        (0, 0),
        (1, 0),
        (1, 0),
        (1, 0),
        (1, 1),
    ]


# Few enough that about a third of the pairs are aligned.
small_fields = st.builds(
    ReceptiveField,
    size=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
)


@exhaustive
@given(st.lists(small_fields, min_size=1, max_size=3))
def test_paths_are_aligned_when_their_intervals_share_a_middle_everywhere(paths):
    seen = [
        {(min(pixels), max(pixels)) for pixels in (range_of(f, 0), range_of(f, 7))} for f in paths
    ]
    middles = [{first + last for first, last in of_path} for of_path in seen]
    assert aligned(paths) == all(of_path == middles[0] for of_path in middles)


@exhaustive
@given(st.lists(fields, min_size=1, max_size=3), st.integers(1, 5))
def test_merged_field_is_the_smallest_that_covers_every_path(paths, stride):
    paths = [path._replace(stride=stride) for path in paths]
    merged = merge(paths, require_aligned=False)
    for position in (0, 1, 5):
        seen = set().union(*(range_of(path, position) for path in paths))
        assert merged.interval(position) == (min(seen), max(seen))


def test_a_residual_block_sees_what_its_longer_path_sees():
    # He et al. (2015): two 3x3 layers with stride 2 beside a 1x1 shortcut of the same stride.
    block = compose([Layer(3, stride=2, padding=1), Layer(3, padding=1)])
    shortcut = compose([Layer(1, stride=2)])
    assert merge([block, shortcut]) == block == (7, 2, 3)


def test_an_inception_module_sees_what_its_largest_window_sees():
    paths = [compose([Layer(k, padding=(k - 1) // 2)]) for k in (1, 3, 5)]
    assert merge(paths) == (5, 1, 2)


def random_stacks(shape, seed=0):
    rng = np.random.default_rng(seed)
    return Layer(
        window=rng.integers(1, 8, shape),
        stride=rng.integers(1, 4, shape),
        padding=rng.integers(-1, 4, shape),
        dilation=rng.integers(1, 4, shape),
    )


def chain_at(stacks, index):
    return [Layer(*map(int, numbers)) for numbers in zip(*(v[index] for v in stacks), strict=True)]


def on_device(stacks):
    return Layer(*map(jnp.asarray, stacks))


SCORED = {
    "numpy": compose,
    "jax": lambda stacks: compose(on_device(stacks)),
    "jit": lambda stacks: jax.jit(compose)(on_device(stacks)),
    "vmap": lambda stacks: jax.vmap(jax.vmap(compose))(on_device(stacks)),
    "layers of arrays": lambda stacks: compose(
        Layer(*(value[..., i] for value in stacks)) for i in range(4)
    ),
    "backward": lambda stacks: backward_fields(stacks)[0],
    "backward, jit": lambda stacks: jax.jit(backward_fields)(on_device(stacks))[0],
}


@pytest.mark.parametrize("score", SCORED.values(), ids=SCORED)
def test_arrays_of_stacks_score_like_one_stack_at_a_time(score):
    stacks = random_stacks((5, 6, 4))
    field = score(stacks)
    for index in np.ndindex(5, 6):
        assert tuple(int(value[index]) for value in field) == compose(chain_at(stacks, index))


def test_layers_of_one_tap_fill_up_shorter_stacks():
    windows = np.array([[3, 3, 3], [5, 3, 1], [7, 1, 1]])
    field = compose(Layer(windows, padding=(windows - 1) // 2))
    assert [value.tolist() for value in field] == [[7, 7, 7], [1, 1, 1], [3, 3, 3]]


@pytest.mark.parametrize("module", [np, jnp], ids=["numpy", "jax"])
def test_questions_of_arrays_are_answered_one_by_one(module):
    rng = np.random.default_rng(1)
    columns = [rng.integers(1, 9, 40), rng.integers(1, 5, 40), rng.integers(-3, 6, 40)]
    numbers = rng.integers(-9, 9, 40)
    field = ReceptiveField(*map(module.asarray, columns))
    asked = module.asarray(numbers)
    answers = {
        "interval": field.interval(asked),
        "positions_covering": field.positions_covering(asked, 5),
        "valid_positions": field.valid_positions(12),
        "input_interval": input_interval([Layer(field.size, field.stride)], asked, asked + 1),
    }
    centers = field.center(asked)
    both = [field, field._replace(padding=field.padding + 1)]
    for i, number in enumerate(numbers.tolist()):
        one = ReceptiveField(*(int(column[i]) for column in columns))
        expected = {
            "interval": one.interval(number),
            "positions_covering": one.positions_covering(number, 5),
            "valid_positions": one.valid_positions(12),
            "input_interval": input_interval([Layer(one.size, one.stride)], number, number + 1),
        }
        assert {name: tuple(int(v[i]) for v in pair) for name, pair in answers.items()} == expected
        assert float(centers[i]) == one.center(number)
    assert aligned([field, field]).tolist() == [True] * 40
    assert aligned(both).tolist() == [False] * 40
    assert merge(both, require_aligned=False).size.tolist() == (columns[0] + 1).tolist()


def test_answers_are_the_same_under_jit():
    field = ReceptiveField(*map(jnp.asarray, (7, 2, 3)))
    pixels = jnp.arange(-5, 6)
    jitted = jax.jit(lambda field, x: field.positions_covering(x, 4))(field, pixels)
    assert np.array_equal(jitted, field.positions_covering(pixels, 4))
    paths = [field, ReceptiveField(*map(jnp.asarray, (1, 2, 0)))]
    assert bool(jax.jit(aligned)(paths))
    assert jax.jit(merge)(paths) == (7, 2, 3)


@pytest.mark.parametrize("value", [np.int8(100), np.array(100, np.int8), np.array([100], np.int8)])
def test_small_dtypes_do_not_wrap_around(value):
    size = compose([Layer(value, dilation=value, stride=value), Layer(value)]).size
    assert size == 1 + 100 * 99 + 99 * 100


@pytest.mark.parametrize(
    ("module", "num_layers", "message"),
    [
        (jnp, 31, r"2,147,483,648 does not fit int32, which holds 2,147,483,647 .*NumPy arrays"),
        (np, 63, r"does not fit int64, which holds 9,223,372,036,854,775,807 at .*Python integers"),
    ],
    ids=["jax", "numpy"],
)
def test_a_result_too_large_for_its_dtype_is_an_error_and_one_that_fits_is_exact(
    module, num_layers, message
):
    stack = [Layer(module.array([2]), stride=2)]
    with pytest.raises(ValueError, match=message):
        compose(stack * num_layers)
    largest = compose(stack * (num_layers - 1))
    assert [int(v[0]) for v in largest] == [2 ** (num_layers - 1)] * 2 + [0]


def test_intermediate_numbers_too_large_for_the_dtype_do_no_harm():
    most = 2**31 - 1
    field = compose(
        [
            Layer(1, padding=jnp.array([most])),
            Layer(1, padding=jnp.array([most - 1])),
            Layer(1, padding=jnp.array([-most])),
        ]
    )
    assert field.padding.tolist() == [most - 1]
    covered = ReceptiveField(jnp.array([1]), 2, most).positions_covering(jnp.array([most]))
    assert [int(v[0]) for v in covered] == [most, most]


LONE = r"one Layer alone must hold arrays whose last axis is the layer, got .*write \[Layer\("


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: compose([Layer(0)]), ValueError, r"compose: layer 0's window must be at least 1"),
        (lambda: compose([Layer(3), Layer(3, 0)]), ValueError, r"layer 1's stride must be at lea"),
        (
            lambda: compose([Layer(3, dilation=0)]),
            ValueError,
            r"dilation must be at least 1, got 0",
        ),
        (lambda: compose([Layer(3.0)]), TypeError, r"window must be an integer or an array of int"),
        (lambda: compose([Layer(True)]), TypeError, r"window must be an integer .*, got True"),
        (lambda: compose([Layer(np.ones(2))]), TypeError, r"got an array of dtype float64"),
        (lambda: compose([Layer(np.array([3, 0]))]), ValueError, r"got an array that holds 0"),
        (lambda: compose([3, 3]), TypeError, r"layer 0 must be a Layer, got 3; write Layer\("),
        (lambda: compose(Layer(3)), ValueError, LONE),
        (lambda: compose([], (1, 1, 0)), TypeError, r"expected a ReceptiveField\(size, stride"),
        (
            lambda: compose(Layer(np.ones((4, 3), int), np.ones((4, 2), int))),
            ValueError,
            r"the last axis is the layer .*, got shapes \[\(4, 3\), \(4, 2\), \(\), \(\)\]",
        ),
        (
            lambda: forward_fields([Layer(np.ones(2, int)), Layer(np.ones(3, int))]),
            ValueError,
            r"forward_fields: arrays of shapes \[\(2,\), \(3,\)\] do not broadcast",
        ),
        (lambda: input_interval([], 3, 2), ValueError, r"last must not lie before first, got fir"),
        (lambda: IDENTITY.interval(0.5), TypeError, r"interval: position must be an integer"),
        (lambda: IDENTITY.positions_covering(0, -1), ValueError, r"num_positions must be at leas"),
        (lambda: IDENTITY.valid_positions(-1), ValueError, r"valid_positions: num_pixels must be"),
        (lambda: aligned([]), ValueError, r"aligned: expected at least one field, got none"),
        (lambda: aligned(IDENTITY), TypeError, r"aligned: expected several fields, got one; wri"),
        (lambda: merge([]), ValueError, r"merge: expected at least one field, got none"),
        (
            lambda: merge([ReceptiveField(3, 2, 1), IDENTITY]),
            ValueError,
            r"merge: paths of unequal strides \[1, 2\] drift apart",
        ),
        (
            lambda: merge([ReceptiveField(3, 1, 0), IDENTITY]),
            ValueError,
            r"not aligned: their centres at position 0 are \[0.0, 1.0\]; pad each .*require_alig",
        ),
        (lambda: stack_for(0), ValueError, r"stack_for: receptive_field must be at least 1, got 0"),
        (lambda: stack_for(7, windows=()), ValueError, r"windows must hold at least one window"),
        (lambda: stack_for(7, windows=(1, 3)), ValueError, r"a window must be at least 2, got 1"),
        (
            lambda: stack_for(8),
            ValueError,
            r"windows \(3, 5, 7\) sees exactly 8 pixels; the nearest fields are 7 and 9: .*even",
        ),
        (
            lambda: stack_for(9, max_layers=1),
            ValueError,
            r"of at most 1 layers sees exactly 9 pixels; the nearest field is 7: .*max_layers=2",
        ),
        (
            lambda: stack_for(18, before=ReceptiveField(11, 4, 5)),
            ValueError,
            r"after ReceptiveField\(.*\) sees exactly 18 pixels; the nearest fields are 11 and 19",
        ),
        (
            lambda: stack_for(3, before=ReceptiveField(11, 4, 5)),
            ValueError,
            r"sees exactly 3 pixels; the nearest field is 11: .*choose other windows",
        ),
        (lambda: stack_for(99, windows=range(2, 30)), ValueError, r"more than 100,000 stacks"),
        (lambda: Stack((3,)).num_macs(4, (8,)), ValueError, r"num_macs: a stack of 2 spatial axes"),
    ],
)
def test_error_says_what_came_and_what_to_write(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_three_3x3_layers_hold_27_weights_where_one_7x7_holds_49():
    # CS231n notes; Simonyan and Zisserman (2014), section 2.3: 27 C^2 against 49 C^2.
    weights = {stack.windows: stack.weights_per_channel_pair for stack in stack_for(7)}
    assert weights == {(3, 3, 3): 27, (5, 3): 34, (7,): 49}
    assert [stack.num_nonlinearities for stack in stack_for(7)] == [3, 2, 1]


def test_a_stack_counts_its_weights_and_macs():
    # FACTS of VGG-16: a 3x3 layer of 512 filters on 512 channels holds 2,359,296 weights; on its
    # 14x14 volume each of them is used 196 times.
    stack = Stack((3, 3))
    assert stack.num_weights(512) == 2 * 2_359_296
    assert stack.num_macs(512, (14, 14)) == 2 * 2_359_296 * 196
    assert Stack((3,), rank=3).num_weights(2) == 27 * 4


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    wanted=st.integers(1, 14),
    windows=st.sets(st.integers(2, 6), min_size=1, max_size=3),
    max_layers=st.none() | st.integers(0, 4),
    before=st.sampled_from([IDENTITY, ReceptiveField(2, 1, 0), ReceptiveField(3, 2, 1)]),
)
def test_stacks_are_all_that_reach_the_field_and_no_others(wanted, windows, max_layers, before):
    most = 13 if max_layers is None else max_layers
    reach = {
        tuple(sorted(stack, reverse=True))
        for num_layers in range(most + 1)
        for stack in itertools.combinations_with_replacement(sorted(windows), num_layers)
        if before.size + before.stride * sum(w - 1 for w in stack) == wanted
    }
    if not reach:
        with pytest.raises(ValueError, match="the nearest field"):
            stack_for(wanted, windows=windows, max_layers=max_layers, before=before)
        return
    stacks = stack_for(wanted, windows=windows, max_layers=max_layers, before=before)
    assert sorted(stack.windows for stack in stacks) == sorted(reach)
    weights = [sum(w * w for w in stack.windows) for stack in stacks]
    assert weights == sorted(weights)
    for stack in stacks:
        assert compose(stack.layers, before).size == wanted


@given(windows=st.sets(st.integers(3, 6).map(lambda n: 2 * n - 3), min_size=1, max_size=3))
def test_nearest_fields_that_the_error_names_are_reached(windows):
    assume(max(windows) > 3)
    with pytest.raises(ValueError, match=r"fields? (is|are) ") as caught:
        stack_for(20, windows=windows)
    named = str(caught.value).split("nearest field")[1].split(":")[0]
    numbers = [int(word) for word in named.split() if word.isdigit()]
    assert len(numbers) == 2
    for number in numbers:
        assert compose(stack_for(number, windows=windows)[0].layers).size == number
