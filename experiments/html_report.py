"""A report as one HTML page that says what its Markdown says and needs nothing beside it.

The page is made from the text of the Markdown report, so that the two cannot differ; what the page
adds are tables that sort, figures that follow the reader's colours, and a run's networks.
"""

import html
import re
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from cnnjax.files import write_atomically
from experiments.html_networks import networks_html
from experiments.html_page import figure_html, page, picture_html
from experiments.markdown_html import slug, to_html

__all__ = ["draw", "report_html"]

# What reads best behind the numbers and before the small print.
_NETWORKS_BEFORE = "## Limits"


def draw(directory: Path, markdown: str, pictures: Mapping[str, Figure]) -> Path:
    """Write report.html into a directory, at one stroke.

    Args:
      directory: where REPORT.md lies; its arms.json is read if there is one, as are PNG files
        that the report shows and `pictures` lacks.
      markdown: text of REPORT.md.
      pictures: figures by the names of the files that the report shows them by.

    Returns:
      The path of report.html; the same directory and report give the same bytes.

    Raises:
      OSError: it cannot be written.
    """
    networks = networks_html(directory / "arms.json")
    path = directory / "report.html"
    write_atomically(path, report_html(markdown, pictures, networks=networks, beside=directory))
    return path


def report_html(
    markdown: str,
    pictures: Mapping[str, Figure],
    *,
    networks: str = "",
    beside: Path | None = None,
) -> str:
    r"""The page of a report.

    Args:
      markdown: the report; its first heading is the page's title.
      pictures: figures by the names of the files that the report shows them by.
      networks: HTML of a section about networks.
      beside: directory of pictures that are files; None for none.

    >>> text = report_html("# Is it?\n\n**It is.**\n\n## Limits\n\n## Time", {})
    >>> "<title>Is it?</title>" in text, '<a href="#limits">Limits</a>' in text
    (True, True)
    """
    title = next((line[2:] for line in markdown.split("\n") if line.startswith("# ")), "Report")

    def picture(name: str, about: str) -> str:
        if name in pictures:
            return figure_html(pictures[name], slug(name), about)
        file = None if beside is None else beside / Path(name).name
        if file is None or not file.is_file():
            return f"<p>{html.escape(about)}: {html.escape(name)} is not there.</p>"
        return picture_html(file.read_bytes(), about)

    head, found, rest = markdown.partition(f"\n{_NETWORKS_BEFORE}\n")
    if not networks or not found:
        body = [to_html(markdown, picture), networks]
    else:
        body = [to_html(head, picture), networks, to_html(f"{_NETWORKS_BEFORE}\n{rest}", picture)]
    text = "\n".join(filter(None, body))
    return page(title, _with_contents(text))


def _with_contents(body: str) -> str:
    """The body with links to its sections in front of the first of them."""
    sections = re.findall(r'<h2 id="([^"]+)">(.*?)</h2>', body)
    if len(sections) < 2:
        return body
    links = "".join(f'<li><a href="#{name}">{text}</a></li>' for name, text in sections)
    before, head, after = body.partition("<h2 ")
    return f'{before}<nav aria-label="sections"><ul>{links}</ul></nav>\n{head}{after}'
