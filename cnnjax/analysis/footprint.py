"""How much memory a network takes: to answer, to train, and the largest batch that fits.

What is held besides the batch (parameters, gradients, the optimizer's averages) is counted; what
the batch needs on its way is predicted from the traced program (`memory`): values live from where
they are written to where they are last read, and the peak is the most that live at once.
"""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from cnnjax.analysis._program import is_module
from cnnjax.analysis.account import account
from cnnjax.analysis.memory import (
    Memory,
    compiled_costs,
    largest_batch,
    predict_memory,
    training_step,
)

__all__ = ["OPTIMIZER_SLOTS", "Footprint", "Verified", "footprint", "largest_fitting", "verify"]

# Numbers that an optimizer keeps for each parameter.
OPTIMIZER_SLOTS: Mapping[str, int] = {"sgd": 0, "momentum": 1, "adam": 2}


@dataclass(frozen=True)
class Footprint:
    """Memory of a network for one batch, in bytes.

    Attributes:
      batch_size: examples.
      dtype: dtype of the examples.
      optimizer_slots: numbers that the optimizer keeps for each parameter.
      parameter_bytes: the parameters.
      state_bytes: variables that are not trained, such as running averages.
      gradient_bytes: one gradient for each parameter.
      optimizer_bytes: what the optimizer keeps.
      activation_bytes: the volumes of the account, times the batch: what would be held if
        nothing were ever freed.
      inference_peak_bytes: arguments, scores and the most that lives between them.
      training_peak_bytes: the same of a gradient step (parameters, state, batch, gradients and
        what is kept for the backward pass), and the optimizer's numbers.
    """

    batch_size: int
    dtype: str
    optimizer_slots: int
    parameter_bytes: int
    state_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    activation_bytes: int
    inference_peak_bytes: int
    training_peak_bytes: int


@dataclass(frozen=True)
class Verified:
    """A prediction beside what XLA says of the compiled program.

    Attributes:
      name: "inference" or "training".
      predicted: of `predict_memory`.
      compiled: of XLA's memory analysis.
      flops: of XLA's cost analysis.
      predicted_flops: of the account: two for each MAC, biases and the rest, times the batch;
        None in training, which an account says nothing of.
    """

    name: str
    predicted: Memory
    compiled: Memory
    flops: float
    predicted_flops: int | None = None

    @property
    def peak_ratio(self) -> float:
        """Predicted over XLA's peak."""
        return self.predicted.peak_bytes / self.compiled.peak_bytes

    @property
    def flops_ratio(self) -> float | None:
        """The account's over XLA's FLOPs; above 1 where XLA leaves taps over padding out."""
        if self.predicted_flops is None or not self.flops:
            return None
        return self.predicted_flops / self.flops

    @property
    def temporary_ratio(self) -> float:
        """Predicted over XLA's temporaries; NaN where XLA has none."""
        if not self.compiled.temporary_bytes:
            return math.nan
        return self.predicted.temporary_bytes / self.compiled.temporary_bytes


@dataclass(frozen=True)
class _Network:
    """A module taken apart: what is trained, what is not, and how it is called."""

    module: Any
    params: Any
    state: dict[str, Any]
    example: jax.ShapeDtypeStruct
    kwargs: dict[str, Any]
    training_kwargs: dict[str, Any]

    def batch(self, size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *self.example.shape[1:]), self.example.dtype)

    def infer(self, params: Any, state: Any, x: jax.Array) -> Any:
        return self.module.apply({"params": params, **state}, x, **self.kwargs)

    def train(self, params: Any, state: Any, x: jax.Array) -> Any:
        variables = {"params": params, **state}
        # The same keys each time: what is drawn with them has the same size.
        rngs = {name: jax.random.key(0) for name in ("dropout", "fractional")}
        return self.module.apply(
            variables, x, **self.training_kwargs, mutable=list(state), rngs=rngs
        )

    def inference_call(self, size: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.infer, (self.params, self.state, self.batch(size))

    def training_call(self, size: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return training_step(self.train, self.params, self.batch(size), state=self.state)


def footprint(
    module: Any,
    input_shape: Sequence[int],
    *,
    batch_size: int = 1,
    dtype: Any = jnp.float32,
    optimizer_slots: int = 1,
    training_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> Footprint:
    """Predict the memory of a Flax module; nothing is computed, allocated or compiled.

    Args:
      module: a Flax module that returns scores, (batch, classes).
      input_shape: shape of one example, (*spatial, channels).
      batch_size: examples at once.
      dtype: dtype of the examples.
      optimizer_slots: numbers kept for each parameter: see `OPTIMIZER_SLOTS`.
      training_kwargs: what `apply` gets in training; `train=True` where the module takes it.
      **kwargs: what `apply` gets otherwise, for example `train=False`.

    Returns:
      A `Footprint`.

    Raises:
      TypeError: no module; scores that are none.
      ValueError: a batch below 1.

    >>> import flax.linen as nn
    >>> costs = footprint(nn.Dense(10), (784,), batch_size=32, optimizer_slots=2)
    >>> costs.parameter_bytes, costs.optimizer_bytes
    (31400, 62800)
    """
    network = _network("footprint", module, input_shape, dtype, training_kwargs, kwargs)
    _check_batch("footprint", batch_size)
    parameter_bytes, state_bytes = _bytes(network.params), _bytes(network.state)
    return Footprint(
        batch_size=batch_size,
        dtype=str(jnp.dtype(dtype)),
        optimizer_slots=optimizer_slots,
        parameter_bytes=parameter_bytes,
        state_bytes=state_bytes,
        gradient_bytes=parameter_bytes,
        optimizer_bytes=optimizer_slots * parameter_bytes,
        activation_bytes=batch_size
        * account(module, input_shape, dtype=dtype, **kwargs).volume_bytes,
        inference_peak_bytes=_peak(network.inference_call(batch_size)),
        training_peak_bytes=_peak(network.training_call(batch_size))
        + optimizer_slots * parameter_bytes,
    )


def largest_fitting(
    module: Any,
    input_shape: Sequence[int],
    limit_bytes: int,
    *,
    training: bool = True,
    dtype: Any = jnp.float32,
    optimizer_slots: int = 1,
    training_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> int:
    """The largest batch whose predicted peak is within a limit; 0 if not even one example fits.

    Args:
      module: as in `footprint`, like what is not named here.
      input_shape: shape of one example.
      limit_bytes: memory that there is.
      training: whether the batch is trained on, or only answered.
      dtype: dtype of the examples.
      optimizer_slots: numbers kept for each parameter in training.
      training_kwargs: what `apply` gets in training.
      **kwargs: what `apply` gets otherwise.

    Returns:
      Examples of a batch. It is checked that one more does not fit.

    Raises:
      TypeError: as `footprint`.

    >>> import flax.linen as nn
    >>> largest_fitting(nn.Dense(10), (784,), 10**6, training=False)
    304
    """
    network = _network("largest_fitting", module, input_shape, dtype, training_kwargs, kwargs)
    call = network.training_call if training else network.inference_call
    kept = optimizer_slots * _bytes(network.params) if training else 0
    return largest_batch(lambda size: _peak(call(size)) + kept, limit_bytes)


def verify(
    module: Any,
    input_shape: Sequence[int],
    *,
    batch_size: int = 1,
    dtype: Any = jnp.float32,
    training_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> tuple[Verified, ...]:
    """Hold the predictions against XLA: compiles the forward pass and the gradient step.

    Args:
      module: as in `footprint`, like the rest.
      input_shape: shape of one example.
      batch_size: examples at once.
      dtype: dtype of the examples.
      training_kwargs: what `apply` gets in training.
      **kwargs: what `apply` gets otherwise.

    Returns:
      Inference and training, predicted and compiled. Nothing is allocated or run.

    Raises:
      TypeError: as `footprint`.
    """
    network = _network("verify", module, input_shape, dtype, training_kwargs, kwargs)
    _check_batch("verify", batch_size)
    costs = account(module, input_shape, dtype=dtype, **kwargs)
    one = 2 * costs.macs + costs.bias_flops + costs.other_flops
    found = []
    for name, call, predicted_flops in (
        ("inference", network.inference_call, batch_size * one),
        ("training", network.training_call, None),
    ):
        fn, args = call(batch_size)
        compiled, flops = compiled_costs(fn, *args)
        predicted = predict_memory(fn, *args)
        found.append(Verified(name, predicted, compiled, flops, predicted_flops))
    return tuple(found)


def _network(
    function: str,
    module: Any,
    input_shape: Sequence[int],
    dtype: Any,
    training_kwargs: Mapping[str, Any] | None,
    kwargs: dict[str, Any],
) -> _Network:
    if not is_module(module):
        raise TypeError(
            f"{function}: expected a Flax module, whose variables say what is trained, got "
            f"{module!r}; predict_memory takes any function and its arguments"
        )
    if training_kwargs is None:
        takes_train = "train" in inspect.signature(type(module).__call__).parameters
        training_kwargs = {**kwargs, **({"train": True} if takes_train else {})}
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    key = jax.eval_shape(lambda: jax.random.key(0))
    variables = jax.eval_shape(lambda key, x: module.init(key, x, **kwargs), key, example)
    state = {name: tree for name, tree in variables.items() if name != "params"}
    params = variables.get("params", {})
    return _Network(module, params, state, example, kwargs, dict(training_kwargs))


def _peak(call: tuple[Callable[..., Any], tuple[Any, ...]]) -> int:
    fn, args = call
    return predict_memory(fn, *args).peak_bytes


def _bytes(tree: Any) -> int:
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _check_batch(function: str, batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"{function}: batch_size must be at least 1, got {batch_size}")
