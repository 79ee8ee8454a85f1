"""report.html says what REPORT.md says, loads nothing, and lets nothing in."""

import dataclasses
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import flax.linen as nn
import pytest
from made_runs import make_run
from matplotlib.figure import Figure

from cnnjax import analysis
from experiments import arms_file, html_report, report
from experiments.config import Config
from experiments.html_page import figure_html, page
from experiments.markdown_html import to_html
from experiments.studies import STUDIES, Arm, Study, Task
from experiments.volumes_html import volumes_html

VOID = {"meta", "img", "br", "hr", "input", "link"}
ACCURACIES = {"narrow": [0.5, 0.6, 0.55], "wide": [0.7, 0.72, None]}


class Page(HTMLParser):
    """What a browser would find: elements with their attributes, and texts; nesting is checked."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "script" in self._open or "style" in self._open:
            return
        self.text += data
        if "td" in self._open or "th" in self._open:
            self.cells[-1] += data

    def having(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def cells_of(markdown: str) -> list[str]:
    """The cells of all Markdown tables, as they are read."""
    rows = [line for line in markdown.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if not set(row) <= set("|-: ")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
    return [re.sub(r"[`]|\*\*", "", cell).replace("\\|", "|") for cell in cells]


@pytest.fixture(scope="module")
def study():
    return STUDIES["stack_vs_large_kernel"](Config(channels=2), Task((28, 28, 1), 10, 100))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory, study):
    """A run directory with networks, its report drawn."""
    directory = make_run(tmp_path_factory.mktemp("html") / "run", ACCURACIES)
    arms_file.write_arms(directory, study, (28, 28, 1))
    report.draw(directory)
    return directory


def test_the_page_has_every_cell_of_every_table_of_the_markdown(drawn):
    markdown = (drawn / "REPORT.md").read_text()
    shown = Page((drawn / "report.html").read_text()).cells
    (start,) = [i for i, cell in enumerate(shown) if cell == "path"][:1]
    of_networks = [i for i, cell in enumerate(shown[start:], start) if cell == "flag"]
    assert len(cells_of(markdown)) > 60
    # The tables of the networks stand in one piece between those of the Markdown.
    before = shown[:start]
    assert before + shown[of_networks[0] :] == cells_of(markdown)


def test_the_page_has_the_question_the_verdict_and_every_section(drawn):
    markdown = (drawn / "REPORT.md").read_text()
    text = Page((drawn / "report.html").read_text()).text
    wanted = re.findall(r"^#+ (.*)$|^\*\*(.*)\*\*$", markdown, flags=re.MULTILINE)
    assert len(wanted) >= 7
    for heading, verdict in wanted:
        assert (heading or verdict) in text
    environment = json.loads((drawn / "environment.json").read_text())
    assert environment["dataset_sha256"] in text
    assert "python -m experiments.ablate --study=widths" in text


def test_the_page_loads_nothing(drawn):
    text = (drawn / "report.html").read_text()
    found = Page(text)
    links = [
        value or ""
        for _, attributes in found.elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href", "srcset", "action", "data")
    ]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert not found.having("link")
    assert not re.search(r"url\((?!#)|@import", text)
    (policy,) = [a["content"] for a in found.having("meta") if a.get("http-equiv")]
    assert policy.startswith("default-src 'none'")


def test_no_two_elements_share_an_id_and_every_reference_leads_to_one(drawn):
    text = (drawn / "report.html").read_text()
    elements = Page(text).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    assert len(referred) > 10
    assert referred <= set(ids)


def test_every_table_sorts_and_scrolls_on_its_own(drawn):
    found = Page((drawn / "report.html").read_text())
    tables = found.having("table")
    assert len(tables) > 5
    assert all(table["class"] == "sortable" for table in tables)
    boxes = [a for a in found.having("div") if a.get("class") == "scroll"]
    assert len(boxes) == len(tables)
    # Those who have no mouse scroll with the arrow keys.
    assert all(box["tabindex"] == "0" for box in boxes)
    assert all(head["scope"] == "col" for head in found.having("th"))
    assert len(found.having("script")) == 1


def test_columns_of_numbers_are_told_from_columns_of_words():
    text = to_html("| arm | n |\n| --- | ---: |\n| 5x5 | 3 |\n", lambda name, about: "")
    assert '<th scope="col">arm</th><th scope="col" class="number">n</th>' in text
    assert '<td>5x5</td><td class="number">3</td>' in text


def test_figures_are_drawn_within_the_page_and_the_same_bytes_come_twice(drawn):
    text = (drawn / "report.html").read_text()
    labels = [a["aria-label"] for a in Page(text).having("svg") if a.get("role") == "img"]
    markdown = (drawn / "REPORT.md").read_text()
    assert labels == re.findall(r"^!\[(.*)\]", markdown, flags=re.MULTILINE)
    assert len(text) < 300_000
    report.draw(drawn)
    assert (drawn / "report.html").read_text() == text


def test_the_words_of_a_figure_are_words_and_its_ink_is_that_of_the_page():
    figure = Figure(figsize=(3, 2))
    axes = figure.subplots()
    axes.set_title("a < b & c")
    axes.plot([0, 1], [0, 1], color="#0072B2", clip_on=True)
    text = figure_html(figure, "one", 'say "it"')
    found = Page(text)
    assert "a < b & c" in found.text
    assert found.elements[1][1]["aria-label"] == 'say "it"'
    assert "#0072b2" in text
    assert "currentColor" in text
    assert "#000000" not in text
    assert "#ffffff" not in text


HOSTILE = "</title><script>alert(1)</script>\"'><img src=https://example.org/x onerror=y>"


def test_nothing_that_a_record_holds_becomes_a_part_of_the_page(tmp_path, study):
    changes = {"question": HOSTILE, "differs_in": HOSTILE, "limits": [HOSTILE]}
    changes |= {"command": f"```\n{HOSTILE}", "config": {"dataset": HOSTILE, HOSTILE: 1}}
    made = {f"{HOSTILE}1": [0.5, None], f"{HOSTILE}2": [0.6, 0.7]}
    directory = make_run(tmp_path / "run", made, environment={"x": HOSTILE}, **changes)
    rows = [
        {key: HOSTILE if isinstance(value, str) and key != "output_shape" else value}
        for key, value in analysis.records(analysis.account(nn.Dense(3), (4,)))[1].items()
    ]
    row = {key: value for pair in rows for key, value in pair.items()}
    arm = {"title": HOSTILE, "differs_in": HOSTILE, "settings": {HOSTILE: HOSTILE}}
    arms = [arm | {"rows": [row], "why": ""}, arm | {"rows": [], "why": HOSTILE}]
    (directory / "arms.json").write_text(json.dumps({"arms": arms}))
    report.draw(directory)
    text = (directory / "report.html").read_text()
    found = Page(text)
    assert len(found.having("script")) == 1
    assert not found.having("img")
    assert len(found.having("title")) == 1
    assert not [name for _, a in found.elements for name in a if name.startswith("on")]
    assert text.count(html.escape("<script>alert(1)</script>")) > 8


def test_a_run_without_arms_json_has_all_but_the_networks(tmp_path, drawn):
    directory = make_run(tmp_path / "run", ACCURACIES)
    report.draw(directory)
    assert "The networks" not in (directory / "report.html").read_text()
    assert (directory / "REPORT.md").read_text() == (drawn / "REPORT.md").read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"arms": [{"title": "x"}]}'])
def test_a_broken_arms_json_gets_a_sentence(tmp_path, content):
    (tmp_path / "arms.json").write_text(content)
    path = html_report.draw(tmp_path, "# Is it?\n", {})
    assert "arms.json cannot be read" in Page(path.read_text()).text


def test_arms_json_holds_the_account_of_every_arm(drawn, study):
    arms = json.loads((drawn / "arms.json").read_text())["arms"]
    assert [arm["name"] for arm in arms] == [arm.name for arm in study.arms]
    for arm, described in zip(study.arms, arms, strict=True):
        assert described["title"] == arm.title
        for total in ("parameters", "macs"):
            assert sum(row[total] for row in described["rows"]) == arm.account[total]
    text = Page((drawn / "report.html").read_text()).text
    for arm in study.arms:
        counts = f"{arm.account['parameters']:,} parameters, {arm.account['macs']:,} MACs"
        assert counts in text or f"{arm.title}\n" in text
    assert text.count("The same network as three 3x3.") == 0


def test_networks_that_are_alike_are_shown_once(tmp_path, study):
    first = study.arms[0]
    again = dataclasses.replace(first, name="again", title="again")
    twice = dataclasses.replace(study, arms=(first, again), headline_arm="again")
    arms_file.write_arms(tmp_path, twice, (28, 28, 1))
    path = html_report.draw(tmp_path, "# Is it?\n", {})
    found = Page(path.read_text())
    assert "The same network as one 7x7." in found.text
    assert len(found.having("ol")) == 1


class _Untraceable(nn.Module):
    def __call__(self, x):
        raise RuntimeError("no <such> layer")


def test_a_network_that_cannot_be_followed_does_not_end_the_run(tmp_path, caplog):
    good = Arm("good", "good", "the baseline", nn.Dense(3), {})
    bad = Arm("bad", "bad", "everything", _Untraceable(), {}, settings={"flip": True})
    study = Study("s", "Is it?", "good", "bad", (good, bad), ())
    arms_file.write_arms(tmp_path, study, (2, 2, 1))
    arms = json.loads((tmp_path / "arms.json").read_text())["arms"]
    assert [len(arm["rows"]) for arm in arms] == [2, 0]
    assert arms[1]["why"] == "RuntimeError: no <such> layer"
    assert arms[1]["settings"] == {"flip": True}
    page_text = Page(html_report.draw(tmp_path, "# Is it?\n", {}).read_text()).text
    assert "Its layers cannot be told: RuntimeError: no <such> layer" in page_text
    assert "Its own settings: --flip=True" in page_text


def test_a_disk_that_takes_no_arms_json_does_not_end_the_run(tmp_path, study, monkeypatch):
    def full(path, content):
        raise OSError("No space left on device")

    monkeypatch.setattr(arms_file, "write_atomically", full)
    arms_file.write_arms(tmp_path, study, (28, 28, 1))
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_does_not_follow_its_networks_again(tmp_path, study, monkeypatch):
    arms_file.write_arms(tmp_path, study, (28, 28, 1))
    before = (tmp_path / "arms.json").read_bytes()
    monkeypatch.setattr(analysis, "account", None)
    arms_file.write_arms(tmp_path, study, (28, 28, 1))
    assert (tmp_path / "arms.json").read_bytes() == before


def row(operation, output_shape, **more):
    values = {"window": "", "stride": "", "macs": 0, "receptive_field": ""}
    values |= {"receptive_field_whole": False}
    return {"operation": operation, "output_shape": output_shape, **values, **more}


def fronts(text):
    """Width and height of the front of every box, in the order drawn."""
    for svg in re.findall(r"<svg.*?</svg>", text):
        points = re.search(r'points="([^"]*)"', svg)[1]
        xs, ys = zip(*(map(float, point.split(",")) for point in points.split()), strict=True)
        yield round(max(xs) - min(xs), 1), round(max(ys) - min(ys), 1)


def test_boxes_are_to_scale():
    rows = [
        row("input", "32x32x1"),
        row("convolution", "16x16x4", window="3x3", stride="2x2", macs=9),
        row("dense", "100", macs=5),
        row("dense", "25", macs=5),
    ]
    text = volumes_html(rows)
    # 72 points are 32 pixels or the square root of 100 units, 26 those of 4 channels.
    assert list(fronts(text)) == [(13.0, 72.0), (26.0, 36.0), (9.0, 72.0), (9.0, 36.0)]
    assert "conv 3x3 /2" in text
    assert next(a["class"] for a in Page(text).having("polygon")) == "input"


def test_equal_layers_are_one_box_and_norms_belong_to_the_layer_before():
    conv = row("convolution", "8x8x4", window="3x3", stride="1x1", macs=9, receptive_field="3x3")
    rows = [row("input", "8x8x1"), conv, row("normalization", "8x8x4"), conv]
    text = volumes_html([*rows, row("max_pool", "4x4x4", window="2x2", stride="2x2")])
    found = Page(text)
    assert len(found.having("li")) == 3
    assert "conv 3x3 ×2" in found.text
    assert "norm" in found.text
    assert "max pool 2x2 /2" in found.text


def test_deep_networks_have_few_boxes():
    rows = [row("input", "64x64x3")]
    for size in (32, 16, 8):
        for channels in range(20):
            rows.append(row("convolution", f"{size}x{size}x{channels + 1}", window="3x3", macs=1))
            rows.append(row("add", f"{size}x{size}x{channels + 1}"))
    text = volumes_html(rows)
    # One for each spatial size: more would not fit, and these alone differ.
    assert len(Page(text).having("li")) == 4
    assert "40 layers" in text


def test_a_sentence_a_list_and_code_stay_what_they_are():
    markdown = "Some text\non two lines with `x < y`.\n- a\n- b\n\n```\n# no heading\n```"
    assert to_html(markdown, lambda name, about: "") == (
        "<p>Some text on two lines with <code>x &lt; y</code>.</p>\n"
        "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"
        '<pre tabindex="0"><code># no heading</code></pre>'
    )


def test_a_picture_that_is_not_there_is_told_of(tmp_path: Path):
    text = html_report.report_html("![The arms](arms.png)", {}, beside=tmp_path)
    assert "The arms: arms.png is not there." in text
    (tmp_path / "arms.png").write_bytes(b"\x89PNG")
    text = html_report.report_html("![The arms](../arms.png)", {}, beside=tmp_path)
    assert 'src="data:image/png;base64,iVBORw=="' in text


def test_a_page_is_read_on_a_phone_and_in_the_dark():
    text = page("t", "<p>x</p>")
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert Page(text).having("html") == [{"lang": "en"}]
