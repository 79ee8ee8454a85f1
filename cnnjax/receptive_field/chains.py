"""The receptive field of a chain of layers in closed form, and the recurrence both ways."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cnnjax.geometry import window_span
from cnnjax.receptive_field._integers import evaluate, integers, known
from cnnjax.receptive_field.fields import IDENTITY, Integers, ReceptiveField, numbers

__all__ = ["Layer", "backward_fields", "compose", "forward_fields", "input_interval"]


class Layer(NamedTuple):
    """One axis of a convolution or pooling layer; `padding` is the low (left or top) side.

    A negative padding crops. Arrays with one more axis, the last, hold a whole chain, one layer
    after another; a `Layer(1)` among them changes nothing, so that it fills up shorter chains.
    """

    window: Integers
    stride: Integers = 1
    padding: Integers = 0
    dilation: Integers = 1


def compose(layers: Iterable[Layer] | Layer, field: ReceptiveField = IDENTITY) -> ReceptiveField:
    """Receptive field of a chain of layers, the first nearest to the input.

    From layer to layer: r + (k - 1) S, then P + p S, then S s.

    Args:
      layers: the chain, from the input on, or one `Layer` of arrays whose last axis is the layer;
        a dilated window counts as its span.
      field: what lies before the first layer.

    Returns:
      The receptive field of the last layer's output in the input; arrays without the layers' axis.

    Raises:
      ValueError: a window, stride or dilation below 1, arrays that do not go together, or a
        result that does not fit their dtype.
      TypeError: a number that is no integer, or something else than layers.

    >>> compose([Layer(3, padding=1)] * 3)
    ReceptiveField(size=7, stride=1, padding=3)
    >>> compose([Layer(7, stride=2, padding=3), Layer(3, stride=2, padding=1)])
    ReceptiveField(size=11, stride=4, padding=5)

    Many candidate stacks in one call, here 125 of them; a million are no different:

    >>> windows = np.stack(np.meshgrid(*[[1, 3, 5, 7, 11]] * 3), -1).reshape(-1, 3)
    >>> sizes = compose(Layer(windows, stride=np.array([2, 1, 1]), padding=windows // 2)).size
    >>> sizes.shape, int((sizes == 11).sum())
    ((125,), 6)
    >>> jax.jit(jax.vmap(lambda w: compose(Layer(w)).size))(jax.numpy.array([[3, 3, 3], [5, 3, 1]]))
    Array([7, 7], dtype=int32)

    Source: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
    2019.
    """

    def formula(*values: Any) -> ReceptiveField:
        *_, last = _forward(values)
        return last

    return evaluate("compose", formula, _flat("compose", layers, field))


def forward_fields(
    layers: Iterable[Layer] | Layer, field: ReceptiveField = IDENTITY
) -> tuple[ReceptiveField, ...]:
    """Receptive field, in the input, of every layer's output: `compose` of each beginning.

    Args, Raises and Source: as in `compose`.

    Returns:
      One field a layer, the first layer's first; the last is `compose(layers, field)`.

    >>> for field in forward_fields([Layer(11, stride=4), Layer(3, stride=2), Layer(5, padding=2)]):
    ...     print(field)
    ReceptiveField(size=11, stride=4, padding=0)
    ReceptiveField(size=19, stride=8, padding=0)
    ReceptiveField(size=51, stride=8, padding=16)
    """
    values = _flat("forward_fields", layers, field)
    return evaluate("forward_fields", lambda *v: tuple(_forward(v))[1:], values)


def backward_fields(layers: Iterable[Layer] | Layer) -> tuple[ReceptiveField, ...]:
    """Receptive field of the chain's output in the input of every layer: `compose` of each end.

    The recurrence from output to input: r s + (k - s), S s and P s + p.

    Args, Raises and Source: as in `compose`.

    Returns:
      One field a layer, that in the first layer's input first; that one is `compose(layers)`.

    >>> [field.size for field in backward_fields([Layer(3), Layer(2, stride=2), Layer(3)])]
    [8, 6, 3]
    """

    def formula(*values: Any) -> tuple[ReceptiveField, ...]:
        size, stride, padding = values[:3]
        fields = []
        for window, s, p, dilation in reversed(_layers(values)):
            size = s * size + (window_span(window, dilation) - s)
            stride, padding = stride * s, padding * s + p
            fields.append(ReceptiveField(size, stride, padding))
        return tuple(reversed(fields))

    return evaluate("backward_fields", formula, _flat("backward_fields", layers, IDENTITY))


def input_interval(
    layers: Iterable[Layer] | Layer, first: Integers, last: Integers | None = None
) -> tuple[Integers, Integers]:
    """First and last input pixel (inclusive) that an interval of output positions sees.

    From the last layer to the first: u s - p and v s - p + k - 1.

    Args:
      layers: the chain, as in `compose`.
      first: the first output position, u.
      last: the last one (inclusive), v; `first` by default.

    Raises:
      ValueError: `last` before `first`; and as in `compose`.
      TypeError: as in `compose`.

    >>> input_interval([Layer(3, padding=1), Layer(2, stride=2)], 0, 3)
    (-1, 8)

    Source: Araujo, Norris and Sim, 2019, section "Computing receptive field region".
    """
    name = "input_interval"
    u = integers(name, "first", first)
    v = u if last is None else integers(name, "last", last)
    if known(u, v) and np.any(np.asarray(v) < np.asarray(u)):
        raise ValueError(
            f"{name}: last must not lie before first, got first={first!r} and last={last!r}; both "
            "are inclusive"
        )

    def formula(u: Any, v: Any, *values: Any) -> tuple[Any, Any]:
        for window, stride, padding, dilation in reversed(_layers(values)):
            u = u * stride - padding
            v = v * stride - padding + (window_span(window, dilation) - 1)
        return u, v

    return evaluate(name, formula, [u, v, *_flat(name, layers, IDENTITY)])


def _forward(values: Sequence[Any]) -> Iterator[ReceptiveField]:
    size, stride, padding = values[:3]
    yield ReceptiveField(size, stride, padding)
    for window, s, p, dilation in _layers(values):
        size = size + (window_span(window, dilation) - 1) * stride
        padding = padding + p * stride
        stride = stride * s
        yield ReceptiveField(size, stride, padding)


def _layers(values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """The layers of a flat list that a field's three numbers begin."""
    return [tuple(values[start : start + 4]) for start in range(3, len(values), 4)]


def _flat(function: str, layers: Iterable[Layer] | Layer, field: ReceptiveField) -> list[Any]:
    values = numbers(function, field)
    if isinstance(layers, Layer):
        return values + _unstacked(function, _checked(function, "the", layers))
    for index, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise TypeError(
                f"{function}: layer {index} must be a Layer, got {layer!r}; write "
                "Layer(window, stride, padding, dilation)"
            )
        values += _checked(function, f"layer {index}'s", layer)
    return values


def _checked(function: str, whose: str, layer: Layer) -> Layer:
    return Layer(
        integers(function, f"{whose} window", layer.window, 1),
        integers(function, f"{whose} stride", layer.stride, 1),
        integers(function, f"{whose} padding", layer.padding),
        integers(function, f"{whose} dilation", layer.dilation, 1),
    )


def _unstacked(function: str, layer: Layer) -> list[Any]:
    """The layers, one after another, that a `Layer` of arrays holds along their last axes."""
    lengths = {np.shape(value)[-1] for value in layer if np.ndim(value)}
    if not lengths:
        raise ValueError(
            f"{function}: one Layer alone must hold arrays whose last axis is the layer, got "
            f"{layer}; write [{layer}] for a chain of one"
        )
    if len(lengths - {1}) > 1:
        shapes = [np.shape(value) for value in layer]
        raise ValueError(
            f"{function}: the last axis is the layer and must be as long in window, stride, "
            f"padding and dilation (or 1), got shapes {shapes}"
        )
    length = min(lengths) if lengths == {1} or 0 in lengths else max(lengths)

    def of(value: Any, index: int) -> Any:
        if not np.ndim(value):
            return value
        chosen = value[..., index % value.shape[-1]]
        return chosen if np.ndim(chosen) or isinstance(chosen, jax.Array) else int(chosen)

    return [of(value, index) for index in range(length) for value in layer]
