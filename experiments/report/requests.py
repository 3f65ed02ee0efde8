"""The requests' report: alignment against cost, what was foretold beside what came true, the labels of the banks."""

import math
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from functools import partial

import matplotlib
from matplotlib.figure import Figure

from experiments.report.choices import Choice, best_promised, choices, choices_table
from experiments.report.formats import display_name, option_words, text
from experiments.report.intervals import Estimate
from experiments.report.page import Body, Picture, Section
from experiments.report.pictures import BLUE, GREEN, ORANGE, PURPLE, STYLE, VERMILION, save, shown
from experiments.report.results import GOLD, GOLD_GOLD, MEAN, ORIGINAL, POOLED, Results, Scope, load_results
from experiments.report.tables import Table, interval_note, over

READOUTS = {
    "test_accuracy": "A_t",
    "retain_accuracy": "A_r",
    "forget_accuracy": "A_f",
    "forget_gap": "gap",
    "agreement": "agreement",
    "activation_distance": "distance",
    "membership_auc": "membership",
}
FORETOLD = {
    "rehearsed_gap": ("forget_gap", "gap"),
    "rehearsed_agreement": ("agreement", "agreement"),
    "rehearsed_distance": ("activation_distance", "distance"),
}
COLORS = {"rewarm": ORANGE, "rewarm_rehearsed": PURPLE, "rewarm_twin": BLUE, "soft_twin": VERMILION}
PANELS = {"agreement": "agreement, %\n(more is better)", "activation_distance": "distance\n(less is better)"}


def body(output: pathlib.Path) -> Body:
    """Table, picture and sections from an output folder of `experiments.requests`."""
    groups = {str(results.setting["variant"]): results for results in load_results(output)}
    if "default" not in groups:
        raise ValueError(f"{output} holds no record of the baselines, which every budget is compared with")
    base = groups["default"]
    scope: Scope = POOLED if base.has_pooled else MEAN
    within = {name: results for name, results in groups.items() if _is_within(results, scope)}
    found = choices(base, within, scope)
    sections = [
        *([Section("What rehearsals choose", [choices_table(found, scope)])] if found else []),
        Section("What preparing cost", [_preparation(within)]),
        *(Section("Models that saw forgotten images", [debt]) for debt in (_debt(within),) if debt),
        Section("Foretold and true", [_foretold(within, scope)]),
        Section("Labels before unlearning", [_labels(groups, scope)]),
        Section("Every recipe that was rehearsed", [_tried(within)]),
    ]
    alt = "Agreement and activation distance of every method against its cost, with a second gold model as a line"
    caption = "Cost is the share of a retraining's images. The line is a second gold model, the band its interval."
    picture = Picture("requests", alt, caption, partial(_draw, base, within, scope))
    return Body(_sentence(base, found, scope), _table(base, within, scope), picture, sections)


def _is_within(results: Results, scope: Scope) -> bool:
    return any(results.figures(scope, method, "work_share").mean is not None for method in results.methods)


def _sentence(base: Results, found: Sequence[Choice], scope: Scope) -> str:
    """What rehearsals choose, of the budget that they promise most of, and what a second gold model does."""
    if not found:
        return "No request within a budget was measured."
    chosen = best_promised(found)
    keys = ("agreement", "activation_distance", "forget_gap")

    def said(estimates: Sequence[Estimate]) -> str:
        agreement, distance, gap = (text(one, key, False) for one, key in zip(estimates, keys, strict=True))
        return f"agreement {agreement}, distance {distance}, gap {gap}"

    second, untouched = ([base.estimate(scope, name, key) for key in keys] for name in (GOLD_GOLD, ORIGINAL))
    return (
        f"What rehearsals alone choose, {chosen.name} for {chosen.variant} of a retraining, comes to "
        f"{said([chosen.estimate(scope, key) for key in keys])}; a second gold model: {said(second)}; "
        f"the untouched original: {said(untouched)}."
    )


def _table(base: Results, within: Mapping[str, Results], scope: Scope) -> Table:
    def row(name: str, results: Results, method: str, cost: str, interval: bool) -> tuple[str, ...]:
        own = results.for_method(method)
        return (name, cost, *(text(own.estimate(scope, method, key), key, interval) for key in READOUTS))

    def rows(interval: bool) -> tuple[tuple[str, ...], ...]:
        found = [
            row(f"{display_name(method)}, {variant}", results, method, _cost(results, method, scope), interval)
            for variant, results in within.items()
            for method in results.methods
        ]
        for method in base.methods:
            share = base.for_method(method).estimate(scope, method, "retraining_share")
            found.append(row(base.label(method), base, method, text(share, "share", False), interval))
        return (*found, row("floor: gold-gold", base, GOLD_GOLD, "100.0", interval))

    headings = ("method", "% of re-\ntraining", *READOUTS.values())
    title = f"Requests within a budget, {over(base, scope)}"
    caption = (
        "Within a budget the cost is by images trained on, else by seconds. distance: activation distance to gold. "
    )
    caption += "membership: how well the margin tells forgotten from test images, AUC, 50 where it cannot. "
    caption += interval_note(base)
    plain = tuple(heading.replace("-\n", "") for heading in headings)
    return Table(title, plain, rows(True), 1, caption, Table(title, headings, rows(False), 1))


def _cost(results: Results, method: str, scope: Scope) -> str:
    return text(results.for_method(method).estimate(scope, method, "work_share"), "share", False)


def _preparation(within: Mapping[str, Results]) -> list[str]:
    """Costs of preparing in trainings, and after how many requests they are paid."""
    lines = []
    for variant, results in within.items():
        known = [record for record in results.records if record.get("preparation")]
        if not known:
            continue
        tried = statistics.fmean(
            sum(r["preparation"]["rehearsals"] for r in known if r["seed"] == seed) for seed in results.seeds
        )
        parts = {name: statistics.fmean(r["preparation"][name] for r in known) for name in known[0]["preparation"]}
        parts["rehearsals"] = tried
        cost, share = sum(parts.values()), statistics.fmean(record["work_share"] for record in known)
        said = ", ".join(f"{name} {value:.2f}" for name, value in parts.items())
        paid = f"paid after {math.ceil(cost / (1 - share))} requests" if share < 1 else "never paid"
        lines.append(f"{variant} of a retraining: {cost:.2f} trainings ({said}), {paid} of {100 * share:.1f} % each.")
    return lines


def _debt(within: Mapping[str, Results]) -> list[str]:
    """How many models in use were trained on how many forgotten images, by arm; nothing where no record tells."""
    lines = []
    for variant, results in within.items():
        known = [record["debt"] for record in results.records if record.get("debt")]
        if known:
            said = ", ".join(f"{name} {count}" for name, count in known[0].items())
            owing = sum(count > 0 for count in known[0].values())
            lines.append(f"{variant}: {owing} of {len(known[0])} models in use (of seed {results.seeds[0]}: {said}).")
    taught = "None is in service, and none taught an image that it had seen, but where a note under Notes says so."
    return [*lines, taught] if lines else []


def _foretold(within: Mapping[str, Results], scope: Scope) -> Table:
    rows = []
    for variant, results in within.items():
        for method in results.methods:
            cells = []
            for promised, (key, _) in FORETOLD.items():
                found = (results.estimate(scope, method, name) for name in (promised, key))
                cells.append(" / ".join(text(one, key, False) for one in found))
            rows.append((f"{display_name(method)}, {variant}", *cells))
    caption = "Rehearsed / true. The rehearsal forgets held-out images from the twin model; M_o is gold there."
    return Table(
        "What the rehearsal promised", ("method", *(name for _, name in FORETOLD.values())), tuple(rows), 0, caption
    )


def _labels(groups: Mapping[str, Results], scope: Scope) -> Table:
    """A row for each bank, and for each budget of a method that learns from its own rehearsal.

    Labels that several methods share are the bank's; those of budgets may see how well an image is known, too, which is
    said where they differ from those of the baselines.
    """
    keys = ("predictor_accuracy", "predictor_auc", "predictor_brier", "expected_forget_accuracy")
    rows: dict[tuple[float | None, ...], tuple[str, ...]] = {}
    known: dict[tuple[float | None, ...], tuple[str, str]] = {}
    for variant, results in groups.items():
        for method in results.predicting:
            found = [results.estimate(scope, method, key) for key in keys]
            if found[0].mean is None:
                continue
            own = display_name(method) if variant == "default" else f"{display_name(method)}, {variant}"
            labels = tuple(one.mean for one in found)
            first_variant, first_method = known.setdefault(labels, (variant, method))
            is_shared = first_method != method
            is_of_bank = is_shared or method == "bank_labels"
            is_known = first_variant != "default" and "bank_labels" in groups["default"].methods
            of_bank = "the bank and what is known" if is_known else "the bank"
            name = variant if variant.startswith("bank") else of_bank if is_of_bank else own
            if labels not in rows or is_shared:
                rows[labels] = (name, *(text(one, key) for one, key in zip(found, keys, strict=True)))
    base = groups["default"]
    gold = base.estimate(scope, GOLD, "forget_accuracy")
    second = ("second gold", text(base.estimate(scope, GOLD_GOLD, "agreement"), "agreement"), "–", "–", text(gold))
    caption = "Labels on D_f, judged by gold. The last row: a second gold model's agreement, and gold's own accuracy."
    headings = ("labels of", "accuracy", "AUC", "Brier", "expected A_f")
    return Table("Easy and hard before unlearning", headings, (*rows.values(), second), 1, caption)


def _tried(within: Mapping[str, Results]) -> Table:
    rows = []
    for variant, results in within.items():
        for record in results.records:
            for one in record.get("tried") or []:
                options = option_words(one["options"])
                figures = (
                    f"{one['gap']:.1f}",
                    f"{one['agreement']:.1f}",
                    f"{one['distance']:.3f}",
                    f"{one['test_loss']:.1f}",
                )
                chosen = "chosen" if one["options"] == record["options"] else ""
                rows.append((f"{record['method']}, {variant}, seed {record['seed']}", options, *figures, chosen))
    headings = ("method", "recipe", "gap", "agreement", "distance", "A_t lost", "")
    return Table("Rehearsals", headings, tuple(rows), 0, "Figures of the rehearsals; gold chose nothing.")


def _draw(base: Results, within: Mapping[str, Results], scope: Scope, output: pathlib.Path) -> pathlib.Path:
    """Draws agreement and distance of each method against its cost, and a second gold model as a line."""
    alone = {variant: results for variant, results in within.items() if "requests" not in variant}
    methods: Sequence[str] = list(dict.fromkeys(m for results in alone.values() for m in results.methods))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.2), layout="constrained")
        for panel, (key, label) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
            gold = base.estimate(scope, GOLD_GOLD, key)
            if gold.mean is not None:
                panel.axhline(gold.mean, color=GREEN, linewidth=1.8, label="a second gold model")
            if gold.low is not None and gold.high is not None:
                panel.axhspan(gold.low, gold.high, color=GREEN, alpha=0.1, linewidth=0)
            untouched = base.estimate(scope, ORIGINAL, key).mean
            if untouched is not None:
                panel.axhline(untouched, color="black", linewidth=1, linestyle=":", label="untouched original")
            for method in methods:
                points = []
                for results in alone.values():
                    if method in results.methods:
                        cost = results.estimate(scope, method, "work_share").mean
                        points.append((100 * (cost or 0.0), results.estimate(scope, method, key).mean))
                points.sort()
                color = COLORS.get(method, "black")
                panel.plot(*zip(*points, strict=True), "o-", color=color, label=shown(display_name(method)))
            panel.set_xscale("log")
            panel.set_xlabel("cost, % of a retraining")
            panel.set_ylabel(label)
            panel.grid(color="#dddddd", linewidth=0.7)
        handles = panel.get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False, fontsize=10)
        return save(figure, output, "requests")
