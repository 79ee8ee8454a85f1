"""Predicted memory against programs solved by hand, against laws, and against XLA itself."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from cnnjax.analysis.memory import (
    LiveBuffer,
    Memory,
    compiled_flops,
    compiled_memory,
    largest_batch,
    predict_memory,
    predict_training_memory,
)
from cnnjax.models import Conv, StackNet
from cnnjax.ops import avg_pool, conv_transpose, max_pool

KIB = 1024
on_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="the rules of fusion are those of XLA's CPU backend"
)


def struct(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


# A square matrix of 64 KiB, whose products are kernels of their own that fuse with nothing.
MATRIX = struct(128, 128)
BYTES = 64 * KIB


def largest(x):
    """An end of a program that takes next to nothing and is computed together with nothing."""
    return jnp.argmax(x, axis=0)


# ---- programs solved by hand ----


def test_arguments_and_outputs_are_counted_by_their_dtypes():
    def function(a, b):
        return a.astype(jnp.float16), b[0]

    memory = predict_memory(function, struct(100), struct(7, 3, dtype=jnp.int8))
    assert memory.argument_bytes == 400 + 21
    assert memory.output_bytes == 200 + 3
    assert memory.peak_bytes == 624 + memory.temporary_bytes


def test_elementwise_chain_takes_no_temporary():
    memory = predict_memory(lambda x: jnp.tanh(x) * 2 + x, MATRIX)
    assert memory.temporary_bytes == 0
    assert memory.live_at_peak == ()


@on_cpu
@pytest.mark.parametrize(("products", "matrices"), [(1, 1), (2, 2), (3, 2), (9, 2)])
def test_chain_of_products_holds_two_matrices_at_a_time(products, matrices):
    def function(x):
        for _ in range(products):
            x = x @ x
        return largest(x)

    # What is read and what is written, at every step; the argument is none of them.
    assert predict_memory(function, MATRIX).temporary_bytes == matrices * BYTES
    assert compiled_memory(function, MATRIX).temporary_bytes == pytest.approx(
        matrices * BYTES, abs=KIB
    )


@on_cpu
def test_diamond_holds_its_source_and_both_sides():
    def function(x):
        source = x @ x
        left, right = source @ x, x @ source
        return largest(left @ right)

    # The source and one side while the other is written; then both sides and their product.
    assert predict_memory(function, MATRIX).temporary_bytes == 3 * BYTES


@on_cpu
def test_value_kept_for_the_backward_pass_lives_until_it_is_read_there():
    def chain(x, depth):
        for _ in range(depth):
            x = x @ x
        return x

    def forward(x, depth):
        return largest(chain(x, depth))

    def backward(x, depth):
        out, transpose = jax.vjp(functools.partial(chain, depth=depth), x)
        return largest(transpose(out)[0])

    # Forward two at a time, however long; the gradient reads every product again.
    short, long = (predict_memory(forward, MATRIX, depth=n).temporary_bytes for n in (4, 8))
    assert short == long == 2 * BYTES
    short, long = (predict_memory(backward, MATRIX, depth=n).temporary_bytes for n in (4, 8))
    assert long - short == 4 * BYTES


@on_cpu
def test_live_buffers_name_their_scope_and_explain_the_peak():
    def function(x):
        with jax.named_scope("encoder"):
            first = x @ x
        return largest(first @ x)

    memory = predict_memory(function, MATRIX)
    assert memory.temporary_bytes == 2 * BYTES
    assert memory.live_at_peak[0] == LiveBuffer(
        scope="encoder", operation="dot_general", shape=(128, 128), dtype="float32", bytes=BYTES
    )
    assert sum(buffer.bytes for buffer in memory.live_at_peak) == memory.temporary_bytes


@on_cpu
def test_loop_takes_room_for_one_iteration():
    def function(x, length):
        return lax.scan(lambda x, _: (jnp.tanh(x @ x) @ x, None), x, length=length)[0]

    one, many = (predict_memory(function, MATRIX, length=n).temporary_bytes for n in (2, 200))
    assert one == many > 0


@on_cpu
def test_conditional_takes_room_for_its_larger_branch():
    def branches(small, large):
        return lambda x: lax.cond(x[0, 0] > 0, small, large, x)

    def one(x):
        return largest(x @ x)

    def three(x):
        return largest((x @ x) @ (x @ x @ x))

    def temporaries(function):
        return predict_memory(function, MATRIX).temporary_bytes

    assert temporaries(branches(one, three)) == temporaries(branches(three, three))
    assert temporaries(branches(one, one)) < temporaries(branches(one, three))


# ---- laws ----

FUNCTIONS = {
    "products": lambda x: jnp.sum(x @ x.T @ x),
    "softmax": lambda x: jax.nn.softmax(x @ x.T),
    "gradient": jax.grad(lambda x: jnp.sum(jnp.tanh(x @ x.T) ** 2)),
    "sorted": lambda x: jnp.sort(x, axis=0)[::2],
    "scan": lambda x: lax.scan(lambda h, row: (jnp.tanh(h + row), h * 2), x[0], x)[1],
    "random": lambda x: jnp.where(jax.random.bernoulli(jax.random.key(0), 0.5, x.shape), x, 0.0),
    "remat": jax.grad(lambda x: jnp.sum(jax.checkpoint(lambda x: jnp.sin(x @ x.T))(x))),
    "pooling": lambda x: max_pool(x[None, ..., None], window=2),
    "ours": lambda x: jax.grad(lambda x: jnp.sum(avg_pool(x, window=2) ** 2))(x[..., None]),
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


@each_function
def test_prediction_is_the_same_for_arrays_and_for_their_shapes(function):
    x = jnp.ones((16, 24))
    assert predict_memory(function, x) == predict_memory(function, struct(16, 24))


@each_function
def test_peak_is_at_least_arguments_and_outputs(function):
    memory = predict_memory(function, struct(16, 24))
    out = jax.eval_shape(function, struct(16, 24))
    outputs = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(out))
    assert memory.peak_bytes >= 16 * 24 * 4 + outputs
    assert memory.output_bytes == outputs


@each_function
def test_dead_computation_changes_nothing(function):
    def with_dead_code(x):
        jnp.sum(jnp.linalg.matrix_power(x @ x.T, 3))
        return function(x)

    assert predict_memory(with_dead_code, struct(16, 24)) == predict_memory(
        function, struct(16, 24)
    )


@each_function
def test_twice_the_batch_takes_no_less(function):
    assert (
        predict_memory(function, struct(64, 24)).peak_bytes
        >= predict_memory(function, struct(32, 24)).peak_bytes
    )


def test_repeated_computation_is_kept_once():
    def once(x):
        y = x @ x
        return largest(y @ y)

    def twice(x):
        return largest((x @ x) @ (x @ x))

    assert predict_memory(twice, MATRIX) == predict_memory(once, MATRIX)


def test_nothing_is_allocated():
    # 100 TB of parameters, and as much again in gradients.
    width = 5_000_000

    def apply(params, x):
        return x @ params

    memory = predict_training_memory(apply, struct(width, width), struct(2, width))
    assert memory.argument_bytes == 4 * (width**2 + 2 * width) + 2 * 4
    assert memory.output_bytes == 4 * width**2 + 4
    assert memory.temporary_bytes < memory.argument_bytes // 1000


# ---- against XLA ----


class FlaxVgg(nn.Module):
    """Plain Flax: convolutions, ReLU, maximum pooling, dense layers."""

    @nn.compact
    def __call__(self, x):
        for width in (32, 64):
            for _ in range(2):
                x = nn.relu(nn.Conv(width, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x.reshape(x.shape[0], -1))))


class LeNet5(nn.Module):
    """Averages and tanh."""

    @nn.compact
    def __call__(self, x):
        x = avg_pool(nn.tanh(Conv(6, (5, 5))(x)), window=2)
        x = avg_pool(nn.tanh(Conv(16, (5, 5))(x)), window=2)
        x = nn.tanh(nn.Dense(120)(x.reshape(x.shape[0], -1)))
        return nn.Dense(10)(nn.tanh(nn.Dense(84)(x)))


class ResNet8(nn.Module):
    """Residual blocks with batch normalisation in training mode."""

    dtype: object = None

    @nn.compact
    def __call__(self, x, train=True):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, dtype=self.dtype)
        conv = functools.partial(nn.Conv, use_bias=False, dtype=self.dtype)
        x = nn.relu(norm()(conv(16, (3, 3))(x)))
        for width, stride in ((16, 1), (32, 2), (64, 2)):
            y = nn.relu(norm()(conv(width, (3, 3), (stride, stride), padding=1)(x)))
            y = norm()(conv(width, (3, 3))(y))
            if stride == 2:
                x = norm()(conv(width, (1, 1), (2, 2))(x))
            x = nn.relu(x + y)
        return nn.Dense(10)(jnp.mean(x, (1, 2)))


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions, which are sums and matrix products here."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(Conv(32, (3, 3), stride=2, padding=1)(x))
        for width in (64, 64):
            x = nn.relu(Conv(x.shape[-1], (3, 3), padding=1, groups=x.shape[-1])(x))
            x = nn.relu(Conv(width, (1, 1))(x))
        return nn.Dense(10)(jnp.mean(x, (1, 2)))


class UNet(nn.Module):
    """Skips that are concatenated, and transposed convolutions."""

    @nn.compact
    def __call__(self, x):
        skip = x = nn.relu(Conv(16, (3, 3), padding=1)(x))
        x = nn.relu(Conv(32, (3, 3), padding=1)(max_pool(x, window=2)))
        kernel = self.param("up", nn.initializers.he_normal(), (2, 2, 16, 32))
        x = jnp.concatenate([skip, conv_transpose(x, kernel, stride=2)], axis=-1)
        return nn.Dense(4)(nn.relu(Conv(16, (3, 3), padding=1)(x)))


NETWORKS = {
    "LeNet-5": (LeNet5(), (32, 32, 1), {}),
    "StackNet": (StackNet(10, 16, windows=(3, 3, 3), widths=(16, 16, 16)), (28, 28, 1), {}),
    "VGG of Flax": (FlaxVgg(), (24, 24, 3), {}),
    "ResNet": (ResNet8(), (32, 32, 3), {"train": True}),
    "ResNet in bfloat16": (ResNet8(dtype=jnp.bfloat16), (32, 32, 3), {"train": True}),
    "depthwise": (Depthwise(), (32, 32, 3), {}),
    "U-Net": (UNet(), (32, 32, 1), {}),
}


def gradient_step(network, shape, batch, **kwargs):
    """A gradient step that shares nothing with the library's own, and what it is called with."""
    x = struct(batch, *shape)
    variables = jax.eval_shape(
        lambda key, x: network.init(key, x, **kwargs), jax.eval_shape(lambda: jax.random.key(0)), x
    )
    params = variables["params"]
    state = {name: value for name, value in variables.items() if name != "params"}

    def loss(params, state, x, targets):
        scores, updated = network.apply(
            {"params": params, **state}, x, mutable=list(state), **kwargs
        )
        return jnp.mean((scores.astype(jnp.float32) - targets) ** 2), updated

    scores = jax.eval_shape(
        lambda p, s, x: network.apply({"params": p, **s}, x, mutable=list(s), **kwargs)[0],
        *(params, state, x),
    )
    step = jax.value_and_grad(loss, has_aux=True)
    return step, (params, state, x, struct(*scores.shape))


@on_cpu
@pytest.mark.parametrize("batch", [4, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_training_memory_is_xlas_within_15_percent(name, batch):
    network, shape, kwargs = NETWORKS[name]
    step, args = gradient_step(network, shape, batch, **kwargs)
    predicted, stated = predict_memory(step, *args), compiled_memory(step, *args)
    assert predicted.argument_bytes == stated.argument_bytes
    # XLA's output has a table of pointers besides.
    assert 0 <= stated.output_bytes - predicted.output_bytes <= 16 * 64
    assert predicted.temporary_bytes == pytest.approx(stated.temporary_bytes, rel=0.15)
    assert predicted.peak_bytes == pytest.approx(stated.peak_bytes, rel=0.15)


@on_cpu
@pytest.mark.parametrize("name", ["LeNet-5", "StackNet", "U-Net", "depthwise"])
def test_inference_memory_is_xlas_within_15_percent(name):
    network, shape, _ = NETWORKS[name]
    _, (params, _, x, _) = gradient_step(network, shape, 8)

    def forward(params, x):
        return network.apply({"params": params}, x)

    predicted, stated = predict_memory(forward, params, x), compiled_memory(forward, params, x)
    assert predicted.temporary_bytes == pytest.approx(stated.temporary_bytes, rel=0.15)


# ---- training ----


def test_training_takes_labels_and_gives_loss_and_gradients():
    params = {"weights": struct(20, 5), "bias": struct(1, 5, dtype=jnp.bfloat16)}

    def apply(params, x):
        return x @ params["weights"] + params["bias"].astype(jnp.float32)

    memory = predict_training_memory(apply, params, struct(8, 20))
    assert memory.argument_bytes == 4 * 100 + 2 * 5 + 4 * 160 + 4 * 8
    assert memory.output_bytes == 4 + 4 * 100 + 2 * 5


def test_training_hands_the_state_on_and_does_not_differentiate_it():
    def apply(params, state, x):
        mean = jnp.mean(x, axis=0, keepdims=True)
        return (x - mean) @ params, {"mean": 0.9 * state["mean"] + 0.1 * mean}

    state = {"mean": struct(1, 20)}
    memory = predict_training_memory(apply, struct(20, 5), struct(8, 20), state=state)
    assert memory.argument_bytes == 4 * (100 + 160 + 20) + 4 * 8
    assert memory.output_bytes == 4 + 4 * 100 + 4 * 20


# ---- XLA's own figures ----


def test_flops_of_a_product_are_two_an_element_and_term():
    assert compiled_flops(jnp.matmul, struct(24, 40), struct(40, 56)) == 2 * 24 * 40 * 56


def test_compiled_memory_counts_unused_arguments():
    memory = compiled_memory(lambda x, unused: x * 2, struct(16), struct(1000))
    assert memory == Memory(argument_bytes=4064, output_bytes=64, temporary_bytes=0)


# ---- the largest batch ----


@settings(deadline=None, max_examples=60)
@given(
    fixed=st.integers(0, 10**6),
    each=st.integers(1, 5000),
    wobble=st.integers(0, 40),
    limit=st.integers(0, 10**7),
)
def test_largest_batch_is_brute_forces(fixed, each, wobble, limit):
    calls = []

    def predict(batch):
        calls.append(batch)
        # Memory grows in steps, which are not quite a line.
        return fixed + each * batch + wobble * (batch // 7)

    found = largest_batch(predict, limit)
    batches = np.arange(1, limit // each + 2)
    fitting = fixed + each * batches + wobble * (batches // 7) <= limit
    assert found == int(fitting.sum())
    assert found + 1 in calls
    assert found == 0 or found in calls
    assert len(calls) <= 60


def test_largest_batch_of_a_network_fits_and_the_next_does_not():
    def predict(batch):
        function = jax.grad(lambda w, x: jnp.sum(jnp.tanh(x @ w) @ w))
        return predict_memory(function, struct(64, 64), struct(batch, 64)).peak_bytes

    limit = 10**6
    batch = largest_batch(predict, limit)
    assert predict(batch) <= limit < predict(batch + 1)


# ---- errors ----


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: predict_memory(3, struct(2)), TypeError, "predict_memory: expected a function"),
        (lambda: predict_memory(jnp.sin, "x"), TypeError, "got 'x'; bind what is no array"),
        (lambda: compiled_memory(jnp.sin, object), TypeError, "compiled_memory: arguments must"),
        (lambda: compiled_flops(None, struct(2)), TypeError, "compiled_flops: expected a function"),
        (
            lambda: predict_training_memory(lambda p, x: {"a": x > 0}, struct(2), struct(2)),
            TypeError,
            "apply must return floating scores",
        ),
        (
            lambda: predict_training_memory(lambda p, s, x: x, struct(2), struct(2), state={}),
            TypeError,
            r"the pair \(scores, state\)",
        ),
        (lambda: largest_batch(5, 5), TypeError, "predict must be a function"),
        (lambda: largest_batch(lambda b: b, 1.5), TypeError, r"write 24 \* 10\*\*9 for 24 GB"),
        (lambda: largest_batch(lambda b: b, True), TypeError, "must be an integer"),
        (lambda: largest_batch(lambda b: b, -1), ValueError, "must be at least 0, got -1"),
        (lambda: largest_batch(lambda b: 7, 9), ValueError, "memory must grow with the batch"),
    ],
)
def test_mistakes_are_told_with_what_to_write_instead(call, error, text):
    with pytest.raises(error, match=text):
        call()
