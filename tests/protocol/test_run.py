"""Runs of the whole protocol on a tiny problem: records, resuming, growing, refusing."""

import concurrent.futures
import dataclasses
import gzip
import io
import json
import threading

import chex
import filelock
import jax
import numpy as np
import pytest
from rich.console import Console

import tmu_jax
from experiments.protocol import records as records_module
from experiments.protocol import run as runner
from experiments.protocol.graph import Graph
from experiments.protocol.options import DEFAULT_METHODS
from experiments.protocol.requests import make_requests
from experiments.protocol.settings import Settings, check_output
from experiments.report import write as report
from experiments.report.files import FEATURES, read_records, read_samples
from tests.patching import patch_everywhere
from tests.tiny import TinyNet, tiny_data
from tmu_jax import training, twin
from tmu_jax.stages import VERSIONS, key_for
from tmu_jax.store import StageStore
from tmu_jax.training import Recipe
from tmu_jax.unlearning import METHODS

REQUIRED_KEYS = (
    "dataset preset arch num_train epochs requests target_class num_forget heldout_source seed method run "
    "forget_accuracy forget_gap agreement notes"
).split()
MEASURED_KEYS = (
    "test_accuracy retain_accuracy activation_distance kl js seconds compile_seconds retraining_share seconds_by_part"
).split()
TIMES = {"seconds", "compile_seconds", "retraining_share", "seconds_by_part", "seconds_amortised"}
TIMES |= {"retraining_share_amortised"}
CONFIG = {
    "data_source": "arrays",
    "why": ["a test"],
    "shortfalls": ["all of it"],
    "versions": {},
    "device": "cpu",
    "git_revision": None,
    "command": "test",
}


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))


def settings(data, **changes):
    defaults = Settings(
        experiment="test",
        dataset="arrays",
        data_fingerprint=data.fingerprint,
        preset="tiny",
        arch="tiny",
        num_train=len(data.train_labels),
        recipe=Recipe(epochs=4, batch_size=20),
        requests="combined",
        classes=(0, 2),
        num_forget=8,
        seeds=(0,),
        methods=("original", "retrain", "finetune", "twin"),
        twin_settings=twin.TwinSettings(
            twin_recipe=Recipe(epochs=1, batch_size=20, schedule="constant"),
            max_twin_epochs=2,
            eps_candidates=(4 / 255,),
        ),
    )
    return dataclasses.replace(defaults, **changes)


def run(settings, data, output):
    return runner.run([settings], data, output, {"experiment": "test", **CONFIG}, Console(file=io.StringIO()))


def without_times(records):
    return [{key: value for key, value in record.items() if key not in TIMES} for record in records]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A finished run: its folder and records."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))
        output = tmp_path_factory.mktemp("run")
        return output, run(settings(data), data, output)


def test_a_record_for_every_class_and_method_and_the_pooled_row(finished, data):
    output, records = finished
    floors = ["floor_gold_gold", "floor_majority", "floor_count_matched"]
    expected = {(c, m) for c in (0, 2, "all") for m in [*settings(data).methods, *floors]}
    assert sorted(map(str, expected)) == sorted(str((r["target_class"], r["method"])) for r in records)
    assert records == read_records(output)
    lines = (output / "results.jsonl").read_text().splitlines()
    # What all of an arm share is not written in each line, and is read from config.json.
    shared = ("experiment", "dataset", "preset", "arch", "num_train", "requests", "heldout_source", "epochs", "augment")
    assert {name for line in lines for name in shared if name in json.loads(line)} == set()
    assert set(shared) <= set(records[0])
    for record in records:
        assert set(REQUIRED_KEYS) <= set(record)
        assert record["method"].startswith("floor_") or set(MEASURED_KEYS) <= set(record)
        assert ("predictor_accuracy" in record) == (record["method"] == "twin")
    (run,) = json.loads((output / "config.json").read_text())["runs"].items()
    assert run == (records[0]["run"], CONFIG)
    assert not set(CONFIG) & {key for record in records for key in record}
    assert str(output) not in (output / "results.jsonl").read_text() + (output / "config.json").read_text()


def test_every_method_that_a_command_runs_by_default_has_records_and_a_place_in_the_report(data, tmp_path):
    """With the labels that the method itself learnt, read back from disk too."""
    records = run(settings(data, methods=DEFAULT_METHODS), data, tmp_path)
    pooled = {r["method"]: r for r in records if r["target_class"] == "all"}
    assert set(DEFAULT_METHODS) <= set(pooled)
    labelled = {name for name in DEFAULT_METHODS if METHODS[name].needs is not None}
    assert {name for name in DEFAULT_METHODS if "predictor_accuracy" in pooled[name]} == labelled
    cost = pooled["rewarm_rehearsed"]
    assert set(cost["seconds_by_part"]) == {"bank", "twin_model", "rehearsal", "unlearning"}
    assert min(cost["seconds_by_part"].values()) > 0
    assert cost["seconds"] == pytest.approx(sum(cost["seconds_by_part"].values()))
    assert cost["stage_by_part"]["bank"] == pooled["soft_twin"]["stage_by_part"]["bank"]
    saved = {part: cost["seconds_by_part"][part] for part in ("bank", "twin_model", "rehearsal")}
    users = {"bank": 4, "twin_model": 1, "rehearsal": 1}  # of the bank two soft methods, bank_labels and this one
    shared = sum(seconds * (1 - 1 / users[part]) for part, seconds in saved.items())
    assert cost["seconds_amortised"] == pytest.approx(cost["seconds"] - shared)
    samples = read_samples(tmp_path)
    arm = settings(data, methods=DEFAULT_METHODS)
    graph = Graph(arm, make_requests(arm, data)[0], TinyNet())
    kept = StageStore(tmp_path / "stages", warn=pytest.fail).load(graph.model("rewarm_rehearsed").name)
    (own,) = (entry for entry in samples if entry["method"] == "rewarm_rehearsed")
    np.testing.assert_allclose(own["probability"], kept.arrays["prediction"]["probability"], atol=1e-4)
    report.write_report(tmp_path)
    assert "rewarm rehearsed" in (tmp_path / "report.md").read_text()


def test_methods_with_an_original_or_a_module_of_their_own_have_records(data, tmp_path):
    """`amnesiac` has an original that kept its updates, the other one's equal; `sisa` leaves an ensemble."""
    arm = settings(data, num_forget=2, methods=("original", "retrain", "amnesiac", "ntk", "sisa"))
    pooled = {r["method"]: r for r in run(arm, data, tmp_path) if r["target_class"] == "all"}
    assert {"amnesiac", "ntk", "sisa"} <= set(pooled)
    assert set(pooled["sisa"]["seconds_by_part"]) == {"shards", "unlearning"}
    assert "steps of the training held a forgotten image" in str(pooled["amnesiac"]["notes"])
    graph = Graph(arm, make_requests(arm, data)[0], TinyNet())
    store = StageStore(tmp_path / "stages", warn=pytest.fail)
    keeping, plain = (store.load(stage.name).arrays for stage in (graph.original_with_updates, graph.original))
    chex.assert_trees_all_equal(keeping["variables"], plain["variables"])
    assert "updates" in keeping
    assert "updates" not in plain
    (tmp_path / "results.jsonl").unlink()
    again = {r["method"]: r for r in run(arm, data, tmp_path) if r["target_class"] == "all"}  # from what is kept
    assert {name: again[name]["kl"] for name in arm.methods} == {name: pooled[name]["kl"] for name in arm.methods}


def test_records_agree_with_each_other(finished):
    _, records = finished
    by_cell = {(r["target_class"], r["method"]): r for r in records}
    gold = by_cell["all", "retrain"]
    assert gold["forget_gap"] == 0
    assert gold["agreement"] == 100
    assert gold["retraining_share"] == 1
    assert by_cell["all", "floor_majority"]["agreement"] == pytest.approx(gold["forget_accuracy"])
    pooled = by_cell["all", "twin"]
    halves = [by_cell[c, "twin"]["forget_accuracy"] for c in (0, 2)]
    assert pooled["forget_accuracy"] == pytest.approx(np.mean(halves))
    assert pooled["seconds"] == pytest.approx(sum(pooled["seconds_by_part"].values()))
    assert pooled["retraining_share"] == pytest.approx(pooled["seconds"] / gold["seconds"])
    assert by_cell["all", "floor_gold_gold"]["kl"] > 0
    assert by_cell["all", "original"]["seconds"] == 0


def test_the_library_gives_the_record_to_the_last_bit(finished, data):
    """`unlearn` with the record's key, settings and recipe: the same weights, labels and figures."""
    output, records = finished
    arm = settings(data)
    (request,) = make_requests(arm, data)
    graph, problem = Graph(arm, request, TinyNet()), request.problem
    store = StageStore(output / "stages", warn=pytest.fail)
    seed_key = jax.random.key(0)
    original = tmu_jax.train(TinyNet(), problem.train, recipe=arm.recipe, key=key_for(seed_key, "original "))
    gold_key = key_for(seed_key, f"gold {request.name}")
    gold = tmu_jax.unlearn("retrain", problem, original, key=gold_key)
    for name in ("retrain", "finetune", "twin"):
        options = {"settings": arm.twin_settings} if name == "twin" else {}
        model = gold if name == "retrain" else tmu_jax.unlearn(name, problem, original, key=seed_key, **options)
        chex.assert_trees_all_equal(model.variables, store.load(graph.model(name).name).arrays["variables"])
        record = next(r for r in records if r["method"] == name and r["target_class"] == "all")
        found = tmu_jax.evaluate(problem, model, gold=gold)
        figures = dataclasses.asdict(found.readouts)
        assert {key: record[key] for key in figures} == figures
        if name == "twin":
            labels = store.load(graph.prediction.name).arrays
            np.testing.assert_array_equal(model.generalization_labels["probability"], labels["probability"])
            assert record["predictor_auc"] == found.predictor.auc


def test_the_report_is_written_from_a_run(finished):
    output, _ = finished
    text = report.write_report(output).read_text()
    assert "twin" in text
    assert (output / "overview.svg").stat().st_size > 1000


def stop_twice(function, seen):
    """The function, interrupted before its first call and after its second."""

    def stopping(*args, **kwargs):
        seen.append(1)
        if len(seen) == 1:
            raise KeyboardInterrupt
        result = function(*args, **kwargs)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return result

    return stopping


def test_interrupted_and_resumed_equals_uninterrupted(finished, data, tmp_path, monkeypatch):
    """Stopped before every training and around features, records and files, a run trains nothing twice."""
    _, expected = finished
    fit, calls = training.fit, []

    def stop_every_second_time(*args, **kwargs):
        calls.append(1)
        if len(calls) % 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    patch_everywhere(monkeypatch, training.fit, stop_every_second_time)
    others = {
        (twin.request, "measure_features"): [],
        (records_module, "write_whole"): [],
        (records_module.RecordTable, "add"): [],
    }
    for (owner, name), seen in others.items():
        monkeypatch.setattr(owner, name, stop_twice(getattr(owner, name), seen))
    interruptions = 0
    while True:
        try:
            records = run(settings(data), data, tmp_path)
            break
        except KeyboardInterrupt:
            interruptions += 1
            assert interruptions < 30
    # original, gold, finetune, twin model, curriculum model, twin, second gold: each begun twice, finished once.
    assert len(calls) == 14
    assert all(len(seen) > 2 for seen in others.values())
    # An interrupted file is within an interrupted `add`, and features come to it: not all of them count twice.
    assert 7 + len(others) < interruptions <= 7 + 2 * (len(others) + 1)
    features = [json.loads(gzip.decompress((folder / FEATURES).read_bytes())) for folder in (tmp_path, finished[0])]
    assert features[0] == features[1]
    assert without_times(records) == without_times(expected)
    stages = sorted(path.name.split("-")[0] for path in (tmp_path / "stages").glob("[!.]*"))
    assert stages == [
        "curriculum",
        "features",
        "finetune",
        "gold",
        "gold",
        "original",
        "prediction",
        "twin",
        "twin_model",
    ]


def test_a_finished_run_does_nothing_more(finished, data, monkeypatch):
    output, expected = finished
    patch_everywhere(monkeypatch, training.fit, lambda *args, **kwargs: pytest.fail("trained again"))
    before = (output / "results.jsonl").read_text()
    assert run(settings(data), data, output) == expected
    assert (output / "results.jsonl").read_text() == before


def test_seeds_methods_and_classes_are_added_to_a_folder(data, tmp_path):
    small = settings(data, requests="each", classes=(1,), methods=("original",))
    first = run(small, data, tmp_path)
    more = dataclasses.replace(small, classes=(1, 3), seeds=(0, 1), methods=("original", "random_labeling"))
    records = run(more, data, tmp_path)
    assert without_times(records[: len(first)]) == without_times(first)
    cells = {(r["target_class"], r["seed"], r["method"]) for r in records if not r["method"].startswith("floor")}
    assert cells == {(c, s, m) for c in (1, 3) for s in (0, 1) for m in ("original", "random_labeling")}
    originals = list((tmp_path / "stages").glob("original-*"))
    assert len(originals) == 2  # one for each seed, shared by the classes
    grown = json.loads((tmp_path / "config.json").read_text())["arms"]["default"]
    assert grown["classes"] == [1, 3]
    assert grown["seeds"] == [0, 1]


def test_one_curriculum_model_serves_all_classes_and_is_amortised(data, tmp_path):
    records = run(settings(data, requests="each", methods=("twin", "twin_negative_gradient")), data, tmp_path)
    assert len(list((tmp_path / "stages").glob("curriculum-*"))) == 1
    twins = [record for record in records if record["method"].startswith("twin")]
    assert len(twins) == 4
    for record in twins:
        parts = record["seconds_by_part"]
        shared = (parts["twin_model"] + parts["features"] + parts["predictor"]) / 2 + parts["curriculum"] / 4
        assert record["seconds_amortised"] == pytest.approx(parts["unlearning"] + shared)
        share = record["retraining_share_amortised"] / record["retraining_share"]
        assert share == pytest.approx(record["seconds_amortised"] / record["seconds"])


def test_curriculum_models_of_each_request_are_not_divided_among_requests(data, tmp_path):
    """A model for each size of request, and each problem's own after its first epoch."""
    own = settings(data, requests="each", methods=("twin",), share_curriculum=False)
    first_epoch = dataclasses.replace(own.twin_settings, curriculum="first_epoch")
    for name, arm, count in (("own", own, 2), ("first", dataclasses.replace(own, twin_settings=first_epoch), 4)):
        records = run(arm, data, tmp_path / name)
        assert len(list((tmp_path / name / "stages").glob("curriculum-*"))) == count
        twins = [record for record in records if record["method"] == "twin"]
        assert len(twins) == 2
        assert all(record["seconds_amortised"] == record["seconds"] for record in twins)


def test_a_changed_method_gets_new_records(data, tmp_path, monkeypatch):
    """Its options, recipe or version: the record, samples and features are replaced, and the run says so."""

    def relabel(problem, original, key, *, easy, share):
        targets = tmu_jax.true_targets(problem)
        weights = np.where(np.arange(len(targets)) % 10 < 10 * share, 1.0, 0.0).astype(np.float32)
        return tmu_jax.Relabelling(tmu_jax.Stream((problem.train.indices,)), targets, weights)

    mine = tmu_jax.Method("mine", relabel, Recipe(epochs=2, batch_size=20), needs="prediction", options={"share": 1.0})
    small = settings(data, requests="each", classes=(1,), methods=("finetune", "mine"))
    seen = []
    changes = (
        {},
        {"options": {"share": 0.5}},
        {"options": {"share": 0.5}, "recipe": Recipe(epochs=3, batch_size=20)},
        {"options": {"share": 0.5}, "recipe": Recipe(epochs=3, batch_size=20), "version": 2},
    )
    for change in changes:
        monkeypatch.setitem(METHODS, "mine", dataclasses.replace(mine, **change))
        shown = io.StringIO()
        config = {"experiment": "test", **CONFIG}
        records = runner.run([small], data, tmp_path, config, Console(file=shown, width=200))
        said = [line for line in shown.getvalue().splitlines() if "replaced" in line]
        expected = "class 1, seed 0: the record of mine was of another stage; it is replaced"
        assert said == ([expected] if seen else [])
        seen.append({record["method"]: record for record in records})
        assert len(records) == len(seen[-1])
        samples = read_samples(tmp_path)
        assert sorted(entry["method"] for entry in samples) == ["finetune", "floor_gold_gold", "mine", "retrain"]
    assert len({found["mine"]["stage"] for found in seen}) == len(changes)
    assert len({found["mine"]["kl"] for found in seen}) == 3  # a version alone changes no number
    for found in seen[1:]:
        assert [found[name] for name in found if name != "mine"] == [seen[0][name] for name in found if name != "mine"]
    assert seen[-1]["mine"]["stage"] in {path.name for path in (tmp_path / "stages").iterdir()}
    # And back: what is on disk is found again.
    monkeypatch.setitem(METHODS, "mine", mine)
    (again,) = [record for record in run(small, data, tmp_path) if record["method"] == "mine"]
    assert {key: again[key] for key in again if key not in TIMES} == without_times([seen[0]["mine"]])[0]


def test_the_labels_of_a_changed_code_replace_the_features_too(data, tmp_path, monkeypatch):
    small = settings(data, requests="each", classes=(1,), methods=("twin",))
    run(small, data, tmp_path)
    path = tmp_path / FEATURES
    before = path.read_bytes()
    stale = gzip.decompress(before).replace(b'"problem":"twin"', b'"problem":"twin","stale":true')
    path.write_bytes(gzip.compress(stale))
    monkeypatch.setitem(VERSIONS, "prediction", VERSIONS["prediction"] + 1)
    run(small, data, tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [None, (b'"easy":"', b'"easy":"1'), (b'"NF":[', b'"NF":[1,')], ids=str)
def test_features_that_are_gone_or_another_runs_are_made_anew_from_the_stages(data, tmp_path, monkeypatch, damage):
    small = settings(data, requests="each", classes=(1,), methods=("twin",))
    run(small, data, tmp_path)
    patch_everywhere(monkeypatch, training.fit, lambda *args, **kwargs: pytest.fail("trained again"))
    path = tmp_path / FEATURES
    before = path.read_bytes()
    content = gzip.decompress(before)
    path.unlink()
    if damage is not None:
        assert content.count(damage[0]) == 2
        path.write_bytes(gzip.compress(content.replace(*damage)))
    run(small, data, tmp_path)
    assert path.read_bytes() == before
    # The run has nothing more to do.
    stamp = path.stat().st_mtime_ns
    run(small, data, tmp_path)
    assert path.stat().st_mtime_ns == stamp


def test_each_record_names_the_stage_that_it_shows(finished, data):
    output, records = finished
    arm = settings(data)
    (request,) = make_requests(arm, data)
    graph = Graph(arm, request, TinyNet())
    stages = {name: graph.model(name).name for name in arm.methods}
    stages |= {"floor_gold_gold": graph.second_gold.name, "floor_majority": graph.gold.name}
    stages["floor_count_matched"] = graph.original.name
    assert {(r["method"], r["stage"]) for r in records} == set(stages.items())
    assert {path.name for path in (output / "stages").iterdir()} >= set(stages.values())


def test_a_change_that_alters_cells_is_refused_with_its_name(finished, data):
    output, _ = finished
    with pytest.raises(ValueError, match=r"recipe\.epochs: 4 there, now 5") as error:
        run(settings(data, recipe=Recipe(epochs=5, batch_size=20)), data, output)
    assert "arch" not in str(error.value)
    counting = dataclasses.replace(settings(data).twin_settings, threshold="count")
    with pytest.raises(ValueError, match=r"twin_settings\.threshold"):
        run(settings(data, twin_settings=counting), data, output)
    with pytest.raises(ValueError, match="classes"):
        run(settings(data, classes=(0, 1, 2)), data, output)


def test_a_request_that_cannot_be_made_stops_before_any_work(data, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="num_forget"):
        run(settings(data, num_forget=51), data, tmp_path / "out")
    monkeypatch.setitem(METHODS, "alias", METHODS["twin"])
    monkeypatch.setitem(METHODS, "floor_mine", dataclasses.replace(METHODS["finetune"], name="floor_mine"))
    for methods in ("nonsense",), ("twin", "twin"), (), ("floors",), ("alias",), ("floor_mine",):
        with pytest.raises(ValueError, match="methods"):
            run(settings(data, methods=methods), data, tmp_path / "out")
    for name in ("classes", "seeds"):
        for values in ((), (1, 1)):
            with pytest.raises(ValueError, match=name):
                run(settings(data, requests="each", **{name: values}), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_users_own_method_runs_beside_the_others(data, tmp_path, monkeypatch):
    for name in ("mine", "gold"):  # a name that the runner uses for a model of its own is no trap
        monkeypatch.setitem(METHODS, name, dataclasses.replace(METHODS["finetune"], name=name))
    records = run(settings(data, methods=("retrain", "mine", "gold")), data, tmp_path)
    pooled = {r["method"]: r for r in records if r["target_class"] == "all"}
    assert pooled["mine"]["kl"] > 0
    assert pooled["gold"]["kl"] > 0
    assert pooled["retrain"]["kl"] == 0


@pytest.mark.parametrize("num_forget", [8, 50])
def test_the_labels_that_a_users_own_method_predicts_are_recorded(data, tmp_path, monkeypatch, num_forget):
    """Also where all of a class is forgotten, and nothing was predicted from."""
    small = settings(data, requests="each", classes=(1,), num_forget=num_forget, methods=("mine",))

    def run_twin(problem, original, key, *, progress):
        return tmu_jax.unlearn("twin", problem, original, key=key, settings=small.twin_settings)

    monkeypatch.setitem(METHODS, "mine", tmu_jax.Method("mine", run=run_twin))
    for _ in range(2):  # the second time from its checkpoint
        record = next(r for r in run(small, data, tmp_path) if r["method"] == "mine")
        assert record["predictor_accuracy"] is not None
        assert (record["predicted_hard_share"] == 1) == (num_forget == 50)
        (tmp_path / "results.jsonl").unlink()
    assert len(list((tmp_path / "stages").glob("mine-*"))) == 1


def test_a_size_is_added_to_a_folder(data, tmp_path):
    small = settings(data, methods=("original",))
    first = run(small, data, tmp_path)
    records = run(dataclasses.replace(small, num_forget=5), data, tmp_path)
    assert without_times(records[: len(first)]) == without_times(first)
    assert {r["num_forget"] for r in records} == {5, 8}
    assert len(list((tmp_path / "stages").glob("original-*"))) == 1


def test_a_whole_class_is_hard_by_definition(data, tmp_path):
    records = run(settings(data, requests="each", classes=(1,), num_forget=50, methods=("twin",)), data, tmp_path)
    record = next(r for r in records if r["method"] == "twin")
    assert record["predicted_hard_share"] == 1
    assert set(record["seconds_by_part"]) == {"unlearning"}
    assert any("hard" in note for note in record["notes"])


def test_heldout_images_from_the_training_set(data, tmp_path):
    records = run(settings(data, heldout_source="train", methods=("twin",)), data, tmp_path)
    record = next(r for r in records if r["method"] == "twin" and r["target_class"] == "all")
    assert record["test_accuracy_outside_heldout"] == record["test_accuracy"]
    assert record["heldout_source"] == "train"


@pytest.mark.parametrize("wait", [False, True])
def test_a_second_run_joins_or_waits(data, tmp_path, wait):
    """Two seeds in one folder, begun while the other is at work; both are there in the end, and the report's config."""
    first, said = threading.Event(), io.StringIO()
    held = filelock.FileLock(tmp_path / ".running")
    held.acquire()
    config = {"experiment": "test", **CONFIG}
    other = settings(data, seeds=(1,), methods=("original",))

    def second():
        first.set()
        runner.run([other], data, tmp_path, config, Console(file=said, width=200), wait=wait)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(second)
        first.wait()
        if wait:
            with pytest.raises(TimeoutError):
                done.result(1.0)
            assert not (tmp_path / "results.jsonl").exists()
            held.release()
        done.result(60)
        held.release()
    records = run(settings(data, methods=("original",)), data, tmp_path)
    assert {record["seed"] for record in records} == {0, 1}
    assert ("waiting for it" if wait else "both go on") in said.getvalue()
    assert json.loads((tmp_path / "config.json").read_text())["arms"]["default"]["seeds"] == [1, 0]


def test_a_folder_from_before_a_setting_was_there_has_its_default(data, tmp_path):
    """Written without the settings that came later, a folder goes on with their defaults and refuses other values."""
    arm = settings(data)
    before = arm.plain()
    for name in ("unlearning_start", "unlearning_noise", "tuned_share", "twin_model"):
        del before[name]
    for name in ("curriculum_data", "predictor_epochs"):
        del before["twin_settings"][name]
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "test", "arms": {"default": before}, "runs": {}}))
    check_output([arm], tmp_path)
    later = dataclasses.replace(arm.twin_settings, predictor_epochs=200)
    others = {"tuned_share": 0.25}, {"twin_model": True}, {"twin_settings": later}
    for changed in ({"unlearning_start": "twin"}, *others):
        with pytest.raises(ValueError, match=next(iter(changed))):
            check_output([dataclasses.replace(arm, **changed)], tmp_path)
