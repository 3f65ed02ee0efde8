"""The tables of a report as plain text cells; `experiments.report.write` renders them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from experiments.report.formats import MISSING, display_name, finding, text
from experiments.report.intervals import Estimate
from experiments.report.results import GOLD, MAJORITY, MEAN, ORIGINAL, POOLED, Results, Scope

READOUTS = {
    "test_accuracy": "A_t",
    "forget_accuracy": "A_f",
    "test_accuracy_outside_heldout": "A_t outside D_test",
    "retain_accuracy": "A_r",
    "forget_gap": "gap",
    "agreement": "agreement",
    "activation_distance": "activation distance",
    "kl": "KL",
    "js": "JS",
}
MAIN = {
    "test_accuracy": "A_t",
    "forget_accuracy": "A_f",
    "forget_gap": "gap",
    "agreement": "agree-\nment",
    "activation_distance": "dis-\ntance",
    "seconds": "s",
    "retraining_share": "% of re-\ntraining",
}


@dataclass(frozen=True)
class Table:
    """Text cells under headings; the last `num_summary` rows sum up the ones above them.

    Attributes:
        title: of the table.
        headings: the first is of the row's name.
        rows: as many cells as headings.
        num_summary: rows at the end that are set apart.
        caption: what is to be said below it.
        compact: the same rows in fewer characters, for a terminal; None: as they are.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    num_summary: int = 0
    caption: str = ""
    compact: "Table | None" = None


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


def main_table(groups: Sequence[Results]) -> Table:
    """The one table: a row a method, the floors under them; of several settings, those of each."""
    compact = [row for results in groups for row in _main_rows(results, len(groups) > 1, interval=False)]
    rows = [row for results in groups for row in _main_rows(results, len(groups) > 1, interval=True)]
    floors = sum(len(results.floors) for results in groups)
    # Of several settings the floors stand under the methods of all.
    compact, rows = ([*sorted(found, key=lambda row: row[0].startswith("floor: "))] for found in (compact, rows))
    title = averaged(groups[0])
    caption = "A_t, A_f: accuracy on test and forgotten images, percent. gap: from A_f to gold's, points. agreement: "
    caption += "percent of D_f on which right and wrong agree with gold's. distance: activation distance to gold. "
    caption += f"s: seconds of a request. {interval_note(groups[0])}"
    plain_heads = tuple(heading.replace("-\n", "") for heading in MAIN.values())
    short = Table(title, ("method", *MAIN.values()), tuple(compact), floors)
    return Table(title, ("method", *plain_heads), tuple(rows), floors, caption, short)


def _main_rows(results: Results, several: bool, interval: bool) -> list[tuple[str, ...]]:
    own = f", {results.setting['variant']}, {results.setting['num_forget']} images" if several else ""
    rows = []
    for m in (*results.methods, *results.floors):
        name = f"floor: {display_name(m)}" if m in results.floors else results.label(m)
        shown = [text(results.for_method(m).mean(m, key), key, interval) for key in MAIN]
        rows.append((name + own, *shown))
    return rows


def averaged(results: Results) -> str:
    """What the figures of the main table are taken over, in a short phrase."""
    classes, seeds = len(results.class_names), len(results.seeds)
    of_seeds = "one seed" if seeds == 1 else f"{seeds} seeds"
    if classes < 2:
        return f"{'One class' if classes else 'All forgotten images'}, {of_seeds}"
    return f"Means over {classes} classes, {of_seeds}"


def accuracy_table(results: Results) -> Table:
    """Table 1 of the paper: each class's gold A_t and A_f, then A_t, A_f and gap of every method, and the floors."""
    methods = [method for method in results.methods if method != GOLD]
    keys = ("test_accuracy", "forget_accuracy", "forget_gap")

    def cells(scope: Scope, interval: bool) -> list[str]:
        found = [figures(results, scope, GOLD, keys[:2], interval)]
        found += [figures(results, scope, m, keys, interval) for m in methods]
        return found + [figures(results, scope, floor, keys[2:], interval) for floor in results.floors]

    headings = ["gold: A_t / A_f", *(f"{results.label(m)}: A_t / A_f / gap" for m in methods)]
    headings += [f"{display_name(floor)} floor: gap" for floor in results.floors]
    title = "Accuracy on test and forgotten images (the paper's Table 1)"
    return class_table(title, results, headings, cells, "Accuracy in percent, gap in points.")


def method_table(results: Results, scope: Scope = MEAN) -> Table:
    """All readouts of every method and floor: means over the classes, or those of the pooled request."""
    rows = [
        (results.label(m), *(text(results.for_method(m).estimate(scope, m, key), key) for key in READOUTS))
        for m in (*results.methods, *results.floors)
    ]
    floors = "The last rows are the floors, computed from labels without any unlearning. " if results.floors else ""
    title = f"Readouts per method, {over(results, scope)}"
    headings = ("method", *READOUTS.values())
    return Table(title, headings, tuple(rows), len(results.floors), floors + interval_note(results))


def difference_table(results: Results, scope: Scope = MEAN) -> Table:
    """Every method and floor minus the untouched original and minus the majority floor, paired, with a finding each."""
    # Heading, readout, reference and its readout.
    contrasts = {
        "gap − original's": ("forget_gap", ORIGINAL, "forget_gap"),
        "agreement − original's": ("agreement", ORIGINAL, "agreement"),
        "activation distance − original's": ("activation_distance", ORIGINAL, "activation_distance"),
        "agreement − majority floor's": ("agreement", MAJORITY, "agreement"),
        "predictor accuracy − majority floor's": ("predictor_accuracy", MAJORITY, "agreement"),
    }

    def cell(method: str, key: str, reference: str, reference_key: str) -> str:
        if method == reference:
            return MISSING
        return compared(results.for_method(method).difference(method, reference, key, scope, reference_key), key)

    methods = [m for m in (*results.methods, *results.floors) if m not in (ORIGINAL, GOLD)]
    rows = [(results.label(m), *(cell(m, *contrast) for contrast in contrasts.values())) for m in methods]
    by = {"seeds": "seed by seed", "images": "by forgotten image"}.get(results.interval_source or "")
    caption = "The method's figure minus the reference's: below 0 is better for gap and activation distance, above 0 "
    caption += f"for the others. {interval_note(results)}"
    if by:
        caption += f" Differences are paired {by}; better or worse is said where the interval leaves out 0."
    title = f"Differences to the untouched original and to the floors, paired, {over(results, scope)}"
    return Table(title, ("method", *contrasts), tuple(rows), len(results.floors), caption)


def compared(difference: Estimate, key: str) -> str:
    """`-13.0 ± 5.0, better`: a paired difference and what it shows."""
    found = finding(difference, key)
    return text(difference, key) + (f", {found}" if found else "")


def predictor_tables(results: Results) -> list[Table]:
    """The easy/hard predictor on held-out and on forgotten images; methods with the same predictor share a table."""
    names: dict[tuple[tuple[str, ...], ...], list[str]] = {}
    for method in results.predicting:
        names.setdefault(_predictor_table(results, method, "").rows, []).append(method)
    return [_predictor_table(results, found[0], " and ".join(map(display_name, found))) for found in names.values()]


def _predictor_table(results: Results, method: str, names: str) -> Table:
    keys = ("predictor_accuracy", "predictor_auc", "predictor_brier")

    def cells(scope: Scope, interval: bool) -> list[str]:
        quality = [figures(results, scope, method, [p + key for key in keys], interval) for p in ("heldout_", "")]
        floors = [figures(results, scope, floor, ("agreement",), interval) for floor in results.floors]
        return [*quality, *floors, figures(results, scope, method, ("predicted_hard_share", "hard_share"), interval)]

    headings = [f"{where}: accuracy / AUC / Brier" for where in ("D_test (its training set)", "D_f (forgotten)")]
    headings += [f"{display_name(floor)} floor on D_f" for floor in results.floors]
    headings += ["hard images, %: predicted / truly"]
    caption = "The majority floor calls every image easy; a mean is over the classes in which the figure is defined."
    return class_table(f"Easy/hard predictor of {names}", results, headings, cells, caption)


def cost_table(results: Results) -> Table:
    """Seconds of a request, by part, and as a share of retraining, in full and amortised."""
    parts = list(dict.fromkeys(part for r in results.records for part in r.get("seconds_by_part") or {}))
    columns: dict[str, tuple[str, ...]] = {"in full: s / % of retraining": ("seconds", "retraining_share")}
    columns |= {"amortised: s / % of retraining": ("seconds_amortised", "retraining_share_amortised")}
    columns |= {"compile s": ("compile_seconds",)}
    columns |= {part.replace("_", " "): (f"seconds_by_part/{part}",) for part in parts}
    rows = [
        (results.label(m), *(figures(results, MEAN, m, keys, True) for keys in columns.values()))
        for m in results.methods
    ]
    scope = "the combined request" if results.setting["requests"] == "combined" else "one request (mean over classes)"
    caption = (
        f"Seconds of {scope}, compile time apart; the columns after it are the parts of the full time. "
        "In full, parts shared between the methods that predict (and, one request a class, the curriculum model shared "
        "by all requests) are charged to each; amortised, divided among them. "
        f"{interval_note(results, over_images=False)}"
    )
    return Table("Cost", ("method", *columns), tuple(rows), 0, caption)


def figures(results: Results, scope: Scope, method: str, keys: Sequence[str], interval: bool) -> str:
    """Several readouts of a method in one cell, apart by slashes."""
    return " / ".join(text(results.estimate(scope, method, key), key, interval) for key in keys)


def class_table(
    title: str, results: Results, headings: Sequence[str], cells: Callable[[Scope, bool], list[str]], caption: str
) -> Table:
    """One row a class, then the mean and, for a combined request, the pooled row; these two carry the intervals.

    Args:
        title: of the table.
        results: of one setting.
        headings: all but the first, which names the class.
        cells: makes a row's cells from what they are taken over and whether intervals are shown.
        caption: what the figures are; what the intervals are is added.

    Returns:
        The table.
    """
    rows = [(class_label(target, name), *cells(target, False)) for target, name in results.class_names.items()]
    summary = [(mean_label(results), *cells(MEAN, True))] if results.class_names else []
    if results.has_pooled:
        summary.append(("pooled over the request", *cells(POOLED, True)))
    where = " The rows of single classes stand without intervals." if rows and results.interval_source else ""
    caption = f"{caption} {interval_note(results)}{where}"
    return Table(title, ("class", *headings), (*rows, *summary), len(summary), caption)


def class_label(target: int, name: str) -> str:
    """How a class is called in the first column."""
    return f"{target} {name}".strip()


def mean_label(results: Results) -> str:
    """How the mean row is called."""
    count = len(results.class_names)
    return f"mean of {count} {'class' if count == 1 else 'classes'}"


def over(results: Results, scope: Scope) -> str:
    """What the figures of a table are taken over, in words."""
    return "pooled over the request" if scope == POOLED or not results.class_names else "means over the classes"
