"""Networks whose volumes part and meet: ResNets, GoogLeNet, U-Net, against PyTorch and tables."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_oracle
from compiling import compile_cheaply
from flax.traverse_util import flatten_dict

from cnnjax import models
from cnnjax.analysis import account
from cnnjax.models.cifar_resnet import CifarResNet
from cnnjax.models.resnet import ResNet

# torchvision's tables of its weights; He et al., 2015, and shortcuts B counted by hand; Szegedy et
# al., 2014, as Caffe counts it; Hu et al., 2017: 2.53 million more than ResNet-50.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet50_v1": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "se_resnet50": 28_088_024,
    "cifar_resnet20": 269_722,
    "cifar_plain20": 269_722,
    "cifar_resnet110": 1_727_962,
    "googlenet": 13_004_888,
}
# timm's "macts" are the outputs of convolutions and dense layers.
MACS = {
    "resnet18": (1_814_073_344, 2_484_712),
    "resnet50": (4_089_184_256, 11_114_984),
    "cifar_resnet20": (40_551_040, 188_426),
}


def num_parameters(network, size=64):
    x = jnp.ones((size, size, network.input_channels))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes_of(network, x)["params"]))


def shapes_of(network, x):
    return jax.eval_shape(network.init, jax.random.key(0), x)


# ---- published numbers ----


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_published(name):
    assert num_parameters(models.create(name)) == PARAMETERS[name]


def test_parameters_of_variants_are_those_published():
    assert num_parameters(CifarResNet(depth=20, shortcut="B")) == 272_474
    assert num_parameters(models.create("googlenet", auxiliary=False)) == 6_624_904
    # A 1x1 convolution to 128, dense layers of 2048 to 1024 to 1000, with biases, at 224x224.
    auxiliary = sum(128 * (inputs + 1) for inputs in (512, 528)) + 2 * (2049 * 1024 + 1025 * 1000)
    assert num_parameters(models.create("googlenet_2014"), size=224) == 6_998_552 + auxiliary
    convs = [(9 * i + 1) * o for i, o in [(1, 64), (64, 64), (64, 128), (128, 128)]]
    convs += [(9 * i + 1) * o for i, o in [(128, 256), (256, 256), (256, 512), (512, 512)]]
    convs += [(9 * i + 1) * o for i, o in [(512, 1024), (1024, 1024)]]
    convs += [(9 * i + 1) * o for o in (512, 256, 128, 64) for i in (2 * o, o)]
    ups = [(4 * 2 * o + 1) * o for o in (512, 256, 128, 64)]
    assert num_parameters(models.create("unet"), size=188) == sum(convs + ups) + 65 * 2


@pytest.mark.parametrize("name", MACS)
def test_macs_and_activations_are_those_published(name):
    network = models.create(name)
    costs = account(network, network.input_shape)
    assert (costs.macs, costs.activation_values) == MACS[name]


def composed(*layers):
    """Araujo et al., 2019: (size, stride, padding) of windows (taps, stride, padding) in a row."""
    size, stride, padding = 1, 1, 0
    for taps, step, pad in layers:
        size, padding, stride = size + (taps - 1) * stride, padding + pad * stride, stride * step
    return size, stride, padding


def same(taps, times=1):
    return [(taps, 1, taps // 2)] * times


def googlenet_path(taps, last):
    pool = (3, 2, 0)
    start = [(7, 2, 3), pool, *same(3), pool, *same(taps, 2), pool, *same(taps, 5)]
    return [*start, (last, 2, 0), *same(taps, 2)]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("resnet18", (435, 32, 217)),  # Araujo et al., as are the next two.
        ("resnet50", (427, 32, 213)),
        ("resnet50_v1", (483, 32, 241)),
        ("googlenet", composed(*googlenet_path(3, last=2))),
        ("googlenet_2014", composed(*googlenet_path(5, last=3))),
        # 3, and 2 more for each of 7 layers at stride 1, 4 for each of 6, 8 for each of 5.
        ("cifar_resnet20", (3 + 2 * 7 + 4 * 6 + 8 * 5, 4, 40)),
    ],
)
def test_last_volume_sees_the_published_field(name, field):
    network = models.create(name)
    if name.startswith("googlenet"):
        network = network.clone(auxiliary=False)
    volumes = [row for row in account(network, network.input_shape).rows if row.receptive_field]
    seen = [row.receptive_field for row in volumes if len(row.output_shape) == 3][-1].axes
    assert [(axis.size, axis.stride, axis.padding) for axis in seen] == [field] * 2


# ---- torchvision and timm ----


def oracle_network(name):
    tables, torch = torchvision_oracle.load()
    if name.startswith("se_"):
        timm = pytest.importorskip("timm", reason="timm is an optional oracle")
        return timm.create_model(f"se{name.removeprefix('se_')}"), torch
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Its initialisation, drawn anew below.
        return getattr(tables, name)(weights=None), torch


def filled(theirs, torch, dtype="float64"):
    """Their network and our variables, without dropout, which no two libraries draw alike."""
    torchvision_oracle.fill(theirs, torch, seed=0)
    theirs = theirs.to(getattr(torch, dtype)).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    variables = torchvision_oracle.graph_tree(theirs.state_dict())
    return theirs, jax.tree.map(jnp.asarray, variables)


def images(torch, *size, dtype="float64"):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn((2, 3, *size), generator=generator, dtype=torch.float64)
    x = x.to(getattr(torch, dtype))
    return x, jnp.asarray(x.numpy().transpose(0, 2, 3, 1))


def assert_close(ours, theirs, relative):
    """Against the largest magnitude of the array: some values are sums that cancel."""
    theirs = np.asarray(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=relative * np.abs(theirs).max())


def check_scores(name, dtype, relative, *size):
    with jax.enable_x64(dtype == "float64"):
        theirs, torch = oracle_network(name)
        theirs, variables = filled(theirs, torch, dtype)
        x, ours = images(torch, *size, dtype=dtype)
        with torch.no_grad():
            expected = theirs(x).numpy()
        network = models.create(name, param_dtype=dtype)
        assert_close(compile_cheaply(network.apply)(variables, ours), expected, relative)


SHALLOW = ["resnet18", "resnet50", "se_resnet18", "googlenet"]
DEEP = ["resnet34", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2", "se_resnet50"]
each_network = pytest.mark.parametrize(
    "name", [*SHALLOW, *(pytest.param(name, marks=pytest.mark.slow) for name in DEEP)]
)


@each_network
def test_scores_are_those_of_torchvision_and_timm(name):
    check_scores(name, "float64", 1e-10, 33, 40)


@each_network
def test_scores_are_those_of_torchvision_at_another_size_in_float32(name):
    check_scores(name, "float32", 1e-5, 64, 64)


# Their layers are those of the networks above, in other numbers.
@pytest.mark.parametrize(
    "name", ["resnet101", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet101_2"]
)
def test_names_and_shapes_are_those_of_torchvision(name):
    tables, torch = torchvision_oracle.load()
    with torch.device("meta"):
        theirs = getattr(tables, name)(weights=None)
    expected = {
        (torchvision_oracle.graph_name(key.rpartition(".")[0]), tuple(sorted(value.shape)))
        for key, value in theirs.state_dict().items()
        if value.ndim
    }
    variables = shapes_of(models.create(name), jnp.ones((32, 32, 3)))
    assert expected == {
        (path.split("/", 1)[1].rpartition("/")[0], tuple(sorted(leaf.shape)))
        for path, leaf in flatten_dict(variables, sep="/").items()
    }


def small_pair(kind, **options):
    """A residual network of few blocks, theirs and ours.

    Deeper ones repeat them, and compiling their gradients would take minutes.
    """
    _, torch = torchvision_oracle.load()
    from torchvision.models import resnet

    block = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[kind]
    theirs = resnet.ResNet(block, [1, 2, 1, 1], num_classes=10, **options)
    return theirs, torch, ResNet(depths=(1, 2, 1, 1), kind=kind, num_classes=10)


def small_se(kind):
    timm = pytest.importorskip("timm", reason="timm is an optional oracle")
    from timm.models import resnet

    _, torch = torchvision_oracle.load()
    block = {"basic": resnet.BasicBlock, "bottleneck": resnet.Bottleneck}[kind]
    theirs = timm.models.ResNet(
        block, [1, 2, 1, 1], num_classes=10, block_args={"attn_layer": "se"}
    )
    network = ResNet(depths=(1, 2, 1, 1), kind=kind, num_classes=10, squeeze_excite=True)
    return theirs, torch, network


def googlenets():
    theirs, torch = oracle_network("googlenet")
    return theirs, torch, models.create("googlenet", dropout=0.0)


@pytest.mark.parametrize(
    "pair",
    [
        pytest.param(functools.partial(small_pair, "basic"), id="basic"),
        pytest.param(functools.partial(small_pair, "bottleneck"), id="bottleneck"),
        pytest.param(functools.partial(small_se, "basic"), id="se"),
    ],
)
def test_a_training_step_is_theirs_scores_averages_and_all_gradients(pair):
    check_training_step(pair, compile_cheaply)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SHALLOW, *DEEP])
def test_a_training_step_of_the_whole_network_is_theirs(name):
    # Eagerly: alike blocks share what is compiled.
    check_training_step(googlenets if name == "googlenet" else functools.partial(whole, name))


def whole(name):
    theirs, torch = oracle_network(name)
    return theirs, torch, models.create(name)


def check_training_step(pair, compiled=lambda function: function):
    with jax.enable_x64(True):
        theirs, torch, network = pair()
        theirs, variables = filled(theirs, torch)
        x, ours = images(torch, 40, 33)
        out = theirs.train()(x)
        outs = (out.logits, out.aux_logits1, out.aux_logits2) if hasattr(out, "logits") else [out]
        weights = [torch.randn(o.shape, dtype=o.dtype) / (k + 1) for k, o in enumerate(outs)]
        sum((o * w).sum() for o, w in zip(outs, weights, strict=True)).backward()
        gradients = torchvision_oracle.graph_tree(
            {key: value.grad for key, value in theirs.named_parameters()}
        )["params"]
        averages = torchvision_oracle.graph_tree(dict(theirs.named_buffers()))["batch_stats"]

        network = network.clone(param_dtype="float64")

        def loss(params):
            got, moved = network.apply(
                {**variables, "params": params}, ours, train=True, mutable=["batch_stats"]
            )
            got = jax.tree.leaves(got)
            weighted = (jnp.sum(o * w.numpy()) for o, w in zip(got, weights, strict=True))
            return sum(weighted), (got, moved["batch_stats"])

        gradient, (got, moved) = compiled(jax.grad(loss, has_aux=True))(variables["params"])
        for mine, other in zip(got, outs, strict=True):
            assert_close(mine, other.detach(), 1e-10)
        jax.tree.map(functools.partial(assert_close, relative=1e-10), moved, averages)
        jax.tree.map(functools.partial(assert_close, relative=1e-9), gradient, gradients)


@pytest.mark.parametrize(("stride", "replaced"), [(16, (0, 0, 1)), (8, (0, 1, 1))])
def test_output_stride_is_torchvisions_replacement_of_strides(stride, replaced):
    with jax.enable_x64(True):
        options = {"replace_stride_with_dilation": list(map(bool, replaced))}
        theirs, torch, network = small_pair("bottleneck", **options)
        theirs, variables = filled(theirs, torch)
        x, ours = images(torch, 40, 33)
        with torch.no_grad():
            expected = theirs(x).numpy()
        network = network.clone(output_stride=stride, param_dtype="float64")
        assert_close(compile_cheaply(network.apply)(variables, ours), expected, 1e-10)
        volumes = jax.eval_shape(network.clone(features=True).apply, variables, ours)
        assert volumes["stage3"].shape[1:3] == (-(-40 // stride), -(-33 // stride))
