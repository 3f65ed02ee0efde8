"""The files of a run's folder, read and checked: what is broken is named with its file and line."""

import gzip
import itertools
import json
import os
import pathlib
import zlib
from collections.abc import Collection, Mapping
from typing import Any

Record = Mapping[str, Any]
RECORD_KEYS = ("method", "target_class", "seed")
SAMPLE_KEYS = ("request", "seed", "method", "labels")
FEATURE_KEYS = ("problem", "NF", "AF", "CF", "easy")
_TEXTS = {"experiment", "dataset", "preset", "arch", "requests", "class_name", "request", "variant", "heldout_source"}
_TEXTS |= {"command", "device", "git_revision", "data_source"}
_TEXTS |= {"ratio", "method", "stage", "run", "correct", "easy", "problem", "features_sha256"}
_LISTS = {"notes", "tried", "distance", "probability", "classes", "seeds", "methods", "why", "shortfalls"}
_LISTS |= {"left_out"}
_OF_NUMBERS = {"distance", "probability", "NF", "AF", "CF"}
_OBJECTS = {"seconds_by_part", "stage_by_part", "preparation", "debt", "options", "made_elsewhere", "runs", "arms"}
_OBJECTS |= {"rehearsed_untouched", "recipe", "versions"}
PROVENANCE = ("command", "versions", "device", "git_revision", "data_source", "why", "shortfalls")
"""What is true of a whole run: kept once in config.json, under the name that each of the run's records gives."""
_IN_PARTS = ("distance", "probability")
SAMPLES = "samples.json.gz"
FEATURES = "features.json.gz"
"""What is of every image is most of a folder: a third in gzip, which pandas reads as well."""
_MOST_BYTES = 1 << 30
_OF_ARM = ("experiment", "dataset", "preset", "arch", "num_train", "requests", "heldout_source")
_OF_RECIPE = ("epochs", "augment")


def read_config(output: pathlib.Path) -> dict[str, Any]:
    """Reads `config.json`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a JSON object.
    """
    path = output / "config.json"
    remedy = "restore the file, or choose another folder"
    found = _parsed(_text(path, remedy), f"{path}", remedy)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: must hold a JSON object, not {_short(found)}; {remedy}")
    _check(found, f"{path}", remedy, named=("experiment", "runs", "arms", "left_out"))
    for name in ("runs", "arms"):
        for key, inner in (found.get(name) or {}).items():
            if not isinstance(inner, dict):
                raise ValueError(f"{path}: {key!r} in {name} must be an object, not {_short(inner)}; {remedy}")
            where = f"{path}: {key!r} in {name}"
            _check(inner, where, remedy, named=("classes", "seeds", "methods", "recipe", *_OF_ARM, *PROVENANCE))
            _check(inner.get("recipe") or {}, f"{where}: recipe", remedy, named=_OF_RECIPE)
    return found


def read_records(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `results.jsonl`, a record a line; what all records of an arm share comes from `config.json`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a line is not a JSON object with `RECORD_KEYS`, or `config.json` is broken.
    """
    path, shared = output / "results.jsonl", shared_by_arm(output)
    lines = enumerate(_text(path, "remove the line").splitlines(), 1)
    records = [_entry(line, f"{path}, line {number}", RECORD_KEYS) for number, line in lines]
    return [{**shared.get(record.get("variant", "default"), {}), **record} for record in records]


def shared_by_arm(output: pathlib.Path) -> dict[str, dict[str, Any]]:
    """What all records of an arm share, by the arm's name; nothing where there is no `config.json`."""
    arms = read_config(output).get("arms") or {} if (output / "config.json").exists() else {}
    found = {}
    for name, arm in arms.items():
        recipe = arm.get("recipe") or {}
        fields = {key: arm.get(key) for key in _OF_ARM} | {key: recipe.get(key) for key in _OF_RECIPE}
        found[name] = {key: value for key, value in fields.items() if value is not None}
    return found


def packed_record(record: Record, shared: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A record as it is written: without what it shares with its arm; `read_records` undoes it."""
    of_arm = shared.get(record.get("variant", "default"), {})
    return {key: value for key, value in record.items() if key not in of_arm or of_arm[key] != value}


def read_samples(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `samples.json.gz`; none where there is no such file, and so no intervals over images.

    Raises:
        ValueError: it is not a list of entries with `SAMPLE_KEYS`, or an entry has fewer or more answers than labels.
    """
    path = _packed_or_plain(output / SAMPLES)
    entries = _entries(path, SAMPLE_KEYS)
    for number, entry in enumerate(entries, 2):
        entry["labels"] = _labels(entry["labels"], f"{path}, line {number}")
        entry |= {key: _numbers(entry[key], 10_000) for key in _IN_PARTS if entry.get(key) is not None}
        for key in ("correct", "distance", "easy"):
            given, due = len(entry.get(key) or entry["labels"]), len(entry["labels"])
            if given != due:
                raise ValueError(
                    f"{path}, line {number}: {key} has {given} answers for {due} labels; remove the file, and the same "
                    "command makes it again"
                )
    return entries


def packed(entry: Record) -> dict[str, Any]:
    """An entry of samples.json.gz as it is written, in few characters; `read_samples` undoes it.

    Labels come class by class, and are written each with how often it follows itself; distances and probabilities,
    which have four decimals, in ten-thousandths.
    """
    runs = [(label, len(list(equal))) for label, equal in itertools.groupby(entry["labels"])]
    parts = {key: [round(10_000 * value) for value in entry[key]] for key in _IN_PARTS if key in entry}
    return {**entry, "labels": runs, **parts}


def _numbers(values: list[float], parts: int) -> list[float]:
    """Of whole parts the numbers; or as they are, which is how they were written before."""
    return [value / parts for value in values] if all(isinstance(value, int) for value in values) else values


def _labels(runs: Any, where: str) -> list[int]:
    """The labels that `packed` was given; or as it is, which is how they were written before."""
    if isinstance(runs, list) and all(isinstance(one, int) for one in runs):
        return runs
    try:
        return [label for label, count in runs for _ in range(count)]
    except (TypeError, ValueError):
        raise ValueError(
            f"{where}: labels must be pairs of a label and a count, not {_short(runs)}; remove the line"
        ) from None


def read_features(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `features.json.gz`; none where there is no such file. Raises: as `read_samples`."""
    entries = _entries(_packed_or_plain(output / FEATURES), FEATURE_KEYS, lists=FEATURE_KEYS[1:4])
    for entry in entries:
        entry |= {key: _numbers(entry[key], 100_000) for key in FEATURE_KEYS[1:4]}
        # A text of bits; a list as it is, which is how it was written before.
        entry["easy"] = [bit in (True, "1") for bit in entry["easy"]]
    return entries


def packed_features(entry: Record) -> dict[str, Any]:
    """The same for an entry of features.json.gz, whose features have five decimals."""
    parts = {key: [round(100_000 * value) for value in entry[key]] for key in FEATURE_KEYS[1:4]}
    return {**entry, **parts, "easy": "".join("1" if easy else "0" for easy in entry["easy"])}


def _packed_or_plain(path: pathlib.Path) -> pathlib.Path:
    """A file in gzip, or, where there is none, its plain one, which is how it was written before."""
    return path if path.exists() else path.with_suffix("")


def write_whole(path: pathlib.Path, text: str) -> None:
    """Writes a file so that it is whole at any time.

    Raises:
        OSError: naming the file; what it was is left as it was.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        encoded = text.encode("utf-8")
        temporary.write_bytes(gzip.compress(encoded, mtime=0) if path.suffix == ".gz" else encoded)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        # The system names no file that it cannot fill.
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error


def _entries(path: pathlib.Path, keys: tuple[str, ...], lists: Collection[str] = _LISTS) -> list[dict[str, Any]]:
    """A JSON list that has an entry a line, its brackets on lines of their own."""
    if not path.exists():
        return []
    lines = _text(path, "remove the file").splitlines()
    if len(lines) < 2 or (lines[0], lines[-1]) != ("[", "]"):
        raise ValueError(f"{path}, line 1: must be a list with an entry a line; remove the file")
    return [_entry(line.removesuffix(","), f"{path}, line {n}", keys, lists) for n, line in enumerate(lines[1:-1], 2)]


def _entry(line: str, where: str, keys: tuple[str, ...], lists: Collection[str] = _LISTS) -> dict[str, Any]:
    found = _parsed(line, where, "remove the line")
    missing = [key for key in keys if not isinstance(found, dict) or found.get(key) is None]
    if missing:
        raise ValueError(f"{where}: must be an object with {', '.join(missing)}, not {_short(found)}; remove the line")
    _check(found, where, "remove the line", lists=lists)
    return found


def _check(
    found: Record, where: str, remedy: str, named: Collection[str] | None = None, lists: Collection[str] = _LISTS
) -> None:
    """Raises ValueError for a value of another type than its name promises; None is nothing.

    Args:
        found: a JSON object.
        where: its file and line.
        remedy: what to do.
        named: the names that are looked at; None: all.
        lists: names whose values are lists.
    """
    for name, value in found.items():
        if value is None or (named is not None and name not in named) or name == "labels":
            continue
        if name in lists or name.endswith("_interval"):
            of_numbers = name in _OF_NUMBERS or name.endswith("_interval")
            fits = isinstance(value, list) and all(map(_is_number if of_numbers else _is_plain, value))
            right = "a list of numbers" if of_numbers else "a list"
        elif name in _OBJECTS:
            fits, right = isinstance(value, dict), "an object"
            if fits and name == "seconds_by_part":
                fits, right = all(map(_is_number, value.values())), "an object of numbers"
            if fits and name == "made_elsewhere":
                fits, right = all(map(_is_made, value.values())), "an object of stages with `label` and `by`"
        elif name == "easy":
            fits, right = isinstance(value, str | list), "a text of bits"
        elif name in _TEXTS:
            fits, right = isinstance(value, str), "a text"
        elif name in ("target_class", "num_forget"):
            fits, right = _is_plain(value), "a number or a text"
        else:
            fits, right = _is_number(value), "a number"
        if not fits:
            raise ValueError(f"{where}: {name} must be {right}, not {_short(value)}; {remedy}")


def _is_made(value: Any) -> bool:
    """Whether it says who made a stage, or, as it was written before, what one maker was."""
    if not isinstance(value, dict) or "by" not in value:
        return isinstance(value, dict)
    by = value["by"]
    return "label" in value and isinstance(by, list) and all(isinstance(maker, dict) for maker in by)


def _is_number(value: Any) -> bool:
    """Whether it is a number, and one that a float holds."""
    return isinstance(value, int | float) and not abs(value) > 1e300


def _is_plain(value: Any) -> bool:
    return _is_number(value) or isinstance(value, str) or (isinstance(value, dict) and "options" in value)


def _text(path: pathlib.Path, remedy: str) -> str:
    try:
        return _bytes(path, remedy).decode("utf-8")
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise ValueError(f"{path}, line {line}: not UTF-8 ({error.reason}); {remedy}") from error


def _bytes(path: pathlib.Path, remedy: str) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            found = file.read(_MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: not gzip, or cut short ({error}); {remedy}") from error
    if len(found) > _MOST_BYTES:
        raise ValueError(f"{path}: holds more than {_MOST_BYTES:,} bytes; {remedy}")
    return found


def _parsed(text: str, where: str, remedy: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at character {error.pos}); {remedy}") from error
    except (ValueError, RecursionError) as error:  # A number of thousands of digits, lists in lists without end.
        raise ValueError(f"{where}: cannot be read ({str(error).split(';')[0]}); {remedy}") from error


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
