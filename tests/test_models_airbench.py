"""The network of airbench94 against PyTorch's layers, its first weights, and what stays."""

import importlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnnjax import analysis, ops
from cnnjax.models import AirbenchNet
from cnnjax.models.airbench import identity_init

WIDTHS = (5, 7, 6)
KERNEL = np.random.default_rng(0).standard_normal((2, 2, 3, 24)).astype(np.float32)
WHITENING = nn.initializers.constant(KERNEL)


def image_batch(size=18, num=4):
    return jnp.asarray(
        np.random.default_rng(size).standard_normal((num, size, size, 3)), jnp.float32
    )


def network(**options):
    return AirbenchNet(10, **{"widths": WIDTHS, "whitening": WHITENING} | options)


def drawn(net, size=18):
    """Variables of which none is at its start."""
    variables = net.init(jax.random.key(0), image_batch(size))
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        # Kernels of the constants stay, and variances are positive.
        if path[0].key == "constants":
            return leaf
        values = 0.3 * rng.standard_normal(leaf.shape)
        return jnp.asarray(np.exp(values) if path[-1].key == "var" else values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, variables)


def in_torch(variables, x, train):
    """Scores by PyTorch's own layers, and the running averages after a step."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle; install .[torch]")
    functional = importlib.import_module("torch.nn.functional")

    def tensor(value):
        return torch.tensor(np.asarray(value))

    def conv(x, kernel, bias=None, padding=0):
        kernel = tensor(kernel).permute(3, 2, 0, 1)
        return functional.conv2d(x, kernel, None if bias is None else tensor(bias), padding=padding)

    params, stats = variables["params"], variables["batch_stats"]
    kernel = variables.get("constants", params)["whiten"]["kernel"]
    x = tensor(x).permute(0, 3, 1, 2)
    x = functional.gelu(conv(x, kernel, params["whiten"]["bias"]))
    moved = {}
    for group in (f"group{i}" for i in range(len(WIDTHS))):
        for i in (0, 1):
            x = conv(x, params[group][f"conv{i}"]["kernel"], padding=1)
            if i == 0:
                x = functional.max_pool2d(x, 2)
            mean, var = (tensor(stats[group][f"bn{i}"][name]) for name in ("mean", "var"))
            bias = tensor(params[group][f"bn{i}"]["bias"])
            # PyTorch's momentum is the share of the new.
            x = functional.batch_norm(x, mean, var, None, bias, training=train, momentum=0.4)
            moved[group, i] = mean.numpy(), var.numpy()
            x = functional.gelu(x)
    x = x.amax(dim=(2, 3))
    return (x @ tensor(params["head"]["kernel"]) / 9).numpy(), moved


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("size", "whitening"), [(18, WHITENING), (21, None)])
def test_scores_and_running_averages_are_pytorchs(size, whitening, train):
    net = network(whitening=whitening)
    variables, x = drawn(net, size), image_batch(size)
    expected, averages = in_torch(variables, x, train)
    scores, moved = net.apply(variables, x, train=train, mutable=["batch_stats"])
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-5)
    for (group, i), (mean, var) in averages.items():
        stats = moved["batch_stats"][group][f"bn{i}"]
        np.testing.assert_allclose(stats["mean"], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(stats["var"], var, rtol=1e-4, atol=1e-5)


def test_the_published_network_has_its_1_97_million_parameters():
    """Jordan, 2024, table 1, counts 1.97 million; written out, the first kernel apart."""
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 3 * 256 * 256)
    biases = 24 + 2 * 64 + 4 * 256
    expected = convolutions + biases + 256 * 10
    net = AirbenchNet(10, whitening=WHITENING)
    costs = analysis.account(net, (32, 32, 3))
    assert costs.parameters == expected
    assert round(expected / 1e6, 2) == 1.97
    # The positions are 31, 15, 15, 7, 7 and 3 pixels a side.
    macs = 31**2 * 24 * 12 + 9 * (31**2 * 24 * 64 + 15**2 * 64 * 64)
    macs += 9 * (15**2 * 64 * 256 + 7**2 * 2 * 256**2 + 3**2 * 256**2) + 2560
    assert costs.macs == macs


def test_names_are_public():
    variables = jax.eval_shape(network().init, jax.random.key(0), image_batch())
    paths = {
        "/".join(entry.key for entry in path)
        for path, _ in jax.tree_util.tree_flatten_with_path(variables)[0]
    }
    groups = [f"group{i}" for i in range(3)]
    norms = [f"{group}/bn{i}" for group in groups for i in (0, 1)]
    assert paths == {
        "constants/whiten/kernel",
        "params/whiten/bias",
        "params/head/kernel",
        *(f"params/{group}/conv{i}/kernel" for group in groups for i in (0, 1)),
        *(f"params/{norm}/bias" for norm in norms),
        *(f"batch_stats/{norm}/{name}" for norm in norms for name in ("mean", "var")),
    }


def test_the_given_kernel_stays_while_all_else_learns():
    net, x = network(), image_batch()
    variables = net.init(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["constants"]["whiten"]["kernel"], KERNEL)

    def loss(params):
        scores, _ = net.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats", "constants"]
        )
        return optax.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(4)).mean()

    gradients = jax.grad(loss)(variables["params"])
    assert all(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(gradients))
    _, moved = net.apply(variables, x, train=True, mutable=["batch_stats", "constants"])
    np.testing.assert_array_equal(moved["constants"]["whiten"]["kernel"], KERNEL)


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (3, 3, 6, 4), (5, 3, 4, 4), (3, 2, 3)])
def test_an_identity_hands_on_its_channels(shape):
    *window, channels, filters = shape
    kernel = identity_init(jax.random.key(0), shape)
    spatial = (9,) * len(window)
    x = np.random.default_rng(0).standard_normal((2, *spatial, channels)).astype(np.float32)
    y = ops.conv(jnp.asarray(x), kernel, padding="SAME")
    shared = min(channels, filters)
    np.testing.assert_allclose(y[..., :shared], x[..., :shared], atol=1e-6)


def test_filters_beyond_the_channels_are_pytorchs_default():
    kernel = np.asarray(identity_init(jax.random.key(0), (3, 3, 16, 400)))
    bound = 1 / np.sqrt(9 * 16)
    beyond = kernel[..., 16:]
    assert np.abs(beyond).max() <= bound
    np.testing.assert_allclose(beyond.std(), bound / np.sqrt(3), rtol=0.02)
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle; install .[torch]")
    dirac = torch.nn.init.dirac_(torch.empty(16, 16, 3, 3)).permute(2, 3, 1, 0)
    np.testing.assert_array_equal(kernel[..., :16], dirac.numpy())


def test_a_window_without_a_centre_is_refused():
    with pytest.raises(ValueError, match=r"identity_init: windows must be odd.*\(2, 3, 4, 4\)"):
        identity_init(jax.random.key(0), (2, 3, 4, 4))


def test_convolutions_start_as_the_identity_unless_told_otherwise():
    def first(**options):
        return network(**options).init(jax.random.key(0), image_batch())["params"]["group1"][
            "conv0"
        ]["kernel"]

    np.testing.assert_array_equal(first()[1, 1, :, :5], np.eye(5))
    assert float(jnp.abs(first(identity=False)).max()) < 1


def test_bfloat16_is_computed_in_and_scores_are_float32():
    net = network(dtype=jnp.bfloat16)
    variables = net.init(jax.random.key(0), image_batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    scores = net.apply(variables, image_batch())
    assert scores.dtype == jnp.float32
    exact = network().apply(variables, image_batch())
    np.testing.assert_allclose(scores, exact, rtol=0.1, atol=0.05)
    assert not np.array_equal(scores, exact)
