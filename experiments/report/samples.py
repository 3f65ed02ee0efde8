"""The answers on every forgotten image, `samples.json`, resampled class by class for the intervals of one seed."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.report.intervals import resampled_means

IDENTITY = ("request", "seed", "method", "labels")


class Replicates:
    """Bootstrap replicates of every readout that is a mean over forgotten images, all methods on the same images.

    Accuracy, agreement and predictor accuracy are in percent, the activation distance as it is.
    """

    def __init__(self, samples: Sequence[Mapping[str, Any]], heldout_accuracy: Mapping[int, float]) -> None:
        """Draws the resamples, stratified by class.

        Args:
            samples: entries of `samples.json`, of one setting and one seed.
            heldout_accuracy: percent, of the original on held-out images of a class: the count-matched floor's share.
        """
        self._means: dict[tuple[int, str, str], np.ndarray] = {}
        self._sizes: dict[int, int] = {}
        requests: dict[str, dict[str, Mapping[str, Any]]] = {}
        for entry in samples:
            requests.setdefault(entry["request"], {})[entry["method"]] = entry
        for by_method in requests.values():
            if "correct" not in by_method.get("retrain", {}):
                continue
            labels = np.asarray(by_method["retrain"]["labels"])
            rows = _rows(by_method, labels)
            for target in np.unique(labels).tolist():
                self._resample(target, rows, labels == target, heldout_accuracy.get(target))

    @property
    def classes(self) -> list[int]:
        return sorted(self._sizes)

    def of_class(self, target: int, method: str, key: str) -> np.ndarray | None:
        """The replicates of one class, float[resamples]; None where the images say nothing about the figure."""
        if key != "forget_gap":
            return self._means.get((target, method, key))
        ours, gold = (self._means.get((target, m, "forget_accuracy")) for m in (method, "retrain"))
        return None if ours is None or gold is None else np.abs(ours - gold)

    def mean(self, classes: Sequence[int], method: str, key: str) -> np.ndarray | None:
        """The replicates of the mean over classes, each counting once; None unless every class has its own."""
        found = [self.of_class(target, method, key) for target in classes]
        defined = [replicates for replicates in found if replicates is not None]
        return np.mean(defined, axis=0) if defined and len(defined) == len(found) else None

    def pooled(self, method: str, key: str) -> np.ndarray | None:
        """The replicates over all forgotten images at once, each image counting once."""
        if key == "forget_gap":
            ours, gold = (self.pooled(m, "forget_accuracy") for m in (method, "retrain"))
            return None if ours is None or gold is None else np.abs(ours - gold)
        found = [self._means.get((target, method, key)) for target in self.classes]
        defined = [replicates for replicates in found if replicates is not None]
        if not defined or len(defined) < len(found):
            return None
        return np.average(defined, axis=0, weights=[self._sizes[target] for target in self.classes])

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


def read_samples(output: pathlib.Path) -> list[dict[str, Any]]:
    """Reads `samples.json` in a run's folder; a folder without it gives no samples, and so no intervals over images.

    Raises:
        ValueError: it is not a list of entries with `request`, `seed`, `method` and `labels`, or an entry has fewer
            or more answers of a kind than labels.
    """
    path = output / "samples.json"
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"samples.json is not JSON ({error}); remove the file to report without it") from error
    for number, entry in enumerate(entries):
        missing = [key for key in IDENTITY if not isinstance(entry, dict) or key not in entry]
        if missing:
            raise ValueError(f"samples.json, entry {number}: an entry needs {', '.join(missing)}")
        for key in ("correct", "distance", "easy"):
            given, due = len(entry.get(key) or entry["labels"]), len(entry["labels"])
            if given != due:
                raise ValueError(f"samples.json, entry {number}: {key} has {given} answers for {due} labels")
    return entries


def _rows(by_method: Mapping[str, Mapping[str, Any]], labels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Per image and readout its contribution, float[n], by method and readout, the majority floor included."""
    gold = _flags(by_method["retrain"]["correct"])
    rows = {}
    for method, entry in by_method.items():
        if not np.array_equal(entry["labels"], labels):
            raise ValueError(f"samples.json: {method} and retrain differ in the labels of request {entry['request']!r}")
        if entry.get("correct") is not None:
            correct = _flags(entry["correct"])
            rows[method, "forget_accuracy"] = 100.0 * correct
            rows[method, "agreement"] = 100.0 * (correct == gold)
        if entry.get("distance") is not None:
            rows[method, "activation_distance"] = np.asarray(entry["distance"], np.float64)
        if entry.get("easy") is not None:
            rows[method, "predictor_accuracy"] = 100.0 * (_flags(entry["easy"]) == gold)
    rows["floor_majority", "forget_accuracy"] = np.full(len(labels), 100.0)
    rows["floor_majority", "agreement"] = 100.0 * gold
    return rows


def _flags(digits: str) -> np.ndarray:
    return np.array([digit == "1" for digit in digits])
