"""The variants' report: each flipped choice against the default, as a table and a forest plot."""

import pathlib
from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.formats import BETTER, MISSING, WORSE, display_name, finding, text
from experiments.report.intervals import Estimate
from experiments.report.page import Body, Part, Picture, Section
from experiments.report.pictures import BLUE, GREY, STYLE, VERMILION, draw_estimate, save, shown
from experiments.report.results import MEAN, ORIGINAL, POOLED, Results, Scope, load_results
from experiments.report.tables import Table, compared, interval_note, over

KEYS = {"agreement": "agreement, points\n(right is better)", "forget_gap": "forget gap, points\n(left is better)"}
"""What is compared, and what the plot says of it."""
READOUTS = {"agreement": "agreement", "forget_gap": "gap", "test_accuracy": "A_t"}
READOUTS |= {"activation_distance": "activation distance", "predictor_accuracy": "accuracy of the labels on D_f"}


class Arm(NamedTuple):
    """A flipped choice.

    Attributes:
        name: of the arm.
        results: its own.
        method: the one that it measures.
        differences: to the default, for each key of `KEYS`.
        is_paired: whether it forgot the images that the default forgot.
    """

    name: str
    results: Results
    method: str
    differences: dict[str, Estimate]
    is_paired: bool = True

    @property
    def label(self) -> str:
        """Its name as it stands in tables and pictures."""
        return self.name if self.is_paired else f"{self.name} ({self.results.setting['num_forget']} images, unpaired)"


def body(output: pathlib.Path, expected: Mapping[str, str] = MappingProxyType({})) -> Body:
    """Table, plot and sections from an output folder of `experiments.variants`.

    Args:
        output: the folder.
        expected: by the arm's name, what was written of it before it was measured.
    """
    groups = load_results(output)
    defaults = [results for results in groups if results.setting["variant"] == "default"]
    if not defaults:
        raise ValueError(f"{output} holds no record of the default, which every variant is compared with")
    first: Body | None = None
    sections: list[Section] = []
    for default in defaults:
        size = default.setting["num_forget"]
        scope: Scope = POOLED if default.has_pooled else MEAN
        own = {default.setting["num_forget"] for default in defaults} - {size}
        # A variant of a size that no default has changes the size itself: it stands beside every default.
        arms = [_compare(r, default, scope) for r in groups if r is not default and r.setting["num_forget"] not in own]
        references = _references(default, scope)
        stem = "variants" if len(defaults) == 1 else f"variants-{size}"
        caption = "Each choice flipped alone, minus the default; below, the untouched original and the floors, minus "
        caption += "the default. Bars are 95 % confidence intervals; what is not paired has none."
        alt = "Differences of every variant to the default in agreement and forget gap"
        picture = Picture(stem, alt, caption, partial(draw_forest, [*arms, *references], stem=stem))
        table, findings = _table(arms, references, default, scope), _findings(arms)
        first = first or Body(findings[0], table, picture, sections)
        # The first size's stand at the top of the page.
        more: list[Part] = [table, picture]
        foretold = _foretold(arms, expected, default)
        parts: list[Part] = [findings, *(more if sections else []), *([foretold] if foretold.rows else [])]
        sections.append(Section(f"Which open choices matter ({size} images a class)", parts))
    assert first is not None
    return first


def _compare(results: Results, default: Results, scope: Scope) -> Arm:
    method, theirs = results.predicting[0], default.predicting[0]
    differences = {key: results.difference(method, theirs, key, scope, other=default) for key in KEYS}
    is_paired = results.setting["num_forget"] == default.setting["num_forget"]
    if not is_paired:
        differences = {key: Estimate(difference.mean) for key, difference in differences.items()}
    return Arm(str(results.setting["variant"]), results, method, differences, is_paired)


def _references(default: Results, scope: Scope) -> list[Arm]:
    """The untouched original and the floors, against the default as the variants are."""
    found = []
    for method in (ORIGINAL, *default.floors):
        name = "untouched original" if method == ORIGINAL else f"floor: {display_name(method)}"
        differences = {key: default.difference(method, default.predicting[0], key, scope) for key in KEYS}
        found.append(Arm(name, default, method, differences))
    return found


def _table(arms: Sequence[Arm], references: Sequence[Arm], default: Results, scope: Scope) -> Table:
    def row(name: str, results: Results, method: str, differences: dict[str, Estimate], short: bool) -> tuple[str, ...]:
        readouts = [
            text(results.estimate(scope, method, key), key, key in KEYS and not short) for key in READOUTS
        ]  # fmt: skip
        minus = [(text if short else compared)(differences.get(key, Estimate(None)), key) for key in KEYS]
        return (name, *minus, *readouts)

    first = Arm("default", default, default.predicting[0], {})
    rows, compact = (
        tuple(row(arm.label, arm.results, arm.method, arm.differences, short) for arm in (first, *arms, *references))
        for short in (False, True)
    )
    headings = ("variant", "agreement − default's", "gap − default's", *READOUTS.values())
    caption = "Each row flips one choice; differences are paired. " + interval_note(default)
    if not all(arm.is_paired for arm in arms):
        caption += " Unpaired: the row forgets other images than the default, so its difference has no interval."
    title = f"Variants of the twin method, {over(default, scope)}"
    short = Table(title, headings, compact, len(references))
    return Table(title, headings, rows, len(references), caption, short)


def _foretold(arms: Sequence[Arm], expected: Mapping[str, str], default: Results) -> Table:
    """What was written of an arm before it was measured, beside what came out; no rows where nothing was written."""
    keys = {"test_accuracy": "A_t", "forget_accuracy": "A_f"}
    headings = ("variant", "expected", *(f"{READOUTS[key]} − default's" for key in KEYS), *keys.values())

    def row(arm: Arm, said: str) -> tuple[str, ...]:
        differences = [compared(arm.differences.get(key, Estimate(None)), key) for key in KEYS]
        return (arm.label, said, *differences, *(text(arm.results.mean(arm.method, k), k, False) for k in keys))

    rows = [row(arm, expected[arm.name]) for arm in arms if arm.name in expected]
    if rows:
        rows.insert(0, row(Arm("default", default, default.predicting[0], {}), MISSING))
    caption = "The expectations were written before the arms were measured, and stand as they were written."
    return Table("What was expected, and what came out", headings, tuple(rows), 0, caption)


def _findings(arms: Sequence[Arm]) -> list[str]:
    """The first sentence says what matters; then a sentence for each readout on the variants that were not shown to."""
    unpaired = [arm.label for arm in arms if not arm.is_paired]
    arms = [arm for arm in arms if arm.is_paired]
    known = {key: {arm.name: finding(arm.differences[key], key) for arm in arms} for key in KEYS}
    told = []
    for arm in arms:
        shifts = [f"{known[k][arm.name]} in {READOUTS[k]}, {text(arm.differences[k])}" for k in KEYS
                  if known[k][arm.name] in (BETTER, WORSE)]  # fmt: skip
        told += [f"{arm.name} ({'; '.join(shifts)})"] if shifts else []
    verb = "is" if len(told) == 1 else "are"
    lines = [f"Of {len(arms)} flipped choices {len(told) or 'none'} {verb} shown to matter"]
    lines[0] += f": {', '.join(told)}." if told else "."
    for key in KEYS:
        unsure = [arm.name for arm in arms if known[key][arm.name] not in (BETTER, WORSE)]
        lines += [f"No difference shown in {READOUTS[key]}: {'; '.join(unsure)}."] if unsure else []
    lines += [f"Not tested, since other images are forgotten: {'; '.join(unpaired)}."] if unpaired else []
    return lines


def draw_forest(arms: Sequence[Arm], output: pathlib.Path, stem: str) -> pathlib.Path:
    """Draws each arm's difference to the default with its interval, a panel for agreement and one for the gap.

    Args:
        arms: a row each.
        output: the folder for the picture, an SVG.
        stem: its name.

    Returns:
        The file written.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 1.8 + 0.36 * len(arms)), layout="constrained")
        panels = figure.subplots(1, len(KEYS), sharey=True, squeeze=False)[0]
        for panel, (key, label) in zip(panels, KEYS.items(), strict=True):
            _draw_panel(panel, arms, key)
            panel.set_xlabel(f"difference in {label}")
        panels[0].set_yticks(range(len(arms)), [shown(arm.label) for arm in arms])
        panels[0].set_ylim(len(arms) - 0.5, -0.5)
        return save(figure, output, stem)


def _draw_panel(panel: Axes, arms: Sequence[Arm], key: str) -> None:
    panel.axvline(0, color="black", linewidth=1)
    for row, arm in enumerate(arms):
        difference = arm.differences[key]
        color = {BETTER: BLUE, WORSE: VERMILION}.get(finding(difference, key) or "", GREY)
        draw_estimate(panel, row, difference, color)
    panel.grid(axis="x", color="#dddddd", linewidth=0.7)
    panel.tick_params(axis="y", length=0)
