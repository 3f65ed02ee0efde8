"""Images that a table lists, against the same images decoded by hand."""

import os

import numpy as np
import pandas as pd
import pytest

from tests.data.pictures import QUIET, by_hand, encode, picture, write
from tmu_jax.data import from_csv

ROWS = [  # path, label, id, split
    ("a/0.png", "cat", "u0", "train"),
    ("a/1.png", "dog", "u1", "Test"),
    ("b/2.png", "dog", "u2", "train"),
    ("3.png", "cat", "u3", "TRAIN"),
    ("b/4.png", "cat", "u4", "test"),
    ("b/5.png", "dog", "u5", " train "),
]
FILES = {path: encode(picture(number)) for number, (path, *_) in enumerate(ROWS)}
COLUMNS = ("path", "label", "user", "split")


def lines(rows=ROWS, columns=COLUMNS, delimiter=",") -> bytes:
    return "".join(delimiter.join(row) + "\n" for row in (columns, *rows)).encode()


def images_of(numbers) -> np.ndarray:
    return np.stack([by_hand(picture(number)) for number in numbers])


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "data", {**FILES, "list.csv": lines()})


def test_rows_by_a_split_column(folder):
    result = from_csv(folder / "list.csv", "path", "label", "user", split_column="split", **QUIET)
    data = result.data
    np.testing.assert_array_equal(data.train_images, images_of([0, 2, 3, 5]))
    np.testing.assert_array_equal(data.test_images, images_of([1, 4]))
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert data.test_labels.tolist() == [1, 0]
    assert (data.class_names, data.name, data.source) == (("cat", "dog"), "images", "image table, 16x16")
    assert data.ids.tolist() == ["u0", "u2", "u3", "u5"]
    assert data.rows_of(["u3", "u0"]).tolist() == [2, 0]
    assert data.notes == ("Labels cat, dog became the classes 0..1 in this order.",)
    assert result.skipped == ()


def test_without_an_id_column_the_paths_are_the_ids(folder):
    data = from_csv(folder / "list.csv", "path", "label", split_column="split", **QUIET).data
    assert data.ids.tolist() == ["a/0.png", "b/2.png", "3.png", "b/5.png"]
    assert data.rows_of(["5.png", "3.png"]).tolist() == [3, 2]


def test_rows_of_a_second_table(folder, tmp_path):
    write(folder, {"train.csv": lines(ROWS[:4])})
    write(tmp_path / "elsewhere", {"val.csv": lines([(f"../data/{row[0]}", *row[1:]) for row in ROWS[4:]])})
    val = tmp_path / "elsewhere" / "val.csv"
    data = from_csv(folder / "train.csv", "path", "label", "user", test_csv=val, **QUIET).data
    np.testing.assert_array_equal(data.train_images, images_of(range(4)))
    np.testing.assert_array_equal(data.test_images, images_of([4, 5]))


def test_rows_drawn_by_a_share_of_each_class(tmp_path):
    rows = [(f"{n}.png", "cat" if n < 20 else "dog", f"u{n}", "") for n in range(30)]
    write(tmp_path, {f"{n}.png": encode(picture(n)) for n in range(30)} | {"list.csv": lines(rows)})
    results = [
        from_csv(tmp_path / "list.csv", "path", "label", test_share=0.3, seed=seed, **QUIET).data for seed in (0, 0, 1)
    ]
    data, again, other = results
    assert np.bincount(data.test_labels).tolist() == [6, 3]
    assert data.fingerprint == again.fingerprint != other.fingerprint
    assert data.notes[0].startswith("The test images are 30% of all images, drawn at random: a model that was trained")
    assert [int(path.split(".")[0]) for path in data.ids] == sorted(int(path.split(".")[0]) for path in data.ids)


def test_a_frame_is_a_table(folder, monkeypatch):
    frame = pd.DataFrame(ROWS, columns=COLUMNS, index=range(10, 16))
    expected = from_csv(folder / "list.csv", "path", "label", "user", split_column="split", **QUIET).data
    found = from_csv(frame, "path", "label", "user", split_column="split", image_folder=folder, **QUIET).data
    assert found.fingerprint == expected.fingerprint
    assert found.ids.tolist() == expected.ids.tolist()
    monkeypatch.chdir(folder)
    assert from_csv(frame, "path", "label", "user", split_column="split", **QUIET).data.fingerprint == found.fingerprint


def test_numbers_written_out_are_numbers(folder):
    numbered = [(path, {"cat": "0", "dog": "1"}[label], *rest) for path, label, *rest in ROWS]
    write(folder, {"list.csv": lines(numbered)})
    data = from_csv(folder / "list.csv", "path", "label", split_column="split", **QUIET).data
    assert data.train_labels.tolist() == [0, 1, 0, 1]
    assert data.class_names == ("class_0", "class_1")
    named = from_csv(folder / "list.csv", "path", "label", split_column="split", class_names=["c", "d"], **QUIET).data
    assert named.class_names == ("c", "d")


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-16"), (",", "latin-1")])
def test_other_dialects(delimiter, encoding, tmp_path):
    rows = [("ü.png", "cat", "u0", "train"), ("1.png", "dog", "u1", "train"), ("ü.png", "cat", "u2", "val")]
    table = lines(rows, delimiter=delimiter).decode().encode(encoding)
    write(tmp_path, {"ü.png": FILES["a/0.png"], "1.png": FILES["a/1.png"], "list.csv": table})
    options = {"split_column": "split", "delimiter": delimiter, "encoding": encoding, **QUIET}
    assert from_csv(tmp_path / "list.csv", "path", "label", "user", **options).data.ids.tolist() == ["u0", "u1"]


def test_of_several_test_splits_one_serves_and_the_others_are_named(folder):
    rows = [(*row[:3], split) for row, split in zip(ROWS, "train val train training test valid".split(), strict=True)]
    write(folder, {"list.csv": lines(rows)})
    data = from_csv(folder / "list.csv", "path", "label", "user", split_column="split", **QUIET).data
    np.testing.assert_array_equal(data.test_images, images_of([4]))
    assert data.ids.tolist() == ["u0", "u2", "u3"]
    assert "Rows of the splits val, valid were left out; test has the test images." in data.notes


def test_bad_files_are_skipped_and_named_or_refused(folder):
    write(folder, {"a/0.png": b"", "a/1.png": b"text"})
    (folder / "3.png").unlink()
    options = {"split_column": "split", **QUIET}
    result = from_csv(folder / "list.csv", "path", "label", "user", **options)
    assert result.skipped == (
        "a/0.png: damaged (it is empty)",
        "3.png: cannot be read (No such file or directory)",
        "a/1.png: not a JPEG, PNG, WebP or BMP image",
    )
    np.testing.assert_array_equal(result.data.train_images, images_of([2, 5]))
    assert result.data.ids.tolist() == ["u2", "u5"]
    assert result.data.train_labels.tolist() == [1, 1]
    assert result.data.test_labels.tolist() == [0]
    np.testing.assert_array_equal(result.data.test_images, images_of([4]))
    assert result.data.class_names == ("cat", "dog")
    assert result.data.source == "image table, 16x16, 3 bad files skipped"
    with pytest.raises(ValueError, match=r'bad_files="refuse", and 3 files are bad: a/0\.png: damaged'):
        from_csv(folder / "list.csv", "path", "label", "user", bad_files="refuse", **options)
    write(folder, {"b/4.png": b""})
    with pytest.raises(ValueError, match="there must be readable training and test images, but"):
        from_csv(folder / "list.csv", "path", "label", "user", **options)


def test_a_pipe_among_the_images_is_not_waited_for(folder):
    (folder / "3.png").unlink()
    os.mkfifo(folder / "3.png")
    result = from_csv(folder / "list.csv", "path", "label", split_column="split", **QUIET)
    assert result.skipped == ("3.png: damaged (it is no regular file)",)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (
            ("p", "label"),
            {},
            ValueError,
            r"image_column='p' is no column of csv=.*list\.csv', which has 'path', 'label', ",
        ),
        (("path", "l"), {}, ValueError, "label_column='l' is no column"),
        (("path", "label", "id"), {}, ValueError, "id_column='id' is no column"),
        (("path", "label"), {"split_column": "part"}, ValueError, "split_column='part' is no column"),
        (("path", "label"), {"delimiter": ";"}, ValueError, "image_column='path' is no col.*: pass delimiter=','$"),
        (("path", "label", "label"), {}, ValueError, "id_column='label' must be unique, but 2 occur .*: cat, dog"),
        (
            ("path", "label"),
            {"split_column": "user"},
            ValueError,
            "must say one of train, .* got u0, u1, u2, u3, u4, u5",
        ),
        (
            ("path", "label"),
            {"split_column": None},
            ValueError,
            "one of split_column, test_csv and test_share must say",
        ),
        (("path", "label"), {"test_share": 0.5}, ValueError, "one of split_column, test_csv and test_share must say"),
        (("path", "label"), {"split_column": None, "test_share": 0}, ValueError, "test_share must lie between 0 and 1"),
        (("path", "label"), {"bad_files": "x"}, ValueError, "bad_files must be one of"),
        (("path", "label"), {"image_size": 7}, ValueError, "image_size must be 8 or more"),
        (("path", "user"), {}, ValueError, "test labels holds u1, u4, which train labels lacks"),
        (("path", "label"), {"encoding": "utf-16"}, ValueError, "is not utf-16 .*; pass its encoding"),
    ],
)
def test_wrong_arguments_are_refused_before_decoding(arguments, options, error, message, folder, monkeypatch):
    monkeypatch.setattr("tmu_jax.data.image_table.decode_all", None)
    with pytest.raises(error, match=message):
        from_csv(folder / "list.csv", *arguments, **{"split_column": "split", **QUIET, **options})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must have named columns and at least one row"),
        (b"path,label,user,split\n", "at least one row"),
        (b"path,label,label,split\n", "must name each column once in its first line, got label more"),
        (lines() + b"b.png,cat\n", "must have 4 values in each line, got 2 in line 8"),
        (lines() + b'"b.png,cat\n', "is no CSV file"),
        (lines() + b",cat,u9,train\n", "image_column='path' must hold a path in each row, got '' in row 6"),
        (lines() + b"9.png,,u9,train\n", "train labels must have a label for each image, but some are empty"),
        (lines() + b"9.png,cat,,train\n", "id_column='user' must have no gaps, but 1 are missing"),
        (lines() + b"3.png,cat,u3,train\n", "id_column='user' must be unique, but 1 occur more than once: u3"),
    ],
)
def test_wrong_tables_are_refused_before_decoding(content, message, tmp_path, monkeypatch):
    monkeypatch.setattr("tmu_jax.data.image_table.decode_all", None)
    write(tmp_path, {"list.csv": content})
    with pytest.raises(ValueError, match=message):
        from_csv(tmp_path / "list.csv", "path", "label", "user", split_column="split", **QUIET)


def test_no_table(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"csv='.*none\.csv' does not exist"):
        from_csv(tmp_path / "none.csv", "path", "label", test_share=0.2)
    with pytest.raises(ValueError, match="must be a CSV file"):
        from_csv(tmp_path, "path", "label", test_share=0.2)
    with pytest.raises(TypeError, match="csv must be the path of a CSV file or a frame, got a int"):
        from_csv(5, "path", "label", test_share=0.2)
