"""Sets that TensorFlow Datasets prepared, against the images that were put in."""

import pathlib
import sys

import numpy as np
import pytest

from tests.data.pictures import encode, picture
from tests.data.prepared import write_info, write_shard
from tmu_jax.data import from_tfds, tfds_folder

QUIET = {"progress": False}
SPLITS = {"train": [0, 1, 2, 0, 1, 2], "validation": [2, 1], "unsupervised": [0]}


def prepare(data_dir: pathlib.Path, file_format: str, splits=SPLITS, named: bool = True) -> pathlib.Path:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / "shapes" / "1.2.0"
    folder.mkdir(parents=True)
    features = {"image": tfds.features.Image(shape=(20, 24, 3)), "label": tfds.features.ClassLabel(num_classes=3)}
    features = tfds.features.FeaturesDict(features | ({"id": tfds.features.Text()} if named else {}))
    features["label"].names = ["disc", "ring", "square"]
    features.save_config(folder)
    for split, labels in splits.items():
        records = []
        for number, label in enumerate(labels):
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(encode(picture(number + 100 * label)))
            example.features.feature["label"].int64_list.value.append(label)
            if named:
                example.features.feature["id"].bytes_list.value.append(f"{split}/{number}".encode())
            records.append(example.SerializeToString())
        write_shard(folder / f"shapes-{split}.{file_format}-00000-of-00001", records, file_format)
    write_info(folder, file_format, {split: [len(labels)] for split, labels in splits.items()})
    return folder


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_a_prepared_set_is_read_without_tensorflow(file_format, tmp_path):
    folder = prepare(tmp_path, file_format)
    data = from_tfds(folder, **QUIET)
    assert (data.name, data.class_names) == ("shapes", ("disc", "ring", "square"))
    for images, labels, split in (
        (data.train_images, data.train_labels, "train"),
        (data.test_images, data.test_labels, "validation"),
    ):
        assert labels.tolist() == SPLITS[split]
        expected = [np.asarray(picture(number + 100 * label)) for number, label in enumerate(SPLITS[split])]
        np.testing.assert_array_equal(images, expected)
    assert data.rows_of(["train/4", "2"]).tolist() == [4, 2]
    builder = tfds_folder.import_tfds().builder_from_directory(folder)
    assert from_tfds(builder, **QUIET).fingerprint == data.fingerprint
    assert from_tfds(folder, list("abc"), "mine", ids=range(6), image_size=8, **QUIET).train_images.shape == (
        6,
        8,
        8,
        3,
    )
    assert "tensorflow" not in sys.modules


def test_a_set_without_ids_counts_its_rows(tmp_path):
    data = from_tfds(prepare(tmp_path, "tfrecord", named=False), **QUIET)
    assert data.train_ids is None


def test_wrong_sets_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"builder='.*' holds no dataset_info\.json"):
        from_tfds(tmp_path)
    folder = prepare(tmp_path, "tfrecord")
    with pytest.raises(
        ValueError, match=r"train_split must be one of \['train', 'unsupervised', 'validation'\].*'all'"
    ):
        from_tfds(folder, train_split="all")
    for split in ("test", "validation2"):
        with pytest.raises(ValueError, match=f"test_split must be one of .*, the splits of shapes, got '{split}'"):
            from_tfds(folder, test_split=split)
    empty = tfds_folder.import_tfds().builder_from_directory(prepare(tmp_path / "empty", "tfrecord", splits={}))
    with pytest.raises(FileNotFoundError, match=r"shapes is not prepared; builder\.download_and_prepare\(\)"):
        from_tfds(empty)

    with pytest.raises(ValueError, match=r"test_split must be one of .*'train'.*, got 'test'"):
        from_tfds(prepare(tmp_path / "other", "tfrecord", splits={"train": [0, 1]}))
