"""A run's report: `report.md`, `report.html` and the pictures, and the last screen of its command.

Reads `config.json`, `results.jsonl` and, where present, `samples.json.gz` (for the intervals of one seed) and
`features.json.gz`; needs no JAX. An experiment with a table of its own hands it over as a `Body`.
"""

import base64
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jinja2
from markupsafe import Markup
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.report.files import read_config, read_features, read_records, write_whole
from experiments.report.formats import plain, to_markdown
from experiments.report.page import Body, Picture, Section, setting_line, standing, title
from experiments.report.paper import paper_differences, paper_tables
from experiments.report.pictures import draw_features, draw_overview
from experiments.report.results import MEAN, POOLED, load_results
from experiments.report.samples import cell_of
from experiments.report.tables import (
    Table,
    accuracy_table,
    cost_table,
    difference_table,
    main_table,
    method_table,
    predictor_tables,
)
from experiments.report.verdict import verdict, warning

SCREEN_LINES = 40
NAME_WIDTH = 24
GAP = 2
"""Between columns."""
TEMPLATES = pathlib.Path(__file__).parent / "templates"


_ELSEWHERE = Text("(On another processor the answers on a few images differ.)", style="dim")


def write_report(output: pathlib.Path, body: Body | None = None) -> pathlib.Path:
    """Writes `report.md`, `report.html` and the pictures beside the records that they are made from.

    Args:
        output: a run's folder with `config.json` and `results.jsonl`; `samples.json.gz` and
            `features.json.gz` are optional.
        body: the experiment's own; None: the comparison of methods.

    Returns:
        The path of `report.md`.

    Raises:
        FileNotFoundError: `config.json` or `results.jsonl` is not there.
        ValueError: one of the files is broken, or there are no records.
    """
    config, groups = read_config(output), load_results(output)
    if missing := [name for name in ("experiment", "runs", "arms") if not config.get(name)]:
        raise ValueError(f"{output / 'config.json'}: holds no {missing[0]}; restore the file, or choose another folder")
    body = body or standard(output)
    sections = [*body.sections, *standing(config, groups)]
    for picture in (body.picture, *(part for section in sections for part in section.parts)):
        if isinstance(picture, Picture):
            picture.draw(output)
    page = {"title": title(config, groups), "setting": setting_line(config), "body": body, "sections": sections}
    page["warning"] = warning([record for results in groups for record in results.records])

    def inlined(picture: Picture) -> str:
        data = base64.b64encode((output / f"{picture.stem}.svg").read_bytes()).decode()
        return f"data:image/svg+xml;base64,{data}"

    # Nothing of a name is taken for markup: every value is escaped on its way into either page.
    for name, finalize in {"report.md": lambda text: Markup(to_markdown(text)), "report.html": plain}.items():
        write_whole(output / name, _environment(finalize, inlined).get_template(f"{name}.j2").render(page))
    return output / "report.md"


def print_table(output: pathlib.Path, console: Console | None = None, body: Body | None = None) -> None:
    """Prints the last screen: the one table, the one sentence and the folder, within 40 lines.

    A sentence goes before where a gold or an original model is at chance, and so no figure says anything.

    Args:
        output: a run's folder.
        console: where to print; a new one on standard output by default. Columns that are too many for its width, and
            rows that are too many for a screen, are left to the report, and the screen says so.
        body: as for `write_report`.
    """
    console = console or Console()
    body = body or standard(output)
    sentence = Text(_encodable(body.sentence, console))
    void = Text(_encodable(warning(read_records(output)), console), style="yellow")
    folder = Text(plain(f"records and report: {output / 'report.html'}"))
    below = sum(len(console.render_lines(text)) for text in (void, sentence, _ELSEWHERE, folder) if text)
    table = body.table.compact or body.table
    console.print(Text(f"{table.title}:", style="bold"))
    _print_fitting(table, console, SCREEN_LINES - below - 3)
    console.print()
    if void:
        console.print(void)
    console.print(sentence)
    console.print(_ELSEWHERE)
    console.print(folder, soft_wrap=True)


def standard(output: pathlib.Path) -> Body:
    """The comparison of methods: every readout of every method against the floors; errors as `write_report`."""
    groups = load_results(output)
    said = [sentence for results in groups for sentence in verdict(results)[: 5 if len(groups) == 1 else 1]][:5]
    sections = [Section("What the numbers say", [said])] if len(said) > 1 else []
    for results in groups:
        of = f" ({results.setting['variant']}, {results.setting['num_forget']} images)" if len(groups) > 1 else ""
        scopes = [MEAN, POOLED] if results.has_pooled and results.class_names else [MEAN]
        differences = paper_differences(results)
        theirs = [f"Not printed beside ours, for this is not the paper's setting: {'; '.join(differences)}."]
        sections += [
            Section(f"Class by class{of}", [accuracy_table(results)]),
            Section(f"Every readout{of}", [method_table(results, scope) for scope in scopes]),
            Section(f"Paired differences{of}", [difference_table(results, scope) for scope in scopes]),
            Section(f"Easy and hard images{of}", predictor_tables(results)),
            Section(f"Cost{of}", [cost_table(results)]),
            Section(f"The paper's numbers{of}", theirs if differences else paper_tables(results)),
        ]
    overview = Picture(
        "overview",
        "Gap, agreement and activation distance of every method against the floors",
        "Every method against the floors (lines). Bars are 95 % confidence intervals, small dots single classes.",
        lambda folder: draw_overview(groups, folder),
    )
    cells = {cell_of(record) for results in groups for record in results.records}
    # Those of other cells are another run's.
    if features := [entry for entry in read_features(output) if cell_of(entry) in cells]:
        caption = "Above each panel: how many images of either kind, and the chance (AUC, percent; 50 is none) that a "
        caption += "hard image has the larger feature. The predictor learns on the upper row and is used on the lower."
        alt = "Features of easy and hard images in both problems"
        drawn = Picture("features", alt, caption, lambda folder: draw_features(features, folder))
        sections.append(Section("Features of easy and hard images", [drawn]))
    return Body(said[0], main_table(groups), overview, [section for section in sections if section.parts])


def _environment(finalize: Callable[[Any], str], inlined: Callable[[Picture], str]) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: value if isinstance(value, Markup) else finalize(value),
    )
    environment.filters |= {"inlined": inlined, "code": lambda line: Markup(plain(line))}
    return environment


def _print_fitting(table: Table, console: Console, lines: int) -> None:
    """Prints as many columns and rows as the screen holds; summary rows stay."""
    rows, num_body = [*table.rows], len(table.rows) - table.num_summary
    longest = [max(len(row[index]) for row in rows) for index in range(len(table.headings))]
    # Figures stand on one line; headings and names may be folded.
    words = [max(map(len, heading.split())) for heading in table.headings]
    widths = [min(longest[0], NAME_WIDTH), *(max(pair) for pair in zip(longest[1:], words[1:], strict=True))]
    while len(widths) > 2 and sum(widths) + GAP * (len(widths) - 1) > console.width:
        widths.pop()
    room = console.width - sum(widths[1:]) - GAP * (len(widths) - 1)
    widths[0] = min(longest[0], max(room, 1))
    while num_body > 1 and len(console.render_lines(_rich(table, rows, widths, console))) > lines - 1:
        num_body -= 1
        del rows[num_body]
    console.print(_rich(table, rows, widths, console))
    left_out = {"row": len(table.rows) - len(rows), "column": len(table.headings) - len(widths)}
    if any(left_out.values()):
        counts = " and ".join(f"{n} more {word}{'s' if n > 1 else ''}" for word, n in left_out.items() if n)
        console.print(Text(f"{counts} in the report"))


def _rich(table: Table, rows: Sequence[tuple[str, ...]], widths: Sequence[int], console: Console) -> RichTable:
    shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, GAP - 1, 0, 0))
    for index, width in enumerate(widths):
        justify: Any = "right" if index else "left"
        shown.add_column(Text(table.headings[index]), justify=justify, overflow="fold", width=width)
    for number, row in enumerate(rows):
        if number == len(rows) - table.num_summary:
            shown.add_section()
        shown.add_row(*(Text(_encodable(cell, console)) for cell in row[: len(widths)]))
    return shown


def _encodable(text: str, console: Console) -> str:
    """The text without control characters and without what the terminal's encoding lacks."""
    return plain(text).replace("–", "-").encode(console.encoding, "replace").decode(console.encoding)
