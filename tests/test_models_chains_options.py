"""Dropout, norms, dtypes, streams and errors of the networks of layers in line, law by law."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chain_networks import SMALL, images_for, randomized, relative_error, run, shapes_of, small
from flax.traverse_util import flatten_dict

from cnnjax import models, ops

each_network = pytest.mark.parametrize("name", SMALL)

# ---- dropout, norm, activation, dtypes, remat ----

DROPOUTS = {
    "lenet5": [],
    "alexnet_2012": [0.5, 0.5],
    "alexnet": [0.5, 0.5],
    "zfnet": [0.5, 0.5],
    "vgg11": [0.5, 0.5],
    "strided_cnn_b": [0.2, 0.5, 0.5],
    "base_cnn_a": [0.2, 0.5, 0.5],
    "all_cnn_c": [0.2, 0.5, 0.5],
    "fractional_mnist": [],
    "fractional_cifar10": [0.5 * i / 13 for i in range(1, 14)],
    "cifar_convnet": [],
}


@pytest.mark.parametrize(("name", "rates"), DROPOUTS.items(), ids=DROPOUTS)
def test_dropout_has_the_published_rates_and_zero_switches_it_off(name, rates):
    found = []

    def record(call, arguments, keywords, context):
        if isinstance(context.module, nn.Dropout):
            found.append(context.module.rate)
        return call(*arguments, **keywords)

    def rates_of(**options):
        found.clear()
        net = models.create(name, **options)
        rngs = {stream: jax.random.key(0) for stream in ("params", "dropout", "fractional")}
        x = jnp.zeros((2, *net.input_shape))
        with nn.intercept_methods(record):
            jax.eval_shape(lambda: net.init(rngs, x, train=True))
        return list(found)

    assert rates_of() == pytest.approx(rates)
    assert rates_of(dropout=0.0) == []


def test_dropout_of_a_fractional_network_takes_whole_maps_of_the_batch():
    net, size = small("fractional_mnist", dropout=0.8, features=True)
    x = images_for(net, size)
    variables = randomized(net, x)
    streams = {"dropout": jax.random.key(1), "fractional": jax.random.key(2)}
    volume = np.asarray(run(net, variables, x, train=True, rngs=streams)["conv3"])
    zero = volume == 0
    assert 0 < zero.mean() < 1
    np.testing.assert_array_equal(zero, np.broadcast_to(zero[0, 0, 0], zero.shape))


NUM_ACTIVATIONS = {"lenet5": 4, "alexnet": 7, "vgg13_bn": 12, "all_cnn_c": 9, "cifar_convnet": 6}


@pytest.mark.parametrize(("name", "count"), NUM_ACTIVATIONS.items(), ids=NUM_ACTIVATIONS)
def test_activation_given_as_a_function_is_called_after_every_layer_but_the_scores(name, count):
    shapes = []
    net, size = small(name, activation=lambda x: shapes.append(x.shape) or x)
    variables = jax.eval_shape(net.init, jax.random.key(0), images_for(net, size))
    shapes.clear()
    jax.eval_shape(lambda v: net.apply(v, images_for(net, size)), variables)
    assert len(shapes) == count


@pytest.mark.parametrize("norm", ["batch", "group", "layer", nn.LayerNorm])
@pytest.mark.parametrize(("name", "count"), [("lenet5", 3), ("zfnet", 5), ("all_cnn_c", 8)])
def test_norm_follows_every_convolution_but_the_scores(name, count, norm):
    net, size = small(name, norm=norm)
    variables, _ = shapes_of(net, images_for(net, size))
    norms = {path[-2] for path in flatten_dict(variables["params"]) if path[-1] == "scale"}
    assert norms == {f"norm{i}" for i in range(count)}
    assert ("batch_stats" in variables) == (norm == "batch")


@each_network
def test_half_precision_computes_in_it_and_scores_in_float32(name):
    net, size = small(name, dtype=jnp.bfloat16)
    variables, scores = shapes_of(net, images_for(net, size))
    assert scores.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    _, pyramid = shapes_of(net.clone(features=True), images_for(net, size))
    assert {volume.dtype for volume in pyramid.values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize(("name", "layers"), [("lenet5", 3), ("vgg11_lrn", 2)])
def test_rematerialised_network_has_the_same_gradient_and_averages(name, layers):
    net, size = small(name, norm="batch", dropout=0.0, param_dtype=jnp.float64)

    def loss(params, net):
        scores, moved = net.apply(
            variables | {"params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(scores**2), moved

    # Statistics of two images leave gradients that are differences of nearly equal numbers.
    with jax.enable_x64(True):
        x = images_for(net, size).astype(jnp.float64)
        variables = randomized(net, x, jnp.float64)
        plain, again = (
            jax.jit(jax.grad(loss, has_aux=True), static_argnums=1)(variables["params"], each)
            for each in (net, net.clone(remat=True))
        )
        traced = jax.make_jaxpr(lambda p: loss(p, net.clone(remat=True))[0])(variables["params"])
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain))
    errors = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max() / largest, plain, again
    )
    assert max(jax.tree.leaves(errors)) < 1e-10, errors
    assert sum(eqn.primitive.name in ("remat2", "checkpoint") for eqn in traced.eqns) == layers


@each_network
def test_any_number_of_batch_axes_scores_image_by_image(name):
    net, size = small(name, norm=None)
    x = images_for(net, size, batch=(2, 1))
    _, two = shapes_of(net, x)
    _, none = shapes_of(net, x[0, 0])
    assert (two.shape, none.shape) == ((2, 1, 5), (5,))


# ---- fractional pooling ----


def test_evaluation_without_a_stream_takes_one_grid_and_with_one_draws_it():
    net, size = small("fractional_mnist")
    x = images_for(net, size)
    variables = randomized(net, x)
    scored = jax.jit(net.apply)
    np.testing.assert_array_equal(scored(variables, x), scored(variables, x))

    @jax.jit
    def drawn(key, x):
        return net.apply(variables, x, rngs={"fractional": key})

    keys = jax.random.split(jax.random.key(0), 2)
    first, second = (drawn(key, x) for key in keys)
    assert relative_error(first, second) > 1e-3
    mean = ops.average_over_grids(drawn, keys, x, mapped=True)
    assert relative_error(mean, (first + second) / 2) < 1e-5


def test_training_a_fractional_network_wants_its_stream():
    net, size = small("fractional_mnist")
    x = images_for(net, size)
    variables = jax.eval_shape(lambda: net.init(jax.random.key(0), x, train=True))
    message = r'FractionalNet: .* "fractional" while training; give rngs=\{"fractional"'
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda v: net.apply(v, x, train=True), variables)


@pytest.mark.parametrize(
    "regions", ["disjoint", "overlapping_edge", "overlapping_edge_clipped", "overlapping_window"]
)
@pytest.mark.parametrize("randomness", ["pseudorandom", "random"])
@pytest.mark.parametrize("share", ["batch", "channel"])
def test_every_kind_of_region_fits_grahams_sizes(regions, randomness, share):
    net = models.create(
        "fractional_mnist", filters=1, regions=regions, randomness=randomness, share=share
    )
    x = jnp.zeros((2, 36, 36, 1))
    variables, _ = shapes_of(net, x)
    _, scores = shapes_of(net, x, train=True, rngs={"fractional": jax.random.key(0)})
    assert variables["params"]["head"]["kernel"].shape == (8, 10)
    assert scores.shape == (2, 10)


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fractional_mnist", {"regions": "overlapping"}, "FractionalNet: regions must be one of"),
        ("fractional_mnist", {"share": "all"}, "FractionalNet: share must be one of"),
        ("fractional_mnist", {"randomness": "none"}, "FractionalNet: randomness must be one of"),
        ("fractional_mnist", {"ratio": 1}, "ratio must be above 1"),
        ("fractional_mnist", {"final_dropout": 1.0}, r"final_dropout must be in \[0, 1\), got 1.0"),
        ("all_cnn_c", {"model": "d"}, "AllCNN: model must be one of a, b, c, got 'd'"),
        ("all_cnn_c", {"variant": "pool"}, "AllCNN: variant must be one of base, strided"),
        ("vgg11", {"widths": (8, 8)}, "VGG: windows and widths need one value .* got 5 and 2"),
        ("vgg11", {"windows": ((2,),) * 5}, "VGG: windows must be odd"),
        ("cifar_convnet", {"widths": ()}, "CifarConvNet: widths needs one value at least"),
    ],
)
def test_option_that_means_nothing_is_refused_at_construction(name, options, message):
    with pytest.raises(ValueError, match=message):
        models.create(name, **options)
