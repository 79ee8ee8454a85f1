"""Suite "pooling": max pooling, ours against XLA's reduce-window and PyTorch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cnnjax import ops
from experiments.benchmarking import machine, markdown
from experiments.benchmarking.setting import IMAGE_SHAPE, Setting
from experiments.benchmarking.timing import Contender, alternate

__all__ = ["pooling_suite"]

_WINDOWS = ((2, 2), (3, 2))


def pooling_suite(setting: Setting) -> str:
    """Calls a second of each max pooling, forward alone and with its gradient.

    Args:
      setting: batch size and channels decide the shape, that of the stem's output.

    Returns:
      Markdown: one table.
    """
    shape = (setting.config.batch_size, *IMAGE_SHAPE[:2], setting.config.channels)
    missing = machine.why_no_peer()
    n = f"n = {setting.rounds}"
    header = [f"max pooling of {shape}", f"ours, calls/s, median (min to max), {n}"]
    threads = [] if missing else machine.peer_threads()
    rivals = ["lax.reduce_window", *map(machine.peer_name, threads)]
    header += [f"ours / {rival}, {n}" for rival in rivals]
    rows = []
    for window, stride in _WINDOWS:
        for with_gradient in (False, True):
            what = "forward and gradient" if with_gradient else "forward"
            contenders = _contenders(shape, window, stride, with_gradient, setting.steps)
            for number in threads:
                contenders[machine.peer_name(number)] = _torch(
                    shape, window, stride, with_gradient, setting.steps, number
                )
            name = f"{window}x{window}, stride {stride}, {what}"
            timings = alternate(
                contenders, rounds=setting.rounds, work=setting.steps, label=f"pooling: {name}"
            )
            rows.append(
                [name, timings.rate("ours").text(0)]
                + [timings.ratio("ours", other).text(2) for other in rivals]
            )
    note = (
        f"Each timed call is {setting.steps} poolings called one by one. Ties go to the first "
        "maximum in ours and PyTorch; lax.reduce_window's gradient is XLA's select-and-scatter."
    )
    return (
        f"{markdown.table(header, rows)}\n\n{markdown.paragraphs(note, *filter(None, [missing]))}"
    )


def _made_up(shape: tuple[int, ...]) -> np.ndarray:
    # Rectified, as what a network pools is: half of the values are zeros, and tie.
    return np.maximum(np.random.default_rng(0).standard_normal(shape, np.float32), 0)


def _contenders(
    shape: tuple[int, ...], window: int, stride: int, with_gradient: bool, repeats: int
) -> dict[str, Contender]:
    def ours(x: jax.Array) -> jax.Array:
        return ops.max_pool(x, window=window, stride=stride)

    def reduce_window(x: jax.Array) -> jax.Array:
        size, step = (1, window, window, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, size, step, "VALID")

    x = jnp.asarray(_made_up(shape))

    def contender(pool: Callable[[jax.Array], jax.Array]) -> Contender:
        def forward_and_gradient(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            out, pull_back = jax.vjp(pool, x)
            return out, pull_back(jnp.ones_like(out))[0]

        jitted: Any = jax.jit(forward_and_gradient if with_gradient else pool)

        def run() -> None:
            for _ in range(repeats):
                # One at a time: the CPU backend would run independent calls side by side.
                jax.block_until_ready(jitted(x))

        return run

    return {"ours": contender(ours), "lax.reduce_window": contender(reduce_window)}


def _torch(
    shape: tuple[int, ...],
    window: int,
    stride: int,
    with_gradient: bool,
    repeats: int,
    threads: int,
) -> Contender:
    import torch
    import torch.nn.functional as F  # noqa: N812

    x = torch.from_numpy(_made_up(shape)).permute(0, 3, 1, 2)  # channels_last in memory
    x.requires_grad_(with_gradient)
    ones = torch.ones_like(F.max_pool2d(x, window, stride))

    def run() -> None:
        # A setting of the whole process, where others have other numbers.
        torch.set_num_threads(threads)
        for _ in range(repeats):
            out = F.max_pool2d(x, window, stride)
            if with_gradient:
                torch.autograd.grad(out, x, ones)

    return run
