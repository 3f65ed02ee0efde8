"""A run's report: tables and pictures from the records in its output folder.

Reads `config.json`, `results.jsonl` and, where present, `samples.json` (for the intervals of one seed) and
`features.json`; needs no JAX. An experiment with tables of its own hands them over as a `Body`.
"""

import json
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from experiments.report import tables as report_tables
from experiments.report.html import write_html
from experiments.report.page import describe, head, reading, remarks, rerun
from experiments.report.paper import paper_differences, paper_tables
from experiments.report.pictures import draw_features, draw_gaps
from experiments.report.render import print_rich, to_markdown
from experiments.report.results import Record, Results, split_settings
from experiments.report.samples import read_samples
from experiments.report.tables import Table
from experiments.report.verdict import verdict

IDENTITY = ("method", "target_class", "seed")


class Picture(NamedTuple):
    """A picture in the output folder: `stem.svg`, its text for those who cannot see it, and a caption."""

    stem: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading of its own.

    Attributes:
        title: the heading.
        parts: tables, and paragraphs of markdown (on the terminal they are printed as they are).
        pictures: stand after the parts; whoever makes the section draws them beforehand. Not on the terminal.
    """

    title: str
    parts: Sequence[Table | str] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class Body:
    """What an experiment reports in place of the standard body, or ahead of it.

    Attributes:
        sections: in order.
        standard: whether verdict, tables and pictures of every setting follow.
    """

    sections: Sequence[Section]
    standard: bool = False


STANDARD = Body((), standard=True)


def write_report(output: pathlib.Path, body: Body = STANDARD) -> pathlib.Path:
    """Writes `report.md`, `report.html` and the pictures beside the records that they are made from.

    Args:
        output: a run's folder with `config.json` and `results.jsonl`; `samples.json` and `features.json` are optional.
        body: the experiment's own sections; made from `load_results(output)` where they need figures. The pictures
            `gap` and `features` belong to the standard body and are drawn with it.

    Returns:
        The path of `report.md`.

    Raises:
        FileNotFoundError: `config.json`, `results.jsonl` or a picture is not there.
        ValueError: a line of `results.jsonl` is no record, or there are none; or `samples.json` is broken.
    """
    config = json.loads((output / "config.json").read_text("utf-8"))
    groups = load_results(output)
    records = [record for results in groups for record in results.records]
    parts = [head(config, groups), *(_section(section) for section in body.sections)]
    if body.standard:
        parts += [_standard(groups), _pictures(groups, output)]
    parts += [remarks(records), rerun(config, records), reading()]
    path = output / "report.md"
    path.write_text("\n".join(parts), "utf-8")
    write_html(output)
    return path


def print_table(source: pathlib.Path | Sequence[Record], console: Console | None = None, body: Body = STANDARD) -> None:
    """Prints the tables and the verdict on the terminal; wide tables are continued below, never cut.

    Args:
        source: a run's output folder, or its records.
        console: where to print; a new one on standard output by default.
        body: what to print, as for `write_report`.
    """
    console = console or Console()
    for section in body.sections:
        console.print(Text(section.title, style="bold"))
        console.print()
        for part in section.parts:
            _print_part(part, console)
    if not body.standard:
        return
    for results in load_results(source) if isinstance(source, pathlib.Path) else split_settings(source):
        console.print(Text(describe(results), style="bold"))
        for table in _tables(results) + paper_tables(results):
            print_rich(table, console)
        console.print(Text("Verdict", style="bold"))
        for line in verdict(results):
            console.print(Text(f"- {line}"))
        console.print()


def load_results(output: pathlib.Path) -> list[Results]:
    """The figures of an output folder, setting by setting; errors as `write_report`."""
    return split_settings(read_records(output), read_samples(output))


def read_records(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `results.jsonl` in a run's folder.

    Raises:
        ValueError: a line is not a JSON object with `method`, `target_class` and `seed`, or there is none.
    """
    path = output / "results.jsonl"
    records = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"results.jsonl, line {number}: not a JSON object ({error}); remove the line") from error
        missing = [key for key in IDENTITY if not isinstance(record, dict) or key not in record]
        if missing:
            raise ValueError(f"results.jsonl, line {number}: a record needs {', '.join(missing)}; got {line[:80]}")
        records.append(record)
    if not records:
        raise ValueError("results.jsonl holds no record: the run has not finished a single request")
    return records


def _print_part(part: Table | str, console: Console) -> None:
    if isinstance(part, Table):
        print_rich(part, console)
    else:
        console.print(Text(part))
        console.print()


def _section(section: Section) -> str:
    parts = [to_markdown(part) if isinstance(part, Table) else f"{part}\n" for part in section.parts]
    return "\n".join([f"## {section.title}\n", *parts, *map(_picture, section.pictures)])


def _picture(picture: Picture) -> str:
    caption = f"\n{picture.caption}\n" if picture.caption else ""
    return f"![{picture.alt}]({picture.stem}.svg)\n{caption}"


def _tables(results: Results) -> list[Table]:
    pooled = results.has_pooled and bool(results.class_names)
    tables = [report_tables.accuracy_table(results)]
    for make in (report_tables.method_table, report_tables.difference_table):
        tables += [make(results), *([make(results, pooled=True)] if pooled else [])]
    return [*tables, *report_tables.predictor_tables(results), report_tables.cost_table(results)]


def _standard(groups: Sequence[Results]) -> str:
    parts = []
    for results in groups:
        parts += [f"## Results: {describe(results)}\n" if len(groups) > 1 else "## Results\n"]
        parts += ["### Verdict\n", "\n".join(f"- {line}" for line in verdict(results)) + "\n"]
        parts += [to_markdown(table) for table in _tables(results)]
        parts += ["### The paper's numbers\n"]
        differences = paper_differences(results)
        if differences:
            parts.append(f"Not printed beside ours, for this is not the paper's setting: {'; '.join(differences)}.\n")
        parts += [to_markdown(table, 4) for table in paper_tables(results)]
    return "\n".join(parts)


def _pictures(groups: Sequence[Results], output: pathlib.Path) -> str:
    draw_gaps(groups, output)
    floors = "The green band is the gold-gold floor."
    if any(results.interval_source for results in groups):
        floors += " Error bars, and the bands about the floors' lines, are 95 % confidence intervals."
    pictures = [
        Picture(
            "gap",
            "Forget gap of every method with the three floors",
            f"A dot is a class (mean over seeds), the black line the mean over classes. {floors}",
        )
    ]
    features = output / "features.json"
    entries = json.loads(features.read_text("utf-8")) if features.exists() else []
    if entries:
        draw_features(entries, output)
        pictures.append(
            Picture(
                "features",
                "Features of easy and hard images in both problems",
                "Above each panel: how many images of either kind, and the chance (AUC, percent; 50 is none) that a "
                "hard image has the larger feature. The predictor learns on the upper row and is used on the lower.",
            )
        )
    absent = "No picture of the features: the run left no `features.json` (no twin method among its methods)."
    return _section(Section("Pictures", [] if entries else [absent], pictures))
