"""The Markdown that reports are written in, as HTML: one text, two ways to read it.

The reports use headings, paragraphs, lists, tables, fenced code, pictures on a line of their own,
bold and code. Nothing else is markup: links and raw HTML stay the text that they are, so that
nothing a record holds can become part of the page.
"""

import html
import re
from collections.abc import Callable, Iterator

__all__ = ["inline", "slug", "to_html"]

_PICTURE = re.compile(r"!\[(.*)\]\(([^()]+)\)")
_CELL_END = re.compile(r"(?<!\\)\|")


def to_html(markdown: str, picture: Callable[[str, str], str]) -> str:
    r"""The body of a page that says what the Markdown says.

    Args:
      markdown: text of a report.
      picture: the HTML of a picture, from its file's name and its description.

    Returns:
      HTML, all text escaped. Headings of the second level have an `id`; tables are of class
      "sortable", in a box that scrolls on its own, their columns of numbers of class "number"; a
      paragraph that is all bold is of class "verdict".

    >>> print(to_html("# A < B?\n\n**Yes.**\n\n- `x` | y", lambda name, about: ""))
    <h1>A &lt; B?</h1>
    <p class="verdict">Yes.</p>
    <ul>
    <li><code>x</code> | y</li>
    </ul>
    """
    return "\n".join(_block(lines, picture) for lines in _blocks(markdown))


def inline(text: str) -> str:
    """A line of text with its bold and its code.

    >>> inline("**a < b** in `c & d`")
    '<strong>a &lt; b</strong> in <code>c &amp; d</code>'
    """
    text = html.escape(text.replace("\\|", "|"))
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)


def slug(text: str) -> str:
    """The name by which a heading is linked to.

    >>> slug("What is held equal, and what is not")
    'what-is-held-equal-and-what-is-not'
    """
    return "-".join(re.findall(r"[a-z0-9]+", text.lower()))


def _blocks(markdown: str) -> Iterator[list[str]]:
    """The lines of each heading, paragraph, list, table and fence."""
    block: list[str] = []
    fenced = False
    for line in markdown.split("\n"):
        fence = line.startswith("```")
        apart = not fenced and (not line.strip() or fence or line.startswith("#"))
        if block and not fenced and (apart or _kind(line) != _kind(block[0])):
            yield block
            block = []
        if fenced or line.strip():
            block.append(line)
        if block and not fenced and line.startswith("#"):
            yield block
            block = []
        if fence and fenced:
            yield block
            block = []
        fenced ^= fence
    if block:
        yield block


def _kind(line: str) -> str:
    """What tells a table's and a list's lines from a paragraph's, which may be next to them."""
    if _PICTURE.fullmatch(line):
        return "picture"
    return {"|": "table", "- ": "list", "-": "list"}.get(line[:2].rstrip() or line[:1], "text")


def _block(lines: list[str], picture: Callable[[str, str], str]) -> str:
    first = lines[0]
    if first.startswith("```"):
        return _fence(lines)
    if first.startswith("#"):
        level = len(first) - len(first.lstrip("#"))
        text = first[level:].strip()
        name = f' id="{slug(text)}"' if level == 2 else ""
        return f"<h{level}{name}>{inline(text)}</h{level}>"
    if _PICTURE.fullmatch(first):
        found = map(_PICTURE.fullmatch, lines)
        return "\n".join(picture(match[2], match[1]) for match in found if match)
    if first.startswith("|") and len(lines) > 1:
        return _table(lines)
    if first.startswith("- "):
        items = [f"<li>{inline(line[2:])}</li>" for line in lines]
        return "\n".join(["<ul>", *items, "</ul>"])
    text = " ".join(line.strip() for line in lines)
    bold = re.fullmatch(r"\*\*((?:(?!\*\*).)+)\*\*", text)
    return f'<p class="verdict">{inline(bold[1])}</p>' if bold else f"<p>{inline(text)}</p>"


def _fence(lines: list[str]) -> str:
    language = lines[0].strip("`").strip()
    code = html.escape("\n".join(lines[1:-1] if lines[-1].startswith("```") else lines[1:]))
    text = f'<pre tabindex="0"><code>{code}</code></pre>'
    if language == "json":
        return f"<details><summary>all of it</summary>{text}</details>"
    return text


def _table(lines: list[str]) -> str:
    rows = [[cell.strip() for cell in _CELL_END.split(line)[1:-1]] for line in lines]
    header, rules, *body = rows
    classes = [' class="number"' if rule.endswith(":") else "" for rule in rules]
    cells = zip(header, classes, strict=False)
    head = "".join(f'<th scope="col"{kind}>{inline(cell)}</th>' for cell, kind in cells)
    text = [
        '<div class="scroll" tabindex="0">',
        '<table class="sortable">',
        f"<thead><tr>{head}</tr></thead>",
        "<tbody>",
    ]
    for row in body:
        kinds = (kind or _length(cell) for cell, kind in zip(row, classes, strict=False))
        line = (f"<td{kind}>{inline(cell)}</td>" for cell, kind in zip(row, kinds, strict=False))
        text.append(f"<tr>{''.join(line)}</tr>")
    return "\n".join([*text, "</tbody></table></div>"])


def _length(cell: str) -> str:
    """Sentences get room to stand in, words and short names one line."""
    return ' class="long"' if len(cell) > 28 else ""
