"""The networks of studies: a layer pattern as a classifier of the task, and what it costs."""

from typing import Any

from cnnjax import pattern
from cnnjax.analysis import account
from cnnjax.pattern import PatternNet
from experiments.config import Config
from experiments.studies.arms import Task, compute_dtype

__all__ = ["columns", "of_pattern"]


def of_pattern(config: Config, task: Task, layers: str) -> PatternNet:
    """The network of a layer pattern, from the task's images to its scores.

    Args:
      config: says what to compute in.
      task: says the images and the classes.
      layers: the pattern between INPUT and the classifier, as in "[CONV3-16 -> RELU]*2 -> POOL2".

    Raises:
      PatternError: layers that do not go together, or no pattern.
      ValueError: likewise.

    >>> net = of_pattern(Config(), Task((28, 28, 1), 10, 100), "CONV3-8 -> RELU -> POOL2 -> GAP")
    >>> " -> ".join(map(str, net.layers))
    'INPUT[28x28x1] -> CONV3-8 -> RELU -> POOL2 -> GAP -> FC-10'
    """
    sizes = "x".join(map(str, task.image_shape))
    text = f"INPUT[{sizes}] -> {layers} -> FC-{task.num_classes}"
    return pattern.to_module(pattern.parse(text), dtype=compute_dtype(config))


def columns(module: Any, task: Task, **more: int | float | str) -> dict[str, int | float | str]:
    """The columns of an arm's account: what it costs, and how long it learns.

    Args:
      module: the arm's network.
      task: says the images and the steps.
      **more: columns to stand before them, the same names in every arm.

    >>> net = of_pattern(Config(), Task((28, 28, 1), 10, 100), "CONV3-8 -> RELU -> POOL2 -> GAP")
    >>> columns(net, Task((28, 28, 1), 10, 100), layers=2)
    {'layers': 2, 'parameters': 170, 'macs': 56528, 'activation_values': 6282, 'steps': 100}
    """
    costs = account(module, task.image_shape)
    return {
        **more,
        "parameters": costs.parameters,
        "macs": costs.macs,
        "activation_values": costs.activation_values,
        "steps": task.num_steps,
    }
