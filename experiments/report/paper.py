"""The paper's own numbers beside ours, for a run in the paper's setting and for no other."""

import json
import pathlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from experiments.report.formats import MISSING, display_name, text
from experiments.report.intervals import Estimate, over_seeds
from experiments.report.results import GOLD, MEAN, Results, Scope
from experiments.report.tables import Table, class_label, interval_note, mean_label

_SHARED = {
    "variant": "default",
    "preset": "paper",
    "arch": "resnet18",
    "num_train": 50_000,
    "requests": "each",
    "num_forget": 100,
    "heldout_source": "test",
    "ratio": "dataset",
}
PAPER_SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10": {"dataset": "cifar10", "epochs": 30, "augment": False, **_SHARED},
    "cifar100": {"dataset": "cifar100", "epochs": 60, "augment": True, **_SHARED},
}
# The paper's number by the name of its row and the method, None where it prints none.
Theirs = Callable[[str, str], float | None]


def printed_tables() -> dict[str, Any]:
    """The paper's Tables 1 to 4, by name."""
    return json.loads((pathlib.Path(__file__).parent / "paper_tables.json").read_text("utf-8"))


def paper_differences(results: Results) -> list[str]:
    """What keeps a run from being the paper's setting: `field = ours (the paper: theirs)`, or else its shortfalls."""
    ours = results.setting
    fields = [
        f"{field} = {MISSING if ours[field] is None else ours[field]} (the paper: {theirs})"
        for field, theirs in PAPER_SETTINGS[_experiment(results)].items()
        if ours[field] != theirs
    ]
    runs = dict.fromkeys(str(record.get("run")) for record in results.records)
    said = [shortfall for run in runs for shortfall in results.runs.get(run, {}).get("shortfalls") or []]
    return fields or list(dict.fromkeys(said))


def paper_tables(results: Results) -> list[Table]:
    """The paper's numbers beside ours; empty unless the run is the paper's setting."""
    if paper_differences(results):
        return []
    make = {"cifar10": _cifar10_tables, "cifar100": _cifar100_tables}
    return make[_experiment(results)](results, printed_tables())


def _experiment(results: Results) -> str:
    """Whose paper setting a run is measured by: its experiment's, or that of its data set."""
    names = (results.records[0].get("experiment"), results.setting["dataset"])
    return next((name for name in names if name in PAPER_SETTINGS), "cifar10")


def _cifar10_tables(results: Results, printed: Mapping[str, Any]) -> list[Table]:
    distances = printed["table3_activation_distance_cifar10"]
    labels = printed["table4_generalization_label_accuracy_cifar10"]

    def label_accuracy(key: str) -> Theirs:
        return lambda target, method: labels[target]["NF+AF+CF"][key] if method == "twin" else None

    other = "The paper's definition is unreadable and cannot be the L2 distance of softmax outputs: do not compare."
    inferred = "Its column order is inferred; its decimals on D_test fit 1,000 labels a class."
    build = partial(_paper_table, results)
    return [
        *_accuracy_tables(results, printed["table1_cifar10_resnet18"], printed["notes"][2], ""),
        build(
            "Activation distance, *another definition* in the paper (its Table 3)",
            "activation_distance",
            lambda t, m: distances[t].get(m),
            other,
        ),
        build(
            "Predictor on D_test (its Table 4)",
            "heldout_predictor_accuracy",
            label_accuracy("twin_labels"),
            inferred,
        ),
        build("Predictor on D_f (its Table 4)", "predictor_accuracy", label_accuracy("forget_labels"), inferred),
    ]


def _cifar100_tables(results: Results, printed: Mapping[str, Any]) -> list[Table]:
    beyond = "The paper's 81 % test accuracy is beyond a plain ResNet-18 trained from scratch."
    misprints = f"{printed['notes'][3]} {beyond}"
    return _accuracy_tables(results, printed["table2_cifar100"], beyond, misprints)


def _accuracy_tables(results: Results, table: Mapping[str, Any], on_test: str, on_forget: str) -> list[Table]:
    """A_t, A_f and gap of the paper's table of accuracies; classes that it does not have stay without its numbers.

    Args:
        results: ours.
        table: the paper's rows by class index or name.
        on_test: what is to be said beside its test accuracies.
        on_forget: what is to be said beside its forget accuracies and gaps.
    """

    def accuracy(key: str) -> Theirs:
        return lambda target, method: table.get(target, {}).get(method, {}).get(key)

    def gap(target: str, method: str) -> float | None:
        row, gold = table.get(target, {}).get(method), table.get(target, {}).get("retrain")
        if row is None or gold is None:
            return None
        return row.get("forget_gap_printed", abs(row["forget_accuracy"] - gold["forget_accuracy"]))

    derived = "Gaps the paper does not print are taken from its accuracies; its mean here is that of its rows."
    build = partial(_paper_table, results)
    return [
        build("Test accuracy A_t", "test_accuracy", accuracy("test_accuracy"), on_test),
        build("Forget accuracy A_f", "forget_accuracy", accuracy("forget_accuracy"), on_forget),
        build("Forget gap", "forget_gap", gap, f"{derived} {on_forget}".strip()),
    ]


def _paper_table(results: Results, title: str, key: str, theirs: Theirs, caption: str = "") -> Table:
    """One readout, ours and the paper's, for the methods that both have and the classes that we ran, and our floors."""
    # CIFAR-100's rows are known by the name of the class, CIFAR-10's by its index.
    row_names = {t: name if _experiment(results) == "cifar100" else str(t) for t, name in results.class_names.items()}
    methods = [m for m in results.methods if not (key == "forget_gap" and m == GOLD)]
    printed = {m: {target: theirs(row, m) for target, row in row_names.items()} for m in methods}
    printed = {m: by_class for m, by_class in printed.items() if any(v is not None for v in by_class.values())}
    # Calling images easy is right where the floor's answer agrees with gold's.
    floor_key = {"predictor_accuracy": "agreement"}.get(key, key)
    floors = [floor for floor in results.floors if results.mean(floor, floor_key).mean is not None]

    def row(label: str, scope: Scope, paper: Mapping[str, Estimate]) -> tuple[str, ...]:
        interval = scope == MEAN
        ours = [f"{text(results.estimate(scope, m, key), key, interval)} / {text(paper[m], key)}" for m in printed]
        return (label, *ours, *(text(results.estimate(scope, f, floor_key), key, interval) for f in floors))

    rows = []
    for target, name in results.class_names.items():
        rows.append(row(class_label(target, name), target, {m: Estimate(printed[m][target]) for m in printed}))
    means = {m: over_seeds([v for v in by_class.values() if v is not None]) for m, by_class in printed.items()}
    rows.append(row(mean_label(results), MEAN, {m: Estimate(estimate.mean) for m, estimate in means.items()}))
    headings = [f"{display_name(m)}: ours / paper" for m in printed] + [f"our {display_name(f)} floor" for f in floors]
    over_images = key not in ("test_accuracy", "heldout_predictor_accuracy")
    caption = f"{caption} {interval_note(results, over_images)}".strip()
    return Table(title, ("class", *headings), tuple(rows), 1, caption)
