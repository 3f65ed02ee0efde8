"""The paper's own numbers beside ours, for a run in the paper's setting and for no other."""

import importlib.resources
import json
from collections.abc import Callable, Mapping
from functools import partial

from experiments.report_tables import (
    BASELINES,
    MISSING,
    Cell,
    Column,
    Estimate,
    Pick,
    Results,
    Table,
    average,
    class_label,
    display_name,
    mean_label,
    text,
)

PAPER_SETTING = {
    "dataset": "cifar10",
    "preset": "paper",
    "arch": "resnet18",
    "num_train": 50_000,
    "requests": "each",
    "num_forget": 100,
    "epochs": 30,
    "heldout_source": "test",
    "ratio": "dataset",
}


def paper_differences(results: Results) -> list[str]:
    """What keeps a run from being the paper's setting: `field = ours (the paper: theirs)`, or else its shortfalls."""
    fields = [
        f"{field} = {MISSING if results.setting[field] is None else results.setting[field]} (the paper: {theirs})"
        for field, theirs in PAPER_SETTING.items()
        if results.setting[field] != theirs
    ]
    said = dict.fromkeys(shortfall for record in results.records for shortfall in record.get("shortfalls") or [])
    return fields or list(said)


def paper_tables(results: Results) -> list[Table]:
    """The paper's numbers beside ours; empty unless the run is the paper's setting."""
    if paper_differences(results):
        return []
    printed = json.loads(importlib.resources.files("experiments").joinpath("paper_tables.json").read_text("utf-8"))
    table1, distances = printed["table1_cifar10_resnet18"], printed["table3_activation_distance_cifar10"]
    labels = printed["table4_generalization_label_accuracy_cifar10"]

    def gap(target: str, method: str) -> float | None:
        row = table1[target][method]
        return row.get("forget_gap_printed", abs(row["forget_accuracy"] - table1[target]["retrain"]["forget_accuracy"]))

    def label_accuracy(key: str) -> Callable[[str, str], float | None]:
        return lambda target, method: labels[target]["NF+AF+CF"][key] if method == "twin" else None

    derived = "Gaps the paper does not print are taken from its accuracies; its mean here is that of its rows."
    other = "The paper's definition is unreadable and cannot be the L2 distance of softmax outputs: do not compare."
    inferred = "Its column order is inferred; its decimals on D_test fit 1,000 labels a class."
    build = partial(_paper_table, results)
    return [
        build("Test accuracy A_t", "test_accuracy", 2, lambda t, m: table1[t][m]["test_accuracy"], printed["notes"][2]),
        build("Forget accuracy A_f", "forget_accuracy", 1, lambda t, m: table1[t][m]["forget_accuracy"]),
        build("Forget gap", "forget_gap", 1, gap, derived),
        build(
            "Activation distance, *another definition* in the paper (its Table 3)",
            "activation_distance",
            3,
            lambda t, m: distances[t].get(m),
            other,
        ),
        build(
            "Predictor on D_test (its Table 4)",
            "heldout_predictor_accuracy",
            1,
            label_accuracy("twin_labels"),
            inferred,
        ),
        build("Predictor on D_f (its Table 4)", "predictor_accuracy", 1, label_accuracy("forget_labels"), inferred),
    ]


def _paper_table(
    results: Results,
    title: str,
    key: str,
    digits: int,
    theirs: Callable[[str, str], float | None],
    caption: str = "",
) -> Table:
    """One readout, ours and the paper's, for the methods that both have and the classes that we ran."""
    printed = {
        method: {target: theirs(str(target), method) for target in results.class_names}
        for method in results.methods
        if method in ("retrain", *BASELINES[2:], "twin")
    }
    printed = {m: by_class for m, by_class in printed.items() if any(v is not None for v in by_class.values())}
    if key == "forget_gap":
        printed.pop("retrain", None)

    def row(label: str, pick: Pick, paper: Mapping[str, float | None]) -> tuple[Cell, ...]:
        return ((label,), *((text(pick(m, key), digits), text(Estimate(paper[m]), digits)) for m in printed))

    rows = []
    for target, name in results.class_names.items():
        paper = {method: printed[method][target] for method in printed}
        rows.append(row(class_label(target, name), partial(results.of_class, target), paper))
    means = {method: average(by_class.values()) for method, by_class in printed.items()}
    rows.append(row(mean_label(results), results.mean, means))
    columns = (Column("class"), *(Column(display_name(m), ("ours", "paper")) for m in printed))
    return Table(title, columns, tuple(rows), 1, caption)
