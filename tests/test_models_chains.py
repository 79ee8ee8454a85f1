"""The networks of layers in line against torchvision, PyTorch's functions and published counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision_oracle
from chain_networks import randomized, relative_error, small
from flax.traverse_util import flatten_dict

from cnnjax import models, pattern
from cnnjax.analysis import account
from cnnjax.pattern.classics import PATTERNS

PUBLISHED = {
    # torchvision's published counts; vgg13, 19 and *_bn from torchvision's documentation.
    "alexnet": (61_100_840, 714_188_480),
    "vgg11": (132_863_336, 7_609_090_048),
    "vgg13": (133_047_848, 11_308_466_176),
    "vgg16": (138_357_544, 15_470_264_320),
    "vgg19": (143_667_240, 19_632_062_464),
    "vgg11_bn": (132_868_840, 7_609_090_048),
    "vgg13_bn": (133_053_736, 11_308_466_176),
    "vgg16_bn": (138_365_992, 15_470_264_320),
    "vgg19_bn": (143_678_248, 19_632_062_464),
    "vgg11_lrn": (132_863_336, 7_609_090_048),
    "lenet5": (61_706, 416_520),
    # Caffe's bvlc_alexnet, the network of 2012.
    "alexnet_2012": (60_965_224, 724_406_816),
}


@pytest.mark.parametrize(("name", "counts"), PUBLISHED.items(), ids=PUBLISHED)
def test_parameters_and_macs_are_the_published_ones(name, counts):
    net = models.create(name)
    found = account(net, net.input_shape)
    assert (found.parameters, found.macs) == counts


# (window, inputs, outputs, positions an axis), read off Simonyan and Zisserman's table 1.
VGG_C = [
    *((3, 3, 64, 224), (3, 64, 64, 224), (3, 64, 128, 112), (3, 128, 128, 112)),
    *((3, 128, 256, 56), (3, 256, 256, 56), (1, 256, 256, 56)),
    *((3, 256, 512, 28), (3, 512, 512, 28), (1, 512, 512, 28)),
    *((3, 512, 512, 14), (3, 512, 512, 14), (1, 512, 512, 14)),
    *((7, 512, 4096, 1), (1, 4096, 4096, 1), (1, 4096, 1000, 1)),
]
# Springenberg et al., tables 1 and 2; all end in the same three layers.
_END = [(3, 192, 192, 6), (1, 192, 192, 6), (1, 192, 10, 6)]
_A1, _A2 = (5, 3, 96, 32), (5, 96, 192, 16)
_C1, _C2 = [(3, 3, 96, 32), (3, 96, 96, 32)], [(3, 96, 192, 16), (3, 192, 192, 16)]
_B1, _B2 = [_A1, (1, 96, 96, 32)], [_A2, (1, 192, 192, 16)]
_MORE1, _MORE2 = (3, 96, 96, 32), (3, 192, 192, 16)
_HALF1, _HALF2 = (3, 96, 96, 16), (3, 192, 192, 8)
TABLES = {
    "vgg16_c": VGG_C,
    "base_cnn_a": [_A1, _A2, *_END],
    "strided_cnn_a": [(5, 3, 96, 16), (5, 96, 192, 8), *_END],
    "conv_pool_cnn_a": [_A1, _MORE1, _A2, _MORE2, *_END],
    "all_cnn_a": [_A1, _HALF1, _A2, _HALF2, *_END],
    "base_cnn_b": [*_B1, *_B2, *_END],
    "strided_cnn_b": [_A1, (1, 96, 96, 16), _A2, (1, 192, 192, 8), *_END],
    "conv_pool_cnn_b": [*_B1, _MORE1, *_B2, _MORE2, *_END],
    "all_cnn_b": [*_B1, _HALF1, *_B2, _HALF2, *_END],
    "base_cnn_c": [*_C1, *_C2, *_END],
    "strided_cnn_c": [_C1[0], _HALF1, _C2[0], _HALF2, *_END],
    "conv_pool_cnn_c": [*_C1, _MORE1, *_C2, _MORE2, *_END],
    "all_cnn_c": [*_C1, _HALF1, *_C2, _HALF2, *_END],
    "cifar_convnet": [
        *((3, 3, 32, 32), (3, 32, 32, 32), (3, 32, 64, 16), (3, 64, 64, 16)),
        *((3, 64, 128, 8), (3, 128, 128, 8), (4, 128, 10, 1)),
    ],
}


@pytest.mark.parametrize(("name", "layers"), TABLES.items(), ids=TABLES)
def test_parameters_and_macs_are_the_sums_over_the_papers_table(name, layers):
    net = models.create(name)
    found = account(net, net.input_shape)
    assert found.parameters == sum(w * w * i * o + o for w, i, o, _ in layers)
    assert found.macs == sum(w * w * i * o * p * p for w, i, o, p in layers)


def test_published_counts_of_tables_that_print_one():
    assert sum(w * w * i * o + o for w, i, o, _ in TABLES["all_cnn_c"]) == 1_369_738
    assert sum(w * w * i * o + o for w, i, o, _ in TABLES["vgg16_c"]) == 133_638_952


@pytest.mark.parametrize("name", PATTERNS)
def test_network_costs_what_the_pattern_of_its_name_costs(name):
    net = models.create(name)
    chain = pattern.to_module(pattern.parse(PATTERNS[name]))
    ours, theirs = account(net, net.input_shape), account(chain, chain.input_shape)
    assert net.input_shape == chain.input_shape
    assert (ours.parameters, ours.macs) == (theirs.parameters, theirs.macs)


@pytest.mark.parametrize(
    ("name", "renamed"),
    [("lenet5", {"fc1": "head"}), ("all_cnn_c", {"conv8": "head"})],
    ids=["lenet5", "all_cnn_c"],
)
def test_network_scores_as_the_pattern_of_its_name(name, renamed):
    net = models.create(name)
    chain = pattern.to_module(pattern.parse(PATTERNS[name]))
    x = jax.random.normal(jax.random.key(0), (2, *net.input_shape))
    variables = randomized(chain, x)
    params = {renamed.get(layer, layer): leaf for layer, leaf in variables["params"].items()}
    ours = net.apply({"params": params}, x)
    assert relative_error(ours, chain.apply(variables, x, train=False)) < 1e-5


# ---- torchvision ----

WIDTHS = {"alexnet": (8, 16, 12, 12, 8), "vgg": (8, 16, 16, 16, 16)}
TORCHVISION = [
    *("alexnet", "vgg11", "vgg13", "vgg16", "vgg19"),
    *("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
]


slow = pytest.mark.slow


def torchvision_pair(name, dtype, **published):
    """torchvision's network of that name with fewer filters, and ours, unless widths are given."""
    theirs, torch = torchvision_oracle.load()
    with torch.device("meta"):
        model = getattr(theirs, name)(weights=None, dropout=0.0)
    # Running averages are kept in the parameters' dtype.
    options = {"dropout": 0.0, "param_dtype": np.dtype(dtype)} | published
    if not published:
        widths = WIDTHS[name if name == "alexnet" else "vgg"]
        torchvision_oracle.shrink(model, torch, widths, (16, 16, 7), staged=name != "alexnet")
        options |= {"widths": widths, "hidden": 16, "num_classes": 7}
    model = model.to(getattr(torch, dtype)).to_empty(device="cpu")
    torchvision_oracle.fill(model, torch, seed=len(name))
    return torch, model, models.create(name, **options)


def our_tree(torch, model, values):
    staged = model.features[0].stride == (1, 1)
    names = list(torchvision_oracle.chain_names(model, torch, staged))
    return torchvision_oracle.chain_tree(values, names, model.avgpool.output_size)


def images_of(size, dtype):
    return np.random.default_rng(1).standard_normal((2, *size, 3)).astype(dtype)


def to_torch(torch, x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def assert_scores_are_torchvisions(torch, model, net, x, tolerance):
    ours = net.apply(our_tree(torch, model, model.state_dict()), jnp.asarray(x))
    with torch.no_grad():
        theirs = model.eval()(to_torch(torch, x)).numpy()
    assert ours.dtype == theirs.dtype
    assert relative_error(ours, theirs) < tolerance


@pytest.mark.parametrize("name", TORCHVISION)
def test_scores_are_torchvisions_in_float32(torch, name):
    # Last volumes of 1x2 and 2x1, whose pixels adaptive pooling repeats.
    x = images_of((67, 99) if name == "alexnet" else (64, 32), "float32")
    assert_scores_are_torchvisions(*torchvision_pair(name, "float32"), x, 1e-5)


@slow
def test_published_alexnet_at_full_size_scores_as_torchvisions(torch):
    x = images_of((224, 224), "float32")
    assert_scores_are_torchvisions(*torchvision_pair("alexnet", "float32", hidden=4096), x, 1e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("alexnet", "vgg11") else slow)
        for name in TORCHVISION
    ],
)
def test_scores_gradients_and_averages_are_torchvisions_in_float64(torch, name):
    torch, model, net = torchvision_pair(name, "float64")
    # alexnet's last volume is 7x1, averaged to 6x6 with regions that overlap.
    x = images_of((259, 67) if name == "alexnet" else (32, 48), "float64")
    variables = our_tree(torch, model, model.state_dict())
    cotangent = np.random.default_rng(2).standard_normal((2, 7))
    with jax.enable_x64(True):
        assert_scores_are_torchvisions(torch, model, net, x, 1e-10)

    theirs = model.train()(to_torch(torch, x))
    (theirs * torch.from_numpy(cotangent)).sum().backward()

    def scores(params):
        return net.apply(variables | {"params": params}, x, train=True, mutable=["batch_stats"])

    with jax.enable_x64(True):
        # Eagerly, since the networks share the shapes of their layers.
        ours, pull, moved = jax.vjp(scores, variables["params"], has_aux=True)
        (gradients,) = pull(jnp.asarray(cotangent))
    assert relative_error(ours, theirs.detach().numpy()) < 1e-10
    wanted = our_tree(torch, model, {n: p.grad for n, p in model.named_parameters()})["params"]
    largest = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(wanted))
    # A bias in front of a norm has a gradient of zero but for rounding, so leaves share a scale.
    errors = jax.tree.map(
        lambda a, b: np.max(np.abs(np.asarray(a) - b)) / largest, gradients, wanted
    )
    assert max(jax.tree.leaves(errors)) < 1e-10, errors
    averages = our_tree(torch, model, dict(model.named_buffers()))
    assert bool(averages) == name.endswith("_bn")
    errors = jax.tree.map(relative_error, dict(moved), averages)
    assert max(jax.tree.leaves(errors), default=0.0) < 1e-10, errors


# ---- PyTorch's functions, layer by layer ----

RELU, TANH, LRN = ("relu",), ("tanh",), ("lrn",)


def conv(stride=1, padding=0, groups=1):
    return ("conv", stride, padding, groups)


def pool(window, stride, padding=0, ceil=False):
    return ("pool", window, stride, padding, ceil)


def vgg(*stages):
    for layers in stages:
        for window in layers:
            yield from (conv(padding=window // 2), RELU)
        yield pool(2, 2)


DENSES = [("dense",), RELU, ("dense",), RELU, ("dense",)]
_LAST = [conv(), RELU, conv(), RELU, conv(), RELU, ("mean",)]
_POOL_A = [conv(padding=2), RELU, pool(3, 2, ceil=True)]
_FIRST, *_LATER = vgg((3,), (3, 3, 1))
SCRIPTS = {
    "lenet5": [
        *(conv(), TANH, ("average",), conv(), TANH, ("average",), conv(), TANH),
        *(("dense",), TANH, ("dense",)),
    ],
    "alexnet_2012": [
        *(conv(4), RELU, LRN, pool(3, 2), conv(1, 2, 2), RELU, LRN, pool(3, 2)),
        *(conv(1, 1), RELU, conv(1, 1, 2), RELU, conv(1, 1, 2), RELU, pool(3, 2), *DENSES),
    ],
    "zfnet": [
        *(conv(2, 1), RELU, pool(3, 2, 1), LRN, conv(2), RELU, pool(3, 2, 1), LRN),
        *([conv(1, 1), RELU] * 3),
        pool(3, 2),
        *DENSES,
    ],
    "vgg11_lrn": [_FIRST, RELU, LRN, *_LATER[1:], ("adapt", 7), *DENSES],
    "base_cnn_a": [*_POOL_A, *_POOL_A, *_LAST],
    "strided_cnn_b": [
        *([conv(padding=2), RELU, conv(2), RELU] * 2),
        *_LAST,
    ],
    "all_cnn_c": [*(([conv(1, 1), RELU] * 2 + [conv(2, 1), RELU]) * 2), *_LAST],
    "fractional_mnist": [
        *(word for out in (4, 2) for word in (conv(), ("leaky",), ("fractional", out))),
        *(conv(), ("leaky",), conv(), ("leaky",), ("dense",)),
    ],
    "cifar_convnet": [*vgg((3, 3), (3, 3), (3, 3)), ("dense",)],
}


def interpret(torch, script, leaves, x):
    """The layers one after another by PyTorch's functions, on weights in our layout and order."""
    functional = torch.nn.functional
    weights = iter(leaves)
    for word, *sizes in script:
        match word:
            case "conv":
                stride, padding, groups = sizes
                bias, kernel = next(weights), next(weights).permute(3, 2, 0, 1)
                x = functional.conv2d(x, kernel, bias, stride, padding, groups=groups)
            case "dense":
                x = x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x
                bias, kernel = next(weights), next(weights)
                x = x @ kernel + bias
            case "relu" | "tanh":
                x = getattr(torch, word)(x)
            case "leaky":
                x = functional.leaky_relu(x, 0.333)
            case "lrn":  # PyTorch divides alpha by the window, the paper does not.
                x = functional.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
            case "pool":
                window, stride, padding, ceil = sizes
                x = functional.max_pool2d(x, window, stride, padding, ceil_mode=ceil)
            case "average":
                x = functional.avg_pool2d(x, 2)
            case "adapt":
                x = functional.adaptive_avg_pool2d(x, sizes[0])
            case "fractional":
                middle = torch.full((*x.shape[:2], 2), 0.5, dtype=x.dtype)
                x = functional.fractional_max_pool2d(
                    x, 2, output_size=sizes[0], _random_samples=middle
                )
            case "mean":
                x = x.mean((2, 3))
    assert next(weights, None) is None
    return x


def scores_and_gradients(net, variables, x):
    """Scores, and the gradient of half their squares' sum."""
    scores, pull = jax.vjp(lambda variables: net.apply(variables, x), variables)
    (gradients,) = pull(scores)
    return scores, gradients


@pytest.mark.parametrize("name", SCRIPTS)
def test_scores_and_gradients_are_those_of_pytorchs_functions(torch, name):
    net, size = small(name)
    x = np.random.default_rng(1).standard_normal((2, size, size, net.input_channels))
    with jax.enable_x64(True):
        variables = randomized(net, jnp.asarray(x), jnp.float64)
        ours, gradients = jax.jit(scores_and_gradients, static_argnums=0)(net, variables, x)
    gradients = flatten_dict(gradients["params"])
    paths = sorted(gradients, key=in_order)
    leaves = [flatten_dict(variables["params"])[path] for path in paths]
    leaves = [torch.tensor(np.array(leaf), requires_grad=True) for leaf in leaves]
    theirs = interpret(torch, SCRIPTS[name], leaves, to_torch(torch, x))
    assert relative_error(ours, theirs.detach().numpy()) < 1e-10
    (0.5 * theirs.square().sum()).backward()
    for path, leaf in zip(paths, leaves, strict=True):
        assert relative_error(gradients[path], leaf.grad.numpy()) < 1e-10, path


def in_order(path):
    """stage0/conv0, stage0/conv1, ..., conv9, conv10, fc0, fc1, head; the bias first."""
    kinds = ("stage", "conv", "fc", "head", "bias", "kernel")
    split = [(word.rstrip("0123456789"), word) for word in path]
    return [(kinds.index(kind), int(word[len(kind) :] or 0)) for kind, word in split]
