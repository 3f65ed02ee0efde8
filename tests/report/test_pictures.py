"""What the pictures show, read from their own marks and from the files."""

import xml.etree.ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from experiments.report.intervals import Estimate
from experiments.report.pictures import (
    BLUE,
    _draw_overview_panel,
    draw_estimate,
    draw_features,
    draw_overview,
    hardness_auc,
)
from experiments.report.results import split_settings
from tests.report.made_up import QUICK, made_up_features, only, record, small_run


def texts_of(path):
    return ["".join(node.itertext()).strip() for node in xml.etree.ElementTree.parse(path).iter() if "text" in node.tag]


def test_the_overview_names_every_method_and_floor(tmp_path):
    odd = [record("$my_method$", target, 0, forget_gap=1.0) for target in (3, 5)]
    texts = texts_of(draw_overview([only([*small_run(seeds=(0,)), *odd])], tmp_path))
    for name in ("twin", "original", "$my method$", "gold-gold floor", "majority floor", "count-matched floor"):
        assert name in texts
    assert "gold (retrain)" not in texts
    assert "Means over 2 classes, one seed" in texts
    assert any("activation distance" in text for text in texts)


def test_several_settings_have_a_row_of_panels_each(tmp_path):
    groups = split_settings([*small_run(seeds=(0,)), *small_run(QUICK | {"num_forget": 50}, seeds=(0,))])
    texts = texts_of(draw_overview(groups, tmp_path))
    assert [text for text in texts if "images a class" in text] == [
        f"default, {size} images a class: Means over 2 classes, one seed" for size in (20, 50)
    ]


def test_floors_are_lines_with_bands_of_their_intervals_and_classes_small_dots():
    panel = Figure().subplots()
    _draw_overview_panel(panel, only(small_run(seeds=(0, 1, 2))), ["twin"], "forget_gap")
    lines = [line.get_xdata() for line in panel.lines]
    # Gold-gold 3, majority's mean 23, count-matched 1.5; classes 5 and 5; the interval of 4, 5, 6; the mean.
    assert [x[0] for x in lines[:3]] == [3.0, 23.0, 1.5]
    assert list(lines[3]) == [5.0, 5.0]
    assert lines[4] == pytest.approx([2.516, 7.484], abs=1e-3)
    assert list(lines[5]) == [5.0]
    bands = sorted((band.get_x(), band.get_x() + band.get_width()) for band in panel.patches)
    assert bands[-1] == pytest.approx((23 - 4.968, 23 + 4.968), abs=1e-3)


def test_bars_reach_from_end_to_end_of_the_interval():
    panel = Figure().subplots()
    draw_estimate(panel, 0, Estimate(2.0, 2.5, 4.0, "images"), BLUE)
    draw_estimate(panel, 1, Estimate(2.0), BLUE)
    draw_estimate(panel, 2, Estimate(None), BLUE)
    assert [list(line.get_xdata()) for line in panel.lines] == [[2.5, 4.0], [2.0], [2.0]]
    assert [note.get_text() for note in panel.texts] == ["not measured"]


def test_pictures_are_reproducible_and_leave_the_users_matplotlib_alone(tmp_path):
    before = dict(matplotlib.rcParams)
    entries = [made_up_features("twin"), made_up_features("original", seed=1)]
    first = draw_features(entries, tmp_path).read_bytes()
    assert first == draw_features(entries, tmp_path).read_bytes()
    assert dict(matplotlib.rcParams) == before
    easy = sum(entries[0]["easy"])
    assert any(text.startswith(f"{easy} easy, {60 - easy} hard: AUC ") for text in texts_of(tmp_path / "features.svg"))


def test_feature_auc_equals_scikit_learns_with_ties():
    rng = np.random.default_rng(0)
    values, easy = np.round(rng.random(200), 1), rng.random(200) < 0.8
    assert hardness_auc(values, easy) == pytest.approx(100 * roc_auc_score(~easy, values))
    assert hardness_auc(values, np.ones(200, bool)) is None
