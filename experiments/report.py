"""A run's report: tables and pictures from the records in its output folder.

Reads `config.json`, `results.jsonl` and, where present, `features.json`; needs no JAX.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments import report_tables
from experiments.report_paper import paper_differences, paper_tables
from experiments.report_pictures import draw_features, draw_gaps
from experiments.report_tables import MISSING, Record, Results, Table, display_name, split_settings
from experiments.report_verdict import verdict

IDENTITY = ("method", "target_class", "seed")
GLOSSARY = """\
| word | meaning |
|---|---|
| gold | the model retrained from scratch without the forgotten images: what unlearning should come near to |
| A_t, A_f, A_r | accuracy on test, forgotten and retained images, percent |
| gap | distance between A_f and gold's A_f, points; 0 is best |
| agreement | percent of the forgotten images that the model and gold both get right or both get wrong |
| activation distance | mean L2 distance between the softmax outputs of model and gold on D_f, at most 1.414 |
| KL, JS | divergences KL(gold, model) and Jensen-Shannon of the softmax outputs on D_f, natural logarithm |
| gold-gold floor | a second gold model, other seed, against the first: the noise between two honest answers |
| majority floor | calling every forgotten image easy (gold gets it right) |
| count-matched floor | calling a random share easy, as large as the original's accuracy on images it never saw |
| easy, hard | gold classifies the image correctly, or not |
| D_test, D_f | held-out images of the class that the original never saw; the forgotten images |
"""


def write_report(output: pathlib.Path) -> pathlib.Path:
    """Writes `report.md` and the pictures `gap` and `features` (SVG and PNG) beside the records they are made from.

    Args:
        output: a run's folder with `config.json` and `results.jsonl`; `features.json` is optional.

    Returns:
        The path of `report.md`.

    Raises:
        FileNotFoundError: `config.json` or `results.jsonl` is not there.
        ValueError: a line of `results.jsonl` is no record, or there are none.
    """
    config = json.loads((output / "config.json").read_text("utf-8"))
    records = read_records(output)
    groups = split_settings(records)
    draw_gaps(groups, output)
    features = output / "features.json"
    entries = json.loads(features.read_text("utf-8")) if features.exists() else []
    if entries:
        draw_features(entries, output)
    sections = [_head(config, records), _body(groups), _pictures(bool(entries)), _remarks(records), _reading()]
    path = output / "report.md"
    path.write_text("\n".join(sections), "utf-8")
    return path


def print_table(source: pathlib.Path | Sequence[Record], console: Console | None = None) -> None:
    """Prints the tables and the verdict on the terminal; wide tables are continued below, never cut.

    Args:
        source: a run's output folder, or its records.
        console: where to print; a new one on standard output by default.
    """
    console = console or Console()
    for results in split_settings(read_records(source) if isinstance(source, pathlib.Path) else source):
        console.print(Text(_describe(results), style="bold"))
        for table in _tables(results) + paper_tables(results):
            _print_rich(table, console)
        console.print(Text("Verdict", style="bold"))
        for line in verdict(results):
            console.print(Text(f"- {line}"))
        console.print()


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


def to_markdown(table: Table, level: int = 3) -> str:
    """A table as markdown under its title; figures of one cell stand apart by slashes."""
    heads = [c.heading + (f"<br>{' / '.join(c.labels)}" if c.labels else "") for c in table.columns]
    cells = [[" / ".join(cell).replace("|", "\\|") for cell in row] for row in table.rows]
    first_summary = len(cells) - table.num_summary
    cells = [[f"**{row[0]}**", *row[1:]] if i >= first_summary else row for i, row in enumerate(cells)]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]
    lines = [_markdown_line(heads, widths)]
    lines.append("|" + "|".join("-" * (w + 1) + (":" if i else "-") for i, w in enumerate(widths)) + "|")
    lines += [_markdown_line(row, widths) for row in cells]
    caption = f"\n{table.caption}\n" if table.caption else ""
    return f"{'#' * level} {table.title}\n\n" + "\n".join(lines) + "\n" + caption


def _markdown_line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
    return "| " + " | ".join(padded) + " |"


def _print_rich(table: Table, console: Console) -> None:
    """Prints a table in as many blocks of columns as the console's width asks for."""
    # Measured on an endless line: a measurement never exceeds the width it is given.
    endless = console.options.update(width=100_000)
    start = 1
    while start < len(table.columns):
        stop = start + 1
        while stop < len(table.columns):
            wider = _to_rich(table, [0, *range(start, stop + 1)])
            if console.measure(wider, options=endless).maximum > console.width:
                break
            stop += 1
        console.print(Text(table.title if start == 1 else f"{table.title} (continued)", style="bold"))
        console.print(_to_rich(table, [0, *range(start, stop)]))
        start = stop
    if table.caption:
        console.print(Text(table.caption, style="dim"))
    console.print()


def _to_rich(table: Table, chosen: Sequence[int]) -> RichTable:
    block = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = []
    for index in chosen:
        heading, labels = table.columns[index]
        cells = [labels, *(row[index] for row in table.rows)]
        # The figures under one heading are aligned by hand, since rich has no heading over several columns.
        widths = [max(map(len, parts)) for parts in zip(*(cell for cell in cells if cell), strict=True)]
        lines = ["  ".join(p.rjust(w) for p, w in zip(cell, widths, strict=True)) if cell else "" for cell in cells]
        block.add_column(
            Text(f"{heading}\n{lines[0]}" if index else f"\n{heading}", justify="right" if index else "left"),
            justify="right" if index else "left",
            overflow="fold",
        )
        columns.append(lines[1:] if index else [cell[0] for cell in cells[1:]])
    for number, row in enumerate(zip(*columns, strict=True)):
        if number == len(table.rows) - table.num_summary:
            block.add_section()
        block.add_row(*map(Text, row))
    return block


def _tables(results: Results) -> list[Table]:
    tables = [report_tables.accuracy_table(results), report_tables.method_table(results)]
    if results.has_pooled and results.class_names:
        tables.append(report_tables.method_table(results, pooled=True))
    return [*tables, *report_tables.predictor_tables(results), report_tables.cost_table(results)]


def _describe(results: Results) -> str:
    setting = ", ".join(f"{k} {MISSING if v is None else v}" for k, v in results.setting.items())
    return f"{setting}; seeds {_listed(results.seeds)}"


def _head(config: Mapping[str, Any], records: Sequence[Record]) -> str:
    sources = _listed(_distinct(records, "data_source")) or "source not recorded"
    versions = ", ".join(f"{name} {version}" for name, version in (config.get("versions") or {}).items())
    revisions = _distinct([config, *records], "git_revision")
    shortfalls = config.get("shortfalls") or []
    setting = f"**Not the paper's setting**: {'; '.join(shortfalls)}." if shortfalls else "This is the paper's setting."
    lines = [
        f"# Report of the experiment {config['experiment']}, preset {_listed(_distinct(records, 'preset')) or MISSING}",
        "",
        setting,
        "",
        "Images of a class are forgotten, and the result is compared with a model retrained without them.",
        "",
        f"- **Data**: {_listed(_distinct(records, 'dataset')) or MISSING} ({sources})",
        *(f"- **Scale**: {_describe(results)}" for results in split_settings(records)),
        f"- **Why this**: {'; '.join(config.get('why') or [MISSING])}",
        f"- **Command**: `{config.get('command', MISSING)}`",
        f"- **Device**: {_listed(_distinct([config, *records], 'device')) or MISSING}",
        f"- **Versions**: {versions or MISSING}",
        f"- **Git revision**: {_listed(revisions) or MISSING}",
        "",
    ]
    if len(_distinct(records, "versions")) > 1:
        lines += ["The records were made with more than one set of versions; each record names its own.", ""]
    return "\n".join(lines)


def _body(groups: Sequence[Results]) -> str:
    parts = []
    for results in groups:
        parts += [f"## Results: {_describe(results)}\n" if len(groups) > 1 else "## Results\n"]
        parts += ["### Verdict\n", "\n".join(f"- {line}" for line in verdict(results)) + "\n"]
        parts += [to_markdown(table) for table in _tables(results)]
        parts += ["### The paper's numbers\n"]
        differences = paper_differences(results)
        if differences:
            parts.append(f"Not printed beside ours, for this is not the paper's setting: {'; '.join(differences)}.\n")
        parts += [to_markdown(table, 4) for table in paper_tables(results)]
    return "\n".join(parts)


def _pictures(with_features: bool) -> str:
    lines = [
        "## Pictures",
        "",
        "![Forget gap of every method with the three floors](gap.svg)",
        "",
        "A dot is a class (mean over seeds), the black line the mean; the green band is the gold-gold floor.",
        "",
    ]
    if with_features:
        lines += [
            "![Features of easy and hard images in both problems](features.svg)",
            "",
            "Above each panel: how many images of either kind, and the chance (AUC, percent; 50 is none) that a hard "
            "image has the larger feature. The predictor learns on the upper row and is used on the lower.",
        ]
    else:
        lines += ["No picture of the features: the run left no `features.json` (no twin method among its methods)."]
    return "\n".join([*lines, ""])


def _remarks(records: Sequence[Record]) -> str:
    """Every note of the records once, with the cells it stands in."""
    where: dict[str, list[Record]] = {}
    for record in records:
        for note in record.get("notes") or []:
            where.setdefault(note, []).append(record)
    lines = ["## Notes and warnings", ""]
    for note, found in where.items():
        methods = _listed([display_name(m) for m in _distinct(found, "method")])
        targets, seeds = _listed(_distinct(found, "target_class")), _listed(_distinct(found, "seed"))
        lines.append(f"- {note} ({methods}; class {targets}; seed {seeds})")
    return "\n".join([*lines, *([] if where else ["None."]), ""])


def _reading() -> str:
    return f"## How to read this\n\n{GLOSSARY}\nWhat was not measured or is undefined is printed as {MISSING}.\n"


def _distinct(records: Sequence[Record], key: str) -> list[Any]:
    """The values of a field, each once, in order of appearance."""
    found = {json.dumps(r[key]): r[key] for r in records if r.get(key) is not None}
    return list(found.values())


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
