"""Measure speed: python -m experiments.benchmark --suite=training.

Suites: "training" (the study's arms against PyTorch eager, and compile times), "forms" (which
convolution, called how), "seeds" (several seeds on one machine), "ops" (single operations against
plain JAX, other forms and PyTorch; `--only=conv_3x3,max_pool_2x2` picks some), "memory" (predicted
memory over XLA's figure, and how long tracing takes), "dense" (scores of a larger image in one pass
against its crops), "models" (resnet50 and vgg16 against torchvision's, on the CPU or a GPU), "all".
Contenders are timed in alternation and compared round by round; the tables are Markdown. Exit
codes: 0 done, 1 refused or failed with a sentence.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags, logging

from experiments.benchmarking import machine
from experiments.benchmarking.dense_suite import dense_suite
from experiments.benchmarking.memory_suite import memory_suite
from experiments.benchmarking.models_suite import models_suite
from experiments.benchmarking.ops_suite import ops_suite
from experiments.benchmarking.seeds import seeds_suite
from experiments.benchmarking.setting import Setting
from experiments.benchmarking.training_forms import forms_suite
from experiments.benchmarking.training_suite import training_suite
from experiments.config import Config
from experiments.names import check_name

__all__ = ["SUITES", "benchmark", "define_flags", "main"]

SUITES: dict[str, tuple[str, Callable[[Setting], str]]] = {
    "training": ("Training: ours against PyTorch eager", training_suite),
    "forms": ("Forms of the training program", forms_suite),
    "seeds": ("Several seeds on one machine", seeds_suite),
    "ops": ("Single operations", ops_suite),
    "memory": ("Predicted memory, and tracing", memory_suite),
    "dense": ("Dense scores: one pass against the crops", dense_suite),
    "models": ("Whole networks: ours against torchvision's", models_suite),
}

# Those flags of an ablation that the speed of its training depends on.
_CONFIG_FLAGS = ("channels", "batch_size", "shift", "flip")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define the program's flags.

    Not on import: `experiments.ablate` has flags of the same names, and one process (of the
    tests) may import both.
    """
    names = ", ".join([*SUITES, "all"])
    flags.DEFINE_string("suite", "training", f"What to measure: {names}.", flag_values=flag_values)
    flags.DEFINE_integer("rounds", 7, "Timed calls of each contender.", flag_values=flag_values)
    flags.DEFINE_integer(
        "steps",
        70,
        "Training steps of a timed call; the default is an epoch of the default ablation.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "only", [], "Operations of the suite ops, by name; all by default.", flag_values=flag_values
    )
    for field in dataclasses.fields(Config):
        if field.name in _CONFIG_FLAGS:
            default: Any = field.default
            define: Any = flags.DEFINE_bool if isinstance(default, bool) else flags.DEFINE_integer
            define(field.name, default, field.metadata["help"], flag_values=flag_values)


def main(argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Read the flags and measure; every refusal is one sentence."""
    if len(argv) > 1:
        sys.exit(f"unexpected argument {argv[1]!r}: every setting is a flag, --name=value")
    values = flag_values.flag_values_dict()
    try:
        config = Config(**{name: values[name] for name in _CONFIG_FLAGS})
        benchmark(
            values["suite"],
            config,
            rounds=values["rounds"],
            steps=values["steps"],
            only=tuple(values["only"]),
        )
    except (ValueError, OSError, RuntimeError) as error:
        if logging.level_debug():
            raise
        sys.exit(f"experiments.benchmark: {error}")


def benchmark(
    suite: str, config: Config, *, rounds: int, steps: int, only: tuple[str, ...] = ()
) -> None:
    """Run a suite, or all, and print its Markdown.

    Args:
      suite: a name of `SUITES`, or "all".
      config: of the ablation whose training is measured.
      rounds: timed calls of each contender.
      steps: training steps of a timed call.
      only: operations of the suite "ops"; all where there is none.

    Raises:
      ValueError: an unknown suite or operation, or no rounds or steps.
      RuntimeError: a process of the seeds suite died.
    """
    check_name("--suite", suite, [*SUITES, "all"])
    for name, value in (("rounds", rounds), ("steps", steps)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    if only and suite != "ops":
        raise ValueError(f"--only picks operations of --suite=ops, not of --suite={suite}")
    # Two frameworks share a GPU's memory; JAX would take three quarters of it for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    # A compile time is to be one, whatever cache of compiled programs the user keeps.
    jax.config.update("jax_enable_compilation_cache", False)
    setting = Setting(config, rounds, steps, only)
    print(
        f"{machine.describe()}\n- {rounds} rounds; {steps} steps of {config.batch_size} images a "
        f"timed call; {config.channels} channels",
        flush=True,
    )
    for title, run in SUITES.values() if suite == "all" else [SUITES[suite]]:
        print(f"\n## {title}\n\n{run(setting)}", flush=True)


if __name__ == "__main__":
    define_flags()
    # JAX notes every backend that is not there; `--verbosity=0` brings such notes back.
    logging.set_verbosity(logging.WARNING)
    app.run(main)
