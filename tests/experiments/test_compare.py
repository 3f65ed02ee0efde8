"""The comparison of all methods: its arms, its ranks and pairs, and its report, on a tiny problem."""

import dataclasses
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

import tmu_jax
from experiments import compare
from experiments.protocol import run as runner
from experiments.protocol.command import public_arguments
from experiments.protocol.graph import Graph
from experiments.protocol.options import FROM_BANK
from experiments.protocol.requests import make_requests
from experiments.protocol.settings import recipes_name
from experiments.report import compare as report_compare
from experiments.report import write as report
from experiments.report.misalignment import misalignment
from tests.protocol.test_run import CONFIG, settings
from tests.tiny import TinyNet, tiny_data
from tmu_jax.unlearning.shipped import SHIPPED

METHODS = ("original", "retrain", "finetune", "random_labeling")


@pytest.fixture(scope="module")
def data():
    return tiny_data()


@pytest.fixture(scope="module")
def recipes(tmp_path_factory):
    """A file with a recipe for one of the methods."""
    recipe = tmu_jax.METHODS["random_labeling"].own_recipe | {"epochs": 1, "learning_rate": 0.002}
    held = {"random_labeling": {"chosen": {"number": 1, "recipe": recipe, "options": {}}, "tries": []}}
    path = tmp_path_factory.mktemp("recipes") / "mine.json"
    path.write_text(json.dumps({"methods": held}))
    return str(path)


@pytest.fixture(scope="module")
def options(recipes):
    return compare.Options(methods=METHODS, recipes=("published", recipes), share=0.2, folds=0)


@pytest.fixture(scope="module")
def arms(data, options):
    return compare.arms(settings(data, seeds=(0, 1)), options, data)


@pytest.fixture(scope="module")
def finished(arms, data, tmp_path_factory):
    """The folder of a run, and its records."""
    output = tmp_path_factory.mktemp("compare")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))
        config = {"experiment": "compare", **CONFIG}
        return output, runner.run(arms, data, output, config, Console(file=io.StringIO()))


def test_the_arms(arms, recipes):
    assert [arm.variant for arm in arms] == [
        f"{scenario}, {kind}"
        for scenario in ("random", "part", "class")
        for kind in ("published", recipes_name(recipes))
    ]
    assert [(arm.classes, arm.num_forget) for arm in arms[::2]] == [((0, 2), 10), ((0,), 10), ((0,), "all")]
    for published, tuned in zip(arms[::2], arms[1::2], strict=True):
        assert (published.recipes, published.methods) == (None, METHODS)
        assert (tuned.recipes, tuned.methods) == (recipes, ("random_labeling",))
        same = {"recipes": None, "methods": METHODS, "variant": published.variant}
        assert dataclasses.replace(tuned, **same) == published


def test_the_defaults():
    """The paper's share of forgotten images, all methods, both recipes; two folds in two repetitions."""
    shares = {name: preset["share"] for name, preset in compare.EXPERIMENT.presets.items()}
    assert shares == {"quick": 0.1, "fast": 0.02, "paper": 0.02}
    default = compare.Options()
    assert (default.part, default.methods, default.recipes) == (0.2, ("all",), ("published", SHIPPED))
    assert (default.folds, default.repetitions, default.epochs_share, default.twin_model) == (2, 2, 0.5, False)


def test_a_tuned_arm_runs_the_recipe_of_the_file(arms, data):
    graphs = [Graph(arm, make_requests(arm, data)[0], TinyNet()) for arm in arms[:2]]
    assert [graph.method("random_labeling").recipe.learning_rate for graph in graphs] == [0.01, 0.002]
    assert graphs[0].model("random_labeling").name != graphs[1].model("random_labeling").name
    assert graphs[0].original.name == graphs[1].original.name


def test_all_methods_but_those_that_learn_from_a_bank_that_is_none(data, recipes):
    def chosen(**options):
        asked = compare.Options(recipes=("published",), share=0.2, **options)
        return set(compare.arms(settings(data), asked, data)[0].methods)

    assert chosen() == set(tmu_jax.METHODS)
    assert chosen(folds=0) == {name for name, method in tmu_jax.METHODS.items() if method.needs not in FROM_BANK}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scenarios": ()}, r"scenarios=\[\] must name at least one"),
        ({"recipes": ("published", "published")}, "must name at least one, each once"),
        ({"share": 0.0}, "share=0.0 must lie between 0 and 1"),
        ({"part": 1.0}, "part=1.0 must lie between 0 and 1"),
        ({"twin_model": True}, "twin_model=True has no use beside folds=0"),
        ({"methods": ("soft_twin",)}, "folds=0 leaves no bank, but soft_twin"),
        ({"methods": ("original", "retrain")}, "hold none of the methods; they have: random_labeling"),
    ],
)
def test_what_cannot_be(data, options, changes, said):
    with pytest.raises(ValueError, match=said):
        compare.arms(settings(data), dataclasses.replace(options, **changes), data)


def test_a_twin_model_tells_the_bank_how_well_images_are_known_where_it_is_asked_for(data):
    for asked in (False, True):
        options = compare.Options(methods=("rewarm_twin",), recipes=("published",), share=0.2, twin_model=asked)
        arm = compare.arms(settings(data), options, data)[0]
        request = make_requests(arm, data)[0]
        model = Graph(arm, request, TinyNet(data.num_classes)).model("rewarm_twin")
        assert ("twin model" in [stage.label for stage in model.with_ancestors()]) == asked
        assert any("how well an image is known" in line for line in compare.describe(arm, options)) == asked


def test_records_name_a_file_of_recipes_without_its_folder(arms, recipes, finished):
    output, _ = finished
    assert str(pathlib.Path(recipes).parent) not in (output / "config.json").read_text()
    assert re.fullmatch("mine-[0-9a-f]{8}", arms[1].plain()["recipes"])
    assert public_arguments(["--recipes", "published", recipes]) == ["--recipes", "published", "mine.json"]
    folder = pathlib.Path(recipes).parent / "a=b"
    folder.mkdir()
    odd = shutil.copy(recipes, folder)
    assert public_arguments([odd, f"--recipes={odd}"]) == ["mine.json", "--recipes=mine.json"]
    assert public_arguments([f"--recipes={recipes}", "--classes", "a/b"]) == ["--recipes=mine.json", "--classes", "a/b"]


def test_files_of_recipes_are_told_apart_by_what_they_hold(data, options, recipes, tmp_path):
    """Not by their names: two called alike are two arms, copies of one are one, and none passes for what ships."""
    other = shutil.copy(recipes, tmp_path / "other.json")
    with pytest.raises(ValueError, match="holds the same recipes twice"):
        compare.arms(
            settings(data), dataclasses.replace(options, recipes=(recipes, shutil.copy(recipes, tmp_path))), data
        )
    held = json.loads(pathlib.Path(recipes).read_text())
    for name in ("mine", "published", SHIPPED):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(held | {"note": "changed"}))
        found = compare.arms(
            settings(data), dataclasses.replace(options, recipes=("published", recipes, str(path))), data
        )
        assert len({arm.variant for arm in found}) == 9
        assert f"random, {name}" not in {arm.variant for arm in found} - {"random, published"}
    assert recipes_name(other).startswith("other-")
    assert recipes_name(SHIPPED) == SHIPPED


def test_recipes_that_are_none(data, options):
    with pytest.raises(FileNotFoundError, match="neither a file nor a name that ships"):
        compare.arms(settings(data), dataclasses.replace(options, recipes=("nowhere",)), data)


def rows_of(output, scenario):
    groups = [r for r in report_compare.load_results(output) if r.setting["variant"].startswith(scenario)]
    return report_compare._rows(groups)


def test_the_ranks_are_those_of_the_records(finished, recipes):
    """By hand from the records: the mean rank over the seeds, the nearest to gold first."""
    output, records = finished
    rows = rows_of(output, "random")
    known = [("floor: gold-gold", "floor_gold_gold"), ("original", "original"), ("finetune", "finetune")]
    known += [("random labeling", "random_labeling"), ("random labeling, tuned", "random_labeling")]
    values, distances, agreements = [], [], []
    for name, method in known:
        variant = "published" if not name.endswith("tuned") else recipes_name(recipes)
        own = [r for r in records if r["method"] == method and r["variant"].startswith("random")]
        own = sorted((r for r in own if r["variant"].endswith(variant)), key=lambda r: r["seed"])
        golds = [
            r["test_accuracy"]
            for seed in (0, 1)
            for r in records
            if (r["method"], r["seed"], r["variant"]) == ("retrain", seed, "random, published")
        ]
        values.append(
            [
                misalignment(r["agreement"], r["forget_gap"], r["activation_distance"], gold - r["test_accuracy"])
                for r, gold in zip(own, golds, strict=True)
            ]
        )
        distances.append([r["activation_distance"] for r in own])
        agreements.append([-r["agreement"] for r in own])
    order = np.argsort(np.mean(values, axis=1), kind="stable")
    assert [row.name for row in rows] == [known[i][0] for i in order]
    table = report_compare._ranks(rows)
    for column, readouts in enumerate((values, agreements, distances), 1):
        ranks = stats.rankdata(readouts, axis=0).mean(axis=1)
        shown = {row[0]: float(row[column].split(" ")[0]) for row in table.rows}
        assert shown == {known[i][0]: pytest.approx(ranks[i], abs=0.051) for i in range(len(known))}


def test_a_pair_that_differs_is_named_from_both_sides(finished):
    table = report_compare._pairs(rows_of(finished[0], "random"))
    better = {row[0]: set(row[4].split(", ")) if row[4] != "none" else set() for row in table.rows}
    counts = {row[0]: tuple(map(int, row[3].split(" / "))) for row in table.rows}
    names = [name for name in better if "," not in name]
    for name in names:
        assert counts[name][1] == sum(name in others for others in better.values())


def test_the_report(finished):
    output, _ = finished
    body = compare.EXPERIMENT.body(output)
    text = report.write_report(output, body).read_text()
    report.print_table(output, Console(file=io.StringIO(), width=80), body)
    assert body.sentence.startswith("Of 3 methods and recipes ")
    for words in ("random labeling, tuned", "a whole class", "Which pairs differ", "Ranks", "a second gold model"):
        assert words in text
    for scenario in ("random", "part", "class"):
        assert (output / f"compare-{scenario}.svg").stat().st_size > 5000


def test_a_folder_without_gold_is_refused(arms, data, tmp_path, monkeypatch):
    monkeypatch.setitem(tmu_jax.models.ARCHITECTURES, "tiny", lambda num_classes, dtype: TinyNet(num_classes))
    alone = dataclasses.replace(arms[0], methods=("finetune",), seeds=(0,))
    config = {"experiment": "compare", **CONFIG}
    runner.run([alone], data, tmp_path, config, Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="add retrain to --methods"):
        compare.EXPERIMENT.body(tmp_path)
