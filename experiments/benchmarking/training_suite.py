"""Suite "training": the ablation's own training of each arm against PyTorch eager."""

import time
from typing import Any

from cnnjax.models import StackNet
from experiments.benchmarking import machine, markdown
from experiments.benchmarking.setting import Setting, Trainer
from experiments.benchmarking.timing import Contender, Timings, alternate
from experiments.studies import Arm

__all__ = ["training_suite"]

# The test set of the default data set; it decides the shape that `evaluate` is compiled for.
_NUM_TEST = 1000

_SAME_WORK = """\
Both: the same layers, uint8 images in memory, an order drawn anew each epoch, a batch gathered,
shifted by a crop and normalised, mean cross-entropy and its gradient, SGD with Nesterov momentum
and weight decay on kernels only at a rate set each step, the loss of each step kept. Neither:
evaluation, checkpoints."""
_DIFFERENT = """\
What differs: one call of ours runs the {steps} steps as one compiled program, while PyTorch eager
is called operation by operation, which is part of its cost; our draws come from a counter-based
generator keyed by seed and step, PyTorch's from a sequential one, so that the numbers drawn
differ, as do the first weights; our labels are 32-bit integers, PyTorch takes 64-bit ones alone.
PyTorch: channels_last, fused SGD, rectifiers in place; as many threads as cores, and one, which
has nobody to wait for and is the fairer peer where other work takes cores away. Ours: as many
threads as cores."""


def training_suite(setting: Setting) -> str:
    """Images a second of each arm, ours and PyTorch's in alternation, and our compile time.

    Args:
      setting: how to measure.

    Returns:
      Markdown: a table, and what was and was not the same on both sides.
    """
    missing = machine.why_no_peer()
    n = f"n = {setting.rounds}"
    threads = [] if missing else machine.peer_threads()
    header = ["arm", f"ours, images/s, median (min to max), {n}"]
    for name in map(machine.peer_name, threads):
        header += [f"{name}, images/s, {n}", f"ours / {name}, {n}"]
    header.append("compile time, s, n = 1")
    rows = []
    for arm in setting.study.arms:
        timings, compile_seconds = _measure(arm, setting, threads)
        row = [arm.title, timings.rate("ours").text(0)]
        for name in map(machine.peer_name, threads):
            row += [timings.rate(name).text(0), timings.ratio("ours", name).text(2)]
        rows.append([*row, f"{compile_seconds:.1f}"])
    different = _DIFFERENT.format(steps=setting.steps)
    notes = [missing] if missing else [_SAME_WORK, different]
    return f"{markdown.table(header, rows)}\n\n{markdown.paragraphs(*notes)}"


def _measure(arm: Arm, setting: Setting, threads: list[int]) -> tuple[Timings, float]:
    program = setting.program(arm)
    start = time.perf_counter()
    program.compile(setting.config.validation_size, _NUM_TEST)
    compile_seconds = time.perf_counter() - start
    contenders: dict[str, Contender] = {"ours": Trainer(program, setting, [0])}
    for number in threads:
        contenders[machine.peer_name(number)] = _peer(arm, setting, number)
    timings = alternate(
        contenders, rounds=setting.rounds, work=setting.num_train, label=f"training: {arm.title}"
    )
    return timings, compile_seconds


def _peer(arm: Arm, setting: Setting, threads: int) -> Any:
    # PyTorch is not a dependency, and takes a second to import.
    from experiments.benchmarking.torch_peer import PeerTrainer

    if not isinstance(arm.module, StackNet):
        raise ValueError(f"training: the PyTorch peer is a StackNet, arm {arm.name!r} is not")
    return PeerTrainer(arm.module, setting, threads)
