"""Labels of every kind against the classes that they must become."""

import time
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

from tmu_jax.data.labels import convert_labels


def convert(train, test, class_names=None):
    found, names, notes = convert_labels({"train_labels": train, "test_labels": test}, class_names)
    assert all(array.dtype == np.int32 and array.ndim == 1 for array in found.values())
    return found["train_labels"].tolist(), found["test_labels"].tolist(), names, notes


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64, np.uint64, object])
def test_classes_stay_as_they_are(dtype):
    train, test = np.array([2, 0, 1, 2]).astype(dtype), [1, 0]
    assert convert(train, test) == ([2, 0, 1, 2], [1, 0], ("class_0", "class_1", "class_2"), [])


def test_int32_labels_are_not_copied():
    labels = np.array([0, 1, 2], np.int32)
    found, _, _ = convert_labels({"train_labels": labels, "test_labels": labels})
    assert found["train_labels"] is labels


@pytest.mark.parametrize(
    ("train", "test", "expected", "names", "note"),
    [
        ([1, 2, 3], [3, 1], ([0, 1, 2], [2, 0]), ("class_1", "class_2", "class_3"), "1, 2, 3 became the classes 0..2"),
        ([0, 8, 1, 8], [8], ([0, 2, 1, 2], [2]), ("class_0", "class_1", "class_8"), "0, 1, 8 became the classes 0..2"),
        ([10**9, 0], [0], ([1, 0], [0]), ("class_0", "class_1000000000"), "0, 1000000000 became"),
        (["cat", "ant"], ["cat"], ([1, 0], [1]), ("ant", "cat"), "ant, cat became the classes 0..1"),
        ([b"cat", b"ant"], np.array(["cat"]), ([1, 0], [1]), ("ant", "cat"), "ant, cat"),
        (pd.Series(["cat", "ant"], dtype="category"), ["cat"], ([1, 0], [1]), ("ant", "cat"), "ant, cat"),
        (["10", "9", "1"], ["9"], ([2, 1, 0], [1]), ("class_1", "class_9", "class_10"), "1, 9, 10 became"),
        (["007", "10", "9"], ["9"], ([0, 1, 2], [2]), ("007", "10", "9"), "007, 10, 9 became"),
        (["a\x1b", "b"], ["b"], ([0, 1], [1]), ("a\\x1b", "b"), "a\\x1b, b became"),
    ],
)
def test_others_become_classes_in_their_order_and_it_is_said(train, test, expected, names, note):
    found = convert(train, test)
    assert found[:2] == expected
    assert found[2] == names
    assert len(found[3]) == 1
    assert note in found[3][0]
    is_number = names[0].startswith("class_")
    assert ("pass class_names, one for each output of your model" in found[3][0]) == is_number


@pytest.mark.parametrize(
    ("train", "note"),
    [
        ([0.0, 2.0, 1.0], "Labels of type float64 were taken as whole numbers."),
        (np.array([0, 2, 1], np.float16), "Labels of type float16 were taken as whole numbers."),
        ([[0], [2], [1]], "Labels [n, 1] were taken as [n]."),
        (pd.DataFrame([0, 2, 1]), "Labels [n, 1] were taken as [n]."),
    ],
)
def test_plain_numbers_in_another_dress(train, note):
    assert convert(train, [1]) == ([0, 2, 1], [1], ("class_0", "class_1", "class_2"), [note])


def test_truth_values_are_two_classes():
    found = convert(np.array([True, False]), [False])
    assert found == ([1, 0], [0], ("class_0", "class_1"), ["Labels False and True became the classes 0 and 1."])
    assert convert(pd.Series([True, False], dtype=object), [0])[0] == [1, 0]


def test_numbers_written_out_are_numbers():
    assert convert(["0", "2", "1"], [1]) == ([0, 2, 1], [1], ("class_0", "class_1", "class_2"), [])
    assert convert(["0.0", "10.0", "2"], ["2.0"])[:2] == ([0, 2, 1], [1])


def test_with_names_a_label_keeps_its_meaning():
    names = ("a", "b", "c", "d")
    assert convert([3, 1], [1], names) == ([3, 1], [1], names, [])
    assert convert(["d", "b"], ["c"], names)[:3] == ([3, 1], [2], names)
    assert convert(["3", "1"], [2], names)[:3] == ([3, 1], [2], names)
    assert convert(["3", "1"], ["1"], ["1", "2", "3"])[:2] == ([2, 0], [0])
    assert convert([True, False], [0], ["no", "yes"])[:2] == ([1, 0], [0])


def test_a_class_that_training_lacks_is_said_where_numbers_stand_and_refused_where_they_would_shift():
    assert convert([0, 2, 0], [1, 2])[2:] == (
        ("class_0", "class_1", "class_2"),
        ["There are test images, but no training images, of class_1."],
    )
    assert convert([0, 0], [1], ["a", "b"])[3] == ["There are test images, but no training images, of b."]
    for train, test, named in ([[1, 3], [2], "2"], [["a", "c"], ["b", "c"], "b"], [[0, 1], [10**9], "1000000000"]):
        with pytest.raises(ValueError, match=f"test_labels holds {named}, which train_labels lacks: .*class_names"):
            convert(train, test)


EYE = np.eye(3, dtype=int)


@pytest.mark.parametrize(
    ("train", "error", "message"),
    [
        ([0, 1, 2**31], ValueError, "train_labels must be at most 2147483647, the largest int32, got 2147483648"),
        ([0, 1, 2**32 + 1], ValueError, "got 4294967297"),
        ([0, 10**400, Fraction(1, 3)], ValueError, "the largest int32, got 1000"),
        ([0, 1, 2**64], ValueError, "got 18446744073709551616"),
        ([0, 1, 2.0**40], ValueError, "got 1099511627776"),
        (["0", "1", "2147483648"], ValueError, "got 2147483648"),
        ([0, -1, 2], ValueError, "must be 0 or more, got -1; if that marks .* leave them out"),
        (["0", "-1", "2"], ValueError, "must be 0 or more, got -1"),
        ([0, 0.5, 1], TypeError, r"must be integers or strings, got float64 such as 0\.5"),
        ([0, np.nan, np.inf], ValueError, "but 2 are infinite or not a number; leave these out"),
        (pd.Series(["a", None, "b"]), ValueError, "1 are missing, the first in row 1; leave these images out"),
        (["a", float("nan"), "b"], ValueError, "1 are missing, the first in row 1"),
        (["a", "", "b"], ValueError, "some are empty"),
        (["a", "b", "b "], ValueError, "must not differ by spaces alone, got 'b '; strip them"),
        (["a", 1, "b"], TypeError, "object with values of type int, str"),
        ([1j, 0, 1], TypeError, "got complex128"),
        ({"a": 1}, ValueError, r"must have shape \[n\], got \[\]$"),
        ([[0, 1], [2]], ValueError, r"must have shape \[n\], got uneven sequences"),
        (EYE, ValueError, r"got \[3, 3\]; these look like one-hot rows, so take labels\.argmax\(axis=1\)$"),
        (EYE.astype(np.float32), ValueError, r"one-hot rows, so take labels\.argmax\(axis=1\)$"),
        (EYE > 0, ValueError, r"one-hot rows, so take labels\.argmax\(axis=1\)$"),
        (1 - EYE, ValueError, r"got \[3, 3\]; these look like several labels an image, and each image must have one$"),
        (EYE * 0.8 + 0.2 / 3, ValueError, r"got \[3, 3\]; these look like soft labels, .* must be of one class$"),
        ([[3, 1], [4, 1], [5, 9]], ValueError, r"got \[3, 2\]; pass the one column that holds the classes$"),
        (list(range(20)), ValueError, "must name classes, but all 20 labels differ; are they ids"),
        ([3, 3, 3], ValueError, "at least 2 classes, got 1"),
    ],
)
def test_doubtful_labels_are_refused_with_advice_that_fits(train, error, message):
    with pytest.raises(error, match=message):
        convert(train, train)


def test_strings_beside_numbers_are_refused():
    with pytest.raises(TypeError, match="all strings or all numbers, but train_labels has 'a' and test_labels 1"):
        convert(["a", "b"], [1])


@pytest.mark.parametrize(
    ("train", "names", "message"),
    [
        ([0, 3], "abc", "train_labels must lie below the 3 class_names, got 3$"),
        ([1, 3], "abc", "below the 3 class_names, got 3; they seem to count from 1: pass labels - 1"),
        (["a", "x"], "abc", "train_labels must be among class_names, got x"),
        (["a", "b"], "abb", "class_names must not name a class of train_labels twice, got b"),
        ([10**9, 0], "abc", "got 1000000000"),
    ],
)
def test_labels_outside_of_the_names_are_refused(train, names, message):
    with pytest.raises(ValueError, match=message):
        convert(train, train[:1], list(names))


def test_a_large_label_costs_nothing():
    labels = np.array([0, 2**31 - 1] * 1000)
    start = time.process_time()
    assert convert(labels, labels)[0] == [0, 1] * 1000
    assert time.process_time() - start < 1
