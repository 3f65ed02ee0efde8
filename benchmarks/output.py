"""What a run leaves: a table on the terminal, the same as JSON and as Markdown. No path of a machine is written."""

import dataclasses
import json
import pathlib
import re
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row

COLUMNS = (
    "kernel", "ours", "min-max", "rival", "rival s", "min-max", "ratio", "floor", "× floor", "compile cold", "warm",
    "peak MB",
)  # fmt: skip

WIDE = 160
"""Columns of a terminal that shows all of the table."""

LEGEND = (
    "Seconds are medians of one unit of work (an epoch, a step, an attack, ...), synchronised with the device, "
    "without compilation; a training step's are those in calls of 16 or more. ratio: the rival's over ours, above 1 we "
    "are faster. floor: the larger of FLOPs over the measured matrix-product peak and unavoidable bytes over the "
    "measured copy bandwidth. compile: tracing and compiling in a fresh process, with an empty cache (cold) and with a "
    "filled one (warm); our C++ for a CPU, which a machine compiles once, counts in Table 1's cold start alone. peak: "
    "arguments, outputs and temporaries of the largest compiled program; of Table 1, the most that its device, or on a "
    "CPU its process, held."
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
      scale: "cpu", "gpu" or "tiny".
      notes: what a reader should know.
      rows: the table.
      peaks: measured FLOP/s by precision and bytes/s of a copy.
      scaling: cost against images, classes and seeds, see `scaling`.
      missing: cases that were to be measured and were not.
    """

    device: str
    versions: dict[str, str]
    rival_versions: dict[str, str]
    command: str
    threads: int
    scale: str
    notes: list[str] = dataclasses.field(default_factory=list)
    rows: list[Row] = dataclasses.field(default_factory=list)
    peaks: dict[str, Any] = dataclasses.field(default_factory=dict)
    scaling: dict[str, Any] = dataclasses.field(default_factory=dict)
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
    if report.scaling:
        lines += ["", "![cost against images, classes and seeds](bench-scaling.svg)", ""]
        lines += [f"- {axis}: {found['sentence']}" for axis, found in report.scaling.items()]
    return "\n".join(lines) + "\n"


def facts(report: Report) -> list[str]:
    """Versions, threads, peaks, notes and what is missing, a sentence each."""
    found = ["ours: " + ", ".join(f"{name} {version}" for name, version in report.versions.items())]
    if report.rival_versions:
        found.append("rivals: " + ", ".join(f"{name} {version}" for name, version in report.rival_versions.items()))
    found.append(f"{report.threads} threads on both sides, in turns, never at the same time")
    if report.peaks:
        products = ", ".join(
            f"{value / 1e9:,.0f} GFLOP/s ({name})" for name, value in report.peaks["flops_per_second"].items()
        )
        found.append(f"measured peaks: {products}; copy {report.peaks['bytes_per_second'] / 1e9:,.1f} GB/s")
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
        _number(row.floor_seconds),
        _number(row.floor_multiple, 1),
        _number(row.compile_seconds_cold, 1),
        _number(row.compile_seconds_warm, 1),
        "–" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:,.0f}",
    )


def show(report: Report, console: Console) -> None:
    """Prints the table."""
    less = ("min-max", "floor", "peak MB")
    shown = [i for i, name in enumerate(COLUMNS) if console.width >= WIDE or name not in less]
    table = Table(*(COLUMNS[i] for i in shown), caption=LEGEND, caption_justify="left")
    for row in report.rows:
        found = cells(row)
        table.add_row(*(found[i] for i in shown))
    console.print(table)
    for sentence in facts(report):
        console.print(sentence, highlight=False, markup=False)


def _number(value: float | None, decimals: int | None = None) -> str:
    if value is None:
        return "–"
    return f"{value:.{decimals}f}" if decimals is not None else f"{value:.3g}"


def _spread(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"{low:.3g}-{high:.3g}"
