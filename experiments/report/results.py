"""From records to figures: means over seeds and classes with their intervals, and paired differences."""

import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.report.figures import Figures
from experiments.report.files import Record, read_config, read_records, read_samples
from experiments.report.formats import display_name
from experiments.report.intervals import Estimate, over_images, over_seeds
from experiments.report.samples import Replicates

if TYPE_CHECKING:
    import pandas as pd

# What a figure is taken over: one class by its index, the mean over classes, or all images of the request at once.
Scope = int | str
MEAN = "mean"
POOLED = "all"
ORIGINAL, GOLD = "original", "retrain"
"""The two models that everything is compared with; all other methods are what the records say."""
GOLD_GOLD, MAJORITY, COUNT_MATCHED = "floor_gold_gold", "floor_majority", "floor_count_matched"
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
# The fields by which an entry of samples.json.gz finds its setting.
SAMPLE_FIELDS = ("variant", "num_forget", "ratio")


@dataclass(frozen=True, eq=False)
class Results:
    """The records of one setting, one for each class, seed and method.

    Attributes:
        records: they agree in all of `SETTING_FIELDS`.
        samples: entries of `samples.json.gz` of this setting; without them one seed has no intervals.
        runs: the commands that made the records, by the name that each record gives under `run`.
    """

    records: tuple[Record, ...]
    samples: tuple[Record, ...] = ()
    runs: Mapping[str, Record] = field(default_factory=dict)

    @property
    def setting(self) -> dict[str, Any]:
        """The fields that all records share."""
        return {name: setting_value(self.records[0], name) for name in SETTING_FIELDS}

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
        """All methods but the floors, in the order of the records."""
        return [m for m in dict.fromkeys(r["method"] for r in self.records) if not m.startswith("floor_")]

    @cached_property
    def floors(self) -> list[str]:
        return [m for m in dict.fromkeys(r["method"] for r in self.records) if m.startswith("floor_")]

    @cached_property
    def predicting(self) -> list[str]:
        """The methods that predict labels first: those whose records tell how good their predictor is."""
        keys = ("predictor_accuracy", "heldout_predictor_accuracy")
        return [m for m in self.methods if any(self.mean(m, key).mean is not None for key in keys)]

    @property
    def has_pooled(self) -> bool:
        return any(r["target_class"] == POOLED for r in self.records)

    def for_method(self, method: str) -> "Results":
        """The seeds in which a method was measured: what it is to be compared within, these results where it is all."""
        seeds = frozenset(record["seed"] for record in self.records if record["method"] == method)
        if not seeds or seeds == set(self.seeds):
            return self
        if seeds not in self._restricted:
            kept = [[entry for entry in entries if entry["seed"] in seeds] for entries in (self.records, self.samples)]
            self._restricted[seeds] = Results(tuple(kept[0]), tuple(kept[1]), self.runs)
        return self._restricted[seeds]

    @cached_property
    def _restricted(self) -> dict[frozenset[int], "Results"]:
        return {}

    def label(self, method: str) -> str:
        """A method's name as it stands in headings, with its seeds where the run has more."""
        seeds = self.for_method(method).seeds
        name = display_name(method)
        return name if seeds == self.seeds else f"{name} (seed {', '.join(map(str, seeds))})"

    @property
    def interval_source(self) -> str | None:
        """What intervals are over: "seeds" where there are several, else "images" where there are samples."""
        return "seeds" if len(self.seeds) > 1 else "images" if self.samples else None

    def mean(self, method: str, key: str) -> Estimate:
        """The mean over classes, every class counting once, and over seeds."""
        return self.estimate(MEAN, method, key)

    def estimate(self, scope: Scope, method: str, key: str) -> Estimate:
        """A figure with its interval: over seeds where there are several, else over the forgotten images.

        An interval over seeds is given only where all seeds measured the same classes: otherwise it would mix seeds
        with classes. A request without classes of its own (any indices) is represented by its pooled row.

        Args:
            scope: a class, `MEAN` or `POOLED`.
            method: a method or floor.
            key: the readout; `a/b` reaches the entry b of the dict under a.
        """
        found = self.figures(scope, method, key)
        if len(self.seeds) > 1:
            return over_seeds(found.by_seed) if found.is_whole else Estimate(found.mean)
        return over_images(found.mean, self._replicates(scope, method, key))

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
        other, theirs_key = other or self, reference_key or key
        ours, theirs = self.figures(scope, method, key), other.figures(scope, reference, theirs_key)
        if ours.mean is None or theirs.mean is None:
            return Estimate(None)
        plain = Estimate(ours.mean - theirs.mean)
        if not ours.is_measured_as(theirs):
            return plain
        if len(self.seeds) > 1:
            # What a seed does to both cancels, so the interval is narrower than one from two separate intervals.
            return (
                over_seeds([mine - other for mine, other in zip(ours.by_seed, theirs.by_seed, strict=True)])
                if ours.is_whole
                else plain
            )
        drawn, drawn_too = self._replicates(scope, method, key), other._replicates(scope, reference, theirs_key)
        if drawn is None or drawn_too is None or self._labels() != other._labels():
            return plain
        return over_images(plain.mean, drawn - drawn_too)

    def figures(self, scope: Scope, method: str, key: str) -> Figures:
        """What a figure is a mean over; arguments as for `estimate`."""
        if key not in self._tables:
            found = self._frame.reindex(columns=[key])[key]
            self._tables[key] = found.astype(float).unstack("target_class")
        table, rows = self._tables[key], self._rows.get(method, [])
        targets = [*self.class_names] if scope == MEAN and self.class_names else [POOLED if scope == MEAN else scope]
        columns = [table.columns.get_loc(str(target)) for target in targets if str(target) in table.columns]
        values = table.to_numpy()[np.ix_(rows, columns)]
        known = ~np.isnan(values)
        seeds, classes = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
        return Figures(
            [int(table.index[rows[i]][1]) for i in seeds],
            [str(table.columns[columns[i]]) for i in classes],
            values[np.ix_(seeds, classes)],
        )

    @cached_property
    def _rows(self) -> dict[str, list[int]]:
        """The rows of a method in a table of `_tables`."""
        cells = sorted({(number, seed) for number, seed, _ in self._frame.index})
        return {m: [i for i, (n, _) in enumerate(cells) if n == number] for m, number in self._numbers.items()}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {method: number for number, method in enumerate((*self.methods, *self.floors))}

    @cached_property
    def _frame(self) -> "pd.DataFrame":
        """The records' numbers, a record a row, by method (its number), seed and class (as text)."""
        # Imported where it is used: a command that only prints its help does not wait for it.
        import pandas as pd

        # Names stay outside: pandas cannot hold every text that JSON can.
        rows = [{k: v for k, v in record.items() if not isinstance(v, str | list)} for record in self.records]
        cells = [(self._numbers[r["method"]], r["seed"], str(r["target_class"])) for r in self.records]
        index = pd.MultiIndex.from_tuples(cells, names=["method", "seed", "target_class"])
        return pd.json_normalize(rows, sep="/").set_index(index)

    @cached_property
    def _tables(self) -> dict[str, "pd.DataFrame"]:
        """By readout float[method and seed, class]."""
        return {}

    def _labels(self) -> list[list[int]]:
        """The classes of the forgotten images of each request: what a resample draws from."""
        return [entry["labels"] for entry in self.samples if entry["method"] == GOLD]

    @cached_property
    def _resampled(self) -> Replicates | None:
        if self.interval_source != "images":
            return None
        _, classes, shares = self.figures(MEAN, COUNT_MATCHED, "forget_accuracy")
        entries = [entry for entry in self.samples if entry["seed"] == self.seeds[0]]
        return Replicates(
            entries,
            {
                int(c): float(share)
                for c, share in zip(classes, shares[0] if len(shares) else (), strict=True)
                if c != POOLED
            },
        )

    def _replicates(self, scope: Scope, method: str, key: str) -> np.ndarray | None:
        if self._resampled is None:
            return None
        if scope == POOLED or not self.class_names:
            return self._resampled.pooled(method, key)
        return self._resampled.mean([int(c) for c in self.figures(scope, method, key).classes], method, key)


def load_results(output: pathlib.Path) -> list[Results]:
    """The figures of an output folder, setting by setting.

    Raises:
        FileNotFoundError: `config.json` or `results.jsonl` is not there.
        ValueError: a file is broken, holds no record, or a record names a run that `config.json` does not have.
    """
    records, runs = read_records(output), read_config(output).get("runs") or {}
    if not records:
        raise ValueError(f"{output / 'results.jsonl'} holds no record: the run has not finished a single request")
    for number, record in enumerate(records, 1):
        if record.get("run") not in runs:
            place, run = f"{output / 'results.jsonl'}, line {number}", record.get("run")
            raise ValueError(f"{place}: its run {run!r} is not among the runs of config.json; restore that file")
    return split_settings(records, read_samples(output), runs)


def split_settings(
    records: Iterable[Record], samples: Sequence[Record] = (), runs: Mapping[str, Record] | None = None
) -> list[Results]:
    """Groups records by setting, in order of first appearance; of two records for one cell the later one counts.

    Args:
        records: lines of `results.jsonl`.
        samples: entries of `samples.json.gz`, each given to the settings of its variant, size and ratio.
        runs: of `config.json`.

    Returns:
        One `Results` for each setting.
    """
    groups: dict[str, dict[tuple[Any, ...], Record]] = {}
    for record in records:
        setting = json.dumps([setting_value(record, name) for name in SETTING_FIELDS])
        groups.setdefault(setting, {})[record["target_class"], record["seed"], record["method"]] = record
    found = []
    for cells in groups.values():
        first = next(iter(cells.values()))
        place = [setting_value(first, name) for name in SAMPLE_FIELDS]
        mine = [entry for entry in samples if [setting_value(entry, name) for name in SAMPLE_FIELDS] == place]
        found.append(Results(tuple(cells.values()), tuple(mine), runs or {}))
    return found


def setting_value(record: Record, name: str) -> Any:
    """A field of the setting; without a variant it is the default one."""
    value = record.get(name)
    return "default" if name == "variant" and value is None else value
