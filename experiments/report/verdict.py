"""What the numbers say, in plain sentences computed from them."""

from experiments.report.intervals import Estimate
from experiments.report.results import BASELINES, Results, display_name
from experiments.report.tables import BETTER, NOT_SHOWN, WORSE, finding, text

REFERENCES = {
    "original": "the untouched original",
    "floor_gold_gold": "the gold-gold floor",
    "floor_majority": "the majority floor",
    "floor_count_matched": "the count-matched floor",
}


def verdict(results: Results) -> list[str]:
    """Sentences on every method under test: the twin methods and a user's own, or the baselines where there are none.

    Where a paired interval is known, better and worse are said only of differences whose interval leaves out 0.

    Args:
        results: the records of one setting.

    Returns:
        One or more sentences an entry, without markup.
    """
    candidates = [m for m in results.methods if m not in ("original", "retrain")]
    subjects = [m for m in candidates if m not in BASELINES] or candidates
    lines = [_ranking(results, candidates)] if candidates else []
    for method in subjects:
        lines += _of_method(results.for_method(method), method, results.label(method))
    if len(results.seeds) == 1:
        known = "the intervals are over the forgotten images alone" if results.samples else "there are no intervals"
        lines.append(f"One seed only: no spread over seeds is known, {known}, and differences as small as gold-gold "
                     "may be noise.")  # fmt: skip
    return lines


def _of_method(results: Results, method: str, label: str) -> list[str]:
    """The sentences on one method, within the seeds in which it was measured."""
    lines = [] if label == display_name(method) else [f"{label.capitalize()}: compared within its own seeds."]
    lines += _compare(results, method, "forget_gap", "forget gap", "points", lower_is_better=True)
    lines += _compare(results, method, "agreement", "agreement with gold", "percent", lower_is_better=False)
    lines += _compare(results, method, "activation_distance", "activation distance", "", True, digits=3)
    lines += _test_accuracy(results, method) + _predictor(results, method) + _cost(results, method)
    return lines + _conclusion(results, method)


def _ranking(results: Results, methods: list[str]) -> str:
    gaps = {m: results.mean(m, "forget_gap").mean for m in methods}
    ranked = sorted((gap, m) for m, gap in gaps.items() if gap is not None)
    if not ranked:
        return "No forget gap was measured."
    listed = ", ".join(f"{results.label(m)} {gap:.1f}" for gap, m in ranked)
    return f"Mean forget gap in points, best first: {listed}."


def _compare(
    results: Results, method: str, key: str, name: str, unit: str, lower_is_better: bool, digits: int = 1
) -> list[str]:
    ours = results.mean(method, key)
    if ours.mean is None:
        return []
    clauses = []
    for reference, label in REFERENCES.items():
        theirs = results.mean(reference, key).mean
        if theirs is None or (reference.startswith("floor_") and reference not in results.floors):
            continue
        difference = results.difference(method, reference, key)
        clauses.append(
            _clause(difference, f"{label} ({theirs:.{digits}f})", ours.mean, theirs, lower_is_better, digits)
        )
    value = f"{text(ours, digits)} {unit}".strip()
    return [f"{_name(method)}: {name} {value}" + (f"; {', '.join(clauses)}." if clauses else ".")]


def _clause(
    difference: Estimate, reference: str, ours: float, theirs: float, lower_is_better: bool, digits: int
) -> str:
    """`better than X by 1.2 [0.4, 2.0]`, or that no difference from X is shown."""
    # From the printed figures, so that a reader who subtracts them finds the same.
    plain = round(theirs, digits) - round(ours, digits)
    advantage = round(plain if lower_is_better else -plain, digits)
    found = finding(difference, lower_is_better)
    if found == NOT_SHOWN:
        return (
            f"no difference shown from {reference}: {text(_advantage(difference, advantage, lower_is_better), digits)}"
        )
    if found is None and advantage == 0:
        return f"equal to {reference}"
    said = found or (BETTER if advantage > 0 else WORSE)
    size = _advantage(difference, advantage, lower_is_better)
    if said == WORSE:
        size = _negated(size)
    return f"{said} than {reference} by {text(size, digits)}"


def _advantage(difference: Estimate, figure: float, lower_is_better: bool) -> Estimate:
    """The difference counted so that above 0 is better, under the figure that is printed."""
    return (_negated(difference) if lower_is_better else difference)._replace(mean=figure)


def _negated(estimate: Estimate) -> Estimate:
    mean, low, high = (None if value is None else -value for value in (estimate.mean, estimate.high, estimate.low))
    return estimate._replace(mean=mean, low=low, high=high)


def _test_accuracy(results: Results, method: str) -> list[str]:
    ours = results.mean(method, "test_accuracy").mean
    others = {"gold": "retrain", "the original": "original"}
    clauses = []
    for label, other in others.items():
        theirs = results.mean(other, "test_accuracy").mean
        if ours is None or theirs is None:
            continue
        difference = results.difference(method, other, "test_accuracy")
        above = ours > theirs
        if finding(difference, lower_is_better=False) == NOT_SHOWN:
            clauses.append(f"no difference shown from {label} ({theirs:.2f}): {text(difference, 2)}")
        else:
            size = text(difference if above else _negated(difference), 2)
            clauses.append(f"{size} points {'above' if above else 'below'} {label} ({theirs:.2f})")
    return [f"{_name(method)}: test accuracy {ours:.2f} percent; {', '.join(clauses)}."] if clauses else []


def _predictor(results: Results, method: str) -> list[str]:
    accuracy, floor = (
        results.mean(m, key).mean for m, key in ((method, "predictor_accuracy"), ("floor_majority", "agreement"))
    )
    if accuracy is None:
        return []
    line = f"{_name(method)}: the predictor is right on {accuracy:.1f} percent of the forgotten images"
    if floor is not None:
        line += f"; calling every image easy is right on {floor:.1f}: "
        difference = results.difference(method, "floor_majority", "predictor_accuracy", reference_key="agreement")
        margin = difference._replace(mean=round(accuracy - floor, 1))
        found = finding(difference, lower_is_better=False)
        if found == NOT_SHOWN:
            line += f"no difference shown, {text(margin)}"
        elif found is None and margin.mean == 0:
            line += "the same"
        else:
            better = (accuracy > floor) if found is None else found == BETTER
            line += f"better by {text(margin)}" if better else f"worse by {text(_negated(margin))}"
    auc = results.mean(method, "predictor_auc")
    if auc.mean is not None:
        line += f". Its AUC there is {text(auc)} (50 is guessing)"
    return [line + "."]


def _cost(results: Results, method: str) -> list[str]:
    seconds, share = results.mean(method, "seconds"), results.mean(method, "retraining_share")
    if seconds.mean is None:
        return []
    line = f"{_name(method)}: {text(seconds)} seconds a request"
    if share.mean is not None:
        line += f", {text(share, 1, 100)} percent of retraining"
    amortised = results.mean(method, "retraining_share_amortised")
    if amortised.mean is not None:
        line += f"; {text(amortised, 1, 100)} percent with shared stages divided among their users"
    return [line + "."]


def _conclusion(results: Results, method: str) -> list[str]:
    """The one sentence to take home, from gap and agreement against the original and the floors."""

    def against(reference: str, key: str) -> str | None:
        """Better, worse or not shown; from the bare figures where there is no interval, None without figures."""
        difference = results.difference(method, reference, key)
        if difference.mean is None:
            return None
        known = finding(difference, lower_is_better=key == "forget_gap")
        if known is not None or difference.mean == 0:
            return known or NOT_SHOWN
        return BETTER if (difference.mean < 0) == (key == "forget_gap") else WORSE

    original = against("original", "forget_gap")
    if original is None:
        return []
    gold_gold, cheap = against("floor_gold_gold", "forget_gap"), against("floor_count_matched", "forget_gap")
    floors = [against(floor, "agreement") for floor in ("floor_majority", "floor_count_matched")]
    if original != BETTER:
        verb = "does not come" if original == WORSE or not _has_intervals(results) else "is not shown to come"
        said = f"{verb} nearer to gold's forget accuracy than leaving the model alone"
    elif gold_gold in (BETTER, NOT_SHOWN):
        said = "comes as near to gold's forget accuracy as a second gold model does"
        if gold_gold == NOT_SHOWN and _has_intervals(results):
            said += ", as far as these intervals tell"
    elif cheap in (WORSE, NOT_SHOWN):
        said = "comes nearer to gold than the untouched original, but no nearer than relabelling a random share would"
    else:
        said = "comes nearer to gold's forget accuracy than the untouched original"
        said += " and the count-matched floor" if cheap is not None else ""
    sample = (
        "sample by sample it agrees with gold more than the majority and the count-matched floor"
        if all(found == BETTER for found in floors)
        else "sample by sample it shows no knowledge beyond the majority and the count-matched floor"
    )
    return [f"In short: {display_name(method)} {said}" + (f"; {sample}." if None not in floors else ".")]


def _has_intervals(results: Results) -> bool:
    return results.interval_source is not None


def _name(method: str) -> str:
    return display_name(method).capitalize()
