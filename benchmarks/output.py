"""What a run leaves: a table on the terminal, the same as JSON and as Markdown. No path of a machine is written."""

import dataclasses
import json
import pathlib
import re

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

COLUMNS = (
    "kernel", "ours", "min-max", "rival", "rival s", "min-max", "ratio", "CPU ratio", "floor", "× floor",
    "compile cold", "warm",
)  # fmt: skip

LEGEND = (
    "Seconds are medians of one unit of work (a step, an attack, ...), synchronised with the device, without "
    "compilation; both sides in turns, never at the same time. ratio: the rival's over ours, above 1 we are faster; "
    "CPU ratio: the same of processor seconds of all threads, which other work on the machine changes little. "
    "floor: FLOPs of the plain algorithm over the measured peak of matrix products. compile: tracing and compiling in "
    "a fresh process, with empty caches (cold) and with filled ones (warm); our C++, which a machine compiles once, "
    "counts in Table 1's cold start alone; of a whole unlearning, in the process that measured it."
)


@dataclasses.dataclass
class Report:
    """All that a run found.

    Attributes:
      device: in words.
      versions: of our packages.
      rival_versions: of the rivals'; empty without rivals.
      command: what was typed, paths left out.
      threads: of both sides.
      notes: what a reader should know.
      rows: the table.
      peak_flops: measured FLOP/s of a matrix product.
      missing: cases that were to be measured and were not.
    """

    device: str
    versions: dict[str, str]
    rival_versions: dict[str, str]
    command: str
    threads: int
    notes: list[str] = dataclasses.field(default_factory=list)
    rows: list[Row] = dataclasses.field(default_factory=list)
    peak_flops: float | None = None
    missing: list[str] = dataclasses.field(default_factory=list)


def without_paths(text: str, most: int = 400) -> str:
    """A message in one line, with the folders of absolute paths left out."""
    line = " ".join(text.split())
    line = re.sub(r"(?<![\w.:/])/(?:[\w.+@-]+/)+", "…/", line)
    return line if len(line) <= most else line[: most - 1] + "…"


def write(report: Report, path: pathlib.Path) -> None:
    """Writes the JSON file and, beside it, the same as Markdown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for row in report.rows:
        row.error = None if row.error is None else without_paths(row.error)
    path.write_text(json.dumps(dataclasses.asdict(report), indent=1, ensure_ascii=False) + "\n")
    path.with_suffix(".md").write_text(markdown(report))


def markdown(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# Speed on {report.device}", "", f"`{report.command}`", "", LEGEND, ""]
    lines += [f"- {sentence}" for sentence in facts(report)]
    lines += ["", "| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in report.rows]
    for row in report.rows:
        if row.error:
            beside = f" beside {row.rival}" if row.rival else ""
            lines += ["", f"{row.kernel}{beside}: not timed. {row.error}"]
    return "\n".join(lines) + "\n"


def facts(report: Report) -> list[str]:
    """Versions, threads, peaks, notes and what is missing, a sentence each."""
    found = ["ours: " + ", ".join(f"{name} {version}" for name, version in report.versions.items())]
    if report.rival_versions:
        found.append("rivals: " + ", ".join(f"{name} {version}" for name, version in report.rival_versions.items()))
    peak = "" if report.peak_flops is None else f"; measured peak {report.peak_flops / 1e9:,.0f} GFLOP/s"
    found.append(f"{report.threads} threads on both sides{peak}")
    found += report.notes
    if report.missing:
        found.append("missing, since the run was interrupted: " + ", ".join(report.missing))
    return found


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells, in the order of `COLUMNS`."""
    return (
        row.kernel,
        _number(row.ours_seconds),
        _spread(row.ours_min, row.ours_max),
        row.rival or "–",
        "error" if row.error else _number(row.rival_seconds),
        _spread(row.rival_min, row.rival_max),
        _number(row.ratio, 2),
        _number(row.processor_ratio, 2),
        _number(row.floor_seconds),
        _number(row.floor_multiple, 1),
        _number(row.compile_seconds_cold, 1),
        _number(row.compile_seconds_warm, 1),
    )


def show(report: Report, console: Console) -> None:
    """Prints the table."""
    table = Table(*COLUMNS, caption=LEGEND, caption_justify="left")
    for row in report.rows:
        table.add_row(*cells(row))
    console.print(table)
    for sentence in facts(report):
        console.print(sentence, highlight=False, markup=False)


def _number(value: float | None, decimals: int | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"


def _spread(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3g}-{high:.3g}"
