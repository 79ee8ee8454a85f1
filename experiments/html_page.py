"""One self-contained HTML page: its style, its few lines of script, and figures within it.

Nothing is loaded from anywhere: style and script stand in the page, figures are SVG in it, whose
black and white follow the reader's light or dark scheme.
"""

import base64
import html
import re

from matplotlib.figure import Figure

from experiments.drawing_sheet import encode

__all__ = ["figure_html", "page", "picture_html"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1d1f23; --soft: #5c626b; --paper: #ffffff;
  --card: #f5f6f8; --line: #d9dce1; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3abb5; --paper: #15171a; --card: #1f2226; --line: #3a3f46;
    --accent: #6cb8e6; }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 1rem 1rem 4rem; overflow-wrap: anywhere; }
h1 { font-size: 1.55rem; line-height: 1.25; margin: 1rem 0; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .5rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .3rem; }
p, ul { margin: .6rem 0; max-width: 46rem; }
ul { padding-left: 1.3rem; }
nav { font-size: .9rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0;
  max-width: none; }
a { color: var(--accent); }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.verdict { font-size: 1.1rem; font-weight: 600; background: var(--card); max-width: none;
  border-left: 4px solid var(--accent); padding: .7rem 1rem; border-radius: 0 .4rem .4rem 0; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .88em; }
pre { background: var(--card); padding: .7rem; border-radius: .4rem; overflow-x: auto;
  overflow-wrap: normal; }
.scroll { overflow-x: auto; margin: .8rem 0; }
table { border-collapse: collapse; font-size: .88rem; overflow-wrap: normal; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
td:first-child, td.long { white-space: normal; min-width: 7rem; }
td.long { min-width: 13rem; }
td.number:first-child { min-width: 0; }
th { vertical-align: bottom; font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
tbody tr:hover { background: var(--card); }
th button { all: unset; cursor: pointer; }
th button:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
th button::after { content: "\\2195"; color: var(--soft); font-weight: 400; padding-left: .25em;
  opacity: .55; }
th[aria-sort=ascending] button::after { content: "\\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\\2193"; opacity: 1; }
.figure { margin: 1rem 0; overflow-x: auto; }
.figure > svg { display: block; width: 100%; height: auto; min-width: 44rem; fill: currentColor;
  stroke-linejoin: round; stroke-linecap: butt; font-family: "DejaVu Sans", Verdana, sans-serif; }
.figure > img { display: block; max-width: 100%; background: #fff; }
summary { cursor: pointer; color: var(--accent); margin: .4rem 0; }
.about { color: var(--soft); margin: .2rem 0; }
.volumes { display: flex; flex-wrap: wrap; align-items: flex-end; gap: .9rem .7rem; padding: 0;
  margin: .7rem 0; list-style: none; max-width: none; font-size: .75rem; line-height: 1.3; }
.volumes li { display: flex; flex-direction: column; align-items: center; text-align: center;
  max-width: 9rem; }
.volumes svg { display: block; margin: .25rem 0; }
.volumes polygon { stroke: var(--ink); stroke-width: .7; stroke-linejoin: round; }
.volumes .sees { color: var(--soft); }
.again { align-items: center; }
.input { fill: #999999; } .convolution { fill: #0072b2; } .pooling { fill: #009e73; }
.dense { fill: #e69f00; } .transposed { fill: #56b4e9; } .meet { fill: #d55e00; }
.local { fill: #cc79a7; } .other { fill: #f0e442; }
.volumes .lit { fill: #ffffff; fill-opacity: .45; stroke: none; }
.volumes .shade { fill: #000000; fill-opacity: .25; stroke: none; }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --card: #f3f3f3; --line: #bbb; }
  nav, th button::after { display: none; }
  main { max-width: none; padding: 0; }
  .scroll, .figure, pre { overflow: visible; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .figure > svg { min-width: 0; }
  table { font-size: .62rem; }
  th, td { padding: .15rem .3rem; white-space: normal; }
  td:first-child, td.long { min-width: 5rem; }
  tr, .figure, .volumes li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""

# A header becomes a button that sorts the rows: up, down, up ... Cells without a number or text,
# a dash, stay last. The sort is stable, so that sorting by two columns in turn sorts by both.
_SCRIPT = r"""
const leading = /^[[<(+\s]*(-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?[\d.]+(?:e[-+]?\d+)?)/;
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  if (body.rows.length < 2) continue;
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "sort by this column";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const text = row => row.cells[column].textContent.trim();
      const number = row => parseFloat((text(row).match(leading) || ["", ""])[1]
        .replaceAll(",", ""));
      const numeric = head.classList.contains("number");
      const empty = row => numeric ? Number.isNaN(number(row)) : /^[\u2013-]?$/.test(text(row));
      const order = (a, b) => empty(a) || empty(b) ? empty(a) - empty(b) : (up ? 1 : -1) *
        (numeric ? number(a) - number(b) : text(a).localeCompare(text(b), "en", {numeric: true}));
      body.append(...[...body.rows].sort(order));
    });
  });
}
"""


def page(title: str, body: str) -> str:
    """A whole page around its body.

    Args:
      title: plain text, shown by the browser.
      body: HTML.

    Returns:
      A document that loads nothing; it forbids itself to, as far as the browser obeys.

    >>> page("a < b", "<p>yes</p>").splitlines()[4]
    '<title>a &lt; b</title>'
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    policy += "img-src data:"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            f"<title>{html.escape(title)}</title>",
            f"<style>{_STYLE}</style></head>",
            f"<body><main>\n{body}\n</main>",
            f"<script>{_SCRIPT}</script></body></html>",
            "",
        ]
    )


def figure_html(figure: Figure, name: str, about: str) -> str:
    """A Matplotlib figure as SVG within a page, its texts texts.

    Args:
      figure: the figure; black ink and white paper take the colours of the page.
      name: of the figure in its page, so that no two parts of figures share an `id`.
      about: what it shows, for those who do not see it.

    Returns:
      HTML; the same figure gives the same text.
    """
    svg = encode(figure, ".svg").decode("utf-8")
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", svg, count=1, flags=re.DOTALL)
    # In HTML the names of its elements need no address to tell what they are.
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg, count=2).replace("xlink:href=", "href=")
    svg = re.sub(r"font-family: [^;\"]*;?\s*", "", svg)
    # Only ids that something refers to; of several figures in one page each has its own.
    used = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"\n(\s)\s+", r"\n\1", svg)
    for colour, own in (("#000000", "currentColor"), ("#ffffff", "var(--paper)")):
        svg = svg.replace(f": {colour}", f": {own}")
    svg = svg.replace(": #dddddd", ": var(--line)")
    head, _, rest = svg.partition(">")
    head = re.sub(r' (?:width|height|version)="[^"]*"', "", head)
    label = html.escape(about)
    return f'<div class="figure" tabindex="0">{head} role="img" aria-label="{label}">{rest}</div>'


def picture_html(png: bytes, about: str) -> str:
    """A PNG within a page.

    Args:
      png: bytes of the file.
      about: what it shows.
    """
    data = base64.b64encode(png).decode("ascii")
    alt = html.escape(about)
    return f'<div class="figure"><img src="data:image/png;base64,{data}" alt="{alt}"></div>'
