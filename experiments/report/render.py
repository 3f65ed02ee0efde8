"""One table, rendered twice: as markdown and on the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.report.tables import Table


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


def print_rich(table: Table, console: Console) -> None:
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
