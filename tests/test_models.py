"""Names, receptive fields and numbers of the models, against golden files and PyTorch."""

import json
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax.traverse_util import flatten_dict

from cnnjax import receptive_field
from cnnjax.analysis import account
from cnnjax.models import Conv, StackNet
from cnnjax.models.stack import Stack

GOLDEN = Path(__file__).parent / "golden"

# All three see 7x7 of their input.
SEE_7X7 = pytest.mark.parametrize("windows", [(7,), (5, 3), (3, 3, 3)], ids=str)


def parameter_shapes(module, input_shape):
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, *input_shape)))
    flat = flatten_dict(variables["params"], sep="/")
    return {name: list(leaf.shape) for name, leaf in flat.items()}


def randomized(module, x, dtype=jnp.float32):
    """Parameters drawn from NumPy, biases too, so that none is zero by initialisation."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(
            rng.standard_normal(leaf.shape) / math.sqrt(max(math.prod(leaf.shape[:-1]), 1)), dtype
        ),
        shapes,
    )


# ---- names ----


@pytest.mark.parametrize(
    ("golden", "net"),
    [
        ("stack_net_7.json", StackNet(10, 16, windows=(7,), widths=(16,))),
        ("stack_net_5_3.json", StackNet(10, 16, windows=(5, 3), widths=(16, 16))),
        ("stack_net_3_3_3.json", StackNet(10, 16, windows=(3, 3, 3), widths=(16, 16, 16))),
    ],
)
def test_parameter_names_and_shapes_are_those_of_the_golden_file(golden, net):
    # Names are public API: changing this file breaks everybody's checkpoints.
    expected = json.loads((GOLDEN / golden).read_text(encoding="utf-8"))
    assert parameter_shapes(net, (28, 28, 1)) == expected


def test_nonlinearity_and_dtype_change_no_name_and_no_shape():
    def shapes(**options):
        return parameter_shapes(StackNet(10, 4, (3, 3), (4, 6), **options), (8, 8, 3))

    assert shapes() == shapes(nonlinear=False) == shapes(dtype=jnp.bfloat16)


def test_conv_without_bias_has_a_kernel_alone():
    assert parameter_shapes(Conv(6, (3, 2), groups=2, use_bias=False), (5, 5, 4)) == {
        "kernel": [3, 2, 2, 6]
    }


@pytest.mark.parametrize("channels", [3, 8])
def test_three_3x3_layers_hold_27_c_squared_weights_and_one_7x7_49(channels):
    # CS231n notes: C channels throughout and no bias.
    def weights(windows):
        shapes = parameter_shapes(Stack(windows, (channels,) * len(windows)), (9, 9, channels))
        return sum(math.prod(shape) for name, shape in shapes.items() if name.endswith("kernel"))

    assert weights((3, 3, 3)) == 27 * channels**2
    assert weights((7,)) == 49 * channels**2


# ---- what a stack sees ----


def gradient_support(stack, size, position):
    """Rows and columns of the input that one output position depends on.

    Kernels and input are positive, so that every ReLU passes and nothing cancels.
    """
    x = jnp.ones((1, size, size, 2))
    shapes = jax.eval_shape(stack.init, jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1), shapes)
    gradient = jax.grad(lambda x: jnp.sum(stack.apply(variables, x)[0, *position]))(x)
    seen = np.asarray(jnp.sum(gradient[0], axis=-1)) > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert seen[np.ix_(rows, columns)].all()
    return rows, columns


@SEE_7X7
@pytest.mark.parametrize("nonlinear", [True, False])
def test_measured_receptive_field_is_7x7_and_the_closed_form(windows, nonlinear):
    stack = Stack(windows, (3,) * len(windows), nonlinear)
    field = receptive_field.compose(
        receptive_field.Layer(window, padding=(window - 1) // 2) for window in windows
    )
    position = (5, 6)
    for seen, at in zip(gradient_support(stack, 13, position), position, strict=True):
        first, last = field.interval(at)
        np.testing.assert_array_equal(seen, np.arange(first, last + 1))
        assert len(seen) == field.size == 7


@SEE_7X7
def test_stack_keeps_the_size_and_takes_the_last_width(windows):
    widths = (*(5,) * (len(windows) - 1), 4)
    out, _ = jax.eval_shape(
        Stack(windows, widths).init_with_output, jax.random.key(0), jnp.zeros((2, 6, 9, 3))
    )
    assert out.shape == (2, 6, 9, 4)


# ---- linear and not ----


def before_the_last_relu(stack, variables):
    """relu(a) - relu(-a) = a. With zero biases a stack without ReLUs between has S(-x) =
    relu(-a), so that this difference is what its last ReLU received.
    """
    return lambda x: stack.apply(variables, x) - stack.apply(variables, -x)


def without_biases(variables):
    return jax.tree.map_with_path(
        lambda path, leaf: jnp.zeros_like(leaf) if "bias" in jax.tree_util.keystr(path) else leaf,
        variables,
    )


@pytest.mark.parametrize("nonlinear", [False, True])
def test_stack_is_linear_before_its_last_relu_only_without_relus_between(nonlinear):
    stack = Stack((3, 3, 3), (4, 4, 4), nonlinear)
    x, y = (
        jnp.asarray(np.random.default_rng(seed).standard_normal((1, 6, 6, 2)), jnp.float32)
        for seed in (1, 2)
    )
    function = before_the_last_relu(stack, without_biases(randomized(stack, x)))
    additive = np.allclose(function(x + 2 * y), function(x) + 2 * function(y), atol=1e-5)
    assert additive == (not nonlinear)


def test_linear_stack_of_3x3_layers_is_one_7x7_convolution():
    # Without ReLUs between, depth changes the parameters and not what can be expressed.
    stack, x = Stack((3, 3, 3), (4, 4, 1), nonlinear=False), jnp.zeros((1, 13, 13, 1))
    function = before_the_last_relu(stack, without_biases(randomized(stack, x)))
    response = function(x.at[0, 6, 6, 0].set(1.0))[0, 3:10, 3:10, 0]
    kernel = response[::-1, ::-1, None, None]
    image = jnp.asarray(np.random.default_rng(3).standard_normal((1, 13, 13, 1)), jnp.float32)
    whole = Conv(1, (7, 7), use_bias=False).apply({"params": {"kernel": kernel}}, image)
    # Away from the border, where each of the three layers pads its own zeros.
    np.testing.assert_allclose(function(image)[:, 3:-3, 3:-3], whole, rtol=0, atol=1e-5)


# ---- numbers ----


def pytorch_logits(torch, params, x, nonlinear):
    functional = torch.nn.functional

    def layer(x, name):
        kernel, bias = (np.array(params[f"{name}/{part}"]) for part in ("kernel", "bias"))
        return functional.conv2d(
            x,
            torch.tensor(oracles.torch_kernel(kernel)),
            torch.tensor(bias),
            padding=(kernel.shape[0] - 1) // 2,
        )

    x = torch.tensor(oracles.channels_first(np.array(x)))
    x = functional.max_pool2d(torch.relu(layer(x, "stem")), 2)
    depth = sum(name.startswith("stack/") for name in params) // 2
    for i in range(depth):
        x = layer(x, f"stack/conv{i}")
        if nonlinear or i == depth - 1:
            x = torch.relu(x)
    x = functional.max_pool2d(x, 2).movedim(1, -1).flatten(1)
    head = (
        torch.tensor(np.array(params["head/kernel"])),
        torch.tensor(np.array(params["head/bias"])),
    )
    return (x @ head[0] + head[1]).numpy()


@pytest.mark.parametrize(("dtype", "atol"), [(np.float32, 1e-5), (np.float64, 1e-10)])
@pytest.mark.parametrize(
    ("windows", "nonlinear"), [((7,), True), ((5, 3), True), ((3, 3, 3), False)], ids=str
)
def test_logits_are_those_of_the_same_network_in_pytorch(torch, windows, nonlinear, dtype, atol):
    net = StackNet(10, 4, windows, (5,) * len(windows), nonlinear)
    images = np.random.default_rng(1).standard_normal((3, 12, 14, 2)).astype(dtype)
    with jax.enable_x64(dtype == np.float64):
        x = jnp.asarray(images)
        variables = randomized(net, x, dtype)
        logits = net.apply(variables, x)
        assert logits.dtype == dtype
        params = flatten_dict(variables["params"], sep="/")
        expected = pytorch_logits(torch, params, x, nonlinear)
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(logits, expected, rtol=0, atol=atol)


def test_one_gradient_step_changes_every_parameter():
    net = StackNet(10, 8, windows=(5, 3), widths=(8, 8))
    x = jnp.asarray(np.random.default_rng(2).uniform(size=(8, 8, 8, 1)), jnp.float32)
    labels = jnp.arange(8)
    variables = jax.jit(net.init)(jax.random.key(0), x)

    def loss(variables):
        log_probabilities = jax.nn.log_softmax(net.apply(variables, x, train=True))
        return -jnp.mean(jnp.sum(log_probabilities * jax.nn.one_hot(labels, 10), axis=-1))

    loss_and_gradient = jax.jit(jax.value_and_grad(loss))
    before, gradient = loss_and_gradient(variables)
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, variables, gradient)
    unchanged = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(variables), jax.tree.leaves(stepped), strict=True
        )
        if not jnp.any(old != new)
    ]
    assert not unchanged
    assert loss_and_gradient(stepped)[0] < before


def test_training_and_evaluation_agree():
    net, x = StackNet(10, 4, (3,), (4,)), jnp.ones((1, 8, 8, 1))
    variables = randomized(net, x)
    np.testing.assert_array_equal(
        net.apply(variables, x, train=True), net.apply(variables, x, train=False)
    )


def test_bfloat16_computes_in_bfloat16_keeps_float32_parameters_and_float32_scores():
    net, x = StackNet(10, 4, (3,), (4,), dtype=jnp.bfloat16), jnp.ones((1, 8, 8, 1))
    scores, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert scores.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(jnp.float32)}
    variables = randomized(net, x)
    _, state = net.apply(variables, x, capture_intermediates=True)
    stem = state["intermediates"]["stem"]["__call__"][0]
    assert stem.dtype == jnp.bfloat16


def test_conv_module_is_the_account_of_its_function():
    (row,) = account(Conv(6, (3, 3), stride=2, padding="SAME", groups=2), (8, 8, 4)).rows
    assert row.output_shape == (4, 4, 6)
    assert row.macs == 4 * 4 * 6 * 9 * 2


def test_seeds_of_a_stack_are_mapped_by_vmap():
    stack, x = Stack((3,), (4,)), jnp.ones((2, 5, 5, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    variables = jax.vmap(stack.init, (0, None))(keys, x)
    outs = jax.vmap(stack.apply, (0, None))(variables, x)
    for i, key in enumerate(keys):
        alone = stack.init(key, x)
        for mapped, leaf in zip(jax.tree.leaves(variables), jax.tree.leaves(alone), strict=True):
            np.testing.assert_array_equal(mapped[i], leaf)
        np.testing.assert_allclose(outs[i], stack.apply(alone, x), rtol=1e-5, atol=1e-6)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("windows", "widths", "message"),
    [
        ((3, 3), (4,), r"windows \(3, 3\) and widths \(4,\) need one value for each layer"),
        ((), (), r"Stack: .* at least one layer"),
        ((3, 4), (4, 4), r"Stack: windows must be odd, .*got \(3, 4\)"),
    ],
)
@pytest.mark.parametrize(
    "make", [Stack, lambda *arguments: StackNet(10, 4, *arguments)], ids=["Stack", "StackNet"]
)
def test_impossible_stack_is_refused(make, windows, widths, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(make(windows, widths).init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)))


def test_integer_images_are_refused():
    net = StackNet(10, 4, (3,), (4,))
    with pytest.raises(TypeError, match="conv: x has dtype uint8; cast to a floating dtype first"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1), jnp.uint8))


def test_module_of_ours_is_a_linen_module():
    assert issubclass(Conv, nn.Module)
    assert issubclass(StackNet, nn.Module)


def test_layers_of_one_name_and_shape_start_equal_whatever_stands_between():
    images = jnp.zeros((1, 8, 8, 1))
    one, three = (
        StackNet(3, 4, windows, (4,) * len(windows)).init(jax.random.key(5), images)["params"]
        for windows in ((7,), (3, 3, 3))
    )
    for layer in ("stem", "head"):
        np.testing.assert_array_equal(one[layer]["kernel"], three[layer]["kernel"])
