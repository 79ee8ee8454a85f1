"""The account of a function: its convolution and dense layers, as the traced program has them.

Nothing is computed and no weights are allocated: the function is traced on shapes, and the
jaxpr's `conv_general_dilated` and `dot_general` equations are read in execution order. The latter
are dense layers, but for those that `cnnjax.ops.conv` makes of 1x1 convolutions. Depthwise ones,
which on a CPU it makes sums of products, go by their name.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

__all__ = ["Account", "Row", "account"]


@dataclass(frozen=True)
class Row:
    """One convolution or dense layer of the traced program, for one example.

    Attributes:
      path: the module path ("StackNet/stack/conv0"), from JAX's name stack; empty outside any.
      operation: "convolution" or "dense".
      output_shape: the volume it makes, without the batch axis of the one example.
      window: taps an axis; empty for a dense layer, as are the next three.
      stride: step of the window an axis.
      padding: (low, high) pixels an axis.
      dilation: spacing of the taps an axis.
      macs: multiply-accumulates (no bias), taps over padding included, as torchvision counts.
    """

    path: str
    operation: str
    output_shape: tuple[int, ...]
    window: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    macs: int

    @property
    def activation_values(self) -> int:
        """Numbers in the output volume."""
        return math.prod(self.output_shape)


@dataclass(frozen=True)
class Account:
    """What one forward pass of one example costs, and how many weights it needs.

    Attributes:
      rows: the convolution and dense layers in execution order.
      parameters: trainable numbers, biases included; 0 for a bare function.
    """

    rows: tuple[Row, ...]
    parameters: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all rows."""
        return sum(row.macs for row in self.rows)

    @property
    def activation_values(self) -> int:
        """Convolution and dense output values of all rows (timm's "macts")."""
        return sum(row.activation_values for row in self.rows)


def account(
    module_or_fn: Any, input_shape: Sequence[int], *, dtype: Any = jnp.float32, **kwargs: Any
) -> Account:
    """Trace a network on one example and account for its layers.

    Args:
      module_or_fn: a Flax module (`init` and `apply`), or a function of one array.
      input_shape: shape of one example, (*spatial, channels), without a batch axis.
      dtype: dtype of the example.
      **kwargs: passed on to `apply` or the function, for example `train=False`.

    Returns:
      An `Account`; a module's parameters are those of its "params" collection.

    Raises:
      ValueError: a loop of unknown length, or branches, hold layers, so that no count is true.

    >>> import flax.linen as nn
    >>> dense = account(nn.Dense(10), (784,))
    >>> dense.parameters, dense.macs, dense.rows[0].operation
    (7850, 7840, 'dense')

    Convention: convolution and dense layers alone, bias, norms and pooling apart, batch 1
    (torchvision's published counts).
    """
    example = jax.ShapeDtypeStruct((1, *input_shape), dtype)
    parameters = 0
    fn: Callable[..., Any]
    if hasattr(module_or_fn, "init") and hasattr(module_or_fn, "apply"):
        key = jax.eval_shape(lambda: jax.random.key(0))
        variables = jax.eval_shape(lambda key, x: module_or_fn.init(key, x, **kwargs), key, example)
        parameters = sum(
            math.prod(leaf.shape) for leaf in jax.tree.leaves(variables.get("params", {}))
        )

        def fn(variables: Any, x: jax.Array) -> Any:
            return module_or_fn.apply(variables, x, **kwargs)

        closed = jax.make_jaxpr(fn)(variables, example)
    else:
        closed = jax.make_jaxpr(lambda x: module_or_fn(x, **kwargs))(example)
    return Account(rows=tuple(_rows(closed.jaxpr, "")), parameters=parameters)


def _rows(jaxpr: core.Jaxpr, prefix: str) -> Iterator[Row]:
    for equation in jaxpr.eqns:
        scope = "/".join(part for part in (prefix, str(equation.source_info.name_stack)) if part)
        name = equation.primitive.name
        if name == "conv_general_dilated":
            yield _convolution(equation, scope)
        elif name == "dot_general":
            yield _dense(equation, scope)
        elif depthwise := _DEPTHWISE.fullmatch(str(equation.params.get("name", ""))):
            yield _depthwise(equation, scope, depthwise)
        else:
            inner = [row for sub in _sub_jaxprs(equation.params) for row in _rows(sub, scope)]
            if inner and name in ("while", "cond"):
                raise ValueError(
                    f"account: a `{name}` holds {len(inner)} layer(s) at {scope or 'the top'}, "
                    "whose number of runs no trace knows; use a scan or an unrolled loop"
                )
            yield from inner * (equation.params["length"] if name == "scan" else 1)


def _sub_jaxprs(params: dict[str, Any]) -> Iterator[core.Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, core.Jaxpr):
                yield item


def _shape(variable: Any) -> tuple[int, ...]:
    return tuple(variable.aval.shape)


def _of_one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape without the batch axis of the one example, unless more is folded into it."""
    return shape[1:] if shape[0] == 1 else shape


def _convolution(equation: core.JaxprEqn, scope: str) -> Row:
    kernel, output = _shape(equation.invars[1]), _shape(equation.outvars[0])
    params = equation.params
    _, rhs, out = params["dimension_numbers"]
    window = tuple(kernel[axis] for axis in rhs[2:])
    return Row(
        path=scope,
        operation="convolution",
        output_shape=_of_one((output[out[0]], *(output[axis] for axis in out[2:]), output[out[1]])),
        window=window,
        stride=tuple(params["window_strides"]),
        padding=tuple(params["padding"]),
        dilation=tuple(params["rhs_dilation"]),
        macs=math.prod(output) * kernel[rhs[1]] * math.prod(window),
    )


# The name that `cnnjax.ops.conv` gives a depthwise convolution which it computes by products.
_DEPTHWISE = re.compile(
    r"depthwise_convolution_window(?P<window>[\dx]+)_stride(?P<stride>[\dx]+)"
    r"_padding(?P<padding>[\dx_]+)_dilation(?P<dilation>[\dx]+)"
)


def _depthwise(equation: core.JaxprEqn, scope: str, name: re.Match[str]) -> Row:
    output = _shape(equation.outvars[0])
    window, stride, dilation = (
        tuple(map(int, name[part].split("x"))) for part in ("window", "stride", "dilation")
    )
    pairs = (side.split("_") for side in name["padding"].split("x"))
    return Row(
        path=scope,
        operation="convolution",
        output_shape=_of_one(output),
        window=window,
        stride=stride,
        padding=tuple((int(low), int(high)) for low, high in pairs),
        dilation=dilation,
        macs=math.prod(output) * math.prod(window),
    )


# JAX writes the transformations around a scope, vmap(scope).
_POINTWISE = re.compile(r"/?(?:\w+\()*pointwise_convolution_(\d)d\)*$")


def _dense(equation: core.JaxprEqn, scope: str) -> Row:
    (contracted, _), _ = equation.params["dimension_numbers"]
    lhs, output = _shape(equation.invars[0]), _shape(equation.outvars[0])
    # `cnnjax.ops.conv` computes 1x1 convolutions as products, under this name.
    pointwise = _POINTWISE.search(scope)
    path, rank = (scope[: pointwise.start()], int(pointwise[1])) if pointwise else (scope, 0)
    return Row(
        path=path,
        operation="convolution" if pointwise else "dense",
        output_shape=_of_one(output),
        window=(1,) * rank,
        stride=(1,) * rank,
        padding=((0, 0),) * rank,
        dilation=(1,) * rank,
        macs=math.prod(output) * math.prod(lhs[axis] for axis in contracted),
    )
