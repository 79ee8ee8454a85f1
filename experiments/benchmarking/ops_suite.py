"""Suite "ops": single operations, ours against plain JAX, other forms of it, and PyTorch."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.benchmarking import machine, markdown, ops_torch
from experiments.benchmarking.ops_forms import (
    FORWARD,
    LOOP,
    OURS,
    PLAIN,
    Form,
    Operation,
    operations,
)
from experiments.benchmarking.setting import Setting
from experiments.benchmarking.timing import Contender, Timings, alternate
from experiments.names import check_name

__all__ = ["ops_suite", "value_and_gradient"]

# A timed call repeats the operation until ours has taken about so long: far above a clock's noise
# and a scheduler's slice. The most is for tests, whose few steps are to stay few.
_SECONDS = 0.05
_MOST_CALLS_A_STEP = 20

_NOTE = """\
A timed call repeats the operation as often as ours needs for {seconds:g} s; "in a loop" is
`lax.fori_loop` around it, as in a training program, where the rest are called one by one. Each
gradient is that of all arguments, of a given cotangent. PyTorch has its best memory layout,
channels last for convolutions and max pooling and channels first for the rest, and is called one
by one in every row."""
_PLAIN = """\
Plain JAX: `lax.conv_general_dilated` (Flax's `Conv`), `lax.reduce_window` (Flax's `max_pool`) with
XLA's select-and-scatter as its gradient, the formula of local response normalisation with a
reduce-window and a power, `lax.conv_general_dilated_patches`, and for fractional pooling a gather
of every window's pixels, image by image under `vmap`."""
_MEMORY = """\
As XLA's buffer assignment counts it (`memory_analysis` of the compiled call)."""


def ops_suite(setting: Setting) -> str:
    """Calls a second of each operation, forward alone and with its gradient.

    Args:
      setting: batch size and channels decide the shapes, `only` which operations.

    Returns:
      Markdown: ours against plain JAX and PyTorch, then ours against other forms of XLA's, then
      what memory fractional pooling takes.

    Raises:
      ValueError: a name in `only` that is no operation.
    """
    table = operations(setting)
    for name in setting.only:
        check_name("--only", name, table)
    chosen = [table[name] for name in setting.only or table]
    peers = ops_torch.peers()
    results = [
        (operation, mode, _measure(operation, mode, setting, peers))
        for operation in chosen
        for mode in operation.modes
    ]
    missing = None if peers else machine.why_no_peer()
    notes = [_NOTE.format(seconds=_SECONDS), _PLAIN, *filter(None, [missing])]
    parts = [_against_others(results, list(peers), setting), markdown.paragraphs(*notes)]
    if any(_alternatives(operation) for operation in chosen):
        parts += ["### Other forms of the same operation", _against_forms(results, setting)]
    fractional = [operation for operation in chosen if operation.extras]
    if fractional:
        parts += ["### Memory of fractional pooling", _memory(fractional)]
    return "\n\n".join(parts)


Results = list[tuple[Operation, str, Timings]]


def _against_others(results: Results, peers: list[str], setting: Setting) -> str:
    n = f"n = {setting.rounds}"
    rivals = [PLAIN, *peers]
    header = ["operation", f"ours, calls/s, median (min to max), {n}"]
    header += [f"ours / {rival}, {n}" for rival in rivals]
    rows = [
        [f"{operation.title}, {mode}", timings.rate(OURS).text(0)]
        + [timings.ratio(OURS, rival).text(2) for rival in rivals]
        for operation, mode, timings in results
    ]
    return markdown.table(header, rows)


def _against_forms(results: Results, setting: Setting) -> str:
    header = ["operation", "form", f"ours / form, median (min to max), n = {setting.rounds}"]
    rows = [
        [f"{operation.title}, {mode}", form, timings.ratio(OURS, form).text(2)]
        for operation, mode, timings in results
        for form in _alternatives(operation)
    ]
    return markdown.table(header, rows)


def _memory(chosen: list[Operation]) -> str:
    header = ["operation", "form", "temporary bytes / (input + output bytes)"]
    rows = []
    for operation in chosen:
        for mode in operation.modes:
            for name, form in operation.forms.items():
                share = _temporary_share(form, operation, mode)
                shown = "unknown here" if share is None else f"{share:.2f}"
                rows.append([f"{operation.title}, {mode}", name, shown])
    return f"{markdown.table(header, rows)}\n\n{_MEMORY}"


def _temporary_share(form: Form, operation: Operation, mode: str) -> float | None:
    """Peak of a compiled call's temporary memory over its input and output; None if not known."""
    arguments = _arguments(form, operation, mode)
    once = _once(form, operation, mode)
    sizes = jax.jit(once).lower(*arguments).compile().memory_analysis()
    if sizes is None:
        return None
    leaves = jax.tree.leaves([operation.arrays, jax.eval_shape(once, *arguments)])
    return sizes.temp_size_in_bytes / sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)


def _alternatives(operation: Operation) -> list[str]:
    return [form for form in operation.forms if form not in (OURS, PLAIN)]


def _measure(
    operation: Operation, mode: str, setting: Setting, peers: Mapping[str, int | None]
) -> Timings:
    calls = {name: _calls(form, operation, mode) for name, form in operation.forms.items()}
    repeats = _repeats(calls[OURS], setting.steps * _MOST_CALLS_A_STEP)
    contenders: dict[str, Contender] = {
        name: functools.partial(call, repeats) for name, call in calls.items()
    }
    for name, threads in peers.items():
        one, wait = ops_torch.caller(operation.peer, operation.arrays, mode != FORWARD, threads)
        contenders[name] = functools.partial(_call_peer, one, wait, repeats)
    label = f"{operation.title}, {mode}"
    return alternate(contenders, rounds=setting.rounds, work=repeats, label=label)


def _repeats(ours: Callable[[int], object], most: int) -> int:
    """How many calls fill a timed call."""
    ours(1)  # compiles
    start = time.perf_counter()
    ours(min(most, 3))
    seconds = (time.perf_counter() - start) / min(most, 3)
    return max(1, min(most, round(_SECONDS / max(seconds, 1e-9))))


def _calls(form: Form, operation: Operation, mode: str) -> Callable[[int], object]:
    """A function that runs a form so many times and waits."""
    once, arguments = _once(form, operation, mode), _arguments(form, operation, mode)
    if mode == LOOP:
        looped: Any = jax.jit(functools.partial(_loop, once))
        return lambda number: jax.block_until_ready(looped(jnp.int32(number), *arguments))
    jitted: Any = jax.jit(once)
    # The CPU backend would run independent calls side by side; a GPU's stream keeps their order.
    one_by_one = jax.default_backend() == "cpu"

    def call(number: int) -> None:
        out = None
        for _ in range(number):
            out = jitted(*arguments)
            if one_by_one:
                jax.block_until_ready(out)
        jax.block_until_ready(out)

    return call


def _once(form: Form, operation: Operation, mode: str) -> Callable[..., Any]:
    return form if mode == FORWARD else value_and_gradient(form, len(operation.arrays))


def _arguments(form: Form, operation: Operation, mode: str) -> list[jax.Array]:
    arguments = [*map(jnp.asarray, operation.arrays), *operation.extras]
    if mode == FORWARD:
        return arguments
    out = jax.eval_shape(form, *arguments)
    return [*arguments, jnp.ones(out.shape, out.dtype)]


def value_and_gradient(form: Form, num_arrays: int) -> Callable[..., Any]:
    """A function of a form's arguments and a cotangent to its output and its arrays' gradients."""

    def once(*arguments: Any) -> Any:
        arrays, extras, cotangent = arguments[:num_arrays], arguments[num_arrays:-1], arguments[-1]
        out, pull_back = jax.vjp(lambda *arrays: form(*arrays, *extras), *arrays)
        return out, pull_back(cotangent)

    return once


def _loop(once: Callable[..., Any], number: jax.Array, x: jax.Array, *rest: Any) -> Any:
    def body(step: jax.Array, _: Any) -> Any:
        # Another input each time, lest the compiler move the work out of the loop.
        return once(x * (1 + 1e-6 * step), *rest)

    shapes = jax.eval_shape(once, x, *rest)
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return lax.fori_loop(0, number, body, nothing)


def _call_peer(one: Callable[[], Any], wait: Callable[[], None], number: int) -> None:
    for _ in range(number):
        one()
    wait()
