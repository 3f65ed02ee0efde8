"""What the numbers say, in at most five sentences computed from them; the first stands alone at the top."""

from collections.abc import Sequence

from experiments.report.files import Record
from experiments.report.formats import BETTER, NOT_SHOWN, display_name, finding, text
from experiments.report.results import COUNT_MATCHED, GOLD, GOLD_GOLD, MAJORITY, ORIGINAL, Results
from experiments.report.samples import cell_of

LEARNT_NOTHING = "learnt nothing, so no figure here says anything"
"""In the notes of records where a gold or an original model is no better than one class for all."""

REFERENCES = {
    ORIGINAL: "the untouched original",
    GOLD: "gold",
    GOLD_GOLD: "a second gold model",
    MAJORITY: "calling all easy",
    COUNT_MATCHED: "calling a random share easy",
}


def verdict(results: Results) -> list[str]:
    """Sentences on the method that comes nearest to gold's forget accuracy, and on who is better in other readouts.

    Where a paired interval is known, better and worse are said only of differences whose interval leaves out 0.

    Args:
        results: the records of one setting.

    Returns:
        One to five sentences, without markup.
    """
    methods = _ranked(results, "forget_gap")
    if not methods:
        return ["No forget gap was measured."]
    best = methods[0]
    results, name = results.for_method(best), results.label(best)
    among = "" if len(methods) == 1 else f"Of {len(methods)} methods "
    start = f"{among}{name} comes nearest to gold's forget accuracy" if among else f"{name} against gold"
    gap = _clauses(results, best, "forget_gap", (ORIGINAL, GOLD_GOLD, COUNT_MATCHED))
    lines = [f"{start}: a gap of {text(results.mean(best, 'forget_gap'))} points, {gap}"]
    for key, said in {
        "agreement": "Image by image it agrees with gold on {} percent of the forgotten images, {}",
        "activation_distance": "Its outputs lie {} from gold's, {}",
    }.items():
        if results.mean(best, key).mean is not None:
            clauses = _clauses(results, best, key, (ORIGINAL, GOLD_GOLD, MAJORITY, COUNT_MATCHED))
            line, first = said.format(text(results.mean(best, key), key), clauses), _ranked(results, key)[0]
            value, most = (text(results.mean(m, key), key, False) for m in (best, first))
            line += f"; best of all in this is {display_name(first)} ({most})" if value != most else ""
            lines.append(line)
    lines += _predictor(results, best) + _price(results, best)
    return [f"{line[0].upper()}{line[1:]}." for line in lines]


def warning(records: Sequence[Record]) -> str:
    """What is to be known before any figure is read: how many requests have a model at chance; empty where none has."""
    void = {cell_of(r) for r in records if any(LEARNT_NOTHING in str(note) for note in r.get("notes") or [])}
    if not void:
        return ""
    of_all = len({cell_of(record) for record in records})
    return f"The gold or original model is at chance in {len(void)} of {of_all} requests: their figures say nothing."


def _ranked(results: Results, key: str) -> list[str]:
    """The methods that were measured, nearest to gold first; those in all seeds alone where there are any."""
    known = [m for m in results.methods if m not in (ORIGINAL, GOLD) and results.mean(m, key).mean is not None]
    known = [m for m in known if results.for_method(m) is results] or known
    sign = -1.0 if key == "agreement" else 1.0
    return sorted(known, key=lambda m: sign * (results.mean(m, key).mean or 0.0))


def _clauses(results: Results, method: str, key: str, references: tuple[str, ...], reference_key: str = "") -> str:
    """`better than X (21.5), no difference shown from Y (4.0)`: against every reference that was measured."""
    ours, found = results.mean(method, key), dict[str, list[str]]()
    for reference in references:
        theirs = results.mean(reference, reference_key or key)
        difference = results.difference(method, reference, key, reference_key=reference_key or key)
        if ours.mean is None or theirs.mean is None:
            continue
        known = finding(difference, key)
        if known is None and text(ours, key, False) == text(theirs, key, False):
            known = "equal"
        # Without an interval nothing is shown: the figures are only told apart.
        said = known or ("higher" if ours.mean > theirs.mean else "lower")
        word = {NOT_SHOWN: f"{NOT_SHOWN} from", "equal": "equal to"}.get(said, f"{said} than")
        found.setdefault(word, []).append(f"{REFERENCES[reference]} ({text(theirs, key, False)})")
    order = sorted(found, key=lambda word: not word.startswith(BETTER))
    return ", ".join(f"{word} {_listed(found[word])}" for word in order) or "with nothing to compare it with"


def _predictor(results: Results, method: str) -> list[str]:
    predicting = method if method in results.predicting else next(iter(results.predicting), None)
    if predicting is None or results.mean(predicting, "predictor_accuracy").mean is None:
        return []
    accuracy, auc = (text(results.mean(predicting, f"predictor_{key}")) for key in ("accuracy", "auc"))
    clauses = _clauses(results, predicting, "predictor_accuracy", (GOLD_GOLD, MAJORITY), "agreement")
    return [f"{display_name(predicting)} predicts gold right on {accuracy} percent of them (AUC {auc}), {clauses}"]


def _price(results: Results, method: str) -> list[str]:
    accuracy, seconds, share, amortised = (
        results.mean(method, key)
        for key in ("test_accuracy", "seconds", "retraining_share", "retraining_share_amortised")
    )
    line = ""
    if accuracy.mean is not None:
        line = f"{display_name(method)}'s test accuracy is {text(accuracy, 'test_accuracy')}, "
        line += _clauses(results, method, "test_accuracy", (GOLD, ORIGINAL))
    if seconds.mean is not None:
        line += f"{'; a' if line else 'A'} request takes {text(seconds)} s"
        line += f", {text(share, 'share')} percent of retraining" if share.mean is not None else ""
        divided = text(amortised, "share", False)
        if amortised.mean is not None and divided != text(share, "share", False):
            line += f" ({divided} with shared stages divided among their users)"
    return [line] if line else []


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
