"""Does dropout help a network with a dense layer and few images, and where does it stand best?

[CONV3 -> RELU -> POOL2]*2 -> FC -> RELU -> FC with dropout nowhere, on the input, behind each
pooling, or on the dense hidden layer, at one or two rates. It is measured how well each network
knows the images that it has learnt: dropout should make the two accuracies differ by less.

Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, "Dropout", 2014; Krizhevsky et
al., 2012 (0.5 on the dense layers); Springenberg et al., "All-CNN", 2014 (0.2 on the input, 0.5
behind the poolings).
"""

import functools

from experiments.config import Config
from experiments.studies.arms import Arm, Curve, Measured, Order, Study, Task, Trained, untuned
from experiments.studies.nets import columns, of_pattern

__all__ = ["dropout"]


def dropout(config: Config, task: Task) -> Study:
    """One network with dropout at several places; see the module's text."""

    def arm(
        name: str,
        title: str,
        differs_in: str,
        *,
        at_input: float = 0.0,
        pooling: float = 0.0,
        dense: float = 0.0,
        published: Order = "higher",
    ) -> Arm:
        first, last = (
            f"CONV3-{width} -> RELU -> POOL2{_dropped(pooling)}"
            for width in (config.channels, 2 * config.channels)
        )
        layers = f"{first} -> {last} -> FC-{config.dense_units} -> RELU{_dropped(dense)}"
        if at_input:
            layers = f"DROPOUT{at_input:g} -> {layers}"
        module = of_pattern(config, task, layers)
        return Arm(name, title, differs_in, module, columns(module, task), published=published)

    return Study(
        name="dropout",
        question="Does dropout help a network with a dense hidden layer that learns from few "
        "images?",
        baseline="none",
        headline_arm="dense_50",
        arms=(
            arm("none", "no dropout", "the baseline", published=""),
            arm("input_20", "on the input, 0.2", "input values are dropped", at_input=0.2),
            arm("pooling_25", "behind poolings, 0.25", "pooled values are dropped", pooling=0.25),
            arm("pooling_50", "behind poolings, 0.5", "pooled values are dropped", pooling=0.5),
            arm("dense_25", "on the dense layer, 0.25", "hidden values are dropped", dense=0.25),
            arm("dense_50", "on the dense layer, 0.5", "hidden values are dropped", dense=0.5),
        ),
        limits=(
            *untuned(config),
            "All arms take the same steps. Dropout makes the loss noisier and learning slower, and "
            "its papers train longer with it, with larger rates.",
            "Values are dropped one by one; whole feature maps, which neighbours cannot fill in, "
            "are another thing.",
            "All trials learn from the same draw of training images "
            f"(--split_seed={config.split_seed}): intervals speak of other weights, orders and "
            "masks, not of other draws.",
        ),
        measure=functools.partial(_measure, float(task.num_steps)),
        published="Srivastava et al. (2014): dropout on the dense layers alone lowers the error on "
        "SVHN and CIFAR-10, on the convolutional ones too lowers it further.",
    )


def _dropped(rate: float) -> str:
    return f" -> DROPOUT{rate:g}" if rate else ""


def _measure(num_steps: float, trained: Trained) -> Measured:
    """Accuracy on the images learnt, as they are, and by how much it exceeds that on the test's."""
    known, new = map(trained.accuracy, (trained.sets.training, trained.sets.test))

    def at_the_end(title: str, y_title: str, y: float) -> Curve:
        return Curve(title, "steps taken", y_title, (num_steps,), (y,))

    return Measured(
        {
            "training_accuracy": at_the_end(
                "Accuracy on the training images, without dropout or augmentation",
                "accuracy",
                known,
            ),
            "gap": at_the_end(
                "Accuracy on the training images minus that on the test images",
                "difference of accuracies",
                known - new,
            ),
        }
    )
