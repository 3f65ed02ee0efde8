"""Intervals over the forgotten images of one seed: samples whose answers are known, through tables and verdict."""

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.report.intervals import Estimate
from experiments.report.results import POOLED, Results, load_results, split_settings
from experiments.report.samples import disagreements
from experiments.report.tables import accuracy_table, difference_table, method_table, predictor_tables
from experiments.report.verdict import verdict
from tests.report.made_up import QUICK, cells_of, only, record, small_run, write_run

COMBINED = QUICK | {"num_forget": 200}
SIZES = {3: 200, 5: 100}


def answers(seed=0):
    """Per class, gold's, the twin's, the original's and a second gold model's correctness, and predicted labels."""
    rng = np.random.default_rng(seed)
    found = {}
    for target, size in SIZES.items():
        gold = rng.random(size) < 0.8
        found[target] = {
            "retrain": gold,
            "original": np.ones(size, bool),
            "twin": gold ^ (rng.random(size) < 0.15),
            "floor_gold_gold": gold ^ (rng.random(size) < 0.1),
            "easy": gold ^ (rng.random(size) < 0.12),
            "distance": rng.gamma(2.0, 0.1, size),
        }
    return found


def digits(flags):
    return "".join("01"[int(flag)] for flag in flags)


def percent(flags):
    return 100.0 * float(np.mean(flags))


def samples_of(found, **place):
    entries = []
    for method in ("retrain", "original", "twin", "floor_gold_gold"):
        entry = {"num_forget": 200, "ratio": "dataset", "request": "all classes", "seed": 0, "method": method, **place}
        entry["labels"] = [target for target in found for _ in found[target]["retrain"]]
        entry["correct"] = "".join(digits(found[target][method]) for target in found)
        if method != "retrain":
            entry["distance"] = [d for target in found for d in found[target]["distance"].tolist()]
        if method == "twin":
            entry["easy"] = "".join(digits(found[target]["easy"]) for target in found)
        entries.append(entry)
    return entries


def records_of(found, setting=COMBINED):
    """The records that such answers make, class by class and pooled."""
    every = {key: np.concatenate([found[target][key] for target in found]) for key in found[3]}
    records = []
    for target, row in [*found.items(), ("all", every)]:
        gold = row["retrain"]
        for method in ("retrain", "original", "twin", "floor_gold_gold"):
            readouts = {
                "forget_accuracy": percent(row[method]),
                "forget_gap": abs(percent(row[method]) - percent(gold)),
                "agreement": percent(row[method] == gold),
                "activation_distance": 0.0 if method == "retrain" else float(row["distance"].mean()),
                "test_accuracy": 80.0,
            }
            if method == "twin":
                readouts |= {"predictor_accuracy": percent(row["easy"] == gold), "predictor_auc": 75.0}
            records.append(record(method, target, 0, setting, **readouts))
        share, right = 80.0, percent(gold)
        matched = (share * right + (100 - share) * (100 - right)) / 100
        floors = {"floor_majority": (100.0, right), "floor_count_matched": (share, matched)}
        for floor, (accuracy, agreement) in floors.items():
            gap = abs(accuracy - right)
            records.append(
                record(floor, target, 0, setting, forget_accuracy=accuracy, forget_gap=gap, agreement=agreement)
            )
    return records


@pytest.fixture(scope="module")
def found():
    return answers()


@pytest.fixture(scope="module")
def results(found):
    (one,) = split_settings(records_of(found), samples_of(found))
    return one


def resampled(found, statistic, seed=11):
    """SciPy's own stratified bootstrap: the classes are its samples, images stay whole."""
    indices = [np.arange(size) for size in SIZES.values()]

    def of_images(*drawn):
        return statistic(*({key: row[i] for key, row in found[t].items()} for t, i in zip(found, drawn, strict=True)))

    interval = stats.bootstrap(
        indices, of_images, n_resamples=2000, vectorized=False, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return interval.low, interval.high


def gap(row, method):
    return abs(percent(row[method]) - percent(row["retrain"]))


def both(a, b):
    return {key: np.concatenate([a[key], b[key]]) for key in a}


STATISTICS = {
    "mean A_f": (("mean", "twin", "forget_accuracy"), lambda a, b: (percent(a["twin"]) + percent(b["twin"])) / 2),
    "mean gap": (("mean", "twin", "forget_gap"), lambda a, b: (gap(a, "twin") + gap(b, "twin")) / 2),
    "class gap": ((3, "original", "forget_gap"), lambda a, b: gap(a, "original")),
    "pooled gap": ((POOLED, "original", "forget_gap"), lambda a, b: gap(both(a, b), "original")),
    "pooled agreement": (
        (POOLED, "twin", "agreement"),
        lambda a, b: percent(both(a, b)["twin"] == both(a, b)["retrain"]),
    ),
    "distance": (
        ("mean", "twin", "activation_distance"),
        lambda a, b: (a["distance"].mean() + b["distance"].mean()) / 2,
    ),
    "predictor": (
        ("mean", "twin", "predictor_accuracy"),
        lambda a, b: (percent(a["easy"] == a["retrain"]) + percent(b["easy"] == b["retrain"])) / 2,
    ),
    "majority": (
        (POOLED, "floor_majority", "agreement"),
        lambda a, b: percent(both(a, b)["retrain"]),
    ),
    "count-matched": (
        ("mean", "floor_count_matched", "agreement"),
        lambda a, b: 0.6 * (percent(a["retrain"]) + percent(b["retrain"])) / 2 + 20,
    ),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_are_scipys_stratified_bootstrap(found, results, name):
    (scope, method, key), statistic = STATISTICS[name]
    low, high = resampled(found, statistic)
    estimate = results.estimate(scope, method, key)
    assert estimate.source == "images"
    assert estimate.mean == pytest.approx(statistic(*found.values()))
    # Two runs of 2,000 resamples differ by a few percent of the width.
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_paired_differences_use_the_same_images(found, results):
    def difference(a, b):
        return percent(both(a, b)["twin"] == both(a, b)["retrain"]) - percent(both(a, b)["retrain"])

    low, high = resampled(found, difference)
    estimate = results.difference("twin", "floor_majority", "agreement", POOLED)
    assert estimate.mean == pytest.approx(difference(*found.values()))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.1 * (high - low))
    # The original is right everywhere, so it agrees with gold where gold is right: just the majority floor.
    assert results.difference("twin", "original", "agreement", POOLED) == estimate
    assert results.difference("original", "floor_majority", "agreement", POOLED) == Estimate(0.0)
    apart = [results.estimate(POOLED, method, "agreement") for method in ("twin", "original")]
    assert estimate.high - estimate.low < sum(e.high - e.low for e in apart)


def test_what_images_say_nothing_about_has_no_interval(results):
    for method, key in (
        ("twin", "test_accuracy"),
        ("twin", "predictor_auc"),
        ("original", "forget_accuracy"),
        ("floor_count_matched", "forget_accuracy"),
        ("retrain", "forget_gap"),
        ("retrain", "agreement"),
        ("retrain", "activation_distance"),
    ):
        estimate = results.mean(method, key)
        assert estimate == Estimate(estimate.mean)
        assert estimate.mean is not None


def test_one_request_a_class_gives_the_same_intervals_as_a_combined_one(found, results):
    apart = [
        entry | {"request": f"class {target}"} for target in found for entry in samples_of({target: found[target]})
    ]
    records = [r for r in records_of(found) if r["target_class"] != POOLED]
    (one,) = split_settings(records, apart)
    for method, key in itertools.product(("twin", "original"), ("forget_gap", "agreement")):
        assert one.mean(method, key) == results.mean(method, key)


def test_a_class_of_one_image_has_no_interval_and_takes_it_from_the_mean():
    found = answers()
    found[5] = {key: row[:1] for key, row in found[5].items()}
    (results,) = split_settings(records_of(found), samples_of(found))
    assert results.estimate(3, "twin", "agreement").has_interval
    assert results.estimate(5, "twin", "agreement") == Estimate(percent(found[5]["twin"] == found[5]["retrain"]))
    assert not results.mean("twin", "agreement").has_interval
    assert not results.estimate(POOLED, "twin", "agreement").has_interval


def test_a_class_without_samples_takes_the_interval_from_the_mean(found):
    (results,) = split_settings(records_of(found), samples_of({3: found[3]}))
    assert results.estimate(3, "twin", "agreement").has_interval
    assert not results.mean("twin", "agreement").has_interval


def test_classes_are_resampled_apart():
    row = answers()[5]
    found = {3: row, 5: row}
    (results,) = split_settings(records_of(found), samples_of(found))
    one, mean = results.estimate(3, "twin", "agreement"), results.mean("twin", "agreement")
    # The mean of two independent classes of one kind scatters less by the square root of 2.
    assert mean.high - mean.low == pytest.approx((one.high - one.low) / 2**0.5, rel=0.1)


def test_a_difference_of_other_classes_has_no_interval(found):
    lacking = [r for r in records_of(found) if (r["method"], r["target_class"]) != ("twin", 5)]
    (results,) = split_settings(lacking, samples_of(found))
    assert results.mean("twin", "agreement").has_interval
    expected = results.mean("twin", "agreement").mean - results.mean("original", "agreement").mean
    assert results.difference("twin", "original", "agreement") == Estimate(expected)


def test_labels_predicted_without_a_model_have_the_predictors_interval_alone(found, results):
    entries = [{k: v for k, v in e.items() if e["method"] != "twin" or k not in ("correct", "distance")}
               for e in samples_of(found)]  # fmt: skip
    (one,) = split_settings(records_of(found), entries)
    assert one.mean("twin", "predictor_accuracy") == results.mean("twin", "predictor_accuracy")
    assert not one.mean("twin", "agreement").has_interval
    assert one.mean("original", "agreement").has_interval


def test_samples_go_to_their_own_variant_size_and_seed(found):
    records = records_of(found) + records_of(found, COMBINED | {"variant": "no CF"})
    plain, variant = split_settings(records, samples_of(found, variant="no CF"))
    assert not plain.mean("twin", "agreement").has_interval
    assert variant.mean("twin", "agreement").has_interval
    (unspoken,) = split_settings(records_of(found), samples_of(found, variant="default"))
    assert unspoken.mean("twin", "agreement").has_interval
    for other in ({"num_forget": "all"}, {"ratio": "class"}, {"seed": 1}):
        (results,) = split_settings(records_of(found), samples_of(found, **other))
        assert not results.mean("twin", "agreement").has_interval


def test_several_seeds_have_intervals_over_seeds_alone(found):
    runs = small_run()
    results = Results(tuple(runs), tuple(samples_of(found)))
    assert results.interval_source == "seeds"
    assert results.mean("twin", "forget_gap") == only(runs).mean("twin", "forget_gap")


def test_tables_show_intervals_in_their_summary_rows(results):
    table = accuracy_table(results)
    assert "[" not in "".join(cells_of(table, "3 cat"))
    for row in ("mean of 2 classes", "pooled over the request"):
        original = cells_of(table, row)[1]
        assert original.startswith("80.00 / 100.0 / ")
        assert original.endswith("]")
    assert "over the forgotten images by bootstrap, one seed" in table.caption
    assert "nothing about the spread over trainings" in table.caption
    for other in (method_table(results), method_table(results, POOLED), *predictor_tables(results)):
        assert "]" in "".join("".join(row) for row in other.rows)
        assert "by bootstrap, one seed" in other.caption


def test_difference_table_over_images(results):
    table = difference_table(results, POOLED)
    gaps, agreement, distance, to_majority, predictor = cells_of(table, "twin")
    assert gaps.endswith("], better")
    # The same distances were given to twin and original, and the same answers to original and majority floor.
    assert distance == "0.000"
    assert to_majority == agreement
    assert predictor.endswith("], better")
    assert cells_of(table, "count-matched")[3].endswith("], worse")
    assert "paired by forgotten image" in difference_table(results).caption


def test_verdict_over_images(results):
    gap, agreement, distance, predictor, price = verdict(results)
    for method, word in (("floor_count_matched", "better than"), ("floor_gold_gold", "worse than")):
        difference = results.difference("twin", method, "agreement")
        assert (difference.low > 0) if word == "better than" else (difference.high < 0)
        assert f"({results.mean(method, 'agreement').mean:.1f})" in agreement.split(word)[1].split(", no")[0]
    difference = results.difference("twin", "original", "forget_gap")
    assert difference.low < 0 <= difference.high
    assert "no difference shown from the untouched original" in gap
    assert "equal to the untouched original" in distance
    assert "better than calling all easy" in predictor
    assert price == "Twin's test accuracy is 80.00, equal to gold (80.00) and the untouched original (80.00)."


def test_a_folders_samples_are_read(tmp_path, found, results):
    write_run(tmp_path, records_of(found), samples=samples_of(found))
    (one,) = load_results(tmp_path)
    assert one.mean("twin", "forget_gap") == results.mean("twin", "forget_gap")


def test_records_that_their_samples_do_not_give_are_found(found):
    place = {"variant": "default", "request": "all classes"}
    records = [r | place for r in records_of(found)]
    samples = samples_of(found, variant="default")
    assert disagreements(records, samples) == []
    twin = samples[2]
    wrong = twin["correct"][:7] + "01"[twin["correct"][7] == "0"] + twin["correct"][8:]
    differing = disagreements(records, [*samples[:2], twin | {"correct": wrong}, samples[3]])
    # Image 7 is of class 3: its figures and the pooled ones, the gap among them unless it folds onto itself.
    assert {(r["method"], r["target_class"]) for r, *_ in differing} == {("twin", 3), ("twin", "all")}
    assert {key for _, key, _ in differing} >= {"forget_accuracy", "agreement"}
    assert disagreements(records, samples_of(answers(seed=1), variant="default"))


def test_samples_of_other_images_than_golds_are_refused(found):
    entries = samples_of(found)
    entries[2]["labels"] = entries[2]["labels"][::-1]
    (results,) = split_settings(records_of(found), entries)
    with pytest.raises(ValueError, match="twin and retrain differ in the labels of request 'all classes'"):
        results.mean("twin", "agreement")


def test_a_method_of_one_seed_is_compared_within_that_seed(results):
    """Seed 1 has no twin: its rows and sentences are those of seed 0 alone, beside others over both seeds."""
    second = answers(seed=5)
    more_records = [r | {"seed": 1} for r in records_of(second) if r["method"] != "twin"]
    more_samples = [e | {"seed": 1} for e in samples_of(second) if e["method"] != "twin"]
    (both,) = split_settings([*results.records, *more_records], [*results.samples, *more_samples])
    assert both.for_method("original") is both
    for table in (method_table, difference_table):
        assert cells_of(table(both, POOLED), "twin (seed 0)") == cells_of(table(results, POOLED), "twin")
        assert "over the forgotten images by bootstrap" in table(both, POOLED).caption
    assert "±" in cells_of(method_table(both, POOLED), "original")[1]
    assert [line.replace(" (seed 0)", "") for line in verdict(both)] == verdict(results)


def test_a_difference_to_another_variant_draws_the_same_images(results):
    """Against a copy of itself nothing is left to vary; against other answers it is the paired bootstrap."""
    copy = Results(results.records, results.samples)
    same = results.difference("twin", "twin", "agreement", POOLED, other=copy)
    assert (same.mean, same.low) == (0.0, None)
    crossed = results.difference("twin", "original", "agreement", POOLED, other=copy)
    assert crossed == results.difference("twin", "original", "agreement", POOLED)
    shorter = [e | {"labels": e["labels"][1:]} for e in results.samples]
    other = Results(results.records, tuple(shorter))
    other.__dict__["_resampled"] = results._resampled
    assert not results.difference("twin", "original", "agreement", POOLED, other=other).has_interval
