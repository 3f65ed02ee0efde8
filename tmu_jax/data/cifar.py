"""The official "python version" of CIFAR-10 and CIFAR-100: pickles by Python 2 in a folder, or in the archive itself.

Every file is compared with its published MD5 before it is unpickled, and the unpickler admits no more than the NumPy
names that these files hold: a pickle can name any function to call.

References:
    Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009; https://www.cs.toronto.edu/~kriz/cifar.html
"""

import hashlib
import io
import pathlib
import pickle
import tarfile
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tmu_jax.data.types import Dataset


class Files(NamedTuple):
    """What one of the two sets looks like on disk."""

    title: str
    folder: str
    archive: str
    train: tuple[str, ...]
    test: str
    meta: str
    labels_key: bytes
    names_key: bytes


FILES = {
    "cifar10": Files(
        title="CIFAR-10",
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        train=tuple(f"data_batch_{i}" for i in range(1, 6)),
        test="test_batch",
        meta="batches.meta",
        labels_key=b"labels",
        names_key=b"label_names",
    ),
    "cifar100": Files(
        title="CIFAR-100",
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        train=("train",),
        test="test",
        meta="meta",
        labels_key=b"fine_labels",
        names_key=b"fine_label_names",
    ),
}

MD5 = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py/data_batch_1": "c99cafc152244af753f735de768cd75f",
    "cifar-10-batches-py/data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "cifar-10-batches-py/data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "cifar-10-batches-py/data_batch_4": "634d18415352ddfa80567beed471001a",
    "cifar-10-batches-py/data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "cifar-10-batches-py/test_batch": "40351d587109b95175f43aff81a1287e",
    "cifar-10-batches-py/batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-python/train": "16019d7e3df5f24257cddd939b257f8d",
    "cifar-100-python/test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "cifar-100-python/meta": "7973b15100ade9c7d40fb424638fde48",
}

_SIDE, _CHANNELS = 32, 3


def read_folder(name: str, folder: pathlib.Path) -> Dataset:
    """Reads a folder of official files.

    Args:
        name: "cifar10" or "cifar100".
        folder: the folder that holds the batch files.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the official one.
        pickle.UnpicklingError: a file names anything but NumPy arrays.
    """
    return _assemble(name, lambda filename: (folder / filename).read_bytes(), str(folder))


def read_archive(name: str, archive: pathlib.Path) -> Dataset:
    """Reads the official `.tar.gz` without extracting it to disk.

    Args:
        name: "cifar10" or "cifar100".
        archive: the file.

    Raises:
        ValueError: the archive is not the official one.
        pickle.UnpicklingError: a file names anything but NumPy arrays.
    """
    files = FILES[name]
    with archive.open("rb") as stream:
        _check_md5(files.archive, hashlib.file_digest(stream, "md5").hexdigest(), str(archive))
    contents = {}
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            reader = tar.extractfile(member)
            if reader is not None:
                contents[member.name] = reader.read()
    return _assemble(name, lambda filename: _member(contents, f"{files.folder}/{filename}", archive), str(archive))


def _member(contents: dict[str, bytes], member: str, archive: pathlib.Path) -> bytes:
    if member not in contents:
        raise FileNotFoundError(f"{archive} holds no {member}")
    return contents[member]


def _assemble(name: str, read: Callable[[str], bytes], place: str) -> Dataset:
    files = FILES[name]

    def content(filename: str) -> dict[bytes, Any]:
        data = read(filename)
        where = f"{place}: {filename}"
        _check_md5(f"{files.folder}/{filename}", hashlib.md5(data).hexdigest(), where)
        return _unpickle(data, where)

    batches = [content(filename) for filename in files.train]
    test_batch = content(files.test)
    class_names = content(files.meta)[files.names_key]
    return Dataset(
        name=name,
        source=f"official {files.title} python files (MD5 checked)",
        train_images=np.concatenate([_images(batch) for batch in batches]),
        train_labels=np.concatenate([np.asarray(batch[files.labels_key], np.int32) for batch in batches]),
        test_images=_images(test_batch),
        test_labels=np.asarray(test_batch[files.labels_key], np.int32),
        class_names=tuple(class_name.decode() for class_name in class_names),
    )


def _images(batch: dict[bytes, Any]) -> np.ndarray:
    """The files hold a row of 3072 bytes for each image, channel by channel."""
    planes = batch[b"data"].reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


def _check_md5(key: str, found: str, where: str) -> None:
    if found != MD5[key]:
        raise ValueError(
            f"{where} is not the official file: its MD5 is {found}, the published one {MD5[key]}; "
            "it may be cut short or altered, so remove it and get it again"
        )


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles built-in containers and NumPy arrays, nothing else."""

    # The name of the array constructor in these files is NumPy 1's; an array's own `__reduce__` tells today's.
    _ADMITTED: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return self._ADMITTED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"the pickle asks for {module_name}.{global_name}, which no CIFAR file needs, so it is refused"
            ) from None


def _unpickle(data: bytes, where: str) -> dict[bytes, Any]:
    try:
        return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except pickle.UnpicklingError as error:
        raise pickle.UnpicklingError(f"{where}: {error}") from None
