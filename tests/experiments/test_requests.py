"""Requests within a budget: their arms, that rehearsal alone chooses, and their report, all on a tiny problem."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

import tmu_jax
from experiments import requests
from experiments.protocol import budgets
from experiments.protocol import run as runner
from experiments.protocol.budgets import BudgetGraph, best_of
from experiments.protocol.experiment import choose
from experiments.protocol.graph import Graph
from experiments.protocol.requests import make_requests
from experiments.report import write as report
from experiments.report.choices import best_promised, choices
from experiments.report.files import read_records
from experiments.report.results import Results
from tests.protocol.test_run import CONFIG, settings
from tests.tiny import TinyNet, tiny_data
from tmu_jax.preparation import BankSettings, Rehearsal
from tmu_jax.stages import compute
from tmu_jax.store import StageStore
from tmu_jax.unlearning import METHODS, Method
from tmu_jax.unlearning.unlearned import as_unlearned

OPTIONS = requests.Options(
    baselines=("original", "retrain", "bank_labels"),
    budgets=(0.4,),
    banks=("1x2x0.5",),
    in_turn=2,
    in_turn_budgets=(0.6,),
)


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def arms(data):
    return requests.arms(settings(data), OPTIONS, data)


@pytest.fixture(autouse=True)
def tiny_architecture(monkeypatch):
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))


@pytest.fixture(scope="module")
def finished(arms, data, tmp_path_factory):
    """The folder of a run, and its records."""
    output = tmp_path_factory.mktemp("requests")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))
        config = {"experiment": "requests", **CONFIG}
        return output, runner.run(arms, data, output, config, Console(file=io.StringIO()))


def graph_of(arm, data):
    return BudgetGraph(arm, make_requests(arm, data)[0], TinyNet())


def test_the_arms(arms):
    assert [arm.variant for arm in arms] == ["default", "40 %", "60 % in 2 requests", "bank 1x2x0.5"]
    assert arms[0].methods == OPTIONS.baselines
    assert arms[1].methods == requests.METHODS
    assert (arms[2].budget, arms[2].in_turn) == (0.6, 2)
    assert (arms[3].bank, arms[3].methods, arms[3].unlearn) == (BankSettings(2, 1, 0.5), ("bank_labels",), False)


def test_only_the_methods_asked_for_run_within_a_budget(data):
    asked = dataclasses.replace(OPTIONS, within=("rewarm",), banks=())
    assert [arm.methods for arm in requests.arms(settings(data), asked, data)[1:]] == [("rewarm",)] * 2


@pytest.mark.parametrize("forgotten", range(4, 60, 4))
def test_an_arm_has_the_methods_that_its_graph_finds_recipes_of(data, forgotten):
    """Where a budget buys just so much, and for as many images as leave, no method is without a recipe."""
    asked = dataclasses.replace(OPTIONS, baselines=("original", "retrain"), budgets=(0.4,), banks=(), in_turn=0)
    own = settings(data, num_forget=forgotten // 4, classes=(0, 1, 2, 3))
    arm = requests.arms(own, asked, data)[1]
    assert "rewarm" in arm.methods
    for name in arm.methods:
        assert graph_of(arm, data).rehearsals(name)


@pytest.mark.parametrize("name", ["2x2", "axbxc", "2x1x0.5", ""])
def test_a_bank_that_is_none(name):
    with pytest.raises(ValueError, match=r"banks holds|folds=1"):
        requests.bank_named(name)


def test_a_budget_of_no_step_is_refused_before_any_work(data):
    with pytest.raises(ValueError, match=r"budget=1e-05 of a retraining buys 0 images"):
        requests.arms(settings(data), requests.Options(budgets=(0.00001,)), data)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({"num_forget": 0}, {}, "num_forget=0 must be at least 1"),
        ({}, {"within": ("rewarm", "amnesia")}, "within holds 'amnesia'; choose among rewarm, rewarm_rehearsed"),
        ({}, {"in_turn": -3}, r"in_turn=-3 must lie in 0\.\.16"),
        ({}, {"in_turn": 17}, r"in_turn=17 must lie in 0\.\.16"),
        ({}, {"folds": 0}, r"folds=0 leaves no bank, but rewarm_twin, soft_twin, bank_labels would learn from one"),
    ],
)
def test_requests_that_cannot_be(data, changes, options, said):
    with pytest.raises(ValueError, match=said):
        requests.arms(settings(data, **changes), dataclasses.replace(OPTIONS, **options), data)


def test_gold_chooses_nothing(arms, data):
    """No stage of a method within a budget has a gold model behind it."""
    for arm in arms[1:3]:
        for name in arm.methods:
            kinds = {stage.kind for stage in graph_of(arm, data).model(name).with_ancestors()}
            assert "gold" not in kinds
            assert {"original", "twin_model", "rehearsal", name} <= kinds
            assert ("bank_prediction" in kinds) == (name in ("soft_twin", "rewarm_twin"))


def test_requests_in_turn_end_with_the_data_of_one(arms, data):
    """Each request's D is what the one before it left; together they forget what the combined request does."""
    graph = graph_of(arms[2], data)
    first, last = graph._in_turn()
    whole = graph.request.problem
    np.testing.assert_array_equal(first.train.indices, whole.train.indices)
    np.testing.assert_array_equal(last.train.indices, first.retain.indices)
    np.testing.assert_array_equal(last.retain.indices, whole.retain.indices)
    both = np.concatenate([first.forget.indices, last.forget.indices])
    np.testing.assert_array_equal(np.sort(both), np.sort(whole.forget.indices))
    stage = graph.model("soft_twin")
    assert stage.parents["original"].kind == "soft_twin"
    assert stage.parents["original"].parents["original"].kind == "original"


def test_each_method_runs_with_its_best_rehearsal(finished, arms, data):
    output, records = finished
    store = StageStore(output / "stages", warn=pytest.fail)
    for name in requests.METHODS:
        (record,) = (r for r in records if (r["variant"], r["method"], r["target_class"]) == ("40 %", name, "all"))
        assert record["work_share"] <= 0.4 * 1.01  # to whole images
        costs = [
            one["agreement"] - one["gap"] - 100 * one["distance"] - max(0, one["test_loss"]) for one in record["tried"]
        ]
        assert record["tried"][int(np.argmax(costs))]["options"] == record["options"]
        words = ", ".join(f"{key} {value:.3g}" for key, value in record["options"].items())
        saved = store.load(graph_of(arms[1], data).model(name).name)
        assert f"recipe: {words}" in saved.metadata["notes"]
        low, high = record["rehearsed_agreement_interval"]
        assert low <= record["rehearsed_agreement"] <= high


def test_the_records_tell_the_labels_and_the_costs(finished):
    records = {(r["variant"], r["method"]): r for r in finished[1] if r["target_class"] == "all"}
    labels = records["bank 1x2x0.5", "bank_labels"]
    assert 0 <= labels["expected_forget_accuracy"] <= 100
    assert "forget_accuracy" not in labels
    assert "bank" in records["40 %", "soft_twin"]["seconds_by_part"]
    assert "bank" not in records["40 %", "rewarm"]["seconds_by_part"]
    in_turn = records["60 % in 2 requests", "rewarm"]
    assert 0.3 < in_turn["work_share"] <= 0.6 * 1.001
    assert "predictor_accuracy" not in records["60 % in 2 requests", "soft_twin"]
    assert records["default", "original"]["membership_auc"] >= 50


def test_the_seconds_of_requests_in_turn_add_up(arms, data, monkeypatch):
    """Each takes one second here, and what it learns from eight: the last one's model has been paid for once."""
    monkeypatch.setattr(budgets, "best_of", lambda rehearsals: rehearsals[0])

    def apply(self, problem, original, key, *rest):
        parts = {"bank": 8.0, "unlearning": 1.0}
        return as_unlearned(original, original=original, seconds_by_part=parts, seconds=9.0)

    monkeypatch.setattr(Method, "apply", apply)
    arm = dataclasses.replace(arms[2], in_turn=3)
    graph = BudgetGraph(arm, make_requests(arm, data)[0], TinyNet())
    rehearsals = []

    class Known:
        def value(self, stage, make):
            if stage.kind == "rehearsal":
                rehearsals.append(stage)
                return Rehearsal(
                    "rewarm", dict(METHODS["rewarm"].options), 5, 1, 0.1, *[(0, 0, 0), 0.0, *[(0, 0, 0)] * 4], {}, 1.0
                )
            return make()

    model = compute(graph.model("rewarm"), keeper=Known())
    assert rehearsals
    assert model.seconds_by_part == {"bank": 8.0, "unlearning": 3.0}
    assert model.seconds == 11.0


def test_the_debt_of_each_model_is_recorded(finished, arms, data):
    _, records = finished
    forgotten = len(make_requests(arms[1], data)[0].problem.forget)
    (debt,) = {
        json.dumps(record["debt"], sort_keys=True)
        for record in records
        if record["variant"] == "40 %" and "debt" in record
    }
    debt = json.loads(debt)
    assert debt.pop("original (rehearsals)") == debt.pop("twin (rehearsals)") == forgotten
    # Of each repetition's two folds an image lies in one, and is trained on by the other's model.
    for repetition in range(len(debt) // 2):
        assert debt[f"bank {repetition}.0"] + debt[f"bank {repetition}.1"] == forgotten


def test_the_rows_are_of_the_whole_request(finished, arms):
    _, records = finished
    assert arms[0].requests == "combined"
    assert {record["target_class"] for record in records} == {"all"}


def test_a_finished_run_has_nothing_to_do(finished, arms, data):
    output, records = finished
    config = {"experiment": "requests", **CONFIG}
    assert runner.remaining(arms, data, output, config) == []
    assert runner.run(arms, data, output, config, Console(file=io.StringIO())) == records


def test_the_report(finished):
    output, _ = finished
    body = requests.EXPERIMENT.body(output)
    text = report.write_report(output, body).read_text()
    report.print_table(output, Console(file=io.StringIO(), width=80), body)
    for words in (
        "paid after",
        "What rehearsals alone choose",
        "price of not peeking",
        "Foretold and true",
        "Every recipe that was rehearsed",
        "bank 1x2x0.5",
        "chosen",
        "second gold",
        "models in use (of seed 0: original (rehearsals)",
        "None is in service",
    ):
        assert words in text
    assert (output / "requests.svg").stat().st_size > 5000


def test_what_is_shown_first_is_what_rehearsals_choose(finished, tmp_path):
    """Gold says otherwise here, by a planted figure, and is not asked; what it would have saved is the price."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    records = read_records(tmp_path)
    base = {record["method"]: record for record in records if record["variant"] == "default"}
    own = {r["method"]: r for r in records if r["variant"] == "40 %" and not r["method"].startswith("floor_")}
    promised = {"rewarm": 50.0, "rewarm_rehearsed": 40.0, "rewarm_twin": 30.0, "soft_twin": 20.0}
    agreement = {"rewarm": 60.0, "rewarm_rehearsed": 90.0, "rewarm_twin": 80.0, "soft_twin": 70.0}
    for name, record in own.items():
        record |= {"misalignment": promised[name], "agreement": agreement[name], "activation_distance": 0.5}
        record |= {"forget_gap": 5.0, "test_accuracy": base["retrain"]["test_accuracy"] - 1.0}
    own["rewarm_twin"]["test_accuracy"] += 3.0  # Above gold's it counts nothing.
    in_turn = [record for record in records if record["variant"].startswith("60 %")]
    for record in in_turn:
        record["misalignment"] = 1000.0
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    body = requests.EXPERIMENT.body(tmp_path)
    assert body.sentence.startswith(
        "What rehearsals alone choose, soft twin for 40 % of a retraining, comes to agreement 70.0, "
    )
    table = body.sections[0].parts[0]
    row = dict(zip(table.headings, table.rows[0], strict=True))
    assert (row["budget"], row["chosen"]) == ("40 %", "soft twin")
    assert row["agreement"].startswith("70.0")
    # Of 30 + 5 + 1 + 50 and 10 + 5 + 1 + 50.
    assert row["price of not peeking"] == "20.0"


def test_choices_are_made_seed_by_seed():
    def record(seed, method, promised, agreement, **others):
        common = {"target_class": "all", "variant": "10 %", "num_forget": 1, "ratio": "dataset"}
        true = {"agreement": agreement, "forget_gap": 1.0, "activation_distance": 0.2, "test_accuracy": 80.0}
        return common | {"seed": seed, "method": method, "misalignment": promised, **true, **others}

    golds = [record(seed, "retrain", None, 100.0, variant="default") for seed in (0, 1)]
    base = Results(tuple({key: value for key, value in one.items() if key != "misalignment"} for one in golds))
    made = [record(0, "rewarm", 30, 85.0), record(0, "soft_twin", 31, 88.0), record(1, "rewarm", 30, 84.0)]
    own = Results((*made, record(1, "soft_twin", 29, 86.0)))
    (choice,) = choices(base, {"10 %": own}, "all")
    assert (choice.methods, choice.name) == (["rewarm", "soft_twin"], "rewarm or soft twin")
    assert choice.estimate("all", "agreement").mean == pytest.approx(85.5)
    assert choice.peeked == pytest.approx([3.0, 0.0])
    assert choice.promised == [30, 29]
    # A method that one seed lacks may still be chosen in another; a seed without any leaves nothing to say.
    assert choices(base, {"10 %": Results(tuple(made))}, "all")[0].methods == ["rewarm", "rewarm"]
    lacking = Results((*made[:2], record(1, "rewarm", None, 84.0)))
    assert choices(base, {"10 %": lacking}, "all") == []
    best = choice._replace(variant="5 %", promised=[29, 29])
    assert best_promised([choice, best]).variant == "5 %"


def test_labels_of_a_rehearsal_stand_beside_the_banks_and_the_same_labels_once(finished, tmp_path):
    """On these easy images all are the same; so others are written into the records of some methods and one bank."""
    shutil.copytree(finished[0], tmp_path, dirs_exist_ok=True)
    others = {("40 %", "rewarm_rehearsed"): 75.0, ("bank 1x2x0.5", "bank_labels"): 62.5}
    known = {("40 %", method): 80.0 for method in ("soft_twin", "rewarm_twin")}
    own = ["rewarm rehearsed, 40 %", "bank 1x2x0.5", "**second gold**"]
    records = read_records(tmp_path)
    for changed, banks in ((others, ["the bank"]), (others | known, ["the bank", "the bank and what is known"])):
        for record in records:
            if "predictor_accuracy" in record:
                before = record["predictor_accuracy"]
                record["predictor_accuracy"] = changed.get((record["variant"], record["method"]), before)
        (tmp_path / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        text = report.write_report(tmp_path, requests.EXPERIMENT.body(tmp_path)).read_text()
        table = text.split("Easy and hard before unlearning")[1].split("Labels on D_f")[0]
        told = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")][1:]
        assert sorted(told) == sorted(banks + own)


def test_a_folder_without_the_baselines_is_refused(arms, data, tmp_path):
    config = {"experiment": "requests", **CONFIG}
    runner.run(arms[3:], data, tmp_path, config, Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="holds no record of the baselines"):
        requests.EXPERIMENT.body(tmp_path)


def test_the_best_is_the_least_misaligned():
    class One:
        def __init__(self, misalignment):
            self.misalignment = misalignment

    assert best_of([One(3), One(1), One(2)]).misalignment == 1


def test_methods_of_a_bank_stand_beside_the_others(data):
    """In the plain comparison, with their own recipes: the bank is calibrated without a twin model."""
    arm = settings(data, methods=("retrain", "soft_twin", "rewarm"))
    graph = Graph(arm, make_requests(arm, data)[0], TinyNet())
    kinds = [stage.kind for stage in graph.stages(("soft_twin", "rewarm"))]
    assert kinds.count("bank") == 4
    assert "twin_model" not in kinds


def test_what_rehearsals_know_is_in_the_labels_of_their_arms(arms, data):
    """The banks that are compared do without a twin model, and so does the plain comparison."""
    for arm, name, knows in ((arms[1], "soft_twin", True), (arms[3], "bank_labels", False)):
        (stage,) = graph_of(arm, data).shown(name).values()
        (labels,) = [one for one in stage.with_ancestors() if one.kind == "bank_prediction"]
        assert ("twin_model" in {one.kind for one in labels.with_ancestors()}) == knows


def test_the_images_are_those_of_the_set_that_is_named(monkeypatch):
    asked = []
    monkeypatch.setattr(tmu_jax.data, "locate", lambda name, data_dir: asked.append(("locate", name)) or "here")
    monkeypatch.setattr(tmu_jax.data, "load", lambda name, data_dir, download: asked.append(("load", name)))
    for dataset, name in (("auto", "cifar10"), ("cifar10", "cifar10"), ("cifar100", "cifar100")):
        options = requests.Options(dataset=dataset, preset="fast")
        chosen, _ = choose(requests.EXPERIMENT, options)
        assert chosen.dataset == name
        requests.EXPERIMENT.source.load(chosen)
        assert asked == [("locate", name), ("load", name)]
        asked.clear()
