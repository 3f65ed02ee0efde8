"""The paper's numbers beside ours: in its setting, by its rows, with what is wrong with them said."""

import pytest

from experiments.report.paper import PAPER_SETTINGS, paper_differences, paper_tables, printed_tables
from experiments.report.results import split_settings
from tests.report.made_up import PAPER, QUICK, RUN, cells_of, only, record, small_run

PAPER_100 = QUICK | {"experiment": "cifar100"} | PAPER_SETTINGS["cifar100"]


def test_papers_numbers_beside_ours_in_the_papers_setting():
    results = only(small_run(PAPER, seeds=(0,)))
    tables = {table.title: table for table in paper_tables(results)}
    table1, distances = (printed_tables()[f"table{t}"] for t in ("1_cifar10_resnet18", "3_activation_distance_cifar10"))
    theirs = {target: table1[target]["twin"]["forget_gap_printed"] for target in ("3", "5")}
    assert cells_of(tables["Forget gap"], "3 cat") == [f"4.0 / {theirs['3']:.1f}", "3.0", "20.0", "1.5"]
    # The paper's mean is taken over the classes that ran.
    assert cells_of(tables["Forget gap"], "mean of 2 classes") == [
        f"4.0 / {sum(theirs.values()) / 2:.1f}",
        "3.0",
        "25.0",
        "1.5",
    ]
    assert cells_of(tables["Forget accuracy A_f"], "5 dog") == ["74.0 / 81.0", "70.0 / 76.0"]
    (other,) = [title for title in tables if "another definition" in title]
    assert cells_of(tables[other], "3 cat") == [f"– / {distances['3']['twin']:.3f}"]
    assert cells_of(tables["Predictor on D_f (its Table 4)"], "3 cat") == ["90.0 / 79.0", "87.5", "80.0", "70.0"]


def test_unprinted_gaps_of_the_paper_follow_from_its_accuracies():
    results = only([record("finetune", 3, 0, PAPER, forget_gap=26.5)])
    (table,) = [table for table in paper_tables(results) if table.title == "Forget gap"]
    assert cells_of(table, "3 cat") == ["26.5 / 26.0"]


@pytest.mark.parametrize("field", PAPER_SETTINGS["cifar10"])
@pytest.mark.parametrize("setting", [PAPER, PAPER_100], ids=["cifar10", "cifar100"])
def test_no_paper_numbers_in_any_other_setting(setting, field):
    changed = setting | {field: "another"}
    assert not paper_tables(only(small_run(changed)))
    (difference,) = paper_differences(only(small_run(changed)))
    assert difference == f"{field} = another (the paper: {setting[field]})"


def test_an_experiment_without_tables_of_its_own_is_measured_by_its_data_set():
    for experiment, dataset, theirs in (
        ("variants", "cifar100", "cifar100"),
        ("variants", "synthetic", "cifar10"),
        ("cifar100", "synthetic", "cifar100"),
    ):
        results = only(small_run(QUICK | {"experiment": experiment, "dataset": dataset}))
        epochs = PAPER_SETTINGS[theirs]["epochs"]
        assert f"epochs = 6 (the paper: {epochs})" in paper_differences(results)


def test_no_paper_numbers_where_the_run_itself_names_a_shortfall():
    for shortfalls in (["threshold count instead of half"], []):
        (results,) = split_settings(small_run(PAPER), runs={"r1": RUN | {"shortfalls": shortfalls}})
        assert paper_differences(results) == shortfalls
        assert bool(paper_tables(results)) != bool(shortfalls)


def cifar100_run(names=("road", "turtle"), setting=PAPER_100):
    """Two classes under the indices that CIFAR-100 gives them; the paper's rows go by name."""
    records = []
    for target, name in zip((68, 93), names, strict=True):
        named = setting | {"class_name": name}
        for method, forget in {"retrain": 80.0, "random_labeling": 5.0, "twin": 84.0}.items():
            readouts = {"forget_accuracy": forget, "forget_gap": abs(forget - 80.0), "test_accuracy": 70.0}
            records.append(record(method, target, 0, **readouts) | named)
        records.append(record("floor_gold_gold", target, 0, forget_accuracy=82.0, forget_gap=2.0) | named)
    return records


def test_cifar100_has_the_papers_second_table_by_name():
    tables = {table.title: table for table in paper_tables(only(cifar100_run()))}
    assert list(tables) == ["Test accuracy A_t", "Forget accuracy A_f", "Forget gap"]
    accuracy, gap = tables["Forget accuracy A_f"], tables["Forget gap"]
    assert cells_of(accuracy, "93 turtle") == ["80.0 / 79.0", "5.0 / 7.0", "84.0 / 84.0", "82.0"]
    assert cells_of(gap, "93 turtle") == ["75.0 / 72.0", "4.0 / 5.0", "2.0"]
    # The printed gap of the doubtful row stands as printed, and the note on it beside the table.
    assert cells_of(gap, "68 road") == ["75.0 / 89.0", "4.0 / 7.0", "2.0"]
    for title in ("Forget accuracy A_f", "Forget gap"):
        assert "8.4; its rows average 9.6" in tables[title].caption
        assert "prints accuracy 52 with gap 89" in tables[title].caption
    for table in tables.values():
        assert "81 % test accuracy is beyond a plain ResNet-18 trained from scratch" in table.caption


def test_a_class_that_the_paper_lacks_stays_without_its_numbers():
    tables = {table.title: table for table in paper_tables(only(cifar100_run(("road", "wolf"))))}
    gap = tables["Forget gap"]
    assert cells_of(gap, "93 wolf") == ["75.0 / –", "4.0 / –", "2.0"]
    assert cells_of(gap, "mean of 2 classes") == ["75.0 / 89.0", "4.0 / 7.0", "2.0"]
