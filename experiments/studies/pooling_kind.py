"""Does it matter how pooling sums up its window?

One small network, pooled twice in the same places: by the maximum, the mean or the L2 norm of 2x2
at stride 2, by the maximum of windows that overlap (3x3 at stride 2, AlexNet's), and by the maximum
of 5x5 at stride 3, which the course notes call too destructive. The first four leave volumes of the
same sizes, so that windows alone differ; the fifth leaves about a third of each side.

Where windows do not tile a volume the last one hangs over its end and takes the maximum of what it
sees, so that no pixel goes unseen in any arm and no padding is seen.

Source: Scherer, Müller and Behnke, "Evaluation of pooling operations in convolutional architectures
for object recognition", 2010; Krizhevsky, Sutskever and Hinton, 2012, section 3.4 (overlapping);
CS231n course notes, "Convolutional Networks", pooling layer (L2 norm, and windows that destroy).
"""

from cnnjax.analysis import account
from experiments.config import Config
from experiments.studies.arms import Arm, Order, Study, Task, untuned
from experiments.studies.nets import columns, of_pattern

__all__ = ["pooling_kind"]

_KINDS: tuple[tuple[str, str, str, str, Order], ...] = (
    ("max_2", "maximum of 2x2", "the baseline: max-pooling over 2x2 at stride 2", "POOL2", ""),
    (
        "average_2",
        "mean of 2x2",
        "the mean of each window in place of its maximum",
        "AVGPOOL2",
        "lower",
    ),
    ("l2_2", "L2 norm of 2x2", "the L2 norm of each window in place of its maximum", "L2POOL2", ""),
    (
        "max_3_2",
        "maximum of 3x3, stride 2",
        "windows of 3x3 that overlap, the last one hanging over the end: volumes of {sizes} pixels "
        "a side",
        "POOL3/2",
        "",
    ),
    (
        "max_5_3",
        "maximum of 5x5, stride 3",
        "windows of 5x5 at stride 3, the last one hanging over the end: volumes of {sizes} pixels "
        "a side",
        "POOL5/3",
        "lower",
    ),
)


def pooling_kind(config: Config, task: Task) -> Study:
    """Five kinds of pooling in one small network; see the module's text."""

    def arm(name: str, title: str, differs_in: str, pool: str, published: Order) -> Arm:
        stages = (
            f"CONV3-{width} -> BN -> RELU"
            for width in (config.channels, 2 * config.channels, 4 * config.channels)
        )
        layers = f" -> {pool}[fit=ceil] -> ".join(stages)
        module = of_pattern(config, task, f"{layers} -> GAP")
        convolutions = [
            row for row in account(module, task.image_shape).rows if row.operation == "convolution"
        ]
        sizes = ", ".join(str(row.output_shape[0]) for row in convolutions)
        return Arm(
            name,
            title,
            differs_in.format(sizes=sizes),
            module,
            columns(
                module,
                task,
                sizes=sizes,
                receptive_field=convolutions[-1].receptive_field.size[0] or 0,
            ),
            published=published,
        )

    return Study(
        name="pooling_kind",
        question="Is the maximum the best that pooling can take of a window?",
        baseline="max_2",
        headline_arm="average_2",
        arms=tuple(arm(*kind) for kind in _KINDS),
        limits=(
            *untuned(config),
            "Windows of 5x5 at stride 3 change three things at once, window, stride and the sizes "
            "that follow, and with the sizes the MACs; they are one setting that is in use, not "
            "one factor.",
            "Larger windows see more: the receptive field is not held equal over windows, and is "
            "over kinds.",
            "One small network with batch normalisation, which takes the scale of a pooling out; "
            "without it the L2 norm, twice the root mean square of its window, and the mean would "
            "start training at other scales.",
        ),
        published="Scherer et al. (2010): the maximum ahead of the mean, and windows that overlap "
        "no significant gain; Krizhevsky et al. (2012): 0.4 points from such windows on ImageNet; "
        "CS231n: 5x5 at stride 3 too destructive.",
    )
