"""Names, initial values, pyramids and heads of the networks of layers in line, law by law."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_networks import SMALL, images_for, randomized, relative_error, run, shapes_of, small
from flax.traverse_util import flatten_dict

from cnnjax import models

STRIDED = ("alexnet_2012", "alexnet", "zfnet", "vgg11")  # Those that reach a stride of 32.
RELU_AFTER_THE_HEAD = ("base_cnn_a", "strided_cnn_b", "all_cnn_c")


# ---- names and initial values ----

CONVS = [f"conv{i}" for i in range(14)]
TOP_NAMES = {
    "lenet5": [*CONVS[:3], "fc0", "head"],
    "alexnet_2012": [*CONVS[:5], "fc0", "fc1", "head"],
    "alexnet": [*CONVS[:5], "fc0", "fc1", "head"],
    "zfnet": [*CONVS[:5], "fc0", "fc1", "head"],
    "vgg16_bn": [*(f"stage{i}" for i in range(5)), "fc0", "fc1", "head"],
    "base_cnn_a": [*CONVS[:4], "head"],
    "all_cnn_c": [*CONVS[:8], "head"],
    "fractional_mnist": [*CONVS[:8], "head"],
    "fractional_cifar100": [*CONVS, "head"],
    "cifar_convnet": [*CONVS[:6], "head"],
}


@pytest.mark.parametrize(("name", "layers"), TOP_NAMES.items(), ids=TOP_NAMES)
def test_layers_are_named_flatly_from_zero_and_the_classifier_is_head(name, layers):
    net = models.create(name)
    variables, scores = shapes_of(net, jnp.zeros((2, *net.input_shape)))
    assert set(variables["params"]) == set(layers)
    assert {leaf for _, *_, leaf in flatten_dict(variables["params"])} <= {
        "kernel",
        "bias",
        "scale",
    }
    assert scores.shape == (2, net.num_classes)


def test_stages_of_vgg_number_their_layers_and_norms():
    variables, _ = shapes_of(models.create("vgg16_bn"), jnp.zeros((1, 32, 32, 3)))
    assert set(variables["params"]["stage2"]) == {
        f"{k}{i}" for k in ("conv", "norm") for i in range(3)
    }
    assert set(variables["batch_stats"]["stage4"]["norm2"]) == {"mean", "var"}


@pytest.mark.parametrize("name", ["fractional_mnist", "fractional_cifar10", "fractional_cifar100"])
def test_fractional_networks_have_the_published_sizes_and_widths(name):
    # Graham (2014): six layers of sqrt 2 want 36 pixels, twelve of cbrt 2 want 94.
    net = models.create(name, features=True)
    first, sizes = {
        "fractional_mnist": (32, {"conv0": 35, "conv2": 16, "conv4": 6, "conv7": 1}),
        "fractional_cifar10": (
            160,
            {"conv0": 93, "conv3": 44, "conv6": 20, "conv9": 8, "conv13": 1},
        ),
        "fractional_cifar100": (
            64,
            {"conv0": 93, "conv3": 44, "conv6": 20, "conv9": 8, "conv13": 1},
        ),
    }[name]
    _, pyramid = shapes_of(net, jnp.zeros((2, *net.input_shape)))
    wanted = {
        layer: (2, size, size, first * (int(layer.removeprefix("conv")) + 1))
        for layer, size in sizes.items()
    }
    assert {layer: volume.shape for layer, volume in pyramid.items()} == wanted


def initial(name, **options):
    net, size = small(name, **options)
    return started(net, images_for(net, size))


def started(net, x):
    """Parameters alone, so that XLA leaves the network out, by a generator quick to compile."""
    key = jax.random.key(0, impl="unsafe_rbg")
    return jax.jit(lambda key: net.init(key, x)["params"])(key)


def test_alexnet_of_2012_starts_as_its_paper_says():
    # Section 5: deviation 0.01; biases one in layers 2, 4, 5 and the hidden dense ones, else zero.
    params = initial("alexnet_2012", widths=(96, 96, 96, 96, 96), hidden=256)
    ones = {name for name, layer in params.items() if np.all(np.asarray(layer["bias"]) == 1)}
    zeros = {name for name, layer in params.items() if np.all(np.asarray(layer["bias"]) == 0)}
    assert ones == {"conv1", "conv3", "conv4", "fc0", "fc1"}
    assert zeros == {"conv0", "conv2", "head"}
    for layer in params.values():
        kernel = np.asarray(layer["kernel"])
        # The standard error of a deviation of n values is 1 / sqrt(2 n) of it.
        assert abs(kernel.std() / 0.01 - 1) < 4 / np.sqrt(2 * kernel.size)


def test_alexnet_starts_as_pytorch_starts_layers():
    params = initial("alexnet", hidden=256)
    for name, layer in params.items():
        kernel, bias = np.asarray(layer["kernel"]), np.asarray(layer["bias"])
        limit = 1 / np.sqrt(kernel[..., 0].size)
        for values in (kernel, bias):
            assert np.abs(values).max() <= limit, name
        assert np.abs(kernel).max() > 0.95 * limit, name
        assert bias.std() > 0.2 * limit, name


def test_fractional_network_starts_in_the_bounds_of_grahams_programs():
    params = initial("fractional_mnist", filters=16, num_poolings=2, ratio=2**0.5, num_classes=10)
    # sqrt(6 / (inputs + c outputs)), c = (2 / sqrt 2)^2 = 2, then 4, then 1, and 10,000.
    for name, bound in {
        "conv0": 6 / (4 + 2 * 16),
        "conv1": 6 / (64 + 2 * 32),
        "conv2": 6 / (128 + 4 * 48),
        "conv3": 6 / (48 + 64),
        "head": 6 / (params["head"]["kernel"].shape[0] + 100_000),
    }.items():
        largest = np.abs(np.asarray(params[name]["kernel"])).max()
        assert 0.9 * np.sqrt(bound) < largest <= np.sqrt(bound) * (1 + 1e-6), name


# ---- the pyramid and the output stride ----


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        # Reductions of a fractional network are means; its sizes are tested by themselves.
        *((name, None) for name in SMALL if name != "fractional_mnist"),
        *((name, stride) for name in STRIDED for stride in (8, 16)),
    ],
)
def test_volumes_have_their_channels_and_grow_by_one_position_a_reduction(name, output_stride):
    net, size = small(name, features=True, output_stride=output_stride)
    step = 32 * 3
    _, before = shapes_of(net, images_for(net, size))
    _, after = shapes_of(net, images_for(net, size + step))
    infos = {info.name: info for info in net.feature_info}
    assert set(before) == set(infos)
    for layer, info in infos.items():
        assert before[layer].shape[-1] == info.channels
        assert after[layer].shape[-3] - before[layer].shape[-3] == step // info.reduction, info
    assert [i.reduction for i in net.feature_info] == sorted(i.reduction for i in net.feature_info)
    assert max(i.reduction for i in net.feature_info) == (output_stride or net.published_stride)


def test_reductions_of_the_published_networks():
    reductions = {
        name: tuple(info.reduction for info in models.create(name).feature_info)
        for name in ("lenet5", "alexnet", "zfnet", "vgg19_bn", "all_cnn_a", "strided_cnn_a")
    }
    assert reductions == {
        "lenet5": (1, 2, 4),
        "alexnet": (4, 8, 16, 32),
        "zfnet": (2, 4, 8, 16, 32),
        "vgg19_bn": (1, 2, 4, 8, 16, 32),
        "all_cnn_a": (1, 2, 4),
        "strided_cnn_a": (2, 4),
    }


@pytest.mark.parametrize("name", STRIDED)
def test_finer_output_stride_keeps_the_published_positions_and_scores(name):
    net, size = small(name)
    x = images_for(net, size)
    variables = randomized(net, x)
    fine = net.clone(output_stride=8)
    published = run(net.clone(features=True), variables, x)
    finer = run(fine.clone(features=True), variables, x)
    for before, after in zip(net.feature_info, fine.feature_info, strict=True):
        step = before.reduction // after.reduction
        kept = finer[after.name][:, ::step, ::step]
        height, width = published[before.name].shape[1:3]
        assert relative_error(kept[:, :height, :width], published[before.name]) < 1e-6
    assert relative_error(run(fine, variables, x), run(net, variables, x)) < 1e-6


@pytest.mark.parametrize("name", ["lenet5", "all_cnn_c", "fractional_cifar10"])
def test_network_of_fine_volumes_refuses_an_output_stride(name):
    with pytest.raises(ValueError, match="output_stride is not for this network"):
        models.create(name, output_stride=8)


# ---- the head ----


def dense_by_numpy(params, vector, activation):
    """fc0, fc1, ..., head of a vector."""
    for name in sorted(params):
        if name == "head" or name.startswith("fc"):
            kernel, bias = (
                np.asarray(params[name][leaf], np.float64) for leaf in ("kernel", "bias")
            )
            vector = vector @ kernel.reshape(-1, kernel.shape[-1]) + bias
            vector = vector if name == "head" else activation(vector)
    return vector


HEAD_WINDOWS = {
    "lenet5": (1, 2),
    "alexnet_2012": (2, 1),
    "zfnet": (2, 2),
    "vgg11": (1, 2),
    "all_cnn_c": (4, 3),
    "fractional_mnist": (1, 1),
    "cifar_convnet": (4, 2),
}


@pytest.mark.parametrize(("name", "window"), HEAD_WINDOWS.items(), ids=HEAD_WINDOWS)
def test_slid_head_scores_each_window_of_the_last_volume(name, window):
    net, size = small(name, head_window=window)
    x = images_for(net, {"lenet5": 36, "fractional_mnist": 11}.get(name, size))
    variables = randomized(net, x)
    params = variables["params"]
    last = net.feature_info[-1].name
    volume = np.asarray(run(net.clone(features=True), variables, x)[last], np.float64)
    height, width = window
    positions = [n - w + 1 for n, w in zip(volume.shape[1:3], window, strict=True)]
    activation = np.tanh if name == "lenet5" else lambda v: np.maximum(v, 0)

    wanted = np.empty((2, *positions, 5))
    for i, row, column in np.ndindex(2, *positions):
        seen = volume[i, row : row + height, column : column + width]
        if name in RELU_AFTER_THE_HEAD:
            scores = activation(
                dense_by_numpy(params, seen.reshape(-1, seen.shape[-1]), activation)
            )
            wanted[i, row, column] = scores.mean(0)
        else:
            wanted[i, row, column] = dense_by_numpy(params, seen.reshape(-1), activation)
    assert relative_error(run(net, variables, x), wanted) < 1e-5

    features = run(net.clone(num_classes=0), variables, x)
    assert features.shape[:-1] == (2, *positions)


@pytest.mark.parametrize(
    "name", ["lenet5", "vgg11", "cifar_convnet", "fractional_mnist", "alexnet"]
)
def test_features_are_what_the_classifier_sees(name):
    net, size = small(name)
    x = images_for(net, size)
    variables = randomized(net, x)
    features = np.asarray(run(net.clone(num_classes=0), variables, x))
    head = variables["params"]["head"]
    scores = features @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    assert relative_error(run(net, variables, x), scores) < 1e-5


def test_features_of_all_cnn_are_the_192_means():
    shapes = shapes_of(models.create("all_cnn_c", num_classes=0), jnp.zeros((2, 32, 32, 3)))
    assert shapes[1].shape == (2, 192)
    assert "head" not in shapes[0]["params"]


def test_slid_head_starts_from_the_same_values():
    net, _ = small("alexnet")
    x = images_for(net, 223)
    whole = flatten_dict(started(net, x))
    slid = flatten_dict(started(net.clone(head_window=(6, 6)), x))
    for path, leaf in whole.items():
        np.testing.assert_array_equal(np.ravel(slid[path]), np.ravel(leaf))
