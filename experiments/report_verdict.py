"""What the numbers say, in plain sentences computed from them."""

from experiments.report_tables import BASELINES, Results, display_name, text

REFERENCES = {
    "original": "the untouched original",
    "floor_gold_gold": "the gold-gold floor",
    "floor_majority": "the majority floor",
    "floor_count_matched": "the count-matched floor",
}


def verdict(results: Results) -> list[str]:
    """Sentences on every method under test: the twin methods and a user's own, or the baselines where there are none.

    Args:
        results: the records of one setting.

    Returns:
        One or more sentences an entry, without markup.
    """
    candidates = [m for m in results.methods if m not in ("original", "retrain")]
    subjects = [m for m in candidates if m not in BASELINES] or candidates
    lines = [_ranking(results, candidates)] if candidates else []
    for method in subjects:
        lines += _compare(results, method, "forget_gap", "forget gap", "points", lower_is_better=True)
        lines += _compare(results, method, "agreement", "agreement with gold", "percent", lower_is_better=False)
        lines += _compare(results, method, "activation_distance", "activation distance", "", True, digits=3)
        lines += _test_accuracy(results, method) + _predictor(results, method) + _cost(results, method)
        lines += _conclusion(results, method)
    if len(results.seeds) == 1:
        lines.append("One seed only: no spread over seeds is known, and differences as small as gold-gold are noise.")
    return lines


def _ranking(results: Results, methods: list[str]) -> str:
    gaps = {m: results.mean(m, "forget_gap").mean for m in methods}
    ranked = sorted((gap, m) for m, gap in gaps.items() if gap is not None)
    if not ranked:
        return "No forget gap was measured."
    listed = ", ".join(f"{display_name(m)} {gap:.1f}" for gap, m in ranked)
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
        # From the printed figures, so that a reader who subtracts them finds the same.
        difference = round(theirs, digits) - round(ours.mean, digits)
        advantage = round(difference if lower_is_better else -difference, digits)
        shown = f"{label} ({theirs:.{digits}f})"
        if advantage == 0:
            clauses.append(f"equal to {shown}")
        else:
            clauses.append(f"{'better' if advantage > 0 else 'worse'} than {shown} by {abs(advantage):.{digits}f}")
    value = f"{text(ours, digits)} {unit}".strip()
    return [f"{_name(method)}: {name} {value}" + (f"; {', '.join(clauses)}." if clauses else ".")]


def _test_accuracy(results: Results, method: str) -> list[str]:
    ours = results.mean(method, "test_accuracy").mean
    others = {"gold": "retrain", "the original": "original"}
    clauses = []
    for label, other in others.items():
        theirs = results.mean(other, "test_accuracy").mean
        if ours is not None and theirs is not None:
            side = "above" if ours > theirs else "below"
            clauses.append(f"{abs(ours - theirs):.2f} points {side} {label} ({theirs:.2f})")
    return [f"{_name(method)}: test accuracy {ours:.2f} percent; {', '.join(clauses)}."] if clauses else []


def _predictor(results: Results, method: str) -> list[str]:
    accuracy, floor = (
        results.mean(m, key).mean for m, key in ((method, "predictor_accuracy"), ("floor_majority", "agreement"))
    )
    if accuracy is None:
        return []
    line = f"{_name(method)}: the predictor is right on {accuracy:.1f} percent of the forgotten images"
    if floor is not None:
        margin = round(accuracy - floor, 1)
        side = "the same" if margin == 0 else f"{'better' if margin > 0 else 'worse'} by {abs(margin):.1f}"
        line += f"; calling every image easy is right on {floor:.1f}: {side}"
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

    def mean(of: str, key: str) -> float | None:
        return results.mean(of, key).mean

    gap, original = mean(method, "forget_gap"), mean("original", "forget_gap")
    if gap is None or original is None:
        return []
    gold_gold, cheap = mean("floor_gold_gold", "forget_gap"), mean("floor_count_matched", "forget_gap")
    agreement = mean(method, "agreement")
    floors = [mean(floor, "agreement") for floor in ("floor_majority", "floor_count_matched")]
    knows = agreement is not None and all(f is not None and agreement > f for f in floors)
    if gap >= original:
        said = "does not come nearer to gold's forget accuracy than leaving the model alone"
    elif gold_gold is not None and gap <= gold_gold:
        said = "comes as near to gold's forget accuracy as a second gold model does"
    elif cheap is not None and gap >= cheap:
        said = "comes nearer to gold than the untouched original, but no nearer than relabelling a random share would"
    else:
        said = "comes nearer to gold's forget accuracy than the untouched original"
        said += " and the count-matched floor" if cheap is not None else ""
    sample = (
        "sample by sample it agrees with gold more than the majority and the count-matched floor"
        if knows
        else "sample by sample it shows no knowledge beyond the majority and the count-matched floor"
    )
    measured = agreement is not None and None not in floors
    return [f"In short: {display_name(method)} {said}" + (f"; {sample}." if measured else ".")]


def _name(method: str) -> str:
    return display_name(method).capitalize()
