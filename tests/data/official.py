"""A tiny CIFAR in the official format, as files, as an archive, and as the arrays that loading it must give."""

import functools
import hashlib
import io
import pathlib
import struct
import tarfile

import numpy as np
import pytest

from tmu_jax.data import Dataset, cifar

NUM_IMAGES = {"data_batch_1": 3, "data_batch_2": 2, "data_batch_3": 4, "data_batch_4": 1, "data_batch_5": 2, "test": 5}


def python2_pickle(value) -> bytes:
    """Protocol 2 as Python 2 wrote it, byte strings and NumPy 1's names included; today's pickle cannot."""

    def emit(value) -> bytes:
        if isinstance(value, bytes):
            return b"T" + struct.pack("<i", len(value)) + value
        if isinstance(value, int):
            return b"J" + struct.pack("<i", value)
        if isinstance(value, list):
            return b"](" + b"".join(map(emit, value)) + b"e"
        if isinstance(value, dict):
            return b"}(" + b"".join(emit(key) + emit(item) for key, item in value.items()) + b"u"
        dtype = b"cnumpy\ndtype\n" + emit(b"u1") + emit(0) + emit(1) + b"\x87R"
        dtype += b"(" + emit(3) + emit(b"|") + b"NNN" + emit(-1) + emit(-1) + emit(0) + b"tb"
        shape = emit(value.shape[0]) + emit(value.shape[1]) + b"\x86"
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + emit(0) + b"\x85" + emit(b"b") + b"\x87R"
        return array + b"(" + emit(1) + shape + dtype + b"\x89" + emit(value.tobytes()) + b"tb"

    return b"\x80\x02" + emit(value) + b"."


class Fake:
    """A small set in the official layout; `images` and `labels` are what loading it must give."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch):
        self.name, self.layout = name, cifar.FILES[name]
        rng = np.random.default_rng(1)
        self.class_names = ("cat", "dog", "owl")
        self.content, self.images, self.labels = {}, [], []
        for filename in (*self.layout.train, self.layout.test):
            count = NUM_IMAGES.get(filename, 5)
            images = rng.integers(0, 256, (count, 32, 32, 3), np.uint8)
            labels = rng.integers(0, 3, count).tolist()
            rows = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(count, -1)
            batch = {b"data": rows, self.layout.labels_key: labels, b"coarse_labels": [0] * count, b"batch_label": b"x"}
            self.content[filename] = python2_pickle(batch)
            self.images.append(images)
            self.labels.append(labels)
        names = [class_name.encode() for class_name in self.class_names]
        self.content[self.layout.meta] = python2_pickle({self.layout.names_key: names, b"num_vis": 3072})
        for filename, content in self.content.items():
            monkeypatch.setitem(cifar.MD5, f"{self.layout.folder}/{filename}", hashlib.md5(content).hexdigest())
        monkeypatch.setitem(cifar.MD5, self.layout.archive, hashlib.md5(self.archive).hexdigest())

    @functools.cached_property
    def archive(self) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as tar:
            for filename, content in self.content.items():
                member = tarfile.TarInfo(f"{self.layout.folder}/{filename}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    def write_folder(self, place: pathlib.Path) -> pathlib.Path:
        folder = place / self.layout.folder
        folder.mkdir(parents=True)
        for filename, content in self.content.items():
            (folder / filename).write_bytes(content)
        return folder

    def write_archive(self, place: pathlib.Path) -> pathlib.Path:
        (place / self.layout.archive).write_bytes(self.archive)
        return place / self.layout.archive

    def check(self, data: Dataset) -> None:
        np.testing.assert_array_equal(data.train_images, np.concatenate(self.images[:-1]))
        np.testing.assert_array_equal(data.train_labels, np.concatenate(self.labels[:-1]))
        np.testing.assert_array_equal(data.test_images, self.images[-1])
        np.testing.assert_array_equal(data.test_labels, self.labels[-1])
        assert data.train_images.dtype == data.test_images.dtype == np.uint8
        assert data.train_labels.dtype == data.test_labels.dtype == np.int32
        assert data.class_names == self.class_names
        assert data.name == self.name
