"""The receptive field of any JAX function, read from its traced program.

Every spatial axis of the input is followed through the jaxpr (`_interpreter`), which yields two
things. The *support* of each output position is exact for the input's size: the first and last
pixel that it can depend on, borders and all. The *law* (`_course`) is what published tables state:
size, stride and padding as if the image had no borders, for the union of all paths, the smallest
path and the largest. A position-dependent field, as behind a transposed convolution, has a law with
a period, or none; its support is exact all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import jax
import numpy as np
from jax.extend import core

from cnnjax.analysis import _course, _edges
from cnnjax.analysis._course import Course
from cnnjax.analysis._interpreter import Interpreter, Visitor
from cnnjax.analysis._layer_calls import LayerCall, layer_call
from cnnjax.analysis._program import is_module, trace
from cnnjax.analysis._values import Merge, Seen, Tracked, Unknown, Value, varying

__all__ = ["AxisField", "Merge", "TracedField", "receptive_field"]


@dataclass(frozen=True, eq=False)
class AxisField:
    """What the positions of an output see along one spatial axis of the input.

    Attributes:
      input_axis: the axis of the input.
      input_size: its pixels.
      output_axes: axes of the output that what is seen depends on; one as a rule, none where
        all elements see the same.
      first: first pixel seen, by position along `output_axes`; 0 where nothing is seen.
      last: last pixel seen, included; -1 where nothing is seen.
      size: pixels seen if the image had no borders, the most where it depends on the position;
        None where no law is known, or the whole image is seen.
      stride: pixels from the field of one position to that of the next, a fraction where holes
        stand between positions; None as above.
      padding: pixels before the image that the first position sees; None as above.
      smallest: size along the path that sees least; None for the whole image or no law.
      largest: size along the path that sees most; less than `size` where paths are misaligned.
      whole: whether every position sees the whole input, as after a dense layer.
      period: positions after which sizes repeat: 1 for one size, more behind holes, None where
        there is no law.
    """

    input_axis: int
    input_size: int
    output_axes: tuple[int, ...]
    first: np.ndarray = field(repr=False)
    last: np.ndarray = field(repr=False)
    size: int | None
    stride: int | Fraction | None
    padding: int | None
    smallest: int | None
    largest: int | None
    whole: bool
    period: int | None
    _course: Course | None = field(repr=False, compare=False, default=None)

    def interval(self, position: int) -> tuple[int, int]:
        """First and last pixel of a position, borders ignored (negative ones lie before them).

        Raises:
          ValueError: there is no law; `first` and `last` say what each position sees.
        """
        law = self._course
        if law is None:
            raise ValueError(
                "interval: the field depends on the position without a law; `first` and `last` "
                "hold what each position sees"
            )
        if self.whole:
            return 0, self.input_size - 1
        negated_first, last = (int(edge) for edge in law.at(np.array([position]))[0, :, 0])
        return -negated_first, last

    def center(self, position: int) -> float:
        """Centre of what a position sees, in input pixels, borders ignored.

        Raises:
          ValueError: there is no law.
        """
        first, last = self.interval(position)
        return (first + last) / 2


@dataclass(frozen=True)
class TracedField:
    """What an output of a function sees of the input.

    Attributes:
      axes: one entry for each spatial axis of the input; empty where it is unknown.
      misaligned: merges on the way whose paths have different strides or centres.
      unknown: what could not be followed, and where; then nothing else is said.
    """

    axes: tuple[AxisField, ...]
    misaligned: tuple[Merge, ...] = ()
    unknown: tuple[str, ...] = ()

    @property
    def aligned(self) -> bool:
        """Whether all paths that meet have equal strides and centres (Araujo et al., 2019)."""
        return not self.misaligned and not self.unknown

    @property
    def size(self) -> tuple[int | None, ...]:
        """`AxisField.size` of each axis."""
        return tuple(axis.size for axis in self.axes)

    @property
    def stride(self) -> tuple[int | Fraction | None, ...]:
        """`AxisField.stride` of each axis."""
        return tuple(axis.stride for axis in self.axes)

    @property
    def padding(self) -> tuple[int | None, ...]:
        """`AxisField.padding` of each axis."""
        return tuple(axis.padding for axis in self.axes)

    @property
    def whole(self) -> bool:
        """Whether every position sees the whole input."""
        return bool(self.axes) and all(axis.whole for axis in self.axes)


def receptive_field(
    fn: Any,
    *example_inputs: Any,
    argnum: int | None = None,
    spatial_axes: Sequence[int] | None = None,
    intermediate: bool = False,
    **kwargs: Any,
) -> Any:
    """The receptive field of a function's outputs on one of its inputs, from its jaxpr.

    Nothing is computed and no weights are needed. Every weight counts as one that is not zero;
    masks and indices that the program itself determines count as what they are. What depends on
    a key is followed if the key is given as a value, and unknown if it is given as a shape.

    Args:
      fn: a function of the example inputs, or a Flax module (its variables are made as shapes).
      *example_inputs: arrays or `jax.ShapeDtypeStruct`s, or trees of them.
      argnum: which example input is the image; by default the only one that is an array of at
        least two axes.
      spatial_axes: axes of the image to follow; by default all but the first (images) and the
        last (channels).
      intermediate: also return the field behind every layer.
      **kwargs: handed to `fn` (or to `init` and `apply` of a module), for example `train=False`.

    Returns:
      A `TracedField` for each output, put together as the outputs are. With `intermediate`, that
      and a dict from each layer's module path (and number, where a path repeats) to its
      `TracedField`, in execution order.

    Raises:
      ValueError: it is not clear which input is the image, or an axis that it has not.

    >>> import jax, jax.numpy as jnp
    >>> from cnnjax import ops
    >>> def network(x):
    ...     x = ops.conv(x, jnp.ones((7, 7, 3, 8)), stride=2, padding=3)
    ...     return ops.max_pool(x, window=3, stride=2, padding=1)
    >>> seen = receptive_field(network, jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    >>> seen.size, seen.stride, seen.padding
    ((11, 11), (4, 4), (5, 5))
    >>> seen.axes[0].first[:3].tolist(), seen.axes[0].last[:3].tolist()
    ([0, 0, 3], [5, 9, 13])

    Sibling: `measured_receptive_field` asks gradients or perturbations, on numbers.
    Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks"
    (2019), whose two conditions of alignment are checked at every merge.
    """
    argnum = _image_argument(example_inputs, argnum)
    program = trace(fn, example_inputs, kwargs)
    image = program.arguments.index(argnum + is_module(fn))
    seen = image_seen(program.leaves[image].shape, spatial_axes)
    collector = _Collector()
    interpreter = Interpreter(collector)
    values = interpreter.run(program.closed.jaxpr, program.consts, program.values(image, seen), "")
    shapes = [tuple(aval.shape) for aval in program.closed.out_avals]
    fields = [
        traced_field(value, shape, seen.tracked, interpreter.merges)
        for value, shape in zip(values, shapes, strict=True)
    ]
    outputs = jax.tree.unflatten(program.output_tree, fields)
    if not intermediate:
        return outputs
    layers = {
        name: traced_field(value, call.output, seen.tracked, merges)
        for name, (call, value, merges) in collector.named().items()
    }
    return outputs, layers


class _Collector(Visitor):
    """Keeps what every layer's result sees."""

    def __init__(self) -> None:
        self.layers: list[tuple[LayerCall, Value, tuple[Merge, ...]]] = []
        self.open: list[LayerCall | None] = []

    def enter(self, equation: core.JaxprEqn, scope: str, operands: Sequence[Value]) -> None:
        self.open.append(layer_call(equation, scope))

    def leave(self, equation: core.JaxprEqn, scope: str, results: Sequence[Value]) -> None:
        call = self.open.pop()
        if call and not any(self.open):
            self.layers.append((call, results[0], tuple(self.merges)))

    def visit(
        self,
        equation: core.JaxprEqn,
        scope: str,
        operands: Sequence[Value],
        results: Sequence[Value],
    ) -> None:
        if not any(self.open) and (call := layer_call(equation, scope)):
            self.layers.append((call, results[0], tuple(self.merges)))

    def named(self) -> dict[str, tuple[LayerCall, Value, tuple[Merge, ...]]]:
        """The layers by path; those of one path, or of none, are numbered."""
        paths = [call.path or call.operation for call, _, _ in self.layers]
        counts: dict[str, int] = {}
        named = {}
        for path, layer in zip(paths, self.layers, strict=True):
            number = counts[path] = counts.get(path, -1) + 1
            named[path if paths.count(path) == 1 else f"{path}#{number}"] = layer
        return named


def _image_argument(example_inputs: Sequence[Any], argnum: int | None) -> int:
    if argnum is None:
        images = [
            number
            for number, value in enumerate(example_inputs)
            if hasattr(value, "shape") and len(value.shape) >= 2
        ]
        if len(images) != 1:
            raise ValueError(
                f"receptive_field: {len(images)} of the {len(example_inputs)} example inputs are "
                "arrays of at least two axes; say by argnum=... which one is the image"
            )
        return images[0]
    if not 0 <= argnum < len(example_inputs):
        raise ValueError(
            f"receptive_field: argnum must name one of {len(example_inputs)} example inputs, got "
            f"{argnum}"
        )
    if not hasattr(example_inputs[argnum], "shape"):
        raise ValueError(
            f"receptive_field: example input {argnum} is a tree of arrays, not an image; let fn "
            "take the image as an argument of its own"
        )
    return argnum


def image_seen(shape: Sequence[int], spatial_axes: Sequence[int] | None = None) -> Seen:
    """What is known of the image itself: every pixel sees itself."""
    ndim = len(shape)
    axes = tuple(range(1, ndim - 1)) if spatial_axes is None else tuple(spatial_axes)
    if not axes or len(set(axes)) < len(axes) or not all(0 <= axis < ndim for axis in axes):
        raise ValueError(
            f"receptive_field: spatial_axes must be distinct axes from 0 to {ndim - 1} of an image "
            f"of shape {tuple(shape)}, got {axes}; by default they are those between the first "
            "(images) and the last (channels)"
        )
    tracked = tuple(Tracked(axis, shape[axis]) for axis in axes)
    edges = [_edges.pixels(shape, axis) for axis in axes]
    return Seen(edges, [_course.identity(axis) for axis in axes], tracked)


def traced_field(
    value: Value, shape: Sequence[int], tracked: Sequence[Tracked], merges: Sequence[Merge]
) -> TracedField:
    """What is known of a value, as users read it."""
    if isinstance(value, Unknown):
        return TracedField((), unknown=value.reasons)
    if not isinstance(value, Seen):
        nothing = [_edges.nothing(len(shape))] * len(tracked)
        value = Seen(nothing, [None] * len(tracked), tracked)
    axes = (
        _axis_field(law, edges, shape, axis)
        for law, edges, axis in zip(value.courses, value.edges, tracked, strict=True)
    )
    return TracedField(tuple(axes), tuple(dict.fromkeys(merges)))


def _axis_field(
    law: Course | None, edges: np.ndarray, shape: Sequence[int], tracked: Tracked
) -> AxisField:
    axes = _position_axes(law, edges)
    edges = _edges.expanded(edges, shape, axes)
    off = tuple(axis + 1 for axis in range(edges.ndim - 1) if axis not in axes)
    negated_first, last = edges.max(axis=off)
    nothing = last == _edges.EMPTY
    whole = bool((negated_first == 0).all() and (last == tracked.size - 1).all())
    # A law that took elements together which are apart is none for each of them.
    if law is not None and not set(axes) <= {law.axis}:
        law = None
    size = smallest = largest = padding = period = None
    stride: int | Fraction | None = None
    if law is not None:
        sizes = [_most(bounds) for bounds in law.bounds]
        size, smallest, largest = sizes
        period = law.period
        if size is not None:
            stride = law.stride if law.stride.denominator > 1 else int(law.stride)
            padding = int(law.at(np.zeros(1, int))[0, 0, 0])
            padding = None if abs(padding) > _course.WHOLE // 2 else padding
    return AxisField(
        input_axis=tracked.axis,
        input_size=tracked.size,
        output_axes=axes,
        first=np.where(nothing, 0, -negated_first),
        last=np.where(nothing, -1, last),
        size=size,
        stride=stride,
        padding=padding,
        smallest=smallest,
        largest=largest,
        whole=whole,
        period=period,
        _course=law,
    )


def _position_axes(law: Course | None, edges: np.ndarray) -> tuple[int, ...]:
    """Axes of an output that positions run along: not images and channels, if others differ."""
    ndim = edges.ndim - 1
    if law is not None and law.axis is not None and not law.is_still:
        return (law.axis,)
    axes = sorted(varying(edges))
    inner = [axis for axis in axes if 0 < axis < ndim - 1]
    return tuple(inner if inner and ndim >= 3 else axes)


def _most(bounds: np.ndarray) -> int | None:
    """The most pixels seen by a position of a period, None for the whole image."""
    sizes = bounds.sum(axis=0) + 1
    return None if sizes.max() > _course.WHOLE // 2 else max(int(sizes.max()), 0)
