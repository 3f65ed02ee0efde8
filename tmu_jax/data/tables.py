"""Images that a table names: a CSV file, or a frame of pandas' or the like, with a row for each image."""

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from tmu_jax.data.checks import name_some


class Table(NamedTuple):
    """Columns of a table.

    Attributes:
        columns: by its name, the values of each column.
        folder: what relative paths in it are relative to.
        name: the argument that gave it, and its file, for messages.
    """

    columns: dict[str, list[Any]]
    folder: pathlib.Path
    name: str

    def column(self, argument: str, name: str) -> list[Any]:
        """The values of a column; a ValueError lists the columns there are."""
        if name in self.columns:
            return self.columns[name]
        found = list(self.columns)
        delimiter = next((d for d in (",", ";", "\t", "|") if len(found) == 1 and d in found[0]), None)
        remedy = (
            "" if delimiter is None else f"; they seem to be divided by {delimiter!r}: pass delimiter={delimiter!r}"
        )
        raise ValueError(
            f"{argument}={name!r} is no column of {self.name}, which has {name_some(map(repr, found))}{remedy}"
        )


def read_table(argument: str, table: Any, delimiter: str = ",", encoding: str = "utf-8-sig") -> Table:
    """Reads a table.

    Args:
        argument: its name, for the messages.
        table: the path of a CSV file whose first line names the columns, or a frame (of pandas', polars' or the like).
        delimiter: what divides the columns of a file.
        encoding: of a file.

    Raises:
        FileNotFoundError: no such file.
        TypeError: neither a path nor a frame.
        ValueError: no columns or rows, or a line with too few or too many values.
    """
    if isinstance(table, str | os.PathLike):
        return _read_csv(argument, pathlib.Path(table).expanduser(), delimiter, encoding)
    if not hasattr(table, "columns") or not hasattr(table, "__getitem__"):
        raise TypeError(f"{argument} must be the path of a CSV file or a frame, got a {type(table).__name__}")
    columns = {str(name): list(table[name]) for name in table.columns}
    _check_not_empty(argument, columns)
    return Table(columns, pathlib.Path(), f"the {type(table).__name__} {argument}")


def _read_csv(argument: str, path: pathlib.Path, delimiter: str, encoding: str) -> Table:
    if not path.exists():
        raise FileNotFoundError(f"{argument}={str(path)!r} does not exist")
    if not path.is_file():
        raise ValueError(f"{argument}={str(path)!r} must be a CSV file")
    name = f"{argument}={str(path)!r}"
    if "\0" in encoding:
        raise ValueError(f"encoding={encoding!r} is unknown; give one such as 'utf-8' or 'latin-1'")
    try:
        with path.open(newline="", encoding=encoding) as stream:
            lines = csv.reader(stream, delimiter=delimiter, strict=True)
            header = next(lines, [])
            _check_header(name, header)
            rows = [_check_length(name, line, header, lines.line_num) for line in lines if line]
    except LookupError as error:
        raise ValueError(f"encoding={encoding!r} is unknown; give one such as 'utf-8' or 'latin-1'") from error
    except UnicodeError as error:
        raise ValueError(f"{name} is not {encoding} ({error}); pass its encoding, such as 'latin-1'") from error
    except csv.Error as error:
        raise ValueError(f"{name} is no CSV file: {error}") from error
    columns = {column: [row[place] for row in rows] for place, column in enumerate(header)}
    _check_not_empty(name, columns)
    return Table(columns, path.parent, name)


def _check_header(name: str, header: Sequence[str]) -> None:
    if twice := sorted({column for column in header if header.count(column) > 1}):
        raise ValueError(f"{name} must name each column once in its first line, got {name_some(twice)} more than once")


def _check_length(name: str, line: list[str], header: Sequence[str], number: int) -> list[str]:
    if len(line) != len(header):
        raise ValueError(f"{name} must have {len(header)} values in each line, got {len(line)} in line {number}")
    return line


def _check_not_empty(name: str, columns: dict[str, list[Any]]) -> None:
    if not columns or not next(iter(columns.values())):
        raise ValueError(f"{name} must have named columns and at least one row")
