"""CIFAR as TensorFlow Datasets prepared it, against the arrays it was made from."""

import io
import pathlib
import sys

import numpy as np
import PIL.Image
import pytest

from tests.data.official import Fake
from tests.data.prepared import write_info, write_shard
from tmu_jax.data import Location, load, locate, read_prepared_faces, tfds_folder

pytestmark = pytest.mark.usefixtures("nothing_of_this_machine")


def write_tfds(fake: Fake, data_dir: pathlib.Path, file_format: str, with_id: bool = True) -> pathlib.Path:
    """Prepares a set as TFDS would, in shuffled order and two training shards, without TensorFlow."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / fake.name / "3.0.2"
    folder.mkdir(parents=True)
    features = {"image": tfds.features.Image(shape=(32, 32, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    if with_id:
        features["id"] = tfds.features.Text()
    features = tfds.features.FeaturesDict(features)
    features["label"].names = list(fake.class_names)
    features.save_config(folder)
    shard_lengths = {}
    arrays = {
        "train": (np.concatenate(fake.images[:-1]), np.concatenate(fake.labels[:-1])),
        "test": (fake.images[-1], np.asarray(fake.labels[-1])),
    }
    for split, (images, labels) in arrays.items():
        shuffled = np.random.default_rng(3).permutation(len(labels))
        shards = np.array_split(shuffled, 2 if split == "train" else 1)
        for number, shard in enumerate(shards):
            records = []
            for row in shard:
                png = io.BytesIO()
                PIL.Image.fromarray(images[row]).save(png, "png")
                example = tf_example_pb2.Example()
                example.features.feature["image"].bytes_list.value.append(png.getvalue())
                example.features.feature["label"].int64_list.value.append(int(labels[row]))
                if with_id:
                    example.features.feature["id"].bytes_list.value.append(f"{split}_{row:05d}".encode())
                records.append(example.SerializeToString())
            path = folder / f"{fake.name}-{split}.{file_format}-{number:05d}-of-{len(shards):05d}"
            write_shard(path, records, file_format)
        shard_lengths[split] = [len(shard) for shard in shards]
    write_info(folder, file_format, shard_lengths)
    return folder


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_prepared_tfds_folder_gives_the_official_order(fake, file_format, tmp_path, monkeypatch):
    folder = write_tfds(fake, tmp_path, file_format)
    num_train = sum(map(len, fake.labels[:-1]))
    monkeypatch.setattr(tfds_folder, "NUM_EXAMPLES", {"train": num_train, "test": 5})
    assert locate(fake.name, tmp_path) == Location("tfds", folder)
    data = load(fake.name, tmp_path)
    fake.check(data)
    assert data.source == f"prepared TFDS {fake.name} 3.0.2"
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    fake.check(load(fake.name))
    assert "tensorflow" not in sys.modules


def test_incomplete_or_old_tfds_folder_is_refused(fake10, tmp_path):
    write_tfds(fake10, tmp_path / "few", "array_record")
    with pytest.raises(ValueError, match="12 distinct train examples instead of 50000"):
        load("cifar10", tmp_path / "few")
    write_tfds(fake10, tmp_path / "old", "array_record", with_id=False)
    with pytest.raises(ValueError, match="no 'id' feature"):
        load("cifar10", tmp_path / "old")
    folder = write_tfds(fake10, tmp_path / "cut", "tfrecord")
    shard = folder / "cifar10-test.tfrecord-00000-of-00001"
    for cut in (3, shard.stat().st_size - 6):
        with pytest.raises(ValueError, match="ends within a record"):
            list(tfds_folder._tfrecords(_shorten(shard, cut)))


def _shorten(path: pathlib.Path, cut: int) -> pathlib.Path:
    shorter = path.with_name(f"cut-{cut}")
    shorter.write_bytes(path.read_bytes()[:-cut])
    return shorter


def test_newest_tfds_version_is_taken(tmp_path):
    for version in ("3.0.2", "3.0.10", "2.9.0", "notes"):
        (tmp_path / "cifar10" / version).mkdir(parents=True)
        (tmp_path / "cifar10" / version / "dataset_info.json").touch()
    assert tfds_folder.find_version("cifar10", tmp_path) == tmp_path / "cifar10" / "3.0.10"


def test_without_tfds_a_prepared_folder_says_what_to_install(fake10, tmp_path, monkeypatch):
    version_dir = write_tfds(fake10, tmp_path, "tfrecord")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert locate("cifar10", tmp_path) == Location("tfds", version_dir)
    for read in (lambda: load("cifar10", tmp_path), lambda: read_prepared_faces(version_dir)):
        with pytest.raises(ImportError, match=r"read by tensorflow-datasets, .*pip install 'tmu-jax\[experiments\]'"):
            read()
