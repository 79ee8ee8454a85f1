"""Does padding that keeps sizes keep what lies at the border of an image?

Without padding the pixels at a border are seen by fewer windows the deeper the network is, and
"the information at the borders would be washed away too quickly", say the course notes. What
images show is cut out and placed on a black canvas of 32x32 pixels: anywhere for training, so
that no network meets the border for the first time in the test, and at chosen distances from a
border to measure. Digits are cut out by their ink; photographs are placed whole, at half size.

Two paddings are told apart: zeros before each layer, and zeros around the image alone, as many as
give the last layer the same windows over the same pixels.

Source: CS231n course notes, "Convolutional Networks", on zero-padding; Islam, Jia and Bruce, "How
Much Position Information Do Convolutional Neural Networks Encode?", 2020, on what zeros tell.
"""

from cnnjax import receptive_field
from cnnjax.data import Images
from cnnjax.receptive_field import Layer
from experiments.config import Config
from experiments.studies import nets
from experiments.studies.arms import Arm, Curve, Measured, Order, Study, Task, Trained, untuned
from experiments.studies.placing import at_border, at_random, fitted, refuse_shifts
from experiments.studies.sets import Cut, Sets, with_validation

__all__ = ["DISTANCES", "anywhere", "measure", "padding"]

DISTANCES = (0, 1, 2, 4, 6)

# Filters in multiples of --channels, and the layers with a pooling behind.
_WIDTHS = (1, 1, 2, 2, 4)
_POOLED = (1, 3)
# Test images that are placed at each distance: more would take longer than the training.
_NUM_PLACED = 2000


def anywhere(config: Config, training: Images, test: Images) -> Cut:
    """The data set, each image's content at a place of its own on a black canvas.

    Raises:
      ValueError: a --shift, or images that cannot be halved to fit.
    """
    refuse_shifts(config, "could move what lies at the border out of the image")
    sets = fitted(with_validation(config, training, test))
    placed = (at_random(part, config.split_seed, number) for number, part in enumerate(sets))
    return Cut(Sets(*placed))


def padding(config: Config, task: Task) -> Study:
    """Five layers with and without padding; see the module's text."""
    whole = _field((1,) * len(_WIDTHS)).padding

    def arm(name: str, title: str, differs_in: str, paddings: tuple[int, ...]) -> Arm:
        module = nets.of_pattern(config, task, _layers(config.channels, paddings))
        field = _field(paddings)
        height = (task.image_shape[0] + 2 * field.padding - field.size) // field.stride + 1
        columns = nets.columns(
            module,
            task,
            layers=len(paddings),
            receptive_field=field.size,
            padding=field.padding,
            last_size=f"{height}x{height}",
        )
        published: Order = "" if name == "valid" else "higher"
        return Arm(name, title, differs_in, module, columns, published=published)

    return Study(
        name="padding",
        question="Does padding that keeps sizes keep what lies at the border of an image?",
        baseline="valid",
        headline_arm="same",
        arms=(
            arm("valid", "no padding", "the baseline", (0,) * len(_WIDTHS)),
            arm("same", "zeros before each layer", "sizes kept by zeros", (1,) * len(_WIDTHS)),
            arm(
                "padded_once",
                f"{whole} pixels before the first layer",
                "as many windows over the same pixels as with zeros before each layer, all of "
                "the padding before the first",
                (whole, *(0,) * (len(_WIDTHS) - 1)),
            ),
        ),
        limits=(
            *untuned(config),
            "Depth, filters, parameters and the receptive field are equal; sizes, and with them "
            "MACs and the positions that are averaged at the end, are not.",
            "Padding before the first layer is of zeros after the channel means are taken off, so "
            "grey beside the black canvas: the border can be told from both paddings.",
            f"What lies at a border lies whole within the image, and accuracies by distance are of "
            f"the first {_NUM_PLACED:,} test images; objects that the border cuts are another "
            "question.",
            "An average over all positions stands before the classifier: one that has weights for "
            "each position could make up for windows that are missing.",
        ),
        measure=measure,
        outcome="accuracy at the border",
        published="CS231n: without padding the information at the borders would be washed away too "
        "quickly.",
    )


def measure(trained: Trained) -> Measured:
    """Accuracy by the distance from the nearest border, along a side and in a corner.

    Args:
      trained: a network that learnt from `anywhere`.

    Returns:
      Two curves; the outcome is the accuracy where a side is touched.
    """
    test = trained.sets.test
    first = test._replace(images=test.images[:_NUM_PLACED], labels=test.labels[:_NUM_PLACED])
    distances = tuple(map(float, DISTANCES))
    curves = {}
    for name, where in (("border", "a side"), ("corner", "both sides of a corner")):
        accuracies = []
        for distance in DISTANCES:
            placed = at_border(first, distance, seed=0, corner=name == "corner")
            accuracies.append(trained.accuracy(placed))
        curves[name] = Curve(
            f"Accuracy by the distance from {where}",
            "distance from the border (pixels)",
            "accuracy",
            distances,
            tuple(accuracies),
        )
    return Measured(curves, outcome=curves["border"].y[0])


def _layers(channels: int, paddings: tuple[int, ...]) -> str:
    layers = []
    for index, (width, pad) in enumerate(zip(_WIDTHS, paddings, strict=True)):
        layers.append(f"CONV3-{width * channels}[padding={pad}] -> BN -> RELU")
        if index in _POOLED:
            layers.append("POOL2")
    return f"{' -> '.join(layers)} -> GAP"


def _field(paddings: tuple[int, ...]) -> receptive_field.ReceptiveField:
    layers = []
    for index, pad in enumerate(paddings):
        layers.append(Layer(3, padding=pad))
        if index in _POOLED:
            layers.append(Layer(2, stride=2))
    return receptive_field.compose(layers)
