"""The pictures of a report, drawn on figures of their own: neither pyplot nor the user's backend is touched."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.report.intervals import Estimate
from experiments.report.results import FLOORS, Results, display_name
from experiments.report.tables import text

# Okabe and Ito's palette: told apart by colour-blind readers.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#666666"
FLOOR_STYLES = dict(zip(FLOORS, ((GREEN, "-"), (VERMILION, "--"), (PURPLE, "-.")), strict=True))
FEATURES = {"NF": "nearest distance", "AF": "adversarial loss", "CF": "curriculum loss"}
PROBLEMS = {"twin": "twin problem\n(D_test, labels known)", "original": "original problem\n(D_f, gold's answers)"}
STYLE: Any = {
    "font.size": 11,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "hatch.color": ORANGE,
    "hatch.linewidth": 0.7,
    "svg.hashsalt": "tmu-jax",
}


def draw_gaps(groups: Sequence[Results], output: pathlib.Path) -> list[pathlib.Path]:
    """Draws the forget gap of every method, a dot a class (mean over seeds), a bar for the mean, and the floors.

    Means have their confidence interval as an error bar, floors as a band about their line.

    Args:
        groups: one panel each.
        output: the folder for `gap.svg` and `gap.png`.

    Returns:
        The files written.
    """
    differing = [field for field in groups[0].setting if len({str(g.setting[field]) for g in groups}) > 1]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.9 * len(groups)), layout="constrained")
        for panel, results in zip(figure.subplots(len(groups), squeeze=False)[:, 0], groups, strict=True):
            _draw_gap_panel(panel, results)
            title = ", ".join([*(f"{field} {results.setting[field]}" for field in differing), _legend(results)])
            panel.set_title(title, fontsize=9.5, loc="left", color=GREY)
        return save(figure, output, "gap")


def draw_features(entries: Sequence[Mapping[str, Any]], output: pathlib.Path) -> list[pathlib.Path]:
    """Draws how the features of easy and of hard images are distributed, in the twin and in the original problem.

    Args:
        entries: the content of `features.json`; all classes and seeds are pooled.
        output: the folder for `features.svg` and `features.png`.

    Returns:
        The files written.
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


def _legend(results: Results) -> str:
    over = {"seeds": f"{len(results.seeds)} seeds", "images": "the forgotten images, one seed"}
    legend = "dot: a class; black line and number: the mean over classes"
    if results.interval_source is None:
        return legend
    return f"{legend};\nerror bars, and bands about the floors: 95 % confidence over {over[results.interval_source]}"


def _draw_gap_panel(panel: Axes, results: Results) -> None:
    methods = [m for m in results.methods if m != "retrain" and results.mean(m, "forget_gap").mean is not None]
    means = {method: results.mean(method, "forget_gap") for method in (*methods, *results.floors)}
    gaps = {method: _class_gaps(results, method) for method in methods}
    drawn = [value for estimate in means.values() for value in (estimate.mean, estimate.high) if value is not None]
    highest = max([1.0, *drawn, *(max(v) for v in gaps.values())])
    panel.set_yscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square))
    panel.set_ylim(0, 1.25 * highest)
    panel.set_yticks([tick for tick in (0, 1, 2, 5, 10, 20, 40, 60, 80, 100) if tick <= 1.25 * highest])
    panel.yaxis.set_minor_locator(NullLocator())
    for position, method in enumerate(methods):
        _draw_method(panel, position, gaps[method], means[method])
    _draw_floors(panel, {floor: means[floor] for floor in results.floors})
    panel.set_xlim(-0.6, max(len(methods), 1) - 0.4)
    panel.set_xticks(range(len(methods)), [display_name(m).replace(" ", "\n") for m in methods])
    panel.tick_params(axis="x", length=0)
    panel.set_ylabel("forget gap to gold, points\n(square-root scale)")
    panel.grid(axis="y", color="#dddddd", linewidth=0.7)


def _class_gaps(results: Results, method: str) -> list[float]:
    """The gap of every class, or the pooled one where the request has no classes of its own."""
    gaps = [results.of_class(target, method, "forget_gap").mean for target in results.class_names]
    defined = [gap for gap in gaps if gap is not None]
    pooled = results.mean(method, "forget_gap").mean
    return defined if defined or pooled is None else [pooled]


def _draw_method(panel: Axes, position: int, gaps: list[float], estimate: Estimate) -> None:
    if estimate.mean is None:
        return
    offsets = np.linspace(-0.24, 0.24, len(gaps)) if len(gaps) > 1 else np.zeros(1)
    panel.bar(position, estimate.mean, 0.62, color=BLUE, alpha=0.28)
    panel.plot(position + offsets, gaps, "o", color=BLUE, markersize=4.5, alpha=0.85, markeredgewidth=0, clip_on=False)
    edges = [position - 0.31, position + 0.31]
    panel.plot(edges, [estimate.mean] * 2, color="black", linewidth=2.2, solid_capstyle="butt")
    if estimate.low is not None and estimate.high is not None:
        # Drawn to its ends rather than by lengths about the mean: an interval need not hold the mean of a folded gap.
        low, high = max(estimate.low, 0.0), estimate.high
        panel.plot([position] * 2, [low, high], color="black", linewidth=1.4, solid_capstyle="butt")
        panel.plot([position] * 2, [low, high], "_", color="black", markersize=9, markeredgewidth=1.4)
    top = (position, max(estimate.mean, estimate.high or 0.0, *gaps))
    panel.annotate(
        text(estimate._replace(low=None)), top, (0, 6), textcoords="offset points", ha="center", weight="bold"
    )


def _draw_floors(panel: Axes, floors: Mapping[str, Estimate]) -> None:
    """Lines across the panel with their intervals, named in the margin, the names moved apart where floors are near."""
    gaps = {floor: estimate.mean for floor, estimate in floors.items() if estimate.mean is not None}
    if "floor_gold_gold" in gaps:
        panel.axhspan(0, gaps["floor_gold_gold"], color=GREEN, alpha=0.13, linewidth=0)
    limit = panel.get_ylim()[1]
    previous = -np.inf
    for floor, gap in sorted(gaps.items(), key=lambda item: item[1]):
        color, style = FLOOR_STYLES[floor]
        low, high = floors[floor].low, floors[floor].high
        if low is not None and high is not None:
            lightness = 0.07 if floor == "floor_gold_gold" else 0.15
            panel.axhspan(max(low, 0.0), high, color=color, alpha=lightness, linewidth=0)
        panel.axhline(gap, color=color, linestyle=style, linewidth=1.6)
        previous = max(float(np.sqrt(gap / limit)), previous + 0.12)
        panel.annotate(
            f"{display_name(floor)}\nfloor {gap:.1f}",
            (1, gap),
            (1.03, previous),
            xycoords=("axes fraction", "data"),
            textcoords="axes fraction",
            color=color,
            va="center",
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 1},
        )


def _draw_feature_panel(panel: Axes, values: np.ndarray, easy: np.ndarray) -> None:
    for name, chosen, color, hatch in (("easy", easy, BLUE, ""), ("hard", ~easy, ORANGE, "////")):
        weights = np.full(int(chosen.sum()), 100 / max(int(chosen.sum()), 1))
        heights, edges = np.histogram(values[chosen], np.linspace(0, 1, 21), weights=weights)
        panel.stairs(heights, edges, fill=True, color=color, alpha=0.3, hatch=hatch, label=f"{name} images")
        panel.stairs(heights, edges, color=color, linewidth=1.6)
    auc = hardness_auc(values, easy)
    counts = f"{int(easy.sum())} easy, {int((~easy).sum())} hard"
    panel.set_title(counts if auc is None else f"{counts}: AUC {auc:.0f}", fontsize=10, color=GREY)


def save(figure: Figure, output: pathlib.Path, name: str) -> list[pathlib.Path]:
    """Saves a figure as SVG and PNG; returns both paths."""
    paths = [output / f"{name}.{ending}" for ending in ("svg", "png")]
    # Without a date the same records give the same file.
    figure.savefig(paths[0], metadata={"Date": None})
    figure.savefig(paths[1], dpi=150)
    return paths
