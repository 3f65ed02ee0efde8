"""The page: complete in itself, its tables and anchors as in the markdown, nothing of a name taken for markup."""

import base64
import html.parser
import re

import pytest

from experiments.report.html import write_html
from experiments.report.write import write_report
from tests.report.test_write import made_up_features, small_run, write_run

VOID = {"meta", "br", "img", "hr", "link"}


class Page(html.parser.HTMLParser):
    """What a browser would find: balanced elements, their attributes, and the texts of table cells by row."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.rows = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(tmp_path, markdown):
    (tmp_path / "report.md").write_text(markdown, "utf-8")
    return Page(write_html(tmp_path).read_text("utf-8"))


@pytest.fixture
def whole(tmp_path):
    write_run(tmp_path, small_run(seeds=(0, 1, 2)), [made_up_features("twin"), made_up_features("original")])
    markdown = write_report(tmp_path).read_text("utf-8")
    return markdown, (tmp_path / "report.html").read_text("utf-8"), tmp_path


def test_the_page_loads_nothing_from_elsewhere(whole):
    _, text, folder = whole
    page = Page(text)
    assert not page.all("link")
    assert not page.all("script")
    assert not re.search(r"@import|url\(", text)
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 2
    for source, name in zip(sources, ("gap", "features"), strict=True):
        kind, data = source.split(",")
        assert kind == "data:image/svg+xml;base64"
        assert base64.b64decode(data) == (folder / f"{name}.svg").read_bytes()
    assert all(image["alt"] for image in page.all("img"))


def test_every_table_is_there_cell_by_cell(whole):
    markdown, text, _ = whole
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not re.fullmatch(r"[|:-]+", line)]
    expected = [
        [c.strip().strip("*").replace("<br>", "") for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]
    assert Page(text).rows == expected
    # Each lies in a container that scrolls by itself.
    assert text.count('<div class="table" tabindex="0"><table>') == text.count("<table>") > 5


def test_the_contents_lead_to_every_section(whole):
    markdown, text, _ = whole
    page = Page(text)
    anchors = [a["id"] for tag in ("h2", "h3") for a in page.all(tag)]
    links = [link["href"].removeprefix("#") for link in page.all("a")]
    assert sorted(links) == sorted(anchors)
    assert len(set(anchors)) == len(anchors) == len(re.findall(r"^###? ", markdown, re.M))
    assert "how-to-rerun" in anchors


def test_headings_of_the_same_name_have_anchors_of_their_own(tmp_path):
    page = page_of(tmp_path, "# A report\n\n## Cost 2\n\n## Cost\n\n## Cost\n\n## –\n")
    assert [heading["id"] for heading in page.all("h2")] == ["cost-2", "cost", "cost-3", "part"]


def test_figures_are_aligned_to_the_right(tmp_path):
    page = page_of(tmp_path, "| method | gap |\n|---|--:|\n| twin | 4.0 |\n")
    assert page.all("td") == [{}, {"style": "text-align:right"}]


def test_names_are_text_and_never_markup(tmp_path):
    page = page_of(tmp_path, "# On <b>\n\n| a<br>b |\n|---|\n| <script>x</script> |\n\n<script>y</script>\n")
    assert not page.all("script")
    assert page.rows == [["ab"], ["<script>x</script>"]]
    assert page.all("br") == [{}]


@pytest.mark.parametrize("source", ["../gap.svg", "https://example.org/gap.svg", "gap.png"])
def test_other_pictures_are_refused(tmp_path, source):
    (tmp_path / "report.md").write_text(f"![gap]({source})", "utf-8")
    with pytest.raises(ValueError, match="only SVG pictures in its own folder"):
        write_html(tmp_path)


def test_a_missing_picture_is_an_error(tmp_path):
    (tmp_path / "report.md").write_text("![gap](gap.svg)", "utf-8")
    with pytest.raises(FileNotFoundError):
        write_html(tmp_path)
