"""The pictures of a report, drawn on figures of their own: neither pyplot nor the user's backend is touched."""

import io
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.files import write_whole
from experiments.report.formats import display_name, plain
from experiments.report.intervals import Estimate
from experiments.report.results import GOLD, Results
from experiments.report.tables import averaged

# Okabe and Ito's palette: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
FLOOR_STYLES = ((GREEN, "-"), (VERMILION, "--"), (PURPLE, "-."), (ORANGE, ":"))
PANELS = {
    "forget_gap": "gap, points\n(less is better)",
    "agreement": "agreement, %\n(more is better)",
    "activation_distance": "activation distance\n(less is better)",
}
FEATURES = {"NF": "nearest distance", "AF": "adversarial loss", "CF": "curriculum loss"}
PROBLEMS = {"twin": "twin problem\n(D_test, labels known)", "original": "original problem\n(D_f, gold's answers)"}
STYLE: Any = {
    "font.size": 11,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    # Text stays text: small files, and names that can be searched for.
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.color": ORANGE,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "tmu-jax",
}


def draw_overview(groups: Sequence[Results], output: pathlib.Path) -> pathlib.Path:
    """Draws every method against the floors in gap, agreement and activation distance; returns the file, an SVG.

    Args:
        groups: a row of panels each.
        output: the folder for `overview.svg`.
    """
    rows = [[m for m in results.methods if m != GOLD] for results in groups]
    heights = [1.6 + 0.42 * len(methods) for methods in rows]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 0.5 + sum(heights)), layout="constrained")
        grid = figure.subplots(len(groups), len(PANELS), squeeze=False, sharey="row", height_ratios=heights)
        for panels, results, methods in zip(grid, groups, rows, strict=True):
            for panel, (key, label) in zip(panels, PANELS.items(), strict=True):
                _draw_overview_panel(panel, results, methods, key)
                panel.set_xlabel(label)
            panels[0].set_yticks(range(len(methods)), [shown(results.label(m)) for m in methods])
            panels[0].set_ylim(len(methods) - 0.4, -0.6)
            setting = f"{results.setting['variant']}, {results.setting['num_forget']} images a class: "
            panels[0].set_title(
                (setting if len(groups) > 1 else "") + averaged(results), fontsize=10, loc="left", color=GREY
            )
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=10)
        return save(figure, output, "overview")


def _draw_overview_panel(panel: Axes, results: Results, methods: Sequence[str], key: str) -> None:
    for (color, style), floor in zip(FLOOR_STYLES, results.floors, strict=False):
        estimate = results.mean(floor, key)
        if estimate.mean is not None:
            panel.axvline(
                estimate.mean, color=color, linestyle=style, linewidth=1.8, label=f"{display_name(floor)} floor"
            )
        if estimate.low is not None and estimate.high is not None:
            panel.axvspan(estimate.low, estimate.high, color=color, alpha=0.1, linewidth=0)
    for row, method in enumerate(methods):
        within = results.for_method(method)
        classes = within.figures("mean", method, key).by_class if len(results.class_names) > 1 else []
        panel.plot(classes, [row] * len(classes), "o", color=GREY, markersize=3, alpha=0.5, markeredgewidth=0)
        draw_estimate(panel, row, within.mean(method, key), BLUE)
    panel.grid(axis="x", color="#dddddd", linewidth=0.7)
    panel.tick_params(axis="y", length=0)
    panel.set_xlim(left=max(0.0, panel.get_xlim()[0]) if key != "forget_gap" else 0.0)


def draw_estimate(panel: Axes, row: int, estimate: Estimate, color: str) -> None:
    """A dot for the figure, and a bar from end to end of its interval, which need not hold that of a folded gap."""
    if estimate.mean is None:
        panel.annotate("not measured", (0.02, row), xycoords=("axes fraction", "data"), va="center", color=GREY)
        return
    if estimate.low is not None and estimate.high is not None:
        panel.plot([estimate.low, estimate.high], [row, row], color=color, linewidth=2.2)
    panel.plot([estimate.mean], [row], "o", color=color, markersize=7)


def draw_features(entries: Sequence[Mapping[str, Any]], output: pathlib.Path) -> pathlib.Path:
    """Draws how the features of easy and of hard images are distributed, in the twin and in the original problem.

    Args:
        entries: the content of `features.json.gz`; all classes and seeds are pooled.
        output: the folder for `features.svg`.

    Returns:
        The file written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 6.2), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True, sharey="row")
        for row, (problem, label) in zip(panels, PROBLEMS.items(), strict=True):
            chosen = [entry for entry in entries if entry["problem"] == problem]
            for panel, name in zip(row, FEATURES, strict=True):
                values = np.concatenate([np.zeros(0), *(np.asarray(entry[name], float) for entry in chosen)])
                easy = np.concatenate([np.zeros(0, bool), *(np.asarray(entry["easy"], bool) for entry in chosen)])
                _draw_feature_panel(panel, values, easy)
            row[0].set_ylabel(f"{label}\n\nshare of its group, %")
        for panel, (name, meaning) in zip(panels[-1], FEATURES.items(), strict=True):
            panel.set_xlabel(f"{name}: {meaning} (scaled)")
        handles = panels[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
        return save(figure, output, "features")


def hardness_auc(values: np.ndarray, easy: np.ndarray) -> float | None:
    """The chance, in percent, that a hard image has the larger value of the two; ties count half.

    Args:
        values: float[n], a feature.
        easy: bool[n].

    Returns:
        The area under the ROC curve, None where all images are of one kind.
    """
    low, high = np.sort(values[easy]), values[~easy]
    if not low.size or not high.size:
        return None
    below, not_above = np.searchsorted(low, high, "left"), np.searchsorted(low, high, "right")
    return 100 * float(np.mean(below + not_above)) / (2 * low.size)


def _draw_feature_panel(panel: Axes, values: np.ndarray, easy: np.ndarray) -> None:
    for name, chosen, color, hatch in (("easy", easy, BLUE, ""), ("hard", ~easy, ORANGE, "////")):
        weights = np.full(int(chosen.sum()), 100 / max(int(chosen.sum()), 1))
        heights, edges = np.histogram(values[chosen], np.linspace(0, 1, 21), weights=weights)
        panel.stairs(heights, edges, fill=True, color=color, alpha=0.3, hatch=hatch, label=f"{name} images")
        panel.stairs(heights, edges, color=color, linewidth=1.6)
    auc = hardness_auc(values, easy)
    counts = f"{int(easy.sum())} easy, {int((~easy).sum())} hard"
    panel.set_title(counts if auc is None else f"{counts}: AUC {auc:.0f}", fontsize=10, color=GREY)


def shown(name: str) -> str:
    """A name as text in a picture: none of it is a formula."""
    return plain(name).replace("$", r"\$")


def save(figure: Figure, output: pathlib.Path, stem: str) -> pathlib.Path:
    """Saves a figure as SVG; returns its path."""
    path, drawn = output / f"{stem}.svg", io.StringIO()
    # Without a date the same records give the same file; a hundredth of a point is enough.
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    write_whole(path, re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", drawn.getvalue()))
    return path
