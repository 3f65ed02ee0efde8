"""The main part of the variants' report: each flipped choice against the default, as a table and a forest plot."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.intervals import Estimate
from experiments.report.pictures import BLUE, GREY, STYLE, VERMILION, save
from experiments.report.results import MEAN, POOLED, Results, Scope, display_name
from experiments.report.tables import MISSING, Cell, Column, Table, finding, interval_note, text
from experiments.report.write import Body, Picture, Section, load_results

KEYS = {"agreement": ("agreement, points", False), "forget_gap": ("forget gap, points", True)}
"""What is compared: its name on the plot, and whether lower is better."""


class Arm(NamedTuple):
    """A flipped choice: its results, the method it measures, and its difference to the default for each key."""

    name: str
    results: Results
    method: str
    differences: dict[str, Estimate]


def body(output: pathlib.Path) -> Body:
    """Tables, plot and findings from an output folder of `experiments.variants`."""
    groups = load_results(output)
    defaults = [results for results in groups if results.setting["variant"] == "default"]
    sections = []
    for default in defaults:
        same_size = [r for r in groups if r.setting["num_forget"] == default.setting["num_forget"] and r is not default]
        scope: Scope = POOLED if default.has_pooled else MEAN
        arms = [_compare(results, default, scope) for results in same_size]
        references = _references(default, scope)
        stem = "variants" if len(defaults) == 1 else f"variants-{default.setting['num_forget']}"
        draw_forest([*arms, *references], output, stem)
        picture = Picture(
            stem,
            "Differences of every variant to the default in agreement and forget gap",
            "Each choice flipped alone, minus the default; below, the untouched original and the floors, minus the "
            "default. Paired; bars are 95 % confidence intervals.",
        )
        title = f"Which open choices matter ({default.setting['num_forget']} images a class)"
        sections.append(Section(title, [*_findings(arms), _table(arms, references, default, scope)], [picture]))
    return Body(sections)


def _compare(results: Results, default: Results, scope: Scope) -> Arm:
    method = next(m for m in results.methods if m.startswith("twin"))
    differences = {key: results.difference(method, "twin", key, scope, other=default) for key in KEYS}
    return Arm(str(results.setting["variant"]), results, method, differences)


def _references(default: Results, scope: Scope) -> list[Arm]:
    """The untouched original and the floors, against the default as the variants are."""
    found = []
    for method in ("original", *default.floors):
        name = "untouched original" if method == "original" else f"floor: {display_name(method)}"
        differences = {key: default.difference(method, "twin", key, scope) for key in KEYS}
        found.append(Arm(name, default, method, differences))
    return found


def _table(arms: Sequence[Arm], references: Sequence[Arm], default: Results, scope: Scope) -> Table:
    def readouts(results: Results, method: str) -> tuple[Cell, ...]:
        of = {key: results.estimate(scope, method, key) for key in ("test_accuracy", *KEYS, "activation_distance")}
        predictor = results.estimate(scope, method, "predictor_accuracy")
        return (
            (text(of["test_accuracy"]._replace(low=None), 2),),
            (text(of["agreement"]),),
            (text(of["forget_gap"]),),
            (text(of["activation_distance"]._replace(low=None), 3),),
            (text(predictor._replace(low=None)),),
        )

    nothing: Cell = (MISSING, MISSING)
    rows: list[tuple[Cell, ...]] = [(("default",), *readouts(default, "twin"), nothing, nothing)]
    for arm in (*arms, *references):
        cells = [
            (text(arm.differences[key]), finding(arm.differences[key], lower) or MISSING)
            for key, (_, lower) in KEYS.items()
        ]
        rows.append(((arm.name,), *readouts(arm.results, arm.method), *cells))
    columns = (
        Column("variant"),
        Column("A_t"),
        Column("agreement"),
        Column("gap"),
        Column("activation distance"),
        Column("accuracy of the labels on D_f"),
        Column("agreement − default's", ("points", "finding")),
        Column("gap − default's", ("points", "finding")),
    )
    over = "pooled over the request" if scope == POOLED else "means over the classes"
    caption = "Each row flips one choice; differences are paired. " + interval_note(default)
    return Table(f"Variants of the twin method, {over}", columns, tuple(rows), len(references), caption)


def _findings(arms: Sequence[Arm]) -> list[str]:
    lines = []
    for key, (_, lower) in KEYS.items():
        name = key.replace("_", " ")
        known = {arm.name: finding(arm.differences[key], lower) for arm in arms}
        for word in ("better", "worse"):
            found = [f"{arm.name} ({text(arm.differences[key])})" for arm in arms if known[arm.name] == word]
            if found:
                lines.append(f"{name.capitalize()}, {word} than the default: {'; '.join(found)}.")
        unsure = [arm.name for arm in arms if known[arm.name] not in ("better", "worse")]
        if unsure:
            lines.append(f"{name.capitalize()}, no difference shown: {'; '.join(unsure)}.")
    return lines


def draw_forest(arms: Sequence[Arm], output: pathlib.Path, stem: str) -> list[pathlib.Path]:
    """Draws each arm's difference to the default with its interval, a panel for agreement and one for the gap.

    Args:
      arms: a row each.
      output: the folder for the picture, SVG and PNG.
      stem: its name.

    Returns:
      The files written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.8 + 0.36 * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(KEYS), sharey=True, squeeze=False)[0]
        for panel, (key, (title, lower)) in zip(panels, KEYS.items(), strict=True):
            _draw_panel(panel, arms, key, lower)
            better = "left" if lower else "right"
            panel.set_xlabel(f"difference in {title}\n({better} is better)")
        panels[0].set_yticks(range(len(arms)), [arm.name for arm in arms])
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        return save(figure, output, stem)


def _draw_panel(panel: Axes, arms: Sequence[Arm], key: str, lower_is_better: bool) -> None:
    panel.axvline(0, color="black", linewidth=1)
    for row, arm in enumerate(arms):
        difference = arm.differences[key]
        if difference.mean is None:
            panel.annotate("not measured", (0, row), (4, 0), textcoords="offset points", va="center", color=GREY)
            continue
        color = {"better": BLUE, "worse": VERMILION}.get(finding(difference, lower_is_better) or "", GREY)
        if difference.low is not None and difference.high is not None:
            panel.plot([difference.low, difference.high], [row, row], color=color, linewidth=2)
        panel.plot([difference.mean], [row], "o", color=color, markersize=6)
    panel.grid(axis="x", color="#dddddd", linewidth=0.7)
    panel.tick_params(axis="y", length=0)
