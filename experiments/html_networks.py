"""The networks of a run as a report shows them: each arm's volumes, and its layers in a table."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.names import column_title
from experiments.volumes_html import volumes_html

__all__ = ["networks_html"]

_COLUMNS = ("path", "operation", "window", "stride", "padding", "dilation", "output_shape")
_COUNTS = ("receptive_field", "parameters", "macs", "activation_values")


def networks_html(path: Path) -> str:
    """A section about the networks of a run, from its arms.json.

    Args:
      path: of the file, which `experiments.arms_file` wrote when the run started.

    Returns:
      HTML, all text escaped, empty where there is no such file; a broken one gets a sentence.
    """
    head = '<h2 id="the-networks">The networks</h2>'
    try:
        document = json.loads(path.read_text("utf-8"))
        arms = document["arms"]
        parts = [_arm(arm, arms[:index]) for index, arm in enumerate(arms)]
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = html.escape(f"{path.name} cannot be read: {error}")
        return f"{head}\n<p>{what}</p>"
    legend = (
        "Each network of one example, its volumes in the order in which they are made: heights and "
        "widths are to scale, depths go with the square root of channels, bars with that of units; "
        '"sees" is the receptive field, as if the image had no border.'
    )
    return "\n".join([head, f"<p>{html.escape(legend)}</p>", *parts])


def _arm(arm: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"<h3>{html.escape(str(arm['title']))}</h3>"]
    about = [f"Differs in: {arm['differs_in']}"]
    if arm["settings"]:
        settings = ", ".join(f"--{name}={value}" for name, value in arm["settings"].items())
        about.append(f"Its own settings: {settings}")
    lines += [f'<p class="about">{html.escape(text)}</p>' for text in about]
    rows = arm["rows"]
    alike = [other["title"] for other in before if rows and other["rows"] == rows]
    if alike:
        lines.append(f"<p>The same network as {html.escape(str(alike[0]))}.</p>")
    elif not rows:
        lines.append(f"<p>Its layers cannot be told: {html.escape(str(arm.get('why', '')))}</p>")
    else:
        lines += [volumes_html(rows), _layers(rows)]
    return "\n".join(lines)


def _layers(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of an account as a table that is opened by a click."""
    columns = [*_COLUMNS, *_COUNTS]
    # Without columns that say nothing, as in the tables of experiments.describe.
    silent = {"", "1", "1x1", "1x1x1"}
    shown = [c for c in columns if c in _COUNTS or any(str(r[c]) not in silent for r in rows)]
    classes = {c: ' class="number"' if c in _COUNTS else "" for c in shown}
    head = "".join(
        f'<th scope="col"{classes[c]}>{html.escape(column_title(c))}</th>' for c in shown
    )
    body = []
    for row in rows:
        cells = [
            f"{row[c]:,}" if isinstance(row[c], int) else html.escape(str(row[c])) for c in shown
        ]
        texts = (f"<td{classes[c]}>{t}</td>" for c, t in zip(shown, cells, strict=True))
        body.append(f"<tr>{''.join(texts)}</tr>")
    totals = [f"{sum(row[name] for row in rows):,}" for name in ("parameters", "macs")]
    return "\n".join(
        [
            f"<details><summary>{len(rows) - 1} layers, {totals[0]} parameters, {totals[1]} MACs"
            "</summary>",
            '<div class="scroll" tabindex="0"><table class="sortable">',
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *body,
            "</tbody></table></div></details>",
        ]
    )
