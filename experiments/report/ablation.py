"""The main part of the ablation's report: Table 4, with the floors that it lacks."""

import importlib.resources
import json
import pathlib
from collections.abc import Sequence

from experiments.report.intervals import Estimate
from experiments.report.paper import paper_differences
from experiments.report.results import MEAN, POOLED, Results, Scope
from experiments.report.tables import (
    MISSING,
    Cell,
    Column,
    Table,
    class_label,
    finding,
    interval_note,
    mean_label,
    text,
)
from experiments.report.write import Body, Section, load_results

METHOD = "twin"


def body(output: pathlib.Path) -> Body:
    """Tables and findings from an output folder of `experiments.ablation`."""
    sections = []
    groups = load_results(output)
    # A folder may hold several sizes, each with an arm for every choice of features.
    for size in dict.fromkeys(results.setting["num_forget"] for results in groups):
        arms = [results for results in groups if results.setting["num_forget"] == size]
        scopes: list[Scope] = [POOLED, MEAN] if arms[0].has_pooled else [MEAN]
        tables = [_summary(arms, scope) for scope in scopes] + [_by_class(arms, where) for where in ("D_f", "D_test")]
        sections.append(Section(f"Which features predict gold ({size} images a class)", [*_findings(arms), *tables]))
    return Body(sections)


def _summary(arms: Sequence[Results], scope: Scope) -> Table:
    """A row for each choice of features."""
    rows: list[tuple[Cell, ...]] = []
    for results in arms:

        def of(key: str, results: Results = results) -> Estimate:
            return results.estimate(scope, METHOD, key)

        difference = results.difference(METHOD, "floor_majority", "predictor_accuracy", scope, "agreement")
        predicted, truly = (of(key) for key in ("predicted_hard_share", "hard_share"))
        rows.append(
            (
                (str(results.setting["variant"]),),
                (text(of("heldout_predictor_accuracy")), text(of("heldout_predictor_auc"))),
                (text(of("predictor_accuracy")), text(of("predictor_auc"))),
                (text(difference), finding(difference, lower_is_better=False) or MISSING),
                (_easy(predicted), _easy(truly)),
            )
        )
    first = arms[0]
    floors = {
        "floor: call all easy": (first.estimate(scope, "floor_majority", "agreement"), "100.0"),
        "floor: another gold model": (first.estimate(scope, "floor_gold_gold", "agreement"), MISSING),
        "floor: a random share easy": (first.estimate(scope, "floor_count_matched", "agreement"), MISSING),
    }
    for name, (estimate, easy) in floors.items():
        rows.append(((name,), (MISSING, MISSING), (text(estimate), MISSING), (MISSING, MISSING), (easy, MISSING)))
    columns = (
        Column("features"),
        Column("on D_test (the twin problem, its training set)", ("accuracy", "AUC")),
        Column("on D_f (forgotten)", ("accuracy", "AUC")),
        Column("accuracy on D_f − majority floor", ("points", "finding")),
        Column("called easy, %", ("predicted", "truly")),
    )
    over = "pooled over the request" if scope == POOLED else "means over the classes"
    caption = "Differences are paired. " + interval_note(first)
    return Table(f"Predictors by their features, {over}", columns, tuple(rows), len(floors), caption)


def _easy(hard: Estimate) -> str:
    return text(Estimate(None if hard.mean is None else 100 * (1 - hard.mean)))


def _by_class(arms: Sequence[Results], where: str) -> Table:
    """The paper's Table 4: accuracy of every choice by class, the paper's own beside it in its setting."""
    key = {"D_f": "predictor_accuracy", "D_test": "heldout_predictor_accuracy"}[where]
    printed = {} if _differs(arms[0]) else _printed({"D_f": "forget_labels", "D_test": "twin_labels"}[where])
    names = [str(results.setting["variant"]) for results in arms]
    columns = [Column("class")]
    columns += [Column(name, ("ours", "paper") if name in printed else ()) for name in names]
    columns += [Column("floors", ("majority", "gold-gold", "count-matched"))] if where == "D_f" else []
    rows = []
    scopes: list[tuple[Scope, str]] = [(c, class_label(c, name)) for c, name in arms[0].class_names.items()]
    for scope, label in [*scopes, (MEAN, mean_label(arms[0]))]:
        row: list[Cell] = [(label,)]
        for name, results in zip(names, arms, strict=True):
            ours = text(results.estimate(scope, METHOD, key)._replace(low=None))
            row.append((ours, printed[name].get(str(scope), MISSING)) if name in printed else (ours,))
        if where == "D_f":
            floors = ("floor_majority", "floor_gold_gold", "floor_count_matched")
            row.append(tuple(text(arms[0].estimate(scope, f, "agreement")._replace(low=None)) for f in floors))
        rows.append(tuple(row))
    caption = "Percent. Intervals stand in the table of means."
    if printed:
        caption += " The paper's column order is inferred."
    return Table(
        f"Accuracy of the labels on {where}, class by class (Table 4)", tuple(columns), tuple(rows), 1, caption
    )


def _differs(results: Results) -> bool:
    """Whether the run is not the paper's setting; the arms' own names do not count."""
    plain = Results(tuple({**record, "variant": "default"} for record in results.records))
    return bool(paper_differences(plain))


def _printed(key: str) -> dict[str, dict[str, str]]:
    """The paper's figures by features and class, and their mean."""
    tables = json.loads(importlib.resources.files("experiments").joinpath("paper_tables.json").read_text("utf-8"))
    by_class = tables["table4_generalization_label_accuracy_cifar10"]
    found: dict[str, dict[str, str]] = {}
    for target, by_features in by_class.items():
        for features, figures in by_features.items():
            found.setdefault(features, {})[target] = f"{figures[key]:.1f}"
    for figures in found.values():
        figures[MEAN] = f"{sum(map(float, figures.values())) / len(figures):.1f}"
    return found


def _findings(arms: Sequence[Results]) -> list[str]:
    """What the summary says, in sentences."""
    scope: Scope = POOLED if arms[0].has_pooled else MEAN
    scored = [
        (estimate.mean, str(results.setting["variant"]), results)
        for results in arms
        if (estimate := results.estimate(scope, METHOD, "predictor_accuracy")).mean is not None
    ]
    if not scored:
        return ["No predictor was measured."]
    scored.sort(key=lambda entry: -entry[0])
    listed = ", ".join(f"{name} {accuracy:.1f}" for accuracy, name, _ in scored)
    majority = text(arms[0].estimate(scope, "floor_majority", "agreement"))
    lines = [
        f"Accuracy of the labels on the forgotten images, best first: {listed}. Calling every image easy: {majority}."
    ]
    better = []
    for _, name, results in scored:
        difference = results.difference(METHOD, "floor_majority", "predictor_accuracy", scope, "agreement")
        if finding(difference, lower_is_better=False) == "better":
            better.append(name)
    lines.append(f"Shown to be better than the majority floor: {', '.join(better) if better else 'none'}.")
    return lines
