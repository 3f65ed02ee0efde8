"""The tables, the sentences and how figures are written, against records whose figures are known."""

import pytest

from experiments.report.formats import display_name, plain, text, to_markdown
from experiments.report.intervals import Estimate
from experiments.report.results import Results, split_settings
from experiments.report.tables import (
    accuracy_table,
    cost_table,
    difference_table,
    main_table,
    method_table,
    predictor_tables,
)
from experiments.report.verdict import verdict
from tests.report.made_up import QUICK, cells_of, only, record, small_run


def test_figures_are_written_as_what_they_are():
    assert text(Estimate(0.0)) == "0.0"
    assert text(Estimate(None)) == "–"
    assert text(Estimate(-0.01)) == "0.0"
    assert text(Estimate(85.1, 84.9, 85.3, "seeds")) == "85.1 ± 0.2"
    assert text(Estimate(7.1, 5.2, 9.04, "images")) == "7.1 [5.2, 9.0]"
    assert text(Estimate(7.1, 5.2, 9.04, "images"), interval=False) == "7.1"
    assert text(Estimate(0.071, 0.052, 0.09, "images"), "hard_share") == "7.1 [5.2, 9.0]"
    assert text(Estimate(0.0714), "activation_distance") == "0.071"


def test_names_are_written_without_control_and_markup():
    assert plain("\x1b]0;title\x07\udcff\u202e\n") == "\\x1b]0;title\\x07\\udcff\\u202e\\n"
    assert to_markdown("a|b <script>`x`</script> ![p](x.svg)") == (
        "a\\|b &lt;script&gt;\\`x\\`&lt;/script&gt; ![p]\\(x.svg)"
    )
    assert to_markdown("7.1 [5.2, 9.0] A_t") == "7.1 [5.2, 9.0] A_t"
    assert [display_name(name) for name in ("floor_count_matched", "my_method")] == ["count-matched", "my method"]


def test_the_main_table_is_a_row_a_method_and_the_floors_under_them():
    table = main_table([only(small_run(seeds=(0,)))])
    assert table.title == "Means over 2 classes, one seed"
    assert table.headings[1:] == ("A_t", "A_f", "gap", "agreement", "distance", "s", "% of retraining")
    assert cells_of(table, "twin") == ["84.50", "79.0", "4.0", "88.0", "–", "42.0", "21.0"]
    assert [row[0] for row in table.rows][-table.num_summary - 1 :] == [
        "original", "floor: gold-gold", "floor: majority", "floor: count-matched",
    ]  # fmt: skip
    both = only(small_run(seeds=(0, 1, 2)))
    assert cells_of(main_table([both]), "twin")[2] == "5.0 ± 2.5"
    assert cells_of(main_table([both]).compact, "twin")[2] == "5.0"


def test_the_main_table_of_several_settings_has_the_rows_of_each():
    records = small_run(seeds=(0,)) + small_run(QUICK | {"num_forget": 50}, seeds=(0,))
    table = main_table(split_settings(records))
    assert len(table.rows) == 12
    assert cells_of(table, "twin, default, 50 images") == cells_of(table, "twin, default, 20 images")
    assert all(row[0].startswith("floor: ") for row in table.rows[-table.num_summary :])


def test_class_rows_are_means_over_seeds_and_the_mean_row_has_the_interval():
    # Seeds 0 and 1: gold 80 and 82, twin 84 and 87, gaps 4 and 5, the original's gaps 20 and 18.
    cells = cells_of(accuracy_table(only(small_run())), "3 cat")
    assert cells == ["85.25 / 81.0", "84.50 / 85.5 / 4.5", "86.00 / 100.0 / 19.0", "3.0", "19.0", "1.5"]
    table = accuracy_table(only(small_run(seeds=(0, 1, 2))))
    # 4.30265 * 2 / sqrt(3) = 4.97.
    assert cells_of(table, "mean of 2 classes")[0] == "85.25 ± 0.00 / 77.0 ± 5.0"
    assert "± is the 95 % confidence interval over 3 seeds (Student t)" in table.caption
    assert "single classes stand without intervals" in table.caption
    assert "±" not in "".join(cells_of(table, "3 cat"))


def test_one_seed_without_samples_has_no_interval_anywhere():
    results = only(small_run(seeds=(0,)))
    for table in (accuracy_table(results), method_table(results), difference_table(results), cost_table(results)):
        assert not {"±", "["} & set("".join("".join(row) for row in table.rows))
        assert "No intervals: one seed." in table.caption


def test_one_class_and_pooled_rows():
    table = accuracy_table(only([r for r in small_run(seeds=(0,)) if r["target_class"] == 3]))
    assert cells_of(table, "mean of 1 class") == cells_of(table, "3 cat")
    results = only([*small_run(seeds=(0,)), record("retrain", "all", 0, forget_accuracy=61.0)])
    assert cells_of(accuracy_table(results), "pooled over the request")[0] == "– / 61.0"
    assert cells_of(method_table(results, "all"), "gold (retrain)")[1] == "61.0"
    missing = only([record("twin", 3, 0, kl=0.25), record("twin", 5, 0, forget_gap=7.0)])
    assert cells_of(method_table(missing), "twin") == ["–", "–", "–", "–", "7.0", "–", "–", "0.250", "–"]


def test_the_difference_table_says_what_is_shown():
    setting = QUICK | {"requests": "each"}
    records = []
    for seed in (0, 1, 2):
        records += [
            record("original", 3, seed, setting, forget_gap=20.0 - seed, agreement=80.0, activation_distance=0.25)
        ]
        records += [record("floor_majority", 3, seed, setting, forget_gap=20.0, agreement=81.0)]
        records += [record("twin", 3, seed, setting, forget_gap=5.0 + seed, agreement=(70.0, 81.0, 90.0)[seed],
                           activation_distance=0.5 + 0.01 * seed, predictor_accuracy=75.0 - seed)]  # fmt: skip
    table = difference_table(only(records))
    # Gaps: -15, -13, -11; agreement: -10, 1, 10; distance .25, .26, .27; predictor: -6, -7, -8; half = 2.484 s.
    assert cells_of(table, "twin") == [
        "-13.0 ± 5.0, better",
        "0.3 ± 24.9, no difference shown",
        "0.260 ± 0.025, worse",
        "-0.7 ± 24.9, no difference shown",
        "-7.0 ± 2.5, worse",
    ]
    assert cells_of(table, "majority")[3] == "–"
    assert "paired seed by seed" in table.caption
    assert cells_of(difference_table(only(records[:3])), "twin")[0] == "-15.0"


def test_predictors_and_their_floors():
    (table,) = predictor_tables(only(small_run(seeds=(0,))))
    cells = ["91.0 / 78.5 / 1.125", "90.0 / 77.5 / 0.125", "87.5", "70.0", "70.0", "15.0 / 30.0"]
    assert cells_of(table, "5 dog") == cells
    same = [record(method, 3, 0, predictor_accuracy=80.0) for method in ("twin", "mine")]
    assert [t.title for t in predictor_tables(only(same))] == ["Easy/hard predictor of twin and mine"]
    apart = [record(method, 3, 0, predictor_accuracy=80.0 + i) for i, method in enumerate(("twin", "mine"))]
    assert len(predictor_tables(only(apart))) == 2


def test_costs_show_parts_and_shares():
    table = cost_table(only(small_run(seeds=(0,))))
    assert cells_of(table, "twin") == ["42.0 / 21.0", "– / –", "–", "30.0", "12.0"]
    assert cells_of(table, "gold (retrain)") == ["200.0 / –", "– / –", "–", "–", "–"]


def test_the_verdict_compares_with_the_original_and_each_floor():
    records = [*small_run(seeds=(0,)), *(record("mine", c, 0, forget_gap=9.0, agreement=91.0) for c in (3, 5))]
    lines = verdict(only(records))
    # Mean gap 4 against 25 (original), 3 (gold-gold) and 1.5; agreement 88 against 87.5, 75 and 70. No intervals.
    assert lines[0] == (
        "Of 2 methods twin comes nearest to gold's forget accuracy: a gap of 4.0 points, lower than the untouched "
        "original (25.0), higher than a second gold model (3.0) and calling a random share easy (1.5)."
    )
    assert (
        "agrees with gold on 88.0 percent of the forgotten images, higher than a second gold model (87.5)" in lines[1]
    )
    assert lines[1].endswith("best of all in this is mine (91.0).")
    assert lines[2].startswith("Twin predicts gold right on 90.0 percent of them (AUC 77.5), higher than")
    assert lines[3] == (
        "Twin's test accuracy is 84.50, lower than gold (85.25) and the untouched original (86.00); a request takes "
        "42.0 s, 21.0 percent of retraining."
    )
    assert len(lines) <= 5


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ((4.0, 5.0, 6.0), "a gap of 5.0 ± 2.5 points, better than the untouched original (20.0)."),
        ((10.0, 20.0, 27.0), "a gap of 19.0 ± 21.2 points, no difference shown from the untouched original (20.0)."),
        ((24.0, 25.0, 26.0), "a gap of 25.0 ± 2.5 points, worse than the untouched original (20.0)."),
        ((20.0, 20.0, 20.0), "a gap of 20.0 ± 0.0 points, no difference shown from the untouched original (20.0)."),
    ],
)
def test_the_verdict_says_better_only_where_the_interval_leaves_out_zero(gaps, said):
    records = [record("finetune", 3, seed, forget_gap=value) for seed, value in enumerate(gaps)]
    records += [record("original", 3, seed, forget_gap=20.0) for seed in range(3)]
    assert verdict(only(records)) == [f"Finetune against gold: {said}"]


def test_a_verdict_without_a_gap_and_with_nothing_to_compare_with():
    assert verdict(only([record("original", 3, 0, forget_gap=20.0)])) == ["No forget gap was measured."]
    assert verdict(only([record("mine", 3, 0, forget_gap=2.0)])) == [
        "Mine against gold: a gap of 2.0 points, with nothing to compare it with."
    ]


def test_a_method_of_fewer_seeds_is_not_ranked_beside_the_others():
    runs = small_run(seeds=(0, 1))
    results = Results(tuple([*runs, *(record("lucky", c, 0, forget_gap=0.5) for c in (3, 5))]))
    assert "Twin against gold" in verdict(results)[0]
    assert results.label("lucky") == "lucky (seed 0)"
