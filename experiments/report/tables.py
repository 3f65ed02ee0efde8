"""The tables of a report as plain text cells.

Nothing here prints. `experiments.report.render` renders every table twice, as markdown and on the terminal.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from experiments.report.intervals import Estimate
from experiments.report.results import FLOORS, MEAN, POOLED, Results, display_name, figure

MISSING = "–"
BETTER, WORSE, NOT_SHOWN = "better", "worse", "no difference shown"
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


def text(estimate: Estimate, digits: int = 1, scale: float = 1.0) -> str:
    """`85.1`, `85.1 ± 0.2` over seeds, `7.1 [5.2, 9.0]` over images or, where there is no number, a dash."""
    if estimate.mean is None:
        return MISSING
    number = _number(scale * estimate.mean, digits)
    if estimate.low is None or estimate.high is None:
        return number
    if estimate.source == "seeds":
        return f"{number} ± {_number(scale * (estimate.high - estimate.low) / 2, digits)}"
    return f"{number} [{_number(scale * estimate.low, digits)}, {_number(scale * estimate.high, digits)}]"


def _number(value: float, digits: int) -> str:
    # Adding zero turns the negative zero of a rounded figure into a plain one.
    return f"{round(value, digits) + 0.0:.{digits}f}"


def finding(difference: Estimate, lower_is_better: bool) -> str | None:
    """`better`, `worse` or, where the interval of the difference holds 0, `no difference shown`; None without one."""
    if difference.low is None or difference.high is None:
        return None
    if difference.low <= 0 <= difference.high:
        return NOT_SHOWN
    return BETTER if (difference.high < 0) == lower_is_better else WORSE


def interval_note(results: Results, over_images: bool = True) -> str:
    """The sentence of a caption that says what the intervals are over.

    Args:
        results: whose intervals.
        over_images: whether the table has figures that the forgotten images give an interval for.
    """
    if results.interval_source == "seeds":
        note = f"± is the 95 % confidence interval over {len(results.seeds)} seeds (Student t)."
        alone = [m for m in results.methods if results.for_method(m).interval_source == "images"]
        if over_images and alone:
            note += " [low, high], for what was measured in one seed only, is over the forgotten images by bootstrap."
        return note
    if results.interval_source == "images" and over_images:
        return (
            "[low, high] is the 95 % confidence interval over the forgotten images by bootstrap, one seed: "
            "it says nothing about the spread over trainings."
        )
    return "No intervals: one seed."


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
    columns += [Column(results.label(m), ("A_t", "A_f", "gap")) for m in methods]
    columns += [Column("gaps of the floors", tuple(display_name(floor) for floor in FLOORS))]
    caption = "Accuracy in percent, gap in points."
    return class_table("Accuracy on test and forgotten images (the paper's Table 1)", results, columns, cells, caption)


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
    scope = POOLED if pooled else MEAN
    rows = [
        (
            (results.label(m),),
            *((text(results.for_method(m).estimate(scope, m, key), digits),) for key, digits in readouts.values()),
        )
        for m in (*results.methods, *results.floors)
    ]
    columns = (Column("method"), *(Column(name) for name in readouts))
    floors = "The last rows are the floors, computed from labels without any unlearning. " if results.floors else ""
    title = f"Readouts per method, {over(results, pooled)}"
    return Table(title, columns, tuple(rows), len(results.floors), floors + interval_note(results))


def difference_table(results: Results, pooled: bool = False) -> Table:
    """Every method and floor minus the untouched original and minus the majority floor, paired, with a finding each."""
    # Heading, readout, reference and its readout, decimals, and whether lower is better.
    contrasts = {
        "gap − original's": ("forget_gap", "original", "forget_gap", 1, True),
        "agreement − original's": ("agreement", "original", "agreement", 1, False),
        "activation distance − original's": ("activation_distance", "original", "activation_distance", 3, True),
        "agreement − majority floor's": ("agreement", "floor_majority", "agreement", 1, False),
        "predictor accuracy − majority floor's": ("predictor_accuracy", "floor_majority", "agreement", 1, False),
    }
    scope = POOLED if pooled else MEAN

    def cell(method: str, contrast: tuple[str, str, str, int, bool]) -> Cell:
        key, reference, reference_key, digits, lower_is_better = contrast
        if method == reference:
            return (MISSING, MISSING)
        difference = results.for_method(method).difference(method, reference, key, scope, reference_key)
        return (text(difference, digits), finding(difference, lower_is_better) or MISSING)

    methods = [m for m in results.methods if m not in ("original", "retrain")]
    rows = [
        ((results.label(m),), *(cell(m, contrast) for contrast in contrasts.values()))
        for m in (*methods, *results.floors)
    ]
    columns = (Column("method"), *(Column(heading, ("difference", "finding")) for heading in contrasts))
    by = {"seeds": "seed by seed", "images": "by forgotten image"}.get(results.interval_source or "")
    caption = "The method's figure minus the reference's: below 0 is better for gap and activation distance, above 0 "
    caption += f"for the others. {interval_note(results)}"
    if by:
        caption += f" Differences are paired {by}; better or worse is said where the interval leaves out 0."
    title = f"Differences to the untouched original and to the floors, paired, {over(results, pooled)}"
    return Table(title, columns, tuple(rows), len(results.floors), caption)


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
        floors = tuple(text(pick(floor, "agreement")) for floor in FLOORS)
        hard = (text(pick(method, "predicted_hard_share"), 1, 100), text(pick(method, "hard_share"), 1, 100))
        return [*quality, floors, hard]

    columns = [
        Column("on D_test (its training set)", ("accuracy", "AUC", "Brier")),
        Column("on D_f (forgotten)", ("accuracy", "AUC", "Brier")),
        Column("accuracy of the floors on D_f", tuple(display_name(floor) for floor in FLOORS)),
        Column("hard images, %", ("predicted", "truly")),
    ]
    caption = "The majority floor calls every image easy; a mean is over the classes in which the figure is defined."
    return class_table(f"Easy/hard predictor of {names}", results, columns, cells, caption)


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
        rows.append(((results.label(m),), full, shared, (text(results.mean(m, "compile_seconds")),), *each))
    columns = [Column("method"), Column("in full", ("s", "% of retraining"))]
    columns += [Column("amortised", ("s", "% of retraining")), Column("compile s")]
    columns += [Column(part.replace("_", " ")) for part in parts]
    scope = "the combined request" if results.setting["requests"] == "combined" else "one request (mean over classes)"
    caption = (
        f"Seconds of {scope}, compile time apart; the columns after it are the parts of the full time. "
        "In full, parts shared between the twin methods (and, one request a class, the curriculum model shared by all "
        f"requests) are charged to each; amortised, divided among them. {interval_note(results, over_images=False)}"
    )
    return Table("Cost", tuple(columns), tuple(rows), 0, caption)


def class_table(
    title: str, results: Results, columns: list[Column], cells: Callable[[Pick], list[Cell]], caption: str
) -> Table:
    """One row a class, then the mean and, for a combined request, the pooled row; these two carry the intervals.

    Args:
        title: of the table.
        results: of one setting.
        columns: all but the first, which names the class.
        cells: makes a row's cells from a function that gives a method's readout in that row.
        caption: what the figures are; what the intervals are is added.

    Returns:
        The table.
    """

    def of_class(target: int) -> Pick:
        return lambda method, key: Estimate(results.of_class(target, method, key).mean)

    rows = [((class_label(target, name),), *cells(of_class(target))) for target, name in results.class_names.items()]
    summary = [((mean_label(results),), *cells(results.mean))] if results.class_names else []
    if results.has_pooled:
        summary.append((("pooled over the request",), *cells(results.pooled)))
    where = " The rows of single classes stand without intervals." if rows and results.interval_source else ""
    caption = f"{caption} {interval_note(results)}{where}"
    return Table(title, (Column("class"), *columns), (*rows, *summary), len(summary), caption)


def class_label(target: int, name: str) -> str:
    """How a class is called in the first column."""
    return f"{target} {name}".strip()


def mean_label(results: Results) -> str:
    """How the mean row is called."""
    count = len(results.class_names)
    return f"mean of {count} {'class' if count == 1 else 'classes'}"


def over(results: Results, pooled: bool) -> str:
    """What the figures of a table are taken over, in words."""
    return "pooled over the request" if pooled or not results.class_names else "means over the classes"
