"""What the options name, read and checked before any work; what is wrong with it is said in one line."""

import contextlib
import csv
import importlib
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from tmu_jax.auditing.evidence import private_key
from tmu_jax.data import Dataset, FolderData, from_image_folder, from_npz
from tmu_jax.data.checks import LARGEST_SEED
from tmu_jax.places import check_folder
from tmu_jax.training import TrainedModel
from tmu_jax.training.checking import refuse_misfit, refuse_probabilities
from tmu_jax.unlearning import load

_SIZE = 64


class RefusedError(Exception):
    """What was asked for on the command line cannot be done; the message is one line."""


@contextlib.contextmanager
def about(option: str, value: object) -> Iterator[None]:
    """What is raised inside is wrong with this option."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, csv.Error) as error:
        raise RefusedError(f"{option} {value}: {error}") from error


def read_model(text: str) -> TrainedModel:
    """The model that a function of the user's returns."""
    found = _called("--model", text)
    if not isinstance(found, TrainedModel):
        raise RefusedError(
            f"--model {text}: returned a {type(found).__name__}; it must return a model of tmu_jax.wrap(module, "
            "variables, ...) or tmu_jax.load(folder, module)"
        )
    return found


def check_fit(text: str, model: TrainedModel, data: Dataset) -> None:
    """Refuses a model that does not fit the data; `tmu-jax check` looks closer."""
    with about("--model", text):
        refuse_misfit(model, data.pool)
        refuse_probabilities(model, data)


def read_data(text: str, test: str | None, image_size: int | None) -> tuple[Dataset, tuple[str, ...]]:
    """The data set, and a sentence for each thing that was left out of it."""
    place = pathlib.Path(text).expanduser()
    if test is not None and not place.is_dir():
        raise RefusedError(f"--test {test}: is of use only beside a folder of images; --data {text} is none")
    if place.is_dir():
        return _read_folder(text, test, image_size)
    if place.suffix == ".npz":
        with about("--data", text):
            return from_npz(place, image_size=image_size), ()
    if ":" not in text:
        raise RefusedError(
            f"--data {text}: is not there; give a folder with one folder of images a class, a .npz file, or "
            "module:function that returns a tmu_jax.data.Dataset"
        )
    if image_size is not None:
        raise RefusedError(f"--image-size {image_size}: has no use beside --data {text}, which makes its own images")
    found = _called("--data", text)
    if isinstance(found, FolderData):
        return found.data, found.skipped
    if not isinstance(found, Dataset):
        raise RefusedError(f"--data {text}: returned a {type(found).__name__}; it must return a tmu_jax.data.Dataset")
    return found, ()


def _read_folder(text: str, test: str | None, image_size: int | None) -> tuple[Dataset, tuple[str, ...]]:
    has_train = (pathlib.Path(text) / "train").is_dir()
    if test is not None and not pathlib.Path(test).is_dir():
        raise RefusedError(f"--test {test}: is no folder; give one with one folder of images a class")
    with about("--data" if test is None else "--data and --test", text if test is None else f"{text} {test}"):
        if test is None and not has_train:
            raise RefusedError(_no_test(text))
        size = _SIZE if image_size is None else image_size
        found = from_image_folder(text, test_folder=test, image_size=size, progress=sys.stderr.isatty())
    if "test images from" not in found.data.source:
        raise RefusedError(_no_test(text))
    return found.data, found.skipped


def _no_test(text: str) -> str:
    # Drawn from the training images they would be images that the model was trained on.
    return f"--data {text}: holds no test images (train/ beside val/ or test/); name their folder with --test"


def read_ids(text: str) -> list[str]:
    """Ids, in their order."""
    if text == "-":
        return _lines("--ids -", sys.stdin.read())
    path, _, column = text.partition(".csv:")
    with about("--ids", text):
        if column:
            return _column(text, pathlib.Path(f"{path}.csv"), column)
        if not pathlib.Path(text).is_file():
            raise RefusedError(f"--ids {text}: is not there; give file.csv:column, file.txt with an id a line, or -")
        if text.endswith(".csv"):
            header = next(csv.reader(pathlib.Path(text).read_text("utf-8-sig").splitlines()), [])
            raise RefusedError(f"--ids {text}: name the column, as {text}:{header[0] if header else 'image_id'}")
        return _lines(f"--ids {text}", pathlib.Path(text).read_text("utf-8-sig"))


def _lines(name: str, content: str) -> list[str]:
    found = [line.strip() for line in content.splitlines() if line.strip()]
    if not found:
        raise RefusedError(f"{name}: holds no id; give one a line")
    return found


def _column(text: str, path: pathlib.Path, column: str) -> list[str]:
    if not path.is_file():
        raise RefusedError(f"--ids {text}: {path} is not there")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        if column not in names:
            raise RefusedError(f"--ids {text}: {path} has no column {column!r}; it has {', '.join(names) or 'none'}")
        found = [(row[column] or "").strip() for row in reader]
    empty = [number for number, one in enumerate(found, 2) if not one]
    if empty:
        raise RefusedError(f"--ids {text}: {len(empty)} rows have no id, the first in line {empty[0]}; remove them")
    if not found:
        raise RefusedError(f"--ids {text}: {path} has no rows")
    return found


def rows_of(data: Dataset, option: str, ids: list[str]) -> np.ndarray:
    """Rows of the training images with these ids, int64[k]."""
    with about("--ids", option):
        return data.rows_of(ids)


def saved_model(option: str, text: str, like: TrainedModel | None) -> TrainedModel:
    """A model that was saved, or the one in a folder that `forget` wrote."""
    with about(option, text):
        return load(model_folder(text), like)


def model_folder(text: str) -> pathlib.Path:
    """Where the model lies: what `forget` writes holds it in a folder of its own."""
    inner = pathlib.Path(text) / "model"
    return inner if inner.is_dir() else pathlib.Path(text)


def check_key(text: str | None) -> None:
    """Refuses a key that will not sign."""
    if text is not None:
        with about("--key", text):
            private_key(text)


def check_new_folder(option: str, text: str, num_bytes: int = 0) -> pathlib.Path:
    """A folder that can be made or written into, with room for so much."""
    try:
        return check_folder(f"{option} {text}:", text, num_bytes)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def check_number(option: str, value: float, least: float, most: float = float("inf")) -> None:
    """Refuses a number out of range."""
    if not least <= value <= most:
        bounds = f"at least {least}" if most == float("inf") else f"{least} to {most}"
        raise RefusedError(f"{option} {value}: must be {bounds}")


def check_seed(option: str, value: int) -> None:
    """Refuses a seed whose key would be another's."""
    check_number(option, value, 0, LARGEST_SEED)


def _called(option: str, text: str) -> Any:
    """What a function returns that is named by its module and name, in the current folder or installed."""
    module, _, name = text.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
        raise RefusedError(
            f"{option} {text}: must be module:function, such as mymodels:restore for restore() in mymodels.py"
        )
    here = str(pathlib.Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        found = importlib.import_module(module)
    except Exception as error:  # Whatever a user's own code raises is what they must read.
        raise RefusedError(f"{option} {text}: importing {module} raised {_words(error)}") from error
    if not callable(getattr(found, name, None)):
        raise RefusedError(f"{option} {text}: {module} has no function {name!r}")
    try:
        return getattr(found, name)()
    except Exception as error:
        raise RefusedError(f"{option} {text}: {name}() raised {_words(error)}") from error


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:300]
