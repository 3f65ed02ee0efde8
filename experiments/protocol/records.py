"""The records of a run: one for each request, class, seed and method, written so that nothing is lost."""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.protocol.requests import FLOORS, Request
from experiments.protocol.settings import Settings
from experiments.report.files import read_config, read_features, read_records, read_samples
from experiments.report.samples import cell_of, disagreements

Record = dict[str, Any]

PROVENANCE = ("command", "versions", "device", "git_revision", "data_source", "why", "shortfalls")
"""What is true of a whole run: kept once in config.json, under the name that each of the run's records gives."""


class RecordTable:
    """The entries of an output folder: results.jsonl, and for pictures and intervals features.json and samples.json."""

    def __init__(self, output: pathlib.Path, config: Mapping[str, Any]) -> None:
        """Reads what is there.

        Args:
          output: the folder.
          config: what config.json is to say; its provenance is that of every new record.

        Raises:
          ValueError: a file is broken; it names the file and the line.
        """
        self._output = output
        self._runs = with_run(config, output)["runs"]
        self.run = list(self._runs)[-1]
        self.records: list[Record] = read_records(output) if (output / "results.jsonl").exists() else []
        self._features, self._samples = read_features(output), read_samples(output)
        self._done = self._complete()

    def missing(self, settings: Settings, request: Request) -> list[str]:
        """The request's methods, and "floors", that have no records yet, or none that their samples bear out."""
        cell = (settings.variant, settings.num_forget, settings.ratio, request.name, request.seed)
        todo = [name for name in settings.methods if (cell, name) not in self._done]
        return todo + ([] if (cell, "floor_gold_gold") in self._done else [FLOORS])

    def add(self, records: Sequence[Record], features: Sequence[Record], samples: Sequence[Record]) -> None:
        """Puts entries in the place of those of the same cells, all three kinds, and writes the files anew.

        Records stand last on disk: a cell that has its records has its samples and features.
        """
        # What was not measured is not there.
        known = [{key: value for key, value in record.items() if value is not None} for record in records]
        named = [{**record, "run": self.run} for record in known]
        self.records = _replaced(self.records, named, lambda entry: (cell_of(entry), entry["method"]))
        self._samples = _replaced(self._samples, samples, lambda entry: (cell_of(entry), entry["method"]))
        self._features = _replaced(self._features, features, cell_of)
        _amortise(self.records)
        for name, entries in (("features", self._features), ("samples", self._samples)):
            if entries:
                write_whole(self._output / f"{name}.json", "[\n" + ",\n".join(map(_line, entries)) + "\n]\n")
        write_whole(self._output / "results.jsonl", "".join(_line(record) + "\n" for record in self.records))
        self._done |= {(cell_of(record), record["method"]) for record in named}

    def _complete(self) -> set[tuple[tuple[Any, ...], str]]:
        """Cells and methods that have records and samples of the same run."""
        wrong = {(cell_of(record), record["method"]) for record, *_ in disagreements(self.records, self._samples)}
        answered = {(cell_of(entry), entry["method"]) for entry in self._samples}
        return {(cell_of(record), record["method"]) for record in self.records} & answered - wrong


def with_run(config: Mapping[str, Any], output: pathlib.Path) -> dict[str, Any]:
    """A folder's config with its provenance under `runs`, after the runs that the folder has; equal ones are one.

    Args:
      config: what config.json is to say, with the fields of `PROVENANCE`; or what this function returned.
      output: the folder.

    Returns:
      The same without those fields and with `runs`, the last of which is the one at work.
    """
    if "runs" in config:
        return dict(config)
    held = read_config(output).get("runs") or {} if (output / "config.json").exists() else {}
    run = {key: config[key] for key in PROVENANCE}
    name = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()[:8]
    others = {key: value for key, value in held.items() if key != name}
    return {**{k: v for k, v in config.items() if k not in PROVENANCE}, "runs": {**others, name: run}}


def _replaced(held: Sequence[Record], new: Sequence[Record], key: Callable[[Record], Any]) -> list[Record]:
    """The entries held, those of a key that is given anew replaced in the place of the first of them."""
    groups: dict[Any, list[Record]] = {}
    for entry in held:
        groups.setdefault(key(entry), []).append(entry)
    fresh: dict[Any, list[Record]] = {}
    for entry in new:
        fresh.setdefault(key(entry), []).append(entry)
    return [entry for entries in (groups | fresh).values() for entry in entries]


def _line(entry: Record) -> str:
    return json.dumps(entry, separators=(",", ":"))


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
        if "retraining_share" not in record:
            continue
        scale = record["seconds_amortised"] / record["seconds"] if record["seconds"] else 1.0
        record["retraining_share_amortised"] = record["retraining_share"] * scale


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is whole at any time."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
