"""The records of a run: one for each request, class, seed and method, written so that nothing is lost."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.protocol.requests import FLOORS, Request
from experiments.protocol.settings import Settings

Record = dict[str, Any]


_CELL = ("variant", "num_forget", "ratio", "request", "seed")
"""What tells the entries of one request and arm from those of others."""


class RecordTable:
    """The entries of an output folder: results.jsonl, and for pictures and intervals features.json and samples.json."""

    def __init__(self, output: pathlib.Path, config: Mapping[str, Any]) -> None:
        """Reads what is there; `config` gives what every new record carries."""
        self._results = output / "results.jsonl"
        self._paths = {"features": output / "features.json", "samples": output / "samples.json"}
        carried = ("data_source", "why", "shortfalls", "versions", "device", "git_revision", "command")
        self._common = {key: config[key] for key in carried}
        self.records: list[Record] = []
        if self._results.exists():
            self.records = [json.loads(line) for line in self._results.read_text().splitlines()]
        self._entries = {
            name: json.loads(path.read_text()) if path.exists() else [] for name, path in self._paths.items()
        }

    def missing(self, settings: Settings, request: Request) -> list[str]:
        """The request's methods, and "floors", that have no records yet."""
        cell = (settings.variant, settings.num_forget, settings.ratio, request.name, request.seed)
        done = {record["method"] for record in self.records if _cell(record) == cell}
        todo = [name for name in settings.methods if name not in done]
        return todo + ([] if "floor_majority" in done else [FLOORS])

    def add(self, records: Sequence[Record], features: Sequence[Record], samples: Sequence[Record]) -> None:
        """Adds entries and writes the files anew, atomically."""
        self.records += [{**record, **self._common} for record in records]
        _amortise(self.records)
        for name, entries in (("features", features), ("samples", samples)):
            held = self._entries[name]
            known = {_identity(entry) for entry in held}
            new = [entry for entry in entries if _identity(entry) not in known]
            if new:
                held += new
                write_whole(self._paths[name], _lines(held))
        # The records last: a cell that has its records is done.
        write_whole(self._results, "".join(json.dumps(record) + "\n" for record in self.records))


def _cell(entry: Record) -> tuple[Any, ...]:
    return tuple(entry.get(key) for key in _CELL)


def _identity(entry: Record) -> tuple[Any, ...]:
    return (*_cell(entry), *(entry.get(key) for key in ("target_class", "problem", "method")))


def _lines(entries: Sequence[Record]) -> str:
    """A JSON list with one entry a line."""
    return "[\n" + ",\n".join(map(json.dumps, entries)) + "\n]\n"


def _amortise(records: Sequence[Record]) -> None:
    """Divides the seconds of each shared part among its users, in `seconds_amortised`.

    The methods of a cell share what they predict with; the curriculum model is shared by the requests as well.
    """
    for record in records:
        if record.get("seconds") is None:
            continue
        kin = [
            other
            for other in records
            if other.get("seconds_by_part") is not None
            and all(other[key] == record[key] for key in ("variant", "requests", "seed", "num_forget", "ratio"))
        ]
        cell = [other for other in kin if other["target_class"] == record["target_class"]]
        users = {
            part: sum(part in other["seconds_by_part"] for other in (kin if across_requests else cell))
            for part in record["seconds_by_part"]
            for across_requests in [part == "curriculum" and record["requests"] == "each"]
        }
        own = ("unlearning", "retraining")
        saved = sum(s * (1 - 1 / users[p]) for p, s in record["seconds_by_part"].items() if p not in own)
        record["seconds_amortised"] = record["seconds"] - saved
        if record["retraining_share"] is None:
            continue
        scale = record["seconds_amortised"] / record["seconds"] if record["seconds"] else 1.0
        record["retraining_share_amortised"] = record["retraining_share"] * scale


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is whole at any time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
