"""From records to tables: means over seeds and classes, and the tables of a report as plain text cells.

Nothing here prints. `experiments.report` renders every table twice, as markdown and on the terminal.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

Record = Mapping[str, Any]

POOLED = "all"
MISSING = "–"
BASELINES = ("original", "retrain", "finetune", "negative_gradient", "random_labeling", "bad_teacher")
TWINS = ("twin", "twin_negative_gradient")
FLOORS = ("floor_gold_gold", "floor_majority", "floor_count_matched")
# A folder may hold several sizes; only records that agree in all of these may share a mean.
SETTING_FIELDS = (
    "dataset",
    "preset",
    "arch",
    "num_train",
    "epochs",
    "requests",
    "num_forget",
    "heldout_source",
    "ratio",
)


class Estimate(NamedTuple):
    """A mean, and its sample standard deviation over seeds where there are several; None where undefined."""

    mean: float | None
    spread: float | None = None


Pick = Callable[[str, str], Estimate]
Cell = tuple[str, ...]


class Column(NamedTuple):
    """A heading, and the labels of the figures that stand side by side under it (none: a single figure)."""

    heading: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """Text cells under columns; the last `num_summary` rows sum up the ones above them."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_summary: int = 0
    caption: str = ""


@dataclass(frozen=True, eq=False)
class Results:
    """The records of one setting, one for each class, seed and method.

    Attributes:
        records: they agree in all of `SETTING_FIELDS`.
    """

    records: tuple[Record, ...]

    @property
    def setting(self) -> dict[str, Any]:
        """The fields that all records share."""
        return {field: self.records[0].get(field) for field in SETTING_FIELDS}

    @cached_property
    def class_names(self) -> dict[int, str]:
        """The classes of the requests, in order of their index."""
        names = {r["target_class"]: r.get("class_name") or "" for r in self.records if r["target_class"] != POOLED}
        return {target: str(names[target]) for target in sorted(names)}

    @cached_property
    def seeds(self) -> list[int]:
        return sorted({r["seed"] for r in self.records})

    @cached_property
    def methods(self) -> list[str]:
        """All methods but the floors: the known ones in the canonical order, then a user's own by name."""
        present = {r["method"] for r in self.records} - set(FLOORS)
        known = [m for m in (*BASELINES, *TWINS) if m in present]
        return known + sorted(present - set(known))

    @cached_property
    def floors(self) -> list[str]:
        return [floor for floor in FLOORS if any(r["method"] == floor for r in self.records)]

    @property
    def has_pooled(self) -> bool:
        return any(r["target_class"] == POOLED for r in self.records)

    @cached_property
    def _by_cell(self) -> dict[tuple[str, int | str], list[Record]]:
        cells: dict[tuple[str, int | str], list[Record]] = {}
        for record in self.records:
            cells.setdefault((record["method"], record["target_class"]), []).append(record)
        return cells

    def _of(self, method: str, target_class: int | str, key: str) -> dict[int, float]:
        """The figure of each seed in which it is defined."""
        found = {r["seed"]: figure(r, key) for r in self._by_cell.get((method, target_class), [])}
        return {seed: value for seed, value in found.items() if value is not None}

    def of_class(self, target_class: int | str, method: str, key: str) -> Estimate:
        """The mean over seeds for one class, without its spread (the table of classes has no room for it)."""
        return Estimate(average(self._of(method, target_class, key).values()))

    def pooled(self, method: str, key: str) -> Estimate:
        """The figure over all forgotten images of the request at once: mean and spread over seeds."""
        values = list(self._of(method, POOLED, key).values())
        return Estimate(average(values), statistics.stdev(values) if len(values) > 1 else None)

    def mean(self, method: str, key: str) -> Estimate:
        """The mean over classes, every class counting once; spread over the seeds' means.

        A spread is given only where all seeds measured the same classes: otherwise it would mix seeds with classes.
        Records without a class of their own (a request of any indices) are represented by the pooled row.
        """
        if not self.class_names:
            return self.pooled(method, key)
        by_class = {target: self._of(method, target, key) for target in self.class_names}
        mean = average(average(values.values()) for values in by_class.values())
        measured = [set(values) for values in by_class.values() if values]
        if not measured or len(measured[0]) < 2 or any(seeds != measured[0] for seeds in measured):
            return Estimate(mean)
        seed_means = [statistics.fmean(v[seed] for v in by_class.values() if v) for seed in sorted(measured[0])]
        return Estimate(mean, statistics.stdev(seed_means))


def split_settings(records: Iterable[Record]) -> list[Results]:
    """Groups records by setting, in order of first appearance; of two records for one cell the later one counts."""
    groups: dict[str, dict[tuple[Any, ...], Record]] = {}
    for record in records:
        setting = json.dumps([record.get(field) for field in SETTING_FIELDS])
        groups.setdefault(setting, {})[record["target_class"], record["seed"], record["method"]] = record
    return [Results(tuple(cells.values())) for cells in groups.values()]


def figure(record: Record, key: str) -> float | None:
    """A record's number, None where it is absent, null or NaN; `a/b` reaches the entry b of the dict under a."""
    entry: Any = record
    for part in key.split("/"):
        entry = (entry or {}).get(part)
    return None if entry is None or math.isnan(entry) else float(entry)


def average(values: Iterable[float | None]) -> float | None:
    """The mean of what is defined, None where nothing is."""
    defined = [value for value in values if value is not None]
    return statistics.fmean(defined) if defined else None


def display_name(method: str) -> str:
    """A method's name as it stands in headings."""
    special = {"retrain": "gold (retrain)", "floor_gold_gold": "gold-gold", "floor_count_matched": "count-matched"}
    return special.get(method, method.removeprefix("floor_").replace("_", " "))


def text(estimate: Estimate, digits: int = 1, scale: float = 1.0) -> str:
    """`85.1`, `85.1 ± 0.2` or, where there is no number, a dash."""
    if estimate.mean is None:
        return MISSING
    number = f"{scale * estimate.mean:.{digits}f}"
    return number if estimate.spread is None else f"{number} ± {scale * estimate.spread:.{digits}f}"


def accuracy_table(results: Results) -> Table:
    """Table 1 of the paper: each class's gold A_t and A_f, then A_t, A_f and gap of every method, and the floors."""
    methods = [method for method in results.methods if method != "retrain"]

    def cells(pick: Pick) -> list[Cell]:
        gold = (text(pick("retrain", "test_accuracy"), 2), text(pick("retrain", "forget_accuracy")))
        each = [
            (text(pick(m, "test_accuracy"), 2), text(pick(m, "forget_accuracy")), text(pick(m, "forget_gap")))
            for m in methods
        ]
        return [gold, *each, tuple(text(pick(floor, "forget_gap")) for floor in FLOORS)]

    columns = [Column("gold (retrain)", ("A_t", "A_f"))]
    columns += [Column(display_name(m), ("A_t", "A_f", "gap")) for m in methods]
    columns += [Column("gaps of the floors", tuple(display_name(floor) for floor in FLOORS))]
    caption = "Accuracy in percent, gap in points."
    if len(results.seeds) > 1:
        caption += f" Means over {len(results.seeds)} seeds; ± is the sample standard deviation over seeds."
    return _class_table("Accuracy on test and forgotten images (the paper's Table 1)", results, columns, cells, caption)


def method_table(results: Results, pooled: bool = False) -> Table:
    """All readouts of every method and floor: means over the classes, or those of the pooled request."""
    readouts = {
        "A_t": ("test_accuracy", 2),
        "A_f": ("forget_accuracy", 1),
        "A_t outside D_test": ("test_accuracy_outside_heldout", 2),
        "A_r": ("retain_accuracy", 2),
        "gap": ("forget_gap", 1),
        "agreement": ("agreement", 1),
        "activation distance": ("activation_distance", 3),
        "KL": ("kl", 3),
        "JS": ("js", 3),
    }
    pick = results.pooled if pooled else results.mean
    rows = [
        ((display_name(m),), *((text(pick(m, key), digits),) for key, digits in readouts.values()))
        for m in (*results.methods, *results.floors)
    ]
    columns = (Column("method"), *(Column(name) for name in readouts))
    over = "pooled over the request" if pooled or not results.class_names else "means over the classes"
    caption = "The last rows are the floors, computed from labels without any unlearning." if results.floors else ""
    return Table(f"Readouts per method, {over}", columns, tuple(rows), len(results.floors), caption)


def predictor_tables(results: Results) -> list[Table]:
    """The easy/hard predictor on held-out and on forgotten images; methods with the same predictor share a table."""
    titles: dict[tuple[tuple[Cell, ...], ...], list[str]] = {}
    for method in results.methods:
        pairs = [(method, key) for key in ("predictor_accuracy", "heldout_predictor_accuracy")]
        if any(figure(r, key) is not None for m, key in pairs for r in results.records if r["method"] == m):
            table = _predictor_table(results, method)
            titles.setdefault(table.rows, []).append(method)
    tables = []
    for methods in titles.values():
        names = " and ".join(display_name(method) for method in methods)
        tables.append(_predictor_table(results, methods[0], names))
    return tables


def _predictor_table(results: Results, method: str, names: str = "") -> Table:
    def cells(pick: Pick) -> list[Cell]:
        quality = [
            (
                text(pick(method, f"{prefix}predictor_accuracy")),
                text(pick(method, f"{prefix}predictor_auc")),
                text(pick(method, f"{prefix}predictor_brier"), 3),
            )
            for prefix in ("heldout_", "")
        ]
        floor = text(pick("floor_majority", "agreement"))
        hard = (text(pick(method, "predicted_hard_share"), 1, 100), text(pick(method, "hard_share"), 1, 100))
        return [*quality, (floor,), hard]

    columns = [
        Column("on D_test (its training set)", ("accuracy", "AUC", "Brier")),
        Column("on D_f (forgotten)", ("accuracy", "AUC", "Brier")),
        Column("majority floor on D_f"),
        Column("hard images, %", ("predicted", "truly")),
    ]
    caption = "The majority floor calls every image easy; a mean is over the classes in which the figure is defined."
    return _class_table(f"Easy/hard predictor of {names}", results, columns, cells, caption)


def cost_table(results: Results) -> Table:
    """Seconds of a request, by part, and as a share of retraining, in full and amortised."""
    parts = list(dict.fromkeys(part for r in results.records for part in r.get("seconds_by_part") or {}))
    rows = []
    for m in results.methods:
        full = (text(results.mean(m, "seconds")), text(results.mean(m, "retraining_share"), 1, 100))
        shared = (
            text(results.mean(m, "seconds_amortised")),
            text(results.mean(m, "retraining_share_amortised"), 1, 100),
        )
        each = [(text(results.mean(m, f"seconds_by_part/{part}")),) for part in parts]
        rows.append(((display_name(m),), full, shared, (text(results.mean(m, "compile_seconds")),), *each))
    columns = [Column("method"), Column("in full", ("s", "% of retraining"))]
    columns += [Column("amortised", ("s", "% of retraining")), Column("compile s")]
    columns += [Column(part.replace("_", " ")) for part in parts]
    scope = "the combined request" if results.setting["requests"] == "combined" else "one request (mean over classes)"
    caption = (
        f"Seconds of {scope}, compile time apart; the columns after it are the parts of the full time. "
        "In full, parts shared between the twin methods (and, one request a class, the curriculum model shared by all "
        "requests) are charged to each; amortised, divided among them."
    )
    return Table("Cost", tuple(columns), tuple(rows), 0, caption)


def _class_table(
    title: str, results: Results, columns: list[Column], cells: Callable[[Pick], list[Cell]], caption: str
) -> Table:
    """One row a class, then the mean and, for a combined request, the pooled row."""
    rows = [
        ((class_label(target, name),), *cells(partial(results.of_class, target)))
        for target, name in results.class_names.items()
    ]
    summary = [((mean_label(results),), *cells(results.mean))] if results.class_names else []
    if results.has_pooled:
        summary.append((("pooled over the request",), *cells(results.pooled)))
    return Table(title, (Column("class"), *columns), (*rows, *summary), len(summary), caption)


def class_label(target: int, name: str) -> str:
    """How a class is called in the first column."""
    return f"{target} {name}".strip()


def mean_label(results: Results) -> str:
    """How the mean row is called."""
    count = len(results.class_names)
    return f"mean of {count} {'class' if count == 1 else 'classes'}"
