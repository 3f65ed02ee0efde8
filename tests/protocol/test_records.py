"""Records on disk: cells replaced whole, runs named once, samples of another run found."""

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.protocol.records import RecordTable, with_run, write_whole
from experiments.report.files import FEATURES, PROVENANCE, SAMPLES

CELL = {"variant": "default", "num_forget": 3, "ratio": "dataset", "request": "class 1", "seed": 0}
OF_FIRST = {**dict.fromkeys(PROVENANCE, "first"), "versions": {"jax": "first"}, "why": ["first"], "shortfalls": []}
FIRST = {"experiment": "test", **OF_FIRST}
SECOND = FIRST | {"git_revision": "second"}
GOLD = "101"


class Asked:
    """What a run asks for: the graph of a request whose stages are called after what they are of."""

    settings = SimpleNamespace(variant="default", num_forget=3, ratio="dataset", methods=("retrain", "mine"))
    request = SimpleNamespace(name="class 1", seed=0)

    def shown(self, name):
        rows = ("floor_gold_gold", "floor_majority") if name == "floors" else (name,)
        return {row: SimpleNamespace(name=f"stage of {row}") for row in rows}


def entries(method, correct, **place):
    """A cell whose records are what its samples give."""
    right, gold = (np.array([digit == "1" for digit in digits]) for digits in (correct, GOLD))
    accuracy, agreement = 100 * right.mean(), 100 * (right == gold).mean()
    gap = abs(accuracy - 100 * gold.mean())
    record = {**CELL, "method": method, "target_class": 1, "forget_accuracy": accuracy, "agreement": agreement}
    record |= {"forget_gap": gap, "kl": None, "notes": [], "stage": f"stage of {method}"}
    sample = {**CELL, "method": method, "labels": [1, 1, 1], "correct": correct}
    feature = {
        **CELL,
        "problem": "twin",
        "target_class": 1,
        "easy": [True],
        "AF": [0.5],
        "CF": [0.5],
        "NF": [float(right[0])],
    }
    return [record | place], [feature | place], [sample | place]


def floors():
    (record,), _, samples = entries("floor_gold_gold", "111")
    return [record, {**record, "method": "floor_majority", "stage": "stage of floor_majority"}], [], samples


def opened(folder, config):
    """The table as a run opens it: config.json names the run before any record does."""
    config = with_run(config, folder)
    write_whole(folder / "config.json", json.dumps(config))
    return RecordTable(folder, config)


@pytest.fixture
def table(tmp_path):
    table = opened(tmp_path, FIRST)
    for found in (entries("retrain", GOLD), entries("mine", "100"), floors()):
        table.add(*found)
    return table


def held(folder):
    packed = {"features": FEATURES, "samples": SAMPLES}
    files = {name: json.loads(gzip.decompress((folder / file).read_bytes())) for name, file in packed.items()}
    files["config"] = json.loads((folder / "config.json").read_text())
    return files | {"records": [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]}


def test_a_run_is_told_once_and_what_was_not_measured_is_not_there(table, tmp_path):
    found = held(tmp_path)
    assert list(found["config"]["runs"].values()) == [OF_FIRST]
    assert {record["run"] for record in found["records"]} == set(found["config"]["runs"]) == {table.run}
    assert not {"kl", *PROVENANCE} & {key for record in found["records"] for key in record}
    assert found["records"] == table.records == opened(tmp_path, FIRST).records


def test_two_records_of_one_row_are_named_and_neither_is_taken(table, tmp_path):
    path = tmp_path / "results.jsonl"
    first, *others = path.read_text().splitlines()
    again = json.dumps(json.loads(first) | {"forget_accuracy": 99.0})
    path.write_text("\n".join([first, *others, again, ""]))
    said = f"results.jsonl, line {len(others) + 2}: says anew what line 1 says; remove one of them"
    with pytest.raises(ValueError, match=said):
        opened(tmp_path, FIRST)


def test_a_cell_is_replaced_whole_in_its_place(table, tmp_path):
    before = held(tmp_path)
    later = opened(tmp_path, SECOND)
    later.add(*entries("mine", "011"))
    after = held(tmp_path)
    assert [r["method"] for r in after["records"]] == [r["method"] for r in before["records"]]
    changed = [(a, b) for a, b in zip(before["records"], after["records"], strict=True) if a != b]
    assert [b["forget_accuracy"] for _, b in changed] == [pytest.approx(200 / 3)]
    assert [entry["correct"] for entry in after["samples"]] == [GOLD, "011", "111"]
    assert [entry["NF"] for entry in after["features"]] == [[0.0]]
    # Both runs are told, and the records say which made them.
    assert [run["git_revision"] for run in after["config"]["runs"].values()] == ["first", "second"]
    assert [r["run"] for r in after["records"]] == [table.run, later.run, table.run, table.run]
    assert opened(tmp_path, FIRST).run == table.run


def test_what_another_run_adds_meanwhile_stays(tmp_path):
    """Two runs on one folder, each with a table of its own that was read before the other wrote."""
    tables = [opened(tmp_path, FIRST), opened(tmp_path, FIRST)]
    for table, request in zip(tables * 2, ("class 1", "class 2", "class 3", "class 4"), strict=True):
        table.add(*entries("mine", "111", request=request))
    found = held(tmp_path)
    for kind in ("records", "samples", "features"):
        assert [entry["request"] for entry in found[kind]] == ["class 1", "class 2", "class 3", "class 4"]


def test_entries_of_other_requests_stay(table, tmp_path):
    table.add(*entries("mine", "111", request="class 2"))
    assert [r["request"] for r in held(tmp_path)["records"]] == ["class 1"] * 4 + ["class 2"]
    assert len(held(tmp_path)["features"]) == 2


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        (lambda samples: samples, []),
        (lambda samples: [], ["retrain", "mine", "floors"]),
        (lambda samples: samples[:1] + samples[2:], ["mine"]),
        (lambda samples: [samples[0], samples[1] | {"correct": "011"}, samples[2]], ["mine"]),
        (lambda samples: samples[:2], ["floors"]),
    ],
)
def test_a_cell_without_samples_of_its_own_run_is_computed_anew(table, tmp_path, change, missing):
    samples = change(held(tmp_path)["samples"])
    path = tmp_path / SAMPLES
    rewrite(path, samples) if samples else path.unlink()
    assert opened(tmp_path, FIRST).missing(Asked()) == missing


def rewrite(path, found):
    write_whole(path, "[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")


@pytest.mark.parametrize(
    ("change", "missing"),
    [
        ({}, []),
        ({"NF": [6.0]}, ["mine"]),
        ({"easy": [False]}, ["mine"]),
        ({"seed": 7}, ["mine"]),
        (None, ["mine"]),
    ],
    ids=str,
)
def test_a_cell_without_the_features_that_it_rests_on_is_computed_anew(tmp_path, change, missing):
    """Those of another run, of another cell, or none."""
    table, said = opened(tmp_path, FIRST), []
    table.add(entries("retrain", GOLD)[0], [], entries("retrain", GOLD)[2])
    table.add(*entries("mine", "100"))
    table.add(*floors())
    path = tmp_path / FEATURES
    before = held(tmp_path)["features"]
    path.unlink() if change is None else rewrite(path, [entry | change for entry in before])
    later = RecordTable(tmp_path, json.loads((tmp_path / "config.json").read_text()), say=said.append)
    assert later.missing(Asked()) == missing
    later.add(*entries("mine", "100"))
    assert later.missing(Asked()) == []
    assert before[0] in held(tmp_path)["features"]
    assert opened(tmp_path, FIRST).missing(Asked()) == []


def test_of_two_methods_with_features_of_their_own_the_later_ones_stay(table, tmp_path):
    """A cell has the features of one; the other's record is not computed again and again for that."""
    table.add(*entries("mine", "011"))
    first, second = (record["features_sha256"] for record in table.records[:2])
    assert first != second
    assert opened(tmp_path, FIRST).missing(Asked()) == []
    (tmp_path / FEATURES).unlink()
    assert opened(tmp_path, FIRST).missing(Asked()) == ["retrain", "mine"]


def test_features_go_with_the_last_record_that_rests_on_them(table, tmp_path):
    """Methods of a changed code may predict nothing."""
    for method, is_kept in {"mine": True, "retrain": False}.items():
        records, _, samples = entries(method, GOLD)
        table.add(records, [], samples)
        assert (tmp_path / FEATURES).exists() == is_kept
    assert opened(tmp_path, FIRST).missing(Asked()) == []


def test_features_of_records_that_do_not_name_them_are_taken_as_they_are(table, tmp_path):
    """As both were written before; the run says so."""
    old = [{key: value for key, value in r.items() if key != "features_sha256"} for r in held(tmp_path)["records"]]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in old))
    said, config = [], json.loads((tmp_path / "config.json").read_text())
    assert RecordTable(tmp_path, config, say=said.append).missing(Asked()) == []
    (sentence,) = said
    assert sentence == f"{FEATURES}: no record names the features of 1 request; they are taken as they are"
    table.add(*entries("mine", "100"))
    RecordTable(tmp_path, config, say=said.append)
    assert len(said) == 1


@pytest.mark.parametrize(
    ("method", "missing"),
    [("retrain", "retrain"), ("mine", "mine"), ("floor_gold_gold", "floors"), ("floor_majority", "floors")],
)
@pytest.mark.parametrize("stage", ["another", None], ids=["another stage", "none named"])
def test_a_record_of_another_stage_gives_way_and_is_told_of(table, tmp_path, method, missing, stage):
    """None named: as records were written before they named one."""
    lines = [
        record if record["method"] != method else {key: value for key, value in record.items() if key != "stage"}
        for record in held(tmp_path)["records"]
    ]
    lines = [record | ({"stage": stage} if "stage" not in record and stage else {}) for record in lines]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    said = []
    later = RecordTable(tmp_path, json.loads((tmp_path / "config.json").read_text()), say=said.append)
    assert later.missing(Asked()) == [missing]
    later.add(*(floors() if missing == "floors" else entries(method, GOLD if method == "retrain" else "110")))
    assert later.missing(Asked()) == []
    assert said == [f"class 1, seed 0: the record of {method} was of another stage; it is replaced"]
    assert [r["method"] for r in later.records] == ["retrain", "mine", "floor_gold_gold", "floor_majority"]


def test_records_of_another_gold_model_are_refused(table, tmp_path):
    """One that was trained anew, on another machine: its folder would hold figures that its samples do not give."""
    before = held(tmp_path)
    (record,), features, samples = entries("other", "110")
    with pytest.raises(ValueError, match=f"{tmp_path} has the answers of another gold model for class 1, seed 0"):
        table.add([record | {"agreement": 100.0}], features, samples)
    floor, _, of_floor = floors()
    gold = {**of_floor[0], "method": "retrain", "correct": "011"}
    with pytest.raises(ValueError, match=r"agreement of floor_gold_gold is 66\.67, by the one at hand 33\.33"):
        table.add([{**one, "agreement": 100 / 3} for one in floor], [], [*of_floor, gold])
    assert held(tmp_path) == before
    table.add([record], features, samples)
    # Gold itself may be replaced, and the others' records then hold no more.
    (anew,), features, samples = entries("retrain", "011")
    table.add([anew | {"agreement": 100.0, "forget_gap": 0.0}], features, samples)
    assert opened(tmp_path, FIRST).missing(Asked()) == ["mine"]  # The floor agrees with both on as many.


def test_a_config_keeps_its_runs_and_takes_equal_ones_as_one(tmp_path):
    one = with_run(FIRST, tmp_path)
    assert set(one) == {"experiment", "runs"}
    (tmp_path / "config.json").write_text(json.dumps(one))
    two = with_run(SECOND, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(two))
    again = with_run(FIRST, tmp_path)
    assert list(again["runs"]) == list(two["runs"])[::-1]
    assert with_run(again, tmp_path) == again


@pytest.mark.parametrize("name", [SAMPLES, FEATURES])
def test_a_plain_file_of_before_is_read_and_gives_way_to_the_packed_one(table, tmp_path, name):
    before, packed = held(tmp_path), tmp_path / name
    (tmp_path / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    later = opened(tmp_path, FIRST)
    assert later.missing(Asked()) == []
    later.add(*entries("mine", "100"))
    assert not (tmp_path / packed.stem).exists()
    assert held(tmp_path) == before


@pytest.mark.parametrize("name", ["results.jsonl", SAMPLES, "samples.json", FEATURES, "features.json", "config.json"])
def test_a_broken_file_is_named(table, tmp_path, name):
    (tmp_path / f"{name}.gz").unlink(missing_ok=True)  # A plain one is read where there is none in gzip.
    (tmp_path / name).write_text("null\n")
    with pytest.raises(ValueError, match=rf"{name}"):
        opened(tmp_path, FIRST)
