"""Patches, their adjoint and the matrices of a convolution: loops, PyTorch, and conv itself."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from compiling import compile_cheaply, count_compilations
from convolutions import (
    CASES,
    cases,
    draw_arrays,
    problems,
    random,
    small_integers,
    spelled_out,
    unlike_cases,
)
from hypothesis import given, settings
from jax.test_util import check_grads

from cnnjax.ops import (
    conv,
    conv_as_matmul,
    conv_matrix,
    conv_transpose,
    extract_patches,
    fold_patches,
)

# More taps than are cut out slice by slice: a gather and a scatter instead.
MANY_TAPS = {
    "many_taps_1d": ((2,), (80,), (70,), 2, 1, {"stride": 3, "padding": 2}),
    "many_taps_2d": ((1,), (9, 10), (9, 8), 2, 1, {"padding": ((2, 1), (0, 3)), "stride": (1, 2)}),
    "many_taps_3d": ((), (5, 6, 5), (4, 5, 4), 1, 2, {"padding": 1, "dilation": (1, 1, 1)}),
}
ALL = {**CASES, **MANY_TAPS}
all_cases = pytest.mark.parametrize("case", ALL.values(), ids=ALL)
_LAWS = ("1d_strided_same", "2d_dilated", "3d_two_batch_axes", "many_taps_2d")
few_cases = pytest.mark.parametrize("case", [ALL[name] for name in _LAWS], ids=_LAWS)


def geometry_of(case):
    statics = dict(case[-1])
    statics.pop("groups", None)
    return statics


def cut(case):
    return functools.partial(extract_patches, window=case[2], **geometry_of(case))


def put_back(case):
    return functools.partial(
        fold_patches, output_shape=case[1], window=case[2], **geometry_of(case)
    )


def draw_patches(case, make=random):
    x, *_ = draw_arrays(case, make)
    return x, make(*jax.eval_shape(cut(case), x).shape, seed=5)


# ---- oracles ----


@all_cases
def test_patches_are_the_numpy_loops(case):
    x, *_ = draw_arrays(case, small_integers)
    statics = spelled_out(case)
    del statics["groups"]
    expected = oracles.patches_loops(x, case[2], **statics)
    np.testing.assert_array_equal(compile_cheaply(cut(case))(x), expected)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=problems().filter(lambda case: len(case[1]) < 3))
def test_patches_and_their_adjoint_are_pytorchs_unfold_and_fold(torch, case):
    compare_with_pytorch(torch, case, jax.jit)


@pytest.mark.slow
@settings(max_examples=110, deadline=None, derandomize=True)
@given(case=problems().filter(lambda case: len(case[1]) < 3))
def test_patches_and_their_adjoint_are_pytorchs_on_many_random_shapes(torch, case):
    compare_with_pytorch(torch, case, compile_cheaply)


def compare_with_pytorch(torch, case, jit):
    _, spatial, window, channels, _, statics = case
    x, patches = draw_patches(case)
    positions = math.prod(patches.shape[1:-1])
    taps = math.prod(window)
    leaves = [
        torch.tensor(array, requires_grad=True)
        for array in (oracles.channels_first(x), from_rows(patches, taps, channels))
    ]
    # PyTorch has two axes and equal padding on both sides of each.
    lone = len(spatial) == 1
    as_image = leaves[0][:, :, :, None] if lone else leaves[0]
    two_axes = {
        name: (*statics[name], 1) if lone else statics[name] for name in ("stride", "dilation")
    }
    two_axes["kernel_size"] = (*window, 1) if lone else window
    pads = (*statics["padding"], (0, 0)) if lone else statics["padding"]
    edges = [edge for pair in reversed(pads) for edge in pair]
    padded = torch.nn.functional.pad(as_image, edges)
    unfolded = torch.nn.functional.unfold(padded, **two_axes)
    folded = torch.nn.functional.fold(leaves[1], padded.shape[2:], **two_axes)
    crops = [
        slice(low, size - high) for size, (low, high) in zip(padded.shape[2:], pads, strict=True)
    ]
    folded = folded[(slice(None), slice(None), *crops)]
    unfolded.backward(torch.tensor(from_rows(patches, taps, channels)))
    cotangent = random(*x.shape, seed=4)
    folded.backward(torch.tensor(oracles.channels_first(cotangent)).reshape(folded.shape))

    @jit
    def everything(x, patches, cotangent):
        cut_out, back = jax.vjp(cut(case), x)
        folded, forth = jax.vjp(put_back(case), patches)
        return cut_out, *back(patches), folded, *forth(cotangent)

    with jax.enable_x64(True):
        ours = [np.asarray(array) for array in everything(x, patches, cotangent)]
    for our, their in zip(
        (
            from_rows(ours[0], taps, channels),
            oracles.channels_first(ours[1]),
            oracles.channels_first(ours[2]),
            from_rows(ours[3], taps, channels),
        ),
        (
            unfolded.detach().numpy(),
            leaves[0].grad.numpy(),
            folded.detach().numpy().reshape(oracles.channels_first(x).shape),
            leaves[1].grad.numpy(),
        ),
        strict=True,
    ):
        np.testing.assert_allclose(our, their, rtol=1e-12, atol=1e-12)
    assert ours[0].shape == (*x.shape[:1], *patches.shape[1:-1], taps * channels)
    assert positions == unfolded.shape[2]


def from_rows(patches, taps, channels):
    """(batch, *positions, taps * channels) to PyTorch's (batch, channels * taps, positions)."""
    rows = patches.reshape(len(patches), -1, taps, channels)
    return np.ascontiguousarray(rows.transpose(0, 3, 2, 1)).reshape(
        len(patches), channels * taps, -1
    )


# ---- worked examples ----


def test_alexnet_conv1_is_a_product_of_3025_rows_of_363_and_96_filters():
    # CS231n notes, "Implementation as Matrix Multiplication": [96 x 363] x [363 x 3025].
    x = jax.ShapeDtypeStruct((227, 227, 3), jnp.float32)
    patches = jax.eval_shape(functools.partial(extract_patches, window=11, stride=4), x)
    assert patches.shape == (55, 55, 363)
    assert math.prod(patches.shape[:2]) == 3025
    kernel = jax.ShapeDtypeStruct((11, 11, 3, 96), jnp.float32)
    columns = jax.eval_shape(lambda kernel: kernel.reshape(-1, 96), kernel)
    assert columns.shape == (363, 96)
    out = jax.eval_shape(functools.partial(conv_as_matmul, stride=4), x, kernel)
    assert out.shape == (55, 55, 96)


def test_full_padding_visits_every_pixel_equally_often():
    # CS231n and every text on convolution: padding F - 1 on each side.
    ones = jnp.ones((6, 7, 1))
    visits = fold_patches(extract_patches(ones, 3, padding="FULL"), (6, 7), 3, padding="FULL")
    np.testing.assert_array_equal(visits, 9 * ones)


def test_first_block_of_the_11x11x4_volume_of_the_course_notes():
    # CS231n notes: V[0,0,0] = np.sum(X[:5,:5,:] * W0) + b0, so the first row is X[:5,:5,:].
    x = small_integers(11, 11, 4)
    rows = extract_patches(x, 5, stride=2)
    assert rows.shape == (4, 4, 100)
    np.testing.assert_array_equal(rows[0, 0], x[:5, :5, :].ravel())
    np.testing.assert_array_equal(rows[1, 0], x[2:7, :5, :].ravel())
    np.testing.assert_array_equal(rows[0, 1], x[:5, 2:7, :].ravel())


# ---- laws ----


@all_cases
def test_patches_times_rows_equals_conv(case):
    arrays = draw_arrays(case, small_integers)

    @compile_cheaply
    def both(*arrays):
        return conv(*arrays, **case[-1]), conv_as_matmul(*arrays, **case[-1])

    np.testing.assert_array_equal(*both(*arrays))


@unlike_cases
def test_gradients_of_the_product_equal_convs(case):
    arrays = draw_arrays(case, small_integers)
    gradients = [
        compile_cheaply(
            jax.grad(
                lambda *arrays, f=form: jnp.sum(f(*arrays, **case[-1]) ** 2), argnums=(0, 1, 2)
            )
        )(*arrays)
        for form in (conv, conv_as_matmul)
    ]
    for theirs, ours in zip(*gradients, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@all_cases
def test_fold_is_the_adjoint_and_the_gradient_of_extract(case):
    x, patches = draw_patches(case, small_integers)

    @compile_cheaply
    def everything(x, patches):
        cut_out, pullback = jax.vjp(cut(case), x)
        folded = put_back(case)(patches)
        return jnp.sum(cut_out * patches), jnp.sum(x * folded), folded, *pullback(patches)

    left, right, folded, gradient = everything(x, patches)
    assert left == right
    np.testing.assert_array_equal(folded, gradient)


def test_fold_of_patches_of_ones_counts_the_windows_that_see_a_pixel():
    counts = fold_patches(jnp.ones((3, 3)), 8, (3,), stride=2)
    np.testing.assert_array_equal(counts.ravel(), [1, 1, 2, 1, 2, 1, 1, 0])


@cases
def test_conv_is_the_product_with_its_matrix_and_conv_transpose_with_the_transposed(case):
    batch, spatial, _, channels, filters, statics = case
    x, kernel, _ = draw_arrays(case, small_integers)
    images = x.reshape(-1, math.prod(spatial) * channels)

    @compile_cheaply
    def both(x, kernel):
        matrix = conv_matrix(kernel, spatial, **statics)
        out = conv(x, kernel, **statics)
        back = conv_transpose(out, kernel, output_shape=spatial, **statics)
        return matrix, out, back

    matrix, out, back = both(x, kernel)
    positions = math.prod(out.shape[len(batch) : -1])
    assert matrix.shape == (positions * filters, math.prod(spatial) * channels)
    np.testing.assert_array_equal(images @ matrix.T, out.reshape(len(images), -1))
    rows = np.asarray(out).reshape(len(images), -1)
    np.testing.assert_array_equal(rows @ matrix, back.reshape(len(images), -1))


@unlike_cases
def test_matrix_holds_each_weight_as_often_as_positions_see_pixels_with_it(case):
    # The gradient of the matrix's sum counts, for each weight, where it stands.
    _, kernel, _ = draw_arrays(case, small_integers)
    counts = compile_cheaply(
        jax.grad(lambda kernel: jnp.sum(conv_matrix(kernel, case[1], **case[-1])))
    )(kernel)
    statics = {**case[-1], "groups": 1}
    ones = jnp.ones((*case[1], 1))
    seen = jnp.sum(extract_patches(ones, case[2], **geometry_of((*case[:-1], statics))), axis=0)
    seen = seen.reshape(-1, math.prod(case[2])).sum(0)
    expected = jnp.broadcast_to(seen.reshape(*case[2], 1, 1), kernel.shape)
    np.testing.assert_array_equal(counts, expected)


def test_derivatives_are_finite_differences_to_second_order_in_both_modes():
    case = (
        (1,),
        (4, 3),
        (2, 2),
        2,
        2,
        {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2},
    )
    with jax.enable_x64(True):
        x, kernel, bias = map(jnp.asarray, draw_arrays(case))
        _, patches = draw_patches(case)

        def everything(x, kernel, bias, patches):
            return (
                conv_as_matmul(x, kernel, bias, **case[-1]),
                cut(case)(x) ** 2,
                put_back(case)(patches) ** 2,
                conv_matrix(kernel, case[1], **case[-1]) ** 2,
            )

        arrays = (x, kernel, bias, jnp.asarray(patches))
        check_grads(jax.jit(everything), arrays, order=2, modes=("fwd", "rev"))


def test_derivatives_of_the_gather_are_finite_differences_to_second_order():
    case = MANY_TAPS["many_taps_2d"]
    with jax.enable_x64(True):
        x, patches = map(jnp.asarray, draw_patches(case))
        function = jax.jit(lambda x, patches: (cut(case)(x) ** 2, put_back(case)(patches) ** 2))
        check_grads(function, (x, patches), order=2, modes=("fwd", "rev"))


@few_cases
def test_jit_equals_eager_and_vmap_equals_the_batch(case):
    x, patches = map(jnp.asarray, draw_patches(case, small_integers))
    xs, stack = jnp.stack([x, 2 * x]), jnp.stack([patches, -patches])
    for function, one, several in ((cut(case), x, xs), (put_back(case), patches, stack)):
        np.testing.assert_array_equal(jax.jit(function)(one), function(one))
        np.testing.assert_array_equal(jax.jit(jax.vmap(function))(several), function(several))


@pytest.mark.parametrize("function", ["extract", "fold", "matmul", "matrix"])
def test_equal_shapes_and_statics_compile_once(function):
    x, kernel = jnp.ones((2, 7, 7, 2)), jnp.ones((3, 3, 2, 5))
    patches = jnp.ones((2, 3, 3, 18))
    call = {
        "extract": lambda scale, **s: jnp.sum(extract_patches(x * scale, 3, **s)),
        "fold": lambda scale, **s: jnp.sum(fold_patches(patches * scale, 7, 3, **s)),
        "matmul": lambda scale, **s: jnp.sum(conv_as_matmul(x * scale, kernel, **s)),
        "matrix": lambda scale, **s: jnp.sum(conv_matrix(kernel * scale, 7, **s)),
    }[function]
    gradient = jax.grad(call)
    statics = {"padding": 0} if function == "fold" else {"padding": 1}
    assert count_compilations(lambda: gradient(1.0, stride=2, **statics))
    again = {"padding": [(padding, padding) for padding in (*statics.values(),) * 2]}
    assert not count_compilations(lambda: gradient(2.0, stride=(2, 2), **again))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_dtype_is_kept_and_patches_are_copies(dtype):
    case = CASES["2d_grouped"]
    x, kernel, bias = (jnp.asarray(array, dtype) for array in draw_arrays(case))
    patches = cut(case)(x)
    assert patches.dtype == dtype
    assert set(np.unique(patches)) <= {*np.unique(x), 0}
    for array in (
        put_back(case)(patches),
        conv_as_matmul(x, kernel, bias, **case[-1]),
        conv_matrix(kernel, case[1], **case[-1]),
    ):
        assert array.dtype == dtype


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
@pytest.mark.parametrize("window", [3, 9])
@pytest.mark.parametrize("groups", [1, 2])
def test_empty_batch_gives_an_empty_batch_and_zero_kernel_gradient(batch, window, groups):
    x, kernel = jnp.zeros((*batch, 9, 9, 2)), jnp.ones((window, window, 2 // groups, 4))
    patches = extract_patches(x, window)
    size = 10 - window
    assert patches.shape == (*batch, size, size, window**2 * 2)
    assert fold_patches(patches, 9, window).shape == x.shape
    assert conv_as_matmul(x, kernel, groups=groups).shape == (*batch, size, size, 4)
    gradient = jax.grad(lambda kernel: jnp.sum(conv_as_matmul(x, kernel, groups=groups)))(kernel)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernel))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["2d_dilated", "many_taps_2d"])
def test_nan_and_infinity_stay_where_windows_see_them(value, name):
    case = ALL[name]
    x, kernel, bias = draw_arrays(case, small_integers)
    x[0, 3, 3, 0] = value
    statics = spelled_out(case)
    groups = statics.pop("groups")
    patches = oracles.patches_loops(x, case[2], **statics)
    np.testing.assert_array_equal(cut(case)(x), patches)
    folded = put_back(case)(patches)
    np.testing.assert_array_equal(np.argwhere(~np.isfinite(folded)), [[0, 3, 3, 0]])
    kernel[0, 0] = 0  # Zero times infinity is NaN.
    with np.errstate(invalid="ignore"):
        expected = oracles.conv_loops(x, kernel, bias, groups=groups, **statics)
    np.testing.assert_array_equal(conv_as_matmul(x, kernel, bias, **case[-1]), expected)


def test_infinite_weight_stands_in_the_matrix_where_its_tap_does_and_nowhere_else():
    kernel = small_integers(3, 2, 4)
    kernel[1, 0, 3] = np.inf
    matrix = conv_matrix(kernel, 5, groups=2).reshape(3, 4, 5, 4)
    expected = [[u, 3, u + 1, 2] for u in range(3)]  # Channel 0 of the second group is channel 2.
    np.testing.assert_array_equal(np.argwhere(~np.isfinite(matrix)), expected)


# ---- mistakes ----

_X, _KERNEL, _PATCHES = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6)), jnp.ones((2, 6, 6, 36))
MISTAKES = {
    "integer images": (
        lambda: extract_patches(jnp.ones((8, 8, 4), jnp.uint8), 3),
        TypeError,
        r"extract_patches: x has dtype uint8; cast to a floating dtype first",
    ),
    "too few axes": (
        lambda: extract_patches(jnp.ones((8, 4)), 3),
        ValueError,
        r"extract_patches: window \(3, 3\) slides over 2 spatial axes, so x needs at least 3 axes",
    ),
    "window too large": (
        lambda: extract_patches(_X, 3, dilation=4),
        ValueError,
        r"extract_patches: .*spanning 9 \(window 3, dilation 4\) is larger than the padded input",
    ),
    "window of nothing": (
        lambda: extract_patches(_X, (3, 0)),
        ValueError,
        r"extract_patches: window must be at least 1, got 0",
    ),
    "window without axes": (
        lambda: extract_patches(_X, ()),
        ValueError,
        r"extract_patches: a window needs at least one spatial axis",
    ),
    "fold without axes": (
        lambda: fold_patches(_PATCHES, (), ()),
        ValueError,
        r"fold_patches: a window needs at least one spatial axis",
    ),
    "stride for another rank": (
        lambda: extract_patches(_X, 3, stride=(1, 1, 1)),
        ValueError,
        r"extract_patches: stride has 3 values \(1, 1, 1\) for 2 spatial axes",
    ),
    "integer patches": (
        lambda: fold_patches(jnp.ones((6, 6, 36), jnp.int32), 8, 3),
        TypeError,
        r"fold_patches: patches has dtype int32; cast to a floating dtype first",
    ),
    "patches of another image": (
        lambda: fold_patches(_PATCHES, (8, 9), 3),
        ValueError,
        r"fold_patches: an image of \(8, 9\) has patches at \(6, 7\) positions, got \(6, 6\); "
        r"patches must have shape \(\*batch, \*output_spatial, taps \* channels\)",
    ),
    "columns that taps do not divide": (
        lambda: fold_patches(jnp.ones((6, 6, 35)), 8, 3),
        ValueError,
        r"fold_patches: a window of 9 taps has a multiple of 9 columns, got 35",
    ),
    "patches of too few axes": (
        lambda: fold_patches(jnp.ones((6, 36)), 8, 3),
        ValueError,
        r"fold_patches: patches needs at least 3 axes",
    ),
    "image for another rank": (
        lambda: fold_patches(_PATCHES, (8, 8, 8), 3),
        ValueError,
        r"fold_patches: output_shape has 3 values \(8, 8, 8\) for 2 spatial axes",
    ),
    "product with another dtype": (
        lambda: conv_as_matmul(_X, _KERNEL.astype(jnp.bfloat16)),
        TypeError,
        r"conv_as_matmul: x has dtype float32 and kernel bfloat16; cast one to the other",
    ),
    "product with other channels": (
        lambda: conv_as_matmul(_X, _KERNEL, groups=2),
        ValueError,
        r"conv_as_matmul: x has 4 channels in 2 group\(s\), so the kernel needs 2 input channels",
    ),
    "product with groups that divide nothing": (
        lambda: conv_as_matmul(_X, _KERNEL, groups=3),
        ValueError,
        r"conv_as_matmul: groups=3 must divide the 4 channels of x and the 6 filters",
    ),
    "product without a window": (
        lambda: conv_as_matmul(_X, jnp.ones((4, 6))),
        ValueError,
        r"conv_as_matmul: kernel must have shape \(\*window, channels // groups, num_filters\)",
    ),
    "product with a bias of another length": (
        lambda: conv_as_matmul(_X, _KERNEL, jnp.ones(4)),
        ValueError,
        r"conv_as_matmul: bias must have shape \(6,\), got \(4,\)",
    ),
    "matrix of an integer kernel": (
        lambda: conv_matrix(jnp.ones((3, 3, 4, 6), jnp.int32), 8),
        TypeError,
        r"conv_matrix: kernel has dtype int32",
    ),
    "matrix of a kernel without a window": (
        lambda: conv_matrix(jnp.ones((4, 6)), 8),
        ValueError,
        r"conv_matrix: kernel must have shape",
    ),
    "matrix of groups that do not divide the filters": (
        lambda: conv_matrix(_KERNEL, 8, groups=4),
        ValueError,
        r"conv_matrix: groups=4 must divide the 6 filters of the kernel",
    ),
    "matrix for an image with channels": (
        lambda: conv_matrix(_KERNEL, (8, 8, 4)),
        ValueError,
        r"conv_matrix: input_shape has 3 values \(8, 8, 4\) for 2 spatial axes",
    ),
    "matrix for an image smaller than the window": (
        lambda: conv_matrix(_KERNEL, 2),
        ValueError,
        r"conv_matrix: .*larger than the padded input",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistake_is_told_before_anything_runs(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: extract_patches(_X, 3, 1),
        lambda: fold_patches(_PATCHES, 8, 3, 1),
        lambda: conv_as_matmul(_X, _KERNEL, None, 1),
        lambda: conv_matrix(_KERNEL, 8, 1),
    ],
    ids=["extract", "fold", "matmul", "matrix"],
)
def test_statics_are_keyword_only(call):
    with pytest.raises(TypeError, match="positional"):
        call()
