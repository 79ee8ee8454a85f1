"""One table of all public operations, and the laws that every one of them keeps.

What an operation computes is tested in its own file. Here stands what all have in common: each
law runs over each row, so a new operation needs one row to be held to all of them.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import count_compilations
from jax.test_util import check_grads

from cnnjax import ops


def random(*shape):
    return np.random.default_rng(list(shape)).standard_normal(shape)


def distinct(*shape):
    """No ties, and gaps far wider than the steps of a finite difference."""
    values = np.random.default_rng(list(shape)).permutation(np.prod(shape))
    return (values.reshape(shape) - values.size // 2) / 4


class Row(NamedTuple):
    """A call of an operation on small inputs.

    Attributes:
      operation: name in `cnnjax.ops`.
      arrays: its arguments; float64 stands for whatever floating dtype a law is about.
      statics: its keyword arguments.
      batched: which arguments have batch axes: exactly one here, of size 2.
      names: of the last arguments, where they are to be given by name.
    """

    operation: str
    arrays: tuple[np.ndarray, ...]
    statics: dict[str, Any]
    batched: tuple[int, ...] = (0,)
    names: tuple[str, ...] = ()

    def function(self):
        """Built anew, as a caller's next line would."""
        operation = functools.partial(getattr(ops, self.operation), **self.statics)

        def call(*arrays):
            positional = len(arrays) - len(self.names)
            named = dict(zip(self.names, arrays[positional:], strict=True))
            return operation(*arrays[:positional], **named)

        return call

    def floats(self):
        """Which arguments are differentiated."""
        return [i for i, array in enumerate(self.arrays) if array.dtype == np.float64]

    def cast(self, dtype):
        return [
            jnp.asarray(array, dtype) if array.dtype == np.float64 else jnp.asarray(array)
            for array in self.arrays
        ]


# Takes (2, 4, 3, 2) to (2, 2, 3, 2) with 2x2 taps; every second pixel between rows goes unseen.
_CONV = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2)}
_GROUPED = _CONV | {"groups": 2}
_X, _Y, _KERNEL = random(2, 4, 3, 2), random(2, 2, 3, 2), random(2, 2, 1, 2)
_POOL = {"window": (3, 2), "stride": (2, 1), "padding": ((1, 0), (1, 1)), "fit": "ceil"}
_DILATED = {"window": (2, 3), "stride": (2, 1), "padding": (1, 2), "dilation": (3, 2)}
# One grid for the whole batch, so that the law of the batch holds: no image draws another.
_GRID = {"key": jax.random.key(3), "output_size": (4, 3), "share": "batch"}
# Compiling is what takes the time, and an axis takes half as much of it as two.
_RUNS = _GRID | {"output_size": (4,)}


def apply(key, x):
    return ops.fractional_avg_pool(x, key, output_size=(4,), share="batch")


TABLE = {
    "conv": Row("conv", (_X, _KERNEL, random(2)), _GROUPED),
    "conv 1d": Row("conv", (random(2, 7, 2), random(3, 2, 1)), {"padding": "SAME", "stride": 2}),
    "conv 3d": Row("conv", (random(2, 3, 2, 4, 1), random(2, 2, 2, 1, 1)), {"padding": 1}),
    "conv 1x1": Row("conv", (random(2, 2, 3, 2), random(1, 1, 2, 3)), {}),
    "conv depthwise": Row("conv", (random(2, 4, 3, 2), random(3, 3, 1, 4)), {"groups": 2}),
    "conv_transpose": Row(
        "conv_transpose", (_Y, _KERNEL, random(2)), _GROUPED | {"output_shape": (4, 3)}
    ),
    "conv_input_gradient": Row(
        "conv_input_gradient", (_Y, _KERNEL), _GROUPED | {"input_shape": (4, 3)}
    ),
    "conv_kernel_gradient": Row(
        "conv_kernel_gradient", (_X, _Y), _GROUPED | {"window": (2, 2)}, batched=()
    ),
    "extract_patches": Row("extract_patches", (_X,), _CONV | {"window": 2}),
    "fold_patches": Row(
        "fold_patches", (random(2, 2, 3, 8),), _CONV | {"window": 2, "output_shape": (4, 3)}
    ),
    "conv_as_matmul": Row("conv_as_matmul", (_X, _KERNEL, random(2)), _GROUPED),
    "conv_matrix": Row("conv_matrix", (_KERNEL,), _GROUPED | {"input_shape": (4, 3)}, batched=()),
    "locally_connected": Row(
        "locally_connected", (_X, random(2, 3, 2, 2, 1, 2), random(2, 3, 2)), _GROUPED
    ),
    "unshare": Row("unshare", (_KERNEL,), {"output_shape": (2, 3)}, batched=()),
    "max_pool": Row("max_pool", (distinct(2, 4, 5, 1),), _POOL),
    "avg_pool": Row("avg_pool", (random(2, 4, 5, 1),), _POOL),
    "avg_pool, counting padding": Row(
        "avg_pool", (random(2, 4, 5, 1),), _POOL | {"count_padding": True}
    ),
    "l2_pool": Row("l2_pool", (distinct(2, 4, 5, 1),), _POOL),
    "blur_pool": Row("blur_pool", (random(2, 4, 5, 1),), _POOL),
    "max_pool, dilated": Row("max_pool", (distinct(2, 5, 6, 2),), _DILATED),
    "adaptive_avg_pool": Row("adaptive_avg_pool", (random(2, 5, 4, 2),), {"output_size": (3, 6)}),
    "adaptive_avg_pool, tiles": Row("adaptive_avg_pool", (random(2, 6, 2),), {"output_size": (3,)}),
    "global_max_pool": Row("global_max_pool", (distinct(2, 3, 4, 2),), {}),
    "global_avg_pool": Row("global_avg_pool", (random(2, 3, 4, 2),), {}),
    "max_pool_with_switches": Row("max_pool_with_switches", (distinct(2, 4, 5, 1),), _POOL),
    "max_unpool": Row(
        "max_unpool",
        (distinct(2, 2, 2, 1), np.array([0, 7, 7, 14, 3, 2, 1, 9]).reshape(2, 2, 2, 1)),
        {"output_shape": (3, 5)},
        batched=(0, 1),
    ),
    "fractional_max_pool": Row("fractional_max_pool", (distinct(2, 6, 5, 1),), _GRID),
    "fractional_max_pool, windows by offsets": Row(
        "fractional_max_pool",
        (distinct(2, 7, 2), np.float32([[0.1], [0.9]])),
        {"output_size": (4,), "regions": "overlapping_window", "window": 2},
        batched=(0, 1),
        names=("u",),
    ),
    "fractional_max_pool, a grid a channel": Row(
        "fractional_max_pool",
        (distinct(2, 6, 2), np.float32([[[0.1], [0.7]], [[0.9], [0.3]]])),
        {"output_size": (4,), "share": "channel", "regions": "overlapping_edge"},
        batched=(0, 1),
        names=("u",),
    ),
    "fractional_max_pool_with_switches": Row(
        "fractional_max_pool_with_switches",
        (distinct(2, 7, 2),),
        _RUNS | {"randomness": "random", "regions": "overlapping_edge_clipped"},
    ),
    "fractional_avg_pool": Row(
        "fractional_avg_pool", (random(2, 7, 2),), _RUNS | {"regions": "overlapping_edge"}
    ),
    "fractional_boundaries": Row(
        "fractional_boundaries",
        (np.float32(0.3),),
        {"key": None, "size": 7, "output_size": 4},
        batched=(),
        names=("u",),
    ),
    "average_over_grids": Row(
        "average_over_grids",
        (random(2, 7, 2),),
        {"apply": apply, "keys": jax.random.split(jax.random.key(0), 3)},
        names=("x",),
    ),
    "local_response_norm": Row(
        "local_response_norm",
        (random(2, 3, 7),),
        {"size": 4, "alpha": 0.7, "beta": 0.75, "k": 1.5, "alpha_over": "mean"},
    ),
    "local_response_norm_within_channel": Row(
        "local_response_norm_within_channel",
        (random(2, 4, 5, 2),),
        {"window": (3, 2), "alpha": 0.7, "beta": 0.6},
    ),
    "batch_norm": Row(
        "batch_norm", (random(2, 3, 2), random(2), random(2) ** 2, random(2) + 2, random(2)), {}
    ),
    "batch_statistics": Row("batch_statistics", (random(2, 3, 2),), {}, batched=()),
    "multiclass_svm_loss": Row(
        "multiclass_svm_loss", (distinct(2, 5), np.array([4, 2])), {}, batched=(0, 1)
    ),
}
# Public names that take no arrays, and why.
NOT_OPERATIONS = {
    "LRN_PRESETS": "a mapping of settings",
    "fractional_sizes": "plain integers",
}

each_row = pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
each_batched_row = pytest.mark.parametrize(
    "row",
    [row for row in TABLE.values() if row.batched],
    ids=[name for name, row in TABLE.items() if row.batched],
)

each_row_with_floats = pytest.mark.parametrize(
    "row",
    [row for row in TABLE.values() if row.floats()],
    ids=[name for name, row in TABLE.items() if row.floats()],
)
# An operation's other forms are slow to differentiate twice, and go through the same rules.
each_row_to_second_order = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=name, marks=() if name == row.operation else pytest.mark.slow)
        for name, row in TABLE.items()
        if row.floats()
    ],
)


def test_every_public_operation_has_a_row():
    assert {row.operation for row in TABLE.values()} | set(NOT_OPERATIONS) == set(ops.__all__)


@functools.cache
def compiled(name):
    """One compiled program for the laws that do not change the shapes."""
    return jax.jit(TABLE[name].function())


def named(row):
    return next(name for name, other in TABLE.items() if other is row)


def assert_close(ours, expected, rtol=2e-5):
    """Equal trees of arrays: integers exactly, floats up to the order of their sums."""
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert our.shape == their.shape
        assert our.dtype == their.dtype
        if jnp.issubdtype(our.dtype, jnp.inexact):
            scale = float(np.abs(their).max(initial=0))
            np.testing.assert_allclose(our, their, rtol=rtol, atol=rtol * scale)
        else:
            np.testing.assert_array_equal(our, their)


def stacked(row, arrays):
    """Three unlike examples of each batched argument; the others alone. And their axes."""
    batched = row.batched or (0,)
    axes = [0 if i in batched else None for i in range(len(arrays))]
    return [
        jnp.stack([array, jnp.roll(array, 1), jnp.flip(array)]) if axis == 0 else array
        for array, axis in zip(arrays, axes, strict=True)
    ], axes


# ---- laws ----


@each_row
def test_jit_equals_eager_and_a_second_call_compiles_nothing(row):
    arrays = row.cast(jnp.float32)
    others = [array[::-1] if i in row.batched else array for i, array in enumerate(arrays)]
    jax.block_until_ready(others)
    jitted = compiled(named(row))
    assert_close(jitted(*arrays), row.function()(*arrays))
    jitted(*others), row.function()(*others)
    assert not count_compilations(lambda: (jitted(*others), row.function()(*others)))


@each_row
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_promote_no_dtype_in_silence(row, dtype):
    # As a caller may have set for good; traced alone, since nothing is computed differently.
    arrays = row.cast(dtype)

    def value_and_gradient(*arrays):
        floats = row.floats()

        def loss(*floating):
            for i, array in zip(floats, floating, strict=True):
                every[i] = array
            leaves = jax.tree.leaves(row.function()(*every))
            return sum(jnp.sum(leaf.astype(jnp.float32)) for leaf in leaves)

        every = list(arrays)
        if not floats:
            return row.function()(*arrays)
        return jax.grad(loss, tuple(range(len(floats))))(*(arrays[i] for i in floats))

    with jax.numpy_dtype_promotion("strict"):
        jax.eval_shape(value_and_gradient, *arrays)


@each_row
def test_vmap_equals_the_batch_or_one_after_another(row):
    function = row.function()
    arrays, axes = stacked(row, row.cast(jnp.float32))
    ours = jax.jit(jax.vmap(function, axes))(*arrays)
    if row.batched:
        expected = jax.jit(function)(*arrays)
    else:
        each = [compiled(named(row))(x, *arrays[1:]) for x in arrays[0]]
        expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    assert_close(ours, expected)


@each_batched_row
def test_no_batch_axis_equals_a_batch_of_one(row):
    def example(i):
        return [
            array[i] if number in row.batched else array
            for number, array in enumerate(row.cast(jnp.float32))
        ]

    function = jax.jit(row.function())
    assert_close(
        function(*example(0)), jax.tree.map(lambda out: out[0], function(*example(slice(1))))
    )


@each_batched_row
def test_empty_batch_gives_an_empty_batch(row):
    arrays = row.cast(jnp.float32)
    empty = [array[:0] if i in row.batched else array for i, array in enumerate(arrays)]
    out = jax.jit(row.function())(*empty)
    full = jax.eval_shape(row.function(), *arrays)
    for leaf, of_two in zip(jax.tree.leaves(out), jax.tree.leaves(full), strict=True):
        assert leaf.shape == (0, *of_two.shape[1:])
        assert leaf.dtype == of_two.dtype


@each_row
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64])
def test_dtype_is_kept_through_value_and_gradient(row, dtype):
    # By tracing alone: that the numbers are right is each operation's own test.
    places = row.floats()

    def value_and_gradients(*arrays):
        def of_floats(*floats):
            every = list(arrays)
            for place, array in zip(places, floats, strict=True):
                every[place] = array
            return row.function()(*every)

        out, pull_back = jax.vjp(of_floats, *(arrays[place] for place in places))
        return out, pull_back(cotangents(out))

    with jax.enable_x64(True):
        out, gradients = jax.eval_shape(value_and_gradients, *row.cast(dtype))
    floats = [leaf for leaf in jax.tree.leaves(out) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    assert floats or not places
    assert {leaf.dtype for leaf in [*floats, *gradients]} <= {jnp.dtype(dtype)}


def cotangents(out):
    """Ones for floats; the tangents of integers have no numbers."""
    return jax.tree.map(
        lambda leaf: (
            jnp.ones_like(leaf)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
            else np.zeros(leaf.shape, jax.dtypes.float0)
        ),
        out,
    )


@each_row_to_second_order
@pytest.mark.usefixtures("quick_to_compile")
def test_derivatives_are_finite_differences_to_second_order_in_both_modes(row):
    places = row.floats()

    def of_floats(*floats):
        every = list(row.arrays)
        for place, array in zip(places, floats, strict=True):
            every[place] = array
        leaves = jax.tree.leaves(row.function()(*every))
        # The square gives the second derivative of a linear operation something to find.
        return [leaf**2 for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    with jax.enable_x64(True):
        floats = [jnp.asarray(row.arrays[place]) for place in places]
        check_grads(jax.jit(of_floats), floats, order=2, modes=("fwd", "rev"))


@each_row_with_floats
def test_nan_and_infinity_stay_where_they_are_seen(row):
    x, *rest = row.cast(jnp.float32)
    place = tuple(size // 2 for size in x.shape)
    function = compiled(named(row))
    plain = jax.tree.leaves(function(x, *rest))

    def change_to(value):
        return jax.tree.leaves(function(x.at[place].set(value), *rest))

    # What sees a value changes when it is made the largest or the smallest of all.
    seen = [
        (np.asarray(high) != np.asarray(out)) | (np.asarray(low) != np.asarray(out))
        for out, high, low in zip(plain, change_to(1e3), change_to(-1e3), strict=True)
    ]
    assert any(places.any() for places in seen)
    if row.batched:
        assert not any(places[: place[0]].any() for places in seen), "examples are mixed"
    for value in (np.nan, np.inf, -np.inf):
        for out, ours, places in zip(plain, change_to(value), seen, strict=True):
            ours = np.asarray(ours)
            np.testing.assert_array_equal(ours[~places], np.asarray(out)[~places])
            if np.isnan(value) and jnp.issubdtype(ours.dtype, jnp.inexact):
                assert np.isnan(ours[places]).all()
