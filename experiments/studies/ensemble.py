"""Are several networks together better than one, and better than one of all their parameters?

Networks of one architecture, drawn independently, are trained in one program: each minimises its
own loss on the same batches, and the probabilities that they give are averaged. A seed means the
same first weights of the members that two arms share. The control is one network, widened to the
parameters of the largest ensemble.

Source: Krizhevsky et al., 2012: five networks alike have 16.4 % top-5 error together, one 18.2 %;
Hansen and Salamon, "Neural Network Ensembles", 1990.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.analysis import match_width
from cnnjax.pattern import PatternNet
from experiments.config import Config
from experiments.studies.arms import Arm, Curve, Measured, Study, Task, Trained, batches, untuned
from experiments.studies.nets import columns, of_pattern

__all__ = ["Ensemble", "ensemble"]


class Ensemble(nn.Module):
    """Networks side by side: scores of each while training, of all together afterwards.

    Attributes:
      make: a network for each name.
      num_members: how many.

    >>> import functools, flax.linen as nn
    >>> class Net(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, x, *, train=False):
    ...         return nn.Dense(3)(x)
    >>> two = Ensemble(Net, 2)
    >>> variables = two.init(jax.random.key(0), jnp.ones((1, 4)))
    >>> [scores.shape for scores in two.apply(variables, jnp.ones((5, 4)), train=True)]
    [(5, 3), (5, 3)]
    >>> together = two.apply(variables, jnp.ones((5, 4)))
    >>> together.shape, round(float(jnp.exp(together).sum()), 4)
    ((5, 3), 5.0)
    """

    make: Callable[..., nn.Module]
    num_members: int

    @nn.compact
    def members(self, x: jax.Array, train: bool) -> tuple[jax.Array, ...]:
        """Scores of each member, (N, num_classes)."""
        networks: list[Any] = [self.make(name=f"member{i}") for i in range(self.num_members)]
        return tuple(network(x, train=train) for network in networks)

    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        """A tuple of scores while training; else logs of the mean of the members' probabilities."""
        scores = self.members(x, train)
        return scores if train else _together(jnp.stack(scores))


def _together(scores: jax.Array) -> jax.Array:
    """Logs of the mean probabilities, from scores (num_members, N, num_classes)."""
    logs = jax.nn.log_softmax(scores, axis=-1)
    return jax.nn.logsumexp(logs, axis=0) - jnp.log(len(scores))


def ensemble(config: Config, task: Task) -> Study:
    """Ensembles of several sizes and a wide network; see the module's text.

    Raises:
      ValueError: sizes that are not whole numbers, beginning with 1 and growing.
    """
    try:
        sizes = [int(size) for size in config.ensemble_sizes.split(",")]
    except ValueError:
        sizes = []
    if len(sizes) < 2 or sizes[0] != 1 or sizes != sorted(set(sizes)):
        raise ValueError(
            "--ensemble_sizes must be growing whole numbers from 1 on, as in 1,3,5,7, got "
            f"{config.ensemble_sizes!r}"
        )
    largest = sizes[-1]

    def net(width: int) -> PatternNet:
        # Patches of 2x2 first: many small networks, each a fraction of a convolution's cost at full
        # size.
        return of_pattern(
            config,
            task,
            f"CONV2-{width}[stride=2, padding=0] -> BN -> RELU -> CONV3-{2 * width} -> BN -> RELU "
            f"-> POOL2 -> CONV3-{4 * width} -> BN -> RELU -> GAP",
        )

    def of_size(width: int, num_members: int) -> Ensemble:
        one = net(width)
        return Ensemble(functools.partial(PatternNet, one.layers, one.dtype), num_members)

    wide = match_width(
        lambda width: of_size(width, 1), task.image_shape, of_size(config.channels, largest)
    )

    def arm(
        name: str, title: str, differs_in: str, width: int, num_members: int, **more: Any
    ) -> Arm:
        module = of_size(width, num_members)
        account = columns(module, task, members=num_members, width=width)
        return Arm(name, title, differs_in, module, account, **more)

    return Study(
        name="ensemble",
        question=f"Are {largest} networks together better than one?",
        baseline="members_1",
        headline_arm=f"members_{largest}",
        arms=(
            arm("members_1", "one network", "the baseline", config.channels, 1),
            *(
                arm(
                    f"members_{size}",
                    f"{size} networks",
                    f"the mean probabilities of {size} networks, drawn independently",
                    config.channels,
                    size,
                    published="higher",
                )
                for size in sizes[1:]
            ),
            arm(
                "wide",
                f"one network, {wide.width} wide",
                f"one network of the parameters of {largest} ({wide.error:+.1%})",
                wide.width,
                1,
                against=f"members_{largest}",
            ),
        ),
        limits=(
            *untuned(config),
            "Compute is not held equal: an ensemble takes its number of members times the steps of "
            "one, in MACs as in memory. The wide network has its parameters, not its MACs.",
            "The members see the same batches and the same augmentation and differ in their first "
            "weights alone; members with orders of their own would differ more.",
            "The training loss of an ensemble is the sum of its members'.",
        ),
        measure=functools.partial(_measure, largest),
        published="Krizhevsky et al. (2012), ImageNet: five networks alike 16.4 % top-5 error, one "
        "18.2 %.",
    )


@functools.cache
def _scores_of_members(module: Ensemble) -> Any:
    def scores(variables: Any, x: jax.Array) -> jax.Array:
        return jnp.stack(module.apply(variables, x, False, method=Ensemble.members))  # type: ignore[arg-type]

    return jax.jit(scores)


def _measure(largest: int, trained: Trained) -> Measured:
    """Accuracy of each number of members, of the largest ensemble."""
    module = trained.arm.module
    if not isinstance(module, Ensemble) or module.num_members != largest:
        return Measured()
    scores, images = _scores_of_members(module), trained.sets.test.images
    of_all = np.concatenate(
        [
            scores(trained.variables, trained.normalize(jnp.asarray(batch)))
            for _, batch in batches(images)
        ],
        axis=1,
    )[:, : len(images)]
    return Measured({"accuracy_by_members": _by_members(of_all, trained.sets.test.labels)})


def _by_members(scores: np.ndarray, labels: np.ndarray) -> Curve:
    """The curve over the number of members, from scores (num_members, N, num_classes).

    Of m members it takes the mean over the cyclic runs of m, in which each is as often as the
    others, so that no one member says what one network can do.
    """
    shifted = np.float64(scores) - scores.max(-1, keepdims=True)
    probabilities = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    num_members = len(scores)
    accuracies = []
    for size in range(1, num_members + 1):
        starts = range(num_members if size < num_members else 1)
        of_runs = [
            probabilities[[(start + i) % num_members for i in range(size)]].mean(0).argmax(-1)
            for start in starts
        ]
        accuracies.append(float(np.mean([chosen == labels for chosen in of_runs])))
    return Curve(
        "Test accuracy of the mean of so many members' probabilities",
        "members",
        "test accuracy",
        tuple(float(size) for size in range(1, num_members + 1)),
        tuple(accuracies),
    )
