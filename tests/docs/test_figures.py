"""Each table of the pages that shows measured figures is what `results/` gives, digit by digit."""

import json
import re
from collections import Counter

import pytest

from benchmarks.methods import TORCHUNLEARN, TORCHUNLEARN_LAST, UNLEARNINGS
from tests.docs.traced import ROOT, tables_of, wrong_cells
from tmu_jax.unlearning.shipped import read_recipes

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLES = [(page.name, table) for page in PAGES for table in tables_of(page.read_text("utf-8"))]
BY_HAND = {"scale.md": 3, "performance.md": 1, "results.md": 2}
KERNELS = {
    "training step, ResNet-18": "train-step-resnet18-128",
    "training step, AllCNN": "train-step-allcnn-128",
    "training step, ViT": "train-step-vit-128",
    "training step, small_resnet": "train-step-small_resnet-128",
    "evaluation, ResNet-18": "evaluation-resnet18-500",
    "evaluation, small_resnet": "evaluation-small_resnet-2000",
    "PGD-5, small_resnet, beside torchattacks": "pgd-5-small_resnet-128",
    "bad teacher step, small_resnet": "bad-teacher-step-small_resnet-256",
    "a whole twin request, small_resnet": "twin-request-small_resnet-1000",
    "the predictor's whole training, 1,000 samples": "predictor-1000",
    "the predictor's whole training, 10,000 samples": "predictor-10000",
    "nearest distances, 1,000 × 5,000": "distances-1000x5000x512",
    "nearest distances, 5,000 × 45,000": "distances-5000x45000x512",
} | {one.method: f"unlearning-{one.method}" for one in UNLEARNINGS}
RIVALS = {
    "PyTorch eager": ("PyTorch eager", "torchattacks"),
    "channels-last": ("PyTorch eager channels-last", "torchattacks, channels-last", "PyTorch loop, channels-last"),
    "compiled": ("PyTorch compiled", "PyTorch compiled channels-last"),
    "PyTorch loop": ("PyTorch loop",),
    "faiss": ("faiss IndexFlatL2",),
    "scikit-learn": ("scikit-learn NearestNeighbors",),
    "beside torchunlearn": (TORCHUNLEARN,),
    "in channels-last": (TORCHUNLEARN_LAST,),
}
SECONDS = {"ours, s": "ours_seconds", "compiling, s": "compile_seconds_cold"}


def commented(start):
    chosen = [(name, table) for name, table in TABLES if table.comment.startswith(f"<!-- {start}: ")]
    return [pytest.param(table, id=f"{name}: {table.rows[1][0]}") for name, table in chosen]


@pytest.mark.parametrize("table", commented("measured"))
def test_each_cell_is_what_was_measured(table):
    assert wrong_cells(table) == []


@pytest.mark.parametrize("table", commented("benchmarks"))
def test_each_ratio_is_what_was_timed(table):
    record = re.match(r"<!-- benchmarks: (bench-[a-z-]+\.json)", table.comment)[1]
    timed = json.loads((ROOT / "results" / record).read_text("utf-8"))["rows"]
    (_, *headings), *rows = table.rows
    for label, *cells in rows:
        own = [row for row in timed if row["kernel"] == KERNELS[label]]
        due = {row["rival"]: f"{row['ratio']:.2f}" for row in own}
        for heading, cell in zip(headings, cells, strict=True):
            if heading in SECONDS:
                assert cell == f"{own[0][SECONDS[heading]]:.1f}", (label, heading)
            elif not table.comment.endswith(f"; by hand: {heading} -->"):
                assert cell == next((due[rival] for rival in RIVALS[heading] if rival in due), "–"), (label, heading)


@pytest.mark.parametrize("table", commented("tuned"))
def test_each_recipe_is_what_its_rehearsal_came_to(table):
    held = read_recipes(re.fullmatch(r"<!-- tuned: (\S+) -->", table.comment)[1])
    assert [row[0] for row in table.rows[1:]] == sorted(held, key=lambda name: misalignments(held[name])[1])
    for name, *cells in table.rows[1:]:
        *found, share = misalignments(held[name])
        assert cells == [*(f"{value:.1f}" for value in found), f"{100 * share:.0f}"], name


def misalignments(held):
    """Of the method's own recipe, the chosen one, what that promised, and the best by gold; and its cost."""
    chosen = held["tries"][[one["number"] for one in held["tries"]].index(held["chosen"]["number"])]
    true = [one["true"]["misalignment"] for one in held["tries"]]
    return true[0], chosen["true"]["misalignment"], chosen["rehearsed"]["misalignment"], min(true), chosen["share"]


def test_no_table_of_figures_is_left_out():
    """What is by hand says so and is counted; a cell that begins with a digit is a figure."""
    assert Counter(name for name, table in TABLES if "by hand: " in table.comment) == BY_HAND
    for name, table in TABLES:
        figures = [cell for row in table.rows[1:] for cell in row[1:] if re.match(r"[-−+~]?\.?\d", cell)]
        where = (name, table.rows[0])
        assert not figures or re.match(r"<!-- (measured|benchmarks|tuned|by hand): ", table.comment), where
    assert len(commented("measured")) >= 14
    assert len(commented("tuned")) == 1


MADE_UP = """
<!-- measured: cifar10-small-resnet-cpu; pooled -->
| | forget accuracy | gap |
|---|---|---|
| twin | 89.3 ± 32.4 | 7.5 ± 41.3 |
| *floor: a random share easy* | 81.7 ± 5.3 | 0.3 ± 1.7 |
"""


@pytest.mark.parametrize(
    ("said", "instead", "found"),
    [
        ("7.5 ± 41.3", "7.6 ± 41.3", ["twin | gap: 7.6 ± 41.3, but measured is 7.5 ± 41.3"]),
        ("0.3 ± 1.7", "0.3 ± 1.8", ["floor: a random share easy | gap: 0.3 ± 1.8, but measured is 0.3 ± 1.7"]),
        ("pooled", "mean over the classes", ["twin | gap: 7.5 ± 41.3, but measured is 10.6 ± 13.3",
                                             "floor: a random share easy | gap: 0.3 ± 1.7, but measured is 3.7 ± 4.8"]),
        ("| twin |", "| bad teacher |", ["bad teacher | forget accuracy: 89.3 ± 32.4, but measured is 98.9 ± 4.4",
                                         "bad teacher | gap: 7.5 ± 41.3, but measured is 17.1 ± 13.3"]),
        ("", "", []),
    ],
)  # fmt: skip
def test_a_changed_digit_a_wrong_scope_and_a_wrong_row_are_found(said, instead, found):
    assert wrong_cells(*tables_of(MADE_UP.replace(said, instead))) == found


@pytest.mark.parametrize(
    ("said", "instead", "message"),
    [
        ("a random share easy", "as many at random", "'as many at random' names no figure"),
        ("| twin |", "| twin (gap 4.2) |", "has a figure in brackets"),
        ("| twin |", "| 5 %: twin |", "twin, 5 % is not in cifar10-small-resnet-cpu"),
        ("| gap |", "| gap, pooled, twin |", "method is said twice"),
    ],
)
def test_a_label_that_names_no_measured_figure_is_an_error(said, instead, message):
    with pytest.raises(ValueError, match=message):
        wrong_cells(*tables_of(MADE_UP.replace(said, instead)))
