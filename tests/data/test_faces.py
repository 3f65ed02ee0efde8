"""A prepared TFDS folder of faces against the folder of the same images."""

import pathlib
import sys

import numpy as np
import pytest

from tests.data.pictures import QUIET, encode, identities, picture, write
from tests.data.prepared import write_info, write_shard
from tmu_jax.data import from_image_folder, load_faces, read_prepared_faces


def write_tfds(
    data_dir: pathlib.Path, files: dict[str, bytes], file_format: str, official: bool = True, num_missing: int = 0
) -> pathlib.Path:
    """Prepares faces as TFDS would, shuffled and in two shards, without TensorFlow.

    `official` has the features `file_name` and `label`; otherwise they are `face_id` and `class_id` beside a label.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.proto import tf_example_pb2

    folder = data_dir / "vgg_face2" / "1.0.0"
    folder.mkdir(parents=True)
    class_names = sorted({name.split("/")[0] for name in files} | {"n999999"})
    texts = ("file_name",) if official else ("class_id", "face_id")
    features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(num_classes=len(class_names))}
    features = tfds.features.FeaturesDict(features | {text: tfds.features.Text() for text in texts})
    features["label"].names = class_names
    features.save_config(folder)
    shards = np.array_split(np.random.default_rng(3).permutation(sorted(files)), 2)
    for number, shard in enumerate(shards):
        records = []
        for name in map(str, shard):
            identity, filename = name.split("/")
            values = {"file_name": name} if official else {"class_id": identity, "face_id": filename.split(".")[0]}
            example = tf_example_pb2.Example()
            example.features.feature["image"].bytes_list.value.append(files[name])
            example.features.feature["label"].int64_list.value.append(class_names.index(identity))
            for key, value in values.items():
                example.features.feature[key].bytes_list.value.append(value.encode())
            records.append(example.SerializeToString())
        path = folder / f"vgg_face2-train.{file_format}-{number:05d}-of-00002"
        write_shard(path, records, file_format)
    write_info(folder, file_format, {"train": [len(shard) + num_missing for shard in shards]})
    return folder


FACES = identities(n000001=6, n000002=3, n000003=9, n000005=6) | {
    "n000001/0007_01.png": b"damaged",
    "n000005/0010_01.png": encode(picture(5, mode="L")),
}


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("official", [True, False])
@pytest.mark.parametrize("num_classes", [None, 3])
def test_prepared_tfds_folder_gives_what_the_folder_gives(file_format, official, num_classes, tmp_path):
    version_dir = write_tfds(tmp_path / "tfds", FACES, file_format, official)
    write(tmp_path / "folder", FACES)
    options = {**QUIET, "num_classes": num_classes, "seed": 4}
    prepared = read_prepared_faces(version_dir, **options)
    folder = from_image_folder(tmp_path / "folder", name="vgg_face2", **options)
    for field in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(prepared.data, field), getattr(folder.data, field))
    assert prepared.data.fingerprint == folder.data.fingerprint
    num_taken = num_classes or 4
    assert prepared.data.source == (
        f"prepared TFDS vgg_face2 1.0.0, {num_taken} of 4 identities, 16x16, 1 bad file skipped"
    )
    suffix = ".png" if official else ""
    assert prepared.skipped == (f"n000001/0007_01{suffix}: not a JPEG, PNG, WebP or BMP image",)
    for data_dir in (tmp_path / "tfds", version_dir, tmp_path / "folder"):
        assert load_faces(data_dir, **options).data.fingerprint == folder.data.fingerprint
    assert "tensorflow" not in sys.modules


def test_prepared_folder_refuses_bad_files_by_name(tmp_path):
    version_dir = write_tfds(tmp_path, FACES, "array_record")
    with pytest.raises(ValueError, match=r"1 of the files and identities are bad: n000001/0007_01\.png"):
        read_prepared_faces(version_dir, bad_files="refuse", **QUIET)


def test_wrong_prepared_folders_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no dataset_info\.json"):
        read_prepared_faces(tmp_path)
    short = write_tfds(tmp_path / "short", FACES, "tfrecord", num_missing=1)
    with pytest.raises(ValueError, match="holds 26 train examples instead of 28; prepare it again"):
        read_prepared_faces(short, **QUIET)
    twice = FACES | {"n000003/0001_01.jpg": encode(picture(5), "jpeg")}
    twice = write_tfds(tmp_path / "twice", twice, "tfrecord", official=False)
    with pytest.raises(ValueError, match="holds n000003/0001_01 twice"):
        read_prepared_faces(twice, **QUIET)
    info = short / "dataset_info.json"
    info.write_text(info.read_text().replace('"name": "train"', '"name": "validation"'))
    with pytest.raises(ValueError, match=r"must have a split 'train' .*got the splits \['validation'\]"):
        read_prepared_faces(short, **QUIET)


def test_no_faces_names_the_two_ways(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"data_dir='.*none' does not exist\..*no open download.*\(1\).*\(2\)"):
        load_faces(tmp_path / "none")
    write(tmp_path, {"cifar10/3.0.2/dataset_info.json": b"{}"})
    with pytest.raises(
        FileNotFoundError, match=r"holds no faces\..*n000001/0001_01\.jpg.*vgg_face2/1\.0\.0/dataset_in"
    ):
        load_faces(tmp_path)
    with pytest.raises(FileNotFoundError, match="is no folder"):
        load_faces(tmp_path / "cifar10" / "3.0.2" / "dataset_info.json")
