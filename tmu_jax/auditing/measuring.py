"""What an audit measures, by running the models: counts and scores as JSON, from which `reading` makes every figure."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.evaluation import metrics
from tmu_jax.training import TrainedModel, predict

FOLDS = 2
NEIGHBOUR_BINS = 4
MOST_NEIGHBOURS = 20_000
_DIGITS = 6


class Seen:
    """One model's logits and embeddings on the sets of a problem, each computed once."""

    def __init__(self, model: TrainedModel, problem: ForgetProblem) -> None:
        self.forget, self.forget_embeddings = predict(model, problem.forget)
        self.heldout, self.heldout_embeddings = predict(model, problem.heldout)
        self.kept, self.kept_embeddings = predict(model, problem.retain)
        self.test, self.test_embeddings = predict(model, problem.test)


def measure(
    problem: ForgetProblem,
    before: Seen,
    after: Seen,
    gold: Seen | None,
    second_gold: Seen | None,
    probability: np.ndarray | None,
    seed: int,
) -> dict[str, Any]:
    """Counts and scores as JSON values; scores are rounded to six digits, and figures are made of the rounded ones.

    Args:
      problem: the request.
      before: of the model that was to forget.
      after: of the model that forgot.
      gold: of a model retrained without D_f.
      second_gold: of another one.
      probability: float[n], of gold being right on each forgotten image, as predicted.
      seed: of the probe's folds.
    """
    models = {"before": before, "after": after} | ({} if gold is None else {"gold": gold})
    labels, heldout_labels = problem.forget.labels, problem.heldout.labels
    forget: dict[str, Any] = {"label": labels.tolist()}
    heldout: dict[str, Any] = {"label": heldout_labels.tolist()}
    for name, seen in models.items():
        forget[f"margin_{name}"] = rounded(metrics.margins(seen.forget, labels))
        forget[f"right_{name}"] = metrics.correct(seen.forget, labels).astype(int).tolist()
        heldout[f"margin_{name}"] = (
            rounded(metrics.margins(seen.heldout, heldout_labels)) if len(heldout_labels) else []
        )
        heldout[f"right_{name}"] = _right(seen.heldout, heldout_labels).astype(int).tolist()
    _probe(models, labels, heldout_labels, forget, heldout, seed)
    if probability is not None:
        forget["probability"] = rounded(probability)
    if gold is not None:
        forget["distance_before"] = rounded(metrics.activation_distances(before.forget, gold.forget))
        forget["distance_after"] = rounded(metrics.activation_distances(after.forget, gold.forget))
        if second_gold is not None:
            forget["distance_second"] = rounded(metrics.activation_distances(second_gold.forget, gold.forget))
            forget["right_second"] = metrics.correct(second_gold.forget, labels).astype(int).tolist()
    # Of a class that was forgotten whole gold gets nothing right: its test images tell nothing of what was lost.
    stays = ~np.isin(problem.test.labels, problem.whole_classes)
    test_labels = problem.test.labels[stays]
    return {
        "forget": forget,
        "heldout": heldout,
        "kept": {name: _count(seen.kept, problem.retain.labels) for name, seen in models.items()},
        "test": {name: _count(seen.test[stays], test_labels) for name, seen in models.items()},
        "most_frequent": int(np.bincount(test_labels, minlength=1).max()),
        "neighbours": _neighbours(problem, before, after),
    }


def rounded(values: np.ndarray) -> list[float]:
    """Floats of six significant digits."""
    return [float(f"{value:.{_DIGITS}g}") for value in np.asarray(values, np.float64)]


def _right(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return metrics.correct(logits, labels) if len(labels) else np.zeros(0, bool)


def _count(logits: np.ndarray, labels: np.ndarray) -> list[int]:
    """How many of how many are right."""
    return [int(_right(logits, labels).sum()), len(labels)]


def _probe(
    models: Mapping[str, Seen],
    labels: np.ndarray,
    heldout_labels: np.ndarray,
    forget: dict[str, Any],
    heldout: dict[str, Any],
    seed: int,
) -> None:
    """Adds each image's fold, and its score by a logistic regression on the embeddings that was fitted without it.

    How many of each class there are can help it, and does not count: scores are compared within classes. Two folds,
    since what chance makes of each is known, and of their mean only that it is no more. Without enough images there is
    no probe.
    """
    shared = np.intersect1d(labels, heldout_labels)
    own, others = np.isin(labels, shared), np.isin(heldout_labels, shared)
    folds = min(FOLDS, int(own.sum()), int(others.sum()))
    if folds < 2:
        return
    forgotten = np.repeat([1, 0], [int(own.sum()), int(others.sum())])
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    fold = np.zeros(len(forgotten), int)
    for number, (_, test) in enumerate(splitter.split(forgotten, forgotten)):
        fold[test] = number
    for name, seen in models.items():
        embeddings = np.concatenate([seen.forget_embeddings[own], seen.heldout_embeddings[others]]).astype(np.float64)
        embeddings = embeddings.reshape(len(embeddings), -1)
        scores = np.zeros(len(forgotten))
        for number in range(folds):
            train = fold != number
            probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
            probe.fit(embeddings[train], forgotten[train])
            scores[~train] = probe.decision_function(embeddings[~train])
        forget[f"probe_{name}"] = _spread(rounded(scores[forgotten == 1]), own)
        heldout[f"probe_{name}"] = _spread(rounded(scores[forgotten == 0]), others)
    forget["fold"] = _spread(fold[forgotten == 1].tolist(), own)
    heldout["fold"] = _spread(fold[forgotten == 0].tolist(), others)


def _spread(values: Sequence[Any], chosen: np.ndarray) -> list[Any]:
    """Values at the places that are chosen, None elsewhere."""
    found: list[Any] = [None] * len(chosen)
    for place, value in zip(np.flatnonzero(chosen), values, strict=True):
        found[place] = value
    return found


def _neighbours(problem: ForgetProblem, before: Seen, after: Seen) -> list[dict[str, Any]]:
    """Right answers on kept and on test images, by how near to a forgotten image they lie.

    The distance is Euclidean, in the embedding of the model before. Bins hold equally many kept images. Of large sets
    `MOST_NEIGHBOURS` images are taken, evenly spaced.
    """
    found = []
    edges: np.ndarray | None = None
    for name, split in (("kept", problem.retain), ("test", problem.test)):
        chosen = np.unique(np.linspace(0, len(split) - 1, min(len(split), MOST_NEIGHBOURS)).astype(int))
        distances = _distances(getattr(before, f"{name}_embeddings")[chosen], before.forget_embeddings)
        if edges is None:
            edges = np.quantile(distances, np.linspace(0, 1, NEIGHBOUR_BINS + 1)[1:-1])
        place = np.searchsorted(edges, distances, side="right")
        found.append([_bin(name, split, chosen[place == b], before, after) for b in range(NEIGHBOUR_BINS)])
    assert edges is not None
    ends = rounded(edges)
    return [
        {"from": 0.0 if b == 0 else ends[b - 1], "to": None if b == NEIGHBOUR_BINS - 1 else ends[b], **kept, **test}
        for b, (kept, test) in enumerate(zip(*found, strict=True))
    ]


def _distances(points: np.ndarray, bank: np.ndarray) -> np.ndarray:
    flat = (part.astype(np.float64).reshape(len(part), -1) for part in (points, bank))
    return pairwise_distances_argmin_min(*flat)[1]


def _bin(name: str, split: Split, rows: np.ndarray, before: Seen, after: Seen) -> dict[str, list[int]]:
    labels = split.labels[rows]
    return {
        f"{name}_{when}": _count(getattr(seen, name)[rows], labels)
        for when, seen in (("before", before), ("after", after))
    }
