"""Memory of a function, predicted from its traced program, and as XLA states it once compiled.

XLA holds arguments and outputs throughout and shares the rest of its memory among temporaries.
Which values become temporaries, when each is written and when last read, is predicted here by the
rules of XLA's CPU backend (`_lowering`, `_fusion`, `_buffers`); nothing is compiled or computed.

What no prediction here sees: scratch that XLA's libraries take and XLA's own figures leave out
(im2col, YNNPACK's inner buffers), the copies that a caller keeps, and the allocator's slack. On
other backends the rules of loop fusion stand alone, without the CPU's library of kernels, in the
program's own order: an estimate that has not been held against a GPU.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cnnjax.analysis import _buffers, _fusion
from cnnjax.analysis._graph import Program, aval_bytes
from cnnjax.analysis._lowering import Lowering

__all__ = [
    "LiveBuffer",
    "Memory",
    "compiled_costs",
    "compiled_flops",
    "compiled_memory",
    "largest_batch",
    "predict_memory",
    "predict_training_memory",
    "training_step",
]


@dataclass(frozen=True)
class LiveBuffer:
    """A temporary that lives when most memory is in use.

    Attributes:
      scope: the path of modules and functions it comes from, from JAX's name stack.
      operation: the primitive whose value it holds, the last one of a fused group.
      shape: numbers an axis.
      dtype: the name of its dtype.
      bytes: its size; 0 elements have none.
    """

    scope: str
    operation: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int


@dataclass(frozen=True)
class Memory:
    """Bytes that a function takes on its device.

    Attributes:
      argument_bytes: the arguments. Arrays that a function closes over are constants of the
        program, which XLA's figures leave out: pass them as arguments to have them counted.
      output_bytes: the results.
      temporary_bytes: the one block that temporaries share, gaps between them included.
      live_at_peak: the temporaries alive when most are, the largest first; empty where XLA's own
        figure says no more than the sum.

    >>> Memory(argument_bytes=4, output_bytes=2, temporary_bytes=3).peak_bytes
    9
    """

    argument_bytes: int
    output_bytes: int
    temporary_bytes: int
    live_at_peak: tuple[LiveBuffer, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """Arguments, outputs and temporaries together, as XLA adds them."""
        return self.argument_bytes + self.output_bytes + self.temporary_bytes


def predict_memory(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Memory:
    """Memory of `fn(*args, **kwargs)` compiled as one program, without compiling or computing.

    peak = arguments + outputs + max over time of the temporaries alive. A value that XLA computes
    inside its readers takes none, one written where its operand dies takes that one's place, and
    a value kept for the backward pass lives until it is read there.

    Args:
      fn: a function of arrays, any pytrees of them.
      *args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes matter.
      **kwargs: passed on as they are, for example `train=True`.

    Returns:
      A `Memory` in bytes; arguments that are not used count, as their caller holds them.

    Raises:
      TypeError: `fn` is no function, or an argument is no array.

    >>> import jax, jax.numpy as jnp
    >>> x = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    >>> memory = predict_memory(lambda x: jnp.argmax(jnp.tanh(x @ x) @ x), x)
    >>> memory.argument_bytes, memory.output_bytes
    (4000000, 4)
    >>> memory.temporary_bytes  # Two products; the tanh of the first takes its place.
    8000000

    The rules are those of XLA's sources (openxla.org, 2025): `instruction_fusion.cc`,
    `library_rewriter.cc`, `buffer_assignment.cc` and `heap_simulator.cc`.

    Sibling: `compiled_memory` asks XLA itself, which takes as long as compiling does.
    """
    _check_call("predict_memory", fn, args)
    closed = jax.make_jaxpr(lambda *args: fn(*args, **kwargs))(*args)
    backend = jax.default_backend()
    lowering = Lowering(backend, lambda body: _temporaries(body, backend, is_body=True)[0])
    program = lowering.program(closed.jaxpr, closed.consts)
    temporary_bytes, living = _temporaries(program, backend)
    return Memory(
        argument_bytes=_bytes(closed.in_avals),
        output_bytes=_bytes(closed.out_avals),
        temporary_bytes=temporary_bytes,
        live_at_peak=tuple(
            LiveBuffer(
                scope=buffer.node.scope,
                operation=buffer.node.name,
                shape=buffer.node.shape,
                dtype=str(buffer.node.dtype),
                bytes=buffer.size,
            )
            for buffer in living
        ),
    )


def predict_training_memory(
    apply: Callable[..., Any], params: Any, x: Any, *, state: Any = None
) -> Memory:
    """Memory of one gradient step, without its optimizer: activations kept and gradients made.

    The step takes the mean softmax cross-entropy of the scores, against integer labels, and
    differentiates it in the parameters. Arguments are parameters, state, images and labels;
    outputs are the loss, a gradient for each parameter, and the state after the step. An
    optimizer adds what it keeps, and a copy of the parameters unless they are donated.

    Args:
      apply: scores of shape (*batch, classes), or a tree of such, as `apply(params, x)`; with
        `state`, (scores, state) as `apply(params, state, x)`.
      params: pytree of floating arrays or `jax.ShapeDtypeStruct`s, which is differentiated.
      x: the images with their batch axis, an array or `jax.ShapeDtypeStruct`.
      state: what is not differentiated, such as running statistics; None without any.

    Returns:
      A `Memory` in bytes.

    Raises:
      TypeError: `apply` is no function, an argument is no array, or the scores are no floating
        array of classes.

    >>> import jax, jax.numpy as jnp
    >>> params = jax.ShapeDtypeStruct((784, 10), jnp.float32)
    >>> x = jax.ShapeDtypeStruct((128, 784), jnp.float32)
    >>> memory = predict_training_memory(lambda w, x: x @ w, params, x)
    >>> memory.output_bytes == 4 + 784 * 10 * 4  # The loss and the gradient.
    True
    """
    step, args = training_step(apply, params, x, state=state)
    return predict_memory(step, *args)


def training_step(
    apply: Callable[..., Any], params: Any, x: Any, *, state: Any = None
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """The gradient step of `predict_training_memory`, and its arguments as shapes.

    Args:
      apply: as there, like the rest.
      params: what is differentiated.
      x: the images.
      state: what is not.

    Returns:
      A function to (loss and state, gradients), and parameters, state, images and labels.

    Raises:
      TypeError: as `predict_training_memory`.
    """
    function = "training_step"
    _check_call(function, apply, (params, x, state))

    def scores_and_state(params: Any, state: Any, x: Any) -> Any:
        return (apply(params, x), None) if state is None else apply(params, state, x)

    result = jax.eval_shape(scores_and_state, params, state, x)
    scores = result[0] if isinstance(result, tuple) and len(result) == 2 else None
    leaves = jax.tree.leaves(scores)
    if not leaves or not all(s.ndim and jnp.issubdtype(s.dtype, jnp.floating) for s in leaves):
        raise TypeError(
            f"{function}: apply must return floating scores of shape (*batch, classes), and with "
            f"state= the pair (scores, state), got {scores if state is None else result}; wrap it "
            "in a lambda that returns that"
        )

    def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
        log_probabilities = jax.nn.log_softmax(scores)
        return -jnp.mean(jnp.take_along_axis(log_probabilities, labels[..., None], axis=-1))

    def step(params: Any, state: Any, x: Any, labels: Any) -> Any:
        def loss(params: Any) -> Any:
            scores, updated = scores_and_state(params, state, x)
            # Of several scores, as auxiliary classifiers give, the sum of their losses.
            losses = jax.tree.leaves(jax.tree.map(cross_entropy, scores, labels))
            return functools.reduce(jnp.add, losses), updated

        return jax.value_and_grad(loss, has_aux=True)(params)

    labels = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[:-1], jnp.int32), scores)
    return step, (params, state, x, labels)


def compiled_memory(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Memory:
    """Memory of `fn(*args, **kwargs)` as XLA states it once it has compiled the function.

    Args:
      fn: a function of arrays, any pytrees of them.
      *args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes matter.
      **kwargs: passed on as they are.

    Returns:
      A `Memory` in bytes without `live_at_peak`; what XLA aliases is counted once, as an argument.

    Raises:
      TypeError: `fn` is no function, or an argument is no array.
      RuntimeError: the backend states no memory.

    >>> import jax, jax.numpy as jnp
    >>> compiled_memory(lambda x: x + 1, jax.ShapeDtypeStruct((16,), jnp.float32))
    Memory(argument_bytes=64, output_bytes=64, temporary_bytes=0, live_at_peak=())
    """
    return _memory_of("compiled_memory", _compiled("compiled_memory", fn, args, kwargs))


def compiled_flops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
    """Floating-point operations of `fn(*args, **kwargs)`, as XLA's cost analysis counts them.

    Args:
      fn: a function of arrays, any pytrees of them.
      *args: arrays or `jax.ShapeDtypeStruct`s; only shapes and dtypes matter.
      **kwargs: passed on as they are.

    Returns:
      Multiplications and additions of the compiled program, each one; a loop's body counts once.

    Raises:
      TypeError: `fn` is no function, or an argument is no array.
      RuntimeError: the backend states no cost.

    >>> import jax, jax.numpy as jnp
    >>> a = jax.ShapeDtypeStruct((32, 64), jnp.float32)
    >>> b = jax.ShapeDtypeStruct((64, 16), jnp.float32)
    >>> compiled_flops(jnp.matmul, a, b) == 2 * 32 * 64 * 16
    True
    """
    return _flops_of("compiled_flops", _compiled("compiled_flops", fn, args, kwargs))


def compiled_costs(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Memory, float]:
    """`compiled_memory` and `compiled_flops` of one compilation.

    Raises:
      TypeError: as they.
      RuntimeError: as they.
    """
    compiled = _compiled("compiled_costs", fn, args, kwargs)
    return _memory_of("compiled_costs", compiled), _flops_of("compiled_costs", compiled)


def largest_batch(predict: Callable[[int], int], limit_bytes: int) -> int:
    """The largest batch whose memory is within a limit.

    max of b with predict(b) <= limit, where `predict` does not fall with the batch. Memory is
    nearly a line in the batch, so a few evaluations suffice; b and b + 1 are both evaluated.

    Args:
      predict: bytes for a batch of so many examples, at least 1.
      limit_bytes: bytes that there are.

    Returns:
      Examples of the batch; 0 when even one does not fit.

    Raises:
      TypeError: a limit that is no integer, or a `predict` that is no function.
      ValueError: a limit below 0, or memory that does not grow: no batch is the largest.

    >>> largest_batch(lambda batch: 1000 + 24 * batch, 2000)
    41
    """
    if not callable(predict):
        raise TypeError(
            f"largest_batch: predict must be a function from a batch size to bytes, got {predict!r}"
        )
    if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int | np.integer):
        raise TypeError(
            f"largest_batch: limit_bytes must be an integer number of bytes, got {limit_bytes!r}; "
            "write 24 * 10**9 for 24 GB"
        )
    if limit_bytes < 0:
        raise ValueError(f"largest_batch: limit_bytes must be at least 0, got {limit_bytes}")
    # What is known to fit, and the least that is known not to, with their bytes.
    fits, used = 0, 0
    fails: int | None = None
    guess = 1
    slope = 0.0
    while fails is None or fails - fits > 1:
        bytes_of_guess = predict(guess)
        if bytes_of_guess <= limit_bytes:
            if fits:
                slope = (bytes_of_guess - used) / (guess - fits)
            fits, used = guess, bytes_of_guess
            if fits > 2**40:
                raise ValueError(
                    f"largest_batch: {fits} examples take {used} bytes, within the limit of "
                    f"{limit_bytes}: memory must grow with the batch; does predict use it?"
                )
        else:
            fails = guess
            if guess > fits + 1 and fits:
                slope = max(slope, (bytes_of_guess - used) / (guess - fits))
        # Along the line through what is known; in between, bisection keeps it from creeping.
        further = int((limit_bytes - used) / slope) if slope > 0 else fits
        if fails is None:
            guess = fits + max(1, min(further, 1023 * fits))
        else:
            near = fits + further if (fits + fails) % 2 else (fits + fails) // 2
            guess = min(max(near, fits + 1), fails - 1)
    return fits


# ---- what these share ----


def _temporaries(
    program: Program, backend: str, is_body: bool = False
) -> tuple[int, list[_buffers.Buffer]]:
    on_cpu = backend == "cpu"
    groups = _fusion.fuse(program, library=on_cpu)
    order = _buffers.schedule(program, groups, breadth_first=on_cpu)
    found = _buffers.buffers(program, groups, order)
    _buffers.share(found)
    rest = _buffers.settle(found, lend=not is_body)
    return _buffers.pack(rest), _buffers.living_at_peak(rest)


def _check_call(function: str, fn: Any, args: Any) -> None:
    if not callable(fn):
        raise TypeError(f"{function}: expected a function of arrays first, got {fn!r}")
    for leaf in jax.tree.leaves(args):
        if not hasattr(leaf, "shape") and not isinstance(leaf, bool | int | float | complex):
            raise TypeError(
                f"{function}: arguments must be arrays or jax.ShapeDtypeStruct, got {leaf!r}; bind "
                "what is no array with functools.partial or a lambda"
            )


def _compiled(function: str, fn: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    _check_call(function, fn, args)
    # Unused arguments are in memory all the same: their caller holds them.
    jitted = jax.jit(lambda *args: fn(*args, **kwargs), keep_unused=True)
    return jitted.lower(*args).compile()


def _memory_of(function: str, compiled: Any) -> Memory:
    stats = compiled.memory_analysis()
    if stats is None:
        raise RuntimeError(
            f"{function}: the backend {jax.default_backend()!r} states no memory of a compiled "
            "program; use predict_memory"
        )
    return Memory(
        argument_bytes=stats.argument_size_in_bytes,
        output_bytes=stats.output_size_in_bytes - stats.alias_size_in_bytes,
        temporary_bytes=stats.temp_size_in_bytes,
    )


def _flops_of(function: str, compiled: Any) -> float:
    costs = compiled.cost_analysis()
    if not costs or "flops" not in costs:
        raise RuntimeError(
            f"{function}: the backend {jax.default_backend()!r} states no cost of a compiled "
            "program; use analysis.account"
        )
    return float(costs["flops"])


def _bytes(avals: Any) -> int:
    return sum(aval_bytes(aval.shape, aval.dtype) for aval in avals)
