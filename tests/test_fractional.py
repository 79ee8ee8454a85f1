"""Fractional pooling against NumPy loops, PyTorch with explicit samples, and Graham's numbers."""

import fractions
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from compiling import compile_cheaply, count_compilations
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from cnnjax import ops
from cnnjax.ops import (
    average_over_grids,
    fractional_avg_pool,
    fractional_boundaries,
    fractional_max_pool,
    fractional_max_pool_with_switches,
    fractional_sizes,
    max_unpool,
)

REGIONS = ("disjoint", "overlapping_window", "overlapping_edge", "overlapping_edge_clipped")
KEY = jax.random.key(7)
each_regions = pytest.mark.parametrize("regions", REGIONS)
each_randomness = pytest.mark.parametrize("randomness", ["pseudorandom", "random"])
each_share = pytest.mark.parametrize("share", ["batch", "image", "channel"])


def random(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def rectified(*shape, seed=0):
    """Small integers after a ReLU: most regions hold ties."""
    return np.maximum(np.random.default_rng([seed, *shape]).integers(-3, 3, shape), 0.0)


# ---- boundaries ----


def runs_by_hand(size, out, u, regions, window):
    """Graham's formulas in exact fractions (FACTS: Fractional max-pooling)."""
    span, steps = {
        "disjoint": (size, out),
        "overlapping_window": (size - window, out - 1) if window else None,
        "overlapping_edge": (size - 1, out),
        "overlapping_edge_clipped": (size, out),
    }[regions]
    a, u = fractions.Fraction(span, steps), fractions.Fraction(u)
    boundaries = [math.floor((j + u) * a) - math.floor(u * a) for j in range(steps + 1)]
    if regions == "overlapping_window":
        return [(b, b + window) for b in boundaries]
    more = regions != "disjoint"
    return [(b, min(c + more, size)) for b, c in itertools.pairwise(boundaries)]


@pytest.mark.parametrize(
    ("size", "out", "window"), [(25, 18, 2), (36, 25, 2), (7, 3, 3), (9, 8, 2)]
)
@each_regions
def test_pseudorandom_runs_are_grahams_formula_in_exact_fractions(regions, size, out, window):
    chosen = window if regions == "overlapping_window" else None
    offsets = [0.0, 0.125, 0.3, 0.5, 0.75, 1 - 2**-24, *np.random.default_rng(0).random(200)]
    offsets = np.float32(offsets)

    def runs(u):
        return fractional_boundaries(None, size, out, window=chosen, regions=regions, u=u)

    starts, ends = jax.vmap(runs)(jnp.asarray(offsets))
    for row, u in enumerate(offsets.tolist()):
        expected = runs_by_hand(size, out, u, regions, chosen)
        assert list(zip(starts[row].tolist(), ends[row].tolist(), strict=True)) == expected


def test_sequences_of_grahams_programs_and_of_pytorch():
    # FACTS: pseudorandom overlapping 25 to 18, w=2, u=0.3; PyTorch 7 to 3, w=2, u=0.5 and 0.3.
    def starts(size, out, u):
        return fractional_boundaries(None, size, out, regions="overlapping_window", window=2, u=u)[
            0
        ].tolist()

    assert starts(25, 18, 0.3) == [0, 1, 3, 4, 5, 7, 8, 9, 11, 12, 13, 15, 16, 17, 19, 20, 22, 23]
    assert starts(7, 3, 0.5) == [0, 2, 5]
    assert starts(7, 3, 0.3) == [0, 3, 5]


SIZES = [(5, 5), (7, 3), (12, 5), (13, 1), (25, 18), (36, 25), (64, 20), (2, 1)]


@functools.cache
def many_draws(size, out, randomness, regions, window=None):
    keys = jax.random.split(jax.random.key(1), 300)
    draw = functools.partial(
        fractional_boundaries,
        size=size,
        output_size=out,
        randomness=randomness,
        regions=regions,
        window=window,
    )
    return jax.vmap(draw)(keys)


@each_randomness
@pytest.mark.parametrize(("size", "out"), SIZES)
def test_disjoint_runs_tile_the_axis_exactly_once_by_steps_of_k_and_one_more(randomness, size, out):
    starts, ends = map(np.asarray, many_draws(size, out, randomness, "disjoint"))
    np.testing.assert_array_equal(starts[:, 0], 0)
    np.testing.assert_array_equal(ends[:, -1], size)
    np.testing.assert_array_equal(starts[:, 1:], ends[:, :-1])
    k = size // out
    assert set(np.unique(ends - starts)) <= {k, k + 1}


@each_randomness
@pytest.mark.parametrize(("size", "out"), [(7, 3), (25, 18), (64, 20)])
def test_overlapping_windows_step_by_k_and_one_more_and_end_at_the_end(randomness, size, out):
    starts, ends = map(np.asarray, many_draws(size, out, randomness, "overlapping_window"))
    (width,) = np.unique(ends - starts)
    assert width >= 2
    np.testing.assert_array_equal(starts[:, 0], 0)
    np.testing.assert_array_equal(ends[:, -1], size)
    k = (size - width) // (out - 1)
    steps = np.diff(starts, axis=1)
    assert set(np.unique(steps)) <= {k, k + 1}
    assert steps.max() <= width, "the default window leaves no pixel out"
    # The smallest such window: one less would leave a pixel out or not overlap at all.
    assert width == 2 or -(-(size - width + 1) // (out - 1)) > width - 1


@each_randomness
@pytest.mark.parametrize(("size", "out"), [(7, 3), (25, 18), (6, 5), (3, 1)])
def test_edges_are_shared_by_neighbours_and_by_them_alone(randomness, size, out):
    starts, ends = map(np.asarray, many_draws(size, out, randomness, "overlapping_edge"))
    np.testing.assert_array_equal(starts[:, 1:], ends[:, :-1] - 1)
    np.testing.assert_array_equal(starts[:, 0], 0)
    np.testing.assert_array_equal(ends[:, -1], size)
    k = (size - 1) // out
    assert set(np.unique(ends - starts)) <= {k + 1, k + 2}


@each_randomness
def test_clipped_edges_are_those_of_disjoint_runs_and_one_pixel_more_but_the_last(randomness):
    starts, ends = many_draws(12, 5, randomness, "disjoint")
    clipped_starts, clipped_ends = many_draws(12, 5, randomness, "overlapping_edge_clipped")
    np.testing.assert_array_equal(clipped_starts, starts)
    np.testing.assert_array_equal(clipped_ends[:, :-1], ends[:, :-1] + 1)
    np.testing.assert_array_equal(clipped_ends[:, -1], 12)


def test_random_steps_are_a_permutation_and_every_order_is_as_likely():
    # 7 pixels in 3 runs: steps 2, 2, 3 in three orders.
    keys = jax.random.split(jax.random.key(3), 3000)
    starts, ends = jax.vmap(lambda key: fractional_boundaries(key, 7, 3, randomness="random"))(keys)
    steps = np.asarray(ends - starts)
    orders, counts = np.unique(steps, axis=0, return_counts=True)
    np.testing.assert_array_equal(orders, [[2, 2, 3], [2, 3, 2], [3, 2, 2]])
    # Five standard deviations of a binomial count around a third.
    assert np.abs(counts - 1000).max() < 5 * math.sqrt(3000 * 2 / 9)


def test_pseudorandom_offsets_are_uniform():
    # size different sequences of floor(u size), each as likely: the first step of 5 to 3 is 2
    # for four of five offsets (floor((1 + u) 5/3) - floor(u 5/3), u = 0, .2, .4, .6, .8).
    keys = jax.random.split(jax.random.key(4), 3000)
    _, ends = jax.vmap(lambda key: fractional_boundaries(key, 5, 3))(keys)
    by_hand = [runs_by_hand(5, 3, fractions.Fraction(i, 5), "disjoint", None) for i in range(5)]
    share_of_twos = sum(runs[0][1] == 2 for runs in by_hand) / 5
    assert abs(np.mean(np.asarray(ends[:, 0]) == 2) - share_of_twos) < 0.04


# ---- values ----


def grids_as_documented(key, number, images, channels, share):
    """The keys of one axis, (images, channels), as the docstring says they are derived."""
    key = jax.random.fold_in(key, number)
    if share == "batch":
        return [[key] * channels] * images
    if share == "image":
        return [[k] * channels for k in jax.random.split(key, images)]
    keys = jax.random.split(key, images * channels)
    return [[keys[n * channels + c] for c in range(channels)] for n in range(images)]


def region_loops(x, runs, reduce):
    """`reduce` over the pixels of each region; runs[axis][image][channel] lists (start, end)."""
    images, channels = x.shape[0], x.shape[-1]
    sizes = [len(axis[0][0]) for axis in runs]
    out = np.zeros((images, *sizes, channels), x.dtype)
    for n, c in np.ndindex(images, channels):
        for place in np.ndindex(*sizes):
            region = tuple(slice(*runs[a][n][c][place[a]]) for a in range(len(sizes)))
            out[(n, *place, c)] = reduce(x[(n, *region, c)])
    return out


@each_share
@each_regions
@each_randomness
def test_fractional_pools_are_the_numpy_loops_over_the_documented_grids(share, regions, randomness):
    x = random(2, 7, 9, 2).astype(np.float32)
    statics = {"randomness": randomness, "regions": regions}
    draw = jax.jit(
        lambda key, size, out: fractional_boundaries(key, size, out, **statics),
        static_argnums=(1, 2),
    )
    runs = []
    for number, (size, out) in enumerate([(7, 5), (9, 4)]):
        grid = grids_as_documented(KEY, number, 2, 2, share)
        runs.append(
            [
                [
                    list(
                        zip(
                            *map(np.ndarray.tolist, map(np.asarray, draw(k, size, out))),
                            strict=True,
                        )
                    )
                    for k in row
                ]
                for row in grid
            ]
        )
    options = statics | {"output_size": (5, 4), "share": share}
    np.testing.assert_array_equal(
        fractional_max_pool(x, KEY, **options), region_loops(x, runs, np.max)
    )
    np.testing.assert_allclose(
        fractional_avg_pool(x, KEY, **options), region_loops(x, runs, np.mean), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("shape", [(9, 2), (2, 3, 9, 1), (2, 7, 6, 8, 2)])
def test_any_number_of_batch_axes_in_one_and_three_dimensions(shape):
    sizes = (5,) if shape[-2] == 9 else (4, 3, 5)
    rank = len(sizes)
    x = random(*shape).astype(np.float32)
    flat = x.reshape(-1, *shape[-rank - 1 :])
    keys = [jax.random.split(jax.random.fold_in(KEY, a), len(flat)) for a in range(rank)]
    runs = []
    for a in range(rank):
        pairs = [fractional_boundaries(k, flat.shape[a + 1], sizes[a]) for k in keys[a]]
        runs.append(
            [[list(zip(s.tolist(), e.tolist(), strict=True))] * shape[-1] for s, e in pairs]
        )
    out = fractional_max_pool(x, KEY, output_size=sizes)
    expected = region_loops(flat, runs, np.max)
    np.testing.assert_array_equal(out, expected.reshape(out.shape))


@st.composite
def problems(draw):
    rank = draw(st.sampled_from([2, 2, 3]))
    window = tuple(draw(st.integers(1, 3 if rank == 2 else 2)) for _ in range(rank))
    out = tuple(draw(st.integers(1, 5 if rank == 2 else 3)) for _ in range(rank))
    # What PyTorch takes: in >= out + window - 1, and for three axes one pixel more.
    more = st.integers(rank - 2, 5)
    spatial = tuple(o + w - 1 + draw(more) for o, w in zip(out, window, strict=True))
    return spatial, window, out, draw(st.integers(0, 10**6))


def compare_with_pytorch(torch, problem, jit):
    spatial, window, out, seed = problem
    rank = len(spatial)
    x = rectified(2, *spatial, 2, seed=seed)
    u = np.random.default_rng(seed).random((2, 2, rank))
    leaf = torch.tensor(oracles.channels_first(x), requires_grad=True)
    # For two axes PyTorch's first sample drives the width, for three the depth.
    samples = u[..., ::-1] if rank == 2 else u
    theirs, positions = getattr(torch.nn.functional, f"fractional_max_pool{rank}d")(
        leaf,
        window,
        output_size=out,
        return_indices=True,
        _random_samples=torch.tensor(np.ascontiguousarray(samples)),
    )
    expected = oracles.channels_last(theirs.detach().numpy())
    cotangent = random(*expected.shape, seed=seed)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))
    options = {
        "output_size": out,
        "window": window,
        "regions": "overlapping_window",
        "share": "channel",
    }

    @jit
    def ours(x, u, cotangent):
        def pool(x):
            return fractional_max_pool_with_switches(x, u=u, **options)

        y, pull_back, switches = jax.vjp(pool, x, has_aux=True)
        return y, switches, *pull_back(cotangent)

    with jax.enable_x64(True):
        y, switches, gradient = ours(*map(jnp.asarray, (x, u, cotangent)))
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(switches, oracles.channels_last(positions.numpy()))
    np.testing.assert_allclose(
        gradient, oracles.channels_last(leaf.grad.numpy()), rtol=1e-12, atol=1e-12
    )


@pytest.mark.slow
@settings(max_examples=20, deadline=None, derandomize=True)
@given(problem=problems())
def test_fractional_max_pool_its_switches_and_gradient_are_pytorchs(torch, problem):
    compare_with_pytorch(torch, problem, jax.jit)


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True)
@given(problem=problems())
def test_fractional_max_pool_is_pytorchs_on_many_random_shapes(torch, problem):
    compare_with_pytorch(torch, problem, compile_cheaply)


# ---- laws ----


def test_equal_keys_give_equal_bits_under_jit_vmap_and_eager():
    x = jnp.asarray(random(3, 12, 12, 2), jnp.float32)
    for randomness, share in [("pseudorandom", "image"), ("random", "channel")]:
        pool = functools.partial(
            fractional_max_pool, output_size=8, randomness=randomness, share=share
        )
        keys = jax.random.split(KEY, 3)
        eager = [pool(x, key) for key in keys]
        np.testing.assert_array_equal(jnp.stack([jax.jit(pool)(x, k) for k in keys]), eager)
        np.testing.assert_array_equal(jax.vmap(pool, (None, 0))(x, keys), eager)
        assert not np.array_equal(eager[0], eager[1])


def test_raw_keys_draw_what_typed_keys_draw():
    x = jnp.asarray(random(2, 9, 9, 1), jnp.float32)
    raw = jax.random.PRNGKey(5)
    np.testing.assert_array_equal(
        fractional_max_pool(x, raw, output_size=6),
        fractional_max_pool(x, jax.random.wrap_key_data(raw), output_size=6),
    )


@each_share
def test_grids_are_shared_as_asked(share):
    one = random(1, 20, 1).astype(np.float32)
    x = jnp.asarray(np.broadcast_to(one, (4, 20, 3)))
    out = np.asarray(fractional_max_pool(x, KEY, output_size=(13,), share=share))
    across_channels = (out == out[:, :, :1]).all()
    across_images = (out == out[:1]).all()
    assert across_channels == (share != "channel")
    assert across_images == (share == "batch")


def test_one_program_for_all_keys():
    gradient = jax.jit(
        jax.grad(lambda x, key: jnp.sum(fractional_max_pool(x, key, output_size=4) ** 2))
    )
    x = jnp.ones((2, 6, 6, 1))
    keys = jax.random.split(KEY, 2)
    first, second = keys[0], keys[1]
    assert count_compilations(lambda: gradient(x, first))
    assert not count_compilations(lambda: gradient(x, second))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "regions", "shape", "out"),
    [
        (fractional_max_pool, "disjoint", (4, 5, 1), (3, 2)),
        (fractional_max_pool, "overlapping_window", (2, 9, 1), (5,)),
        (fractional_avg_pool, "overlapping_edge", (2, 9, 1), (5,)),
    ],
)
def test_derivatives_are_finite_differences_to_second_order_in_both_modes(
    pool, regions, shape, out
):
    x = np.random.default_rng(0).permutation(math.prod(shape)).reshape(shape).astype(float)
    with jax.enable_x64(True):
        check_grads(
            jax.jit(lambda x: pool(x, KEY, output_size=out, regions=regions) ** 2),
            (jnp.asarray(x),),
            order=2,
            modes=("fwd", "rev"),
        )


@each_share
def test_gradient_of_disjoint_regions_reaches_as_many_pixels_as_there_are_regions(share):
    x = jnp.asarray(rectified(2, 9, 8, 3), jnp.float32)
    gradient = jax.grad(
        lambda x: jnp.sum(fractional_max_pool(x, KEY, output_size=(6, 5), share=share))
    )(x)
    assert set(np.unique(gradient)) == {0.0, 1.0}
    np.testing.assert_array_equal(jnp.sum(gradient, (1, 2)), 30)


@each_share
def test_unpooling_the_maxima_keeps_them_in_place(share):
    x = jnp.asarray(np.abs(random(2, 9, 8, 3)), jnp.float32)
    y, switches = fractional_max_pool_with_switches(x, KEY, output_size=(6, 5), share=share)
    restored = max_unpool(y, switches, (9, 8))
    kept = restored != 0
    np.testing.assert_array_equal(restored, jnp.where(kept, x, 0))
    np.testing.assert_array_equal(jnp.sum(kept, (1, 2)), 30)
    # Pooled over the same grid again they are the same maxima.
    again = fractional_max_pool(restored, KEY, output_size=(6, 5), share=share)
    np.testing.assert_array_equal(again, y)


def test_pooling_to_half_is_ordinary_pooling():
    x = jnp.asarray(random(2, 8, 8, 2), jnp.float32)
    np.testing.assert_array_equal(
        fractional_max_pool(x, KEY, output_size=4), ops.max_pool(x, window=2)
    )
    np.testing.assert_array_equal(fractional_max_pool(x, KEY, ratio=1), x)


@pytest.mark.parametrize("pool", [fractional_max_pool, fractional_avg_pool])
def test_avg_and_max_of_a_constant_are_the_constant(pool):
    x = jnp.full((2, 11, 7, 1), 3.0)
    np.testing.assert_array_equal(pool(x, KEY, output_size=(7, 5)), jnp.full((2, 7, 5, 1), 3.0))


def test_nan_stays_in_the_region_that_holds_it():
    x = jnp.zeros((9, 9, 1)).at[4, 4, 0].set(jnp.nan)
    out = fractional_max_pool(x, KEY, output_size=6)
    assert int(jnp.isnan(out).sum()) == 1


@each_share
def test_memory_beside_input_and_output_is_a_small_multiple_of_them(share):
    # No table of places for every pixel of a window where images share a grid.
    x = jax.ShapeDtypeStruct((16, 36, 36, 32), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def forward_and_gradient(x, key):
        pool = functools.partial(fractional_max_pool, key=key, output_size=25, share=share)
        y, pull_back = jax.vjp(pool, x)
        return pull_back(y)[0]

    compiled = jax.jit(forward_and_gradient).lower(x, key).compile()
    in_and_out = 4 * 16 * 32 * (36 * 36 + 25 * 25)
    assert compiled.memory_analysis().temp_size_in_bytes < 3 * in_and_out


# ---- planning, averaging ----


def test_grahams_nets_start_from_36_and_94_pixels():
    # FACTS: six layers of ratio sqrt 2 want 36 pixels, twelve of 2^(1/3) want 94.
    assert fractional_sizes(6, 2**0.5)[0] == 36
    sizes = fractional_sizes(12, 2 ** (1 / 3))
    assert sizes[0] == 94
    assert len(sizes) == 2 * 12 + 2


@pytest.mark.parametrize("ratio", [2**0.5, 2 ** (1 / 3), 1.1, 1.9, 2.0, 3.3])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_pooling_by_the_ratio_gives_the_planned_sizes(ratio, window):
    sizes = fractional_sizes(5, ratio, window=window)
    for layer in range(5):
        entering, pooled_to = sizes[2 * layer + 1 : 2 * layer + 3]
        assert sizes[2 * layer] == entering + window - 1
        x = jax.ShapeDtypeStruct((entering, 1), jnp.float32)
        out = jax.eval_shape(lambda x: fractional_max_pool(x, KEY, ratio=(ratio,)), x)
        assert out.shape == (pooled_to, 1)
    assert sizes[-2:] == (window, 1)


@pytest.mark.parametrize("mapped", [False, True])
def test_average_over_grids_is_the_mean_of_passes_one_by_one(mapped):
    x = jnp.asarray(random(2, 9, 9, 3), jnp.float32)

    def apply(key, x):
        y = fractional_max_pool(x, key, output_size=6)
        return {"scores": jax.nn.softmax(y.mean((1, 2))), "short": y[:, 0, 0].astype("bfloat16")}

    keys = jax.random.split(KEY, 5)
    mean = average_over_grids(apply, keys, x, mapped=mapped)
    passes = [apply(key, x) for key in keys]
    expected = {
        name: np.mean([one[name].astype("float32") for one in passes], axis=0) for name in mean
    }
    np.testing.assert_allclose(mean["scores"], expected["scores"], rtol=1e-6)
    assert mean["short"].dtype == jnp.bfloat16
    np.testing.assert_allclose(mean["short"].astype("float32"), expected["short"], rtol=1e-2)


# ---- mistakes ----

MISTAKES = {
    "no size": ({"output_size": None}, ValueError, "give output_size or ratio, one of the two"),
    "both sizes": ({"ratio": 1.5}, ValueError, "give output_size or ratio, one of the two"),
    "ratio below 1": (
        {"output_size": None, "ratio": 0.5},
        ValueError,
        r"ratio is in / out and must be at least 1, got 0.5; PyTorch's output_ratio is .*, 2$",
    ),
    "ratio that is none": (
        {"output_size": None, "ratio": math.nan},
        ValueError,
        "ratio is in / out and must be at least 1, got nan",
    ),
    "ratio as text": (
        {"output_size": None, "ratio": ("2", "2")},
        TypeError,
        "ratio must be a number, in / out, got '2'",
    ),
    "more regions than pixels": (
        {"output_size": 9},
        ValueError,
        r'output_size 9 is more than the "disjoint" regions of 8 pixels can be; at most 8',
    ),
    "more shared edges than pixels": (
        {"output_size": 8, "regions": "overlapping_edge"},
        ValueError,
        r'output_size 8 is more than the "overlapping_edge" regions of 8 pixels can be; at most 7',
    ),
    "windows that cannot be reached": (
        {"output_size": 7, "regions": "overlapping_window", "window": 3},
        ValueError,
        "7 windows of 3 pixels at steps of at least 1 need 9 pixels, the axis has 8; use a smaller",
    ),
    "window of regions that have none": (
        {"window": 2},
        ValueError,
        r'window=2 belongs to regions="overlapping_window", not to "disjoint"',
    ),
    "window of zero": (
        {"window": 0, "regions": "overlapping_window"},
        ValueError,
        "window must be at least 1, got 0",
    ),
    "output of zero": ({"output_size": 0}, ValueError, "output_size must be at least 1, got 0"),
    "fractional output": (
        {"output_size": 4.5},
        TypeError,
        "output_size must be an integer, got 4.5",
    ),
    "overlapping without saying which": (
        {"regions": "overlapping"},
        ValueError,
        r'regions="overlapping" has three meanings; write "overlapping_window" \(fixed windows: ',
    ),
    "unknown regions": ({"regions": "tiles"}, ValueError, "regions must be one of .* got 'tiles'"),
    "unknown randomness": (
        {"randomness": "chaotic"},
        ValueError,
        "randomness must be one of .* got 'chaotic'",
    ),
    "unknown share": ({"share": "pixel"}, ValueError, "share must be one of .* got 'pixel'"),
    "seed for a key": (
        {"key": 3},
        TypeError,
        r"key must be a jax.random.key, got 3; write jax.random.key\(3\)",
    ),
    "floats for a key": (
        {"key": jnp.zeros(2)},
        TypeError,
        r"key must be a jax.random.key, got float32 of shape \(2,\)",
    ),
    "many keys": (
        {"key": jax.random.split(KEY, 3)},
        ValueError,
        r"one key draws all grids, got keys of shape \(3,\); use jax.vmap over them",
    ),
    "no key": ({"key": None}, ValueError, "give a key or offsets u, got neither"),
    "key and offsets": ({"u": (0.1, 0.2)}, ValueError, "give a key or offsets u, got both"),
    "offsets of random runs": (
        {"key": None, "u": np.float32([[0.1, 0.2]]), "randomness": "random"},
        ValueError,
        r'offsets u set "pseudorandom" runs alone, got randomness="random"; give a key',
    ),
    "offsets of another shape": (
        {"key": None, "u": (0.1, 0.2)},
        ValueError,
        r"u must have shape \(1, 2\), one offset for each grid and axis, got \(2,\)",
    ),
    "offsets out of range": (
        {"key": None, "u": np.float32([[0.1, 1.0]])},
        ValueError,
        r"u must lie in \[0, 1\), got",
    ),
    "integer offsets": (
        {"key": None, "u": np.int32([[0, 0]])},
        TypeError,
        r"u must be floating offsets in \[0, 1\), got int32",
    ),
    "too few axes": (
        {"output_size": (4, 4, 4), "x": jnp.ones((8, 8, 1))},
        ValueError,
        r"slides over 3 spatial axes, so x needs at least 4 axes",
    ),
    "sizes beyond 32 bits": (
        {"x": jax.ShapeDtypeStruct((1, 60000, 2, 1), jnp.float32), "output_size": (50000, 1)},
        ValueError,
        "60000 pixels in 50000 steps need products beyond 32-bit integers",
    ),
}


@pytest.mark.parametrize(
    "function", [fractional_max_pool, fractional_avg_pool, fractional_max_pool_with_switches]
)
@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told_by_the_function_that_was_called(function, arguments, error, message):
    arguments = {"x": jnp.ones((1, 8, 8, 2)), "key": KEY, "output_size": 4} | arguments
    with pytest.raises(error, match=rf"^{function.__name__}: .*{message}"):
        function(arguments.pop("x"), arguments.pop("key"), **arguments)


def test_mean_of_integers_is_refused():
    with pytest.raises(TypeError, match=r"^fractional_avg_pool: x has dtype uint8, whose mean"):
        fractional_avg_pool(jnp.ones((8, 8, 2), jnp.uint8), KEY, output_size=4)


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        (
            KEY,
            ValueError,
            r"keys must have shape \(num_grids,\), .*got shape \(\); write jax.random",
        ),
        (jax.random.split(KEY, 0), ValueError, r"at least one, got shape \(0,\)"),
        (3, TypeError, "key must be a jax.random.key, got 3"),
    ],
)
def test_average_over_no_keys_is_refused(keys, error, message):
    with pytest.raises(error, match=f"^average_over_grids: .*{message}"):
        average_over_grids(lambda key, x: x, keys, jnp.ones(3))


def test_average_of_labels_is_refused():
    with pytest.raises(TypeError, match="apply returns int32, whose mean would be floored"):
        average_over_grids(lambda key, x: jnp.argmax(x), jax.random.split(KEY, 2), jnp.ones(3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 1.5), ValueError, "num_layers must be at least 1, got 0"),
        ((3, 1), ValueError, "ratio must be above 1, got 1, which keeps every size"),
        ((3, 0.7), ValueError, "ratio is in / out and must be at least 1"),
        ((2.0, 1.5), TypeError, "num_layers must be an integer, got 2.0"),
    ],
)
def test_plan_that_goes_nowhere_is_refused(arguments, error, message):
    with pytest.raises(error, match=f"^fractional_sizes: {message}"):
        fractional_sizes(*arguments)
