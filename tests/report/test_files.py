"""Broken files are named with their line, in one error that says what to do."""

import gzip
import json

import pytest

from experiments.report import files
from experiments.report.files import (
    SAMPLES,
    packed,
    packed_record,
    read_config,
    read_features,
    read_records,
    read_samples,
    shared_by_arm,
    write_whole,
)
from tests.report.made_up import lines_of, record

SAMPLE = {"request": "all classes", "seed": 0, "method": "twin", "labels": [3, 3], "correct": "01"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"method": "twin", "tar', "line 2: not JSON"),
        ('{"method": "twin", "seed": 0}', "line 2: must be an object with target_class"),
        ("[]", "line 2: must be an object with method, target_class, seed"),
        ("null", "line 2: must be an object with method, target_class, seed, not null"),
        ("\x00garbage", "line 2: not JSON"),
    ],
)
def test_a_broken_record_is_named(tmp_path, line, message):
    (tmp_path / "results.jsonl").write_text(f"{json.dumps(record('twin', 3, 0))}\n{line}\n", "utf-8")
    with pytest.raises(ValueError, match=f"results.jsonl, {message}") as error:
        read_records(tmp_path)
    assert not isinstance(error.value, json.JSONDecodeError)


def test_what_an_arm_shares_is_read_from_the_config(tmp_path):
    """Each record gets its own arm's; what a line says itself stays, and so it does without a config."""
    arms = {
        name: {"dataset": "cifar10", "num_train": count, "recipe": {"epochs": 3, "augment": False}, "seeds": [0]}
        for name, count in (("default", 500), ("other", 900))
    }
    whole = [
        {"method": "a", "target_class": 1, "seed": 0, "dataset": "cifar10", "num_train": 500, "epochs": 3},
        {"method": "a", "target_class": 1, "seed": 0, "variant": "other", "num_train": 900, "epochs": 7},
        {"method": "b", "target_class": 1, "seed": 0, "variant": "no arm", "num_train": 900},
    ]
    (tmp_path / "config.json").write_text(json.dumps({"arms": arms}))
    lean = [packed_record(one, shared_by_arm(tmp_path)) for one in whole]
    keys = {"method", "target_class", "seed"}
    assert [set(one) - keys for one in lean] == [set(), {"variant", "epochs"}, {"variant", "num_train"}]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lean))
    shared = {"dataset": "cifar10", "augment": False}
    assert read_records(tmp_path) == [{**shared, **whole[0]}, {**shared, **whole[1]}, whole[2]]
    (tmp_path / "config.json").unlink()
    assert read_records(tmp_path) == lean


@pytest.mark.parametrize("content", ["", '{"experiment": "ci', "null", "[]"])
def test_a_broken_config_is_named(tmp_path, content):
    (tmp_path / "config.json").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=r"config\.json: "):
        read_config(tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[{", "null", "[\n{\n]\n", "[\n\n]\n", "[\n[]\n]\n"])
def test_broken_samples_and_features_are_named(tmp_path, content):
    for name, read in (("samples", read_samples), ("features", read_features)):
        assert read(tmp_path / "absent") == []
        (tmp_path / f"{name}.json").write_text(content, "utf-8")
        with pytest.raises(ValueError, match=rf"{name}\.json, line [12]: "):
            read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": "011"}, "line 3: correct has 3 answers for 2 labels"),
        ({"distance": [0.5]}, "line 3: distance has 1 answers for 2 labels"),
    ],
)
def test_samples_with_too_few_answers_are_refused(tmp_path, change, message):
    (tmp_path / "samples.json").write_text(lines_of([SAMPLE, SAMPLE | change]), "utf-8")
    with pytest.raises(ValueError, match=message):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", '{"arms": 5}', "arms must be an object, not 5"),
        ("config.json", '{"arms": {"default": 5}}', "'default' in arms must be an object, not 5"),
        ("config.json", '{"runs": {"a": []}}', r"'a' in runs must be an object, not \[\]"),
        ("config.json", '{"arms": {"default": {"recipe": 5}}}', "'default' in arms: recipe must be an object, not 5"),
        ("config.json", '{"arms": {"a": {"recipe": {"epochs": "x"}}}}', "'a' in arms: recipe: epochs must be a number"),
        ("config.json", '{"arms": {"a": {"dataset": [1]}}}', r"'a' in arms: dataset must be a text, not \[1\]"),
        ("config.json", '{"runs": {"a": {"versions": "x"}}}', "'a' in runs: versions must be an object"),
        ("config.json", '{"runs": {"a": {"why": [null]}}}', "'a' in runs: why must be a list"),
        ("config.json", '{"runs": {"a": {"device": []}}}', "'a' in runs: device must be a text"),
        ("config.json", '{"left_out": 1}', "left_out must be a list, not 1"),
        ("config.json", "[" * 100_000, "cannot be read"),
        ("config.json", "1" * 5000, "cannot be read"),
        ("results.jsonl", '{"method": null, "target_class": 1, "seed": 0}', "line 1: must be an object with method"),
        ("results.jsonl", '{"method": "a", "target_class": null, "seed": 0}', "must be an object with target_class"),
        ("results.jsonl", '{"method": "a", "target_class": 1, "seed": Infinity}', "line 1: seed must be a number"),
        (
            "results.jsonl",
            '{"method": "a", "target_class": 1, "seed": 0, "kl": 1%s}' % ("0" * 400),
            "kl must be a number",
        ),
        ("results.jsonl", '{"method": 5, "target_class": 1, "seed": 0}', "line 1: method must be a text, not 5"),
        ("results.jsonl", '{"method": "a", "target_class": 1, "seed": {}}', "line 1: seed must be a number"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_file(tmp_path, name, content, match):
    (tmp_path / name).write_text(content)
    read = {"config.json": read_config, "results.jsonl": read_records}[name]
    with pytest.raises(ValueError, match=f"{name}.*{match}"):
        read(tmp_path)


def test_what_is_no_utf8_is_named_with_its_line(tmp_path):
    (tmp_path / "results.jsonl").write_bytes(b'{"method": "a", "target_class": 1, "seed": 0}\n\xff\n')
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2: not UTF-8"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda whole: b"", "line 1: must be a list"),
        (lambda whole: whole[:-9], "not gzip, or cut short"),
        (lambda whole: whole[:20] + b"\x00\x01" + whole[22:], "not gzip, or cut short"),
        (lambda whole: b"[\n]\n", "not gzip, or cut short"),
        (lambda whole: gzip.compress(b"[\n\xff\n]\n"), "line 2: not UTF-8"),
        (lambda whole: gzip.compress(b"[\n{}\n]\n"), "line 2: must be an object with request"),
    ],
)
def test_a_broken_archive_of_samples_is_named(tmp_path, change, said):
    write_whole(tmp_path / SAMPLES, lines_of([SAMPLE]))
    assert read_samples(tmp_path) == [SAMPLE]
    (tmp_path / SAMPLES).write_bytes(change((tmp_path / SAMPLES).read_bytes()))
    with pytest.raises(ValueError, match=f"{SAMPLES}.*{said}"):
        read_samples(tmp_path)


def test_texts_among_numbers_of_samples_are_named(tmp_path):
    write_whole(tmp_path / SAMPLES, lines_of([SAMPLE | {"distance": ["x", 1, 2, 3, 4, 5]}]))
    with pytest.raises(ValueError, match=f"{SAMPLES}, line 2: distance must be a list of numbers"):
        read_samples(tmp_path)


def test_samples_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    write_whole(tmp_path / SAMPLES, lines_of([SAMPLE] * 100))
    monkeypatch.setattr(files, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="holds more than 1,000 bytes; remove the file"):
        read_samples(tmp_path)


def test_samples_are_written_packed_and_read_in_full(tmp_path):
    entry = SAMPLE | {
        "labels": [3, 3, 3, 0, 1, 1],
        "correct": "010101",
        "distance": [0.0, 1.2345, 0.5, 0.1, 1.0, 0.0001],
    }
    entry["probability"] = [1.0, 0.0, 0.3333, 0.25, 0.9999, 0.5]
    written = packed(entry)
    assert written["labels"] == [(3, 3), (0, 1), (1, 2)]
    assert written["distance"] == [0, 12345, 5000, 1000, 10000, 1]
    for before in (written, entry, {**written, "distance": entry["distance"]}):
        (tmp_path / "samples.json").write_text(lines_of([before]), "utf-8")
        assert read_samples(tmp_path) == [entry]
    sample = SAMPLE | {"correct": "010101"}
    for wrong in (5, [[1]], [[1, "a"]], "3"):
        (tmp_path / "samples.json").write_text(lines_of([sample | {"labels": wrong}]), "utf-8")
        with pytest.raises(ValueError, match=r"samples\.json, line 2: labels must be pairs"):
            read_samples(tmp_path)
