"""The files of a run's folder, read and checked: what is broken is named with its file and line."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

Record = Mapping[str, Any]
RECORD_KEYS = ("method", "target_class", "seed")
SAMPLE_KEYS = ("request", "seed", "method", "labels")
FEATURE_KEYS = ("problem", "NF", "AF", "CF", "easy")


def read_config(output: pathlib.Path) -> dict[str, Any]:
    """Reads `config.json`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a JSON object.
    """
    path = output / "config.json"
    found = _parsed(path.read_text("utf-8"), f"{path}", "restore the file, or choose another folder")
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object, not {_short(found)}; restore it or choose another folder")
    return found


def read_records(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `results.jsonl`, a record a line.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a line is not a JSON object with `RECORD_KEYS`.
    """
    path = output / "results.jsonl"
    lines = enumerate(path.read_text("utf-8").splitlines(), 1)
    return [_entry(line, f"{path}, line {number}", RECORD_KEYS) for number, line in lines]


def read_samples(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `samples.json`; none where there is no such file, and so no intervals over images.

    Raises:
        ValueError: it is not a list of entries with `SAMPLE_KEYS`, or an entry has fewer or more answers than labels.
    """
    entries = _entries(output / "samples.json", SAMPLE_KEYS)
    for number, entry in enumerate(entries, 2):
        for key in ("correct", "distance", "easy"):
            given, due = len(entry.get(key) or entry["labels"]), len(entry["labels"])
            if given != due:
                raise ValueError(
                    f"{output / 'samples.json'}, line {number}: {key} has {given} answers for {due} labels; remove the "
                    "file, and the same command makes it again"
                )
    return entries


def read_features(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `features.json`; none where there is no such file. Raises: as `read_samples`."""
    return _entries(output / "features.json", FEATURE_KEYS)


def _entries(path: pathlib.Path, keys: tuple[str, ...]) -> list[dict[str, Any]]:
    """A JSON list that has an entry a line, its brackets on lines of their own."""
    if not path.exists():
        return []
    lines = path.read_text("utf-8").splitlines()
    if len(lines) < 2 or (lines[0], lines[-1]) != ("[", "]"):
        raise ValueError(f"{path}, line 1: must be a list with an entry a line; remove the file")
    return [_entry(line.removesuffix(","), f"{path}, line {n}", keys) for n, line in enumerate(lines[1:-1], 2)]


def _entry(line: str, where: str, keys: tuple[str, ...]) -> dict[str, Any]:
    found = _parsed(line, where, "remove the line")
    missing = [key for key in keys if not isinstance(found, dict) or key not in found]
    if missing:
        raise ValueError(f"{where}: must be an object with {', '.join(missing)}, not {_short(found)}; remove the line")
    return found


def _parsed(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at character {error.pos}); {remedy}") from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
