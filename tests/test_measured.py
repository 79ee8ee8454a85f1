"""Measured receptive fields against hand-solved windows, walks over sets and the closed form."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax import lax
from oracles import conv_loops

from cnnjax import ops
from cnnjax.analysis import _probing
from cnnjax.analysis.effective import effective_receptive_field
from cnnjax.analysis.measured import METHODS, measured_intervals, measured_receptive_field
from cnnjax.models import StackNet
from cnnjax.receptive_field import Layer, compose

each_method = pytest.mark.parametrize("method", METHODS)


def weights(*shape, seed=0):
    """Random weights, none near zero."""
    rng = np.random.default_rng(seed)
    return (rng.uniform(0.5, 1, shape) * rng.choice([-1, 1], shape)).astype(np.float32)


def conv3(x, **statics):
    return ops.conv(x, weights(3, 3, x.shape[-1], 2), **statics)


# fn, input shape, position, rows and columns of the pixels that it depends on: solved by hand.
SOLVED = {
    "convolution": (conv3, (1, 6, 7, 2), (1, 2), [1, 2, 3], [2, 3, 4]),
    "at a border": (lambda x: conv3(x, padding=1), (1, 6, 7, 2), (0, 6), [0, 1], [5, 6]),
    # From 2 u - 1 on.
    "strided": (
        lambda x: conv3(x, stride=2, padding=1),
        (1, 7, 7, 1),
        (2, 1),
        [3, 4, 5],
        [1, 2, 3],
    ),
    "dilated, with holes": (
        lambda x: conv3(x, dilation=2, padding=2),
        (1, 7, 7, 1),
        (3, 0),
        [1, 3, 5],
        [0, 2],
    ),
    "stride above the window, with holes": (
        lambda x: ops.conv(ops.conv(x, weights(1, 1, 1, 1), stride=3), weights(2, 2, 1, 1)),
        (1, 7, 7, 1),
        (0, 1),
        [0, 3],
        [3, 6],
    ),
    # Pixel i reaches the outputs 2 i, 2 i + 1 and 2 i + 2.
    "transposed": (
        lambda x: ops.conv_transpose(x, weights(3, 3, 2, 1), stride=2),
        (1, 4, 4, 1),
        (4, 3),
        [1, 2],
        [1],
    ),
    # So many that each pixel of a window wins in one of them.
    "maximum": (
        lambda x: ops.max_pool(x, window=3, stride=2),
        (16, 7, 7, 3),
        (1, 2),
        [2, 3, 4],
        [4, 5, 6],
    ),
    "mean": (lambda x: ops.avg_pool(x, window=2), (6, 4, 1), (2, 0), [4, 5], [0, 1]),
    # The sum of two paths: pixel (u, v) and the window of 3 x 3 around it.
    "skip connection": (
        lambda x: x + ops.conv(jnp.tanh(conv3(x, padding=1)), weights(1, 1, 2, 1)),
        (1, 6, 6, 1),
        (0, 3),
        [0, 1],
        [2, 3, 4],
    ),
    "crop": (lambda x: 2 * x[..., 2:-1, 3:, :], (1, 7, 7, 1), (1, 0), [3], [3]),
    "flip": (lambda x: x[..., ::-1, :, :], (1, 5, 4, 1), (1, 3), [3], [3]),
    "normalised over the image": (
        lambda x: x - x.mean(axis=(-3, -2), keepdims=True),
        (1, 3, 4, 1),
        (0, 0),
        [0, 1, 2],
        [0, 1, 2, 3],
    ),
    "dense": (
        lambda x: x.reshape(1, -1) @ weights(24, 3),
        (1, 4, 3, 2),
        None,
        [0, 1, 2, 3],
        [0, 1, 2],
    ),
}


def box(shape, rows, columns):
    support = np.zeros(shape, bool)
    support[np.ix_(rows, columns)] = True
    return support


@each_method
@pytest.mark.parametrize(
    ("fn", "shape", "position", "rows", "columns"), SOLVED.values(), ids=SOLVED
)
def test_support_is_the_one_solved_by_hand(fn, shape, position, rows, columns, method):
    field = measured_receptive_field(fn, shape, position=position, method=method)
    assert np.array_equal(field.support, box(shape[-3:-1], rows, columns))
    assert field.first == (rows[0], columns[0])
    assert field.last == (rows[-1], columns[-1])
    assert field.size == (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    intervals = measured_intervals(fn, shape, method=method)
    place = field.position
    assert intervals.first[place].tolist() == [rows[0], columns[0]]
    assert intervals.last[place].tolist() == [rows[-1], columns[-1]]


@each_method
@pytest.mark.parametrize(
    ("shape", "expected"),
    [((9, 1), ((3,), (6,))), ((1, 9, 8, 7, 1), ((3, 2, 2), (6, 5, 5)))],
    ids=["1-D", "3-D"],
)
def test_any_number_of_spatial_axes_is_measured(shape, expected, method):
    # Windows of 4 keep n - 3 positions; the centre, (n - 3) // 2, sees from there on.
    rank = 1 if len(shape) == 2 else 3
    kernel = weights(*(4,) * rank, 1, 1)
    field = measured_receptive_field(
        lambda x: ops.conv(x, kernel), shape, method=method, num_spatial_axes=rank
    )
    assert (field.first, field.last) == expected
    assert field.support.sum() == 4**rank


def loops_support(layers, shape, position):
    """One pixel at a time: does the output change in a NumPy loop over the layers?"""

    def run(x):
        for kernel, stride, padding in layers:
            pairs = ((padding, padding),) * 2
            x = conv_loops(x, kernel, stride=(stride,) * 2, padding=pairs, dilation=(1, 1))
            x = np.maximum(x, 0)
        return x[0, position[0], position[1]]

    x = np.random.default_rng(0).uniform(1, 2, shape)
    support = np.zeros(shape[1:3], bool)
    for pixel in np.ndindex(support.shape):
        moved = x.copy()
        moved[(0, *pixel)] += 0.5
        support[pixel] = np.any(run(moved) != run(x))
    return support


@each_method
@pytest.mark.parametrize("position", [(0, 0), (1, 2), (2, 1)])
def test_support_is_that_of_a_loop_over_pixels(method, position):
    rng = np.random.default_rng(1)
    # Positive weights and inputs: every unit of the oracle is on.
    layers = [
        (rng.uniform(0.1, 1, (3, 3, 1, 2)), 2, 1),
        (rng.uniform(0.1, 1, (2, 2, 2, 1)), 1, 0),
    ]

    def fn(x):
        for kernel, stride, padding in layers:
            kernel = jnp.asarray(kernel, jnp.float32)
            x = nn.relu(ops.conv(x, kernel, stride=stride, padding=padding))
        return x

    shape = (1, 7, 7, 1)
    expected = loops_support(layers, shape, position)
    assert 0 < expected.sum() < expected.size
    field = measured_receptive_field(fn, shape, position=position, method=method)
    assert np.array_equal(field.support, expected)


axis_layers = st.builds(
    Layer,
    window=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
few_examples = settings(max_examples=8, deadline=None, derandomize=True)


def chain_sizes(chain, highs, size):
    """The sizes from layer to layer, None if a window does not fit."""
    sizes = [size]
    for layer, high in zip(chain, highs, strict=True):
        span = layer.dilation * (layer.window - 1) + 1
        room = sizes[-1] + layer.padding + high - span
        if room < 0:
            return None
        sizes.append(room // layer.stride + 1)
    return sizes


def pixels_read(chain, sizes, position):
    """Walk back, tap by tap, over the positions that exist, to the pixels read."""
    positions = {position}
    for layer, size in zip(reversed(chain), reversed(sizes[:-1]), strict=True):
        taps = {
            p * layer.stride - layer.padding + tap * layer.dilation
            for p in positions
            for tap in range(layer.window)
        }
        positions = {p for p in taps if 0 <= p < size}
    return positions


def chain_function(chain, highs):
    def fn(x):
        for index, (layer, high) in enumerate(zip(chain, highs, strict=True)):
            x = ops.conv(
                x,
                weights(layer.window, 1, 1, seed=index),
                stride=layer.stride,
                padding=[(layer.padding, high)],
                dilation=layer.dilation,
            )
        return x

    return fn


@few_examples
@given(
    chain=st.lists(axis_layers, min_size=1, max_size=3),
    highs=st.lists(st.integers(0, 2), min_size=3, max_size=3),
    size=st.integers(5, 14),
)
@each_method
def test_random_chains_read_the_pixels_of_a_walk_over_sets(method, chain, highs, size):
    highs = highs[: len(chain)]
    sizes = chain_sizes(chain, highs, size)
    assume(sizes)
    fn = chain_function(chain, highs)
    statics = {"method": method, "num_spatial_axes": 1, "num_samples": 1}
    position = sizes[-1] // 2
    field = measured_receptive_field(fn, (size, 1), position=position, **statics)
    assert set(np.flatnonzero(field.support)) == pixels_read(chain, sizes, position)
    intervals = measured_intervals(fn, (size, 1), **statics)
    for u in range(sizes[-1]):
        read = pixels_read(chain, sizes, u) or {0, -1}
        assert intervals.last[u, 0] == max(read) if read != {0, -1} else -1
        assert intervals.first[u, 0] == (min(read) if read != {0, -1} else 0)


@few_examples
@given(
    chain=st.lists(axis_layers, min_size=1, max_size=3),
    size=st.integers(6, 16),
)
@each_method
def test_chains_without_holes_measure_what_the_closed_form_says(method, chain, size):
    # Windows that touch and see some pixel, and that tile what the high side is padded to.
    chain = [
        layer._replace(
            dilation=1,
            stride=min(layer.stride, layer.window),
            padding=min(layer.padding, layer.window - 1),
        )
        for layer in chain
    ]
    highs, sizes = [], [size]
    for layer in chain:
        room = sizes[-1] + layer.padding - layer.window
        highs.append(-room % layer.stride if room >= 0 else 9)
        assume(highs[-1] < layer.window)
        sizes.append((room + highs[-1]) // layer.stride + 1)
    measured = measured_intervals(
        chain_function(chain, highs), (size, 1), method=method, num_spatial_axes=1, num_samples=1
    )
    first, last = compose(chain).interval(np.arange(sizes[-1]))
    assert measured.first[:, 0].tolist() == np.maximum(first, 0).tolist()
    assert measured.last[:, 0].tolist() == np.minimum(last, size - 1).tolist()


def bound(module, shape, **settings):
    """A Flax module as a function of its input alone, with random weights."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros(shape))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        # Positive biases, so that no unit is off for every input.
        draws = rng.normal(0, 0.5, leaf.shape)
        kinds = {"kernel": draws, "mean": 0 * draws}
        return kinds.get(path[-1].key, np.exp(draws)).astype(np.float32)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return lambda x: module.apply(variables, x, **settings)


class Residual(nn.Module):
    """Two blocks of a residual network (He et al., 2015) behind its stem."""

    @nn.compact
    def __call__(self, x):
        def conv(x, window, stride=1):
            padding = [((window - 1) // 2,) * 2] * 2
            x = nn.Conv(4, (window,) * 2, (stride,) * 2, padding=padding, use_bias=False)(x)
            return nn.BatchNorm(use_running_average=True)(x)

        x = nn.relu(conv(x, 7, 2))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=[(1, 1)] * 2)
        x = nn.relu(x + conv(nn.relu(conv(x, 3)), 3))
        # Without the last ReLU, as it may be off in every channel of a position.
        return conv(x, 1, 2) + conv(nn.relu(conv(x, 3, 2)), 3)


RESIDUAL = [
    Layer(7, stride=2, padding=3),
    Layer(3, stride=2, padding=1),
    *[Layer(3, padding=1)] * 2,
    Layer(3, stride=2, padding=1),
    Layer(3, padding=1),
]


# Of one image and eight samples some gradients miss a row, behind a ReLU that is off.
@pytest.mark.parametrize(
    ("method", "num_images", "num_samples"), [("gradient", 8, 4), ("nan", 1, 1)]
)
def test_a_residual_network_measures_the_closed_form_of_its_longest_path(
    method, num_images, num_samples
):
    shape = (num_images, 64, 64, 1)
    fn = bound(Residual(), shape)
    measured = measured_intervals(fn, shape, method=method, num_samples=num_samples)
    first, last = compose(RESIDUAL).interval(np.arange(8))
    assert first[4] > 0
    assert last[3] < 63
    first, last = np.maximum(first, 0), np.minimum(last, 63)
    for u, v in np.ndindex(8, 8):
        assert measured.first[u, v].tolist() == [first[u], first[v]]
        assert measured.last[u, v].tolist() == [last[u], last[v]]


@pytest.mark.parametrize("method", ["gradient", "nan"])
def test_the_stack_under_study_sees_7_pixels_however_it_is_made(method):
    # Simonyan and Zisserman (2014): three 3x3 see what one 7x7 sees; before them lie a 3x3 stem
    # and a 2x2 pooling, 3 + 1 pixels at 2 a step: 4 + 2 (7 - 1) = 16.
    shape = (1, 20, 20, 1)
    for windows in [(7,), (3, 3, 3)]:
        net = StackNet(3, 4, windows=windows, widths=(4,) * len(windows))
        traced = bound(net, shape, capture_intermediates=True, mutable="intermediates")

        def stack(x, traced=traced):
            return traced(x)[1]["intermediates"]["stack"]["__call__"][0]

        field = measured_receptive_field(stack, shape, position=(5, 5), method=method)
        assert field.size == (16, 16)
        assert field.support.sum() == 256


def test_the_scores_of_a_classifier_depend_on_the_whole_image():
    shape = (1, 12, 12, 1)
    net = bound(StackNet(3, 4, windows=(3,), widths=(4,)), shape)
    field = measured_receptive_field(net, shape, method="nan")
    assert field.position == ()
    assert field.support.all()


def test_a_rectifier_that_is_off_hides_pixels_from_gradients_but_not_from_nan():
    # At the given input every unit is 10 below the kink.
    def fn(x):
        return nn.relu(ops.conv(x, jnp.ones((3, 3, 1, 1)), jnp.full((1,), -10.0)))

    x = jnp.zeros((1, 5, 5, 1))
    off = measured_receptive_field(fn, x)
    assert not off.support.any()
    assert (off.first, off.last, off.size) == ((0, 0), (-1, -1), (0, 0))
    assert measured_receptive_field(fn, x, method="nan").support.sum() == 9
    # A perturbation of more than 10 switches it on, one in three.
    moved = measured_receptive_field(fn, x, method="perturbation", num_samples=32)
    assert moved.support.sum() == 9
    on = jnp.full_like(x, 2.0)
    assert measured_receptive_field(fn, on).support.sum() == 9
    # One image of a batch is enough.
    assert measured_receptive_field(fn, jnp.concatenate([x, on])).support.sum() == 9


def test_the_gradient_of_a_tied_maximum_reaches_the_first_pixel_alone():
    def fn(x):
        return ops.max_pool(nn.relu(x), window=2)

    tied = -jnp.ones((1, 4, 4, 1))  # Four zeros in each window, after the ReLU.
    assert not measured_receptive_field(fn, tied).support.any()
    ones = jnp.ones_like(tied)
    field = measured_receptive_field(fn, ones, position=(0, 1))
    assert np.argwhere(field.support).tolist() == [[0, 2]]
    for method in ("perturbation", "nan"):
        field = measured_receptive_field(fn, ones, position=(0, 1), method=method)
        assert np.array_equal(field.support, box((4, 4), [0, 1], [2, 3]))
    # Random inputs have no ties, and enough of them let each pixel win.
    field = measured_receptive_field(fn, (16, 4, 4, 1), position=(0, 1))
    assert np.array_equal(field.support, box((4, 4), [0, 1], [2, 3]))


def test_integer_outputs_are_measured_by_perturbation():
    kernel = weights(3, 3, 1, 4)

    def strongest(x):
        return jnp.argmax(ops.conv(x, kernel), axis=-1, keepdims=True)

    field = measured_receptive_field(strongest, (1, 7, 7, 1), method="perturbation")
    assert np.array_equal(field.support, box((7, 7), [2, 3, 4], [2, 3, 4]))
    with pytest.raises(TypeError, match=r'dtype int32 has no gradient; use method="perturbation"'):
        measured_receptive_field(strongest, (1, 7, 7, 1))


def test_what_has_no_gradient_is_seen_by_perturbation():
    def fn(x):
        return lax.stop_gradient(ops.avg_pool(x, window=2))

    assert not measured_receptive_field(fn, (1, 4, 4, 1)).support.any()
    assert measured_receptive_field(fn, (1, 4, 4, 1), method="perturbation").support.sum() == 4


def test_a_comparison_stops_nan_and_a_zero_weight_does_not():
    def compare(x):
        return jnp.where(x > 0, jnp.ones_like(x), jnp.zeros_like(x))

    x = -jnp.ones((1, 2, 2, 1))
    assert not measured_receptive_field(compare, x, method="nan").support.any()
    assert measured_receptive_field(compare, x, method="perturbation").support.sum() == 1
    sparse = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)

    def conv(x):
        return ops.conv(x, sparse)

    supports = {m: measured_receptive_field(conv, (3, 3, 1), method=m).support for m in METHODS}
    assert {m: s.sum() for m, s in supports.items()} == {"gradient": 1, "perturbation": 1, "nan": 9}


def test_channels_that_cancel_hide_nothing():
    kernel = jnp.concatenate([jnp.ones((3, 3, 1, 1)), -jnp.ones((3, 3, 1, 1))], axis=-1)
    assert measured_receptive_field(lambda x: ops.conv(x, kernel), (5, 5, 1)).support.sum() == 9


def test_functions_with_a_reverse_derivative_of_their_own_are_measured():
    @jax.custom_vjp
    def double(x):
        return 2 * x

    double.defvjp(lambda x: (double(x), None), lambda _, g: (2 * g,))
    intervals = measured_intervals(lambda x: ops.max_pool(double(x), window=2), (1, 4, 6, 1))
    assert intervals.first[1, 2].tolist() == [2, 4]
    assert intervals.last[1, 2].tolist() == [3, 5]


@each_method
def test_pixels_between_which_nothing_is_read_are_holes(method):
    # Two pixels on a diagonal: the others of their rows and columns are not read.
    field = measured_receptive_field(
        lambda x: x[..., :-2, :-2, :] + x[..., 2:, 2:, :], (1, 5, 5, 1), method=method
    )
    assert np.argwhere(field.support).tolist() == [[1, 1], [3, 3]]
    assert field.size == (3, 3)


@pytest.mark.parametrize("method", ["perturbation", "nan"])
def test_an_output_that_is_nan_anyway_does_not_count_as_changed(method):
    def fn(x):
        return jnp.concatenate([jnp.full_like(x[:, :1], jnp.nan), x[:, 1:]], axis=1)

    intervals = measured_intervals(fn, (1, 3, 2, 1), method=method)
    assert intervals.last[..., 0].tolist() == [[-1, -1], [1, 1], [2, 2]]


@each_method
def test_a_constant_depends_on_nothing(method):
    def fn(x):
        return jnp.ones_like(x)

    field = measured_receptive_field(fn, (1, 3, 4, 2), method=method)
    assert (field.first, field.last, field.support.any()) == ((0, 0), (-1, -1), False)
    intervals = measured_intervals(fn, (1, 3, 4, 2), method=method)
    assert intervals.first.shape == (3, 4, 2)
    assert (intervals.first == 0).all()
    assert (intervals.last == -1).all()


@each_method
def test_an_output_without_spatial_axes_has_one_interval_an_axis(method):
    intervals = measured_intervals(
        lambda x: x[:, 1:3, 2, :].sum(axis=1), (2, 5, 4, 1), method=method
    )
    assert intervals.first.tolist() == [1, 2]
    assert intervals.last.tolist() == [2, 2]


@each_method
def test_calls_of_bounded_memory_measure_the_same(method, monkeypatch):
    # Seven rows in calls of two: the last is filled up.
    monkeypatch.setattr(_probing, "_VALUES_AT_ONCE", 2 * (49 + 25) + 1)
    intervals = measured_intervals(conv3_to_1, (7, 7, 1), method=method)
    assert intervals.first[..., 0].tolist() == [[u] * 5 for u in range(5)]
    assert intervals.last[..., 0].tolist() == [[u + 2] * 5 for u in range(5)]


def conv3_to_1(x):
    return ops.conv(x, weights(3, 3, 1, 1))


def test_a_shape_a_struct_and_an_array_are_inputs_and_the_key_decides_the_draws():
    shape, kernel = (2, 5, 5, 1), weights(3, 3, 1, 1)

    def fn(x):
        return jnp.sin(ops.conv(x, kernel))

    struct = jax.ShapeDtypeStruct(shape, jnp.float32)
    drawn = measured_receptive_field(fn, shape).influence
    assert np.array_equal(drawn, measured_receptive_field(fn, struct).influence)
    assert np.array_equal(
        drawn, measured_receptive_field(fn, shape, key=jax.random.key(0)).influence
    )
    other = measured_receptive_field(fn, shape, key=jax.random.key(1)).influence
    assert not np.array_equal(drawn, other)
    for x in (np.ones(shape, np.float32), jnp.ones(shape, jnp.bfloat16)):
        field = measured_receptive_field(lambda x: ops.avg_pool(x, window=3), x)
        assert field.size == (3, 3)


def test_influence_of_a_linear_layer_is_proportional_to_its_absolute_weights():
    kernel = jnp.array([[1.0, -2.0, 0.5], [4.0, 0.25, -1.0], [3.0, 1.0, 2.0]])[..., None, None]
    influence = measured_receptive_field(lambda x: ops.conv(x, kernel), (3, 3, 1)).influence
    np.testing.assert_allclose(influence / influence[0, 0], np.abs(kernel[..., 0, 0]), rtol=1e-6)


def test_influence_is_the_mean_absolute_gaussian_times_the_weight():
    # E |N(0, 1)| = sqrt(2 / pi); 2,000 elements and two samples leave about 1 %.
    x = jnp.ones((2000, 1, 1, 1))
    influence = measured_receptive_field(lambda x: 3 * x, x, num_samples=2).influence
    assert influence[0, 0] == pytest.approx(3 * math.sqrt(2 / math.pi), rel=0.05)


def uniform_stack(num_layers, window):
    kernel = jnp.full((window, window, 1, 1), window**-2.0)

    def fn(x):
        for _ in range(num_layers):
            x = ops.conv(x, kernel)
        return x

    return fn, 1 + num_layers * (window - 1)


@pytest.mark.parametrize(("num_layers", "window"), [(1, 5), (4, 3), (16, 3), (4, 4)])
def test_uniform_linear_layers_spread_by_the_law_of_luo_et_al_2016(num_layers, window):
    # Variance n (k^2 - 1) / 12 along each axis, that of a sum of n uniform offsets.
    fn, size = uniform_stack(num_layers, window)
    field = measured_receptive_field(fn, (size, size, 1), num_samples=1)
    effective = field.effective
    assert field.size == (size, size)
    np.testing.assert_allclose(effective.center, (size - 1) / 2, rtol=1e-6)
    variance = num_layers * (window**2 - 1) / 12
    np.testing.assert_allclose(np.square(effective.sigma), variance, rtol=1e-5)


def test_effective_field_grows_with_the_root_of_the_depth_and_becomes_gaussian():
    fields = []
    for num_layers in (2, 8, 32):
        fn, size = uniform_stack(num_layers, 3)
        fields.append(measured_receptive_field(fn, (size, size, 1), num_samples=1).effective)
    for shallow, deep in itertools.pairwise(fields):
        assert deep.sigma[0] == pytest.approx(2 * shallow.sigma[0], rel=1e-5)
        assert deep.fraction < shallow.fraction
        assert deep.gaussian_distance < shallow.gaussian_distance
    # A round Gaussian lies above 4.55 % of its peak within sqrt(2 ln(1 / 0.0455)) sigma.
    assert fields[-1].radius == pytest.approx(
        math.sqrt(2 * math.log(1 / 0.0455)) * fields[-1].sigma[0], rel=0.02
    )
    assert fields[-1].gaussian_distance < 0.02


def test_random_rectified_networks_use_less_than_the_field_that_they_have():
    # Luo et al. (2016), section 2: narrower than uniform influence, whose sigma is r / sqrt(12).
    num_layers, size = 10, 21

    def rectified(seed):
        rng = np.random.default_rng(seed)
        # He et al. (2015): variance 2 over the inputs of a unit.
        kernels = [rng.normal(0, (2 / 36) ** 0.5, (3, 3, 4, 4)) for _ in range(num_layers)]

        def fn(x):
            for kernel in kernels:
                x = nn.relu(ops.conv(x, kernel.astype(np.float32)))
            return x

        return fn

    # Averaged over weights too, as in the paper.
    shape = (8, size, size, 4)
    maps = [measured_receptive_field(rectified(s), shape, num_samples=1) for s in (0, 1, 2)]
    assert all(field.size == (size, size) for field in maps)
    effective = effective_receptive_field(sum(field.influence for field in maps))
    assert effective.fraction < 0.8
    assert max(effective.sigma) < 0.6 * size / math.sqrt(12)
    # By their variances random weights spread influence like uniform ones: 10 (9 - 1) / 12 for
    # squares; absolute values are wider.
    assert min(effective.sigma) > math.sqrt(10 * 8 / 12)


def test_effective_field_of_a_map_solved_by_hand():
    # Two axes: 1, 2, 1 down and 1, 1 across.
    field = effective_receptive_field([[0, 1, 1], [0, 2, 2], [0, 1, 1], [0, 0, 0]])
    assert field.center == pytest.approx((1.0, 1.5))
    assert field.sigma == pytest.approx((math.sqrt(0.5), 0.5))
    assert field.num_pixels == 6
    assert field.size == pytest.approx(math.sqrt(6))
    assert field.radius == pytest.approx(math.sqrt(6 / math.pi))
    assert field.fraction == pytest.approx(1.0)


def test_pixels_below_the_cut_of_luo_et_al_do_not_count():
    # 1 - 95.45 % of 100 is 4.55.
    field = effective_receptive_field([4, 4.52, 50, 100, 4.58, 1, 0])
    assert field.num_pixels == 3
    assert field.size == 3
    assert field.radius == pytest.approx(1.5)
    assert field.fraction == pytest.approx(3 / 6)


def test_a_single_pixel_is_a_gaussian_without_width():
    field = effective_receptive_field([[0, 0, 0], [0, 0, 7]])
    assert field.center == (1, 2)
    assert field.sigma == (0, 0)
    assert field.gaussian_distance == 0


def test_gaussian_distance_is_the_total_variation_to_the_fitted_gaussian():
    # Two points at distance 2: mean 1, variance 1; the Gaussian at 0, 1, 2 is e, 1, e with
    # e = exp(-1/2) over their sum.
    e = math.exp(-0.5)
    half = (abs(0.5 - e / (1 + 2 * e)) * 2 + 1 / (1 + 2 * e)) / 2
    assert effective_receptive_field([1, 0, 1]).gaussian_distance == pytest.approx(half)


@pytest.mark.parametrize(
    ("influence", "message"),
    [
        ([[0.0, 0.0]], r"no pixel has any influence; draw more samples"),
        ([1.0, -1.0], r"must be finite and at least 0; take absolute values"),
        ([1.0, np.nan], r"must be finite"),
        (3.0, r"expected a map with one axis for each spatial axis, got shape \(\)"),
        ([], r"got shape \(0,\)"),
    ],
)
def test_error_of_a_map_says_what_came(influence, message):
    with pytest.raises(ValueError, match=message):
        effective_receptive_field(influence)


def identity(x):
    return x


def square_root(x):
    return jnp.sqrt(x * 0)


@pytest.mark.parametrize(
    ("fn", "x", "settings", "error", "message"),
    [
        (identity, (1, 4, 4, 1), {"method": "jvp"}, ValueError, r"method must be one of \('gradie"),
        (
            identity,
            (4, 4),
            {},
            ValueError,
            r"input of at least 3 axes .*, got shape \(4, 4\); num_",
        ),
        (identity, (1, 0, 4, 1), {}, ValueError, r"got shape \(1, 0, 4, 1\)"),
        (identity, np.ones((4, 4, 1), int), {}, TypeError, r"x must be floating, got dtype int"),
        (
            identity,
            "image",
            {},
            TypeError,
            r"x must be an array, a shape or a jax.Sh.*, got 'image'",
        ),
        (identity, (1, 4, 4, 1), {"num_samples": 0}, ValueError, r"num_samples must be at least 1"),
        (identity, (1, 4, 4, 1), {"threshold": -1.0}, ValueError, r"threshold must be at least 0"),
        (identity, (1, 4, 4, 1), {"position": (0, 4)}, ValueError, r"position \(0, 4\) lies outsi"),
        (
            identity,
            (1, 4, 4, 1),
            {"position": (1,)},
            ValueError,
            r"position has 1 values \(1,\) for",
        ),
        (identity, (1, 4, 4, 1), {"position": -1}, ValueError, r"position must be at least 0"),
        (
            identity,
            (4, 4, 1),
            {"num_spatial_axes": 0},
            ValueError,
            r"num_spatial_axes must be at le",
        ),
        (
            lambda x: x.sum(axis=(1, 2)),
            (1, 4, 4, 1),
            {"position": (1, 1)},
            ValueError,
            r"the output has no spatial axes, so no position \(1, 1\)",
        ),
        (
            lambda x: x[..., 0],
            (1, 4, 4, 1),
            {},
            ValueError,
            r"add the axis of the channels with \[.",
        ),
        (lambda x: (x, x), (1, 4, 4, 1), {}, TypeError, r"fn must return one array, got PyTreeDef"),
        (
            square_root,
            (1, 4, 4, 1),
            {},
            ValueError,
            r'the gradient is NaN, .*method="perturbation"',
        ),
    ],
)
def test_error_says_what_came_and_what_to_write(fn, x, settings, error, message):
    with pytest.raises(error, match="measured_receptive_field: .*" + message):
        measured_receptive_field(fn, x, **settings)


def test_errors_of_intervals_and_of_missing_influence():
    with pytest.raises(ValueError, match=r"measured_intervals: the gradient is NaN"):
        measured_intervals(square_root, (1, 4, 4, 1))
    field = measured_receptive_field(identity, (1, 4, 4, 1), method="nan")
    with pytest.raises(ValueError, match=r'only method="gradient" measures'):
        _ = field.effective
