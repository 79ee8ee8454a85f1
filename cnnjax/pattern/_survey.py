"""What the rules of the sizing advice look at: a pattern walked through, whatever fits or not."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cnnjax.pattern import specs
from cnnjax.pattern._layer import Layer
from cnnjax.pattern.errors import PatternError
from cnnjax.pattern.sizing import (
    AxisWindow,
    Volume,
    layer_names,
    num_parameters,
    output_shape,
    windows,
)

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Advice:
    """One piece of advice; `str` gives it as one line.

    Attributes:
      severity: "error" (`to_module` refuses the pattern), "warning" (it runs, and something is
        lost), or "note" (a trade that the designer should know of).
      rule: the rule's name.
      name: the layer's, as in `volumes`; "" where the whole network is meant.
      text: the layer's text; "" likewise.
      message: what is the case, with numbers.
      suggestion: what to write instead, or what others did.

    >>> print(Advice("warning", "pool_window", "pool0", "POOL5", "it is wide", "write POOL2"))
    warning: pool0 (POOL5): it is wide; write POOL2
    """

    severity: Severity
    rule: str
    name: str
    text: str
    message: str
    suggestion: str

    def __str__(self) -> str:
        where = f"{self.name} ({self.text}): " if self.name else ""
        return f"{self.severity}: {where}{self.message}; {self.suggestion}"


@dataclass(frozen=True)
class Place:
    """A layer of the written-out network, and the shapes before and behind it."""

    volume: Volume
    before: tuple[int, ...]
    axes: tuple[AxisWindow, ...] = ()

    @property
    def layer(self) -> Layer:
        """The layer itself."""
        return self.volume.layer

    def advise(self, severity: Severity, rule: str, message: str, suggestion: str) -> Advice:
        """Advice on this layer."""
        return Advice(severity, rule, self.volume.name, str(self.layer), message, suggestion)


@dataclass(frozen=True)
class Net:
    """The places up to the first layer that cannot be sized at all, and that layer's advice."""

    places: tuple[Place, ...]
    broken: tuple[Advice, ...]
    memory_limit: int
    bytes_per_value: int

    @property
    def image(self) -> tuple[int, ...]:
        """The spatial sizes of the input."""
        return self.places[0].volume.shape[:-1]

    @property
    def sliding(self) -> tuple[Place, ...]:
        """The convolutions and poolings at fixed places."""
        return tuple(place for place in self.places if place.axes)

    @property
    def is_drawn(self) -> bool:
        """Whether regions are drawn somewhere, so that sizes have no closed form."""
        return any(isinstance(place.layer, specs.FractionalPool) for place in self.places)


def walk(layers: Sequence[Layer], memory_limit: int, bytes_per_value: int) -> Net:
    """Size every layer as far as that goes; a layer that does not tile is floored."""
    places: list[Place] = []
    broken: tuple[Advice, ...] = ()
    shape: tuple[int, ...] = ()
    for name, layer in zip(layer_names(layers), layers, strict=True):
        try:
            # What does not tile has a rule of its own.
            exact = getattr(layer, "fit", None) == "exact"
            out = output_shape(layer, shape, "floor" if exact else None)
        except PatternError as error:
            message = error.message.removeprefix(f"{layer}: ")
            found = Advice(
                "error", "cannot_follow", name, str(layer), message, "nothing behind it is checked"
            )
            broken = (found,)
            break
        axes = windows(layer, shape) if isinstance(layer, specs.Conv | specs.Pool) else ()
        volume = Volume(name, layer, out, num_parameters(layer, shape))
        places.append(Place(volume, shape, axes))
        shape = out
    return Net(tuple(places), broken, memory_limit, bytes_per_value)
