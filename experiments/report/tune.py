"""The tuning's report: what rehearsal chose, beside the published recipe and what gold would have chosen."""

import json
import pathlib
import statistics
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from scipy import stats

from experiments.report.files import Record, read_config, write_whole
from experiments.report.formats import MISSING, display_name, option_words
from experiments.report.misalignment import misalignment
from experiments.report.page import Body, Picture, Section
from experiments.report.pictures import BLUE, GREY, ORANGE, STYLE, save, shown
from experiments.report.results import GOLD, GOLD_GOLD, ORIGINAL, POOLED, Results, load_results
from experiments.report.tables import Table

TRUE = {"agreement": "agreement", "gap": "forget_gap", "distance": "activation_distance"}
"""A record's readouts, by what a rehearsal calls them."""


class Try(NamedTuple):
    """One recipe of a method.

    Attributes:
      number: of the try; 0 is the published recipe.
      recipe: of the optimisation, as JSON values; None where it goes by the training's.
      options: of the method.
      rehearsed: what the rehearsal promised, means over the seeds.
      true: the same readouts on the request, judged by gold.
      share: the cost, as a share of a retraining's images.
    """

    number: int
    recipe: dict[str, Any] | None
    options: dict[str, Any]
    rehearsed: dict[str, float]
    true: dict[str, float]
    share: float


def body(output: pathlib.Path) -> Body:
    """Table, picture and sections from an output folder of `experiments.tune`; writes `recipes.json` beside them."""
    groups = {int(str(one.setting["variant"]).removeprefix("try ")): one for one in load_results(output)}
    if 0 not in groups:
        raise ValueError(f"{output} holds no record of the first try, the published recipes")
    tries = {name: _tries(name, groups) for name in groups[0].methods if name not in (ORIGINAL, GOLD)}
    tries = {name: found for name, found in tries.items() if found}
    if not tries:
        raise ValueError(f"{output} holds no method with a try that was rehearsed")
    write_whole(output / "recipes.json", json.dumps(_recipes(output, groups[0], tries), indent=1) + "\n")
    floors = {name: _misalignment(groups[0], name) for name in (ORIGINAL, GOLD_GOLD)}
    caption = "A dot a recipe: the misalignment that its rehearsal promised and what came true; orange: chosen."
    picture = Picture("tries", "Rehearsed and true misalignment of every try", caption, partial(_draw, tries))
    return Body(_sentence(tries, floors), _table(tries, floors), picture, [Section("Every try", [_every(tries)])])


def chosen(tries: Sequence[Try]) -> Try:
    """The try that rehearsed best."""
    return min(tries, key=lambda one: one.rehearsed["misalignment"])


def _tries(name: str, groups: dict[int, Results]) -> list[Try]:
    """The tries of a method, without those that diverged under a seed."""
    found = []
    for number, results in sorted(groups.items()):
        records = [r for r in results.records if r["method"] == name and r["target_class"] == POOLED]
        if len(records) < len(groups[0].seeds) or any(r.get("misalignment") is None for r in records):
            continue
        first = records[0]
        rehearsed = {key: _mean(records, f"rehearsed_{key}") for key in (*TRUE, "test_loss")}
        rehearsed["misalignment"] = _mean(records, "misalignment")
        true = {key: _mean(records, of) for key, of in TRUE.items()}
        true["test_loss"] = statistics.fmean(_gold_accuracy(groups[0], r) - r["test_accuracy"] for r in records)
        true["misalignment"] = statistics.fmean(_of_record(groups[0], r) for r in records)
        found.append(Try(number, first.get("recipe"), first["options"], rehearsed, true, _mean(records, "work_share")))
    return found


def _mean(records: Sequence[Record], key: str) -> float:
    return statistics.fmean(record[key] for record in records)


def _gold_accuracy(base: Results, record: Record) -> float:
    """Test accuracy of the gold model that a record is judged by."""
    (gold,) = (r for r in base.records if (r["method"], r["seed"], r["target_class"]) == (GOLD, record["seed"], POOLED))
    return float(gold["test_accuracy"])


def _of_record(base: Results, record: Record) -> float:
    """What a rehearsal's `misalignment` is, of what came true."""
    lost = _gold_accuracy(base, record) - record["test_accuracy"]
    return float(misalignment(record["agreement"], record["forget_gap"], record["activation_distance"], lost))


def _misalignment(base: Results, name: str) -> float:
    return statistics.fmean(
        _of_record(base, r) for r in base.records if r["method"] == name and r["target_class"] == POOLED
    )


def _recipes(output: pathlib.Path, base: Results, tries: dict[str, list[Try]]) -> dict[str, Any]:
    """What `recipes.json` says: where the recipes come from, and of each method the choice and every try."""
    config = read_config(output)
    told = ("command", "git_revision", "device")
    runs = {name: {key: run.get(key) for key in told} for name, run in config["runs"].items()}
    return {
        "setting": base.setting,
        "seeds": base.seeds,
        "runs": runs,
        "methods": {
            name: {
                "chosen": {"number": one.number, "recipe": one.recipe, "options": one.options},
                "tries": [_rounded(each._asdict()) for each in found],
            }
            for name, found in tries.items()
            for one in [chosen(found)]
        },
    }


def _rounded(value: Any) -> Any:
    """Readouts to three decimals; recipes and options stay as they are."""
    kept = {key: value[key] for key in ("number", "recipe", "options")}
    readouts = {key: {name: round(x, 3) for name, x in value[key].items()} for key in ("rehearsed", "true")}
    return {**kept, **readouts, "share": round(value["share"], 4)}


def _sentence(tries: dict[str, list[Try]], floors: dict[str, float]) -> str:
    """What tuning by rehearsal came to, and what a choice by gold would have reached."""
    gains = [
        found[0].true["misalignment"] - chosen(found).true["misalignment"]
        for found in tries.values()
        if found[0].number == 0
    ]
    prices = [_price(found) for found in tries.values()]
    best = min(tries, key=lambda name: chosen(tries[name]).true["misalignment"])
    return (
        f"Tuned by rehearsal, {sum(gain > 0 for gain in gains)} of {len(gains)} methods come nearer to gold than with "
        f"their own recipe, by {statistics.fmean(gains or [0.0]):.1f} points of misalignment in the mean; a choice by "
        f"gold would have gained {statistics.fmean(prices):.1f} more. Nearest is {display_name(best)} "
        f"({chosen(tries[best]).true['misalignment']:.1f}); a second gold: {floors[GOLD_GOLD]:.1f}, the untouched "
        f"original: {floors[ORIGINAL]:.1f}."
    )


def _price(tries: Sequence[Try]) -> float:
    """Points of misalignment that a choice by gold would have gained: the price of not peeking."""
    return chosen(tries).true["misalignment"] - min(one.true["misalignment"] for one in tries)


def _table(tries: dict[str, list[Try]], floors: dict[str, float]) -> Table:
    rows = []
    for name, found in sorted(tries.items(), key=lambda item: chosen(item[1]).true["misalignment"]):
        one = chosen(found)
        rows.append(
            (
                display_name(name),
                f"{found[0].true['misalignment']:.1f}" if found[0].number == 0 else MISSING,
                f"{one.true['misalignment']:.1f}",
                f"{one.rehearsed['misalignment']:.1f}",
                f"{min(each.true['misalignment'] for each in found):.1f}",
                f"{_price(found):.1f}",
                _correlation(found),
                f"{100 * one.share:.0f}",
            )
        )
    empty = (MISSING,) * 6
    rows += [
        ("untouched original", f"{floors[ORIGINAL]:.1f}", *empty),
        ("floor: gold-gold", f"{floors[GOLD_GOLD]:.1f}", *empty),
    ]
    headings = ("method", "own", "tuned", "promised", "by gold", "price", "rank corr.", "% of retraining")
    caption = (
        "Misalignment on the request, in points: disagreement with gold, gap, lost test accuracy and a hundred "
        "activation distances, added up; less is better. own: the published recipe. tuned: the try that rehearsed "
        "best; promised: what its rehearsal said. by gold: the best try, which only gold can tell; price: what not "
        "peeking costs. rank corr.: Spearman's, of rehearsed and true misalignment over the tries. A try that "
        "diverged is left out."
    )
    numbers = sorted({len(found) for found in tries.values()})
    title = f"Tuned by rehearsal, {' or '.join(map(str, numbers))} tries each"
    return Table(title, headings, tuple(rows), 2, caption)


def _correlation(tries: Sequence[Try]) -> str:
    """Spearman's rank correlation of what was promised and what came true; a dash where one of them never varies."""
    pairs = [[one.rehearsed["misalignment"] for one in tries], [one.true["misalignment"] for one in tries]]
    if len(tries) < 3 or any(len(set(side)) < 2 for side in pairs):
        return MISSING
    return f"{stats.spearmanr(*pairs).statistic:.2f}"


def _every(tries: dict[str, list[Try]]) -> Table:
    rows = []
    for name, found in tries.items():
        for one in found:
            recipe = {key: (one.recipe or {}).get(key) for key in ("learning_rate", "epochs")}
            values = {**{key: value for key, value in recipe.items() if value is not None}, **one.options}
            said = option_words(values)
            cells = [
                f"{one.rehearsed[key]:.{digits}f} / {one.true[key]:.{digits}f}"
                for key, digits in {"misalignment": 1, "agreement": 1, "gap": 1, "distance": 3, "test_loss": 1}.items()
            ]
            which = "chosen" if one is chosen(found) else ""
            rows.append((f"{display_name(name)}, try {one.number}", said, *cells, which))
    headings = ("method", "recipe", "misalignment", "agreement", "gap", "distance", "A_t lost", "")
    return Table("Every try, rehearsed / true", headings, tuple(rows), 0, "Try 0 is the published recipe.")


def _draw(tries: dict[str, list[Try]], output: pathlib.Path) -> pathlib.Path:
    """Draws rehearsed against true misalignment, a panel a method."""
    columns = 4
    lines = -(-len(tries) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 2.6 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, squeeze=False).ravel()
        for panel in panels[len(tries) :]:
            panel.set_axis_off()
        for panel, (name, found) in zip(panels, tries.items(), strict=False):
            for one in found:
                color = ORANGE if one is chosen(found) else BLUE
                panel.plot(one.rehearsed["misalignment"], one.true["misalignment"], "o", color=color)
            panel.axline((0, 0), slope=1, color=GREY, linewidth=0.7)
            panel.set_title(shown(display_name(name)), fontsize=10)
        figure.supxlabel("rehearsed misalignment, points", fontsize=10)
        figure.supylabel("true misalignment, points", fontsize=10)
        return save(figure, output, "tries")
