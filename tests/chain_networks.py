"""The networks of layers in line, made small: few filters, hidden layers and pixels."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import models

_FIVE = {"widths": (8, 16, 12, 12, 8), "hidden": 16}
_VGG = {"widths": (4, 8, 8, 8, 8), "hidden": 16}
_ALL = {"widths": (6, 8)}

# Options and pixels of an image, an axis: few, but enough for more than one position at the end.
SMALL = {
    "lenet5": ({}, 32),
    "alexnet_2012": (_FIVE, 99),
    "alexnet": (_FIVE, 95),
    "zfnet": (_FIVE, 96),
    "vgg11": (_VGG, 64),
    "vgg11_lrn": ({"windows": ((3,), (3, 3, 1)), "widths": (4, 8), "hidden": 16}, 32),
    "vgg13_bn": (_VGG, 64),
    "base_cnn_a": (_ALL, 32),
    "strided_cnn_b": (_ALL, 32),
    "all_cnn_c": (_ALL, 32),
    "fractional_mnist": ({"filters": 4, "num_poolings": 2}, 7),
    "cifar_convnet": ({"widths": (4, 6, 8)}, 32),
}


def small(name, **options):
    """A small network of that name and the pixels of its images, an axis."""
    shrunk, size = SMALL[name]
    return models.create(name, **({"num_classes": 5} | shrunk | options)), size


def randomized(net, x, dtype=jnp.float32):
    """All variables drawn from NumPy, of a size that keeps volumes near one, none zero or one."""
    shapes = jax.eval_shape(net.init, jax.random.key(0), x)
    rng = np.random.default_rng(0)

    def draw(leaf):
        if len(leaf.shape) > 1:
            values = rng.standard_normal(leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        else:
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, dtype)

    return jax.tree.map(draw, shapes)


def relative_error(ours, theirs):
    """The largest difference over the largest value."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def images_for(net, size, batch=(2,)):
    shape = (*batch, size, size, net.input_channels)
    return jnp.asarray(np.random.default_rng(3).standard_normal(shape), jnp.float32)


def shapes_of(net, x, **apply):
    """Shapes of the variables, and of what comes out."""
    variables = jax.eval_shape(net.init, jax.random.key(0), x)
    return variables, jax.eval_shape(lambda v: net.apply(v, x, **apply), variables)


def run(net, variables, x, **settings):
    return jax.jit(lambda v, x: net.apply(v, x, **settings))(variables, x)
