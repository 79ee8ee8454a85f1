"""What does normalising a network's volumes gain, and by which of the ways of doing it?

One small network, [[CONV3 -> RELU]*2 -> POOL2]*2 -> FC, normalised behind every convolution or not
at all: local response normalisation behind the ReLU, as in AlexNet, in its two conventions of
alpha, and batch, group and layer normalisation before it.

AlexNet's constants belong to images of 0 to 255. A network of ReLUs without biases is homogeneous,
so that images s times as large want alpha / s^2 for the same function, s times as large:

  LRN(s x; alpha / s^2) = s LRN(x; alpha).

Images here have a variance of one; those of AlexNet have one of about 64^2, so that its
alpha of 1e-4 is 0.4 here. At 1e-4 both conventions would divide by k^beta and nothing else.

Source: Krizhevsky, Sutskever, Hinton, 2012, section 3.3 (local response); Simonyan and Zisserman,
2015, section 4.1, who found it no help; Ioffe and Szegedy, 2015 (batch); Ba, Kiros, Hinton, 2016
(layer); Wu and He, 2018 (group).
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax

from cnnjax import models, ops
from experiments.config import Config
from experiments.studies.arms import Arm, Order, Study, Task, compute_dtype, untuned
from experiments.studies.nets import columns

__all__ = ["normalisation"]

Activation = str | Callable[[jax.Array], jax.Array]
Norm = str | Callable[..., nn.Module] | None

_GROUP_SIZE = 4


def normalisation(config: Config, task: Task) -> Study:
    """One network, normalised in several ways; see the module's text."""

    def arm(
        name: str,
        title: str,
        differs_in: str,
        norm: Norm = None,
        activation: Activation = "relu",
        published: Order = "",
    ) -> Arm:
        module = models.create(
            "cifar_convnet",
            num_classes=task.num_classes,
            input_channels=task.image_shape[-1],
            image_size=task.image_shape[:2],
            widths=(config.channels, 2 * config.channels),
            norm=norm,
            activation=activation,
            dtype=compute_dtype(config),
        )
        return Arm(name, title, differs_in, module, columns(module, task), published=published)

    in_group = math.gcd(config.channels, _GROUP_SIZE)
    groups = functools.partial(
        nn.GroupNorm, num_groups=None, group_size=in_group, dtype=compute_dtype(config)
    )
    alpha, size = config.lrn_alpha, ops.LRN_PRESETS["alexnet"]["size"]

    def local_response(
        name: str,
        title: str,
        weighed: str,
        over: Literal["sum", "mean"],
        published: Order = "",
    ) -> Arm:
        return arm(
            name,
            title,
            f"local response normalisation behind each ReLU, alpha = {alpha:g} over the {weighed}",
            activation=_rectified_and_normalised(alpha, over),
            published=published,
        )

    return Study(
        name="normalisation",
        question="Does normalising its volumes help a small network, and which way of doing it?",
        baseline="none",
        headline_arm="batch",
        arms=(
            arm("none", "no normalisation", "the baseline"),
            local_response(
                "local_response_mean",
                "local response, alpha / n",
                f"mean of n = {size} squares (Caffe, PyTorch)",
                "mean",
            ),
            local_response(
                "local_response_sum",
                "local response, alpha",
                f"sum of n = {size} squares (AlexNet's paper, TensorFlow)",
                "sum",
                published="higher",
            ),
            arm(
                "batch",
                "batch normalisation",
                "batch normalisation before each ReLU",
                norm="batch",
                published="higher",
            ),
            arm(
                "group",
                "group normalisation",
                f"group normalisation, {in_group} channels a group, before each ReLU",
                groups,
            ),
            arm(
                "layer",
                "layer normalisation",
                "normalisation over the channels of each position before each ReLU",
                "layer",
            ),
        ),
        limits=(
            *untuned(config),
            "Each way stands where its paper has it: local response normalisation behind the ReLU, "
            "the others before it, where they also have a scale and a shift for each channel, "
            "which are a few more parameters.",
            "All ways normalise behind every convolution; AlexNet had local response normalisation "
            "behind its first two alone, with overlapping pooling.",
            "Batch normalisation is the only one that makes images of a batch depend on each "
            "other, so that its gain is one at this batch size.",
        ),
        published="Krizhevsky et al. (2012): a network of four layers has 13 % error on CIFAR-10 "
        "without and 11 % with local response normalisation; but it gains nothing in VGG-A on "
        "ImageNet (Simonyan and Zisserman, 2015). Ioffe and Szegedy (2015): batch normalisation "
        "reaches a higher accuracy in fewer steps.",
    )


@functools.cache
def _rectified_and_normalised(
    alpha: float, alpha_over: Literal["sum", "mean"]
) -> Callable[[jax.Array], jax.Array]:
    """ReLU, then local response normalisation; one function for equal settings."""
    settings = {**ops.LRN_PRESETS["alexnet"], "alpha": alpha, "alpha_over": alpha_over}

    def activation(x: jax.Array) -> jax.Array:
        return ops.local_response_norm(nn.relu(x), **settings)

    return activation
