"""The records of a run: one for each request, class, seed and method, written so that nothing is lost."""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.protocol.graph import Graph
from experiments.protocol.requests import FLOORS
from experiments.report.files import (
    FEATURES,
    PROVENANCE,
    SAMPLES,
    packed,
    packed_features,
    packed_record,
    read_config,
    read_features,
    read_records,
    read_samples,
    shared_by_arm,
    write_whole,
)
from experiments.report.results import GOLD
from experiments.report.samples import cell_of, disagreements
from tmu_jax.places import write_or_keep
from tmu_jax.store import lock_file

Record = dict[str, Any]


class RecordTable:
    """The entries of an output folder: results.jsonl, and behind pictures and intervals features and samples."""

    def __init__(
        self, output: pathlib.Path, config: Mapping[str, Any], say: Callable[[str], None] = lambda sentence: None
    ) -> None:
        """Reads what is there.

        Args:
          output: the folder.
          config: what config.json is to say; its provenance is that of every new record.
          say: is told of records that give way to those of another stage, and of features that cannot be checked.

        Raises:
          ValueError: a file is broken; it names the file and the line.
        """
        self._output, self._say = output, say
        self._runs = with_run(config, output)["runs"]
        self.run = list(self._runs)[-1]
        self._read()
        if old := {cell_of(entry) for entry in self._features} - _resting(self.records):
            of = f"{len(old)} request{'s' if len(old) > 1 else ''}"
            say(f"{FEATURES}: no record names the features of {of}; they are taken as they are")

    def _read(self) -> None:
        output = self._output
        self.records: list[Record] = read_records(output) if (output / "results.jsonl").exists() else []
        lines: dict[tuple[Any, ...], int] = {}
        for line, record in enumerate(self.records, 1):
            first = lines.setdefault((*_row(record), record["target_class"]), line)
            if first != line:
                where = output / "results.jsonl"
                raise ValueError(f"{where}, line {line}: says anew what line {first} says; remove one of them")
        self._features, self._samples = read_features(output), read_samples(output)
        self._done = self._complete()

    def missing(self, graph: Graph) -> list[str]:
        """The request's methods, and "floors", that have no records yet, or none that still hold.

        Records hold where their samples bear them out, the features are those that they rest on, and they are of the
        stage that the settings, the method and the versions give now; those that name no stage were written before
        records did.
        """
        settings, request = graph.settings, graph.request
        cell = (settings.variant, settings.num_forget, settings.ratio, request.name, request.seed)
        shown = _stages_shown(self.records)
        todo = []
        for name in (*settings.methods, FLOORS):
            holds = all(shown.get((cell, row)) == {stage.name} for row, stage in graph.shown(name).items())
            if not holds or (cell, "floor_gold_gold" if name == FLOORS else name) not in self._done:
                todo.append(name)
        return todo

    def add(self, records: Sequence[Record], features: Sequence[Record], samples: Sequence[Record]) -> None:
        """Puts entries in the place of those of the same cells, all three kinds, and writes the files anew.

        Records stand last on disk: a cell that has its records has its samples and features. What another run has
        added to the folder meanwhile stays.

        Raises:
          OSError: where the disk does not take them; the message says where all entries are kept instead.
          ValueError: where they were held against another gold model than the one whose answers the folder has.
        """
        # What was not measured is not there.
        known = [{key: value for key, value in record.items() if value is not None} for record in records]
        if features:
            known = [{**record, "features_sha256": _checksum(features)} for record in known]
        with locked(self._output):
            self._read()
            self._check_gold(known, samples)
            self._add([{**record, "run": self.run} for record in known], features, samples)

    def _add(self, named: list[Record], features: Sequence[Record], samples: Sequence[Record]) -> None:
        before, now = _stages_shown(self.records), _stages_shown(named)
        rested = _resting(self.records)
        self.records = _replaced(self.records, named, _row)
        self._samples = _replaced(self._samples, samples, _row)
        left = rested - _resting(self.records)
        self._features = [entry for entry in self._features if cell_of(entry) not in left]
        self._features = _replaced(self._features, features, cell_of)
        _amortise(self.records)
        write_or_keep(self._output, self._write)
        self._done |= {(cell_of(record), record["method"]) for record in named}
        for cell, method in now:
            if before.get((cell, method), now[cell, method]) != now[cell, method]:
                *_, request, seed = cell
                self._say(f"{request}, seed {seed}: the record of {method} was of another stage; it is replaced")

    def _check_gold(self, records: Sequence[Record], samples: Sequence[Record]) -> None:
        """Refuses records of a gold model that was trained anew and answers otherwise, as on another machine."""
        held = [entry for entry in self._samples if (cell_of(entry), GOLD) in self._done]
        # Gold's answers come with the floors, too; they are looked at where they do not bring gold's own record.
        named = {record["method"] for record in records}
        new = [entry for entry in samples if entry["method"] != GOLD or GOLD in named]
        for record, key, value in disagreements(records, _replaced(held, new, _row))[:1]:
            raise ValueError(
                f"output={self._output} has the answers of another gold model for {record['request']}, seed "
                f"{record['seed']}: by them the {key} of {record['method']} is {value:.4g}, by the one at hand "
                f"{record[key]:.4g}. It was trained anew, on another machine or at another commit; choose another "
                "--output, or bring the stages that the folder was made with"
            )

    def _write(self, folder: pathlib.Path) -> None:
        folder.mkdir(exist_ok=True)
        features = [packed_features(entry) for entry in self._features]
        samples = [packed(entry) for entry in self._samples]
        for name, entries in ((FEATURES, features), (SAMPLES, samples)):
            if entries:
                write_whole(folder / name, "[\n" + ",\n".join(map(_line, entries)) + "\n]\n")
            else:
                (folder / name).unlink(missing_ok=True)
            (folder / name).with_suffix("").unlink(missing_ok=True)  # As it was called before.
        shared = shared_by_arm(folder)
        records = [packed_record(record, shared) for record in self.records]
        write_whole(folder / "results.jsonl", "".join(_line(record) + "\n" for record in records))

    def _complete(self) -> set[tuple[tuple[Any, ...], str]]:
        """Cells and methods that have records, samples and features of the same run."""
        wrong = {(cell_of(record), record["method"]) for record, *_ in disagreements(self.records, self._samples)}
        wrong |= _without_features(self.records, self._features)
        answered = {(cell_of(entry), entry["method"]) for entry in self._samples}
        return {(cell_of(record), record["method"]) for record in self.records} & answered - wrong


def locked(output: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Keeps other runs from writing in an output folder, for a moment."""
    return lock_file(output / ".lock", lambda: None)


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


def _row(entry: Record) -> tuple[tuple[Any, ...], str]:
    """Cell and method."""
    return cell_of(entry), entry["method"]


def _stages_shown(records: Sequence[Record]) -> dict[tuple[tuple[Any, ...], str], set[str | None]]:
    """The stages that the records of each cell and method name, one where all is well."""
    found: dict[tuple[tuple[Any, ...], str], set[str | None]] = {}
    for record in records:
        found.setdefault((cell_of(record), record["method"]), set()).add(record.get("stage"))
    return found


def _resting(records: Sequence[Record]) -> set[tuple[Any, ...]]:
    """Cells with records that say which features they rest on."""
    return {cell_of(record) for record in records if "features_sha256" in record}


def _without_features(records: Sequence[Record], features: Sequence[Record]) -> set[tuple[tuple[Any, ...], str]]:
    """Cells and methods that rest on features where those of the cell are missing, or of none of its methods."""
    held: dict[tuple[Any, ...], list[Record]] = {}
    for entry in features:
        held.setdefault(cell_of(entry), []).append(entry)
    known = {(cell, _checksum(entries)) for cell, entries in held.items()}
    resting = [(cell_of(record), record) for record in records if "features_sha256" in record]
    right = {cell for cell, record in resting if (cell, record["features_sha256"]) in known}
    return {(cell, record["method"]) for cell, record in resting if cell not in right}


def _checksum(entries: Sequence[Record]) -> str:
    return hashlib.sha256("\n".join(map(_line, entries)).encode()).hexdigest()[:16]


def _line(entry: Record) -> str:
    return json.dumps(entry, separators=(",", ":"))


def _amortise(records: Sequence[Record]) -> None:
    """Divides the seconds of each shared part among its users, in `seconds_amortised`.

    Users are the methods and requests of an arm and seed whose part is one stage: methods share what they predict
    with, and requests a curriculum model, where it is one for all. Records that name no stages keep what they say.
    """

    def place(record: Record, part: str) -> tuple[Any, ...]:
        arm = tuple(record.get(key) for key in ("variant", "num_forget", "ratio", "seed"))
        return (*arm, part, record["stage_by_part"][part])

    users: dict[tuple[Any, ...], set[tuple[str | None, str]]] = {}
    for record in records:
        for part in record.get("stage_by_part", {}):
            users.setdefault(place(record, part), set()).add((record.get("request"), record["method"]))
    for record in records:
        if record.get("seconds") is None or "stage_by_part" not in record:
            continue
        saved = sum(
            seconds * (1 - 1 / len(users[place(record, part)]))
            for part, seconds in record["seconds_by_part"].items()
            if part in record["stage_by_part"]
        )
        record["seconds_amortised"] = record["seconds"] - saved
        if "retraining_share" not in record:
            continue
        scale = record["seconds_amortised"] / record["seconds"] if record["seconds"] else 1.0
        record["retraining_share_amortised"] = record["retraining_share"] * scale
