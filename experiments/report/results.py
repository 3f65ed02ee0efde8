"""From records to figures: means over seeds and classes with their confidence intervals, and paired differences."""

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiments.report.intervals import Estimate, over_images, over_seeds, paired_over_seeds
from experiments.report.samples import Replicates

Record = Mapping[str, Any]
# What a figure is taken over: one class by its index, the mean over classes, or all images of the request at once.
Scope = int | str
MEAN = "mean"
POOLED = "all"
BASELINES = ("original", "retrain", "finetune", "negative_gradient", "random_labeling", "bad_teacher")
TWINS = ("twin", "twin_negative_gradient")
FLOORS = ("floor_gold_gold", "floor_majority", "floor_count_matched")
# A folder may hold several sizes; only records that agree in all of these may share a mean.
SETTING_FIELDS = (
    "variant",
    "dataset",
    "preset",
    "arch",
    "num_train",
    "epochs",
    "augment",
    "requests",
    "num_forget",
    "heldout_source",
    "ratio",
)
# The fields by which an entry of samples.json finds its setting.
SAMPLE_FIELDS = ("variant", "num_forget", "ratio")


@dataclass(frozen=True, eq=False)
class Results:
    """The records of one setting, one for each class, seed and method.

    Attributes:
        records: they agree in all of `SETTING_FIELDS`.
        samples: entries of `samples.json` of this setting; without them one seed has no intervals.
    """

    records: tuple[Record, ...]
    samples: tuple[Record, ...] = ()

    @property
    def setting(self) -> dict[str, Any]:
        """The fields that all records share."""
        return {field: setting_value(self.records[0], field) for field in SETTING_FIELDS}

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

    def for_method(self, method: str) -> "Results":
        """The seeds in which a method was measured: what it is to be compared within, these results where it is all."""
        seeds = {record["seed"] for record in self.records if record["method"] == method}
        if not seeds or seeds == set(self.seeds):
            return self
        return self._of_seeds(frozenset(seeds))

    @cached_property
    def _restricted(self) -> dict[frozenset[int], "Results"]:
        return {}

    def _of_seeds(self, seeds: frozenset[int]) -> "Results":
        if seeds not in self._restricted:
            kept = [[entry for entry in entries if entry["seed"] in seeds] for entries in (self.records, self.samples)]
            self._restricted[seeds] = Results(tuple(kept[0]), tuple(kept[1]))
        return self._restricted[seeds]

    def label(self, method: str) -> str:
        """A method's name as it stands in headings, with its seeds where the run has more."""
        seeds = self.for_method(method).seeds
        name = display_name(method)
        return name if seeds == self.seeds else f"{name} (seed {', '.join(map(str, seeds))} only)"

    @property
    def interval_source(self) -> str | None:
        """What intervals are over: "seeds" where there are several, else "images" where there are samples."""
        return "seeds" if len(self.seeds) > 1 else "images" if self.samples else None

    def of_class(self, target_class: int | str, method: str, key: str) -> Estimate:
        """The figure of one class: mean over seeds."""
        return self.estimate(target_class, method, key)

    def pooled(self, method: str, key: str) -> Estimate:
        """The figure over all forgotten images of the request at once: mean over seeds."""
        return self.estimate(POOLED, method, key)

    def mean(self, method: str, key: str) -> Estimate:
        """The mean over classes, every class counting once, and over seeds.

        Records without a class of their own (a request of any indices) are represented by the pooled row.
        """
        return self.estimate(MEAN, method, key)

    def estimate(self, scope: Scope, method: str, key: str) -> Estimate:
        """A figure with its interval: over seeds where there are several, else over the forgotten images.

        An interval over seeds is given only where all seeds measured the same classes: otherwise it would mix seeds
        with classes.
        """
        scope = self._resolved(scope)
        by_seed = self.by_seed(scope, method, key)
        if len(self.seeds) > 1:
            return over_seeds([*by_seed.values()]) if by_seed else Estimate(self._plain_mean(scope, method, key))
        return over_images(self._plain_mean(scope, method, key), self._replicates(scope, method, key))

    def difference(
        self,
        method: str,
        reference: str,
        key: str,
        scope: Scope = MEAN,
        reference_key: str | None = None,
        other: "Results | None" = None,
    ) -> Estimate:
        """`method` minus `reference`, paired by seed, or in one seed by forgotten image.

        Args:
            method: ours.
            reference: the method or floor to compare with.
            key: the readout.
            scope: of both.
            reference_key: the reference's readout where it is called otherwise.
            other: the setting that `reference` is of, where it is another one. It must have forgotten the same images:
                both draw the same of them at every resample.

        Returns:
            The difference of the two figures, with an interval where both were measured on the same seeds and classes.
        """
        other = other or self
        scope, of_ours, of_theirs = self._resolved(scope), (method, key), (reference, reference_key or key)
        means = [self._plain_mean(scope, *of_ours), other._plain_mean(scope, *of_theirs)]
        if means[0] is None or means[1] is None:
            return Estimate(None)
        plain = Estimate(means[0] - means[1])
        if self._measured(scope, *of_ours) != other._measured(scope, *of_theirs):
            return plain
        if len(self.seeds) > 1:
            by_seed = [self.by_seed(scope, *of_ours), other.by_seed(scope, *of_theirs)]
            return paired_over_seeds(*by_seed) if by_seed[0] and by_seed[1] else plain
        ours, theirs = self._replicates(scope, *of_ours), other._replicates(scope, *of_theirs)
        if ours is None or theirs is None or self._labels() != other._labels():
            return plain
        return over_images(plain.mean, ours - theirs)

    def by_seed(self, scope: Scope, method: str, key: str) -> dict[int, float]:
        """The figure of each seed; for a mean over classes empty unless all seeds measured the same ones."""
        scope = self._resolved(scope)
        if scope != MEAN:
            return self._of(method, scope, key)
        by_class = [values for target in self.class_names if (values := self._of(method, target, key))]
        if not by_class or any(values.keys() != by_class[0].keys() for values in by_class):
            return {}
        return {seed: statistics.fmean(values[seed] for values in by_class) for seed in sorted(by_class[0])}

    def _labels(self) -> list[list[int]]:
        """The classes of the forgotten images of each request: what a resample draws from."""
        return [entry["labels"] for entry in self.samples if entry["method"] == "retrain"]

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

    def _resolved(self, scope: Scope) -> Scope:
        return POOLED if scope == MEAN and not self.class_names else scope

    def _measured(self, scope: Scope, method: str, key: str) -> dict[Scope, set[int]]:
        """The seeds in which the figure is defined, for every class that has any."""
        targets: list[Scope] = list(self.class_names) if scope == MEAN else [scope]
        return {target: {*values} for target in targets if (values := self._of(method, target, key))}

    def _plain_mean(self, scope: Scope, method: str, key: str) -> float | None:
        if scope != MEAN:
            return average(self._of(method, scope, key).values())
        return average(average(self._of(method, target, key).values()) for target in self.class_names)

    @cached_property
    def _resampled(self) -> Replicates | None:
        if self.interval_source != "images":
            return None
        found = {t: self._of("floor_count_matched", t, "forget_accuracy") for t in self.class_names}
        shares = {target: share for target, by_seed in found.items() for share in by_seed.values()}
        return Replicates([entry for entry in self.samples if entry["seed"] == self.seeds[0]], shares)

    def _replicates(self, scope: Scope, method: str, key: str) -> np.ndarray | None:
        if self._resampled is None:
            return None
        if scope == POOLED:
            return self._resampled.pooled(method, key)
        if scope == MEAN:
            classes = [target for target in self._measured(scope, method, key) if isinstance(target, int)]
            return self._resampled.mean(classes, method, key)
        return self._resampled.of_class(int(scope), method, key)


def split_settings(records: Iterable[Record], samples: Sequence[Record] = ()) -> list[Results]:
    """Groups records by setting, in order of first appearance; of two records for one cell the later one counts.

    Args:
        records: lines of `results.jsonl`.
        samples: entries of `samples.json`, each given to the settings of its variant, size and ratio.

    Returns:
        One `Results` for each setting.
    """
    groups: dict[str, dict[tuple[Any, ...], Record]] = {}
    for record in records:
        setting = json.dumps([setting_value(record, field) for field in SETTING_FIELDS])
        groups.setdefault(setting, {})[record["target_class"], record["seed"], record["method"]] = record
    found = []
    for cells in groups.values():
        first = next(iter(cells.values()))
        place = [setting_value(first, field) for field in SAMPLE_FIELDS]
        mine = [entry for entry in samples if [setting_value(entry, field) for field in SAMPLE_FIELDS] == place]
        found.append(Results(tuple(cells.values()), tuple(mine)))
    return found


def setting_value(record: Record, field: str) -> Any:
    """A field of the setting; records from before there were variants are of the default one."""
    value = record.get(field)
    return "default" if field == "variant" and value is None else value


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
