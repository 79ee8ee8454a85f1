"""The kernel gradient of large convolutions on a CPU, by patches of a few images at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from convolutions import CASES, random, small_integers, spelled_out
from jax import lax
from jax.test_util import check_grads

from cnnjax.ops import _conv_forms, conv, conv_kernel_gradient

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="other devices use XLA's convolution"
)

_UNGROUPED = {
    name: case for name, case in CASES.items() if "groups" not in case[-1] and name != "2d_1x1"
}
cases = pytest.mark.parametrize("case", _UNGROUPED.values(), ids=_UNGROUPED)


@pytest.fixture
def for_all_sizes(monkeypatch):
    """Small convolutions go the way of large ones: one image a run, some and a rest, or all."""
    monkeypatch.setattr(_conv_forms, "_MANY_PRODUCTS", 0)
    monkeypatch.setattr(_conv_forms, "_PATCHES_AT_ONCE", 2**10)
    jax.clear_caches()
    yield
    jax.clear_caches()


def kernel_gradient(x, cotangent, case):
    return conv_kernel_gradient(x, cotangent, case[2], **spelled_out(case))


def several_images(case, make=random, count=7):
    """x of `count` images, a kernel, and a cotangent of the output."""
    _, spatial, window, channels, filters, statics = case
    x = make(count, *spatial, channels, seed=1)
    kernel = make(*window, channels, filters, seed=2)
    out = jax.eval_shape(functools.partial(conv, **statics), x, kernel)
    return x, kernel, make(*out.shape, seed=3)


def is_a_loop(function, *arrays):
    return "scan[" in str(jax.make_jaxpr(function)(*arrays))


@pytest.mark.usefixtures("for_all_sizes")
@cases
def test_kernel_gradient_is_that_of_the_numpy_loops(case):
    with jax.enable_x64(True):
        x, kernel, cotangent = map(jnp.asarray, several_images(case))
        gradient = functools.partial(kernel_gradient, case=case)
        assert is_a_loop(gradient, x, cotangent)
        ours = gradient(x, cotangent)
        _, pullback = jax.vjp(lambda kernel: conv(x, kernel, **case[-1]), kernel)
        by_autodiff = pullback(cotangent)[0]
    # The loops are linear in the kernel: entry by entry, their response to one.
    no_bias = np.zeros(kernel.shape[-1])
    expected = np.zeros(kernel.shape)
    for index in np.ndindex(kernel.shape):
        one = np.zeros(kernel.shape)
        one[index] = 1
        expected[index] = np.sum(
            oracles.conv_loops(np.asarray(x), one, no_bias, **spelled_out(case))
            * np.asarray(cotangent)
        )
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(by_autodiff, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("for_all_sizes")
def test_derivatives_are_finite_differences_to_second_order_in_both_modes():
    case = ((3,), (4, 3), (2, 2), 2, 2, {"stride": (2, 1), "padding": ((1, 0), (0, 2))})
    with jax.enable_x64(True):
        x, kernel, cotangent = map(jnp.asarray, several_images(case))
        check_grads(
            jax.jit(functools.partial(conv, **case[-1])), (x, kernel), order=2, modes=("fwd", "rev")
        )
        check_grads(
            jax.jit(functools.partial(kernel_gradient, case=case)),
            (x, cotangent),
            order=2,
            modes=("fwd", "rev"),
        )


@pytest.mark.usefixtures("for_all_sizes")
@pytest.mark.parametrize("argument", [0, 1], ids=["x", "cotangent"])
def test_linear_transpose_is_the_adjoint(argument):
    case = _UNGROUPED["2d_dilated"]
    x, _, cotangent = map(jnp.asarray, several_images(case, small_integers))
    operands = [x, cotangent]

    def function(operand):
        operands[argument] = operand
        return kernel_gradient(*operands, case)

    operand = operands[argument]
    out = function(operand)
    direction = jnp.asarray(small_integers(*out.shape, seed=5))
    (transposed,) = jax.linear_transpose(function, operand)(direction)
    assert jnp.sum(out * direction) == jnp.sum(operand * transposed)


@pytest.mark.usefixtures("for_all_sizes")
def test_vmap_equals_one_after_another_and_jit_equals_eager():
    case = _UNGROUPED["2d_same_stride_2"]
    x, _, cotangent = map(jnp.asarray, several_images(case, small_integers))
    gradient = functools.partial(kernel_gradient, case=case)
    xs, cotangents = jnp.stack([x, 2 * x]), jnp.stack([cotangent, cotangent - 1])
    mapped = jax.jit(jax.vmap(gradient))(xs, cotangents)
    for one, a, b in zip(mapped, xs, cotangents, strict=True):
        np.testing.assert_array_equal(one, gradient(a, b))


@pytest.mark.usefixtures("for_all_sizes")
def test_sums_of_low_precision_are_made_in_float32(monkeypatch):
    # One image at a time: in bfloat16 their fours would add up to 1,024.
    monkeypatch.setattr(_conv_forms, "_PATCHES_AT_ONCE", 1)
    ones = jnp.ones((600, 2, 2, 1), jnp.bfloat16)
    gradient = conv_kernel_gradient(ones, ones, (1, 2), padding=((0, 0), (0, 1)))
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(gradient.ravel(), [2400, 1200])


@pytest.mark.usefixtures("for_all_sizes")
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_no_dtype_is_promoted_in_silence(dtype):
    case = _UNGROUPED["2d_dilated"]
    x, kernel, cotangent = (jnp.asarray(array, dtype) for array in several_images(case))
    with jax.numpy_dtype_promotion("strict"):
        assert kernel_gradient(x, cotangent, case).dtype == dtype
        _, pullback = jax.vjp(functools.partial(conv, **case[-1]), x, kernel)
        assert {array.dtype for array in pullback(cotangent)} == {jnp.dtype(dtype)}


LARGE = (64, 16, 16, 32)


def gradient_of_large(x, kernel):
    return jax.grad(lambda kernel: jnp.sum(conv(x, kernel, padding="SAME") ** 2))(kernel)


def test_large_ones_go_by_patches_and_small_ones_do_not():
    kernel = jnp.zeros((3, 3, 32, 64))
    assert is_a_loop(gradient_of_large, jnp.zeros(LARGE), kernel)
    assert not is_a_loop(gradient_of_large, jnp.zeros((8, *LARGE[1:])), kernel)
    grouped = functools.partial(conv_kernel_gradient, window=3, padding=1, groups=2)
    assert not is_a_loop(grouped, jnp.zeros(LARGE), jnp.zeros((*LARGE[:-1], 256)))
    # Patches of one image that fill a hundred megabytes.
    wide = jnp.zeros((1, 224, 224, 64))
    assert not is_a_loop(functools.partial(conv_kernel_gradient, window=3, padding=1), wide, wide)


def test_large_gradient_is_plain_xlas():
    x, cotangent = small_integers(*LARGE, seed=1), small_integers(*LARGE[:-1], 64, seed=2)

    def plain(kernel):
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    _, pullback = jax.vjp(plain, jnp.zeros((3, 3, 32, 64)))
    ours = conv_kernel_gradient(x, cotangent, 3, padding=1)
    np.testing.assert_array_equal(ours, pullback(jnp.asarray(cotangent))[0])


@pytest.mark.parametrize("transform", [jax.jit, lambda function: function], ids=["jit", "eager"])
def test_no_program_holds_the_patches_of_all_images(transform):
    x, kernel = jnp.zeros(LARGE), jnp.zeros((3, 3, 32, 64))
    patches = 9 * x.size
    jaxpr = jax.make_jaxpr(transform(gradient_of_large))(x, kernel)
    assert max(_sizes(jaxpr.jaxpr)) < patches / 2


def _sizes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (getattr(out.aval, "size", 0) for out in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _sizes(inner)
