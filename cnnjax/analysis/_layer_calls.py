"""Which equations of a program are layers, and what their statics are.

Convolutions, matrix products and reduce-windows are primitives; what `cnnjax.ops` makes of other
primitives goes by a name (`cnnjax.ops._layers`).
"""

import math
from dataclasses import dataclass

from jax.extend import core

from cnnjax.analysis._equations import shape_of
from cnnjax.ops._layers import Named, read_name

__all__ = ["LayerCall", "layer_call", "without_batch"]

_WINDOW_OPERATIONS = {
    "reduce_window_max": "max_pool",
    "reduce_window_min": "min_pool",
    "reduce_window_sum": "sum_pool",
    "reduce_window": "pool",
}
_WITH_WEIGHTS = ("convolution", "transposed_convolution", "locally_connected")


@dataclass(frozen=True)
class LayerCall:
    """One layer of a program.

    Attributes:
      path: the module path, from the name stack.
      operation: what it does.
      output: shape of its result.
      volume: the same as (images, *spatial, channels).
      window: taps an axis; empty where nothing slides, as are the next three.
      stride: step of the window.
      padding: (low, high) pixels.
      dilation: spacing of the taps.
      macs: multiply-accumulates, bias not counted.
    """

    path: str
    operation: str
    output: tuple[int, ...]
    volume: tuple[int, ...]
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[tuple[int, int], ...] = ()
    dilation: tuple[int, ...] = ()
    macs: int = 0


def layer_call(equation: core.JaxprEqn, path: str) -> LayerCall | None:
    """The layer that an equation is, or None."""
    name = equation.primitive.name
    if named := read_name(str(equation.params.get("name", ""))):
        return _named(equation, path, named)
    if name == "conv_general_dilated":
        return _convolution(equation, path)
    if name == "dot_general":
        output = shape_of(equation.outvars[0])
        return LayerCall(path, "dense", output, output, macs=_product_macs(equation))
    if name in _WINDOW_OPERATIONS:
        return _window(equation, path)
    return None


def without_batch(volume: tuple[int, ...]) -> tuple[int, ...]:
    """The volume of one example, unless more than one is folded into its first axis."""
    return volume[1:] if volume and volume[0] == 1 else volume


def _product_macs(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = shape_of(equation.invars[0])
    return math.prod(shape_of(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: core.JaxprEqn, path: str) -> LayerCall:
    image, kernel = (shape_of(variable) for variable in equation.invars)
    output, params = shape_of(equation.outvars[0]), equation.params
    _, rhs, out = params["dimension_numbers"]
    window = tuple(kernel[axis] for axis in rhs[2:])
    spread = any(step > 1 for step in params["lhs_dilation"])
    if spread:
        # Of the taps all but those on pixels are multiplied by the zeros between them: what
        # counts is that each pixel is multiplied by the whole kernel of its group.
        macs = math.prod(image) * math.prod(window) * kernel[rhs[0]]
        macs //= params["feature_group_count"]
    else:
        macs = math.prod(output) * kernel[rhs[1]] * math.prod(window)
    return LayerCall(
        path=path,
        operation="transposed_convolution" if spread else "convolution",
        output=output,
        volume=(output[out[0]], *(output[axis] for axis in out[2:]), output[out[1]]),
        window=window,
        stride=tuple(params["lhs_dilation"] if spread else params["window_strides"]),
        padding=tuple((int(low), int(high)) for low, high in params["padding"]),
        dilation=tuple(params["rhs_dilation"]),
        macs=macs,
    )


def _named(equation: core.JaxprEqn, path: str, named: Named) -> LayerCall:
    output, macs = shape_of(equation.outvars[0]), 0
    if named.operation in _WITH_WEIGHTS:
        # The kernel ends in (*window, channels of a group, filters): what a position multiplies,
        # of the output or, transposed, of the input.
        image, kernel = (shape_of(variable) for variable in equation.invars[:2])
        if named.operation == "transposed_convolution":
            macs = math.prod(image) * math.prod(named.window) * kernel[-2]
        else:
            macs = math.prod(output) * math.prod(named.window) * kernel[-2]
    return LayerCall(path, named.operation, output, output, *named[1:], macs=macs)


def _window(equation: core.JaxprEqn, path: str) -> LayerCall:
    params, output = equation.params, shape_of(equation.outvars[0])
    # Images and channels first and last, as everywhere here; windows of one do not slide.
    inner = slice(1, -1) if len(output) > 2 else slice(None)
    ones = (1,) * len(output)
    return LayerCall(
        path=path,
        operation=_WINDOW_OPERATIONS[equation.primitive.name],
        output=output,
        volume=output,
        window=tuple(params["window_dimensions"])[inner],
        stride=tuple(params["window_strides"])[inner],
        padding=tuple((int(low), int(high)) for low, high in params["padding"])[inner],
        dilation=tuple(params.get("window_dilation") or ones)[inner],
    )
