"""The records of a run: one for each request, class, seed and method, written so that nothing is lost."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.plan import FLOORS, Request, Settings

Record = dict[str, Any]


class RecordTable:
    """The records of an output folder: results.jsonl, and features.json for the picture."""

    def __init__(self, output: pathlib.Path, config: Mapping[str, Any]) -> None:
        """Reads what is there; `config` gives what every new record carries."""
        self._results, self._features_path = output / "results.jsonl", output / "features.json"
        carried = ("data_source", "why", "shortfalls", "versions", "device", "git_revision", "command")
        self._common = {key: config[key] for key in carried}
        self.records: list[Record] = []
        if self._results.exists():
            self.records = [json.loads(line) for line in self._results.read_text().splitlines()]
        self.features: list[Record] = []
        if self._features_path.exists():
            self.features = json.loads(self._features_path.read_text())

    def missing(self, settings: Settings, request: Request) -> list[str]:
        """The request's methods, and "floors", that have no records yet."""
        done = {
            (record["target_class"], record["method"])
            for record in self.records
            if record["seed"] == request.seed and record["num_forget"] == settings.num_forget
        }
        first = request.problem.target_classes[0]
        todo = [name for name in settings.methods if (first, name) not in done]
        return todo + ([] if (first, "floor_majority") in done else [FLOORS])

    def add(self, records: Sequence[Record], features: Sequence[Record]) -> None:
        """Adds records and writes the files anew, atomically."""
        self.records += [{**record, **self._common} for record in records]
        _amortise(self.records)
        known = {_feature_cell(entry) for entry in self.features}
        self.features += [entry for entry in features if _feature_cell(entry) not in known]
        # The records last: a cell that has its records is done.
        write_whole(self._features_path, json.dumps(self.features))
        write_whole(self._results, "".join(json.dumps(record) + "\n" for record in self.records))


def _feature_cell(entry: Record) -> tuple[Any, ...]:
    return tuple(entry[key] for key in ("target_class", "seed", "num_forget", "problem"))


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
            and all(other[key] == record[key] for key in ("requests", "seed", "num_forget"))
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
        scale = record["seconds_amortised"] / record["seconds"] if record["seconds"] else 1.0
        record["retraining_share_amortised"] = record["retraining_share"] * scale


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is whole at any time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
