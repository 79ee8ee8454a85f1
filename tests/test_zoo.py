"""Laws that every network of the zoo keeps, by shapes and traced programs alone.

`python tests/test_zoo.py` writes the golden files anew; a change of one breaks everybody's weights.
"""

import functools
import itertools
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from jax.extend import core

from cnnjax import analysis, models, receptive_field
from cnnjax.models.network import options_of
from experiments.zoo_table import zoo_table

GOLDEN = Path(__file__).parent / "golden" / "networks"

# The same code with other numbers: what these show holds for the deeper ones.
SHALLOW = [
    name
    for name in models.names()
    if not re.search(r"(101|152|_bn|32|44|56|110|vgg1[39])", name.removeprefix("cifar_"))
]
each_network = pytest.mark.parametrize(
    "name",
    [
        name if name in SHALLOW else pytest.param(name, marks=pytest.mark.slow)
        for name in models.names()
    ],
)
each_shallow_network = pytest.mark.parametrize("name", SHALLOW)
# One of each architecture and form: options are fields of the class.
each_architecture = pytest.mark.parametrize(
    "name",
    [
        *("lenet5", "alexnet_2012", "alexnet", "zfnet", "vgg11", "vgg11_lrn", "googlenet_2014"),
        *("googlenet", "resnet18", "resnet50_v1", "se_resnet18", "cifar_resnet20"),
        *("cifar_plain20", "base_cnn_a", "all_cnn_c", "fractional_mnist", "unet", "cifar_convnet"),
    ],
)


def images(network, num=1, larger=0):
    height, width, channels = network.input_shape
    return jax.ShapeDtypeStruct((num, height + larger, width + larger, channels), jnp.float32)


@functools.cache
def shapes(name):
    """Variables of a network, not one of them allocated."""
    network = models.create(name)
    return jax.eval_shape(network.init, jax.random.key(0), images(network))


def outputs(network, variables, x, train=False):
    def apply(variables, x):
        rngs = {"dropout": jax.random.key(0), "fractional": jax.random.key(1)} if train else None
        mutable = [name for name in variables if name != "params"] if train else False
        return network.apply(variables, x, train=train, rngs=rngs, mutable=mutable)

    return jax.eval_shape(apply, variables, x)


def locked(variables):
    """One line for each name and shape; blocks that are alike in one line."""
    alike = {}
    for path, leaf in flatten_dict(variables, sep="/").items():
        size = "x".join(map(str, leaf.shape))
        block = re.search(r"block(\d+)", path)
        line = f"{path.replace(block[0], 'block{}', 1) if block else path} {size}"
        alike.setdefault(line, []).append(int(block[1]) if block else None)
    lines = []
    for line, blocks in alike.items():
        if blocks[0] is not None:
            blocks.sort()
            assert blocks == list(range(blocks[0], blocks[-1] + 1))
            several = "" if len(blocks) == 1 else f"-{blocks[-1]}"
            line = line.replace("{}", f"[{blocks[0]}{several}]", 1)
        lines.append(line)
    return "".join(f"{line}\n" for line in sorted(lines))


# ---- names ----


@each_network
def test_names_and_shapes_are_those_of_the_golden_file(name):
    assert locked(shapes(name)) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_no_golden_file_is_left_of_a_network_that_is_gone():
    assert {path.stem for path in GOLDEN.iterdir()} == set(models.names())


@each_architecture
def test_the_classifier_is_called_head_and_has_the_classes_asked_for(name):
    network = models.create(name, num_classes=7)
    variables = jax.eval_shape(network.init, jax.random.key(0), images(network))
    assert variables["params"]["head"]["kernel"].shape[-1] == 7
    assert outputs(network, variables, images(network, 2)).shape[-1] == 7
    others = {key: tree for key, tree in variables["params"].items() if key != "head"}
    published = {key: tree for key, tree in shapes(name)["params"].items() if key != "head"}
    assert {
        key: leaf.shape for key, leaf in flatten_dict(others, sep="/").items() if "aux" not in key
    } == {
        key: leaf.shape
        for key, leaf in flatten_dict(published, sep="/").items()
        if "aux" not in key
    }


# ---- what all networks do ----


def used_inputs(jaxpr: core.Jaxpr) -> list[bool]:
    """Which inputs an output depends on, followed backwards equation by equation."""
    needed = {id(variable) for variable in jaxpr.outvars}
    for equation in reversed(jaxpr.eqns):
        if any(id(variable) in needed for variable in equation.outvars):
            inner = equation.params.get("jaxpr")
            inner = getattr(inner, "jaxpr", inner)
            operands = equation.invars
            if isinstance(inner, core.Jaxpr) and len(inner.invars) == len(operands):
                used = used_inputs(inner)
                operands = [v for v, use in zip(operands, used, strict=True) if use]
            needed |= {id(v) for v in operands if not isinstance(v, core.Literal)}
    return [id(variable) in needed for variable in jaxpr.invars]


@each_network
def test_scores_in_training_depend_on_every_parameter(name):
    network, variables = models.create(name), shapes(name)

    def scores(params, rest, x):
        rngs = {"dropout": jax.random.key(0), "fractional": jax.random.key(1)}
        out, _ = network.apply(
            {"params": params, **rest}, x, train=True, rngs=rngs, mutable=list(rest)
        )
        return out

    rest = {key: tree for key, tree in variables.items() if key != "params"}
    program = jax.make_jaxpr(scores)(variables["params"], rest, images(network, 2))
    paths = list(flatten_dict(variables["params"], sep="/"))
    used = used_inputs(program.jaxpr)[: len(paths)]
    assert [path for path, use in zip(sorted(paths), used, strict=True) if not use] == []


@pytest.mark.usefixtures("quick_to_compile")
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("lenet5", 32, {}),
        ("alexnet", 63, {"widths": (4, 4, 4, 4, 4), "hidden": 8}),
        pytest.param(
            "alexnet_2012", 67, {"widths": (4, 4, 4, 4, 4), "hidden": 8}, marks=pytest.mark.slow
        ),
        pytest.param("zfnet", 95, {"widths": (4, 4, 4, 4, 4), "hidden": 8}, marks=pytest.mark.slow),
        ("vgg11", 32, {"widths": (4, 4, 4, 4, 4), "hidden": 8}),
        ("resnet50", 33, {"depths": (1, 1)}),
        pytest.param("se_resnet18", 33, {"depths": (1, 1)}, marks=pytest.mark.slow),
        ("cifar_resnet20", 8, {"depth": 8, "shortcut": "B"}),
        pytest.param("cifar_plain20", 8, {"depth": 8}, marks=pytest.mark.slow),
        pytest.param("all_cnn_c", 16, {"widths": (4, 4)}, marks=pytest.mark.slow),
        pytest.param("base_cnn_a", 16, {"widths": (4, 4)}, marks=pytest.mark.slow),
        ("fractional_mnist", 8, {"filters": 4, "num_poolings": 2}),
        ("unet", 28, {"width": 4, "depth": 1}),
        ("cifar_convnet", 32, {}),
    ],
)
def test_one_gradient_step_changes_every_parameter(name, size, options):
    network = models.create(name, **options, image_size=(size, size), dropout=0.0)
    x = jax.random.normal(jax.random.key(0), (4, *network.input_shape))
    variables = jax.jit(network.init)(jax.random.key(1), x)
    rest = {key: tree for key, tree in variables.items() if key != "params"}

    def loss(params):
        scores, _ = network.apply(
            {"params": params, **rest},
            x,
            train=True,
            rngs={"fractional": jax.random.key(2)},
            mutable=list(rest),
        )
        return jnp.sum(jnp.sin(3 * scores) * jnp.arange(1.0, 1 + scores.size).reshape(scores.shape))

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradients)
    still = jax.tree.map(
        lambda old, new: bool(jnp.array_equal(old, new)), variables["params"], moved
    )
    flat = flatten_dict(still, sep="/")
    assert [path for path, same in flat.items() if same] == []


@each_shallow_network
def test_pyramid_is_what_feature_info_says(name):
    # Reductions by growth: so many pixels more give one position more.
    network = models.create(name, features=True)
    info = network.feature_info
    step = math.lcm(*(one.reduction for one in info)) * (6 if name.startswith("fractional") else 1)
    pyramid = outputs(network, shapes(name), images(network))
    assert set(pyramid) == {one.name for one in info}
    assert [pyramid[one.name].shape[-1] for one in info] == [one.channels for one in info]
    if name.startswith("fractional"):  # Their sizes are drawn up backwards from one.
        return
    larger = outputs(network, shapes(name), images(network, larger=step))
    for one in info:
        grown = larger[one.name].shape[1] - pyramid[one.name].shape[1]
        assert grown * one.reduction == step


@each_architecture
def test_training_gives_scores_of_the_same_shape_and_keeps_the_collections(name):
    network, variables = models.create(name), shapes(name)
    evaluated = outputs(network, variables, images(network, 2))
    out, updated = outputs(network, variables, images(network, 2), train=True)
    scores = getattr(out, "scores", out)
    assert (scores.shape, scores.dtype) == (evaluated.shape, jnp.float32)
    kept = {key: tree for key, tree in variables.items() if key != "params"}
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), updated) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), kept
    )


@each_architecture
def test_no_classes_give_the_features_that_the_head_would_see(name):
    network = models.create(name, num_classes=0)
    variables = jax.eval_shape(network.init, jax.random.key(0), images(network))
    assert "head" not in variables["params"]
    out = outputs(network, variables, images(network, 2))
    assert out.shape[-1] == shapes(name)["params"]["head"]["kernel"].shape[-2]


@each_architecture
def test_dtypes_are_those_asked_for(name):
    network = models.create(name, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), images(network))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert outputs(network, variables, images(network)).dtype == jnp.float32
    pyramid = outputs(network.clone(features=True), variables, images(network))
    assert {leaf.dtype for leaf in jax.tree.leaves(pyramid)} == {jnp.dtype(jnp.bfloat16)}
    half = network.clone(param_dtype=jnp.bfloat16)
    params = jax.eval_shape(half.init, jax.random.key(0), images(network))["params"]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


@each_architecture
def test_batch_axes_are_any_number_none_included(name):
    network, variables = models.create(name), shapes(name)
    one = outputs(network, variables, jax.ShapeDtypeStruct(network.input_shape, jnp.float32))
    two = jax.ShapeDtypeStruct((2, 3, *network.input_shape), jnp.float32)
    assert outputs(network, variables, two).shape == (2, 3, *one.shape)


@each_architecture
def test_norm_and_activation_are_chosen(name):
    network = models.create(name, norm="group", activation="gelu")
    variables = jax.eval_shape(network.init, jax.random.key(0), images(network))
    assert "batch_stats" not in variables
    program = jax.make_jaxpr(network.apply)(variables, images(network))
    assert re.search(r"\b(tanh|erf|erfc)\b", str(program))


@each_architecture
def test_wrong_images_and_options_are_refused_before_tracing(name):
    network, variables = models.create(name), shapes(name)
    *size, channels = network.input_shape
    with pytest.raises(ValueError, match=rf"x must be \(\*batch, height, width, {channels}\)"):
        network.apply(variables, jnp.zeros((1, *size, channels + 1)))
    with pytest.raises(TypeError, match="x must be floating, got uint8"):
        network.apply(variables, jnp.zeros((1, *size, channels), jnp.uint8))
    for option, value, message in [
        ("norm", "batsh", "norm must be one of batch, group, layer"),
        ("activation", "rleu", "activation must be one of relu"),
        ("dropout", 1.0, r"dropout must be in \[0, 1\)"),
        ("num_classes", -1, "num_classes must be at least 0"),
        ("output_stride", 4, "output_stride"),
        ("image_size", 224, "image_size must be two integers"),
    ]:
        with pytest.raises(ValueError, match=message):
            models.create(name, **{option: value})
    with pytest.raises(TypeError, match=rf"{name} has no option droput; it takes num_classes"):
        models.create(name, droput=0.1)


# ---- costs and fields ----


DOCUMENTED = (GOLDEN.parents[2] / "docs" / "models.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    "name",
    [
        name if name in SHALLOW else pytest.param(name, marks=pytest.mark.slow)
        for name in models.names()
        if not name.startswith("fractional")
    ],
)
def test_documented_row_is_that_of_the_traced_program(name):
    # The published numbers themselves stand in the tests of each architecture.
    assert zoo_table([name]).splitlines()[-1] in DOCUMENTED


@pytest.mark.parametrize(
    ("name", "filters", "num_poolings", "ratio", "classes"),
    [
        ("fractional_mnist", 32, 6, 2 ** (1 / 2), 10),
        ("fractional_cifar10", 160, 12, 2 ** (1 / 3), 10),
        ("fractional_cifar100", 64, 12, 2 ** (1 / 3), 100),
    ],
)
def test_documented_row_of_a_fractional_net_is_grahams_arithmetic(
    name, filters, num_poolings, ratio, classes
):
    # Drawn up backwards from one position, Graham (2014), section 2; tracing would take long.
    channels = models.create(name).input_channels
    widths = [channels, *(filters * (i + 1) for i in range(num_poolings + 2))]
    kernels = [4 * a * b for a, b in itertools.pairwise(widths[:-1])] + [widths[-2] * widths[-1]]
    sizes = [1, 1]
    size = 2
    for _ in range(num_poolings):
        pooled, size = size, math.floor(size * ratio + 0.5)
        size += size == pooled
        sizes.insert(0, size)
        size += 1
    macs = sum(n * n * k for n, k in zip(sizes, kernels, strict=True)) + widths[-1] * classes
    parameters = sum(kernels) + sum(widths[1:]) + (widths[-1] + 1) * classes
    values = sum(n * n * width for n, width in zip(sizes, widths[1:], strict=True)) + classes
    (row,) = (line for line in DOCUMENTED if line.startswith(f"| {name} |"))
    assert row.split(" | ")[1:5] == [
        f"{size}x{size}x{channels}",
        f"{parameters:,}",
        f"{macs:,}",
        f"{values:,}",
    ]


def test_documented_table_has_every_network_in_order():
    rows = [match[1] for line in DOCUMENTED if (match := re.match(r"\| (\w+) \| \d+x", line))]
    assert tuple(rows) == models.names()


# Windows, strides and paddings by hand, from the papers; the largest path where paths differ.
_VGG_STAGES = {
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
    "vgg16_c": (2, 2, 2, 2, 2),
}
_POOL3 = [(3, 2, 0)]


def _inceptions(window, last_pool):
    one = [(window, 1, window // 2)]
    front = [(7, 2, 3), *_POOL3, (1, 1, 0), (3, 1, 1), *_POOL3]
    return [*front, *one * 2, *_POOL3, *one * 5, (last_pool, 2, 0), *one * 2]


def _all_cnn(first, second):
    return [(3, 1, 1), (3, 1, 1), *first, (3, 1, 1), (3, 1, 1), *second, (3, 1, 0)]


CHAINS = {
    "lenet5": [(5, 1, 0), (2, 2, 0)] * 2 + [(5, 1, 0)],
    "alexnet_2012": [(11, 4, 0), *_POOL3, (5, 1, 2), *_POOL3, *[(3, 1, 1)] * 3, *_POOL3],
    "alexnet": [(11, 4, 2), *_POOL3, (5, 1, 2), *_POOL3, *[(3, 1, 1)] * 3, *_POOL3],
    "zfnet": [
        *[(7, 2, 1), (3, 2, 1), (5, 2, 0), (3, 2, 1)],
        *[(3, 1, 1)] * 3,
        *_POOL3,
    ],
    **{
        name: [layer for depth in depths for layer in [(3, 1, 1)] * depth + [(2, 2, 0)]]
        for name, depths in _VGG_STAGES.items()
    },
    "googlenet_2014": _inceptions(5, 3),
    "googlenet": _inceptions(3, 2),
    "base_cnn_c": _all_cnn(_POOL3, _POOL3),
    "conv_pool_cnn_c": _all_cnn([(3, 1, 1), *_POOL3], [(3, 1, 1), *_POOL3]),
    "all_cnn_c": _all_cnn([(3, 2, 1)], [(3, 2, 1)]),
    "strided_cnn_c": [(3, 1, 1), (3, 2, 1), (3, 1, 1), (3, 2, 1), (3, 1, 0)],
    **{
        f"cifar_{kind}{depth}": [(3, 1, 1)] * (1 + (depth - 2) // 3)
        + ([(3, 2, 1)] + [(3, 1, 1)] * ((depth - 2) // 3 - 1)) * 2
        for kind, depths in (("resnet", (20, 32, 44, 56, 110)), ("plain", (20,)))
        for depth in depths
    },
}


@pytest.mark.parametrize("name", CHAINS)
def test_field_of_the_last_volume_is_the_closed_form(name):
    chain = receptive_field.compose(receptive_field.Layer(*layer) for layer in CHAINS[name])
    last = models.create(name).feature_info[-1].name
    network = models.create(name, features=True)
    traced = analysis.receptive_field(network, images(network))[last]
    for axis in traced.axes:
        assert (axis.size, axis.stride, axis.padding) == (chain.size, chain.stride, chain.padding)


def test_unknown_name_is_told_the_nearest():
    with pytest.raises(ValueError, match="no network is called 'resnet51'; did you mean resnet"):
        models.create("resnet51")


def test_options_are_those_of_the_class():
    assert {"num_classes", "features", "remat", "hidden"} <= set(options_of(models.create("vgg11")))


if __name__ == "__main__":
    for name in models.names():
        (GOLDEN / f"{name}.txt").write_text(locked(shapes(name)), encoding="utf-8")
