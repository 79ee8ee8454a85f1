"""Locally connected layers: NumPy loops, conv with an unshared kernel, and the usual laws."""

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
    random,
    small_integers,
    spelled_out,
    unlike_cases,
)
from jax.test_util import check_grads

from cnnjax import geometry
from cnnjax.ops import conv, locally_connected, unshare


def draw_local(case, make=random):
    """x, a kernel a position, and a bias a position."""
    x, kernel, bias = draw_arrays(case, make)
    shape = jax.eval_shape(functools.partial(conv, **case[-1]), x, kernel, bias).shape
    outputs = shape[len(case[0]) : -1]
    return x, make(*outputs, *kernel.shape, seed=5), make(*outputs, shape[-1], seed=6)


def local_loops(x, kernels, bias, **statics):
    """Each position's output cut out of the convolution with that position's kernel."""
    rank = kernels.ndim // 2 - 1
    outputs = kernels.shape[:rank]
    out = None
    for position in np.ndindex(*outputs):
        whole = oracles.conv_loops(x, kernels[position], bias[position], **statics)
        out = np.zeros_like(whole) if out is None else out
        out[(..., *position, slice(None))] = whole[(..., *position, slice(None))]
    return out


# ---- oracles ----


@unlike_cases
def test_locally_connected_is_the_numpy_loops(case):
    x, kernels, bias = draw_local(case)
    with jax.enable_x64(True):
        out = compile_cheaply(functools.partial(locally_connected, **case[-1]))(x, kernels, bias)
    assert out.dtype == jnp.float64
    expected = local_loops(x, kernels, bias, **spelled_out(case))
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


@cases
def test_with_an_unshared_kernel_it_is_conv(case):
    arrays = draw_arrays(case, small_integers)
    outputs = geometry.output_shape(
        case[1],
        case[2],
        fit="floor",
        **{k: v for k, v in spelled_out(case).items() if k != "groups"},
    )

    @compile_cheaply
    def both(x, kernel, bias):
        kernels = unshare(kernel, outputs)
        return (
            conv(x, kernel, bias, **case[-1]),
            locally_connected(x, kernels, bias, **case[-1]),
            locally_connected(
                x, kernels, jnp.broadcast_to(bias, (*outputs, len(bias))), **case[-1]
            ),
        )

    shared, unshared, with_bias_a_position = both(*arrays)
    np.testing.assert_array_equal(unshared, shared)
    np.testing.assert_array_equal(with_bias_a_position, shared)


# ---- worked examples ----


def test_alexnet_conv1_without_sharing_has_105_705_600_parameters():
    # CS231n notes: 55*55*96 = 290,400 neurons of 364 weights each, against 34,944 shared.
    kernel = jax.ShapeDtypeStruct((11, 11, 3, 96), jnp.float32)
    kernels = jax.eval_shape(functools.partial(unshare, output_shape=(55, 55)), kernel)
    bias = jax.ShapeDtypeStruct((55, 55, 96), jnp.float32)
    assert kernels.shape == (55, 55, 11, 11, 3, 96)
    assert kernels.size + bias.size == 105_705_600
    x = jax.ShapeDtypeStruct((227, 227, 3), jnp.float32)
    out = jax.eval_shape(functools.partial(locally_connected, stride=4), x, kernels, bias)
    assert out.shape == (55, 55, 96)
    assert math.prod(out.shape) == 290_400


# ---- laws ----


@unlike_cases
def test_gradient_of_a_shared_kernel_is_the_sum_over_the_positions(case):
    x, kernel, _ = map(jnp.asarray, draw_arrays(case, small_integers))
    _, kernels, _ = draw_local(case)
    rank = len(case[2])
    function = functools.partial(locally_connected, x, **case[-1])

    @compile_cheaply
    def gradients(kernel):
        shared = jax.grad(lambda k: jnp.sum(conv(x, k, **case[-1]) ** 2))(kernel)
        copies = unshare(kernel, kernels.shape[:rank])
        return shared, jax.grad(lambda ks: jnp.sum(function(ks) ** 2))(copies)

    shared, unshared = gradients(kernel)
    np.testing.assert_array_equal(shared, jnp.sum(unshared, range(rank)))


def test_a_position_depends_on_its_own_kernel_alone():
    x, kernels, _ = draw_local(CASES["2d"], small_integers)
    other = kernels.copy()  # JAX may read an array after the call: never change it in place.
    other[1, 2] += 1
    out = locally_connected(x, kernels)
    changed = np.asarray(locally_connected(x, other) != out).any((0, 3))
    np.testing.assert_array_equal(np.argwhere(changed), [[1, 2]])


def test_derivatives_are_finite_differences_to_second_order_in_both_modes():
    statics = {"stride": (2, 1), "padding": ((1, 0), (0, 2)), "dilation": (1, 2), "groups": 2}
    case = ((1,), (4, 3), (2, 2), 2, 2, statics)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(array) for array in draw_local(case)]
        function = jax.jit(functools.partial(locally_connected, **case[-1]))
        check_grads(function, arrays, order=2, modes=("fwd", "rev"))


@unlike_cases
def test_jit_equals_eager_and_vmap_equals_one_after_another(case):
    x, kernels, bias = map(jnp.asarray, draw_local(case, small_integers))
    function = functools.partial(locally_connected, **case[-1])
    out = function(x, kernels, bias)
    np.testing.assert_array_equal(jax.jit(function)(x, kernels, bias), out)
    xs, stack = jnp.stack([x, 2 * x]), jnp.stack([kernels, -kernels])
    biases = jnp.stack([bias, bias])
    mapped = jax.jit(jax.vmap(function))(xs, stack, biases)
    np.testing.assert_array_equal(mapped[0], out)
    np.testing.assert_array_equal(mapped[1], function(xs[1], stack[1], bias))
    np.testing.assert_array_equal(
        jax.vmap(function, (0, None, None))(xs, kernels, bias), function(xs, kernels, bias)
    )


def test_equal_shapes_and_statics_compile_once():
    gradient = jax.grad(lambda x, k, **statics: jnp.sum(locally_connected(x, k, **statics)), (0, 1))
    x, kernels = jnp.ones((2, 7, 7, 2)), jnp.ones((4, 4, 3, 3, 2, 5))
    other_x, other_kernels = 3 * x, kernels - 1
    assert count_compilations(lambda: gradient(x, kernels, stride=2, padding=1))
    again = functools.partial(gradient, other_x, other_kernels)
    assert not count_compilations(lambda: again(stride=(2, 2), padding=[(1, 1), 1]))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_dtype_is_kept_and_rounding_is_that_of_the_dtype(dtype):
    case = CASES["2d_dilated"]
    arrays = [jnp.asarray(array, dtype) for array in draw_local(case)]
    function = jax.jit(functools.partial(locally_connected, **case[-1]))
    out = function(*arrays)
    assert out.dtype == dtype
    exact = function(*(a.astype(jnp.float32) for a in arrays))
    tolerance = 8 * float(jnp.finfo(dtype).eps) * float(jnp.max(jnp.abs(exact)))
    np.testing.assert_allclose(out.astype(jnp.float32), exact, rtol=0, atol=tolerance)


@pytest.mark.parametrize("batch", [(0,), (2, 0)])
def test_empty_batch_gives_an_empty_batch_and_zero_kernel_gradients(batch):
    x, kernels = jnp.zeros((*batch, 6, 6, 2)), jnp.ones((2, 2, 3, 3, 2, 4))
    assert locally_connected(x, kernels, stride=2).shape == (*batch, 2, 2, 4)
    gradient = jax.grad(lambda kernels: jnp.sum(locally_connected(x, kernels, stride=2)))(kernels)
    np.testing.assert_array_equal(gradient, jnp.zeros_like(kernels))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_reach_what_sees_them_as_in_numpy(value):
    case = CASES["2d_dilated"]
    x, kernels, bias = draw_local(case, small_integers)
    x[0, 3, 3, 0] = value
    kernels[:, :, 0, 0] = 0  # Zero times infinity is NaN.
    with np.errstate(invalid="ignore"):
        expected = local_loops(x, kernels, bias, **spelled_out(case))
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(locally_connected(x, kernels, bias, **case[-1]), expected)


def test_unshared_kernels_are_copies_of_the_kernel():
    kernel = small_integers(3, 2, 2, 4)
    kernels = unshare(kernel, (5, 6))
    assert kernels.shape == (5, 6, 3, 2, 2, 4)
    np.testing.assert_array_equal(kernels[4, 2], kernel)
    assert unshare(kernel, 5).shape == (5, 5, 3, 2, 2, 4)


# ---- mistakes ----

_X, _KERNELS = jnp.ones((2, 8, 8, 4)), jnp.ones((6, 6, 3, 3, 4, 6))
MISTAKES = {
    "a shared kernel": (
        {"kernels": jnp.ones((3, 3, 3, 4, 6))},
        ValueError,
        r"kernels must have shape \(\*output_spatial, \*window, channels // groups, num_filters\), "
        r".*got \(3, 3, 3, 4, 6\); unshare\(kernel, output_shape\) makes them",
    ),
    "no positions": (
        {"kernels": jnp.ones((4, 6))},
        ValueError,
        r"locally_connected: kernels must have shape",
    ),
    "kernels for other positions": (
        {"stride": 2},
        ValueError,
        r"locally_connected: the window has \(3, 3\) positions on \(8, 8\) pixels, so kernels "
        r"needs these sizes in front, got shape \(6, 6, 3, 3, 4, 6\)",
    ),
    "too few axes": (
        {"x": jnp.ones((8, 4))},
        ValueError,
        r"slides over 2 spatial axes, so x needs at least 3 axes .*got shape \(8, 4\)",
    ),
    "integer images": (
        {"x": jnp.ones((8, 8, 4), jnp.uint8)},
        TypeError,
        r"locally_connected: x has dtype uint8; cast to a floating dtype first",
    ),
    "kernels of another dtype": (
        {"kernels": _KERNELS.astype(jnp.bfloat16)},
        TypeError,
        r"locally_connected: x has dtype float32 and kernels bfloat16; cast one to the other",
    ),
    "groups that do not divide": (
        {"groups": 3},
        ValueError,
        r"locally_connected: groups=3 must divide the 4 channels of x and the 6 filters",
    ),
    "kernels of other channels": (
        {"groups": 2},
        ValueError,
        r"locally_connected: x has 4 channels in 2 group\(s\), so the kernel needs 2",
    ),
    "bias of other positions": (
        {"bias": jnp.ones((6, 5, 6))},
        ValueError,
        r"locally_connected: bias must have shape \(6,\) or \(6, 6, 6\), got \(6, 5, 6\)",
    ),
    "window too large": (
        {"dilation": 4},
        ValueError,
        r"locally_connected: .*spanning 9 \(window 3, dilation 4\) is larger",
    ),
    "stride of zero": ({"stride": 0}, ValueError, r"locally_connected: stride must be at least 1"),
}


@pytest.mark.parametrize(("arguments", "error", "message"), MISTAKES.values(), ids=MISTAKES)
@pytest.mark.parametrize("traced", [False, True], ids=["eager", "jit"])
def test_mistake_is_told_before_anything_runs(arguments, error, message, traced):
    arguments = {"x": _X, "kernels": _KERNELS} | arguments
    arrays = {name: arguments.pop(name) for name in ("x", "kernels", "bias") if name in arguments}
    function = functools.partial(locally_connected, **arguments)
    with pytest.raises(error, match=message):
        jax.eval_shape(function, **arrays) if traced else function(**arrays)


@pytest.mark.parametrize(
    ("kernel", "output_shape", "error", "message"),
    [
        (jnp.ones((4, 6)), 3, ValueError, r"unshare: kernel must have shape \(\*window"),
        (_KERNELS[0, 0], (3, 3, 3), ValueError, r"unshare: output_shape has 3 values"),
        (_KERNELS[0, 0], (3, 0), ValueError, r"unshare: output_shape must be at least 1, got 0"),
        (_KERNELS[0, 0], 2.5, TypeError, r"unshare: output_shape must be an integer, got 2.5"),
    ],
)
def test_mistake_in_unsharing_is_told(kernel, output_shape, error, message):
    with pytest.raises(error, match=message):
        unshare(kernel, output_shape)


def test_statics_are_keyword_only():
    with pytest.raises(TypeError, match="positional"):
        locally_connected(_X, _KERNELS, None, 1)
