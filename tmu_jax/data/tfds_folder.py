"""CIFAR as TensorFlow Datasets prepared it, read without TensorFlow.

`array_record` files are read at random by TFDS itself. The older and still usual `tfrecord` files are a plain sequence
of records, which TFDS wants TensorFlow for, so they are parsed here. TFDS shuffles what it prepares; the `id` of each
example gives the official order back, so the arrays equal those of the official files.
"""

import itertools
import pathlib
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tmu_jax.data.types import Dataset

NUM_EXAMPLES = {"train": 50_000, "test": 10_000}


def find_version(name: str, data_dir: pathlib.Path) -> pathlib.Path | None:
    """The folder of the newest prepared version of a set in a TFDS data folder, if there is any."""
    versions = [path.parent for path in data_dir.glob(f"{name}/*/dataset_info.json") if _version(path.parent)]
    return max(versions, key=_version, default=None)


def import_tfds() -> Any:
    """The module tensorflow_datasets, which only prepared folders need.

    Raises:
        ImportError: it is not installed, or something that it imports is not.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            f"a prepared TFDS folder is read by tensorflow-datasets, which cannot be imported ({error}); install it by "
            "pip install 'tmu-jax[experiments]'"
        ) from error
    return tensorflow_datasets


def read_prepared(name: str, version_dir: pathlib.Path) -> Dataset:
    """Reads a prepared folder such as `cifar10/3.0.2`.

    Args:
        name: "cifar10" or "cifar100"; of the latter the fine labels are read.
        version_dir: the folder with `dataset_info.json`.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        ValueError: the folder is incomplete, or too old to tell the official order.
    """
    builder = import_tfds().builder_from_directory(version_dir)
    arrays = [_read_split(builder, split, version_dir) for split in ("train", "test")]
    return Dataset(
        name=name,
        source=f"prepared TFDS {name} {version_dir.name}",
        train_images=arrays[0][0],
        train_labels=arrays[0][1],
        test_images=arrays[1][0],
        test_labels=arrays[1][1],
        class_names=tuple(builder.info.features["label"].names),
    )


def examples(builder: Any, split: str) -> Iterable[dict[str, Any]]:
    """The examples of a split of what `tfds.builder_from_directory` gave, in the order in which they were prepared."""
    if builder.info.file_format.file_suffix == "tfrecord":
        records = itertools.chain.from_iterable(map(_tfrecords, builder.info.splits[split].filepaths))
        return map(builder.info.features.deserialize_example_np, records)
    return builder.as_data_source(split)


def indexed_records(builder: Any, split: str) -> tuple[Iterator[tuple[Any, bytes]], Callable[[Any], bytes]]:
    """The records of a split, not yet parsed.

    Args:
        builder: what `tfds.builder_from_directory` gave.
        split: such as "train".

    Returns:
        An iterator over the place and the content of every record, and a function that reads the record at a place
        again; not to be called by two threads at once.
    """
    if builder.info.file_format.file_suffix == "tfrecord":
        return _placed_tfrecords(builder.info.splits[split].filepaths), _tfrecord_at
    source = builder.as_data_source(split, deserialize_method=import_tfds().decode.DeserializeMethod.RAW_BYTES)
    return ((place, source[place]) for place in range(len(source))), source.__getitem__


def _version(version_dir: pathlib.Path) -> tuple[int, ...]:
    parts = version_dir.name.split(".")
    return tuple(int(part) for part in parts) if all(part.isdecimal() for part in parts) else ()


def _read_split(builder: Any, split: str, version_dir: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    if "id" not in builder.info.features:
        raise ValueError(f"{version_dir} has no 'id' feature, so the official order is lost; prepare version 3.0.2")
    found = ((example["id"], example["label"], example["image"]) for example in examples(builder, split))
    rows = sorted(found, key=lambda row: row[0])
    ids, labels, images = zip(*rows, strict=True) if rows else ((), (), ())
    if len(set(ids)) != NUM_EXAMPLES[split]:
        raise ValueError(
            f"{version_dir} holds {len(set(ids))} distinct {split} examples instead of {NUM_EXAMPLES[split]}; "
            "prepare it again"
        )
    return np.stack(images), np.asarray(labels, np.int32)


def _tfrecords(path: Any) -> Iterator[bytes]:
    """The records of a TFRecord file: an 8-byte length, its 4-byte checksum, the data, and their 4-byte checksum."""
    with open(path, "rb") as stream:
        while header := stream.read(12):
            length = struct.unpack("<Q", header[:8])[0] if len(header) == 12 else 0
            body = stream.read(length + 4)
            if len(header) < 12 or len(body) < length + 4:
                raise ValueError(f"{path} ends within a record; prepare it again")
            yield body[:length]


def _placed_tfrecords(paths: Iterable[Any]) -> Iterator[tuple[tuple[Any, int, int], bytes]]:
    for path in paths:
        start = 12
        for body in _tfrecords(path):
            yield (path, start, len(body)), body
            start += len(body) + 16


def _tfrecord_at(place: tuple[Any, int, int]) -> bytes:
    path, start, length = place
    with open(path, "rb") as stream:
        stream.seek(start)
        return stream.read(length)
