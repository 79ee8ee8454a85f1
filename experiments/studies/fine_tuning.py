"""Does a network learn new classes from a few images better when it has learnt others before?

A network learns the first half of the classes from all their images, is given a new head, and
learns the second half from a few hundred images: all of it, or the head alone. The baseline
learns them from scratch, with the same images, steps and augmentation. A seed means the same
first weights in every arm: those that the baseline starts from are those that the pretraining
started from, and the new head is the baseline's.

Source: Donahue et al., "DeCAF", 2013 (a frozen body); Yosinski et al., "How Transferable Are
Features in Deep Neural Networks?", 2014 (the body trained further).
"""

from cnnjax.analysis import account
from cnnjax.data import Images, stratified_indices
from cnnjax.models import StackNet
from experiments.config import Config
from experiments.studies.arms import Arm, Order, Pretraining, Study, Task, compute_dtype, untuned
from experiments.studies.sets import Cut, Sets, of_classes, with_validation

__all__ = ["fine_tuning", "halves"]

_HEAD = ("head",)


def halves(config: Config, training: Images, test: Images) -> Cut:
    """The second half of the classes, a few images of each; the first half as the source.

    Raises:
      ValueError: fewer than four classes, or more images asked for than there are.
    """
    num_classes = len(training.class_names)
    if num_classes < 4:
        raise ValueError(
            f"--study=fine_tuning needs four classes or more, two on either side; "
            f"{config.dataset} has {num_classes}"
        )
    old, new = range(num_classes // 2), range(num_classes // 2, num_classes)
    source = with_validation(config, of_classes(training, old), of_classes(test, old))
    left, validation, tests = with_validation(
        config, of_classes(training, new), of_classes(test, new)
    )
    few = stratified_indices(
        left.labels,
        config.num_finetune,
        config.split_seed,
        caller="--study=fine_tuning",
        size="--num_finetune",
    )
    return Cut(
        Sets(Images(left.images[few], left.labels[few], left.class_names), validation, tests),
        source,
    )


def fine_tuning(config: Config, task: Task) -> Study:
    """From scratch, fine-tuned, and a new head on a frozen body; see the module's text."""
    if task.source is None:
        raise ValueError(
            "--study=fine_tuning compares what networks learn from two halves of a data set and "
            "has no arms without one; run it by experiments.ablate"
        )
    source, width = task.source, 2 * config.channels
    old, new = _listed(source.training.class_names), _listed(task.class_names)

    def net(num_classes: int) -> StackNet:
        dtype = compute_dtype(config)
        return StackNet(num_classes, config.channels, (3, 3), (width, width), dtype=dtype)

    num_source = len(source.training.labels)
    pretraining = Pretraining(
        name="pretraining",
        title=f"pretraining on {old}",
        module=net(len(source.training.class_names)),
        epochs=config.pretrain_epochs,
        sets=source,
        new_layers=_HEAD,
    )
    module = net(task.num_classes)
    costs = account(module, task.image_shape)
    in_head = sum(row.parameters for row in costs.rows if row.path.split("/")[-1] in _HEAD)

    def arm(
        name: str,
        title: str,
        differs_in: str,
        initial: Pretraining | None,
        trained: tuple[str, ...] | None = None,
        published: Order = "",
    ) -> Arm:
        columns: dict[str, int | float | str] = {
            "parameters": costs.parameters,
            "trained_parameters": costs.parameters if trained is None else in_head,
            "macs": costs.macs,
            "images": config.num_finetune,
            "steps": task.num_steps,
            "pretraining_images": num_source if initial else 0,
            "pretraining_steps": config.pretrain_epochs * (num_source // config.batch_size)
            if initial
            else 0,
        }
        return Arm(name, title, differs_in, module, columns, initial, trained, published=published)

    return Study(
        name="fine_tuning",
        question=f"Does a network that has learnt {old} learn {new} from {config.num_finetune:,} "
        "images better than one from scratch?",
        baseline="from_scratch",
        headline_arm="fine_tuned",
        arms=(
            arm("from_scratch", "training from scratch", "the baseline", None),
            arm(
                "fine_tuned",
                "fine-tuning",
                f"starts from the weights of a network that has learnt {old}, with a new head",
                pretraining,
                published="higher",
            ),
            arm(
                "new_head",
                "a new head on a frozen body",
                f"starts as the fine-tuned network does, and the head alone learns {new}",
                pretraining,
                _HEAD,
            ),
        ),
        limits=(
            *untuned(config),
            "The pretraining has the settings of the arms, and --learning_rate whatever is tuned.",
            "The compute is not held equal: the pretrained arms took steps on images of other "
            "classes first, and are compared at equal images and steps of the new ones.",
            f"All trials learn from the same draw of {config.num_finetune:,} images "
            f"(--split_seed={config.split_seed}), so that intervals speak of other seeds of the "
            "weights and the order, not of other draws.",
            "One small network and one pair of related tasks: transfer to tasks less alike is "
            "another question.",
        ),
        published="Yosinski et al. (2014), halves of ImageNet: networks that start from learnt "
        "weights and are trained further generalise better than those from scratch.",
    )


def _listed(names: tuple[str, ...]) -> str:
    """Class names as a sentence has them; many are only counted.

    >>> _listed(("5", "6", "7")), _listed(tuple(map(str, range(50))))
    ('5, 6 and 7', '50 classes (0 to 49)')
    """
    if len(names) > 10:
        return f"{len(names)} classes ({names[0]} to {names[-1]})"
    return f"{', '.join(names[:-1])} and {names[-1]}"
