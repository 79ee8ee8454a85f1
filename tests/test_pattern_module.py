"""The network of a pattern: names, values against a network by hand and PyTorch, streams."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cnnjax import models, ops
from cnnjax.pattern import PatternError, parse, to_module, volumes

EVERY_KIND = (
    "INPUT[12x12x2] -> CONV3-8[bias=false] -> BN -> RELU -> LRN -> POOL2 -> "
    "CONV3-6[groups=2, stride=2, padding=((1, 0), (1, 0)), dilation=1] -> LEAKYRELU0.1 -> "
    "DROPOUT0.5 -> FRACPOOL[output_size=2] -> GAP -> FC-5 -> TANH -> BN -> FC-3[bias=false]"
)


def shapes_of(text, *inputs):
    net = to_module(parse(text))
    x = jax.ShapeDtypeStruct((1, *net.input_shape), jnp.float32)
    return jax.eval_shape(net.init, jax.random.key(0), x)


def drawn(shapes, seed=0):
    """Numbers for every leaf from NumPy, of a size that saturates nothing; variances above zero."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if path[-1].key == "var":
            return jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        scale = 1 / math.sqrt(max(1, math.prod(leaf.shape[:-1])))
        return jnp.asarray(scale * rng.standard_normal(leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def image(shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


# ---- names and numbers of parameters ----


def test_names_and_shapes_are_public():
    # Changing this breaks everybody's checkpoints.
    flat = flatten_dict(shapes_of(EVERY_KIND), sep="/")
    assert {name: leaf.shape for name, leaf in flat.items()} == {
        "params/conv0/kernel": (3, 3, 2, 8),
        "params/bn0/scale": (8,),
        "params/bn0/bias": (8,),
        "params/conv1/kernel": (3, 3, 4, 6),
        "params/conv1/bias": (6,),
        "params/fc0/kernel": (6, 5),
        "params/fc0/bias": (5,),
        "params/bn1/scale": (5,),
        "params/bn1/bias": (5,),
        "params/fc1/kernel": (5, 3),
        "batch_stats/bn0/mean": (8,),
        "batch_stats/bn0/var": (8,),
        "batch_stats/bn1/mean": (5,),
        "batch_stats/bn1/var": (5,),
    }


@pytest.mark.parametrize(
    ("text", "count"),
    [
        # LeNet-5 with full connections; VGG-16; the first layer of AlexNet.
        (
            "INPUT[32x32x1] -> CONV5-6[padding=0] -> TANH -> AVGPOOL2 -> CONV5-16[padding=0] -> "
            "TANH -> AVGPOOL2 -> FC-120 -> TANH -> FC-84 -> TANH -> FC-10",
            61_706,
        ),
        (
            "INPUT[224x224x3] -> [CONV3-64 -> RELU]*2 -> POOL2 -> [CONV3-128 -> RELU]*2 -> POOL2 "
            "-> [CONV3-256 -> RELU]*3 -> POOL2 -> [[CONV3-512 -> RELU]*3 -> POOL2]*2 -> "
            "[FC-4096 -> RELU]*2 -> FC-1000",
            138_357_544,
        ),
        ("INPUT[227x227x3] -> CONV11-96[stride=4, padding=0]", 34_944),
    ],
    ids=["lenet5", "vgg16", "alexnet_conv1"],
)
def test_published_number_of_parameters(text, count):
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes_of(text)["params"])) == count


@pytest.mark.parametrize(
    "text",
    [
        EVERY_KIND,
        "INPUT[40x2] -> CONV5-4[stride=3, padding=((1, 0))] -> RELU -> L2POOL3/2 -> FC-3",
        "INPUT[6x8x8x1] -> CONV3-2 -> RELU -> AVGPOOL2 -> CONV1x3x3-3 -> GAP",
        "INPUT[9x9x2] -> CONV3-4[stride=2, padding=SAME] -> POOL2[fit=ceil] -> SIGMOID",
        "INPUT[10x10x2] -> CONV3-4[stride=2, padding=0, fit=floor]",
        "INPUT[10] -> FC-4 -> RELU -> FC-2",
    ],
)
def test_what_comes_out_and_its_parameters_are_the_last_volume_and_the_sum(text):
    pattern = parse(text)
    net = to_module(pattern)
    x = jnp.zeros((2, *net.input_shape))
    out, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
    assert out.shape == (2, *volumes(pattern)[-1].shape)
    learned = sum(leaf.size for leaf in jax.tree.leaves(variables.get("params", {})))
    assert learned == sum(volume.num_parameters for volume in volumes(pattern))


def test_kernels_are_drawn_by_hes_rule_and_biases_are_zero():
    net = to_module(parse("INPUT[8x8x16] -> CONV3-128 -> RELU -> GAP -> FC-2048"))
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 16)))["params"]
    for name, fan_in in (("conv0", 144), ("fc0", 128)):
        # He et al. (2015): variance 2 / fan in; 18,432 draws know a deviation to half a percent.
        np.testing.assert_allclose(
            jnp.std(variables[name]["kernel"]), (2 / fan_in) ** 0.5, rtol=0.02
        )
        assert not jnp.any(variables[name]["bias"])


# ---- values ----


class ByHand(nn.Module):
    """EVERY_KIND in plain Flax."""

    @nn.compact
    def __call__(self, x, *, train=False):
        x = models.Conv(8, (3, 3), padding=1, use_bias=False, name="conv0")(x)
        x = nn.BatchNorm(not train, momentum=0.9, use_fast_variance=False, name="bn0")(x)
        x = nn.relu(x)
        x = ops.local_response_norm(x, size=5, alpha=1e-4, beta=0.75, k=2.0, alpha_over="sum")
        x = ops.max_pool(x, window=2)
        pairs = ((1, 0), (1, 0))
        x = models.Conv(6, (3, 3), stride=2, padding=pairs, groups=2, name="conv1")(x)
        x = nn.leaky_relu(x, 0.1)
        x = nn.Dropout(0.5, deterministic=not train, name="dropout0")(x)
        key = self.make_rng("fractional") if train else None
        u = None if train else (0.5, 0.5)
        share = "image" if train else "batch"
        x = ops.fractional_max_pool(x, key, u=u, output_size=2, share=share)
        x = jnp.tanh(nn.Dense(5, name="fc0")(ops.global_avg_pool(x)))
        x = nn.BatchNorm(not train, momentum=0.9, use_fast_variance=False, name="bn1")(x)
        return nn.Dense(3, use_bias=False, name="fc1")(x)


@pytest.mark.parametrize("train", [False, True])
def test_the_network_is_the_one_written_by_hand_to_the_last_bit(train):
    variables = drawn(shapes_of(EVERY_KIND))
    x = image((4, 12, 12, 2))
    streams = {"dropout": jax.random.key(1), "fractional": jax.random.key(2)} if train else {}

    def run(net):
        return net.apply(variables, x, train=train, rngs=streams, mutable=["batch_stats"])

    ours, theirs = run(to_module(parse(EVERY_KIND))), run(ByHand())
    # Streams are folded by the path of a module, and these modules have the same paths.
    assert jax.tree.all(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), ours, theirs))
    assert float(jnp.min(jnp.std(ours[0], axis=0))) > 0.01


def test_the_network_is_that_of_pytorch(torch):
    text = (
        "INPUT[15x15x4] -> CONV3-8[groups=2, dilation=2] -> RELU -> POOL3/2[padding=1] -> "
        "CONV3-6[stride=2, padding=0, fit=floor] -> SIGMOID -> AVGPOOL2[fit=ceil] -> FC-7 -> TANH "
        "-> FC-3"
    )
    variables = drawn(shapes_of(text))
    net = to_module(parse(text))
    x = image((2, 15, 15, 4))
    c, t = torch.nn.functional, torch.from_numpy
    p = jax.tree.map(lambda a: t(np.array(a)), variables["params"])
    kernels = {name: p[name]["kernel"].permute(3, 2, 0, 1) for name in ("conv0", "conv1")}
    y = t(np.array(x)).permute(0, 3, 1, 2)
    y = torch.relu(
        c.conv2d(y, kernels["conv0"], p["conv0"]["bias"], padding=2, dilation=2, groups=2)
    )
    y = c.max_pool2d(y, 3, 2, 1)
    y = torch.sigmoid(c.conv2d(y, kernels["conv1"], p["conv1"]["bias"], stride=2))
    y = c.avg_pool2d(y, 2, ceil_mode=True).permute(0, 2, 3, 1).flatten(1)
    y = torch.tanh(y @ p["fc0"]["kernel"] + p["fc0"]["bias"])
    y = y @ p["fc1"]["kernel"] + p["fc1"]["bias"]
    # A hundred tolerances apart, so that a wrong layer shows.
    assert float(y.std(0).min()) > 1e-3
    np.testing.assert_allclose(net.apply(variables, x), y.numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "function"),
    [
        ("LRN[preset=caffe]", lambda x: ops.local_response_norm(
            x, size=5, alpha=1.0, beta=0.75, k=1.0, alpha_over="mean")),
        ("LRN[preset=tensorflow, size=3, k=2]", lambda x: ops.local_response_norm(
            x, size=3, alpha=1.0, beta=0.5, k=2.0, alpha_over="sum")),
        ("LRN[preset=pytorch, size=3]", lambda x: ops.local_response_norm(
            x, size=3, alpha=1e-4, beta=0.75, k=1.0, alpha_over="mean")),
        ("AVGPOOL3/1[padding=1, count_padding=true]", lambda x: ops.avg_pool(
            x, window=3, stride=1, padding=1, count_padding=True)),
        ("L2POOL2", lambda x: ops.l2_pool(x, window=2)),
        ("LEAKYRELU", lambda x: jnp.where(x > 0, x, x * jnp.float32(0.01))),
        ("GAP", lambda x: jnp.mean(x, (1, 2))),
    ],
)  # fmt: skip
def test_a_layer_without_parameters_is_its_operation(text, function):
    x = image((2, 6, 6, 7))
    ours = to_module(parse(f"INPUT[6x6x7] -> {text}")).apply({}, x)
    np.testing.assert_allclose(ours, function(x), rtol=1e-6)


# ---- streams ----


def test_grids_are_drawn_from_their_stream_and_fixed_without_one():
    net = to_module(parse("INPUT[25x25x1] -> FRACPOOL[output_size=18, randomness=random]"))
    x = image((3, 25, 25, 1))

    def run(seed, train=True):
        return net.apply({}, x, train=train, rngs={"fractional": jax.random.key(seed)})

    assert jnp.array_equal(run(0), run(0))
    assert not jnp.array_equal(run(0), run(1))
    # A stream that is given is drawn from in evaluation too, for averages over grids.
    assert jnp.array_equal(run(0), run(0, train=False))
    fixed = net.apply({}, x)
    assert jnp.array_equal(
        fixed, ops.fractional_max_pool(x, u=(0.5, 0.5), output_size=18, share="batch")
    )
    with pytest.raises(ValueError, match=r'grids from the stream "fractional" while training; giv'):
        net.apply({}, x, train=True)


def test_two_fractional_layers_draw_two_grids():
    text = "INPUT[25x25x1] -> FRACPOOL[output_size=18, share=batch]"
    one, two = (
        to_module(parse(text)),
        to_module(parse(f"{text} -> FRACPOOL[output_size=7, share=batch]")),
    )
    x, rngs = image((1, 25, 25, 1)), {"fractional": jax.random.key(0)}
    first = one.apply({}, x, train=True, rngs=rngs)
    again = to_module(parse("INPUT[18x18x1] -> FRACPOOL[output_size=7, share=batch]"))
    # With the first layer's key once more the second would repeat these.
    repeated = again.apply({}, first, train=True, rngs=rngs)
    assert not jnp.array_equal(two.apply({}, x, train=True, rngs=rngs), repeated)


def test_dropout_drops_while_training_and_not_otherwise():
    net = to_module(parse("INPUT[1000] -> DROPOUT0.25"))
    x = jnp.ones((1, 1000))
    assert jnp.array_equal(net.apply({}, x), x)
    dropped = net.apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    kept = float(jnp.mean(dropped > 0))
    assert abs(kept - 0.75) < 0.07  # Five standard deviations of 1000 draws.
    np.testing.assert_allclose(dropped[dropped > 0], 1 / 0.75, rtol=1e-6)


def test_running_averages_keep_what_momentum_says():
    net = to_module(parse("INPUT[2] -> BN[momentum=0.75]"))
    x = jnp.asarray([[1.0, 10.0], [3.0, 10.0]])
    variables = net.init(jax.random.key(0), x)
    _, updated = net.apply(variables, x, train=True, mutable=["batch_stats"])
    # By hand: 3/4 of mean 0 and variance 1, 1/4 of means (2, 10) and variances (1, 0).
    np.testing.assert_allclose(updated["batch_stats"]["bn0"]["mean"], [0.5, 2.5])
    np.testing.assert_allclose(updated["batch_stats"]["bn0"]["var"], [1.0, 0.75])


# ---- contract ----


def test_dtypes_are_those_asked_for():
    pattern = parse("INPUT[8x8x3] -> CONV3-4 -> BN -> RELU -> POOL2 -> FC-5")
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)

    def dtypes(tree):
        return {leaf.dtype for leaf in jax.tree.leaves(tree)}

    def traced(**options):
        net = to_module(pattern, **options)
        variables = jax.eval_shape(net.init, jax.random.key(0), x)
        apply = functools.partial(net.apply, capture_intermediates=True, mutable=["intermediates"])
        out, state = jax.eval_shape(apply, variables, x)
        inner = {k: v for k, v in state["intermediates"].items() if k != "__call__"}
        return dtypes(variables["params"]), dtypes(inner), out.dtype

    full, half = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)
    # Parameters, what comes out of each submodule, and of the whole.
    assert traced() == ({full}, {full}, full)
    assert traced(dtype=half) == ({full}, {half}, full)
    assert traced(param_dtype=half) == ({half}, {full}, full)


def test_any_number_of_batch_axes_gives_the_same_scores():
    net = to_module(parse("INPUT[8x8x3] -> CONV3-4 -> RELU -> POOL2 -> FC-5"))
    variables = drawn(jax.eval_shape(net.init, jax.random.key(0), jnp.ones((8, 8, 3))))
    x = image((6, 8, 8, 3))
    flat = net.apply(variables, x)
    np.testing.assert_allclose(
        net.apply(variables, x.reshape(2, 3, 8, 8, 3)), flat.reshape(2, 3, 5), rtol=1e-6
    )
    np.testing.assert_allclose(net.apply(variables, x[0]), flat[0], rtol=1e-5)


def test_jit_compiles_once_for_equal_patterns_from_different_texts():
    traces = []

    @jax.jit
    def count(x):
        traces.append(x.shape)
        return x

    def run(net, x):
        return count(net.apply({}, x))

    static = jax.jit(run, static_argnums=0)
    x = jnp.ones((1, 4, 4, 1))
    static(to_module(parse("INPUT[4x4x1] -> [POOL2]*2")), x)
    static(to_module(parse("input[4×4×1]  →  pool2 → maxpool2")), x)
    assert len(traces) == 1


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 9, 3), (1, 8, 8, 4), (3, 8, 8)])
def test_another_shape_than_input_says_is_refused(shape):
    net = to_module(parse("INPUT[8x8x3] -> CONV3-4"))
    with pytest.raises(ValueError, match=r"PatternNet: x must have shape \(\*batch, 8, 8, 3\), as"):
        net.init(jax.random.key(0), jnp.ones(shape))


def test_integer_images_are_refused():
    net = to_module(parse("INPUT[4x4x1] -> POOL2"))
    with pytest.raises(TypeError, match=r"PatternNet: x must be floating, got uint8; images for"):
        net.apply({}, jnp.ones((1, 4, 4, 1), jnp.uint8))


def test_a_pattern_that_does_not_fit_makes_no_module():
    text = "INPUT[9x9x3] -> CONV3-4 -> POOL2"
    with pytest.raises(PatternError, match="along axis 0 a window spanning 2") as caught:
        to_module(parse(text))
    assert caught.value.position == text.index("POOL2")
