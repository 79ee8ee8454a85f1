"""Do shortcuts let a network profit from depth where a plain one does not?

Residual networks for CIFAR and the plain networks of the same depths, which are the same layers
without shortcuts: option A's shortcuts have no weights, so that at one depth parameters and MACs
are equal, and so are the first weights. Each residual arm is compared with the plain one of its
depth, each deeper plain arm with the shallowest.

A deep plain network may be worse because it cannot be trained or because it overfits. The
accuracy on training images, without augmentation, tells the two apart: the paper's deep plain
networks have the higher training error.

Source: He, Zhang, Ren, Sun, "Deep Residual Learning for Image Recognition", 2015, section 4.2.
"""

import functools

from cnnjax import models
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
    compute_dtype,
    untuned,
)
from experiments.studies.nets import columns

__all__ = ["depth"]


_NORMS = {"batch": "", "none": ", no norm"}
_MOST_MEASURED = 5_000


def depth(config: Config, task: Task) -> Study:
    """Plain and residual networks of some depths; see the module's text.

    Raises:
      ValueError: depths that are not 6n + 2 or fewer than two of them, unknown norms.
    """
    depths, norms = _depths(config.depths), _norms(config.norms)

    def arm(num_layers: int, norm: str, residual: bool) -> Arm:
        kind = "residual" if residual else "plain"
        module = models.create(
            "cifar_resnet20",
            num_classes=task.num_classes,
            input_channels=task.image_shape[-1],
            image_size=task.image_shape[:2],
            depth=num_layers,
            shortcut="A" if residual else None,
            norm=None if norm == "none" else norm,
            widths=(config.channels, 2 * config.channels, 4 * config.channels),
            dtype=compute_dtype(config),
        )
        costs = columns(module, task, depth=num_layers, shortcuts="A" if residual else "none")
        return Arm(
            name=_name(kind, num_layers, norm),
            title=f"{kind} {num_layers}{_NORMS[norm]}",
            differs_in=_difference(num_layers, norm, residual),
            module=module,
            account={**costs, "norm": norm},
            against=_against(num_layers, norm, residual),
            published=_published(num_layers, norm, residual),
        )

    def _against(num_layers: int, norm: str, residual: bool) -> str | None:
        if residual:
            return _name("plain", num_layers, norm)
        return None if num_layers == depths[0] else _name("plain", depths[0], norm)

    def _difference(num_layers: int, norm: str, residual: bool) -> str:
        if residual:
            return f"shortcuts around each pair of the {num_layers} layers"
        if num_layers > depths[0]:
            return f"{num_layers} layers instead of {depths[0]}"
        return "the baseline" if norm == norms[0] else f"{depths[0]} layers without a norm"

    def _published(num_layers: int, norm: str, residual: bool) -> Order:
        # The paper's plain networks are worse with depth from 20 layers on, with a norm.
        if norm == "none":
            return ""
        if residual:
            return "higher" if num_layers >= 20 else ""
        return "lower" if num_layers > depths[0] >= 20 else ""

    return Study(
        name="depth",
        question="Do shortcuts let a network profit from depth where a plain one does not?",
        baseline=_name("plain", depths[0], norms[0]),
        headline_arm=_name("residual", depths[-1], norms[0]),
        arms=tuple(
            arm(num_layers, norm, residual)
            for norm in norms
            for num_layers in depths
            for residual in (False, True)
        ),
        limits=(
            *untuned(config),
            "Parameters and MACs grow with depth; they are equal between the plain and the "
            "residual network of one depth alone.",
            "Steps are held equal over the depths, so that a deeper network that would catch up "
            "later counts as worse; the paper's ran for 64,000.",
            f"Training accuracy is that of the last weights on the first {_MOST_MEASURED:,} "
            "training images at most, without augmentation and with the running statistics of the "
            "norm.",
        ),
        measure=functools.partial(_training_accuracy, config.epochs),
        published="He et al. (2015), CIFAR-10, 20 to 110 layers: the error of plain networks rises "
        "with depth (training error too), that of residual ones falls, from 8.75 % to 6.43 %.",
    )


def _training_accuracy(num_epochs: int, trained: Trained) -> Measured:
    """How many of the training images the last weights classify right, without augmentation."""
    images, labels, names = trained.sets.training
    some = Images(images[:_MOST_MEASURED], labels[:_MOST_MEASURED], names)
    return Measured(
        curves={
            "training_accuracy": Curve(
                title="Accuracy on images that were learnt from",
                x_title="epochs",
                y_title="accuracy on training images, without augmentation",
                x=(float(num_epochs),),
                y=(trained.accuracy(some),),
            )
        }
    )


def _name(kind: str, num_layers: int, norm: str) -> str:
    return f"{kind}_{num_layers}" + ("_no_norm" if norm == "none" else "")


def _depths(text: str) -> tuple[int, ...]:
    """The depths of a flag, in rising order.

    >>> _depths("20, 8,14")
    (8, 14, 20)
    """
    try:
        depths = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        depths = ()
    if len(depths) < 2 or any(number < 8 or number % 6 != 2 for number in depths):
        raise ValueError(
            "--depths must be two or more numbers 6n + 2 of at least 8, as in 8,20,32; got "
            f"{text!r}"
        )
    return depths


def _norms(text: str) -> tuple[str, ...]:
    """The norms of a flag, in their order.

    >>> _norms("batch,none")
    ('batch', 'none')
    """
    norms = tuple(part.strip() for part in text.split(","))
    if len(set(norms)) != len(norms) or not set(norms) <= set(_NORMS):
        raise ValueError(f"--norms must be batch, none or batch,none; got {text!r}")
    return norms
