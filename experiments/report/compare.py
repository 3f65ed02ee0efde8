"""The comparison's report: methods as published and tuned, ranks, which pairs differ, and alignment against cost."""

import pathlib
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from experiments.report import requests
from experiments.report.formats import BETTER, WORSE, display_name, finding, text
from experiments.report.intervals import over_seeds
from experiments.report.misalignment import misalignment
from experiments.report.page import Body, Part, Picture, Section
from experiments.report.pictures import BLUE, GREEN, ORANGE, STYLE, save, shown
from experiments.report.results import GOLD, GOLD_GOLD, ORIGINAL, POOLED, Results, load_results
from experiments.report.tables import Table, interval_note

READOUTS = requests.READOUTS | {"seconds": "s", "retraining_share": "% of retraining"}
COMPACT = {
    "test_accuracy": "A_t",
    "forget_gap": "gap",
    "agreement": "agree-\nment",
    "activation_distance": "dis-\ntance",
    "retraining_share": "% of re-\ntraining",
}
RANKED = {"misalignment": "misalignment", "agreement": "agreement", "activation_distance": "distance"}
COMPARED = {"agreement": "agreement", "activation_distance": "distance"}
SCENARIOS = {"random": "images at random", "part": "a part of one class", "class": "a whole class"}
PUBLISHED = "published"


class Row(NamedTuple):
    """A method under one set of recipes.

    Attributes:
      name: for people.
      method: its name in the records.
      results: of its arm.
      base: of the arm that has the gold model's own row.
    """

    name: str
    method: str
    results: Results
    base: Results

    def by_seed(self, key: str) -> np.ndarray:
        """A readout in every seed, in order; "misalignment" is one too."""
        if key != "misalignment":
            return np.array(self.results.figures(POOLED, self.method, key).by_seed)
        agreement, gap, distance, accuracy = (
            self.by_seed(one) for one in ("agreement", "forget_gap", "activation_distance", "test_accuracy")
        )
        of_gold = np.array(self.base.figures(POOLED, GOLD, "test_accuracy").by_seed)
        return misalignment(agreement, gap, distance, of_gold - accuracy)


def body(output: pathlib.Path) -> Body:
    """Table, pictures and sections from an output folder of `experiments.compare`."""
    scenarios: dict[str, list[Results]] = {}
    for results in load_results(output):
        scenarios.setdefault(_parts(results)[0], []).append(results)
    sections: list[Section] = []
    first: Body | None = None
    for scenario, arms in scenarios.items():
        rows = _rows(arms)
        size = arms[0].setting["num_forget"]
        words = f"{SCENARIOS.get(scenario, scenario)}, {size} of {'the' if scenario != 'random' else 'each'} class"
        table, picture = _table(rows, words), _picture(scenario, rows)
        own: list[Part] = [] if first is None else [_sentence(rows), table, picture]
        first = first or Body(_sentence(rows), table, picture, sections)
        sections.append(Section(f"Ranks and pairs: {words}", [*own, _ranks(rows), _pairs(rows)]))
    assert first is not None  # a folder without records is refused before
    return first


def _parts(results: Results) -> tuple[str, str]:
    """Scenario and recipes of an arm."""
    scenario, _, recipes = str(results.setting["variant"]).partition(", ")
    return scenario, recipes


def _rows(arms: Sequence[Results]) -> list[Row]:
    """What is compared, nearest to gold first; the untouched original and a second gold model among them.

    Raises:
        ValueError: no arm has the gold model's own row.
    """
    bases = [results for results in arms if GOLD in results.methods]
    if not bases:
        raise ValueError(f"no arm of {_parts(arms[0])[0]!r} has the gold model's records; add retrain to --methods")
    base = bases[0]
    rows = [Row("floor: gold-gold", GOLD_GOLD, base, base)]
    for results in arms:
        recipes = _parts(results)[1]
        for method in results.methods:
            if method == GOLD or (method == ORIGINAL and results is not base):
                continue
            tuned = "" if recipes == PUBLISHED else ", tuned"
            rows.append(Row(f"{display_name(method)}{tuned}", method, results, base))
    whole = [row for row in rows if row.results.for_method(row.method).seeds == base.seeds]
    return sorted(whole, key=lambda row: float(row.by_seed("misalignment").mean()))


def _sentence(rows: Sequence[Row]) -> str:
    """Which row comes nearest to gold, and where a second gold model and the untouched original stand."""
    known = [row for row in rows if row.method not in (GOLD_GOLD, ORIGINAL)]
    if not known:
        return "No method was measured under every seed."

    def of(row: Row) -> str:
        keys = ("agreement", "activation_distance", "forget_gap")
        agreement, distance, gap = (text(row.results.estimate(POOLED, row.method, key), key, False) for key in keys)
        return f"agreement {agreement}, distance {distance}, gap {gap}"

    others = {row.method: of(row) for row in rows if row.method in (GOLD_GOLD, ORIGINAL)}
    untouched = f"; the untouched original: {others[ORIGINAL]}" if ORIGINAL in others else ""
    return (
        f"Of {len(known)} methods and recipes {known[0].name} comes nearest to gold, as gold alone can tell of so many "
        f"({of(known[0])}); a second gold model: {others[GOLD_GOLD]}{untouched}."
    )


def _table(rows: Sequence[Row], words: str) -> Table:
    def cells(row: Row, keys: Sequence[str], interval: bool) -> tuple[str, ...]:
        return (row.name, *(text(row.results.estimate(POOLED, row.method, key), key, interval) for key in keys))

    caption = (
        "Nearest to gold first, by misalignment: disagreement, gap, lost test accuracy and a hundred distances, added "
        f"up. distance: activation distance to gold. {interval_note(rows[0].base)}"
    )
    compact = Table(words, ("method", *COMPACT.values()), tuple(cells(row, list(COMPACT), False) for row in rows))
    full = tuple(cells(row, list(READOUTS), True) for row in rows)
    return Table(f"Every method: {words}", ("method", *READOUTS.values()), full, 0, caption, compact)


def _ranks(rows: Sequence[Row]) -> Table:
    """The mean rank of every row over the seeds; of equal ones each has the mean of their ranks."""
    columns = {}
    for key in RANKED:
        values = np.array([row.by_seed(key) for row in rows])
        columns[key] = stats.rankdata(values if key != "agreement" else -values, axis=0)
    cells = [
        (row.name, *(text(over_seeds(ranks[number].tolist())) for ranks in columns.values()))
        for number, row in enumerate(rows)
    ]
    caption = f"1 is nearest to gold, of {len(rows)}. {interval_note(rows[0].base, over_images=False)}"
    return Table("Ranks", ("method", *RANKED.values()), tuple(cells), 0, caption)


def _pairs(rows: Sequence[Row]) -> Table:
    """Of every row how many others it is shown to be better and worse than, and which."""
    shown_better: dict[tuple[str, str], list[str]] = {}
    for key in COMPARED:
        for row in rows:
            for other in rows:
                difference = row.results.difference(row.method, other.method, key, POOLED, other=other.results)
                said = finding(difference, key) if row is not other else None
                if said in (BETTER, WORSE):
                    shown_better.setdefault((row.name, f"{key} {said}"), []).append(other.name)
    cells = []
    for row in rows:
        found = []
        for key in COMPARED:
            better, worse = (shown_better.get((row.name, f"{key} {said}"), []) for said in (BETTER, WORSE))
            found.append(f"{len(better)} / {len(worse)}")
            found.append(", ".join(better) or "none")
        cells.append((row.name, *found))
    headings = [heading for name in COMPARED.values() for heading in (f"{name}: better / worse than", "better than")]
    tests = len(rows) * (len(rows) - 1) // 2
    caption = (
        f"Pairs whose paired 95 % interval leaves out 0, of {tests} pairs in each readout; not corrected for how many "
        f"there are, so about {round(0.05 * tests)} are expected by chance alone."
    )
    return Table("Which pairs differ", ("method", *headings), tuple(cells), 0, caption)


def _picture(scenario: str, rows: Sequence[Row]) -> Picture:
    alt = "Agreement and activation distance of every method against its seconds, with a second gold model as a band"
    caption = "Each number is a method, named below; blue: published, orange: tuned. The band is a second gold model."
    return Picture(f"compare-{scenario}", alt, caption, partial(_draw, rows, stem=f"compare-{scenario}"))


def _draw(rows: Sequence[Row], output: pathlib.Path, stem: str) -> pathlib.Path:
    """Draws agreement and distance of each row against its seconds; a second gold and the original are lines."""
    points = [row for row in rows if row.method not in (GOLD_GOLD, ORIGINAL)]
    (second,) = (row for row in rows if row.method == GOLD_GOLD)
    untouched = [row for row in rows if row.method == ORIGINAL]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 5.4), layout="constrained")
        for panel, (key, label) in zip(figure.subplots(1, len(requests.PANELS)), requests.PANELS.items(), strict=True):
            gold = second.results.estimate(POOLED, GOLD_GOLD, key)
            if gold.mean is not None:
                panel.axhline(gold.mean, color=GREEN, linewidth=1.8, label="a second gold model")
            if gold.low is not None and gold.high is not None:
                panel.axhspan(gold.low, gold.high, color=GREEN, alpha=0.1, linewidth=0)
            for row in untouched:
                level = row.results.estimate(POOLED, ORIGINAL, key).mean
                if level is not None:
                    panel.axhline(level, color="black", linewidth=1, linestyle=":", label="untouched original")
            for number, row in enumerate(points, 1):
                place = (float(np.mean(row.by_seed("seconds"))), float(np.mean(row.by_seed(key))))
                color = ORANGE if row.name.endswith(", tuned") else BLUE
                panel.plot(*place, "o", color=color, markersize=4)
                panel.annotate(str(number), place, xytext=(3, 3), textcoords="offset points", fontsize=8, color=color)
            panel.set_xscale("log")
            panel.set_xlabel("seconds of a request")
            panel.set_ylabel(label)
            panel.grid(color="#dddddd", linewidth=0.7)
        names = ", ".join(f"{number} {row.name}" for number, row in enumerate(points, 1))
        figure.supxlabel(shown(textwrap.fill(names, 150)), fontsize=8)
        figure.legend(
            *panel.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=10
        )
        return save(figure, output, stem)
