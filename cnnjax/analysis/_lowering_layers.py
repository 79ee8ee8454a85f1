"""What XLA makes of the equations of layers: convolutions, products, the gradient of pooling."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from cnnjax.analysis._graph import Node, Shapes, pairs_of, shaped

if TYPE_CHECKING:
    from cnnjax.analysis._lowering import Lowering


def transpose(
    graph: "Lowering", args: list[Node], params: dict[str, Any], aval: Any, shapes: Shapes
) -> Node:
    """The equation `transpose`."""
    return transposed(graph, args[0], params["permutation"], shapes[0])


def transposed(
    graph: "Lowering", node: Node, permutation: Sequence[int], shape: Sequence[int]
) -> Node:
    """The node with its axes in another order: a view where none but unit axes move."""
    long = [axis for axis in permutation if shape[axis] != 1]
    if long == sorted(long) or node.value is not None:
        return graph.viewed(node, [shape[axis] for axis in permutation])
    if node.kind == "transpose" and node.shape == tuple(shape):
        before = node.params
        undone = [shape[before.index(axis)] for axis in range(len(before))]
        return transposed(graph, node.operands[0], [before[a] for a in permutation], undone)
    # Of a batch of one a weight's gradient is no sum: XLA multiplies, and copies it transposed.
    outer = node.size == math.prod(operand.size for operand in node.operands)
    if node.kind == "dot" and len(shape) == 2 and node.shape == tuple(shape) and not outer:
        # The transpose of a product is the product of the transposes, which are read in place.
        after = jax.core.ShapedArray(shape[::-1], node.dtype)
        return graph.add("dot", "dot_general", node.operands[::-1], after, (node.params, "t"))
    if node.kind == "convolution":
        # It is renamed first and copied then: two steps, in which its readers wait.
        node = graph.add("alias", "bitcast", [node], shaped(node), "renamed")
    after = jax.core.ShapedArray([shape[axis] for axis in permutation], node.dtype)
    return graph.add("transpose", "transpose", [node], after, tuple(permutation))


def dot_general(
    graph: "Lowering", args: list[Node], params: dict[str, Any], aval: Any, shapes: Shapes
) -> Node:
    """A product of matrices, to which XLA brings what has more axes."""
    contracted, batched = params["dimension_numbers"]
    operands = []
    for arg, shape, summed, batch, left in zip(
        args, shapes, contracted, batched, (True, False), strict=True
    ):
        free = [a for a in range(len(shape)) if a not in summed and a not in batch]
        order = [*batch, *free, *summed] if left else [*batch, *summed, *free]
        if len(shape) <= 2:
            # A transposed matrix is read as it stands.
            operands.append(arg.operands[0] if arg.kind == "transpose" else arg)
            continue
        rows, columns = (free, summed) if left else (summed, free)
        sides = [math.prod(shape[axis] for axis in axes) for axes in (rows, columns)]
        matrices = [*(shape[axis] for axis in batch), *sides]
        operands.append(graph.viewed(transposed(graph, arg, order, shape), matrices))
    text = str((params["dimension_numbers"], [arg.kind == "transpose" for arg in args]))
    if len(aval.shape) <= 2:
        return graph.add("dot", "dot_general", operands, aval, text)
    num_batch = len(batched[0])
    rows = len(shapes[0]) - len(contracted[0])
    sides = [math.prod(aval.shape[num_batch:rows]), math.prod(aval.shape[rows:])]
    product = aval.update(shape=(*aval.shape[:num_batch], *sides))
    return graph.viewed(graph.add("dot", "dot_general", operands, product, text), aval.shape)


def convolution(
    graph: "Lowering", args: list[Node], params: dict[str, Any], aval: Any, shapes: Shapes
) -> Node:
    """A convolution with channels last, and the copies to and from other layouts."""
    left, right, out = params["dimension_numbers"]
    (x, kernel), (x_shape, kernel_shape) = args, shapes
    if x.kind == "pad" and x.operands[1].value == 0 and x.shape == x_shape:
        x = x.operands[0]  # XLA folds it into the convolution's own padding.
        x_shape = x.shape
    # Channels last is the one layout that it computes in: others are copied to it and back.
    x = transposed(graph, x, (left[0], *left[2:], left[1]), x_shape)
    kernel = transposed(graph, kernel, (*right[2:], right[1], right[0]), kernel_shape)
    order = (out[0], *out[2:], out[1])
    shape = [aval.shape[axis] for axis in order]
    groups = params["batch_group_count"]
    if groups > 1 and graph.on_cpu:
        shape[0] *= groups  # Computed for all pairs of groups, of which the diagonal is kept.
    elif params["feature_group_count"] == 1 and _larger_window(x_shape, kernel_shape, params):
        # XLA exchanges image and kernel where the kernel is the larger, and flips it for that.
        kernel = graph.add("reverse", "rev", [kernel], shaped(kernel), "exchanged")
    dtype = aval.dtype
    if graph.on_cpu and dtype.itemsize == 2:  # It has no convolution in half precision.
        dtype = np.dtype(np.float32)
        x, kernel = (graph.converted(node, dtype) for node in (x, kernel))
    computed = jax.core.ShapedArray(shape, dtype)
    pairs = pairs_of({k: v for k, v in params.items() if k != "dimension_numbers"})
    node = graph.add("convolution", "conv_general_dilated", [x, kernel], computed, pairs)
    back = [order.index(axis) for axis in range(len(order))]
    node = transposed(graph, node, back, shape)
    if groups > 1 and graph.on_cpu:
        node = graph.add("cheap", "select_n", [node], shaped(node), "diagonal")
        node = graph.add("reduce", "reduce_sum", [node], aval.update(dtype=dtype), "diagonal")
    return graph.converted(node, aval.dtype, "rounded")


def _larger_window(x: Sequence[int], kernel: Sequence[int], params: dict[str, Any]) -> bool:
    """Whether the kernel has more pixels than the image, axes left out where it fills it."""
    left, right, _ = params["dimension_numbers"]
    pixels, taps = 1, 1
    for i, (a, b) in enumerate(zip(left[2:], right[2:], strict=True)):
        plain = (
            tuple(params["padding"][i]) == (0, 0)
            and params["window_strides"][i] == params["lhs_dilation"][i] == 1
            and params["rhs_dilation"][i] == 1
        )
        if plain and x[a] == kernel[b]:
            continue
        pixels, taps = pixels * x[a], taps * kernel[b]
    return taps > pixels


def select_and_scatter_add(
    graph: "Lowering", args: list[Node], params: dict[str, Any], aval: Any, shapes: Shapes
) -> Node:
    """The gradient of a maximum over windows."""
    source, operand = args
    if not graph.on_cpu:
        return graph.add("opaque", "select_and_scatter_add", args, aval, pairs_of(params))
    # XLA's CPU backend finds the winner of each window with its position, in an integer an
    # axis, and scatters to those positions.
    rank = len(aval.shape)
    index = jax.core.ShapedArray(aval.shape, np.dtype(np.int32))
    places = [graph.add("iota", "iota", [], index, (str(axis), "winner")) for axis in range(rank)]
    windows = jax.core.ShapedArray(source.shape, np.dtype(np.int32))
    value = jax.core.ShapedArray(source.shape, aval.dtype)
    _, *winners = graph.parts("select", [operand, *places], [value] + [windows] * rank)
    together = jax.core.ShapedArray((source.size, rank), np.dtype(np.int32))
    indices = graph.add("concatenate", "concatenate", winners, together, "winners")
    updates = graph.add("cheap", "copy", [source], shaped(source), "updates")
    zero = graph.spread(graph.constant(0.0), aval)
    return graph.add("in_place", "select_and_scatter_add", [zero, indices, updates], aval, "")
