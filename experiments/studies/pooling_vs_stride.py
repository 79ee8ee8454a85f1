"""Can a convolution with a stride take the place of max-pooling?

Springenberg et al. take three small networks for CIFAR-10, A, B and C, and make each volume
smaller in four ways: by max-pooling over 3x3 at stride 2 (base), by the stride of the convolution
before (strided), by one more convolution and then the pooling (conv_pool), and by that convolution
with the stride of its own (all). The third is the control of the fourth: it has the same
parameters. Base and strided are the like pair without the layer more. For model C two arms ask what
about max-pooling counts: the mean of each window, and the maximum with the blur that keeps the step
from aliasing.

Source: Springenberg, Dosovitskiy, Brox and Riedmiller, "Striving for simplicity: the all
convolutional net", 2014, tables 1 to 3; Zhang, "Making convolutional networks shift-invariant
again", 2019, for the blur.
"""

from typing import NamedTuple

from cnnjax.models.all_cnn import AllCNN
from experiments.config import Config
from experiments.studies.arms import Arm, Order, Study, Task, compute_dtype, untuned
from experiments.studies.nets import columns

__all__ = ["pooling_vs_stride"]

_MODELS = ("a", "b", "c")


class _Way(NamedTuple):
    """A way to make a volume smaller, and the options of the network that goes it."""

    name: str
    title: str
    differs_in: str
    variant: str
    pooling: str = "max"
    published: Order = ""


_PUBLISHED = (
    _Way("base", "Base-CNN-{}", "the baseline of model {}: max-pooling, 3x3 at stride 2", "base"),
    _Way(
        "strided",
        "Strided-CNN-{}",
        "no pooling: the convolution before it takes the stride",
        "strided",
        published="lower",
    ),
    _Way(
        "conv_pool",
        "ConvPool-CNN-{}",
        "one more 3x3 convolution before each pooling",
        "conv_pool",
        published="higher",
    ),
    _Way(
        "all",
        "All-CNN-{}",
        "a 3x3 convolution of stride 2 in place of each pooling",
        "all",
        published="higher",
    ),
)
_OF_C = (
    _Way(
        "average",
        "Base-CNN-{}, average pooling",
        "the mean of each window in place of its maximum",
        "base",
        "avg",
    ),
    _Way(
        "blurred",
        "Base-CNN-{}, anti-aliased pooling",
        "the maximum at every position, blurred before every second one is taken",
        "base",
        "blurred_max",
    ),
)


def pooling_vs_stride(config: Config, task: Task) -> Study:
    """Four ways to make a volume smaller, in models A, B and C; see the module's text.

    Raises:
      ValueError: --all_cnn_models is no list of a, b and c.
    """
    models = _models(config.all_cnn_models)
    height, width, channels = task.image_shape

    def arm(model: str, way: _Way) -> Arm:
        module = AllCNN(
            num_classes=task.num_classes,
            image_size=(height, width),
            input_channels=channels,
            model=model,
            variant=way.variant,
            pooling=way.pooling,
            widths=(config.channels, 2 * config.channels),
            norm="batch" if config.all_cnn_batch_norm else None,
            dropout=None if config.all_cnn_dropout else 0.0,
            dtype=compute_dtype(config),
        )
        return Arm(
            name=f"{way.name}_{model}",
            title=way.title.format(model.upper()),
            differs_in=way.differs_in.format(model.upper()),
            module=module,
            account=columns(module, task, model=model.upper()),
            # The bases of other models are compared with nothing: they differ in more.
            against=f"base_{model}",
            published=way.published,
        )

    return Study(
        name="pooling_vs_stride",
        question="Can a convolution with a stride take the place of max-pooling?",
        baseline=f"base_{models[0]}",
        headline_arm=f"all_{models[0]}",
        arms=tuple(
            arm(model, way)
            for model in models
            for way in (*_PUBLISHED, *(_OF_C if model == "c" else ()))
        ),
        limits=(
            *untuned(config),
            "All-CNN has a convolution more than the base in place of each pooling, and so more "
            "parameters and MACs; ConvPool-CNN, which has the same parameters and still more MACs, "
            "shows what the layer does without the stride.",
            "Strided-CNN has the base's parameters and computes less, as its convolution skips "
            "three of four positions.",
            "Arms of one seed share the order of the data; they start from the same weights only "
            "in layers of the same number and shape, which a layer more puts out of step.",
            *_unlike_the_paper(config),
        ),
        published="Springenberg et al. (2014), CIFAR-10, model C: base 9.74 % error, Strided-CNN "
        "10.19 %, ConvPool-CNN 9.31 %, All-CNN 9.08 %; the same order but for the last two in A.",
    )


def _unlike_the_paper(config: Config) -> tuple[str, ...]:
    """The limit that holds where the networks do not have the paper's regularisation."""
    if config.all_cnn_dropout and not config.all_cnn_batch_norm:
        return ()
    has = ["batch normalisation"] if config.all_cnn_batch_norm else []
    has += [] if config.all_cnn_dropout else ["no dropout"]
    return (
        f"Not the training of the paper: {' and '.join(has)}, and as many filters and epochs as "
        "the flags say; the order after a short training need not be that after 350 epochs.",
    )


def _models(flag: str) -> tuple[str, ...]:
    """The models that --all_cnn_models lists.

    >>> _models("c,a")
    ('c', 'a')
    """
    models = tuple(part.strip().lower() for part in flag.split(","))
    if len(set(models)) != len(models) or not set(models) <= set(_MODELS):
        raise ValueError(
            f"--all_cnn_models={flag} must list some of a, b and c, each once, as in a,b,c"
        )
    return models
