"""The main part of the report on sizes: Figure 3 with the floors, and the figures behind it."""

import itertools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.intervals import Estimate
from experiments.report.pictures import BLUE, FLOOR_STYLES, GREY, ORANGE, STYLE, save
from experiments.report.results import FLOORS, Results, display_name
from experiments.report.tables import Cell, Column, Table, finding, interval_note, text
from experiments.report.write import Body, Picture, Section, load_results

RATIOS = {"dataset": "Eq. 3 over the data set", "class": "Eq. 3 over the class", "all": "all held-out images"}
PANELS = {"labels": "accuracy of the labels, %", "forget_gap": "forget gap, points", "agreement": "agreement, %"}
MARKERS = {"dataset": ("o", "-"), "class": ("s", "--"), "all": ("^", ":")}


class Size(NamedTuple):
    """The arms of one size: by ratio, the first of which has every method."""

    label: str
    images: float
    arms: dict[str, Results]

    @property
    def main(self) -> Results:
        return next(iter(self.arms.values()))


def body(output: pathlib.Path) -> Body:
    """Tables, figure and findings from an output folder of `experiments.forget_size`."""
    sizes = _sizes(load_results(output))
    draw_sizes(sizes, output)
    picture = Picture(
        "sizes",
        "Accuracy of the labels, forget gap and agreement by the number of forgotten images",
        "Figure 3 of the paper, with the floors. Labels: the predictor's for twin, the model's own answers for bad "
        "teacher. Bars are 95 % confidence intervals. The last size is the whole class.",
    )
    tables = [_labels_table(sizes), _readouts_table(sizes)]
    return Body([Section("From one image to the whole class", [*_findings(sizes), *tables], [picture])])


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
    """The predictor's accuracy for the twin methods, the agreement after unlearning for others (Fig. 3)."""
    return results.mean(method, "predictor_accuracy" if method.startswith("twin") else "agreement")


def _labels_table(sizes: Sequence[Size]) -> Table:
    """How good the labels are."""
    others = [m for m in sizes[0].main.methods if not m.startswith("twin") and m not in ("original", "retrain")]
    rows: list[tuple[Cell, ...]] = []
    for size in sizes:
        for ratio, results in size.arms.items():
            twin = results.mean("twin", "predicted_hard_share"), results.mean("twin", "hard_share")
            row: list[Cell] = [(size.label,), (RATIOS[ratio],), (_heldout(results),)]
            row += [(text(label_accuracy(results, "twin")), text(results.mean("twin", "predictor_auc")))]
            row += [(text(label_accuracy(results, method)),) for method in others]
            row += [tuple(text(results.mean(floor, "agreement")._replace(low=None)) for floor in FLOORS)]
            row += [(text(twin[0], 1, 100), text(twin[1], 1, 100))]
            rows.append(tuple(row))
    columns = [Column("forgotten images"), Column("D_test"), Column("held-out images")]
    columns += [Column("twin's predictor", ("accuracy", "AUC"))]
    columns += [Column(f"{display_name(m)} (its agreement)") for m in others]
    columns += [Column("floors", tuple(map(display_name, FLOORS)))]
    columns += [Column("twin: hard images, %", ("predicted", "truly"))]
    caption = "On D_f, percent. " + interval_note(sizes[0].main)
    return Table("Accuracy of the labels by size", tuple(columns), tuple(rows), 0, caption)


def _heldout(results: Results) -> str:
    return str(max(record.get("num_heldout") or 0 for record in results.records))


def _readouts_table(sizes: Sequence[Size]) -> Table:
    """Gap and agreement after unlearning."""
    methods = [m for m in sizes[0].main.methods if m != "retrain"]
    rows: list[tuple[Cell, ...]] = []
    for size in sizes:
        for ratio, results in size.arms.items():
            row: list[Cell] = [(size.label,), (RATIOS[ratio],)]
            row.append((text(results.mean("retrain", "forget_accuracy")._replace(low=None)),))
            for key in ("forget_gap", "agreement"):
                row += [(text(results.mean(m, key)),) for m in methods]
                row.append(tuple(text(results.mean(floor, key)._replace(low=None)) for floor in FLOORS))
            row.append(tuple(text(results.mean(m, "test_accuracy")._replace(low=None), 2) for m in methods))
            rows.append(tuple(row))
    columns = [Column("forgotten images"), Column("D_test"), Column("gold A_f")]
    for heading in ("gap", "agreement"):
        columns += [Column(f"{heading}: {display_name(m)}") for m in methods]
        columns.append(Column(f"{heading}: floors", tuple(map(display_name, FLOORS))))
    columns.append(Column("A_t", tuple(map(display_name, methods))))
    caption = "Only the twin methods use D_test; the others stand in the first row of a size. "
    return Table(
        "Gap and agreement after unlearning, by size", tuple(columns), tuple(rows), 0,
        caption + interval_note(sizes[0].main),
    )  # fmt: skip


def _findings(sizes: Sequence[Size]) -> list[str]:
    """Does the twin method's advantage over bad teacher grow with the size?"""
    if any(not {"twin", "bad_teacher"} <= set(size.main.methods) for size in sizes):
        return ["The paper's claim needs both twin and bad teacher at every size."]
    lines = []
    for key, name, lower in (("agreement", "agreement", False), ("forget_gap", "forget gap", True)):
        differences = [size.main.difference("twin", "bad_teacher", key) for size in sizes]
        listed = "; ".join(
            f"{size.label}: {text(d)} ({finding(d, lower) or 'no interval'})"
            for size, d in zip(sizes, differences, strict=True)
        )
        lines.append(f"Twin minus bad teacher in {name}, points, by size: {listed}.")
        gains = [-d.mean if lower else d.mean for d in differences if d.mean is not None]
        growing = len(gains) > 1 and all(b >= a for a, b in itertools.pairwise(gains))
        ends = gains[-1] - gains[0] if len(gains) > 1 else 0.0
        said = "grows at every step" if growing else "does not grow at every step"
        lines.append(
            f"So twin's advantage in {name} {said}; from the smallest size to the largest it changes by {ends:+.1f} "
            "points."
        )
    return lines


def draw_sizes(sizes: Sequence[Size], output: pathlib.Path) -> list[pathlib.Path]:
    """Draws accuracy of the labels, gap and agreement against the size; `sizes.svg` and `sizes.png`.

    Args:
      sizes: ascending.
      output: the folder.

    Returns:
      The files written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        for panel, (key, title) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            _draw_panel(panel, sizes, key)
            panel.set_title(title, fontsize=11)
            panel.set_xlabel("forgotten images of the class")
        handles, labels = figure.axes[1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
        return save(figure, output, "sizes")


def _draw_panel(panel: Axes, sizes: Sequence[Size], key: str) -> None:
    panel.set_xscale("log")
    panel.set_xticks([size.images for size in sizes], [size.label.replace(" ", "\n") for size in sizes], fontsize=8)
    panel.minorticks_off()

    def pick(method: str) -> Callable[[Results], Estimate]:
        if key == "labels":
            return lambda results: label_accuracy(results, method)
        return lambda results: results.mean(method, key)

    for floor in FLOORS:
        color, style = FLOOR_STYLES[floor]
        floor_key = "agreement" if key == "labels" else key
        found = [(size.images, size.main.mean(floor, floor_key).mean) for size in sizes]
        known = [(x, y) for x, y in found if y is not None]
        if known:
            panel.plot(
                *zip(*known, strict=True), style, color=color, linewidth=1.2, label=f"{display_name(floor)} floor"
            )
    _draw_line(
        panel, [(size.images, pick("bad_teacher")(size.main)) for size in sizes], ORANGE, "D", "-", "bad teacher"
    )
    for ratio, (marker, style) in MARKERS.items():
        points = [(size.images, pick("twin")(size.arms[ratio])) for size in sizes if ratio in size.arms]
        _draw_line(panel, points, BLUE, marker, style, f"twin, {RATIOS[ratio]}")
    if key != "labels":
        untouched = [(size.images, pick("original")(size.main)) for size in sizes]
        _draw_line(panel, untouched, GREY, "", "-", "untouched original")
    panel.grid(color="#dddddd", linewidth=0.7)


def _draw_line(
    panel: Axes, points: Sequence[tuple[float, Estimate]], color: str, marker: str, style: str, label: str
) -> None:
    known = [(x, estimate.mean) for x, estimate in points if estimate.mean is not None]
    if not known:
        return
    panel.plot(*zip(*known, strict=True), style, marker=marker, color=color, linewidth=1.8, markersize=5, label=label)
    for x, estimate in points:
        if estimate.low is not None and estimate.high is not None:
            panel.plot([x, x], [estimate.low, estimate.high], color=color, linewidth=1, alpha=0.7)
