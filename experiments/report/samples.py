"""The answers on every forgotten image: resampled for the intervals of one seed, and held against the records."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.files import Record
from experiments.report.intervals import resampled_means

CELL_FIELDS = ("variant", "num_forget", "ratio", "request", "seed")
"""What tells the entries of one request and arm from those of others."""
# Percentages come from whole images; distances and probabilities are stored with four decimals.
TOLERANCES = {"activation_distance": 1e-4, "predictor_brier": 2e-4}


class Replicates:
    """Bootstrap replicates of every readout that is a mean over forgotten images, all methods on the same images.

    Accuracy, agreement and predictor accuracy are in percent, all else as it is.
    """

    def __init__(self, samples: Sequence[Record], heldout_accuracy: Mapping[int, float]) -> None:
        """Draws the resamples, stratified by class.

        Args:
            samples: entries of `samples.json.gz`, of one setting and one seed.
            heldout_accuracy: percent, of the original on held-out images of a class: the count-matched floor's share.
        """
        self._means: dict[tuple[int, str, str], np.ndarray] = {}
        self._sizes: dict[int, int] = {}
        for labels, rows in _requests(samples):
            for target in np.unique(labels).tolist():
                self._resample(target, rows, labels == target, heldout_accuracy.get(target))

    def mean(self, classes: Sequence[int], method: str, key: str) -> np.ndarray | None:
        """float[resamples] of the mean over classes, each counting once; None unless every class has its own."""
        return self._average([self._of_class(target, method, key) for target in classes])

    def pooled(self, method: str, key: str) -> np.ndarray | None:
        """float[resamples] over all forgotten images at once, each image counting once."""
        if key == "forget_gap":
            return _distance(*(self.pooled(m, "forget_accuracy") for m in (method, "retrain")))
        found = [self._means.get((target, method, key)) for target in self._sizes]
        return self._average(found, [*self._sizes.values()])

    def _of_class(self, target: int, method: str, key: str) -> np.ndarray | None:
        if key == "forget_gap":
            return _distance(*(self._means.get((target, m, "forget_accuracy")) for m in (method, "retrain")))
        return self._means.get((target, method, key))

    def _average(self, found: Sequence[np.ndarray | None], weights: list[int] | None = None) -> np.ndarray | None:
        defined = [replicates for replicates in found if replicates is not None]
        return np.average(defined, axis=0, weights=weights) if defined and len(defined) == len(found) else None

    def _resample(
        self, target: int, rows: Mapping[tuple[str, str], np.ndarray], chosen: np.ndarray, share: float | None
    ) -> None:
        self._sizes[target] = int(chosen.sum())
        # One stream a class: adding classes leaves the others' intervals as they are.
        rng = np.random.default_rng(target)
        means = resampled_means(np.stack([row[chosen] for row in rows.values()]), rng)
        if means is None:
            return
        self._means |= {(target, *row): replicates for row, replicates in zip(rows, means, strict=True)}
        if share is not None:
            gold = self._means[target, "retrain", "forget_accuracy"]
            self._means[target, "floor_count_matched", "forget_accuracy"] = np.full_like(gold, share)
            expected = (share * gold + (100 - share) * (100 - gold)) / 100
            self._means[target, "floor_count_matched", "agreement"] = expected


def disagreements(records: Sequence[Record], samples: Sequence[Record]) -> list[tuple[Record, str, float]]:
    """The records' figures that the answers on the images do not give: one of the two is of another run.

    Args:
        records: lines of `results.jsonl`.
        samples: entries of `samples.json.gz`.

    Returns:
        Record, readout and what the answers give instead, for every figure that differs.
    """
    by_request: dict[tuple[Any, ...], list[Record]] = {}
    for entry in samples:
        by_request.setdefault(cell_of(entry), []).append(entry)
    answers = {cell: next(_requests(entries), None) for cell, entries in by_request.items()}
    found = []
    for record in records:
        if (known := answers.get(cell_of(record))) is None:
            continue
        labels, rows = known
        target = record["target_class"]
        chosen = np.ones(len(labels), bool) if target == "all" else labels == target
        given = {key: float(row[chosen].mean()) for (m, key), row in rows.items() if m == record["method"]}
        if "forget_accuracy" in given:
            gold = float(rows["retrain", "forget_accuracy"][chosen].mean())
            given["forget_gap"] = abs(given["forget_accuracy"] - gold)
        for key, value in given.items():
            ours = record.get(key)
            if ours is not None and not abs(ours - value) <= TOLERANCES.get(key, 1e-6):
                found.append((record, key, value))
    return found


def cell_of(entry: Record) -> tuple[Any, ...]:
    """The arm and request of a record or of an entry of samples or features."""
    return tuple(entry.get(key) for key in CELL_FIELDS)


def _requests(samples: Sequence[Record]) -> Iterator[tuple[np.ndarray, dict[tuple[str, str], np.ndarray]]]:
    """For every request of one seed whose gold model answered: labels int[n], and by method and readout float[n]."""
    requests: dict[str, dict[str, Record]] = {}
    for entry in samples:
        requests.setdefault(entry["request"], {})[entry["method"]] = entry
    for by_method in requests.values():
        if "correct" in by_method.get("retrain", {}):
            labels = np.asarray(by_method["retrain"]["labels"])
            yield labels, _rows(by_method, labels)


def _rows(by_method: Mapping[str, Record], labels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Per image and readout its contribution, float[n], by method and readout, the majority floor included."""
    gold = _flags(by_method["retrain"]["correct"])
    rows = {}
    for method, entry in by_method.items():
        if not np.array_equal(entry["labels"], labels):
            raise ValueError(f"samples: {method} and retrain differ in the labels of request {entry['request']!r}")
        if entry.get("correct") is not None:
            correct = _flags(entry["correct"])
            rows[method, "forget_accuracy"] = 100.0 * correct
            rows[method, "agreement"] = 100.0 * (correct == gold)
        if entry.get("distance") is not None:
            rows[method, "activation_distance"] = np.asarray(entry["distance"], np.float64)
        if entry.get("easy") is not None:
            easy = _flags(entry["easy"])
            rows[method, "predictor_accuracy"] = 100.0 * (easy == gold)
            rows[method, "predicted_hard_share"], rows[method, "hard_share"] = 1.0 - easy, 1.0 - gold
        if entry.get("probability") is not None:
            rows[method, "predictor_brier"] = np.square(np.asarray(entry["probability"], np.float64) - gold)
    rows["floor_majority", "forget_accuracy"] = np.full(len(labels), 100.0)
    rows["floor_majority", "agreement"] = 100.0 * gold
    return rows


def _flags(digits: str) -> np.ndarray:
    return np.array([digit == "1" for digit in digits])


def _distance(ours: np.ndarray | None, gold: np.ndarray | None) -> np.ndarray | None:
    return None if ours is None or gold is None else np.abs(ours - gold)
