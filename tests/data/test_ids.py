"""Rows asked for by id, against a dictionary by hand."""

import pathlib
import uuid

import numpy as np
import pandas as pd
import pytest

from tmu_jax.data import Dataset, from_arrays


def data_with(ids, count=None) -> Dataset:
    count = len(ids) if count is None else count
    images = np.random.default_rng(0).integers(0, 256, (count, 2, 2, 1), np.uint8)
    labels = np.arange(count) % 2
    return from_arrays(images, labels, images[:2], labels[:2], ids=ids)


FACES = data_with(["ann/1.jpg", "ann/2.jpg", "bob/1.jpg", "bob/3.jpg", "1.jpg.d/4.jpg", "5.jpg"])


def test_rows_come_in_the_order_asked_for():
    rng = np.random.default_rng(1)
    ids = [f"user-{number}" for number in rng.permutation(1000)]
    by_hand = {name: row for row, name in enumerate(ids)}
    data = data_with(ids)
    asked = rng.permutation(ids)[:77]
    for given in (asked, asked.tolist(), tuple(asked), pd.Series(asked), pd.Index(asked), pd.DataFrame({"id": asked})):
        rows = data.rows_of(given)
        assert rows.dtype == np.int64
        assert rows.tolist() == [by_hand[name] for name in asked]


@pytest.mark.parametrize("ids", [[7, 5, 6], ["7", "5", "6"], np.array([7, 5, 6], np.uint8), pd.Series([7, 5, 6])])
def test_integers_and_strings_are_one(ids):
    data = data_with(ids)
    assert data.train_ids.dtype.kind == "U"
    for asked in ([5, 7], ["5", "7"], np.array([5, 7]), [5, "7"], [b"5", np.int8(7)]):
        assert data.rows_of(asked).tolist() == [1, 0]


def test_without_ids_a_row_is_its_number():
    data = data_with(None, count=12)
    assert data.rows_of([11, "3"]).tolist() == [11, 3]
    assert data.rows_of(range(3)).tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="1 is unknown: 12 "):
        data.rows_of([0, 12])


def test_a_bare_file_name_serves_where_it_is_unambiguous():
    assert FACES.rows_of(["3.jpg", "ann/1.jpg", "2.jpg", "4.jpg", "5.jpg"]).tolist() == [3, 0, 1, 4, 5]
    assert FACES.rows_of([pathlib.Path("bob") / "1.jpg"]).tolist() == [2]
    with pytest.raises(ValueError, match=r"1 is the file name of several images: 1\.jpg \(ann/1\.jpg, bob/1\.jpg\)$"):
        FACES.rows_of(["2.jpg", "1.jpg"])
    with pytest.raises(ValueError, match=r"1 is asked for more than once: ann/2\.jpg$"):
        FACES.rows_of(["2.jpg", "ann/2.jpg"])
    # The id itself comes before the name of another's file.
    assert data_with(["x/a.jpg", "a.jpg"]).rows_of(["a.jpg"]).tolist() == [1]


def test_ten_of_each_fault_are_named_and_all_counted():
    data = data_with([f"a/{n}" for n in range(30)] + [f"b/{n}" for n in range(30)])
    asked = [f"none{n}" for n in range(12)] + [f"a/{n}" for n in range(11)] * 2 + [f"{n}" for n in range(10)]
    with pytest.raises(ValueError, match="ids must each name one training image; ") as error:
        data.rows_of(asked)
    unknown, repeated, ambiguous = str(error.value).split("; ")[1:]
    named = ", ".join(f"none{n}" for n in range(10))
    assert unknown == f"12 are unknown: {named} and 2 more (the data has ids such as a/0)"
    assert repeated == f"11 are asked for more than once: {', '.join(f'a/{n}' for n in range(10))} and 1 more"
    assert ambiguous.startswith("10 are the file name of several images: 0 (a/0, b/0), 1 (a/1, b/1)")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ([], ValueError, "ids must name at least one image, got none"),
        ("ann/1.jpg", TypeError, "must be a sequence of strings or integers, got a str"),
        ({"ann/1.jpg"}, TypeError, r"got a set; sorted\(ids\) gives a set an order"),
        ({"ann/1.jpg": 1}, TypeError, "got a dict"),
        (iter(["ann/1.jpg"]), TypeError, "got a list_iterator"),
        (5, TypeError, "got a int"),
        ([5.0], TypeError, r"got 5\.0, a float; if all are whole numbers, pass them as integers"),
        ([5.5], TypeError, r"got 5\.5, a float$"),
        ([True], TypeError, "got True, a bool"),
        (np.array([True]), TypeError, "got True, a bool"),
        ([uuid.UUID(int=5)], TypeError, "a UUID"),
        (["ann/1.jpg", None, "", float("nan"), pd.NA], ValueError, "4 are missing, the first in row 1"),
        (pd.Series([5, None]), ValueError, "1 are missing"),
        (pd.DataFrame({"a": [1], "b": [2]}), ValueError, r"shape \[n\], got \[1, 2\]; pass the one column"),
    ],
)
def test_what_are_no_ids_is_refused(asked, error, message):
    with pytest.raises(error, match=message):
        FACES.rows_of(asked)


def test_ids_cannot_steer_a_terminal_and_are_found_as_they_came():
    data = data_with(["\x1b[31m/\udcff.jpg", "b"])
    assert data.ids.tolist() == ["\\x1b[31m/\\udcff.jpg", "b"]
    assert data.rows_of(["\x1b[31m/\udcff.jpg"]).tolist() == data.rows_of(["\\udcff.jpg"]).tolist() == [0]
    with pytest.raises(ValueError, match=r"unknown: \\x1b\[2J "):
        data.rows_of(["\x1b[2J"])


def test_ids_that_occur_twice_are_refused_everywhere():
    with pytest.raises(
        ValueError, match=r"ids must be unique, but 12 occur more than once: 0, 1, 10, .*, 7 and 2 more$"
    ):
        data_with([*range(12), *range(12)])
    data = data_with(list("ab"))
    with pytest.raises(ValueError, match=r"Dataset\.train_ids must be unique, but 1 occur"):
        Dataset(
            "d", "arrays", data.train_images, data.train_labels, data.test_images, data.test_labels, ("a", "b"),
            train_ids=np.asarray(["a", "a"]),
        )  # fmt: skip
