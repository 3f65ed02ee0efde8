"""`report.html` from `report.md`: one file that shows the same anywhere, with nothing to load from elsewhere."""

import base64
import itertools
import pathlib
import re
from collections.abc import Sequence
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

STYLE = """\
:root { color-scheme: light dark; --text: #1f2328; --soft: #59636e; --page: #fff; --card: #f6f8fa; --line: #d1d9e0;
  --stripe: #fafbfc; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ee; --soft: #9ba6b2; --page: #14171c; --card: #1e232a;
  --line: #39414c; --stripe: #191d23; --link: #7ab8ff; } }
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--text); overflow-wrap: break-word;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
.layout { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
main { min-width: 0; }
main > p, main > ul { max-width: 48rem; }
main > p:has(.picture) { max-width: none; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.35rem; margin: 2.6rem 0 1rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 2rem 0 .7rem; }
h4 { font-size: 1rem; margin: 1.6rem 0 .6rem; }
h2, h3, h4 { scroll-margin-top: 1rem; line-height: 1.3; }
a { color: var(--link); text-decoration: none; }
a:hover { text-decoration: underline; }
ul { padding-left: 1.3rem; }
li { margin: .25rem 0; }
code, pre { font: .875em/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  background: var(--card); border-radius: 4px; }
code { padding: .1em .3em; }
pre { padding: .8rem 1rem; border: 1px solid var(--line); overflow-x: auto; }
pre code { padding: 0; font-size: 1em; }
.table { overflow-x: auto; max-width: 100%; width: fit-content; margin: .6rem 0; border: 1px solid var(--line);
  border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; font-size: .85rem; line-height: 1.4;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; text-align: left; }
th { background: var(--card); font-weight: 600; vertical-align: bottom; }
th[style*=right], td[style*=right] { white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:nth-child(even) td { background: var(--stripe); }
tbody td { background: var(--page); }
tr > :first-child { position: sticky; left: 0; z-index: 1; border-right: 1px solid var(--line); white-space: nowrap; }
.table + p, p:has(.picture) + p { font-size: .875rem; color: var(--soft); }
.picture { display: block; overflow-x: auto; max-width: 62rem; background: #fff; padding: .5rem;
  border: 1px solid var(--line); border-radius: 6px; }
.picture img { display: block; width: 100%; min-width: 38rem; height: auto; }
nav { font-size: .9rem; line-height: 1.4; margin: 0 0 1.5rem; }
nav summary { font-weight: 600; cursor: pointer; }
nav ul { list-style: none; padding: 0; margin: .5rem 0 0; }
nav li { margin: .35rem 0; }
nav li.level3 { padding-left: 1rem; }
@media (max-width: 40rem) { tr > :first-child { white-space: normal; min-width: 6.5rem; max-width: 9rem; } }
@media (max-width: 70rem) { nav li.level3 { display: none; } }
@media (min-width: 70rem) { .layout { max-width: 92rem; display: grid; grid-template-columns: 15rem minmax(0, 1fr);
  gap: 2.5rem; }
  nav { position: sticky; top: 1.5rem; align-self: start; max-height: calc(100vh - 3rem); overflow-y: auto; } }
@media print { nav { display: none; } .table { overflow: visible; } }
"""


def write_html(output: pathlib.Path) -> pathlib.Path:
    """Writes `report.html` from `report.md` in the same folder, its pictures and style within it.

    Args:
        output: a run's folder with `report.md` and the pictures that it shows.

    Returns:
        The path of `report.html`.

    Raises:
        FileNotFoundError: `report.md` or one of its pictures is not there.
        ValueError: `report.md` shows a picture that is not a file of the folder.
    """
    parser = MarkdownIt("commonmark", {"html": True}).enable("table")
    tokens = parser.parse((output / "report.md").read_text("utf-8"))
    headings = _anchor(tokens)
    rules = {
        "table_open": lambda token: '<div class="table" tabindex="0"><table>\n',
        "table_close": lambda token: "</table></div>\n",
        "image": lambda token: _inlined(token, output),
        # Line breaks in headings of tables are the only markup of our own; a name in angle brackets is text.
        "html_inline": lambda token: "<br>" if token.content == "<br>" else escape(token.content),
        "html_block": lambda token: f"<p>{escape(token.content)}</p>\n",
    }
    for name, render in rules.items():
        parser.add_render_rule(name, lambda _, found, index, *__, render=render: render(found[index]))
    body = parser.renderer.render(tokens, parser.options, {})
    title = next((text for tag, _, text in headings if tag == "h1"), "Report")
    path = output / "report.html"
    path.write_text(_page(title, _contents(headings), body), "utf-8")
    return path


def _anchor(tokens: Sequence[Token]) -> list[tuple[str, str, str]]:
    """Gives every heading an id of its own; returns tag, id and text of each."""
    headings: list[tuple[str, str, str]] = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type != "heading_open":
            continue
        text = "".join(child.content for child in inline.children or [] if child.type in ("text", "code_inline"))
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "part"
        taken = {anchor for _, anchor, _ in headings}
        number = 2
        anchor = name
        while anchor in taken:
            anchor, number = f"{name}-{number}", number + 1
        opening.attrSet("id", anchor)
        headings.append((opening.tag, anchor, text))
    return headings


def _contents(headings: Sequence[tuple[str, str, str]]) -> str:
    lines = [
        f'<li class="level{tag[1]}"><a href="#{anchor}">{escape(text)}</a></li>'
        for tag, anchor, text in headings
        if tag in ("h2", "h3")
    ]
    return "<details open><summary>Contents</summary>\n<ul>\n" + "\n".join(lines) + "\n</ul></details>"


def _inlined(image: Token, output: pathlib.Path) -> str:
    """A picture as a data address: in an element of its own, so that ids within two pictures cannot clash."""
    source = str(image.attrGet("src"))
    path = output / source
    if path.suffix != ".svg" or path.resolve().parent != output.resolve():
        raise ValueError(f"report.md shows {source!r}; only SVG pictures in its own folder can be taken into the page")
    data = base64.b64encode(path.read_bytes()).decode()
    source = f"data:image/svg+xml;base64,{data}"
    return f'<span class="picture" tabindex="0"><img alt="{escape(image.content)}" src="{source}"></span>'


def _page(title: str, contents: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<div class="layout">\n'
        f"<nav>{contents}</nav>\n<main>\n{body}</main>\n</div>\n</body>\n</html>\n"
    )
