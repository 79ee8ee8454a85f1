"""Does fractional max-pooling beat 2x2 max-pooling in a network of as many layers and weights?

Graham's networks halve by several poolings, each by a ratio below two, with a 2x2 convolution
before each. The baseline has as many convolutions of the same shapes, and pools by ordinary 2x2
windows where as much has to go: with six poolings of ratio sqrt 2, after every second convolution.
Both end in one position. The first weights of both are the same draws; Graham's rule, which takes
the pooling behind a layer into account, gives them other scales. A second network of 2x2 windows is
the usual one, a pooling after each convolution: shallower, and widened to as many parameters.

Fractional arms differ in how boundaries are drawn (pseudorandom or random), in the regions between
them (overlapping windows of 2x2 or disjoint ones) and in what shares a grid: an image, a whole
batch or each channel. Each of these is compared with the arm that differs in that alone.

Another draw of grids gives another prediction for the same image, and the mean over several is
better: the paper's second claim, which the curve over the number of passes shows. The outcome is of
one pass, each image with a grid drawn as in training.

Source: Graham, "Fractional Max-Pooling", 2014.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax import models
from cnnjax.analysis import match_width
from cnnjax.data import Images
from experiments.config import Config
from experiments.studies.arms import (
    Arm,
    Curve,
    Measured,
    Order,
    Study,
    Task,
    Trained,
    batches,
    compute_dtype,
    untuned,
)
from experiments.studies.nets import columns
from experiments.studies.sets import Cut, all_classes

__all__ = ["fractional_max_pooling", "framed"]

_NUM_PASSES = (1, 2, 3, 5, 8, 12, 20, 50, 100)
# Beyond the streams of a training, which are folded from the same key.
_GRIDS_OF_TESTS = 1_000


def fractional_max_pooling(config: Config, task: Task) -> Study:
    """Ordinary and fractional pooling in networks of equal depth; see the module's text.

    Raises:
      ValueError: a ratio that does not come to whole halvings, images of another size than
        `framed` gives them.
    """
    _check_image(config, task.image_shape[:2])
    fractional, deep, shallow = _options(config)

    def net(**options: Any) -> Any:
        options = {"filters": config.fractional_filters, **options}
        size = _image_size(options)
        return models.create(
            "fractional_mnist",
            num_classes=task.num_classes,
            input_channels=task.image_shape[-1],
            image_size=(size, size),
            centred=True,
            final_dropout=config.fractional_dropout,
            dtype=compute_dtype(config),
            **options,
        )

    # What is drawn changes no cost, and tracing grids takes seconds.
    costs = columns(net(**fractional), task)
    wide = match_width(
        lambda filters: net(**shallow, filters=filters), task.image_shape, costs["parameters"]
    )

    def ordinary(name: str, title: str, differs_in: str, module: Any) -> Arm:
        account = {
            "poolings": module.num_poolings,
            "grids": "fixed",
            "regions": "2x2",
            "grid_for_each": "all",
            **columns(module, task),
        }
        return Arm(name, title, differs_in, module, account)

    def drawn(
        name: str,
        differs_in: str,
        randomness: Literal["pseudorandom", "random"],
        regions: Literal["overlapping_window", "disjoint"],
        share: Literal["image", "batch", "channel"] = "image",
        against: str | None = None,
        published: Order = "",
    ) -> Arm:
        short = "overlapping" if regions == "overlapping_window" else "disjoint"
        title = f"{randomness}, {short}" + ("" if share == "image" else f", a grid a {share}")
        module = net(**fractional, randomness=randomness, regions=regions, share=share)
        account = {
            "poolings": config.num_poolings,
            "grids": randomness,
            "regions": short,
            "grid_for_each": share,
            **costs,
        }
        return Arm(name, title, differs_in, module, account, against=against, published=published)

    headline = "pseudorandom_overlapping"
    ratio = f"{config.num_poolings} poolings of ratio {config.ratio:.4g}"
    return Study(
        name="fractional_max_pooling",
        question="Does fractional max-pooling beat 2x2 max-pooling in a network of as many layers "
        "and weights?",
        baseline="max_pooling",
        headline_arm=headline,
        arms=(
            ordinary("max_pooling", "2x2", "the baseline", net(**deep)),
            ordinary(
                "max_pooling_shallow",
                f"2x2, one convolution each, {wide.width} filters",
                f"{shallow['num_poolings']} poolings with one convolution before each, widened "
                f"from {config.fractional_filters} filters to the parameters ({wide.error:+.1%})",
                net(**shallow, filters=wide.width),
            ),
            drawn(
                headline,
                f"{ratio}, pseudorandom grids of overlapping regions, in place of 2x2 windows",
                "pseudorandom",
                "overlapping_window",
            ),
            drawn(
                "pseudorandom_disjoint",
                "pseudorandom grids of disjoint regions in place of overlapping ones",
                "pseudorandom",
                "disjoint",
                against=headline,
            ),
            drawn(
                "random_overlapping",
                "random grids in place of pseudorandom ones, of overlapping regions",
                "random",
                "overlapping_window",
                against=headline,
                published="lower",
            ),
            drawn(
                "random_disjoint",
                "random grids in place of pseudorandom ones, of disjoint regions",
                "random",
                "disjoint",
                against="pseudorandom_disjoint",
            ),
            drawn(
                "grid_a_batch",
                "one pseudorandom grid for a whole batch in place of one for each image",
                "pseudorandom",
                "overlapping_window",
                "batch",
                against=headline,
            ),
            drawn(
                "grid_a_channel",
                "a pseudorandom grid for each channel in place of one for each image",
                "pseudorandom",
                "overlapping_window",
                "channel",
                against=headline,
            ),
        ),
        limits=(
            *untuned(config),
            "2x2 pooling at equal depth has the weights of the fractional networks, but not their "
            "MACs, which the table shows, and not the scale that its first weights have: that is "
            "of Graham's rule for the pooling behind each layer.",
            "Networks see the middle of the same black frame, each as much of it as brings it to "
            "one last position; the images lie whole within.",
            "During training, validation takes one fixed pseudorandom grid, as does the test "
            "accuracy beside the outcome; the outcome and the curve have drawn grids.",
            f"The curve is of the first {config.num_grid_images:,} test images at most.",
        ),
        measure=functools.partial(_over_grids, config),
        outcome="test accuracy of one pass",
        published="Graham (2014), MNIST, overlapping: 0.44 % error of one pass with pseudorandom "
        "grids and 0.50 % with random ones, 0.34 % and 0.32 % over 12 passes.",
    )


def framed(config: Config, training: Images, test: Images) -> Cut:
    """The data set with black around its images, as much as the largest network wants.

    Raises:
      ValueError: images larger than a network of the flags sees.
    """
    sizes = [_image_size(options) for options in _options(config)]
    pixels = training.images.shape[1:3]
    if max(pixels) > min(sizes):
        raise ValueError(
            f"--num_poolings={config.num_poolings} at --ratio={config.ratio:.4g} makes networks "
            f"that see {min(sizes)} pixels, and images of {config.dataset} have "
            f"{max(pixels)}; take more poolings"
        )
    lacks = [max(sizes) - size for size in pixels]
    padding = [(0, 0), *((lack // 2, lack - lack // 2) for lack in lacks), (0, 0)]
    around = (part._replace(images=np.pad(part.images, padding)) for part in (training, test))
    return all_classes(config, *around)


def _image_size(options: Mapping[str, Any]) -> int:
    """Pixels that a network makes one of, planned backwards as Graham does.

    >>> _image_size({"num_poolings": 12, "ratio": 2 ** (1 / 3)})
    94
    >>> _image_size({"num_poolings": 3, "ratio": 2.0, "convs_per_pooling": 2})
    30
    """
    size = 2
    for _ in range(options["num_poolings"]):
        pooled = max(math.floor(size * options["ratio"] + 0.5), size + 1)
        size = pooled + options.get("convs_per_pooling", 1)
    return size


def _options(config: Config) -> list[dict[str, Any]]:
    """Poolings of the fractional network, of the 2x2 one as deep, and of the shallow one.

    The last sees what the second does, or more.

    >>> _options(Config(study="fractional_max_pooling", num_poolings=12, ratio=1.26))[1:]
    [{'num_poolings': 4, 'ratio': 2.0, 'convs_per_pooling': 3}, {'num_poolings': 5, 'ratio': 2.0}]
    """
    halvings = config.num_poolings * math.log2(config.ratio) if config.ratio > 1 else 0.0
    num_halvings = round(halvings)
    whole = num_halvings >= 1 and abs(halvings - num_halvings) < 0.05
    if not whole or config.num_poolings % num_halvings:
        raise ValueError(
            f"--num_poolings={config.num_poolings} at --ratio={config.ratio:.4g} make "
            f"{halvings:.3g} halvings, which 2x2 poolings evenly between as many convolutions "
            "cannot match; take a multiple of 2 at 1.4142 (the square root of 2) or of 3 at "
            "1.2599 (the cube root)"
        )
    each = config.num_poolings // num_halvings
    deep = {"num_poolings": num_halvings, "ratio": 2.0, "convs_per_pooling": each}
    shallow = {"num_poolings": num_halvings, "ratio": 2.0}
    while _image_size(shallow) < _image_size(deep):
        shallow["num_poolings"] += 1
    return [{"num_poolings": config.num_poolings, "ratio": config.ratio}, deep, shallow]


def _check_image(config: Config, image: tuple[int, ...]) -> None:
    wanted = max(map(_image_size, _options(config)))
    if image != (wanted, wanted):
        raise ValueError(
            f"--study=fractional_max_pooling: images must be {wanted}x{wanted} with their black "
            f"frame, got {image}; run it by experiments.ablate"
        )


def _over_grids(config: Config, trained: Trained) -> Measured:
    """Accuracy of one pass, and of the probabilities of several averaged."""
    images, labels, _ = trained.sets.test
    num_images = min(config.num_grid_images, len(labels))
    x = [num for num in _NUM_PASSES if num < config.num_grids] + [config.num_grids]
    module = trained.arm.module
    if trained.arm.account["grids"] == "fixed":
        right = np.argmax(trained.scores(images), axis=-1) == labels
        y = [float(np.mean(right[:num_images]))] * len(x)
        return _measured(x, y, float(np.mean(right)))
    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(trained.seed), _GRIDS_OF_TESTS), config.num_grids
    )
    total, y, outcome = np.zeros(()), [], 0.0
    for number, key in enumerate(keys, 1):
        # All images at the first pass, which is the outcome; then those of the curve.
        seen = images if number == 1 else images[:num_images]
        found = _probabilities(trained, _of_batch(module), key, seen)
        if number == 1:
            outcome = float(np.mean(np.argmax(found, axis=-1) == labels))
        total = total + found[:num_images]
        if number in x:
            right = np.argmax(total, axis=-1) == labels[:num_images]
            y.append(float(np.mean(right)))
    return _measured(x, y, outcome)


def _measured(x: list[int], y: list[float], outcome: float) -> Measured:
    curve = Curve(
        title="Accuracy by the number of passes whose probabilities are averaged",
        x_title="passes, each with grids of its own",
        y_title="accuracy",
        x=tuple(map(float, x)),
        y=tuple(y),
    )
    return Measured(curves={"passes": curve}, outcome=outcome)


@functools.lru_cache
def _of_batch(module: nn.Module) -> Callable[..., jax.Array]:
    """Probabilities of a batch of normalised images; one compilation for all seeds."""

    @jax.jit
    def of_batch(variables: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        scores: Any = module.apply(variables, x, train=False, rngs={"fractional": key})
        return jax.nn.softmax(scores)

    return of_batch


def _probabilities(
    trained: Trained, of_batch: Callable[..., jax.Array], key: jax.Array, images: np.ndarray
) -> np.ndarray:
    """Class probabilities of one pass, float64."""
    found = [
        of_batch(
            trained.variables,
            trained.normalize(jnp.asarray(batch)),
            jax.random.fold_in(key, first),
        )
        for first, batch in batches(images)
    ]
    return np.concatenate([np.asarray(batch, np.float64) for batch in found])[: len(images)]
