"""Suite "memory": predicted memory over XLA's own figure, and how long tracing takes."""

import functools
import math
import time
from typing import Any

from tqdm import tqdm

from cnnjax import pattern
from cnnjax.analysis import Verified, account, verify
from cnnjax.analysis.tables import human_bytes
from cnnjax.pattern.classics import PATTERNS
from experiments.benchmarking import markdown
from experiments.benchmarking.setting import IMAGE_SHAPE, Setting
from experiments.benchmarking.timing import spread

__all__ = ["BATCHES", "memory_suite"]

BATCHES = (2, 16)

_NOTES = (
    """Predicted by `analysis.predict_memory` from the traced program, over what XLA states of the
    compiled one: arguments, outputs and temporaries together, and the temporaries alone, which
    parameters do not hide. Inference is the forward pass, training the gradient step without an
    optimizer. Nothing is allocated or run; the figures do not depend on the machine's load.""",
    """Tracing: one call of `analysis.account`, rows and receptive fields of the whole network.""",
)


def memory_suite(setting: Setting) -> str:
    """Predictions over XLA's figures for the classic chains and the study's arms.

    Args:
      setting: `rounds` says how often tracing is timed.

    Returns:
      Markdown: a table of ratios, one of times, and what they mean.
    """
    networks = _networks(setting)
    ratios, times = [], []
    for name, (module, shape) in tqdm(networks.items(), "memory", leave=False, disable=None):
        for batch_size in BATCHES:
            for found in verify(module, shape, batch_size=batch_size):
                ratios.append([f"{name}, {found.name}, batch {batch_size}", *_cells(found)])
        timed = [_seconds(functools.partial(account, module, shape)) for _ in range(setting.rounds)]
        times.append([name, spread(timed).text(2)])
    header = ["network", "XLA's memory", "predicted / XLA", "temporaries alone"]
    seconds = f"s to trace its account, median (min to max), n = {setting.rounds}"
    return "\n\n".join(
        [
            markdown.table(header, ratios),
            markdown.table(["network", seconds], times),
            markdown.paragraphs(*_NOTES),
        ]
    )


def _networks(setting: Setting) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Modules and the shape of their example, by name."""
    chains = {name: pattern.parse(text) for name, text in PATTERNS.items()}
    networks: dict[str, tuple[Any, tuple[int, ...]]] = {
        name: (pattern.to_module(net), pattern.volumes(net)[0].shape)
        for name, net in chains.items()
    }
    return networks | {
        f"the study's {arm.title}": (arm.module, IMAGE_SHAPE) for arm in setting.study.arms
    }


def _cells(found: Verified) -> list[str]:
    ratio = found.temporary_ratio
    return [
        human_bytes(found.compiled.peak_bytes),
        f"{found.peak_ratio:.3f}",
        "XLA has none" if math.isnan(ratio) else f"{ratio:.3f}",
    ]


def _seconds(call: functools.partial) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
