"""A network's volumes one after another as HTML: small pictures that wrap with the page.

Drawn from the rows of `arms.json`, without JAX or the network. `experiments.volumes_plot` draws
the same as one sheet, with receptive fields on the image.
"""

import html
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.names import operation_title

__all__ = ["volumes_html"]

Row = Mapping[str, Any]

_MOST_STAGES = 24
_TALLEST, _DEEPEST, _BAR = 72.0, 26.0, 9.0
# Cabinet projection: what recedes goes up and to the right at 45 degrees, at half its length.
_RECEDE = 0.5 * math.sqrt(0.5)
# What changes no volume's shape is told of with the layer before it.
_QUIET = ("normalization", "elementwise")
_COLOURS = {
    "input": "input",
    "convolution": "convolution",
    "transposed_convolution": "transposed",
    "locally_connected": "local",
    "dense": "dense",
    "add": "meet",
    "concatenate": "meet",
}


class _Stage(NamedTuple):
    """Layers that are drawn as one."""

    rows: list[Row]

    @property
    def shape(self) -> tuple[int, ...]:
        """The largest of their volumes."""
        return max((_shape(row) for row in self.rows), key=math.prod)

    @property
    def operation(self) -> str:
        """That of the layer with most multiplications."""
        return max(self.rows, key=lambda row: row["macs"])["operation"]


def volumes_html(rows: Sequence[Row]) -> str:
    """A list of the network's volumes, each a box to scale between what makes it and its size.

    Heights and widths of boxes are to one scale, depths go with the square root of channels,
    bars with that of units. Equal layers that follow one another are one box, and norms belong to
    the layer before; networks of more than 24 boxes have one for each output shape.

    Args:
      rows: `cnnjax.analysis.records` of an account, the input first.

    Returns:
      HTML, all text escaped; empty for no rows.

    >>> image = {"operation": "input", "output_shape": "4x4x1", "window": "", "stride": "",
    ...          "macs": 0, "receptive_field": "1x1", "receptive_field_whole": False}
    >>> layer = {**image, "operation": "convolution", "window": "3x3", "receptive_field": "3x3"}
    >>> text = volumes_html([image, layer])
    >>> text.count("<li>"), "conv 3x3" in text, "sees 3x3" in text
    (2, True, True)
    """
    if not rows:
        return ""
    stages = _stages(rows)
    shapes = [stage.shape for stage in stages]
    scale = _Scale(
        pixels=max((max(shape[:-1][-2:]) for shape in shapes if len(shape) > 1), default=1),
        channels=max((shape[-1] for shape in shapes if len(shape) > 1), default=1),
        units=max((math.prod(shape) for shape in shapes if len(shape) < 2), default=1),
    )
    items = [_item(stage, scale) for stage in stages]
    return "\n".join(['<ol class="volumes">', *items, "</ol>"])


class _Scale(NamedTuple):
    """The largest of each kind, which fill their room."""

    pixels: int
    channels: int
    units: int


def _item(stage: _Stage, scale: _Scale) -> str:
    names = list(dict.fromkeys(_named(row) for row in stage.rows))
    main = [row for row in stage.rows if row["operation"] not in _QUIET]
    if len({_named(row) for row in main}) == 1 and len(main) > 1:
        names[0] += f" &times;{len(main)}"
    elif len(main) > 1:
        names.append(f"{len(main)} layers")
    size = "&times;".join(map(str, stage.shape)) or "scalar"
    sees = stage.rows[-1]["receptive_field"]
    lines = ["<li>", *(f"<span>{name}</span>" for name in names), _box(stage, scale)]
    lines.append(f"<span>{size}</span>")
    sees = "whole image" if stage.rows[-1]["receptive_field_whole"] else str(sees)
    # An empty line keeps the boxes on one floor.
    seen = f"sees {html.escape(sees)}" if sees and stage.operation != "input" else "&nbsp;"
    lines.append(f'<span class="sees">{seen}</span>')
    return "".join([*lines, "</li>"])


def _box(stage: _Stage, scale: _Scale) -> str:
    """One volume in cabinet projection, or a bar for a vector."""
    shape = stage.shape
    if len(shape) < 2:
        across, far = _BAR, 0.0
        up = max(4.0, _TALLEST * math.sqrt(math.prod(shape) / scale.units))
    else:
        face = shape[:-1][-2:]
        across = max(2.0, _DEEPEST * math.sqrt(shape[-1] / scale.channels))
        up = max(2.0, _TALLEST * face[0] / scale.pixels)
        far = _RECEDE * max(2.0, _TALLEST * face[-1] / scale.pixels) if len(face) > 1 else 0.0
    left, right, top, low = 1.0, 1.0 + across, 1.0 + far, 1.0 + far + up
    front = [(left, top), (right, top), (right, low), (left, low)]
    above = [(left, top), (right, top), (right + far, top - far), (left + far, top - far)]
    side = [(right, top), (right, low), (right + far, low - far), (right + far, top - far)]
    colour = _COLOURS.get(stage.operation, _other(stage.operation))
    parts = [(colour, front)]
    if far:
        parts += [(colour, above), ("lit", above), (colour, side), ("shade", side)]
    width, height = across + far + 2, up + far + 2
    drawn = "".join(
        f'<polygon class="{name}" points="'
        + " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
        + '"/>'
        for name, corners in parts
    )
    return (
        f'<svg width="{width:.1f}" height="{height:.1f}" '
        f'viewBox="0 0 {width:.1f} {height:.1f}" aria-hidden="true">{drawn}</svg>'
    )


def _other(operation: str) -> str:
    pooling = "pool" in operation or operation.startswith("spatial_")
    return "pooling" if pooling else "other"


def _named(row: Row) -> str:
    """As "conv 3x3 /2", escaped."""
    operation = str(row["operation"])
    name = operation_title(operation)
    strides = set(str(row["stride"]).split("x")) - {"", "1"}
    stride = f"/{row['stride'] if len(strides) > 1 else strides.pop()}" if strides else ""
    return html.escape(" ".join(filter(None, (name, str(row["window"]), stride))))


def _shape(row: Row) -> tuple[int, ...]:
    text = str(row["output_shape"])
    return tuple(map(int, text.split("x"))) if text else ()


def _stages(rows: Sequence[Row]) -> list[_Stage]:
    """Rows gathered no further than needed to be few."""
    keys: tuple[Callable[[Row], Hashable], ...] = (
        lambda row: (row["operation"], row["window"], row["stride"], row["output_shape"]),
        lambda row: row["output_shape"],
        lambda row: _shape(row)[:-1] or _shape(row),
    )
    for key in keys:
        stages = [_Stage([rows[0]])]
        for row in rows[1:]:
            last = stages[-1].rows
            quiet = row["operation"] in _QUIET and row["output_shape"] == last[-1]["output_shape"]
            if len(stages) > 1 and (key(row) == key(last[0]) or quiet):
                last.append(row)
            else:
                stages.append(_Stage([row]))
        if len(stages) <= _MOST_STAGES:
            break
    return stages
