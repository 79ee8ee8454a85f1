"""The networks of the zoo in one table: what each costs and sees, from its traced program."""

from collections.abc import Iterable

from cnnjax import models
from cnnjax.analysis import Account, account

__all__ = ["zoo_table"]

HEADER = "| name | image | parameters | MACs | values | sees (size, stride, padding) |"


def zoo_table(names: Iterable[str]) -> str:
    """A Markdown table with a row for each network.

    Parameters are those that are trained; MACs are multiply-accumulates of convolutions and dense
    layers for one image; values are the numbers that those layers put out ("macts" elsewhere);
    what it sees is the receptive field of a position of the last volume: "all" where that is the
    whole image, "varies" where it differs from position to position.

    >>> print(zoo_table(["vgg11"]))
    | name | image | parameters | MACs | values | sees (size, stride, padding) |
    |---|---|---:|---:|---:|---|
    | vgg11 | 224x224x3 | 132,863,336 | 7,609,090,048 | 7,435,240 | 150, 32, 59 |
    """
    lines = [HEADER, "|---|---|---:|---:|---:|---|"]
    for name in names:
        network = models.create(name)
        costs = account(network, network.input_shape)
        image = "x".join(map(str, network.input_shape))
        values = sum(row.activation_values for row in costs.rows if row.macs)
        lines.append(
            f"| {name} | {image} | {costs.parameters:,} | {costs.macs:,} | {values:,} | "
            f"{_sees(costs)} |"
        )
    return "\n".join(lines)


def _sees(costs: Account) -> str:
    """The field of the last volume, as in published tables."""
    rank = len(costs.input_shape)
    (*_, last) = (row for row in costs.rows if len(row.output_shape) == rank)
    axes = last.receptive_field.axes
    fields = {(axis.size, axis.stride, axis.padding) for axis in axes}
    if len(fields) == 1 and None not in next(iter(fields)):
        return ", ".join(map(str, fields.pop()))
    return "all" if all(axis.whole for axis in axes) else "varies"
