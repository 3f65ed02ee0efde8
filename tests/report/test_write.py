"""The report against hand-made records whose means, gaps and spreads are known."""

import io
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import xml.etree.ElementTree

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import roc_auc_score

from experiments.report import pictures as report_pictures
from experiments.report.intervals import Estimate
from experiments.report.paper import PAPER_SETTINGS
from experiments.report.pictures import draw_features, draw_gaps, hardness_auc
from experiments.report.render import to_markdown
from experiments.report.results import Results, split_settings
from experiments.report.tables import (
    Column,
    Table,
    accuracy_table,
    cost_table,
    difference_table,
    method_table,
    predictor_tables,
    text,
)
from experiments.report.verdict import verdict
from experiments.report.write import Body, Picture, Section, print_table, read_records, write_report

QUICK = {
    "experiment": "cifar10",
    "dataset": "synthetic",
    "data_source": "generated from seed 0",
    "preset": "quick",
    "arch": "small_resnet",
    "num_train": 5000,
    "epochs": 6,
    "requests": "combined",
    "num_forget": 20,
    "heldout_source": "test",
    "ratio": "dataset",
}
PAPER = QUICK | PAPER_SETTINGS["cifar10"]
# Two-sided 95 % points of Student's t for n seeds, from a printed table.
T_TABLE = {2: 12.7062, 3: 4.30265}
CONFIG = {
    "experiment": "cifar10",
    "command": "python -m experiments.cifar10 --seeds 0 1",
    "arms": {"default": {"num_forget": 20}},
    "why": ["dataset synthetic: CIFAR-10 was not found"],
    "versions": {"jax": "0.10.2"},
    "device": "a small CPU",
    "git_revision": "0123abc",
    "shortfalls": ["5,000 training images instead of 50,000."],
}
NAMES = {3: "cat", 5: "dog", "all": ""}


def record(method, target_class, seed, setting=QUICK, **readouts):
    place = {"method": method, "target_class": target_class, "class_name": NAMES.get(target_class, ""), "seed": seed}
    return {**setting, **place, **readouts}


def small_run(setting=QUICK, seeds=(0, 1)):
    """Classes 3 and 5; gold's A_f is 80 and 70 in seed 0 and 2 points more in every later seed; the twin is 4 above."""
    records = []
    for seed, (target, gold) in itertools.product(seeds, {3: 80.0, 5: 70.0}.items()):
        gold += 2 * seed
        twin = {"forget_accuracy": gold + 4 + seed, "forget_gap": 4.0 + seed, "test_accuracy": 84.5}
        predictor = {"predictor_accuracy": 90.0, "predictor_auc": 77.5, "predictor_brier": 0.125}
        heldout = {f"heldout_{key}": value + 1 for key, value in predictor.items()}
        shares = {"predicted_hard_share": 0.15, "hard_share": 1 - gold / 100}
        parts = {"seconds_by_part": {"twin_model": 30.0, "unlearning": 12.0}, "seconds": 42.0, "retraining_share": 0.21}
        records += [
            record("twin", target, seed, setting, agreement=88.0, **twin, **predictor, **heldout, **shares, **parts),
            record("retrain", target, seed, setting, forget_accuracy=gold, test_accuracy=85.25, seconds=200.0),
            record("original", target, seed, setting, forget_accuracy=100.0, forget_gap=100 - gold, test_accuracy=86.0),
            record("floor_gold_gold", target, seed, setting, forget_gap=3.0, agreement=87.5),
            record("floor_majority", target, seed, setting, forget_gap=100 - gold, agreement=gold),
            record("floor_count_matched", target, seed, setting, forget_gap=1.5, agreement=70.0),
        ]
    return records


def only(records):
    (results,) = split_settings(records)
    return results


def write_run(folder: pathlib.Path, records, features=None, config=CONFIG):
    (folder / "results.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    if features is not None:
        (folder / "features.json").write_text(json.dumps(features), "utf-8")


def made_up_features(problem, seed=0):
    rng = np.random.default_rng(seed)
    easy = rng.random(60) < 0.7
    values = {name: np.clip(rng.normal(0.6 - 0.3 * easy, 0.1), 0, 1).tolist() for name in ("NF", "AF", "CF")}
    return {"target_class": 3, "seed": 0, "problem": problem, "easy": easy.tolist(), **values}


def cells_of(markdown: str, first_cell: str) -> list[str]:
    """The cells of the first markdown row whose first cell is the given one."""
    rows = ([c.strip().strip("*") for c in line.strip("|").split("|")] for line in markdown.splitlines() if "|" in line)
    return next(row[1:] for row in rows if row[0] == first_cell)


def rendered(source, width=120) -> str:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    print_table(source, console)
    return console.file.getvalue()


def over(values):
    """The expected estimate of one value a seed, by hand."""
    mean = statistics.fmean(values)
    half = T_TABLE[len(values)] * statistics.stdev(values) / len(values) ** 0.5
    return pytest.approx(mean), pytest.approx(mean - half, rel=1e-5), pytest.approx(mean + half, rel=1e-5), "seeds"


def test_class_rows_are_means_over_seeds():
    markdown = to_markdown(accuracy_table(only(small_run())))
    # Seeds 0 and 1: gold 80 and 82, twin 84 and 87, gaps 4 and 5, the original's gaps 20 and 18.
    gold, original, twin, floors = cells_of(markdown, "3 cat")
    assert gold == "85.25 / 81.0"
    assert original == "86.00 / 100.0 / 19.0"
    assert twin == "84.50 / 85.5 / 4.5"
    assert floors == "3.0 / 19.0 / 1.5"


def test_mean_row_has_students_interval_over_seeds():
    results = only(small_run(seeds=(0, 1, 2)))
    assert results.mean("twin", "forget_gap") == over([4, 5, 6])
    assert results.mean("retrain", "forget_accuracy") == over([75, 77, 79])
    assert results.of_class(3, "retrain", "forget_accuracy") == over([80, 82, 84])
    # 4.30265 * 2 / sqrt(3) = 4.97.
    table = accuracy_table(results)
    assert cells_of(to_markdown(table), "mean of 2 classes")[0] == "85.25 ± 0.00 / 77.0 ± 5.0"
    assert "± is the 95 % confidence interval over 3 seeds (Student t)" in table.caption
    # The wide table's single classes have no room for intervals.
    assert "±" not in "".join(cells_of(to_markdown(table), "3 cat"))
    assert "single classes stand without intervals" in table.caption


def test_one_seed_without_samples_has_no_interval():
    results = only(small_run(seeds=(0,)))
    assert results.mean("twin", "forget_gap") == Estimate(4.0)
    for table in (accuracy_table(results), method_table(results), difference_table(results), cost_table(results)):
        assert "±" not in to_markdown(table)
        assert "[" not in to_markdown(table)
        assert "No intervals: one seed." in table.caption


def test_seeds_with_different_classes_have_no_interval():
    lacking = [r for r in small_run() if (r["target_class"], r["seed"]) != (5, 1)]
    assert only(lacking).mean("retrain", "forget_accuracy") == Estimate((81 + 70) / 2)
    assert only(lacking).difference("twin", "original", "forget_gap") == Estimate((4.5 + 4) / 2 - (19 + 30) / 2)


def test_paired_differences_over_seeds():
    results = only(small_run(seeds=(0, 1, 2)))
    # The original's mean gaps are 25, 23, 21, the twin's 4, 5, 6: differences of -21, -18, -15.
    assert results.difference("twin", "original", "forget_gap") == over([-21, -18, -15])
    difference = results.difference("twin", "floor_majority", "predictor_accuracy", reference_key="agreement")
    assert difference == over([15, 13, 11])


def test_difference_table_says_what_is_shown():
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
    assert cells_of(to_markdown(table), "twin") == [
        "-13.0 ± 5.0 / better",
        "0.3 ± 24.9 / no difference shown",
        "0.260 ± 0.025 / worse",
        "-0.7 ± 24.9 / no difference shown",
        "-7.0 ± 2.5 / worse",
    ]
    assert cells_of(to_markdown(table), "majority")[3] == "– / –"
    assert "paired seed by seed" in table.caption
    (without,) = [row for row in difference_table(only(records[:3])).rows if row[0] == ("twin",)]
    assert without[1] == ("-15.0", "–")


def test_single_class():
    results = only([r for r in small_run(seeds=(0,)) if r["target_class"] == 3])
    markdown = to_markdown(accuracy_table(results))
    assert cells_of(markdown, "mean of 1 class") == cells_of(markdown, "3 cat")


def test_pooled_row_stands_apart_from_the_mean():
    pooled = record("retrain", "all", 0, forget_accuracy=61.0)
    results = only([*small_run(seeds=(0,)), pooled])
    assert results.mean("retrain", "forget_accuracy").mean == 75.0
    markdown = to_markdown(accuracy_table(results))
    assert cells_of(markdown, "pooled over the request")[0] == "– / 61.0"
    assert cells_of(to_markdown(method_table(results, pooled=True)), "gold (retrain)")[1] == "61.0"


def test_request_without_classes_is_reported_by_its_pooled_row():
    results = only([record("twin", "all", seed, forget_gap=2.0 + seed) for seed in (0, 1)])
    assert results.mean("twin", "forget_gap") == over([2, 3])
    assert cells_of(to_markdown(accuracy_table(results)), "pooled over the request")[0] == "– / –"


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_missing_numbers_are_dashes_and_stay_out_of_means(missing):
    records = [record("twin", 3, 0, forget_gap=missing, kl=0.25), record("twin", 5, 0, forget_gap=7.0)]
    results = only(records)
    assert cells_of(to_markdown(accuracy_table(results)), "3 cat")[1] == "– / – / –"
    assert results.mean("twin", "forget_gap") == Estimate(7.0)
    row = cells_of(to_markdown(method_table(results)), "twin")
    assert row == ["–", "–", "–", "–", "7.0", "–", "–", "0.250", "–"]


def test_zero_is_a_number():
    assert text(Estimate(0.0)) == "0.0"
    assert text(Estimate(None)) == "–"
    assert text(Estimate(-0.01)) == "0.0"


def test_intervals_are_written_as_what_they_are():
    assert text(Estimate(85.1, 84.9, 85.3, "seeds")) == "85.1 ± 0.2"
    assert text(Estimate(7.1, 5.2, 9.04, "images")) == "7.1 [5.2, 9.0]"
    assert text(Estimate(0.071, 0.052, 0.09, "images"), scale=100) == "7.1 [5.2, 9.0]"


def test_methods_stand_in_the_canonical_order_and_floors_last():
    order = ["my_method", "twin", "bad_teacher", "original", "floor_majority", "retrain", "a_method"]
    results = only([record(method, 3, 0) for method in order])
    assert results.methods == ["original", "retrain", "bad_teacher", "twin", "a_method", "my_method"]
    assert results.floors == ["floor_majority"]
    assert [row[0][0] for row in method_table(results).rows][-1] == "majority"


def test_sizes_are_never_mixed_and_the_later_record_of_a_cell_counts():
    records = [
        record("twin", 3, 0, forget_gap=1.0),
        record("twin", 3, 0, QUICK | {"num_forget": 50}, forget_gap=9.0),
        record("twin", 3, 0, forget_gap=2.0),
    ]
    small, large = split_settings(records)
    assert (small.setting["num_forget"], large.setting["num_forget"]) == (20, 50)
    assert (small.mean("twin", "forget_gap").mean, large.mean("twin", "forget_gap").mean) == (2.0, 9.0)


def test_variants_are_never_mixed_and_a_missing_one_is_the_default():
    records = [
        record("twin", 3, 0, forget_gap=1.0),
        record("twin", 3, 1, QUICK | {"variant": "default"}, forget_gap=3.0),
        record("twin", 3, 0, QUICK | {"variant": "no CF"}, forget_gap=9.0),
        record("twin", 3, 0, QUICK | {"augment": True}, forget_gap=7.0),
    ]
    plain, variant, augmented = split_settings(records)
    assert plain.by_seed("mean", "twin", "forget_gap") == {0: 1.0, 1: 3.0}
    assert variant.setting["variant"] == "no CF"
    assert (plain.setting["augment"], augmented.setting["augment"]) == (None, True)


def test_predictor_table_and_its_floor():
    (table,) = predictor_tables(only(small_run(seeds=(0,))))
    assert cells_of(to_markdown(table), "5 dog") == [
        "91.0 / 78.5 / 1.125",
        "90.0 / 77.5 / 0.125",
        "87.5 / 70.0 / 70.0",
        "15.0 / 30.0",
    ]


def test_methods_with_the_same_predictor_share_a_table():
    twins = ("twin", "twin_negative_gradient")
    same = [record(method, 3, 0, predictor_accuracy=80.0) for method in twins]
    assert [t.title for t in predictor_tables(only(same))] == ["Easy/hard predictor of twin and twin negative gradient"]
    apart = [record(method, 3, 0, predictor_accuracy=80.0 + i) for i, method in enumerate(twins)]
    assert len(predictor_tables(only(apart))) == 2


def test_cost_table_shows_parts_and_shares():
    markdown = to_markdown(cost_table(only(small_run(seeds=(0,)))))
    assert cells_of(markdown, "twin") == ["42.0 / 21.0", "– / –", "–", "30.0", "12.0"]
    assert cells_of(markdown, "gold (retrain)") == ["200.0 / –", "– / –", "–", "–", "–"]


def test_verdict_compares_with_the_original_and_each_floor():
    lines = "\n".join(verdict(only(small_run(seeds=(0,)))))
    # Mean gap 4 against 25 (original, majority), 3 (gold-gold) and 1.5; agreement 88 against 87.5, 75 and 70.
    assert "forget gap 4.0 points; better than the untouched original (25.0) by 21.0" in lines
    assert "worse than the gold-gold floor (3.0) by 1.0" in lines
    assert "better than the majority floor (25.0) by 21.0" in lines
    assert "worse than the count-matched floor (1.5) by 2.5" in lines
    assert "agreement with gold 88.0 percent; better than the gold-gold floor (87.5) by 0.5" in lines
    assert (
        "test accuracy 84.50 percent; 0.75 points below gold (85.25), 1.50 points below the original (86.00)" in lines
    )
    assert "90.0 percent of the forgotten images; calling every image easy is right on 75.0: better by 15.0" in lines
    assert "no nearer than relabelling a random share would" in lines
    assert "agrees with gold more than the majority and the count-matched floor" in lines


@pytest.mark.parametrize(
    ("gap", "said"),
    [
        (25.0, "does not come nearer"),
        (10.0, "no nearer than relabelling"),
        (4.0, "untouched original and the count-matched floor"),
        (3.0, "as a second gold model does"),
    ],
)
def test_conclusion_follows_the_gap(gap, said):
    floors = {"original": 25.0, "twin": gap, "floor_gold_gold": 3.0, "floor_count_matched": 5.0}
    (conclusion,) = [
        line
        for line in verdict(only([record(method, 3, 0, forget_gap=value) for method, value in floors.items()]))
        if line.startswith("In short")
    ]
    assert said in conclusion


def test_verdict_without_twin_speaks_of_the_baselines():
    lines = verdict(only([record("finetune", 3, 0, forget_gap=20.0), record("original", 3, 0, forget_gap=21.0)]))
    assert any(line.startswith("Finetune: forget gap 20.0 points; better than the untouched") for line in lines)


def test_report_of_a_whole_run(tmp_path):
    records = small_run()
    records[0]["notes"] = ["the twin model stopped early"]
    write_run(tmp_path, records, [made_up_features("twin"), made_up_features("original", seed=1)])
    report = write_report(tmp_path).read_text("utf-8")
    head = report.split("## Results")[0]
    for said in ("synthetic", "small_resnet", "num_train 5000", "seeds 0, 1", "a small CPU", "jax 0.10.2", "0123abc"):
        assert said in head
    assert "`python -m experiments.cifar10 --seeds 0 1`" in head
    assert "5,000 training images instead of 50,000." in head
    assert "dataset = synthetic (the paper: cifar10)" in report
    assert "/ paper" not in report
    assert "the twin model stopped early (twin; class 3; seed 0)" in report
    assert cells_of(report, "3 cat")[2] == "84.50 / 85.5 / 4.5"
    for name in ("gap", "features"):
        assert f"({name}.svg)" in report
        assert_drawn(tmp_path / f"{name}.png")
        assert xml.etree.ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")


def test_rerun_gives_the_command_and_the_settings(tmp_path):
    settings = {"num_forget": "all", "recipe": {"epochs": 6, "augment": False}, "seeds": [0, 1]}
    write_run(tmp_path, small_run(), config=CONFIG | {"arms": {"default": settings}})
    rerun = write_report(tmp_path).read_text("utf-8").split("## How to rerun")[1]
    command = rerun.split("```")[1].removeprefix("sh")
    assert command.replace("\\\n", " ").split() == CONFIG["command"].split()
    assert cells_of(rerun, "recipe.epochs") == ["6"]
    assert cells_of(rerun, "seeds") == ["0, 1"]


def test_a_folder_that_grew_names_every_command_once(tmp_path):
    grown = [f"python -m experiments.cifar10 --seeds {seed}" for seed in (0, 1)]
    records = [r | {"command": grown[r["seed"]]} for r in small_run(seeds=(0, 1))]
    write_run(tmp_path, records)
    text = write_report(tmp_path).read_text("utf-8")
    assert text.split("## Results")[0].count("**Command**") == 2
    assert text.split("## How to rerun")[1].count("python -m experiments.cifar10") == 2


def test_settings_of_many_variants_share_their_common_part(tmp_path):
    settings = [QUICK | {"variant": variant} for variant in ("default", "no CF")]
    write_run(tmp_path, [r for setting in settings for r in small_run(setting, seeds=(0,))])
    head = write_report(tmp_path).read_text("utf-8").split("## Results")[0]
    assert head.count("num_train 5000") == 1
    assert "**2 settings**: variant default (seeds 0); variant no CF (seeds 0)" in head


OWN = Table("Size against gap", (Column("size"), Column("gap")), ((("20",), ("4.0 ± 1.0",)),))


def test_an_experiments_own_body_replaces_the_standard_one(tmp_path):
    settings = [QUICK | {"variant": f"variant {i}"} for i in range(12)]
    write_run(tmp_path, [r for setting in settings for r in small_run(setting, seeds=(0,))])
    (tmp_path / "sizes.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    picture = Picture("sizes", "Gap by size", "Larger requests to the right.")
    body = Body([Section("Sizes", ["Gaps grow with the size.", OWN], [picture])])
    report = write_report(tmp_path, body).read_text("utf-8")
    assert "## Sizes\n\nGaps grow with the size.\n\n### Size against gap" in report
    assert cells_of(report, "20") == ["4.0 ± 1.0"]
    assert "![Gap by size](sizes.svg)\n\nLarger requests" in report
    assert "## How to read this" in report
    for standard in ("Verdict", "Readouts per method", "gap.svg"):
        assert standard not in report
    assert not (tmp_path / "gap.svg").exists()
    printed = io.StringIO()
    print_table(tmp_path, Console(width=100, file=printed), body)
    assert "Gaps grow with the size." in printed.getvalue()
    assert "4.0 ± 1.0" in printed.getvalue()
    assert "Verdict" not in printed.getvalue()


def test_an_own_body_may_stand_ahead_of_the_standard_one(tmp_path):
    write_run(tmp_path, small_run())
    body = Body([Section("Sizes", [OWN])], standard=True)
    report = write_report(tmp_path, body).read_text("utf-8")
    assert report.index("## Sizes") < report.index("## Results") < report.index("(gap.svg)")
    printed = io.StringIO()
    print_table(tmp_path, Console(width=100, file=printed), body)
    assert printed.getvalue().index("Size against gap") < printed.getvalue().index("Verdict")


def assert_drawn(path: pathlib.Path):
    pixels = matplotlib.image.imread(path)[..., :3]
    assert min(pixels.shape[:2]) > 400
    painted = (pixels.min(axis=2) < 0.9).mean()
    assert 0.02 < painted < 0.7
    assert len(np.unique((pixels.reshape(-1, 3) * 15).astype(int), axis=0)) > 20


def test_report_in_the_papers_setting_without_features(tmp_path):
    write_run(tmp_path, small_run(PAPER, seeds=(0,)))
    report = write_report(tmp_path).read_text("utf-8")
    assert "ours / paper" in report
    assert "not the paper's setting" not in report
    assert "no `features.json`" in report
    assert not (tmp_path / "features.svg").exists()


def test_pictures_are_reproducible_and_leave_the_users_matplotlib_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    entries = [made_up_features("twin"), made_up_features("original")]
    first = [path.read_bytes() for path in draw_features(entries, tmp_path)]
    assert first == [path.read_bytes() for path in draw_features(entries, tmp_path)]
    assert dict(matplotlib.rcParams) == before


class Canvas:
    """Stands for a panel and keeps what is drawn on it."""

    def __init__(self):
        self.spans, self.lines, self.bars = [], [], []

    def axhspan(self, low, high, **_):
        self.spans.append((low, high))

    def axhline(self, at, **_):
        self.lines.append(at)

    def plot(self, x, y, *_, **__):
        self.bars.append(list(y))

    def get_ylim(self):
        return 0.0, 40.0

    def annotate(self, *_, **__):
        pass

    bar = annotate


def test_floors_are_drawn_as_bands_of_their_intervals():
    floors = {
        "floor_gold_gold": Estimate(2.0, -0.5, 4.5, "seeds"),
        "floor_majority": Estimate(20.0, 18.0, 22.0, "seeds"),
        "floor_count_matched": Estimate(5.0),
    }
    canvas = Canvas()
    report_pictures._draw_floors(canvas, floors)
    # Gold-gold from 0 to its value and, like the majority, its interval; without an interval there is only a line.
    assert sorted(canvas.spans) == [(0, 2.0), (0.0, 4.5), (18.0, 22.0)]
    assert canvas.lines == [2.0, 5.0, 20.0]


def test_error_bars_reach_from_end_to_end_of_the_interval():
    canvas = Canvas()
    report_pictures._draw_method(canvas, 0, [1.0, 3.0], Estimate(2.0, 2.5, 4.0, "images"))
    assert [2.5, 4.0] in canvas.bars
    without = Canvas()
    report_pictures._draw_method(without, 0, [1.0, 3.0], Estimate(2.0))
    assert without.bars == [[1.0, 3.0], [2.0, 2.0]]


def test_picture_of_gaps_says_what_its_bars_are(tmp_path):
    def legend(seeds):
        draw_gaps(split_settings(small_run(seeds=seeds)), tmp_path)
        return (tmp_path / "gap.svg").read_text("utf-8")

    assert "95 % confidence over 3 seeds" in legend((0, 1, 2))
    assert "confidence" not in legend((0,))


def test_feature_auc_equals_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    values, easy = np.round(rng.random(200), 1), rng.random(200) < 0.8
    assert hardness_auc(values, easy) == pytest.approx(100 * roc_auc_score(~easy, values))
    assert hardness_auc(values, np.ones(200, bool)) is None


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_every_figure_within_the_width(width):
    methods = ["original", "retrain", "finetune", "negative_gradient", "random_labeling", "bad_teacher", "twin"]
    numbers = itertools.count(11)
    records = [
        record(method, target, 0, forget_gap=next(numbers) + 0.3, forget_accuracy=50.0, test_accuracy=60.25)
        for target in (3, 5)
        for method in [*methods, "twin_negative_gradient", "floor_gold_gold", "floor_majority", "floor_count_matched"]
    ]
    output = rendered(records, width)
    assert max(map(len, output.splitlines())) <= width
    assert "…" not in output
    for entry in records:
        if entry["method"] != "retrain":
            assert f"{entry['forget_gap']:.1f}" in output
    # A figure must stand whole on the line of its class.
    assert any(line.strip().startswith("3 cat") and "11.3" in line for line in output.splitlines())


def test_terminal_reads_a_folder_and_prints_the_same_cells(tmp_path):
    write_run(tmp_path, small_run())
    assert rendered(tmp_path) == rendered(small_run())
    (row,) = [line.split() for line in rendered(tmp_path).splitlines() if line.startswith(" 3 cat") and "84.50" in line]
    at = row.index("84.50")
    assert row[at : at + 3] == ["84.50", "85.5", "4.5"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"method": "twin", "tar', "line 1: not a JSON object"),
        ('{"method": "twin", "seed": 0}', "line 1: a record needs target_class"),
        ("[]", "line 1: a record needs method, target_class, seed"),
        ("", "holds no record"),
    ],
)
def test_broken_records_are_refused(tmp_path, content, message):
    (tmp_path / "results.jsonl").write_text(content, "utf-8")
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path)


def test_the_report_needs_no_jax():
    code = "import sys, experiments.report; sys.exit('jax' in sys.modules or 'matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_bars_in_names_do_not_break_the_markdown():
    results = Results((record("a|b", 3, 0, forget_gap=1.0),))
    row = next(line for line in to_markdown(method_table(results)).splitlines() if "a\\|b" in line)
    assert row.replace("\\|", "").count("|") == 11
