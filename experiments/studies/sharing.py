"""Should all positions of a layer share their weights?

A convolution has one kernel for all positions, a locally connected layer one for each: the same
windows, MACs and values, and many times the parameters. Where images are centred, as faces are,
"different eye-specific or hair-specific features could be learned in different spatial locations",
and the course notes relax the sharing. The same digits or pictures are learnt in the middle of a
black canvas and anywhere on it. Two controls have the parameters of the local network: a dense
one without windows, and a convolutional one with more filters.

Source: CS231n course notes, "Convolutional Networks", on parameter sharing; LeCun,
"Generalization and Network Design Strategies", 1989; Taigman et al., "DeepFace", 2014.
"""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.analysis import match_width
from cnnjax.data import Images
from cnnjax.models import Conv, Dense
from cnnjax.models.layers import LocallyConnected
from experiments.config import Config
from experiments.studies import nets
from experiments.studies.arms import Arm, Order, Study, Task, compute_dtype, untuned
from experiments.studies.placing import at_random, centered, fitted, refuse_shifts
from experiments.studies.sets import Cut, Sets, with_validation

__all__ = ["SharingNet", "centered_and_shifted", "sharing"]

_LAYERS = {"conv": Conv, "local": LocallyConnected}


class SharingNet(nn.Module):
    """Two layers at stride 2, or one dense layer, and scores from all positions.

    Attributes:
      num_classes: scores.
      kind: "conv", "local" or "dense".
      width: filters of the first layer, half of the second's; or values of the dense layer.
      dtype: compute dtype; that of the input by default.

    >>> net, image = SharingNet(10, "local", 2), jnp.ones((1, 32, 32, 1))
    >>> variables = jax.eval_shape(net.init, jax.random.key(0), image)
    >>> variables["params"]["layer1"]["kernel"].shape
    (8, 8, 3, 3, 2, 4)
    """

    num_classes: int
    kind: str
    width: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Map (N, height, width, channels) to scores (N, num_classes)."""
        if self.kind == "dense":
            x = x.reshape(len(x), -1)
            x = nn.relu(Dense(self.width, name="hidden", dtype=self.dtype)(x))
        else:
            layer = _LAYERS[self.kind]
            options: dict[str, Any] = {"stride": 2, "padding": "SAME", "dtype": self.dtype}
            x = nn.relu(layer(self.width, (5, 5), name="layer0", **options)(x))
            x = nn.relu(layer(2 * self.width, (3, 3), name="layer1", **options)(x))
        x = Dense(self.num_classes, name="head", dtype=self.dtype)(x.reshape(len(x), -1))
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def centered_and_shifted(config: Config, training: Images, test: Images) -> Cut:
    """The data set in the middle of a black canvas, and as the source anywhere on it.

    Raises:
      ValueError: a --shift, or images that cannot be halved to fit.
    """
    refuse_shifts(config, "would move what is to lie in the middle")
    sets = fitted(with_validation(config, training, test))
    shifted = (at_random(part, config.split_seed, number) for number, part in enumerate(sets))
    return Cut(Sets(*map(centered, sets)), Sets(*shifted))


def sharing(config: Config, task: Task) -> Study:
    """Four networks on centred images, and the same four on shifted ones; see the module's text."""
    shifted = task.source
    if shifted is None:
        raise ValueError(
            "--study=sharing compares what networks learn from two placings of a data set and has "
            "no arms without one; run it by experiments.ablate"
        )

    def net(kind: str, width: int) -> SharingNet:
        return SharingNet(task.num_classes, kind, width, compute_dtype(config))

    local = net("local", config.channels)
    wide, dense = (
        match_width(functools.partial(net, kind), task.image_shape, local)
        for kind in ("conv", "dense")
    )
    kinds = (
        ("conv", "shared weights", "", net("conv", config.channels)),
        ("local", "weights of each position's own", "no sharing, equal MACs and filters", local),
        (
            "conv_wide",
            f"shared weights, {wide.width} wide",
            f"filters up to the parameters without sharing ({wide.error:+.1%})",
            net("conv", wide.width),
        ),
        (
            "dense",
            f"a dense layer of {dense.width}",
            f"neither sharing nor windows, with the parameters of no sharing ({dense.error:+.1%})",
            net("dense", dense.width),
        ),
    )

    def arm(place: str, kind: str, title: str, differs_in: str, module: SharingNet) -> Arm:
        columns = nets.columns(module, task, images=place, width=module.width)
        name, title = f"{kind}_{place}", f"{title}, {place} images"
        # The other kinds are controls, of which nothing is published.
        local = kind == "local"
        published: Order
        if place == "centred":
            differs_in, published = differs_in or "the baseline", "higher" if local else ""
            return Arm(name, title, differs_in, module, columns, published=published)
        published = "lower" if local else ""
        return Arm(
            name,
            title,
            f"shifted images; {differs_in or 'the baseline of these'}",
            module,
            columns,
            sets=shifted,
            against="conv_shifted",
            published=published,
        )

    return Study(
        name="sharing",
        question="Do weights of each position's own beat shared ones where images are centred, and "
        "what do they cost where they are not?",
        baseline="conv_centred",
        headline_arm="local_centred",
        arms=tuple(arm(place, *kind) for place in ("centred", "shifted") for kind in kinds),
        limits=(
            *untuned(config),
            "Sharing changes parameters by its nature: at equal MACs and filters the local network "
            "has many times more, at equal parameters the wide one takes many times the MACs.",
            "The scores are taken from all positions in every arm, so that no network is blind to "
            "where things lie; means over positions would favour sharing on shifted images.",
            "Shifted images are compared with one another; their distance from the centred ones "
            "is not a difference in one factor alone, as the task itself is harder.",
            "Two layers, and images with one object each on black.",
        ),
        published="CS231n: sharing makes less sense where images have a centred structure, and its "
        "use rests on what is useful at one place being useful at another.",
    )
