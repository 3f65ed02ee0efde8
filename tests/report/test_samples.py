"""Intervals over the forgotten images of one seed: samples whose answers are known, through tables and verdict."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats

from experiments.report.intervals import Estimate
from experiments.report.render import to_markdown
from experiments.report.results import POOLED, Results, split_settings
from experiments.report.samples import read_samples
from experiments.report.tables import accuracy_table, difference_table, method_table, predictor_tables
from experiments.report.verdict import verdict
from experiments.report.write import load_results, write_report
from tests.report.test_write import QUICK, cells_of, only, record, small_run, write_run

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
    apart = [results.pooled(method, "agreement") for method in ("twin", "original")]
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
    assert results.of_class(3, "twin", "agreement").has_interval
    assert results.of_class(5, "twin", "agreement") == Estimate(percent(found[5]["twin"] == found[5]["retrain"]))
    assert not results.mean("twin", "agreement").has_interval
    assert not results.pooled("twin", "agreement").has_interval


def test_a_class_without_samples_takes_the_interval_from_the_mean(found):
    (results,) = split_settings(records_of(found), samples_of({3: found[3]}))
    assert results.of_class(3, "twin", "agreement").has_interval
    assert not results.mean("twin", "agreement").has_interval


def test_classes_are_resampled_apart():
    row = answers()[5]
    found = {3: row, 5: row}
    (results,) = split_settings(records_of(found), samples_of(found))
    one, mean = results.of_class(3, "twin", "agreement"), results.mean("twin", "agreement")
    # The mean of two independent classes of one kind scatters less by the square root of 2.
    assert mean.high - mean.low == pytest.approx((one.high - one.low) / 2**0.5, rel=0.1)


def test_a_difference_of_other_classes_has_no_interval(found):
    lacking = [r for r in records_of(found) if (r["method"], r["target_class"]) != ("twin", 5)]
    (results,) = split_settings(lacking, samples_of(found))
    assert results.mean("twin", "agreement").has_interval
    expected = results.mean("twin", "agreement").mean - results.mean("original", "agreement").mean
    assert results.difference("twin", "original", "agreement") == Estimate(expected)
    seeds = [r for r in small_run() if (r["method"], r["target_class"]) != ("twin", 5)]
    assert only(seeds).difference("twin", "original", "forget_gap") == Estimate(4.5 - (19 + 29) / 2)


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
    markdown = to_markdown(table)
    assert "[" not in "".join(cells_of(markdown, "3 cat"))
    for row in ("mean of 2 classes", "pooled over the request"):
        original = cells_of(markdown, row)[1]
        assert original.startswith("80.00 / 100.0 / ")
        assert original.endswith("]")
    assert "over the forgotten images by bootstrap, one seed" in table.caption
    assert "nothing about the spread over trainings" in table.caption
    for other in (method_table(results), method_table(results, pooled=True), *predictor_tables(results)):
        assert "]" in to_markdown(other)
        assert "by bootstrap, one seed" in other.caption


def test_difference_table_over_images(results):
    rows = {row[0][0]: row[1:] for row in difference_table(results, pooled=True).rows}
    gaps, agreement, distance, to_majority, predictor = rows["twin"]
    assert gaps[1] == "better"
    # The same distances were given to twin and original, and the same answers to original and majority floor.
    assert distance == ("0.000", "–")
    assert to_majority == agreement
    assert predictor[1] == "better"
    assert rows["count-matched"][3][1] == "worse"
    assert "paired by forgotten image" in difference_table(results).caption


def test_verdict_says_better_only_where_the_interval_leaves_out_zero(results):
    lines = "\n".join(verdict(results))
    ours, cheap = results.mean("twin", "agreement").mean, results.mean("floor_count_matched", "agreement").mean
    difference = results.difference("twin", "floor_count_matched", "agreement")
    assert difference.low > 0
    bounds = f"{round(ours, 1) - round(cheap, 1):.1f} [{difference.low:.1f}, {difference.high:.1f}]"
    assert f"better than the count-matched floor ({cheap:.1f}) by {bounds}" in lines
    ours, gold = results.mean("twin", "agreement").mean, results.mean("floor_gold_gold", "agreement").mean
    difference = results.difference("twin", "floor_gold_gold", "agreement")
    assert difference.high < 0
    bounds = f"{round(gold, 1) - round(ours, 1):.1f} [{-difference.high:.1f}, {-difference.low:.1f}]"
    assert f"worse than the gold-gold floor ({gold:.1f}) by {bounds}" in lines
    ours, original = results.mean("twin", "forget_gap").mean, results.mean("original", "forget_gap").mean
    difference = results.difference("twin", "original", "forget_gap")
    assert difference.low < 0 <= difference.high
    bounds = f"{round(original, 1) - round(ours, 1):.1f} [{abs(-difference.high):.1f}, {-difference.low:.1f}]"
    assert f"no difference shown from the untouched original ({original:.1f}): {bounds}" in lines
    to_gold = results.difference("twin", "floor_gold_gold", "activation_distance")
    assert to_gold == Estimate(0.0)
    assert "equal to the gold-gold floor (0." in lines
    assert "the intervals are over the forgotten images alone" in lines


@pytest.mark.parametrize(
    ("gaps", "said"),
    [
        ((4.0, 5.0, 6.0), "better than the untouched original (20.0) by 15.0 ± 2.5"),
        ((10.0, 20.0, 27.0), "no difference shown from the untouched original (20.0): 1.0 ± 21.2"),
        ((24.0, 25.0, 26.0), "worse than the untouched original (20.0) by 5.0 ± 2.5"),
    ],
)
def test_verdict_over_seeds(gaps, said):
    records = [record("twin", 3, seed, forget_gap=value) for seed, value in enumerate(gaps)]
    records += [record("original", 3, seed, forget_gap=20.0) for seed in range(3)]
    lines = verdict(only(records))
    assert said in "\n".join(lines)
    conclusion = {"better": "comes nearer", "no diff": "is not shown to come nearer", "worse t": "does not come nearer"}
    (in_short,) = [line for line in lines if line.startswith("In short")]
    assert conclusion[said[:7].strip()] in in_short


def test_a_folders_samples_are_read_and_reported(tmp_path, found, results):
    write_run(tmp_path, records_of(found))
    assert read_samples(tmp_path) == []
    (tmp_path / "samples.json").write_text(json.dumps(samples_of(found)), "utf-8")
    (one,) = load_results(tmp_path)
    assert one.mean("twin", "forget_gap") == results.mean("twin", "forget_gap")
    report = write_report(tmp_path).read_text("utf-8")
    assert cells_of(report, "mean of 2 classes") == cells_of(to_markdown(accuracy_table(results)), "mean of 2 classes")
    assert "95 % confidence over the forgotten images, one seed" in (tmp_path / "gap.svg").read_text("utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": "01"}, "entry 0: correct has 2 answers for 300 labels"),
        ({"distance": [0.5]}, "entry 0: distance has 1 answers for 300 labels"),
        ({"method": None}, "entry 0: an entry needs method"),
    ],
)
def test_broken_samples_are_refused(tmp_path, found, change, message):
    entries = samples_of(found)
    entries[0] |= change
    entries[0] = {key: value for key, value in entries[0].items() if value is not None}
    (tmp_path / "samples.json").write_text(json.dumps(entries), "utf-8")
    with pytest.raises(ValueError, match=message):
        read_samples(tmp_path)


def test_samples_of_other_images_than_golds_are_refused(found):
    entries = samples_of(found)
    entries[2]["labels"] = entries[2]["labels"][::-1]
    (results,) = split_settings(records_of(found), entries)
    with pytest.raises(ValueError, match="twin and retrain differ in the labels of request 'all classes'"):
        results.mean("twin", "agreement")


def test_half_written_samples_are_refused(tmp_path):
    (tmp_path / "samples.json").write_text("[{", "utf-8")
    with pytest.raises(ValueError, match="not JSON"):
        read_samples(tmp_path)


def test_a_method_of_one_seed_is_compared_within_that_seed(results):
    """Seed 1 has no twin: its rows and sentences are those of seed 0 alone, beside others over both seeds."""
    second = answers(seed=5)
    more_records = [r | {"seed": 1} for r in records_of(second) if r["method"] != "twin"]
    more_samples = [e | {"seed": 1} for e in samples_of(second) if e["method"] != "twin"]
    (both,) = split_settings([*results.records, *more_records], [*results.samples, *more_samples])
    assert both.for_method("original") is both
    assert both.label("twin") == "twin (seed 0 only)"
    for table in (method_table, difference_table):
        grown, alone = to_markdown(table(both, pooled=True)), to_markdown(table(results, pooled=True))
        assert cells_of(grown, "twin (seed 0 only)") == cells_of(alone, "twin")
        assert "over the forgotten images by bootstrap" in grown
    assert "±" in cells_of(to_markdown(method_table(both, pooled=True)), "original")[1]
    said = verdict(both)
    assert "Twin (seed 0 only): compared within its own seeds." in said
    of_twin = [line for line in verdict(results) if line.startswith("Twin: ")]
    assert of_twin
    assert set(of_twin) <= set(said)


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
