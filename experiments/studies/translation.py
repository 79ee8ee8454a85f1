"""Does anti-aliased pooling keep a network's answer when the image shifts by a few pixels?

A network learns crops from the middle of its images and is shown crops up to 4 pixels to the left
and right of them: what enters and leaves at the sides is image, so that no border tells the crops
apart. Three numbers are taken of each trained network. How often do two crops some pixels apart
get one answer (the outcome, the mean over distances of 1 to 8 pixels)? How often is the answer
right? And how far is the last volume of features from moving along with the image? In the last,
the features of an image that moved by s pixels are held against those of the image itself, moved
by s / S positions, where S = 4 pixels lie between two positions; parts of a position are linear
interpolation. Positions count whose receptive fields lie inside the image, for which theory says:
no difference where s is a multiple of S, whatever the network is made of.

Source: Zhang, "Making convolutional networks shift-invariant again", 2019; Azulay and Weiss, "Why
do deep convolutional networks generalize so poorly to small image transformations?", 2018.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import analysis
from cnnjax.data import Images
from cnnjax.pattern import PatternNet, specs
from experiments.config import Config
from experiments.studies.arms import Arm, Curve, Measured, Order, Study, Task, Trained, untuned
from experiments.studies.nets import columns, of_pattern
from experiments.studies.sets import Cut, Sets, with_validation

__all__ = [
    "consistency",
    "crop",
    "equivariance_error",
    "inner_positions",
    "shifted_crops",
    "translation",
    "trunk_of",
]

# The farthest two crops lie apart, in pixels; the middle one is what networks learn.
_FARTHEST = 8
_MIDDLE = _FARTHEST // 2
# Pixels from one position of the last volume to the next, in every arm.
_STRIDE = 4
# Test images that crops and features are taken of.
_NUM_SCORED, _NUM_FEATURES = 2000, 250
# How far images are mirrored at their sides for the features, so that inner positions abound.
_MIRRORED = 8


def shifted_crops(config: Config, training: Images, test: Images) -> Cut:
    """Crops from the middle of each image to learn and be tested on, and the whole images.

    Raises:
      ValueError: images too small to crop, or fewer than the flags ask for.
    """
    side = min(training.images.shape[1:3]) + 2 * config.canvas_padding - _FARTHEST
    if side < _STRIDE:
        raise ValueError(
            f"--study=translation crops {_FARTHEST} pixels off its images, and those of "
            f"{config.dataset} have {training.images.shape[1:3]}; pad them by --canvas_padding"
        )
    pad = ((0, 0), *((config.canvas_padding,) * 2,) * 2, (0, 0))
    whole = with_validation(
        config,
        *(images._replace(images=np.pad(images.images, pad)) for images in (training, test)),
    )
    return Cut(
        Sets(*(images._replace(images=crop(images.images, _MIDDLE)) for images in whole)), whole
    )


def crop(images: np.ndarray, column: int) -> np.ndarray:
    """What images show from a column on, 8 pixels less wide and high than they are.

    >>> crop(np.arange(100).reshape(1, 10, 10, 1), 3)[0, :, :, 0].tolist()
    [[43, 44], [53, 54]]
    """
    height, width = (size - _FARTHEST for size in images.shape[1:3])
    return images[:, _MIDDLE : _MIDDLE + height, column : column + width]


def translation(config: Config, task: Task) -> Study:
    """Six networks and what a shift does to them; see the module's text."""
    if task.source is None:
        raise ValueError(
            "--study=translation shows networks crops of images and has no arms without the "
            "images; run it by experiments.ablate"
        )
    first, second, third = (
        f"CONV3-{width}{{}} -> BN -> RELU"
        for width in (config.channels, 2 * config.channels, 4 * config.channels)
    )

    def arm(
        name: str,
        title: str,
        differs_in: str,
        pool: str = "POOL2",
        stride: str = "",
        head: str = "GAP -> ",
        published: Order = "",
        **settings: Any,
    ) -> Arm:
        pools = f" -> {pool} -> " if pool else " -> "
        layers = pools.join((first.format(stride), second.format(stride), third.format("")))
        module = of_pattern(config, task, f"{layers}{' -> GAP' if head else ''}")
        account = columns(
            module,
            task,
            receptive_field=_field(trunk_of(module, task.image_shape), task.image_shape),
            training_shifts=settings.get("shift", config.shift),
        )
        return Arm(name, title, differs_in, module, account, settings=settings, published=published)

    return Study(
        name="translation",
        question="Does anti-aliased pooling keep a network's answer when the image shifts by a few "
        "pixels?",
        baseline="max",
        headline_arm="blurred_max",
        arms=(
            arm("max", "max-pooling", "the baseline: max-pooling over 2x2 at stride 2"),
            arm(
                "blurred_max",
                "anti-aliased max-pooling",
                "the maximum at every position, blurred before every second one is taken",
                "POOL2/1 -> BLURPOOL3/2[padding=1]",
                published="higher",
            ),
            arm("average", "average pooling", "the mean of each window", "AVGPOOL2"),
            arm(
                "strided",
                "strided convolutions",
                "no pooling: the convolution before it takes the stride",
                "",
                "[stride=2, fit=floor]",
            ),
            arm(
                "dense_head",
                "max-pooling, dense head",
                "a dense layer over all positions in place of the mean over them",
                head="",
            ),
            arm(
                "shifted_max",
                f"max-pooling, trained with shifts of {_MIDDLE}",
                f"training images shift by up to {_MIDDLE} pixels, mirrored where nothing was",
                shift=_MIDDLE,
                shift_mode="reflect",
            ),
        ),
        limits=(
            *untuned(config),
            "A network that always gives one answer is perfectly consistent: the accuracy stands "
            "beside.",
            "Shifts are along the width alone, of whole pixels, and of at most "
            f"{_FARTHEST} pixels from one crop to another.",
            "Strided convolutions compute less than convolutions and pooling, and a dense head has "
            "more parameters than a mean; neither is made up for.",
            "Between two positions the features are held against a linear interpolation, which "
            "smooth features follow better than sharp ones, whatever they are worth to the head.",
        ),
        measure=functools.partial(_measure, task.source.test.images),
        outcome="prediction consistency under shifts",
        published="Zhang (2019): anti-aliased networks give the same answer to shifted images more "
        "often, on CIFAR-10 and on ImageNet.",
    )


# ---- measurements ----


def consistency(answers: np.ndarray) -> np.ndarray:
    """How often crops so many pixels apart get one answer, by their distance from 1 on.

    Args:
      answers: classes, (crops, images), the crops one pixel apart.

    Returns:
      Shares of (pair of crops at that distance, image), of shape (crops - 1,).

    >>> consistency(np.array([[0, 3], [0, 3], [1, 3]])).tolist()
    [0.75, 0.5]
    """
    return np.array(
        [(answers[far:] == answers[:-far]).mean() for far in range(1, len(answers))], float
    )


def equivariance_error(features: np.ndarray, stride: int) -> np.ndarray:
    """How far features are from moving along with the image, by pixels of the shift.

    Args:
      features: (shifts, images, rows, columns, channels); those of number s see the image from
        column s on, for s of 0 to `stride`, so that position u sees what lies s / stride positions
        further on in the first.
      stride: pixels from one column to the next.

    Returns:
      For each shift the L2 norm of the difference over that of the features expected, over all
      columns but the last, for which those of the first say what to expect.

    >>> ramp = np.arange(3.0) + np.arange(3)[:, None] / 2  # u + s / S, for S = 2.
    >>> equivariance_error(ramp[:, None, None, :, None], 2).tolist()
    [0.0, 0.0, 0.0]
    """
    here, there = features[0, :, :, :-1], features[0, :, :, 1:]
    errors = []
    for shift, moved in enumerate(features):
        part = shift / stride
        expected = (1 - part) * here + part * there
        norm = np.linalg.norm(expected)
        # Features that are all zero move along with anything.
        difference = np.linalg.norm(moved[:, :, :-1] - expected)
        errors.append(difference / norm if norm else 0.0)
    return np.array(errors)


def trunk_of(module: PatternNet, image_shape: tuple[int, ...]) -> PatternNet:
    """The network up to its last volume of features, for images of another size."""
    heads = specs.GlobalAveragePool | specs.Dense
    end = next(i for i, layer in enumerate(module.layers) if isinstance(layer, heads))
    return module.clone(layers=(specs.Input(image_shape), *module.layers[1:end]))


@functools.cache
def inner_positions(trunk: PatternNet) -> tuple[slice, ...]:
    """The rows and columns of features whose receptive fields lie inside the image."""
    image = jax.ShapeDtypeStruct((1, *trunk.input_shape), jnp.float32)
    seen = analysis.receptive_field(trunk, image, train=False)
    slices = []
    for axis in seen.axes:
        fields = [axis.interval(position) for position in range(len(axis.first))]
        inside = [first >= 0 and last < axis.input_size for first, last in fields]
        slices.append(slice(inside.index(True), len(inside) - inside[::-1].index(True)))
    return tuple(slices)


@functools.cache
def _compiled(trunk: PatternNet) -> Callable[[Any, jax.Array], jax.Array]:
    """Once for all seeds of an arm."""
    return jax.jit(lambda variables, images: trunk.apply(variables, images, train=False))


def _field(trunk: PatternNet, image_shape: tuple[int, ...]) -> int:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return analysis.receptive_field(trunk, image, train=False).size[0] or 0


def _measure(canvases: np.ndarray, trained: Trained) -> Measured:
    some = _evenly(len(canvases), _NUM_SCORED)
    labels = trained.sets.test.labels[some]
    answers = np.array(
        [
            trained.scores(crop(canvases[some], column)).argmax(axis=1)
            for column in range(_FARTHEST + 1)
        ]
    )
    same = consistency(answers)
    right = (answers == labels).mean(axis=1)
    errors = _error_of(trained, canvases[_evenly(len(canvases), _NUM_FEATURES)])
    return Measured(
        curves={
            "consistency": Curve(
                "Prediction consistency under shifts",
                "distance of two crops, pixels",
                "share with one answer",
                tuple(range(1, _FARTHEST + 1)),
                tuple(same.tolist()),
            ),
            "accuracy": Curve(
                "Accuracy on shifted crops",
                "shift from the crops that were learnt, pixels",
                "accuracy",
                tuple(range(-_MIDDLE, _MIDDLE + 1)),
                tuple(right.tolist()),
            ),
            "equivariance": Curve(
                "Equivariance error of the last features, away from borders",
                "shift, pixels",
                "relative L2 difference",
                tuple(range(_STRIDE + 1)),
                tuple(errors.tolist()),
                marks=(0, _STRIDE),
            ),
        },
        outcome=float(same.mean()),
    )


def _error_of(trained: Trained, canvases: np.ndarray) -> np.ndarray:
    """The equivariance error of a trained network, on images mirrored at their sides."""
    mirrored = ((0, 0), (_MIRRORED,) * 2, (_MIRRORED,) * 2, (0, 0))
    images = np.pad(canvases, mirrored, mode="reflect")
    width = images.shape[2] - _STRIDE
    shape = (images.shape[1], width, images.shape[3])
    trunk = trunk_of(cast(PatternNet, trained.arm.module), shape)
    rows, columns = inner_positions(trunk)
    features = [
        _compiled(trunk)(
            trained.variables, trained.normalize(jnp.asarray(images[:, :, s : s + width]))
        )[:, rows, columns]
        for s in range(_STRIDE + 1)
    ]
    return equivariance_error(np.asarray(features), _STRIDE)


def _evenly(size: int, wanted: int) -> np.ndarray:
    """Indices of as many of them as are wanted, or of all, spread evenly."""
    return np.unique(np.linspace(0, size - 1, min(size, wanted)).astype(int))
