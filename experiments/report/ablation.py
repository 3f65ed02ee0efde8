"""The ablation's report: Table 4, with the floors that it lacks."""

import pathlib
from collections.abc import Mapping, Sequence

from experiments.report.formats import BETTER, MISSING, finding, text
from experiments.report.intervals import Estimate, over_seeds
from experiments.report.page import Body, Section
from experiments.report.paper import paper_differences, printed_tables
from experiments.report.results import GOLD_GOLD, MAJORITY, MEAN, POOLED, Results, Scope, load_results
from experiments.report.tables import Table, class_label, compared, interval_note, mean_label, over

FLOORS = {MAJORITY: "floor: call all easy", GOLD_GOLD: "floor: another gold model"}
FLOORS |= {"floor_count_matched": "floor: a random share easy"}


def body(output: pathlib.Path) -> Body:
    """Table and sections from an output folder of `experiments.ablation`."""
    groups = load_results(output)
    sections, found = [], []
    # A folder may hold several sizes, each with an arm for every choice of features.
    for size in dict.fromkeys(results.setting["num_forget"] for results in groups):
        arms = [results for results in groups if results.setting["num_forget"] == size]
        scopes: list[Scope] = [POOLED, MEAN] if arms[0].has_pooled else [MEAN]
        tables = [_summary(arms, scope) for scope in scopes]
        found.append((_sentence(arms), tables[0]))
        by_class = [_by_class(arms, where) for where in ("D_f", "D_test")]
        sections.append(Section(f"Which features predict gold ({size} images a class)", [*tables, *by_class]))
    return Body(*found[0], None, sections)


def _summary(arms: Sequence[Results], scope: Scope) -> Table:
    """A row for each choice of features."""
    rows: list[tuple[str, ...]] = []
    for results in arms:
        keys = ("predictor_accuracy", "predictor_auc", "heldout_predictor_accuracy", "heldout_predictor_auc")
        own = {key: text(results.estimate(scope, _method(results), key)) for key in keys}
        easy = " / ".join(_easy(results, scope, key) for key in ("predicted_hard_share", "hard_share"))
        difference = compared(_to_majority(results, scope), "predictor_accuracy")
        on_forget, auc, *on_heldout = own.values()
        rows.append((str(results.setting["variant"]), on_forget, auc, difference, easy, " / ".join(on_heldout)))
    for floor, name in FLOORS.items():
        easy = "100.0" if floor == MAJORITY else MISSING
        rows.append((name, text(arms[0].estimate(scope, floor, "agreement")), *[MISSING] * 2, easy, MISSING))
    headings = ("features", "accuracy on D_f", "AUC on D_f", "accuracy − majority floor", "called easy / truly, %")
    caption = "On D_test the predictor was trained. Differences are paired. " + interval_note(arms[0])
    title = f"Predictors by their features, {over(arms[0], scope)}"
    # A terminal has room for what a difference is, and the sentence says which are shown.
    compact = Table(title, headings, tuple((*row[:3], row[3].partition(",")[0], row[4]) for row in rows), len(FLOORS))
    return Table(title, (*headings, "D_test: accuracy / AUC"), tuple(rows), len(FLOORS), caption, compact)


def _method(results: Results) -> str:
    return next(iter(results.predicting), "twin")


def _to_majority(results: Results, scope: Scope) -> Estimate:
    return results.difference(_method(results), MAJORITY, "predictor_accuracy", scope, "agreement")


def _easy(results: Results, scope: Scope, key: str) -> str:
    hard = results.estimate(scope, _method(results), key).mean
    return text(Estimate(None if hard is None else 1 - hard), key)


def _by_class(arms: Sequence[Results], where: str) -> Table:
    """The paper's Table 4: accuracy of every choice by class, the paper's own beside it in its setting."""
    key = {"D_f": "predictor_accuracy", "D_test": "heldout_predictor_accuracy"}[where]
    printed = {} if _differs(arms[0]) else _printed({"D_f": "forget_labels", "D_test": "twin_labels"}[where])
    floors = arms[0].floors if where == "D_f" else []
    rows = []
    scopes: list[tuple[Scope, str]] = [(c, class_label(c, name)) for c, name in arms[0].class_names.items()]
    for scope, label in [*scopes, (MEAN, mean_label(arms[0]))]:
        row = [label]
        for results in arms:
            ours = text(results.estimate(scope, _method(results), key), interval=False)
            theirs = printed.get(str(results.setting["variant"]))
            row.append(ours if theirs is None else f"{ours} / {theirs.get(str(scope), MISSING)}")
        rows.append((*row, *(text(arms[0].estimate(scope, f, "agreement"), interval=False) for f in floors)))
    names = [str(results.setting["variant"]) for results in arms]
    headings = [f"{name}: ours / paper" if name in printed else name for name in names]
    headings += [FLOORS.get(floor, floor) for floor in floors]
    caption = "Percent. Intervals stand in the table of means."
    caption += " The paper's column order is inferred." if printed else ""
    title = f"Accuracy of the labels on {where}, class by class (Table 4)"
    return Table(title, ("class", *headings), tuple(rows), 1, caption)


def _differs(results: Results) -> bool:
    """Whether the run is not the paper's setting; the arms' own names do not count."""
    return bool(
        paper_differences(Results(tuple({**r, "variant": "default"} for r in results.records), runs=results.runs))
    )


def _printed(key: str) -> Mapping[str, Mapping[str, str]]:
    """The paper's figures by features and class, and their mean."""
    found: dict[str, dict[str, float]] = {}
    for target, by_features in printed_tables()["table4_generalization_label_accuracy_cifar10"].items():
        for features, row in by_features.items():
            found.setdefault(features, {})[target] = row[key]
    means = {features: over_seeds([*row.values()]).mean for features, row in found.items()}
    rows = {features: {**row, MEAN: means[features]} for features, row in found.items()}
    return {features: {c: text(Estimate(value)) for c, value in row.items()} for features, row in rows.items()}


def _sentence(arms: Sequence[Results]) -> str:
    """The best choice of features, and which are shown to beat the majority floor."""
    scope: Scope = POOLED if arms[0].has_pooled else MEAN
    scored = {str(r.setting["variant"]): r.estimate(scope, _method(r), "predictor_accuracy") for r in arms}
    known = {name: estimate for name, estimate in scored.items() if estimate.mean is not None}
    if not known:
        return "No predictor was measured."
    best = max(known, key=lambda name: known[name].mean or 0.0)
    better = [
        str(r.setting["variant"])
        for r in arms
        if finding(_to_majority(r, scope), "predictor_accuracy") == BETTER
    ]  # fmt: skip
    majority, gold = (text(arms[0].estimate(scope, floor, "agreement")) for floor in (MAJORITY, GOLD_GOLD))
    return (
        f"Of {len(known)} choices of features {best} predicts gold best, right on {text(known[best])} percent of the "
        f"forgotten images, where calling all easy is right on {majority} and another gold model on {gold}; shown to "
        f"be better than calling all easy: {', '.join(better) or 'none'}."
    )
