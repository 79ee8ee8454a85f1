"""How far apart may two marks lie for a network to tell whether they are equal?

An image of noise holds two marks, each bright or dark, and the network says whether they are
equal. Bright and dark are equally frequent, so that neither mark alone tells anything: the label
is an exclusive or. A network whose last convolution sees no two columns as far apart as the marks
averages numbers each of which depends on one mark at most; its scores are then sums,
h(a, b) = f(a) + g(b), and h(1, 1) + h(0, 0) = h(0, 1) + h(1, 0) whatever its weights. Of four
images alike but for their marks it prefers as many different pairs to equal ones as the other way
round: in forced choice it is right in exactly half of all cases. (Its accuracy at a fixed
threshold is not as firmly bound: a sum gets up to three of the four cases of an exclusive or.)

So the theory predicts: a network with the field F at stride S may tell marks at a distance of up
to F - S pixels wherever they stand, up to F - 1 where they lie well, and no others.

Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
2019, for the theoretical field; Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive
Field in Deep Convolutional Neural Networks", 2016, for the one in use; Minsky and Papert,
"Perceptrons", 1969, for what sums of local functions cannot tell.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import analysis
from cnnjax.analysis import AxisField
from cnnjax.data import Images
from cnnjax.pattern import PatternNet
from experiments.config import Config
from experiments.studies import nets
from experiments.studies.arms import Arm, Curve, Measured, Study, Task, Trained, untuned
from experiments.studies.placing import refuse_shifts
from experiments.studies.sets import Cut, Sets

__all__ = [
    "DISTANCES",
    "forced_choice",
    "measure",
    "narrowest",
    "receptive_field_probe",
    "two_marks",
]

# With F - 1 and F of each network's field F among them, where the theory draws its line.
DISTANCES = (4, 8, 12, 13, 20, 28, 29, 31, 32, 38, 39, 48, 54, 55)

_HEIGHT, _WIDTH = 4, 64
_LEVELS = (0, 255)
_NOISE = (96, 160)
_TRAINING_SIZE = 20_000
_QUADRUPLES = 50
# The marks of the four images of a quadruple, and whether they are equal.
_KINDS = np.array([(0, 0), (0, 1), (1, 0), (1, 1)])
_EQUAL = _KINDS[:, 0] == _KINDS[:, 1]
_CLASSES = ("different", "equal")
_PROBED = 200
# Share of the influence that the field in use holds, as two standard deviations of a normal law do.
_IN_USE = 0.95
# Of six convolutions: dilation along the row, stride along the row, layers with a pooling behind.
_ONES = (1,) * 6


class _Geometry(NamedTuple):
    name: str
    title: str
    differs_in: str
    dilations: tuple[int, ...] = _ONES
    strides: tuple[int, ...] = _ONES
    pooled: tuple[int, ...] = ()


_GEOMETRIES = (
    _Geometry("plain", "six plain layers", "the baseline"),
    _Geometry(
        "dilated",
        "dilations 1, 1, 2, 2, 4, 4",
        "taps further apart along the row",
        dilations=(1, 1, 2, 2, 4, 4),
    ),
    _Geometry(
        "pooled",
        "two poolings",
        "the row halved behind the second and the fourth layer",
        pooled=(1, 3),
    ),
    _Geometry(
        "strided",
        "strides of 2 at once",
        "the row halved by the first and the second layer",
        strides=(2, 2, 1, 1, 1, 1),
    ),
    _Geometry(
        "more_dilated",
        "dilations 1, 2, 4, 4, 8, 8",
        "taps still further apart along the row",
        dilations=(1, 2, 4, 4, 8, 8),
    ),
)


def two_marks(config: Config) -> Cut:
    """The data: noise with two marks, made from --split_seed.

    Distances, places and marks of the training and validation images are independent draws. The
    test images come in quadruples, alike but for their marks, as many for each distance.

    Raises:
      ValueError: another --dataset, or a --shift, which could move marks out of the image.
    """
    if config.dataset != "two_marks":
        raise ValueError(
            "--study=receptive_field_probe makes its own data, in which it is known how far apart "
            f"things lie: write --dataset=two_marks, not --dataset={config.dataset}"
        )
    refuse_shifts(config, "could move a mark out of the image")
    keys = jax.random.split(jax.random.key(config.split_seed), 3)
    training = _independent(keys[0], config.train_size or _TRAINING_SIZE)
    return Cut(Sets(training, _independent(keys[1], config.validation_size), _quadruples(keys[2])))


def receptive_field_probe(config: Config, task: Task) -> Study:
    """Equal depth, weights and filters, unequal fields along the row; see the module's text."""
    return Study(
        name="receptive_field_probe",
        question="How far apart may two marks lie for a network to tell whether they are equal: "
        "as far as its receptive field reaches?",
        baseline="plain",
        headline_arm="dilated",
        arms=tuple(_arm(config, task, geometry) for geometry in _GEOMETRIES),
        limits=(
            *untuned(config),
            "The field bounds what a network can tell, not what training finds: below the bound "
            "an accuracy of half says that it was not found in these steps.",
            "Dilation, pooling and strides differ in more than the field: in the gaps between "
            "taps, in how many positions are averaged and in the MACs. Above a stride of 1 some "
            "places of the marks are seen by no one position from a distance of F - S + 1 on.",
            "A made task, with marks of high contrast, in one direction: natural images hold what "
            "lies far apart redundantly, and their use of the field is another question.",
        ),
        measure=measure,
        outcome="forced-choice accuracy over all distances",
        published="The theoretical field (Araujo et al., 2019) says where accuracy must fall to "
        "one half; see the ticks in the picture of forced-choice accuracy.",
    )


def measure(trained: Trained) -> Measured:
    """Forced-choice accuracy and accuracy by distance, and the influence on one position.

    Args:
      trained: a network that learnt from `two_marks`.

    Returns:
      Two curves by distance, whose mark is the largest that the theoretical field reaches and
      beside which stands the distance between the outermost of the columns that hold 95 % of the
      influence, the field in use; and the influence by column, whose marks are the ends of the
      field. The outcome is the mean forced-choice accuracy over all distances.
    """
    scores = trained.scores(trained.sets.test.images)
    margins = (scores[:, 1] - scores[:, 0]).reshape(len(DISTANCES), -1, 4)
    chosen = forced_choice(margins).mean(axis=1)
    right = ((margins > 0) == _EQUAL).mean(axis=(1, 2))
    distances = tuple(map(float, DISTANCES))
    reach = float((_along_the_row(trained.arm.module).size or 1) - 1)
    influence = _influence(trained)
    # A position whose rectifiers are silent in all images has no field in use.
    in_use = (float(narrowest(np.array(influence.y), _IN_USE) - 1),) if any(influence.y) else ()

    def by_distance(title: str, y_title: str, y: np.ndarray) -> Curve:
        values = tuple(map(float, y))
        x_title = "distance of the marks (pixels)"
        return Curve(title, x_title, y_title, distances, values, (reach,), in_use)

    return Measured(
        curves={
            "forced_choice": by_distance(
                "Telling equal marks from different ones", "forced-choice accuracy", chosen
            ),
            "accuracy": by_distance(
                "Telling equal marks from different ones, threshold at 0", "accuracy", right
            ),
            "influence": influence,
        },
        outcome=float(chosen.mean()),
    )


def forced_choice(margins: np.ndarray) -> np.ndarray:
    """How often, of two images alike but for their marks, the equal marks score higher.

    The mean over the four pairs of an equal and a different image of a quadruple of
    [m_equal > m_different] + [m_equal = m_different] / 2: the area under the ROC curve of the
    quadruple. Of margins that are sums m(a, b) = f(a) + g(b) it is exactly 1/2.

    Args:
      margins: score for "equal" minus score for "different", shape (..., 4), of the marks
        (0, 0), (0, 1), (1, 0), (1, 1).

    Returns:
      Fractions of shape (...).

    >>> f, g = np.array([0.1, 3.0]), np.array([-2.0, 0.7])
    >>> float(forced_choice((f[:, None] + g).reshape(4)))
    0.5
    >>> float(forced_choice(np.array([2.0, -1.0, -1.0, 1.0])))
    1.0

    Source: Green and Swets, "Signal Detection Theory and Psychophysics", 1966.
    """
    equal, different = margins[..., _EQUAL, None], margins[..., None, ~_EQUAL]
    return ((equal > different) + 0.5 * (equal == different)).mean(axis=(-2, -1))


def narrowest(influence: np.ndarray, share: float) -> int:
    """How many columns in a row hold that share of the influence, at the least.

    Args:
      influence: of each column, none below zero, (columns,).
      share: from 0 to 1.

    >>> narrowest(np.array([0.0, 1.0, 6.0, 2.0, 1.0]), 0.8)
    2
    """
    until = np.concatenate([[0.0], np.cumsum(influence)])
    wanted = share * until[-1] * (1 - 1e-12)  # Round-off of the sums is no influence.
    sizes = range(1, len(influence) + 1)
    return next(size for size in sizes if (until[size:] - until[:-size]).max() >= wanted)


def _arm(config: Config, task: Task, geometry: _Geometry) -> Arm:
    layers = []
    for index, (dilation, stride) in enumerate(
        zip(geometry.dilations, geometry.strides, strict=True)
    ):
        # A window of 3 has no centre at a stride of 2: the padding is XLA's SAME there.
        how = f"dilation=1x{dilation}" if stride == 1 else f"stride=1x{stride}, padding=SAME"
        layers.append(f"CONV3-{config.channels}[{how}] -> BN -> RELU")
        if index in geometry.pooled:
            layers.append("POOL1x2")
    module = nets.of_pattern(config, task, f"{' -> '.join(layers)} -> GAP")
    along = _along_the_row(module)
    columns = nets.columns(
        module, task, receptive_field=along.size or 0, stride=str(along.stride), layers=len(_ONES)
    )
    return Arm(geometry.name, geometry.title, geometry.differs_in, module, columns)


def _body(module: PatternNet) -> PatternNet:
    """The network up to its last convolution, without the average and the classifier."""
    return module.clone(layers=module.layers[:-2])


@functools.cache
def _along_the_row(module: PatternNet) -> AxisField:
    """What the positions of the last convolution see along the row."""
    image = jax.ShapeDtypeStruct((1, *module.input_shape), jnp.float32)
    return analysis.receptive_field(_body(module), image, train=False).axes[1]


def _influence(trained: Trained) -> Curve:
    """The mean absolute gradient of a position in the middle, by columns, over its largest."""
    module = trained.arm.module
    every = trained.sets.test.images
    # Of all distances, as the test images stand by distance.
    images = trained.normalize(jnp.asarray(every[:: max(1, len(every) // _PROBED)]))
    profile = np.asarray(_gradients(module, trained.variables, images, trained.seed), np.float64)
    profile /= profile.max() or 1.0
    along = _along_the_row(module)
    first, last = along.interval(len(along.first) // 2)
    return Curve(
        "Influence of a column on a position in the middle of the row",
        "column of the image",
        "mean absolute gradient over its largest",
        tuple(map(float, range(len(profile)))),
        tuple(map(float, profile)),
        (float(first), float(last)),
    )


@functools.partial(jax.jit, static_argnums=0)
def _gradients(module: PatternNet, variables: Any, images: jax.Array, seed: Any) -> jax.Array:
    """Of random combinations of the channels, so that none cancels another; by columns."""

    def combined(images: jax.Array) -> jax.Array:
        seen: Any = _body(module).apply(variables, images, train=False)
        at_middle = seen[:, seen.shape[1] // 2, seen.shape[2] // 2]
        return (at_middle * jax.random.normal(jax.random.key(seed), at_middle.shape)).sum()

    return jnp.abs(jax.grad(combined)(images)).mean(axis=(0, 1, 3))


def _independent(key: jax.Array, num: int) -> Images:
    images, labels = _draw_independent(key, num)
    return Images(np.asarray(images), np.asarray(labels), _CLASSES)


@functools.partial(jax.jit, static_argnums=1)
def _draw_independent(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    keys = jax.random.split(key, 4)
    distance = jnp.array(DISTANCES)[jax.random.randint(keys[0], (num,), 0, len(DISTANCES))]
    kinds = jax.random.randint(keys[2], (num, 2), 0, 2)
    images = _marked(keys[3], _places(keys[1], distance), kinds[:, None])[:, 0]
    return images, (kinds[:, 0] == kinds[:, 1]).astype(jnp.int32)


def _quadruples(key: jax.Array) -> Images:
    images = np.asarray(_draw_quadruples(key)).reshape(-1, _HEIGHT, _WIDTH, 1)
    labels = np.tile(_EQUAL.astype(np.int32), len(images) // 4)
    return Images(images, labels, _CLASSES)


@jax.jit
def _draw_quadruples(key: jax.Array) -> jax.Array:
    """By distance, then by place and noise, then by marks."""
    keys = jax.random.split(key)
    places = _places(keys[0], jnp.repeat(jnp.array(DISTANCES), _QUADRUPLES))
    kinds = jnp.broadcast_to(jnp.array(_KINDS), (len(places), 4, 2))
    return _marked(keys[1], places, kinds)


def _places(key: jax.Array, distance: jax.Array) -> jax.Array:
    """Columns of the left and the right mark, (N, 2), any that have both in the image."""
    left = jax.random.randint(key, distance.shape, 0, _WIDTH - distance)
    return jnp.stack([left, left + distance], axis=1)


def _marked(key: jax.Array, places: jax.Array, kinds: jax.Array) -> jax.Array:
    """Images (N, M, height, width, 1) of N places and noises, with M pairs of marks each."""
    num = len(places)
    noise = jax.random.randint(key, (num, 1, _HEIGHT, _WIDTH), *_NOISE)
    columns = jnp.arange(_WIDTH)
    for mark in range(2):
        level = jnp.array(_LEVELS)[kinds[:, :, mark]]
        here = (columns[None] == places[:, mark, None])[:, None, None]
        noise = jnp.where(here, level[:, :, None, None], noise)
    return noise[..., None].astype(jnp.uint8)
