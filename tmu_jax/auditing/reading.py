"""From counts and scores to figures and checks: a pure function, which whoever has the evidence can repeat."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from tmu_jax import statistics
from tmu_jax.statistics import Interval, Separation

LEVEL = 0.05
"""Probability that a model which never saw the images fails a statistical check, shared among them equally."""

Status = Literal["passed", "failed", "cannot tell"]
Outcome = Literal["passed", "failed", "nothing shown"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One question that an audit answers.

    Attributes:
      name: a short name.
      status: "cannot tell" where the answer would be the same of the untouched model, or there is nothing to compare.
      value: what was found.
      low: the bound below which it fails; None: there is none.
      high: the bound above which it fails.
      unit: of the three.
      sentence: all of it in words.
    """

    name: str
    status: Status
    value: float
    low: float | None
    high: float | None
    unit: str
    sentence: str


def read(measured: Mapping[str, Any], about: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Check, ...], Outcome]:
    """All figures and checks.

    Args:
      measured: from `measuring.measure`.
      about: what is known without running a model: "asked", "forgotten", "missing" and "extra" (images; None where the
        model does not know), "changed", "copies" (by kind), "alike" (whether D_f is drawn like held-out images) and
        "unseen" (whether those were kept from the model); None where it cannot be told.

    Returns:
      (figures, checks, outcome): "failed" where a check failed; else "passed" where the check of membership or the one
      beside gold was passed, so that an untouched model would have failed; else "nothing shown".
    """
    names = [name.removeprefix("margin_") for name in measured["forget"] if name.startswith("margin_")]
    figures = {
        "accuracy": _accuracies(measured, names),
        "still_right": _still_right(measured["forget"]),
        "membership": {name: _membership(measured, name) for name in names},
        "probe": {name: _plain(_separation(measured, f"probe_{name}")) for name in names},
        "neighbours": [_neighbours(one) for one in measured["neighbours"]],
        "gold": _beside_gold(measured["forget"]),
    }
    gold = "distance_after" in measured["forget"]
    tail = LEVEL / (5 if gold else 4)
    void = _void(about)
    checks = [
        _rows(about),
        _changed(about),
        _copies(about),
        _told_apart(measured, "margin", "membership", tail, void),
        _told_apart(measured, "right", "accuracy", tail, void),
        _told_apart(measured, "probe", "probe", tail, void),
        _use(measured, tail),
        *([_nearer_to_gold(measured["forget"], tail)] if gold else []),
    ]
    return figures, tuple(checks), outcome_of(checks)


def outcome_of(checks: list[Check]) -> Outcome:
    """What the checks come to."""
    if any(check.status == "failed" for check in checks):
        return "failed"
    shown = any(check.status == "passed" for check in checks if check.name in ("membership", "gold"))
    return "passed" if shown else "nothing shown"


def _accuracies(measured: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in ("forget", "heldout"):
        found[part] = {
            name: _proportion(sum(measured[part][f"right_{name}"]), len(measured[part]["label"])) for name in names
        }
    for part in ("kept", "test"):
        found[part] = {name: _proportion(*measured[part][name]) for name in names}
    return found


def _proportion(right: int, of: int) -> dict[str, Any]:
    return {"right": right, "of": of, **statistics.proportion(right, of)._asdict()}


def _still_right(forget: Mapping[str, Any]) -> dict[str, Any]:
    """How many are still right, and of how many of those, and of all, that was predicted of a retrained model."""
    right = np.array(forget["right_after"], bool)
    found: dict[str, Any] = {"count": int(right.sum()), "of": len(right)}
    if "probability" in forget:
        probability = np.array(forget["probability"])
        expected = 100 * float(probability.mean())
        error = 100 * float(np.sqrt(np.sum(probability * (1 - probability)))) / len(probability)
        half = statistics.quantile(0.975) * error
        found |= {
            "predicted_right": int(np.sum(right & (probability >= 0.5))),
            "predicted_right_of_all": int(np.sum(probability >= 0.5)),
            "expected": Interval(expected, max(0.0, expected - half), min(100.0, expected + half))._asdict(),
        }
    return found


def _membership(measured: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    separated = _plain(_separation(measured, f"margin_{name}"))
    forget, heldout = measured["forget"], measured["heldout"]
    found = statistics.detected(forget[f"margin_{name}"], heldout[f"margin_{name}"], forget["label"], heldout["label"])
    if separated is None or found is None:
        return None
    return {**separated, "found": found.rate._asdict(), "false_rate": found.false_rate}


def _separation(measured: Mapping[str, Any], score: str) -> Separation | None:
    """How well a score separates, within classes; scores of a probe also within folds, each with a probe of its own."""
    forget, heldout = measured["forget"], measured["heldout"]
    if score not in forget:
        return None
    folds = sorted({fold for fold in forget["fold"] if fold is not None}) if score.startswith("probe_") else [None]
    found = []
    for fold in folds:
        parts = []
        for part in (forget, heldout):
            rows = range(len(part["label"]))
            chosen = [row for row in rows if fold is None or part["fold"][row] == fold]
            parts.append(([part[score][row] for row in chosen], [part["label"][row] for row in chosen]))
        (own, own_classes), (others, other_classes) = parts
        found.append(statistics.separation(own, others, own_classes, other_classes))
    return statistics.together([one for one in found if one is not None])


def _plain(separated: Separation | None) -> dict[str, Any] | None:
    return None if separated is None else {**separated._asdict(), "auc": separated.auc._asdict()}


def _neighbours(one: Mapping[str, Any]) -> dict[str, Any]:
    counts = {name: _proportion(*value) for name, value in one.items() if name not in ("from", "to")}
    return {"from": one["from"], "to": one["to"], **counts}


def _beside_gold(forget: Mapping[str, Any]) -> dict[str, Any] | None:
    """Agreement, gap and distance to gold, of the model and of what it lies between: untouched, a second gold."""
    if "distance_after" not in forget:
        return None
    gold = np.array(forget["right_gold"], bool)
    found = {}
    for name in ("before", "after", "second"):
        if f"distance_{name}" in forget:
            right = np.array(forget[f"right_{name}"], bool)
            found[name] = {
                "agreement": _proportion(int(np.sum(right == gold)), len(gold)),
                "gap": abs(100 * float(right.mean() - gold.mean())),
                "distance": statistics.mean(forget[f"distance_{name}"])._asdict(),
            }
    return found


def _rows(about: Mapping[str, Any]) -> Check:
    asked, missing, extra = about["asked"], about["missing"], about["extra"]
    if missing is None:
        sentence = f"{asked} images were asked for; the model does not say which images it forgot."
        return Check("rows", "cannot tell", 0.0, None, 0.0, "images", sentence)
    wrong = missing + extra
    sentence = f"{about['forgotten']} images were forgotten, {asked} were asked for" + (
        ", and they are the same." if not wrong else f": {missing} are missing, {extra} were not asked for."
    )
    return Check("rows", "failed" if wrong else "passed", float(wrong), None, 0.0, "images", sentence)


def _changed(about: Mapping[str, Any]) -> Check:
    changed = bool(about["changed"])
    sentence = "The model's weights are " + ("other ones than before." if changed else "what they were before.")
    return Check("changed", "passed" if changed else "failed", float(changed), 1.0, None, "", sentence)


def _copies(about: Mapping[str, Any]) -> Check:
    counts = {kind: count for kind, count in about["copies"].items() if count}
    exact = sum(count for kind, count in counts.items() if not kind.startswith("near"))
    words = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    sentence = f"Copies that stay among the training images: {words or 'none'}." + (
        " What they show is not forgotten." if exact else " A person should look at them." if counts else ""
    )
    return Check("copies", "failed" if exact else "passed", float(exact), None, 0.0, "copies", sentence)


_WORDS = {
    "membership": "the model's certainty (margin)",
    "accuracy": "being right or wrong",
    "probe": "a linear probe of the embedding",
}


def _void(about: Mapping[str, Any]) -> str:
    """Why held-out images tell nothing here; empty where they do."""
    if about["alike"] is False:
        return " Here that tells nothing: the request is no random draw of its classes."
    if about["unseen"] is False:
        return " Here that tells nothing: the model was trained on the held-out images, too."
    return ""


def _told_apart(measured: Mapping[str, Any], score: str, name: str, tail: float, void: str) -> Check:
    """Whether a score tells forgotten from held-out images more than chance, and would have told them before.

    Membership and accuracy fail in either direction: a model that answers forgotten images worse than any that it never
    saw betrays them too. A probe has no direction.
    """
    two_sided = name != "probe"
    width = statistics.quantile(1 - tail / (2 if two_sided else 1))
    after, before = (_separation(measured, f"{score}_{when}") for when in ("after", "before"))
    if after is None or before is None:
        sentence = f"There are too few held-out images of the forgotten classes to try {_WORDS[name]}."
        return Check(name, "cannot tell", 50.0, None, None, "AUC, %", sentence)
    low, high = max(0.0, 50 - width * after.chance), min(100.0, 50 + width * after.chance)
    value = after.auc.value
    told = (
        f"By {_WORDS[name]} forgotten images are told from unseen ones of their class with AUC {value:.1f} (before: "
        f"{before.auc.value:.1f}); a model that never saw either comes to "
        + (f"{low:.1f} to {high:.1f}." if two_sided else f"at most {high:.1f}.")
    )
    status: Status = "passed"
    if void:
        status, told = "cannot tell", told + void
    elif value > high or (two_sided and value < low):
        status = "failed"
        told += " It still knows them." if value > high else " It knows them less than images it never saw."
    elif before.auc.value <= 50 + width * before.chance:
        status, told = "cannot tell", f"{told} Nor could the untouched model be told, so it shows nothing."
    return Check(name, status, value, low if two_sided else None, high, "AUC, %", told)


def _use(measured: Mapping[str, Any], tail: float) -> Check:
    """Whether the model is still of use: no worse on test images than a retrained one, beyond what the draw of the test
    images makes of equal models; without one to compare with, better than the most frequent class named always.

    Fewer images cost a retraining accuracy too, and how much is not known without one.
    """
    test = measured["test"]
    right, of = test["after"]
    if not of:
        return Check("use", "cannot tell", 0.0, None, None, "%", "There are no test images to try the model on.")
    width, after = statistics.quantile(1 - tail), right / of
    told = f"On test images the model is right on {100 * after:.1f} % (before: {100 * test['before'][0] / of:.1f} %)"
    if "gold" in test:
        other, name = test["gold"][0] / of, "a retrained model"
        spread = after * (1 - after) + other * (1 - other)
    else:
        other, name = measured["most_frequent"] / of, "naming the most frequent class always"
        spread = other * (1 - other)
    error = width * float(np.sqrt(spread / of))
    low = 100 * (other - error if "gold" in test else other + error)
    status: Status = "passed" if 100 * after > low or (after == other and "gold" in test) else "failed"
    sentence = f"{told}; {name} comes to {100 * other:.1f} %, so that {low:.1f} % is the bound."
    return Check("use", status, 100 * after, low, None, "%", sentence)


def _nearer_to_gold(forget: Mapping[str, Any], tail: float) -> Check:
    """Whether the forgotten images' outputs lie nearer to gold's than the untouched model's do, image by image."""
    change = np.array(forget["distance_after"]) - np.array(forget["distance_before"])
    error = float(change.std(ddof=1)) / np.sqrt(len(change)) if len(change) > 1 else float("inf")
    value = float(change.mean())
    # An unchanged model has no spread either.
    end = value + (statistics.quantile(1 - tail) * float(error) if change.any() else 0.0)
    status: Status = "passed" if end < 0 else "failed" if value >= 0 else "cannot tell"
    means = [float(np.mean(forget[f"distance_{when}"])) for when in ("after", "before")]
    sentence = (
        f"On the forgotten images the outputs lie {means[0]:.3f} from a retrained model's (before: {means[1]:.3f}); "
        + ("nearer than before, beyond chance." if end < 0 else "that is not nearer beyond chance.")
    )
    high = value - end if np.isfinite(end) else None
    return Check("gold", status, value, None, high, "activation distance", sentence)
