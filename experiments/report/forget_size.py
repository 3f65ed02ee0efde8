"""The report on sizes: Figure 3 with the floors, and the figures behind it."""

import itertools
import pathlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.formats import LOWER_IS_BETTER, display_name, finding, text
from experiments.report.intervals import Estimate
from experiments.report.page import Body, Picture, Section
from experiments.report.pictures import BLUE, FLOOR_STYLES, GREY, ORANGE, PURPLE, STYLE, save, shown
from experiments.report.results import GOLD, ORIGINAL, Results, load_results
from experiments.report.tables import Table, interval_note

RATIOS = {"dataset": "Eq. 3 over the data set", "class": "Eq. 3 over the class", "all": "all held-out images"}
PANELS = {"labels": "accuracy of the labels, %", "forget_gap": "forget gap, points", "agreement": "agreement, %"}
MARKERS = {"dataset": ("o", "-"), "class": ("s", "--"), "all": ("^", ":")}
RIVAL = "bad_teacher"
"""What the paper compares twin with in Fig. 3."""


class Size(NamedTuple):
    """The arms of one size: by ratio, the first of which has every method."""

    label: str
    images: float
    arms: dict[str, Results]

    @property
    def main(self) -> Results:
        return next(iter(self.arms.values()))


def body(output: pathlib.Path) -> Body:
    """Table, figure and sections from an output folder of `experiments.forget_size`."""
    sizes = _sizes(load_results(output))
    findings = _findings(sizes)
    picture = Picture(
        "sizes",
        "Accuracy of the labels, forget gap and agreement by the number of forgotten images",
        "Figure 3 of the paper, with the floors. Labels: the predictor's where there is one, else the model's own "
        "answers. Bars are 95 % confidence intervals. The last size is the whole class.",
        partial(draw_sizes, sizes),
    )
    table = _main_table(sizes)
    return Body(findings[0], table, picture, [Section("Figures by size", [findings[1:], _labels_table(sizes)])])


def _sizes(groups: Sequence[Results]) -> list[Size]:
    by_size: dict[Any, dict[str, Results]] = {}
    for results in groups:
        ratio = str(results.setting["variant"]).rsplit(", ", 1)[-1]
        by_size.setdefault(results.setting["num_forget"], {})[ratio] = results
    sizes = []
    for size, arms in by_size.items():
        results = next(iter(arms.values()))
        images = _class_size(results) if size == "all" else float(size)
        sizes.append(Size("whole class" if size == "all" else f"{size:,}", images, arms))
    return sorted(sizes, key=lambda size: size.images)


def _class_size(results: Results) -> float:
    """Images of the class: those that a request for the whole of it forgets."""
    counts = [len(entry["labels"]) for entry in results.samples]
    return float(max(counts)) if counts else float("inf")


def label_accuracy(results: Results, method: str) -> Estimate:
    """The predictor's accuracy where a method has one, else the agreement after unlearning (Fig. 3)."""
    return results.mean(method, "predictor_accuracy" if method in results.predicting else "agreement")


def _main_table(sizes: Sequence[Size]) -> Table:
    """A row for each size, ratio and method, then each size's floors."""
    keys = {"forget_gap": "gap", "agreement": "agreement", "labels": "accuracy of the labels"}
    keys |= {"forget_accuracy": "A_f", "test_accuracy": "A_t"}
    rows: dict[bool, list[tuple[str, ...]]] = {True: [], False: []}
    for size in sizes:
        for ratio, results in size.arms.items():
            main = results is size.main
            for method in [*results.methods, *(results.floors if main else [])]:
                if method == GOLD:
                    continue
                name = f"{size.label}: {'floor ' if method in results.floors else ''}{display_name(method)}"
                name += "" if main else f", {RATIOS[ratio]}"
                estimates = {
                    k: label_accuracy(results, method) if k == "labels" else results.mean(method, k) for k in keys
                }
                for full, found in rows.items():
                    found.append((name, *(text(e, k, full and k != "test_accuracy") for k, e in estimates.items())))
    title = "Forgotten images and method"
    caption = "Percent; the gap in points. Only methods that predict use D_test, whose size Eq. 3 gives over the data "
    caption += f"set where nothing else is said. {interval_note(sizes[0].main)}"
    headings = (title.lower(), *keys.values())
    compact = Table("Gap and agreement by size", headings, tuple(rows[False]))
    return Table("Gap and agreement by size", headings, tuple(rows[True]), 0, caption, compact)


def _labels_table(sizes: Sequence[Size]) -> Table:
    """How good the predicted labels are."""
    rows = []
    for size in sizes:
        for ratio, results in size.arms.items():
            for method in results.predicting:
                heldout = str(max(record.get("num_heldout") or 0 for record in results.records))
                shares = [text(results.mean(method, k), k, False) for k in ("predicted_hard_share", "hard_share")]
                cells = [text(label_accuracy(results, method)), text(results.mean(method, "predictor_auc"))]
                rows.append((size.label, display_name(method), RATIOS[ratio], heldout, *cells, " / ".join(shares)))
    headings = ("forgotten images", "method", "D_test", "held-out images", "accuracy", "AUC", "called / truly hard, %")
    caption = "On D_f, percent. " + interval_note(sizes[0].main)
    return Table("Predicted labels by size", headings, tuple(rows), 0, caption)


def _findings(sizes: Sequence[Size]) -> list[str]:
    """Does the twin method's advantage over bad teacher grow with the size?"""
    twins = {method for size in sizes for method in size.main.predicting}
    if not twins or any(not {RIVAL, *twins} <= set(size.main.methods) for size in sizes):
        return ["The paper's claim needs both twin and bad teacher at every size."]
    twin = next(method for method in sizes[0].main.methods if method in twins)
    said, details = [], []
    for key, name in (("agreement", "agreement"), ("forget_gap", "forget gap")):
        differences = [size.main.difference(twin, RIVAL, key) for size in sizes]
        listed = "; ".join(
            f"{size.label}: {text(d)} ({finding(d, key) or 'no interval'})"
            for size, d in zip(sizes, differences, strict=True)
        )
        details.append(f"Twin minus bad teacher in {name}, points, by size: {listed}.")
        sign = -1 if key in LOWER_IS_BETTER else 1
        gains = [sign * d.mean for d in differences if d.mean is not None]
        growing = len(gains) > 1 and all(b >= a for a, b in itertools.pairwise(gains))
        ends = gains[-1] - gains[0] if len(gains) > 1 else 0.0
        grows = "grows at every step" if growing else "does not grow at every step"
        said.append(f"in {name} {grows} ({ends:+.1f} points from the smallest size to the largest)")
    return [f"Twin's advantage over bad teacher {' and '.join(said)}.", *details]


def draw_sizes(sizes: Sequence[Size], output: pathlib.Path) -> pathlib.Path:
    """Draws accuracy of the labels, gap and agreement against the size.

    Args:
        sizes: ascending.
        output: the folder for `sizes.svg`.

    Returns:
        The file written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 5.0), layout="constrained")
        for panel, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            _draw_panel(panel, sizes, key)
            panel.set_title(title, fontsize=11)
            panel.set_xlabel("forgotten images of the class")
        handles, labels = figure.axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
        return save(figure, output, "sizes")


def _draw_panel(panel: Axes, sizes: Sequence[Size], key: str) -> None:
    panel.set_xscale("log")
    panel.set_xticks([size.images for size in sizes], [size.label.replace(" ", "\n") for size in sizes], fontsize=8)
    panel.minorticks_off()
    main = sizes[0].main

    def pick(method: str) -> Callable[[Results], Estimate]:
        if key == "labels":
            return lambda results: label_accuracy(results, method)
        return lambda results: results.mean(method, key)

    for (color, style), floor in zip(FLOOR_STYLES, main.floors, strict=False):
        points = [(size.images, pick(floor)(size.main)._replace(low=None)) for size in sizes]
        _draw_line(panel, points, color, "", style, f"{display_name(floor)} floor", 1.2)
    others = [m for m in main.methods if m not in (GOLD, ORIGINAL, *main.predicting)]
    for (color, marker), method in zip(
        itertools.cycle(((ORANGE, "D"), (PURPLE, "v"), (GREY, "P"))), others, strict=False
    ):
        points = [(size.images, pick(method)(size.main)) for size in sizes]
        _draw_line(panel, points, color, marker, "-", display_name(method))
    for method, (ratio, (marker, style)) in itertools.product(main.predicting, MARKERS.items()):
        points = [(size.images, pick(method)(size.arms[ratio])) for size in sizes if ratio in size.arms]
        _draw_line(panel, points, BLUE, marker, style, f"{display_name(method)}, {RATIOS[ratio]}")
    if key != "labels":
        _draw_line(panel, [(s.images, pick(ORIGINAL)(s.main)) for s in sizes], GREY, "", "-", "untouched original")
    panel.grid(color="#dddddd", linewidth=0.7)


def _draw_line(
    panel: Axes,
    points: Sequence[tuple[float, Estimate]],
    color: str,
    marker: str,
    style: str,
    label: str,
    width: float = 1.8,
) -> None:
    known = [(x, estimate.mean) for x, estimate in points if estimate.mean is not None]
    if not known:
        return
    line: dict[str, Any] = {
        "marker": marker,
        "color": color,
        "linewidth": width,
        "markersize": 5,
        "label": shown(label),
    }
    panel.plot(*zip(*known, strict=True), style, **line)
    for x, estimate in points:
        if estimate.low is not None and estimate.high is not None:
            panel.plot([x, x], [estimate.low, estimate.high], color=color, linewidth=1, alpha=0.7)
