"""Convolution backwards against NumPy loops, PyTorch, plain XLA, and the adjoint law."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from compiling import compile_cheaply, count_compilations
from convolutions import (
    ABORTING,
    CASES,
    cases,
    draw_arrays,
    plain_xla,
    problems,
    random,
    small_integers,
    spelled_out,
    unlike_cases,
)
from hypothesis import given, settings
from jax import lax
from jax.test_util import check_grads

from cnnjax.ops import (
    conv,
    conv_as_matmul,
    conv_input_gradient,
    conv_kernel_gradient,
    conv_transpose,
)


def draw_backwards(case, make=random):
    """y, kernel and a bias for the image's channels."""
    x, kernel, bias = draw_arrays(case, make)
    shape = jax.eval_shape(functools.partial(conv, **case[-1]), x, kernel, bias).shape
    return make(*shape, seed=5), kernel, make(x.shape[-1], seed=6)


def transposed(case):
    return functools.partial(conv_transpose, output_shape=case[1], **case[-1])


def as_arrays(arrays):
    return [jnp.asarray(array) for array in arrays]


# ---- oracles ----


@cases
def test_conv_transpose_is_the_numpy_loops(case):
    y, kernel, bias = draw_backwards(case)
    with jax.enable_x64(True):
        out = compile_cheaply(transposed(case))(y, kernel, bias)
    assert out.dtype == jnp.float64
    expected = oracles.conv_transpose_loops(
        y, kernel, bias, output_shape=case[1], **spelled_out(case)
    )
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(case=problems())
def test_conv_transpose_and_its_gradients_are_pytorchs(torch, case):
    compare_with_pytorch(torch, case, jax.jit)


@pytest.mark.slow
@settings(max_examples=110, deadline=None, derandomize=True)
@given(case=problems())
def test_conv_transpose_and_its_gradients_are_pytorchs_on_many_random_shapes(torch, case):
    compare_with_pytorch(torch, case, compile_cheaply)


def compare_with_pytorch(torch, case, jit):
    _, spatial, window, _, _, statics = case
    stride, dilation, padding = (statics[name] for name in ("stride", "dilation", "padding"))
    y, kernel, bias = draw_backwards(case)
    rank = len(window)
    leaves = [
        torch.tensor(array, requires_grad=True)
        for array in (oracles.channels_first(y), oracles.torch_kernel(kernel), bias)
    ]
    uncropped = [
        (n - 1) * s + d * (w - 1) + 1
        for n, s, d, w in zip(y.shape[1:-1], stride, dilation, window, strict=True)
    ]
    beyond = [
        size + low + high - whole
        for size, (low, high), whole in zip(spatial, padding, uncropped, strict=True)
    ]
    # PyTorch pads both sides alike. Where ours differ, its whole result is cropped instead.
    symmetric = all(low == high for low, high in padding)
    theirs = getattr(torch.nn.functional, f"conv_transpose{rank}d")(
        *leaves,
        stride=stride,
        padding=[low for low, _ in padding] if symmetric else 0,
        output_padding=beyond,
        groups=statics["groups"],
        dilation=dilation,
    )
    if not symmetric:
        crops = [slice(low, low + s) for s, (low, _) in zip(spatial, padding, strict=True)]
        theirs = theirs[(slice(None), slice(None), *crops)]
    expected = oracles.channels_last(theirs.detach().numpy())
    cotangent = random(*expected.shape, seed=4)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))

    @jit
    def out_and_gradients(y, kernel, bias, cotangent):
        out, pullback = jax.vjp(transposed(case), y, kernel, bias)
        return out, *pullback(cotangent)

    with jax.enable_x64(True):
        ours = out_and_gradients(y, kernel, bias, cotangent)
    gradients = [leaf.grad.numpy() for leaf in leaves]
    for our, their in zip(
        ours,
        (
            expected,
            oracles.channels_last(gradients[0]),
            oracles.from_torch_kernel(gradients[1]),
            gradients[2],
        ),
        strict=True,
    ):
        np.testing.assert_allclose(our, their, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("output_padding", [0, 1, 2])
def test_default_size_plus_p_is_pytorchs_output_padding(torch, output_padding):
    y, kernel = small_integers(1, 4, 5, 2), small_integers(3, 2, 3, 2)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.tensor(oracles.channels_first(y)),
        torch.tensor(oracles.torch_kernel(kernel)),
        stride=3,
        padding=1,
        output_padding=output_padding,
    )
    default = conv_transpose(y, kernel, stride=3, padding=1).shape[1:-1]
    sizes = tuple(size + output_padding for size in default)
    ours = conv_transpose(y, kernel, stride=3, padding=1, output_shape=sizes)
    np.testing.assert_array_equal(ours, oracles.channels_last(theirs.numpy()))


@pytest.mark.parametrize("window", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_same_padding_multiplies_the_size_and_is_laxs_with_the_kernel_transposed(window, stride):
    y, kernel = small_integers(1, 4, 2), small_integers(window, 3, 2)
    ours = conv_transpose(y, kernel, stride=stride, padding="SAME")
    assert ours.shape == (1, 4 * stride, 3)
    theirs = lax.conv_transpose(
        y,
        kernel,
        (stride,),
        "SAME",
        dimension_numbers=("NWC", "WIO", "NWC"),
        transpose_kernel=True,
    )
    np.testing.assert_array_equal(ours, theirs)


# ---- the gradients, written out ----


@cases
def test_written_gradients_are_those_of_plain_xla_bit_for_bit_where_sums_are_exact(case):
    x, kernel, bias = draw_arrays(case, small_integers)
    cotangent, *_ = draw_backwards(case, small_integers)
    statics = case[-1]

    @compile_cheaply
    def ours(x, kernel, cotangent):
        return (
            conv_input_gradient(cotangent, kernel, case[1], **statics),
            conv_kernel_gradient(x, cotangent, case[2], **statics),
        )

    @compile_cheaply
    def theirs(x, kernel, cotangent):
        return jax.vjp(lambda x, kernel: plain_xla(x, kernel, bias, case), x, kernel)[1](cotangent)

    for our, their in zip(ours(x, kernel, cotangent), theirs(x, kernel, cotangent), strict=True):
        np.testing.assert_array_equal(our, their)


def test_input_gradient_slides_the_flipped_filters_over_the_cotangent_with_holes():
    kernel, cotangent = small_integers(3, 3, 2, 4), small_integers(1, 3, 3, 4)
    holes = np.zeros((1, 5, 5, 4), np.float32)
    holes[:, ::2, ::2] = cotangent
    by_hand = conv(holes, kernel[::-1, ::-1].swapaxes(-1, -2), padding="FULL")
    np.testing.assert_array_equal(conv_input_gradient(cotangent, kernel, (7, 7), stride=2), by_hand)


def test_pixels_that_no_window_sees_have_zero_gradient():
    gradient = conv_input_gradient(jnp.ones((2, 1)), jnp.ones((3, 1, 1)), 9, stride=4)
    np.testing.assert_array_equal(gradient.ravel(), [1, 1, 1, 0, 1, 1, 1, 0, 0])


# ---- laws ----


@cases
def test_conv_transpose_is_the_adjoint_of_conv(case):
    x, kernel, _ = draw_arrays(case, small_integers)
    y, *_ = draw_backwards(case, small_integers)

    @compile_cheaply
    def products(x, kernel, y):
        out = conv(x, kernel, **case[-1])
        return jnp.sum(out * y), jnp.sum(x * transposed(case)(y, kernel))

    left, right = products(x, kernel, y)
    assert left == right


@cases
def test_default_size_is_the_smallest_that_conv_takes_back_or_a_multiple_for_same(case):
    y, kernel, _ = draw_backwards(case)
    image = jax.eval_shape(functools.partial(conv_transpose, **case[-1]), y, kernel)
    assert jax.eval_shape(functools.partial(conv, **case[-1]), image, kernel).shape == y.shape
    statics = spelled_out(case)
    rank = len(case[1])
    sizes, outputs = image.shape[-rank - 1 : -1], y.shape[-rank - 1 : -1]
    for axis, (size, num_outputs) in enumerate(zip(sizes, outputs, strict=True)):
        stride, dilation = statics["stride"][axis], statics["dilation"][axis]
        if case[-1].get("padding") == "SAME":
            assert size == num_outputs * stride
        elif size > 1:
            low, high = statics["padding"][axis]
            window = case[2][axis]
            smaller = oracles.window_starts(size - 1, window, stride, low, high, dilation)
            assert len(smaller) < num_outputs


@unlike_cases
def test_jit_equals_eager(case):
    arrays = draw_backwards(case, small_integers)
    function = transposed(case)
    np.testing.assert_array_equal(jax.jit(function)(*arrays), function(*arrays))


@unlike_cases
def test_vmap_equals_the_batch_and_one_after_another(case):
    y, kernel, bias = as_arrays(draw_backwards(case, small_integers))
    ys, kernels = jnp.stack([y, 2 * y]), jnp.stack([kernel, kernel[::-1]])
    function = jax.jit(transposed(case))
    np.testing.assert_array_equal(
        jax.vmap(function, (0, None, None))(ys, kernel, bias), function(ys, kernel, bias)
    )
    np.testing.assert_array_equal(
        jax.vmap(function, (0, 0, None))(ys, kernels, bias),
        [function(y, k, bias) for y, k in zip(ys, kernels, strict=True)],
    )


_EVERYTHING = (
    (1,),
    (4, 3),
    (2, 2),
    2,
    2,
    {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2},
)


@pytest.mark.parametrize("name", ["conv_transpose", "conv_kernel_gradient"])
def test_derivatives_are_finite_differences_to_second_order_in_both_modes(name):
    y, kernel, bias = draw_backwards(_EVERYTHING)
    x, *_ = draw_arrays(_EVERYTHING)
    if name == "conv_transpose":
        function, arrays = transposed(_EVERYTHING), (y, kernel, bias)
    else:
        function, arrays = (
            functools.partial(conv_kernel_gradient, window=_EVERYTHING[2], **_EVERYTHING[-1]),
            (x, y),
        )
    with jax.enable_x64(True):
        check_grads(jax.jit(function), as_arrays(arrays), order=2, modes=("fwd", "rev"))


@unlike_cases
def test_gradients_of_the_written_gradients_are_those_of_patches_and_a_product(case):
    x, kernel, _ = draw_arrays(case, small_integers)
    y, *_ = draw_backwards(case, small_integers)
    statics = case[-1]

    def ours(x, kernel, y):
        a = conv_input_gradient(y, kernel, case[1], **statics)
        b = conv_kernel_gradient(x, y, case[2], **statics)
        return jnp.sum(a * x) + jnp.sum(b * b)

    def by_product(x, kernel, y):
        matmul = functools.partial(conv_as_matmul, **statics)
        a, b = jax.vjp(matmul, x, kernel)[1](y)
        return jnp.sum(a * x) + jnp.sum(b * b)

    gradients = (compile_cheaply(jax.grad(f, (0, 1, 2)))(x, kernel, y) for f in (ours, by_product))
    for our, their in zip(*gradients, strict=True):
        np.testing.assert_array_equal(our, their)


# ---- what plain XLA dies of ----

_DERIVATIVES_OF_ABORTING_CASES = """
import functools, jax, numpy as np
import convolutions as c
from compiling import compile_cheaply
from cnnjax.ops import conv, conv_as_matmul

def derivatives(function):
    def first(x, kernel, y):
        x_bar, kernel_bar = jax.vjp(function, x, kernel)[1](y)
        return (x_bar ** 2).sum() + (kernel_bar ** 2).sum()
    return compile_cheaply(jax.value_and_grad(first, (0, 1, 2)))

for name, case in c.ABORTING.items():
    x, kernel, _ = c.draw_arrays(case, c.small_integers)
    forms = [functools.partial(f, **case[-1]) for f in (conv, conv_as_matmul)]
    y = c.small_integers(*jax.eval_shape(forms[0], x, kernel).shape, seed=5)
    ours, theirs = (derivatives(form)(x, kernel, y) for form in forms)
    for our, their in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(our, their)
    print(name)
"""


def test_first_and_second_derivatives_hold_where_plain_xla_aborts_the_process():
    # In a process of its own: a failure would take this one with it.
    done = subprocess.run(
        [sys.executable, "-c", _DERIVATIVES_OF_ABORTING_CASES],
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == list(ABORTING)


@pytest.mark.parametrize("case", ABORTING.values(), ids=ABORTING)
def test_conv_transpose_is_the_numpy_loops_where_plain_xla_aborts(case):
    y, kernel, bias = draw_backwards(case, small_integers)
    expected = oracles.conv_transpose_loops(
        y, kernel, bias, output_shape=case[1], **spelled_out(case)
    )
    np.testing.assert_array_equal(transposed(case)(y, kernel, bias), expected)


def test_gradients_inside_a_loop_equal_those_outside():
    y, kernel, _ = as_arrays(draw_backwards(CASES["2d_same_stride_2"], small_integers))
    gradients = jax.grad(
        lambda y, kernel: jnp.sum(conv_transpose(y, kernel, stride=2, padding="SAME") ** 2), (0, 1)
    )
    outside = gradients(y, kernel)
    zeros = jax.tree.map(jnp.zeros_like, outside)
    inside = jax.jit(lambda *a: lax.fori_loop(0, 2, lambda *_: gradients(*a), zeros))(y, kernel)
    for ours, theirs in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_equal_shapes_and_statics_compile_once():
    gradient = jax.grad(
        lambda y, k, **statics: jnp.sum(conv_transpose(y, k, **statics) ** 2), (0, 1)
    )
    y, kernel = jnp.ones((2, 3, 3, 5)), jnp.ones((3, 3, 2, 5))
    other_y, other_kernel = 3 * y, kernel - 1
    assert count_compilations(lambda: gradient(y, kernel, stride=2, padding=1))
    again = functools.partial(gradient, other_y, other_kernel)
    assert not count_compilations(
        lambda: again(stride=(2, 2), padding=[(1, 1), 1], output_shape=(5, 5))
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_and_rounding_is_that_of_the_dtype(dtype):
    case = CASES["2d_grouped"]
    x, *_ = draw_arrays(case)
    y, kernel, bias = draw_backwards(case)
    statics = case[-1]

    @jax.jit
    def everything(x, y, kernel, bias):
        return (
            transposed(case)(y, kernel, bias),
            conv_input_gradient(y, kernel, case[1], **statics),
            conv_kernel_gradient(x, y, case[2], **statics),
        )

    arrays = [jnp.asarray(array, dtype) for array in (x, y, kernel, bias)]
    rounded = everything(*arrays)
    assert {array.dtype for array in rounded} == {jnp.dtype(dtype)}
    for ours, exact in zip(
        rounded, everything(*(a.astype(jnp.float32) for a in arrays)), strict=True
    ):
        tolerance = 8 * float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(exact)))
        np.testing.assert_allclose(ours.astype(jnp.float32), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_empty_batch_gives_an_empty_batch_and_zero_kernel_gradients(batch, groups):
    y, kernel = jnp.zeros((*batch, 2, 2, 4)), jnp.ones((3, 3, 4 // groups, 4))
    statics = {"stride": 2, "groups": groups}
    assert conv_transpose(y, kernel, **statics).shape == (*batch, 5, 5, 4)
    x = jnp.zeros((*batch, 6, 6, 4))
    gradient = conv_kernel_gradient(x, y, 3, **statics)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernel))
    gradient = jax.grad(lambda k: jnp.sum(conv_transpose(y, k, **statics)))(kernel)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernel))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_the_pixels_that_they_are_spread_over(value):
    case = ((1,), (8, 7), (2, 3), 2, 2, {"stride": 2, "dilation": (1, 2), "padding": 1})
    y, kernel, bias = draw_backwards(case, small_integers)
    y[0, 1, 1, 0] = value
    kernel[0, 0] = 0  # Zero times infinity is NaN.
    with np.errstate(invalid="ignore"):
        expected = oracles.conv_transpose_loops(
            y, kernel, bias, output_shape=case[1], **spelled_out(case)
        )
    assert not np.isfinite(expected).all()
    assert np.isfinite(expected).any()
    np.testing.assert_array_equal(transposed(case)(y, kernel, bias), expected)


def test_depthwise_and_grouped_gradients_are_those_of_their_groups_alone():
    x, y = small_integers(2, 5, 5, 6), small_integers(2, 3, 3, 6, seed=1)
    for groups in (2, 3, 6):
        together = conv_kernel_gradient(x, y, 3, groups=groups)
        alone = [
            conv_kernel_gradient(x_block, y_block, 3)
            for x_block, y_block in zip(
                np.split(x, groups, -1), np.split(y, groups, -1), strict=True
            )
        ]
        np.testing.assert_array_equal(together, np.concatenate(alone, -1))


# ---- mistakes ----

_Y, _KERNEL, _X = jnp.ones((2, 4, 4, 6)), jnp.ones((3, 3, 4, 6)), jnp.ones((2, 8, 8, 4))
_COTANGENT = jnp.ones((2, 6, 6, 6))


def _transpose(y=_Y, kernel=_KERNEL, bias=None, **statics):
    return conv_transpose(y, kernel, bias, **({"stride": 2} | statics))


def _input_gradient(cotangent=_Y, kernel=_KERNEL, input_shape=(9, 9), **statics):
    return conv_input_gradient(cotangent, kernel, input_shape, **({"stride": 2} | statics))


def _kernel_gradient(x=_X, cotangent=_COTANGENT, window=3, **statics):
    return conv_kernel_gradient(x, cotangent, window, **statics)


MISTAKES = {
    "integer y": (
        _transpose,
        {"y": jnp.ones((4, 4, 6), jnp.int32)},
        TypeError,
        r"conv_transpose: y has dtype int32; cast to a floating dtype first",
    ),
    "kernel of another dtype": (
        _transpose,
        {"kernel": _KERNEL.astype(jnp.bfloat16)},
        TypeError,
        r"conv_transpose: y has dtype float32 and kernel bfloat16; cast one to the other",
    ),
    "kernel without a window": (
        _transpose,
        {"kernel": jnp.ones((4, 6))},
        ValueError,
        r"conv_transpose: kernel must have shape \(\*window, channels // groups, num_filters\)",
    ),
    "too few axes": (
        _transpose,
        {"y": jnp.ones((4, 6))},
        ValueError,
        r"y needs at least 3 axes \(\*batch, \*output_spatial, channels\) .*got shape \(4, 6\)",
    ),
    "the kernel's axes exchanged": (
        _transpose,
        {"kernel": jnp.ones((3, 3, 6, 4))},
        ValueError,
        r"conv_transpose: y has 6 channels, so the kernel needs 6 filters, got kernel shape "
        r"\(3, 3, 6, 4\); the kernel is the one of conv",
    ),
    "groups that do not divide the filters": (
        _transpose,
        {"groups": 4},
        ValueError,
        r"conv_transpose: groups=4 must divide the 6 filters of the kernel",
    ),
    "bias for the wrong side": (
        _transpose,
        {"bias": jnp.ones(6)},
        ValueError,
        r"conv_transpose: bias must have shape \(4,\), got \(6,\)",
    ),
    "a size that conv takes elsewhere": (
        _transpose,
        {"output_shape": (9, 11)},
        ValueError,
        r"conv does not take \(9, 11\) pixels to the \(4, 4\) positions of y; output_shape must "
        r"lie, axis by axis, in 9 to 10, 9 to 10",
    ),
    "a size that SAME padding takes elsewhere": (
        _transpose,
        {"output_shape": 6, "padding": "SAME"},
        ValueError,
        r"output_shape must lie, axis by axis, in 7 to 8, 7 to 8",
    ),
    "sizes for another rank": (
        _transpose,
        {"output_shape": (9, 9, 9)},
        ValueError,
        r"conv_transpose: output_shape has 3 values \(9, 9, 9\) for 2 spatial axes",
    ),
    "fractional size": (
        _transpose,
        {"output_shape": (9.0, 9)},
        TypeError,
        r"conv_transpose: output_shape must be an integer, got 9.0",
    ),
    "too much padding": (
        _transpose,
        {"padding": 6},
        ValueError,
        r"conv_transpose: y has 4 position\(s\) on spatial axis 0, fewer than conv gives for any "
        r"image with padding \(6, 6\); pad less",
    ),
    "padding by an unknown name": (
        _transpose,
        {"padding": "same"},
        ValueError,
        r"conv_transpose: padding: unknown name 'same'",
    ),
    "stride of zero": (
        _transpose,
        {"stride": 0},
        ValueError,
        r"conv_transpose: stride must be at least 1, got 0",
    ),
    "gradient of another size": (
        _input_gradient,
        {"input_shape": (9, 11)},
        ValueError,
        r"conv_input_gradient: conv takes \(9, 11\) pixels to \(4, 5\) positions, got a cotangent "
        r"of \(4, 4\)",
    ),
    "gradient of an image smaller than the window": (
        _input_gradient,
        {"input_shape": 2},
        ValueError,
        r"conv_input_gradient: .*larger than the padded input",
    ),
    "gradient by another kernel": (
        _input_gradient,
        {"kernel": jnp.ones((3, 3, 4, 5))},
        ValueError,
        r"conv_input_gradient: cotangent has 6 channels, so the kernel needs 6 filters",
    ),
    "integer cotangent": (
        _input_gradient,
        {"cotangent": jnp.ones((4, 4, 6), jnp.int8)},
        TypeError,
        r"conv_input_gradient: cotangent has dtype int8",
    ),
    "cotangent without positions": (
        _input_gradient,
        {"cotangent": jnp.ones(6)},
        ValueError,
        r"conv_input_gradient: cotangent needs at least 3 axes",
    ),
    "another batch": (
        _kernel_gradient,
        {"cotangent": jnp.ones((3, 6, 6, 6))},
        ValueError,
        r"conv_kernel_gradient: x has batch axes \(2,\) and cotangent \(3,\); give one cotangent "
        r"for each image",
    ),
    "other positions": (
        _kernel_gradient,
        {"stride": 2},
        ValueError,
        r"conv_kernel_gradient: conv takes \(8, 8\) pixels to \(3, 3\) positions, got a cotangent",
    ),
    "groups that do not divide both": (
        _kernel_gradient,
        {"groups": 4},
        ValueError,
        r"conv_kernel_gradient: groups=4 must divide the 4 channels of x and the 6 of cotangent",
    ),
    "integer images": (
        _kernel_gradient,
        {"x": jnp.ones((2, 8, 8, 4), jnp.uint8)},
        TypeError,
        r"conv_kernel_gradient: x has dtype uint8",
    ),
    "images of too few axes": (
        _kernel_gradient,
        {"x": jnp.ones((8, 4))},
        ValueError,
        r"conv_kernel_gradient: window \(3, 3\) slides over 2 spatial axes, so x needs at least 3",
    ),
}


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES
)
def test_mistake_is_told_before_anything_runs(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**arguments)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups", "output_shape"])
def test_statics_are_keyword_only(name):
    with pytest.raises(TypeError, match="positional"):
        conv_transpose(_Y, _KERNEL, None, {name: 1}[name])
