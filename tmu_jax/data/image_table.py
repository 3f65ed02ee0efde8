"""Images whose files, labels and ids a table lists."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data.checks import check_integer, name_some, printable
from tmu_jax.data.decoding import decode_all, read_file
from tmu_jax.data.identities import BAD_FILES, FolderData, drawn_for_testing
from tmu_jax.data.ids import as_ids, check_unique
from tmu_jax.data.labels import convert_labels
from tmu_jax.data.tables import Table, read_table
from tmu_jax.data.types import Dataset

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation", "eval", "dev")


class _Rows(NamedTuple):
    """Images of one split that a table lists."""

    paths: list[str]
    labels: list[Any]
    ids: list[Any]
    folder: pathlib.Path

    def take(self, rows: Sequence[int]) -> "_Rows":
        paths, labels, ids = ([values[row] for row in rows] for values in self[:3])
        return _Rows(paths, labels, ids, self.folder)


@checked
def from_csv(
    csv: Any,
    image_column: str,
    label_column: str,
    id_column: str | None = None,
    *,
    split_column: str | None = None,
    test_csv: Any = None,
    test_share: float | None = None,
    image_folder: str | os.PathLike[str] | None = None,
    class_names: Sequence[str] | None = None,
    image_size: int = 64,
    bad_files: str = "skip",
    seed: int = 0,
    name: str = "images",
    delimiter: str = ",",
    encoding: str = "utf-8-sig",
    progress: bool = True,
) -> FolderData:
    """Reads the images that a table lists, a row for each.

    Which rows are test images is said by one of `split_column`, `test_csv` and `test_share`.

    Args:
        csv: a CSV file whose first line names the columns, or a frame of pandas' or the like.
        image_column: the column with the images' paths, relative to `image_folder`.
        label_column: the column with the labels, as in `from_arrays`; numbers written out are numbers.
        id_column: the column with the ids; None: the paths, as they are written.
        split_column: the column that says "train" (or "training") or "test" ("testing", "val", "valid", "validation",
            "eval", "dev") in each row, in capitals or not. Where a table has several of the latter, the one that comes
            first in this list serves and `Dataset.notes` name the others.
        test_csv: a second table, with the test images.
        test_share: the share of each class's images, 0..1, to draw as test images, as `from_image_folder` does. Right
            only where no model was trained on them yet.
        image_folder: what relative paths are relative to; None: the folder of the CSV file they stand in.
        class_names: as in `from_arrays`.
        image_size: height and width to give every image, as in `from_image_folder`.
        bad_files: "skip" leaves unreadable files out and names them; "refuse" refuses them all at once.
        seed: seed of a draw by `test_share`, 0 or more.
        name: a name for reports.
        delimiter: what divides the columns of a CSV file.
        encoding: of the CSV files.
        progress: show a progress bar.

    Returns:
        The data set, its images in the order of the table, and what was left out.

    Raises:
        FileNotFoundError: no such CSV file.
        TypeError: an argument or labels of a wrong type.
        ValueError: a column that is not there, labels or ids that `from_arrays` refuses too, test rows that are not
            said, bad files that are refused, or no readable images.
    """
    check_integer("image_size", image_size, 8)
    check_integer("seed", seed, 0)
    if bad_files not in BAD_FILES:
        raise ValueError(f"bad_files must be one of {BAD_FILES}, got {bad_files!r}")
    if (split_column is not None) + (test_csv is not None) + (test_share is not None) != 1:
        raise ValueError(
            "one of split_column, test_csv and test_share must say which rows are test images (test_share draws them, "
            "which is right only where no model was trained on them yet)"
        )
    table = read_table("csv", csv, delimiter, encoding)
    rows = _rows(table, image_column, label_column, id_column, image_folder)
    notes: list[str] = []
    if test_csv is not None:
        second = read_table("test_csv", test_csv, delimiter, encoding)
        train, test = rows, _rows(second, image_column, label_column, None, image_folder)
    elif split_column is not None:
        train, test = _by_column(rows, table.column("split_column", split_column), split_column, notes)
    else:
        train, test = _drawn(rows, test_share, seed, notes)
    labels, shown, of_labels = convert_labels({"train labels": train.labels, "test labels": test.labels}, class_names)
    origin = f"id_column={id_column!r}" if id_column else f"image_column={image_column!r} as the ids"
    ids = as_ids(origin, train.ids)
    check_unique(origin, ids)
    train_images, train_kept, faults = _decoded(train, image_size, progress)
    test_images, test_kept, test_faults = _decoded(test, image_size, progress)
    faults += test_faults
    if faults and bad_files == "refuse":
        raise ValueError(f'bad_files="refuse", and {len(faults)} files are bad: {name_some(faults)}')
    if not len(train_images) or not len(test_images):
        raise ValueError(f"there must be readable training and test images, but of all files {name_some(faults, 3)}")
    clause = f", {len(faults):,} bad files skipped" if faults else ""
    data = Dataset(
        name=printable(name),
        source=f"image table, {image_size}x{image_size}{clause}",
        train_images=train_images,
        train_labels=labels["train labels"][train_kept],
        test_images=test_images,
        test_labels=labels["test labels"][test_kept],
        class_names=shown,
        train_ids=ids[train_kept],
        notes=(*notes, *of_labels),
    )
    return FolderData(data, tuple(map(printable, faults)))


def _rows(
    table: Table,
    image_column: str,
    label_column: str,
    id_column: str | None,
    folder: str | os.PathLike[str] | None,
) -> _Rows:
    paths = table.column("image_column", image_column)
    if wrong := [row for row, path in enumerate(paths) if not isinstance(path, str | os.PathLike) or not str(path)]:
        raise ValueError(
            f"image_column={image_column!r} must hold a path in each row, got {paths[wrong[0]]!r} in row {wrong[0]}"
        )
    paths = [os.fspath(path) for path in paths]
    labels = table.column("label_column", label_column)
    ids = paths if id_column is None else table.column("id_column", id_column)
    return _Rows(paths, labels, ids, table.folder if folder is None else pathlib.Path(folder).expanduser())


def _by_column(rows: _Rows, parts: list[Any], column: str, notes: list[str]) -> tuple[_Rows, _Rows]:
    said = [str(part).strip().lower() for part in parts]
    if unknown := sorted(set(said) - {*_TRAIN, *_TEST}):
        raise ValueError(
            f"split_column={column!r} must say one of {', '.join((*_TRAIN, *_TEST))} in each row, "
            f"got {name_some(unknown)}"
        )
    found = [part for part in _TEST if part in said]
    if not found or not set(_TRAIN) & set(said):
        raise ValueError(
            f"split_column={column!r} must name training and test rows, got {', '.join(sorted(set(said)))}"
        )
    if found[1:]:
        notes.append(f"Rows of the splits {', '.join(found[1:])} were left out; {found[0]} has the test images.")
    train = [row for row, part in enumerate(said) if part in _TRAIN]
    return rows.take(train), rows.take([row for row, part in enumerate(said) if part == found[0]])


def _drawn(rows: _Rows, share: float | None, seed: int, notes: list[str]) -> tuple[_Rows, _Rows]:
    if share is None or not 0 < share < 1:
        raise ValueError(f"test_share must lie between 0 and 1, both excluded, got {share}")
    notes.append(
        f"The test images are {share:.0%} of all images, drawn at random: a model that was trained on all of them has "
        "seen these."
    )
    by_class: dict[str, list[int]] = {}
    for row, label in enumerate(rows.labels):
        by_class.setdefault(str(label), []).append(row)
    test: set[int] = set()
    for label, members in by_class.items():
        drawn = drawn_for_testing([str(rows.ids[row]) for row in members], label, share, seed)
        test |= {row for row, is_test in zip(members, drawn, strict=True) if is_test}
    every = range(len(rows.paths))
    return rows.take([row for row in every if row not in test]), rows.take([row for row in every if row in test])


def _decoded(rows: _Rows, image_size: int, progress: bool) -> tuple[np.ndarray, list[int], list[str]]:
    """The images that can be read, their rows, and a sentence for each of the others."""
    reads = [functools.partial(read_file, rows.folder / path) for path in rows.paths]
    results = decode_all(reads, image_size, progress)
    kept = [row for row, result in enumerate(results) if not isinstance(result, str)]
    faults = [f"{rows.paths[row]}: {result}" for row, result in enumerate(results) if isinstance(result, str)]
    images = np.stack([results[row] for row in kept]) if kept else np.empty((0, image_size, image_size, 3), np.uint8)
    return images, kept, faults
