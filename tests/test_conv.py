"""Convolution against NumPy loops, PyTorch, plain XLA, and the laws every operation keeps."""

import functools

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

from cnnjax.ops import conv

# ---- oracles ----


@cases
def test_conv_is_the_numpy_loops(case):
    x, kernel, bias = draw_arrays(case)
    with jax.enable_x64(True):
        out = conv(jnp.asarray(x), jnp.asarray(kernel), jnp.asarray(bias), **case[-1])
        assert out.dtype == jnp.float64
        without_bias = conv(jnp.asarray(x), jnp.asarray(kernel), **case[-1])
    expected = oracles.conv_loops(x, kernel, bias, **spelled_out(case))
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(without_bias, expected - bias, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(case=problems())
def test_conv_and_its_gradients_are_pytorchs(torch, case):
    compare_with_pytorch(torch, case, jax.jit)


@pytest.mark.slow
@settings(max_examples=300, deadline=None, derandomize=True)
@given(case=problems())
def test_conv_and_its_gradients_are_pytorchs_on_many_random_shapes(torch, case):
    compare_with_pytorch(torch, case, compile_cheaply)


def compare_with_pytorch(torch, case, jit):
    statics = case[-1]
    x, kernel, bias = draw_arrays(case)
    rank = kernel.ndim - 2

    leaves = [
        torch.tensor(array, requires_grad=True)
        for array in (oracles.channels_first(x), oracles.torch_kernel(kernel), bias)
    ]
    # PyTorch convolves with symmetric padding only; its `pad` takes the last axis first.
    edges = [edge for pair in reversed(statics["padding"]) for edge in pair]
    theirs = getattr(torch.nn.functional, f"conv{rank}d")(
        torch.nn.functional.pad(leaves[0], edges),
        leaves[1],
        leaves[2],
        stride=statics["stride"],
        dilation=statics["dilation"],
        groups=statics["groups"],
    )
    expected = oracles.channels_last(theirs.detach().numpy())
    cotangent = random(*expected.shape, seed=4)
    theirs.backward(torch.tensor(oracles.channels_first(cotangent)))

    @jit
    def out_and_gradients(x, kernel, bias, cotangent):
        out, pullback = jax.vjp(functools.partial(conv, **statics), x, kernel, bias)
        return out, *pullback(cotangent)

    with jax.enable_x64(True):
        ours = out_and_gradients(x, kernel, bias, cotangent)
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


# ---- worked examples ----


def test_alexnet_conv1_maps_227x227x3_to_55x55x96():
    # CS231n notes: 290,400 neurons of 364 weights; 34,944 parameters shared.
    kernel = jax.ShapeDtypeStruct((11, 11, 3, 96), jnp.float32)
    bias = jax.ShapeDtypeStruct((96,), jnp.float32)
    x = jax.ShapeDtypeStruct((227, 227, 3), jnp.float32)
    out = jax.eval_shape(functools.partial(conv, stride=4), x, kernel, bias)
    assert out.shape == (55, 55, 96)
    assert out.size == 290_400
    assert kernel.size // 96 + 1 == 364
    assert kernel.size + bias.size == 34_944


def test_ten_5x5_filters_keep_32x32_and_have_760_parameters():
    # CS231n notes: 3x32x32 volume, ten 5x5 filters, stride 1, pad 2.
    kernel, bias = small_integers(5, 5, 3, 10), small_integers(10)
    assert conv(small_integers(32, 32, 3), kernel, bias, padding=2).shape == (32, 32, 10)
    assert kernel.size + bias.size == 760


def test_11x11x4_volume_of_the_course_notes():
    # CS231n notes, "NumPy examples": V[0,0,0] = np.sum(X[:5,:5,:] * W0) + b0, and so on.
    x, kernel, bias = small_integers(11, 11, 4), small_integers(5, 5, 4, 2), small_integers(2)
    out = conv(x, kernel, bias, stride=2)
    assert out.shape == (4, 4, 2)
    for k in range(2):
        assert out[0, 0, k] == np.sum(x[:5, :5, :] * kernel[..., k]) + bias[k]
        assert out[1, 0, k] == np.sum(x[2:7, :5, :] * kernel[..., k]) + bias[k]
        assert out[0, 1, k] == np.sum(x[:5, 2:7, :] * kernel[..., k]) + bias[k]
        assert out[2, 3, k] == np.sum(x[4:9, 6:11, :] * kernel[..., k]) + bias[k]


# ---- laws ----


@unlike_cases
def test_value_and_gradients_equal_plain_xla_bit_for_bit_where_sums_are_exact(case):
    def value_and_gradients(function):
        def apply(*operands_and_cotangent):
            *operands, cotangent = operands_and_cotangent
            out, pullback = jax.vjp(function, *operands)
            return out, *pullback(cotangent)

        return jax.jit(apply)

    arrays = draw_arrays(case, small_integers)
    ours, plain = functools.partial(conv, **case[-1]), functools.partial(plain_xla, case=case)
    cotangent = small_integers(*jax.eval_shape(plain, *arrays).shape, seed=4)
    for our, their in zip(
        value_and_gradients(ours)(*arrays, cotangent),
        value_and_gradients(plain)(*arrays, cotangent),
        strict=True,
    ):
        np.testing.assert_array_equal(our, their)


_EVERYTHING = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2}


def test_derivatives_are_finite_differences_to_second_order_in_both_modes():
    case = ((1,), (4, 3), (2, 2), 2, 2, _EVERYTHING)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in draw_arrays(case)]
        function = jax.jit(functools.partial(conv, **case[-1]))
        check_grads(function, arrays, order=2, modes=("fwd", "rev"))


@unlike_cases
def test_jit_equals_eager(case):
    arrays = draw_arrays(case, small_integers)
    function = functools.partial(conv, **case[-1])
    np.testing.assert_array_equal(jax.jit(function)(*arrays), function(*arrays))


@unlike_cases
def test_vmap_over_images_equals_the_batch(case):
    x, kernel, bias = map(jnp.asarray, draw_arrays(case, small_integers))
    images = jnp.stack([x, 2 * x, x[::-1]])
    function = functools.partial(conv, kernel=kernel, bias=bias, **case[-1])
    np.testing.assert_array_equal(jax.vmap(function)(images), function(images))


@unlike_cases
def test_vmap_over_kernels_equals_one_after_another(case):
    x, kernel, bias = map(jnp.asarray, draw_arrays(case, small_integers))
    kernels, biases = jnp.stack([kernel, -kernel]), jnp.stack([bias, 3 * bias])
    function = functools.partial(conv, x, **case[-1])
    np.testing.assert_array_equal(
        jax.vmap(function)(kernels, biases),
        [function(k, b) for k, b in zip(kernels, biases, strict=True)],
    )


def test_vmap_of_gradients_over_images_and_kernels_equals_one_after_another():
    x, kernel, _ = map(jnp.asarray, draw_arrays(CASES["2d_grouped"], small_integers))
    xs, kernels = jnp.stack([x, 2 * x]), jnp.stack([kernel, -kernel])
    gradient = jax.grad(
        lambda x, kernel: jnp.sum(conv(x, kernel, groups=2, stride=2) ** 2), argnums=(0, 1)
    )
    mapped = jax.vmap(gradient)(xs, kernels)
    for i in range(2):
        for ours, alone in zip(mapped, gradient(xs[i], kernels[i]), strict=True):
            np.testing.assert_array_equal(ours[i], alone)


@unlike_cases
def test_jvp_is_the_product_rule_of_a_bilinear_map(case):
    x, kernel, bias = draw_arrays(case, small_integers)
    x_dot, kernel_dot, bias_dot = (small_integers(*a.shape, seed=7) for a in (x, kernel, bias))
    function = functools.partial(conv, **case[-1])
    _, tangent = jax.jvp(function, (x, kernel, bias), (x_dot, kernel_dot, bias_dot))
    by_hand = function(x_dot, kernel) + function(x, kernel_dot, bias_dot)
    np.testing.assert_array_equal(tangent, by_hand)


@unlike_cases
@pytest.mark.parametrize("argument", [0, 1], ids=["x", "kernel"])
def test_linear_transpose_is_the_adjoint(case, argument):
    operands = list(map(jnp.asarray, draw_arrays(case, small_integers)[:2]))

    def function(operand):
        return conv(*operands[:argument], operand, *operands[argument + 1 :], **case[-1])

    out = function(operands[argument])
    cotangent = jnp.asarray(small_integers(*out.shape, seed=5))
    (transposed,) = jax.linear_transpose(function, operands[argument])(cotangent)
    assert jnp.sum(out * cotangent) == jnp.sum(operands[argument] * transposed)


def test_gradient_without_a_varying_operand_is_zero():
    x, kernel, _ = map(jnp.asarray, draw_arrays(CASES["2d"]))
    gradient = jax.grad(
        lambda s: jnp.sum(conv(lax.stop_gradient(s * x), lax.stop_gradient(kernel)))
    )
    assert gradient(1.0) == 0


@pytest.mark.parametrize("loop", ["scan", "fori_loop"])
def test_gradients_inside_a_loop_equal_those_outside(loop):
    x, kernel, _ = map(jnp.asarray, draw_arrays(CASES["2d_same_stride_2"], small_integers))
    gradients = jax.grad(
        lambda x, kernel: jnp.sum(conv(x, kernel, stride=2, padding="SAME") ** 2), argnums=(0, 1)
    )
    outside = gradients(x, kernel)
    if loop == "scan":
        _, inside = jax.jit(
            lambda x, k: lax.scan(lambda carry, _: (carry, gradients(*carry)), (x, k), length=2)
        )(x, kernel)
        inside = jax.tree.map(lambda leaf: leaf[1], inside)
    else:
        zeros = jax.tree.map(jnp.zeros_like, outside)
        inside = jax.jit(lambda x, k: lax.fori_loop(0, 2, lambda *_: gradients(x, k), zeros))(
            x, kernel
        )
    for ours, theirs in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_gradient_through_a_scan_over_layers_equals_the_unrolled_loop():
    x = jnp.asarray(small_integers(1, 5, 5, 2))
    kernels = jnp.asarray(small_integers(3, 3, 3, 2, 2))

    def scanned(kernels):
        return jnp.sum(lax.scan(lambda x, k: (conv(x, k, padding=1), None), x, kernels)[0])

    def unrolled(kernels):
        return jnp.sum(functools.reduce(lambda x, k: conv(x, k, padding=1), kernels, x))

    np.testing.assert_array_equal(
        jax.jit(jax.grad(scanned))(kernels), jax.jit(jax.grad(unrolled))(kernels)
    )


@pytest.mark.parametrize("transform", [lambda f: f, jax.grad], ids=["value", "gradient"])
def test_equal_shapes_and_statics_compile_once(transform):
    function = transform(lambda x, k, **statics: jnp.sum(conv(x, k, **statics)))
    x, kernel = jnp.ones((2, 7, 7, 2)), jnp.ones((3, 3, 2, 5))
    other_x, other_kernel = 3 * x, kernel - 1
    assert count_compilations(lambda: function(x, kernel, stride=2, padding=1))
    # Other values, and the same statics written in another way.
    again = functools.partial(function, other_x, other_kernel)
    assert not count_compilations(lambda: again(stride=(2, 2), padding=[(1, 1), 1]))


@pytest.mark.parametrize(("name", "dtype"), [("2d_dilated", jnp.bfloat16), ("1d", jnp.float16)])
def test_dtype_is_kept_and_rounding_is_that_of_the_dtype(name, dtype):
    arrays = [jnp.asarray(array, dtype) for array in draw_arrays(CASES[name])]
    function = functools.partial(conv, **CASES[name][-1])
    out, pullback = jax.vjp(function, *arrays)
    gradients = pullback(jnp.ones_like(out))
    assert {array.dtype for array in (out, *gradients)} == {jnp.dtype(dtype)}
    exact, exact_pullback = jax.vjp(function, *(a.astype(jnp.float32) for a in arrays))
    exact_gradients = exact_pullback(jnp.ones_like(exact))
    for rounded, reference in zip((out, *gradients), (exact, *exact_gradients), strict=True):
        tolerance = 8 * float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(reference)))
        np.testing.assert_allclose(rounded.astype(jnp.float32), reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch", [(0,), (2, 0), (0, 3)])
def test_empty_batch_gives_an_empty_batch_and_zero_kernel_gradient(batch):
    x, kernel = jnp.zeros((*batch, 6, 6, 2)), jnp.ones((3, 3, 2, 4))
    assert conv(x, kernel, stride=2).shape == (*batch, 2, 2, 4)
    gradient = jax.grad(lambda kernel: jnp.sum(conv(x, kernel)))(kernel)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernel))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_what_sees_them_as_in_numpy(value):
    case = CASES["2d_dilated"]
    x, kernel, bias = draw_arrays(case, small_integers)
    x[0, 3, 3, 0] = value
    kernel[0, 0] = 0  # Zero times infinity is NaN.
    with np.errstate(invalid="ignore"):
        expected = oracles.conv_loops(x, kernel, bias, **spelled_out(case))
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(conv(x, kernel, bias, **case[-1]), expected)


@pytest.mark.parametrize("shift", [(0, 1), (3, 0), (-2, 4)])
@pytest.mark.parametrize("dilation", [1, 2])
def test_conv_of_a_wrapped_image_commutes_with_circular_shifts(shift, dilation):
    x, kernel = small_integers(2, 8, 9, 2), small_integers(3, 3, 2, 3)
    edge = 2 * dilation

    def circular(x):
        wrapped = np.pad(x, ((0, 0), (0, edge), (0, edge), (0, 0)), mode="wrap")
        return conv(wrapped, kernel, dilation=dilation)

    shifted = circular(np.roll(x, shift, (1, 2)))
    np.testing.assert_array_equal(shifted, np.roll(circular(x), shift, (1, 2)))


def test_shift_by_a_multiple_of_the_stride_shifts_the_output():
    x, kernel = small_integers(14, 2), small_integers(3, 2, 3)
    np.testing.assert_array_equal(conv(x[6:], kernel, stride=3), conv(x, kernel, stride=3)[2:])


def test_bias_broadcasts_under_strict_rank_promotion():
    assert jax.config.jax_numpy_rank_promotion == "raise"
    out = conv(jnp.zeros((2, 3, 4, 5, 1)), jnp.zeros((1, 1, 1, 2)), jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(out[1, 2, 3, 4], [1.0, 2.0])


# ---- mistakes ----

_X, _KERNEL = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 4, 6))
MISTAKES = {
    "integer images": (
        {"x": jnp.ones((8, 8, 4), jnp.uint8)},
        TypeError,
        r"conv: x has dtype uint8; cast to a floating dtype first, .*x\.astype\(jnp\.float32\)",
    ),
    "integer kernel": (
        {"kernel": jnp.ones((3, 3, 4, 6), jnp.int32)},
        TypeError,
        r"conv: kernel has dtype int32; cast to a floating dtype first",
    ),
    "integer bias": (
        {"bias": jnp.ones(6, jnp.int32)},
        TypeError,
        r"conv: bias has dtype int32; cast to a floating dtype first",
    ),
    "kernel of another dtype": (
        {"kernel": _KERNEL.astype(jnp.bfloat16)},
        TypeError,
        r"conv: x has dtype float32 and kernel bfloat16; cast one to the other",
    ),
    "bias of another dtype": (
        {"bias": jnp.ones(6, jnp.float16)},
        TypeError,
        r"conv: x has dtype float32 and bias float16; cast one to the other",
    ),
    "kernel without a window": (
        {"kernel": jnp.ones((4, 6))},
        ValueError,
        r"kernel must have shape \(\*window, channels // groups, num_filters\) .*got \(4, 6\)",
    ),
    "too few axes": (
        {"x": jnp.ones((8, 4))},
        ValueError,
        r"slides over 2 spatial axes, so x needs at least 3 axes .*got shape \(8, 4\)",
    ),
    "groups that do not divide the channels": (
        {"groups": 3},
        ValueError,
        r"conv: groups=3 must divide the 4 channels of x and the 6 filters of the kernel",
    ),
    "groups that do not divide the filters": (
        {"groups": 4, "kernel": jnp.ones((3, 3, 1, 6))},
        ValueError,
        r"conv: groups=4 must divide the 4 channels of x and the 6 filters of the kernel",
    ),
    "kernel of other channels": (
        {"groups": 2},
        ValueError,
        r"x has 4 channels in 2 group\(s\), so the kernel needs 2 input channels, got .*3, 3, 4, 6",
    ),
    "no groups": ({"groups": 0}, ValueError, r"conv: groups must be at least 1, got 0"),
    "bias of another length": (
        {"bias": jnp.ones(5)},
        ValueError,
        r"conv: bias must have shape \(6,\), got \(5,\)",
    ),
    "bias of another rank": (
        {"bias": jnp.ones((1, 6))},
        ValueError,
        r"conv: bias must have shape \(6,\), got \(1, 6\)",
    ),
    "window too large": (
        {"dilation": 4},
        ValueError,
        r"conv: .*spanning 9 \(window 3, dilation 4\) is larger than the padded input of 8 \+ 0",
    ),
    "padding by an unknown name": (
        {"padding": "same"},
        ValueError,
        r"conv: padding: unknown name 'same'; use one of \('VALID', 'SAME', 'FULL'\)",
    ),
    "negative padding": (
        {"padding": -1},
        ValueError,
        r"conv: padding: padding must be at least 0, got -1",
    ),
    "negative padding of one side": (
        {"padding": ((0, 0), (0, -1))},
        ValueError,
        r"conv: padding: high must be at least 0, got -1",
    ),
    "padding for another rank": (
        {"padding": (1, 1, 1)},
        ValueError,
        r"conv: padding has 3 entries \(1, 1, 1\) for 2 spatial axes; give a name of",
    ),
    "padding of three sides": (
        {"padding": ((1, 1, 1), 0)},
        ValueError,
        r"conv: padding: one axis takes a \(low, high\) pair, got \(1, 1, 1\)",
    ),
    "fractional padding": ({"padding": 1.5}, TypeError, r"conv: padding"),
    "no padding given": ({"padding": None}, TypeError, r"conv: padding"),
    "bool stride": ({"stride": True}, TypeError, r"conv: stride must be an integer, got True"),
    "fractional stride": ({"stride": 0.5}, TypeError, r"conv: stride must be an integer, got 0.5"),
    "stride of zero": ({"stride": (1, 0)}, ValueError, r"conv: stride must be at least 1, got 0"),
    "stride for another rank": (
        {"stride": (1, 1, 1)},
        ValueError,
        r"conv: stride has 3 values \(1, 1, 1\) for 2 spatial axes; give one integer or 2 of them",
    ),
    "stride as an array": ({"stride": np.array([1, 2])}, TypeError, r"conv: stride"),
    "bool dilation": (
        {"dilation": (True, 1)},
        TypeError,
        r"conv: dilation must be an integer, got True",
    ),
    "dilation of zero": ({"dilation": 0}, ValueError, r"conv: dilation must be at least 1, got 0"),
    "bool groups": ({"groups": True}, TypeError, r"conv: groups must be an integer, got True"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "jit"])
def test_mistake_is_told_before_anything_runs(arguments, error, message, traced):
    arguments = {"x": _X, "kernel": _KERNEL} | arguments
    arrays = {name: arguments.pop(name) for name in ("x", "kernel", "bias") if name in arguments}
    function = functools.partial(conv, **arguments)
    with pytest.raises(error, match=message):
        jax.eval_shape(function, **arrays) if traced else function(**arrays)


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_statics_are_keyword_only(name):
    with pytest.raises(TypeError, match="positional"):
        conv(_X, _KERNEL, None, {name: 1}[name])
