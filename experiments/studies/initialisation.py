"""How must the first weights of a deep network be drawn, and does batch normalisation make up?

Nine 3x3 convolutions in three stages and a dense layer, without normalisation, whose kernels are
drawn by different rules, the biases zero; then with batch normalisation, by He's rule and with the
smallest weights. A ReLU halves the second moment of what is symmetric about zero, so that a layer
with n inputs multiplies it by n var(w) / 2. He's rule var(w) = 2 / n keeps it; LeCun's 1 / n halves
it at each layer, and so does Glorot's 2 / (n + m), m the outputs, where n = m, at all layers here
but the first and the last; weights of a deviation of 0.01 multiply the deviation of the activations
by 0.01 sqrt(n / 2). It is measured what goes into each ReLU, before the first step.

Source: He, Zhang, Ren, Sun, 2015; Glorot and Bengio, 2010; LeCun et al., 1998; Krizhevsky et al.,
2012 (0.01); Saxe, McClelland, Ganguli, 2014 (orthogonal).
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.training import stream
from experiments.config import Config
from experiments.studies.arms import Arm, Curve, Measured, Order, Study, Task, Trained, untuned
from experiments.studies.nets import columns, of_pattern

__all__ = ["initialisation"]

_NUM_IMAGES = 200
_HE = nn.initializers.he_normal()
_SMALL = nn.initializers.normal(0.01)


def initialisation(config: Config, task: Task) -> Study:
    """One network, its kernels drawn in several ways; see the module's text."""

    def arm(
        name: str,
        title: str,
        differs_in: str,
        kernel_init: nn.initializers.Initializer,
        *,
        batch_norm: bool = False,
        against: str = "he",
        published: Order = "",
    ) -> Arm:
        norm = "BN -> " if batch_norm else ""
        stage = f"[CONV3-{config.channels} -> {norm}RELU]*3"
        module = of_pattern(
            config, task, f"{stage} -> POOL2 -> {stage} -> POOL2 -> {stage} -> GAP"
        ).clone(kernel_init=kernel_init)
        account = columns(module, task)
        return Arm(name, title, differs_in, module, account, against=against, published=published)

    return Study(
        name="initialisation",
        question="Does a network of ten layers learn from whatever first weights, and does batch "
        "normalisation make it?",
        baseline="he",
        headline_arm="normal_001",
        arms=(
            arm("he", "He", "the baseline, var(w) = 2 / inputs", _HE),
            arm(
                "glorot",
                "Glorot (Xavier)",
                "var(w) = 2 / (inputs + outputs)",
                nn.initializers.glorot_normal(),
            ),
            arm("lecun", "LeCun", "var(w) = 1 / inputs", nn.initializers.lecun_normal()),
            arm("normal_001", "N(0, 0.01^2)", "a deviation of 0.01", _SMALL, published="lower"),
            arm(
                "orthogonal",
                "orthogonal, gain sqrt 2",
                "He's variance, the filters of a layer orthogonal",
                nn.initializers.orthogonal(math.sqrt(2)),
            ),
            arm(
                "he_batch_norm",
                "He, batch normalisation",
                "batch normalisation before each ReLU",
                _HE,
                batch_norm=True,
                published="higher",
            ),
            arm(
                "normal_001_batch_norm",
                "N(0, 0.01^2), batch normalisation",
                "a deviation of 0.01, with batch normalisation",
                _SMALL,
                batch_norm=True,
                against="he_batch_norm",
                published="level",
            ),
        ),
        limits=(
            *untuned(config),
            "The learning rate is one for all: small weights might learn with a larger one, and "
            "larger weights may need a smaller.",
            "Batch normalisation adds a scale and a shift for each channel, which no other arm "
            "has.",
            "Ten layers: the rules part further in deeper networks, by a factor at each layer.",
        ),
        measure=_measure,
        published="He et al. (2015): thirty layers learn by their rule and not at all by "
        "Glorot's, of fourteen layers neither is clearly the better; Krizhevsky et al. (2012) drew "
        "with a deviation of 0.01, with which the deep networks of Simonyan and Zisserman (2015) "
        "did not start to learn; Ioffe and Szegedy (2015): batch normalisation makes the scale of "
        "the weights nearly indifferent.",
    )


@functools.cache
def _programs(module: nn.Module) -> tuple[Any, Any]:
    """Weights of a key, and deviations of what goes into each ReLU."""

    def draw(key: jax.Array, x: jax.Array) -> Any:
        return module.init(key, x, train=False)

    def deviations(variables: Any, x: jax.Array) -> dict[str, jax.Array]:
        carried = [name for name in variables if name != "params"]
        _, seen = module.apply(
            variables,
            x,
            train=True,
            capture_intermediates=True,
            mutable=["intermediates", *carried],
        )
        return {
            name: jnp.std(found["__call__"][0])
            for name, found in seen["intermediates"].items()
            if name != "__call__"
        }

    return jax.jit(draw), jax.jit(deviations)


def _measure(trained: Trained) -> Measured:
    """Deviations at the first step, layer by layer, in powers of ten."""
    draw, deviations = _programs(trained.arm.module)
    x = trained.normalize(jnp.asarray(trained.sets.training.images[:_NUM_IMAGES]))
    found = deviations(draw(stream(trained.seed, "initialisation"), x[:1]), x)
    # What goes into the ReLUs is normalised where there is normalisation.
    kind = "bn" if any(name.startswith("bn") for name in found) else "conv"
    names = sorted(
        (name for name in found if name.startswith(kind)), key=lambda name: int(name[len(kind) :])
    )
    smallest = float(np.finfo(np.float32).tiny)
    return Measured(
        {
            "first_deviations": Curve(
                "What goes into each ReLU before the first step",
                "convolution",
                "log10 of its standard deviation",
                tuple(float(i + 1) for i in range(len(names))),
                tuple(math.log10(max(float(found[name]), smallest)) for name in names),
            )
        }
    )
