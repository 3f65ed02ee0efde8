"""Means, intervals over seeds and paired differences of hand-made records, computed by hand."""

import statistics
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from experiments.report.intervals import Estimate
from experiments.report.results import load_results, split_settings
from tests.report.made_up import CONFIG, QUICK, only, record, small_run, write_run

# Two-sided 95 % points of Student's t for n seeds, from a printed table.
T_TABLE = {2: 12.7062, 3: 4.30265}


def over(values):
    """The expected estimate of one value a seed, by hand."""
    mean = statistics.fmean(values)
    half = T_TABLE[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return pytest.approx(mean), pytest.approx(mean - half, rel=1e-5), pytest.approx(mean + half, rel=1e-5), "seeds"


def test_a_class_is_the_mean_over_seeds_and_the_mean_one_over_classes():
    results = only(small_run(seeds=(0, 1, 2)))
    assert results.estimate(3, "retrain", "forget_accuracy") == over([80, 82, 84])
    assert results.mean("retrain", "forget_accuracy") == over([75, 77, 79])
    assert results.mean("twin", "forget_gap") == over([4, 5, 6])
    assert results.mean("twin", "seconds_by_part/unlearning").mean == 12.0


def test_one_seed_without_samples_has_no_interval():
    assert only(small_run(seeds=(0,))).mean("twin", "forget_gap") == Estimate(4.0)


def test_seeds_with_different_classes_have_no_interval():
    lacking = [r for r in small_run() if (r["target_class"], r["seed"]) != (5, 1)]
    assert only(lacking).mean("retrain", "forget_accuracy") == Estimate((81 + 70) / 2)
    assert only(lacking).difference("twin", "original", "forget_gap") == Estimate((4.5 + 4) / 2 - (19 + 30) / 2)
    lacking = [r for r in small_run() if (r["method"], r["target_class"]) != ("twin", 5)]
    assert only(lacking).difference("twin", "original", "forget_gap") == Estimate(4.5 - (19 + 29) / 2)


def test_paired_differences_over_seeds():
    results = only(small_run(seeds=(0, 1, 2)))
    # The original's mean gaps are 25, 23, 21, the twin's 4, 5, 6: differences of -21, -18, -15.
    assert results.difference("twin", "original", "forget_gap") == over([-21, -18, -15])
    difference = results.difference("twin", "floor_majority", "predictor_accuracy", reference_key="agreement")
    assert difference == over([15, 13, 11])
    assert results.difference("twin", "absent", "forget_gap") == Estimate(None)


def test_a_paired_difference_is_narrower_where_seeds_move_both():
    rng = np.random.default_rng(0)
    common, *both = (rng.normal(0, scale, 8) for scale in (5.0, 0.5, 0.5))
    values = dict(zip(("twin", "original"), (common + own for own in both), strict=True))
    records = [record(m, 3, s, forget_gap=float(v)) for m, row in values.items() for s, v in enumerate(row)]
    paired = only(records).difference("twin", "original", "forget_gap")
    closed_form = stats.ttest_rel(*values.values()).confidence_interval()
    assert (paired.low, paired.high) == pytest.approx((closed_form.low, closed_form.high))
    unpaired = stats.ttest_ind(*values.values()).confidence_interval()
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 4


def test_a_pooled_row_stands_apart_from_the_mean():
    results = only([*small_run(seeds=(0,)), record("retrain", "all", 0, forget_accuracy=61.0)])
    assert results.mean("retrain", "forget_accuracy").mean == 75.0
    assert results.estimate("all", "retrain", "forget_accuracy").mean == 61.0


def test_a_request_without_classes_is_reported_by_its_pooled_row():
    results = only([record("twin", "all", seed, forget_gap=2.0 + seed) for seed in (0, 1)])
    assert results.mean("twin", "forget_gap") == over([2, 3])


@pytest.mark.parametrize("missing", [{}, {"forget_gap": None}, {"forget_gap": float("nan")}])
def test_missing_numbers_stay_out_of_means(missing):
    results = only([record("twin", 3, 0, kl=0.25, **missing), record("twin", 5, 0, forget_gap=7.0)])
    assert results.estimate(3, "twin", "forget_gap") == Estimate(None)
    assert results.mean("twin", "forget_gap") == Estimate(7.0)


def test_methods_stand_in_the_order_of_the_records_and_what_predicts_is_read_from_them():
    order = ["my_method", "twin", "floor_majority", "original", "retrain", "a_method"]
    results = only([record(m, 3, 0, **({"predictor_accuracy": 80.0} if m == "my_method" else {})) for m in order])
    assert results.methods == ["my_method", "twin", "original", "retrain", "a_method"]
    assert results.floors == ["floor_majority"]
    assert results.predicting == ["my_method"]


def test_settings_are_never_mixed_and_the_later_record_of_a_cell_counts():
    records = [
        record("twin", 3, 0, forget_gap=1.0),
        record("twin", 3, 1, QUICK | {"variant": "default"}, forget_gap=3.0),
        record("twin", 3, 0, QUICK | {"num_forget": 50}, forget_gap=9.0),
        record("twin", 3, 0, QUICK | {"variant": "no CF"}, forget_gap=8.0),
        record("twin", 3, 0, QUICK | {"augment": True}, forget_gap=7.0),
        record("twin", 3, 0, forget_gap=2.0),
    ]
    plain, large, variant, augmented = split_settings(records)
    assert (plain.mean("twin", "forget_gap").mean, large.setting["num_forget"]) == (2.5, 50)
    assert variant.setting["variant"] == "no CF"
    assert (plain.setting["augment"], augmented.setting["augment"]) == (None, True)


def test_a_record_names_a_run_that_config_json_has(tmp_path):
    write_run(tmp_path, small_run())
    assert load_results(tmp_path)[0].runs == CONFIG["runs"]
    write_run(tmp_path, [*small_run(), record("twin", 3, 0) | {"run": "r2"}])
    with pytest.raises(ValueError, match=r"results\.jsonl, line 25: its run 'r2' is not among the runs"):
        load_results(tmp_path)


def test_the_report_needs_no_jax():
    code = "import sys, experiments.report.write; sys.exit('jax' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
