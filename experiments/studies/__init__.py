"""One question a file: each study is a pure function from a config to arms."""

from collections.abc import Callable

from experiments.config import Config
from experiments.studies.arms import Arm, Study, Task
from experiments.studies.stack_vs_large_kernel import stack_vs_large_kernel

__all__ = ["STUDIES", "Arm", "Study", "Task"]

STUDIES: dict[str, Callable[[Config, Task], Study]] = {
    "stack_vs_large_kernel": stack_vs_large_kernel,
}
