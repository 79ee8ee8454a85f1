"""Averages of weights over the course of a training.

An average is three pure functions, as in Optax: `init`, `update` and `value`. They take
any tree of arrays, usually a network's variables, and run under `jit`, `vmap` and `scan`.
Floating leaves are averaged, batch statistics like weights, in float32 or wider; of leaves that
are no floating numbers (counts, keys) the last value stands. Batch statistics of averaged weights
are only near those that these weights would see: `refresh_batch_stats` measures them.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnnjax.training._trees import check_alike, is_averaged

__all__ = [
    "Averaging",
    "exponential_moving_average",
    "refresh_batch_stats",
    "stochastic_weight_average",
]


class Averaging(NamedTuple):
    """The three functions of an average of trees.

    Attributes:
      init: (tree) to the state before the first term; the tree gives shapes and dtypes.
      update: (state, tree) to the state with one term more.
      value: (state) to the average, a tree like the terms, floating leaves in float32 or wider.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any], Any]
    value: Callable[[Any], Any]


class _Moving(NamedTuple):
    average: Any
    # Sum of the weights of all terms, which the average is divided by: 1 unless terms are missing.
    weight: jax.Array
    num_updates: jax.Array


class _Sum(NamedTuple):
    total: Any
    # What rounding has taken from the total so far.
    lost: Any
    num_updates: jax.Array


def exponential_moving_average(
    decay: float, *, debias: bool = False, warmup: bool = False
) -> Averaging:
    """Average of the past whose terms fade by a factor an update.

    a_t = d_t a_(t-1) + (1 - d_t) x_t. Equal terms leave the average as it is, to the bit.

    Args:
      decay: d, in [0, 1).
      debias: the tree given to `init` does not count; the average is divided by the sum of the
        weights so far, 1 - d_1 d_2 ... d_t, as in Adam, so that after one update it is that term.
        Before, `value` is the tree given to `init`. Without it that tree is a_0.
      warmup: d_t = min(d, t / (9 + t)), t = 1, 2, ..., so that early terms fade quickly.

    Returns:
      An `Averaging`.

    Raises:
      ValueError: a decay outside [0, 1); by `update`, a tree of another structure or shapes than
        the one before.
      TypeError: a decay that is no number; by `update`, a leaf that was floating and is not, or
        the other way round.

    >>> average = exponential_moving_average(0.9)
    >>> state = average.init({"kernel": jnp.zeros(1)})
    >>> state = average.update(state, {"kernel": jnp.ones(1)})
    >>> round(float(average.value(state)["kernel"][0]), 6)
    0.1
    >>> exponential_moving_average(1.0)
    Traceback (most recent call last):
    ValueError: exponential_moving_average: decay must be in [0, 1), got 1.0; ...

    `optax.ema` averages updates within an optimiser, `optax.incremental_update` is one update
    without debias.

    Source: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging", 1992;
    the debias is that of Kingma and Ba, "Adam", 2015; the warm-up that of TensorFlow's
    ExponentialMovingAverage, (1 + n) / (10 + n) after n updates.
    """
    if isinstance(decay, bool) or not isinstance(decay, int | float):
        raise TypeError(f"exponential_moving_average: decay must be a Python number, got {decay!r}")
    if not 0 <= decay < 1:
        raise ValueError(
            f"exponential_moving_average: decay must be in [0, 1), got {decay}; the share of the "
            "past that each update keeps, such as 0.999"
        )

    def init(tree: Any) -> _Moving:
        weight = jnp.zeros(()) if debias else jnp.ones(())
        return _Moving(jax.tree.map(_widened, tree), weight, jnp.int32(0))

    def update(state: _Moving, tree: Any) -> _Moving:
        check_alike("exponential_moving_average", tree, state.average)
        count = state.num_updates + 1
        share = jnp.asarray(1 - decay, state.weight.dtype)
        if warmup:
            share = jnp.maximum(share, 9 / (9 + count.astype(share.dtype)))
        # Not 1 minus a product, which for a slow decay would lose most of its digits.
        weight = state.weight + share * (1 - state.weight)
        # With a first weight of 0 or 1 this is the debiased or the plain average.
        step = share / weight

        def moved(average: jax.Array, new: Any) -> jax.Array:
            if not is_averaged(average):
                return jnp.asarray(new)
            new = jnp.asarray(new, average.dtype)
            part = step.astype(average.dtype)
            return jnp.where(part < 1, average + part * (new - average), new)

        return _Moving(jax.tree.map(moved, state.average, tree), weight, count)

    return Averaging(init, update, lambda state: state.average)


def stochastic_weight_average() -> Averaging:
    """Mean of snapshots with equal weight, such as the weights after each of the last epochs.

    (x_1 + ... + x_n) / n. Each sum carries what its rounding lost (two floats a value), so that
    the mean is as good for a million terms as for two. Before the first update there is no mean:
    `init` counts for nothing. Afterwards call `refresh_batch_stats`.

    Returns:
      An `Averaging`; `value` raises a ValueError before the first update, or gives NaN within
      `jit`, where that cannot be known. `update` raises as `exponential_moving_average` says.

    >>> average = stochastic_weight_average()
    >>> state = average.init({"kernel": jnp.zeros(2)})
    >>> for kernel in ([1.0, 5.0], [2.0, 5.0]):
    ...     state = average.update(state, {"kernel": jnp.array(kernel)})
    >>> average.value(state)["kernel"].tolist()
    [1.5, 5.0]

    Source: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
    2018; the sum is Knuth's TwoSum, "The Art of Computer Programming" 2, 4.2.2.
    """

    def init(tree: Any) -> _Sum:
        total = jax.tree.map(_widened, tree)
        total = jax.tree.map(lambda x: jnp.zeros_like(x) if is_averaged(x) else x, total)
        return _Sum(total, jax.tree.map(_nothing_lost, total), jnp.int32(0))

    def update(state: _Sum, tree: Any) -> _Sum:
        check_alike("stochastic_weight_average", tree, state.total)

        def added(total: jax.Array, new: Any) -> jax.Array:
            return total + jnp.asarray(new, total.dtype) if is_averaged(total) else jnp.array(new)

        def lost(lost: jax.Array, before: jax.Array, after: jax.Array, new: Any) -> jax.Array:
            if not is_averaged(before):
                return lost
            new = jnp.asarray(new, before.dtype)
            seen = after - before
            return lost + ((before - (after - seen)) + (new - seen))

        total = jax.tree.map(added, state.total, tree)
        rest = jax.tree.map(lost, state.lost, state.total, total, tree)
        return _Sum(total, rest, state.num_updates + 1)

    def value(state: _Sum) -> Any:
        count = state.num_updates
        if not isinstance(count, jax.core.Tracer) and not jnp.all(count > 0):
            raise ValueError(
                "stochastic_weight_average: value needs at least one update; the tree given to "
                "init counts for nothing"
            )
        return jax.tree.map(
            lambda total, lost: (
                (total + lost) / count.astype(total.dtype) if is_averaged(total) else total
            ),
            state.total,
            state.lost,
        )

    return Averaging(init, update, value)


def refresh_batch_stats(
    apply: Callable[..., Any],
    variables: dict[str, Any],
    batches: Iterable[Any],
    *,
    key: jax.Array | None = None,
) -> dict[str, Any]:
    """Running statistics measured anew, for weights that no training step has led to.

    Each statistic becomes the mean, with equal weight, of what every batch has there when the
    network normalises by the batch itself. The old statistics and the momentum do not matter.

    Args:
      apply: `module.apply` of a network with `train=`, not jitted: while it is traced, every layer
        that has a `momentum` (`cnnjax.models.BatchNorm`, `flax.linen.BatchNorm`) is given 0.
      variables: of the network; without "batch_stats" they are returned as they are.
      batches: inputs as `apply` takes them, normalised and augmented as for training.
      key: for networks with dropout, which is active.

    Returns:
      The variables with another "batch_stats", all else the same arrays.

    Raises:
      ValueError: no batches, or running statistics that no layer with a momentum keeps.

    >>> net = nn.BatchNorm(use_running_average=False)
    >>> def apply(variables, x, train, **options):
    ...     return net.apply(variables, x, **options)
    >>> batches = [jnp.array([[0.0], [2.0]]), jnp.array([[5.0], [5.0]])]
    >>> variables = net.init(jax.random.key(0), batches[0])
    >>> stats = refresh_batch_stats(apply, variables, batches)["batch_stats"]
    >>> stats["mean"].tolist(), stats["var"].tolist()
    ([3.0], [0.5])

    Source: Izmailov et al., 2018, algorithm 1 (one more pass over the data); PyTorch's
    `torch.optim.swa_utils.update_bn` gives batches equal weight too.
    """
    if not variables.get("batch_stats"):
        return variables
    reached: set[tuple[str, ...]] = set()

    def without_past(call: Any, args: Any, options: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not hasattr(module, "momentum"):
            return call(*args, **options)
        reached.add(module.path)
        momentum = module.momentum
        # Flax's own __setattr__ freezes modules; this one lives for the length of the call.
        object.__setattr__(module, "momentum", 0.0)
        try:
            return call(*args, **options)
        finally:
            object.__setattr__(module, "momentum", momentum)

    @jax.jit
    def measured(variables: Any, x: Any, index: jax.Array) -> Any:
        rngs = None if key is None else {"dropout": jax.random.fold_in(key, index)}
        return apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)[1]["batch_stats"]

    average = stochastic_weight_average()
    # Zeros, since 0 times a statistic that has overflowed would still be none.
    blank = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
    state, update = average.init(blank), jax.jit(average.update)
    for index, x in enumerate(batches):
        with nn.intercept_methods(without_past):
            moved = measured({**variables, "batch_stats": blank}, x, jnp.int32(index))
        if index == 0:
            _check_reached(blank, reached)
        state = update(state, moved)
    if not int(state.num_updates):
        raise ValueError("refresh_batch_stats: batches must hold at least one batch, got none")
    stats = jax.tree.map(
        lambda old, new: new.astype(old.dtype), variables["batch_stats"], average.value(state)
    )
    return {**variables, "batch_stats": stats}


def _widened(leaf: Any) -> jax.Array:
    """The leaf as an array of its own, at least as wide as float32 where it is averaged.

    In 16 bits a small share of a difference would round to nothing.
    """
    if not is_averaged(leaf):
        return jnp.array(leaf)
    return jnp.array(leaf, jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def _nothing_lost(total: jax.Array) -> jax.Array:
    return jnp.zeros_like(total) if is_averaged(total) else jnp.zeros((), bool)


def _check_reached(stats: Any, reached: set[tuple[str, ...]]) -> None:
    """Raise for running statistics that belong to no layer whose momentum was set to 0."""
    for path, _ in jax.tree_util.tree_flatten_with_path(stats)[0]:
        owner = tuple(entry.key for entry in path[:-1])
        if owner not in reached:
            raise ValueError(
                f"refresh_batch_stats: no layer with a momentum was met that keeps "
                f"{'/'.join(entry.key for entry in path)}; pass the apply of the Flax module "
                "itself, not jitted"
            )
