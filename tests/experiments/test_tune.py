"""The search of every method's recipe: as many tries each, by rehearsal alone, and the file that it leaves."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

import tmu_jax
from experiments import tune
from experiments.protocol import run as runner
from experiments.protocol.graph import Graph
from experiments.protocol.options import FROM_BANK
from experiments.protocol.requests import make_requests
from experiments.report import write as report
from experiments.report.misalignment import misalignment
from tests.protocol.test_run import CONFIG, settings
from tests.tiny import TinyNet, tiny_data
from tmu_jax.unlearning.ranges import attempt

OPTIONS = tune.Options(methods=("finetune", "rewarm"), tries=3)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def arms(data):
    return tune.arms(settings(data), OPTIONS, data)


@pytest.fixture(scope="module")
def finished(arms, data, tmp_path_factory):
    """The folder of a run, its records, and the text of its report."""
    output = tmp_path_factory.mktemp("tune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))
        config = {"experiment": "tune", **CONFIG}
        records = runner.run(arms, data, output, config, Console(file=io.StringIO()))
    return output, records, report.write_report(output, tune.EXPERIMENT.body(output)).read_text()


def test_the_defaults():
    default = tune.Options()
    assert (default.tries, default.methods, default.folds) == (6, ("all",), 0)
    assert tune.EXPERIMENT.presets["fast"]["requests"] == "combined"


def test_an_arm_is_a_try_of_every_method(arms):
    assert [arm.variant for arm in arms] == ["try 0", "try 1", "try 2"]
    assert arms[0].methods == ("original", "retrain", "finetune", "rewarm")
    assert {arm.methods for arm in arms[1:]} == {("finetune", "rewarm")}


def test_all_is_what_has_ranges_and_a_bank_where_it_learns_from_one(data):
    def chosen(**options):
        return tune.arms(settings(data), tune.Options(tries=1, **options), data)[0].methods[2:]

    assert set(chosen()) == {n for n, m in tmu_jax.METHODS.items() if m.ranges and m.needs not in FROM_BANK}
    assert set(chosen(folds=2)) == {n for n, m in tmu_jax.METHODS.items() if m.ranges}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tries": 0}, r"tries=0 must lie in 1..1000"),
        ({"tries": 10**9}, r"tries=1000000000 must lie in 1..1000"),
        ({"methods": ("twin",)}, "methods holds 'twin', which this run cannot tune"),
        ({"methods": ("soft_twin",)}, "methods holds 'soft_twin', which this run cannot tune"),
    ],
)
def test_what_cannot_be(data, options, said):
    with pytest.raises(ValueError, match=said):
        tune.arms(settings(data), dataclasses.replace(OPTIONS, **options), data)


def test_the_first_try_is_the_arm_of_a_plain_run_and_each_rehearses_what_it_runs(arms, data):
    for number, arm in enumerate(arms):
        graph = Graph(arm, make_requests(arm, data)[0], TinyNet())
        for name in ("finetune", "rewarm"):
            wanted = attempt(tmu_jax.METHODS[name], number)
            assert (graph.method(name).recipe, graph.method(name).options) == (wanted.recipe, wanted.options)
            (rehearsal,) = graph.rehearsals(name)
            of_other = Graph(arms[number - 1], make_requests(arm, data)[0], TinyNet()).rehearsals(name)[0]
            assert rehearsal.name != of_other.name
            kinds = {stage.kind for stage in rehearsal.with_ancestors()}
            assert "gold" not in kinds
        plain = Graph(settings(data), make_requests(arm, data)[0], TinyNet())
        assert (graph.model("finetune").name == plain.model("finetune").name) == (number == 0)
        assert graph.rehearsals("original") == plain.rehearsals("finetune") == []


def test_the_file_has_the_best_rehearsed_of_each_method(finished, arms):
    output, records, _ = finished
    held = json.loads((output / "recipes.json").read_text())["methods"]
    assert list(held) == ["finetune", "rewarm"]
    golds = {r["seed"]: r["test_accuracy"] for r in records if r["method"] == "retrain"}
    for name in held:
        own = [r for r in records if r["method"] == name]
        assert [r["variant"] for r in own] == ["try 0", "try 1", "try 2"]
        best = min(range(3), key=lambda number: own[number]["misalignment"])
        chosen = held[name]["chosen"]
        assert (chosen["number"], chosen["options"]) == (best, own[best]["options"])
        assert chosen["recipe"] == own[best].get("recipe")
        for one, record in zip(held[name]["tries"], own, strict=True):
            assert one["true"]["agreement"] == pytest.approx(record["agreement"], abs=1e-3)
            assert one["rehearsed"]["misalignment"] == pytest.approx(record["misalignment"], abs=1e-3)
            readouts = (record[key] for key in ("agreement", "forget_gap", "activation_distance"))
            lost = golds[record["seed"]] - record["test_accuracy"]
            assert one["true"]["misalignment"] == pytest.approx(misalignment(*readouts, lost), abs=1e-3)
        assert tmu_jax.tuned(name, output / "recipes.json").options == own[best]["options"]


def test_misalignment_is_that_of_a_rehearsal(finished):
    for record in finished[1]:
        if "misalignment" in record:
            promised = (record[f"rehearsed_{key}"] for key in ("agreement", "gap", "distance", "test_loss"))
            assert record["misalignment"] == pytest.approx(misalignment(*promised))
    assert misalignment(90.0, 2.0, 0.2, -5.0) == 10 + 2 + 20


def test_the_report(finished):
    output, _, text = finished
    for words in ("Tuned by rehearsal, 3 tries each", "a choice by gold would have gained", "finetune, try 2"):
        assert words in text
    assert (output / "tries.svg").stat().st_size > 3000
    report.print_table(output, Console(file=io.StringIO(), width=80), tune.EXPERIMENT.body(output))


def test_a_recipe_that_diverges_is_left_out(arms, data, tmp_path, monkeypatch):
    """The others are searched on; the published protocol still stops."""
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))
    method = tmu_jax.METHODS["finetune"]

    def diverges(*args, **options):
        raise FloatingPointError("the loss is NaN")

    monkeypatch.setitem(tmu_jax.METHODS, "finetune", dataclasses.replace(method, relabel=diverges))
    console = Console(file=io.StringIO(), width=200)
    config = {"experiment": "tune", **CONFIG}
    records = runner.run(arms[:2], data, tmp_path, config, console)
    assert {r["method"] for r in records if r["variant"] == "try 1"} >= {"rewarm", "floor_gold_gold"}
    assert "finetune" not in {r["method"] for r in records}
    assert "diverges" in console.file.getvalue()
    assert [row[0] for row in tune.EXPERIMENT.body(tmp_path).table.rows][:1] == ["rewarm"]
    plain = dataclasses.replace(arms[0], attempt=None, variant="default")
    with pytest.raises(FloatingPointError):
        runner.run([plain], data, tmp_path / "plain", config, console)
