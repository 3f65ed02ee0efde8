"""The folder that `forget` writes: model/, labels.csv, copies.csv, answer.html, evidence.json."""

import csv
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np

from tmu_jax.auditing import Audit
from tmu_jax.command.inputs import RefusedError, check_new_folder
from tmu_jax.data import Dataset, ForgetProblem
from tmu_jax.preparation import Forgotten
from tmu_jax.requests import Copies, Request
from tmu_jax.text import parse_json
from tmu_jax.training.saving import Format

_MARK = "unfinished.json"
"""Lies in a folder while its request is open: the same command may replace what is there."""


def check_output(text: str, requests: tuple[Request, ...]) -> tuple[pathlib.Path, Request | None]:
    """The folder, and the request of which something lies in it.

    Args:
      text: of `--output`.
      requests: of the ledger.

    Raises:
      RefusedError: for a folder that holds anything else.
    """
    place = check_new_folder("--output", text)
    if not place.exists() or not any(place.iterdir()):
        return place, None
    try:
        mark = parse_json((place / _MARK).read_text("utf-8"))
        own = next(one for one in requests if (one.number, one.time) == (mark["number"], mark["time"]))
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        raise RefusedError(f"--output {text}: is not empty; give a new folder") from None
    return place, own


def mark(place: pathlib.Path, own: Request) -> None:
    """Says in a folder that what lies there is not finished."""
    place.mkdir(parents=True, exist_ok=True)
    (place / _MARK).write_text(json.dumps({"number": own.number, "time": own.time}), "utf-8")


def unmark(place: pathlib.Path) -> None:
    """It is finished."""
    (place / _MARK).unlink(missing_ok=True)


def write_labels(path: pathlib.Path, ids: Iterable[str], found: Forgotten) -> None:
    """A row for each forgotten image; empty where nothing was predicted.

    Args:
      path: the file.
      ids: of the forgotten images, in the request's order.
      found: what the request came to.
    """
    prediction = found.prediction
    rows = [(one, "", "") for one in ids]
    if prediction is not None:
        values = zip(rows, prediction.probability.tolist(), prediction.easy.tolist(), strict=True)
        rows = [(one, f"{probability:.4f}", str(bool(easy)).lower()) for (one, *_), probability, easy in values]
    _write_rows(path, ("id", "probability_retrained_is_right", "predicted_easy"), rows)


def write_copies(path: pathlib.Path, copies: list[tuple[str, str, str]]) -> None:
    """A row for each copy that stays, for a person to look at."""
    _write_rows(path, ("forgotten_id", "copy_that_stays", "kind"), copies)


def write_model(found: Forgotten, place: pathlib.Path, format: Format) -> None:
    """The classifier, without the model before it."""
    found.model.save(place / "model", format, overwrite=True)


def write_audit(audit: Audit, place: pathlib.Path, key: str | None, salt_path: pathlib.Path) -> None:
    """The page and the evidence; the salt of its ids goes elsewhere, for the requester alone."""
    written = audit.write(place / "answer.html", place / "evidence.json", key=key)
    with open(os.open(salt_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(f"{written.salt}\n")


def known_copies(data: Dataset, copies: Copies) -> list[tuple[str, str, str]]:
    """(forgotten id, id of the copy, kind) of each."""
    num_train = len(data.train_labels)

    def name(row: int) -> str:
        return str(data.ids[row]) if row < num_train else f"test image {row - num_train}"

    pairs = [(pair, "equal pixels") for pair in copies.exact] + [(pair, "near copy") for pair in copies.near]
    return [(name(int(one)), name(int(other)), kind) for (one, other), kind in pairs]


def ids_of(data: Dataset, problem: ForgetProblem) -> np.ndarray:
    """The ids of the forgotten images, as the data set has them."""
    return data.ids[problem.forget.indices]


def _write_rows(path: pathlib.Path, header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
