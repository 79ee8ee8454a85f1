"""Suite "dense": scores at every position of a larger image, in one pass and crop by crop."""

from typing import Any

import jax
import jax.numpy as jnp
from tqdm import tqdm

from cnnjax import models, surgery
from cnnjax.analysis import account
from cnnjax.models import Network
from experiments.benchmarking import markdown
from experiments.benchmarking.setting import Setting
from experiments.benchmarking.timing import Timings, alternate

__all__ = ["NETWORKS", "dense_suite"]

# Pixels of the larger image's side; at the network's own stride 6x6 positions each.
NETWORKS = {"lenet5": 52, "alexnet": 384, "resnet18": 384}

ONE_PASS, ONE_BY_ONE, LOOP = "one pass", "crops one by one", "crops in a loop"

_NOTE = """\
One image, float32. One pass: the converted network on the whole image, as one compiled program.
Crops one by one: a compiled program of the network called for each crop, as a loop over crops
would. Crops in a loop: all of them in one compiled program, 16 at a time, as
`dense_scores(borders="crop")` does for networks that pad. MACs: those of all crops over those of
one pass, which is what is saved where a multiply-accumulate costs the same in both."""
_BATCH = 16


def dense_suite(setting: Setting) -> str:
    """Images a second by one pass and by crops, and how much work each is.

    Args:
      setting: `rounds` says how often each is timed.

    Returns:
      Markdown: a table with a row for each network, and what it means.
    """
    rows = []
    for name, side in tqdm(NETWORKS.items(), "dense", leave=False, disable=None):
        rows.append(_row(name, side, setting.rounds))
    n = f"n = {setting.rounds}"
    header = ["network, side of the image", "positions", "MACs, crops / one pass"]
    header += [f"one pass, images/s, median (min to max), {n}"]
    header += [f"one pass / {rival}, {n}" for rival in (ONE_BY_ONE, LOOP)]
    return "\n\n".join([markdown.table(header, rows), markdown.paragraphs(_NOTE)])


def _row(name: str, side: int, rounds: int) -> list[str]:
    model = models.create(name)
    image = jax.random.uniform(jax.random.key(1), (1, side, side, model.input_channels))
    variables: Any = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, *model.input_shape)))
    step = model.feature_info[-1].reduction
    rows, columns = ((side - size) // step + 1 for size in model.image_size)
    starts = [(row * step, column * step) for row in range(rows) for column in range(columns)]
    timings = _timed(model, variables, image, starts, rounds, name)
    slid, _ = surgery.dense_to_conv(model, variables)
    crops = len(starts) * account(model, model.input_shape).macs
    return [
        f"{name}, {side}",
        f"{rows}x{columns}",
        f"{crops / account(slid, image.shape[1:]).macs:.2f}",
        timings.rate(ONE_PASS).text(2),
        timings.ratio(ONE_PASS, ONE_BY_ONE).text(2),
        timings.ratio(ONE_PASS, LOOP).text(2),
    ]


def _timed(
    model: Network,
    variables: Any,
    image: jax.Array,
    starts: list[tuple[int, int]],
    rounds: int,
    label: str,
) -> Timings:
    height, width = model.image_size

    def score(variables: Any, crop: jax.Array) -> jax.Array:
        scores: Any = model.apply(variables, crop)
        return scores

    def one_pass(variables: Any, image: jax.Array) -> jax.Array:
        return surgery.dense_scores(model, variables, image)

    def loop(variables: Any, image: jax.Array) -> jax.Array:
        def scores_of(start: jax.Array) -> jax.Array:
            sizes = (1, height, width, image.shape[-1])
            crop = jax.lax.dynamic_slice(image, (0, start[0], start[1], 0), sizes)
            return score(variables, crop)

        return jax.lax.map(scores_of, jnp.asarray(starts), batch_size=_BATCH)

    alone, whole, looped = jax.jit(score), jax.jit(one_pass), jax.jit(loop)

    def one_by_one() -> None:
        for top, left in starts:
            alone(variables, image[:, top : top + height, left : left + width]).block_until_ready()

    contenders = {
        ONE_PASS: lambda: whole(variables, image).block_until_ready(),
        ONE_BY_ONE: one_by_one,
        LOOP: lambda: looped(variables, image).block_until_ready(),
    }
    return alternate(contenders, rounds=rounds, work=len(image), label=label)
