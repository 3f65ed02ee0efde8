"""What one request adds to an output folder: records, the answers on each forgotten image, and the features."""

import dataclasses
from typing import Any

import numpy as np

from experiments.protocol.graph import Graph
from experiments.protocol.records import Record
from experiments.protocol.requests import FLOORS
from experiments.report.verdict import LEARNT_NOTHING
from tmu_jax import evaluation, twin
from tmu_jax.data import Dataset, ForgetProblem
from tmu_jax.evaluation import metrics
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning import UnlearnedModel


class Entries:
    """Makes the entries of one request under one arm's settings; nothing is computed but readouts."""

    def __init__(self, graph: Graph, data: Dataset) -> None:
        """Args: graph: of the request whose entries they are; data: its data set."""
        self._graph, self._settings, self._data, self._request = graph, graph.settings, data, graph.request

    def of_method(
        self,
        name: str,
        model: UnlearnedModel,
        outputs: evaluation.Outputs,
        gold_outputs: evaluation.Outputs,
        gold: TrainedModel,
    ) -> list[Record]:
        """Records of a model after one method."""
        problem = self._request.problem
        cost = {
            "seconds": model.seconds,
            "compile_seconds": model.compile_seconds,
            "retraining_share": model.seconds / gold.seconds,
            "seconds_by_part": model.seconds_by_part,
            "stage_by_part": self._graph.parts(name),
        }
        notes = [*model.notes, *_chance_note("gold", problem, gold_outputs)]
        if self._graph.method(name).reference == "original":
            notes += _chance_note("original", problem, outputs)
        records, stage = [], self._graph.shown(name)[name].name
        for target, only_class in self._targets():
            readouts, outside = evaluation.compare(problem, outputs, gold_outputs, only_class)
            record = {
                **self._base(target, name, stage),
                **dataclasses.asdict(readouts),
                "test_accuracy_outside_heldout": outside,
            }
            if model.prediction is not None:
                record |= self._quality(model.prediction, gold_outputs, only_class)
            records.append({**record, **cost, "notes": notes})
        return records

    def of_prediction(
        self, name: str, prediction: twin.TwinPrediction, gold_outputs: evaluation.Outputs
    ) -> list[Record]:
        """Records of the predicted labels alone, where nothing is to be unlearned."""
        costs = {
            "seconds_by_part": prediction.seconds_by_part,
            "seconds": sum(prediction.seconds_by_part.values()),
            "compile_seconds": prediction.compile_seconds,
            "stage_by_part": self._graph.parts(name),
        }
        stage = self._graph.shown(name)[name].name
        return [
            {
                **self._base(target, name, stage),
                **self._quality(prediction, gold_outputs, only_class),
                **costs,
                "notes": [*prediction.notes, *_chance_note("gold", self._request.problem, gold_outputs)],
            }
            for target, only_class in self._targets()
        ]

    def of_floors(
        self,
        gold_outputs: evaluation.Outputs,
        original_outputs: evaluation.Outputs,
        second_outputs: evaluation.Outputs,
    ) -> list[Record]:
        """Records of the three floors."""
        problem, records, shown = self._request.problem, [], self._graph.shown(FLOORS)
        for target, only_class in self._targets():
            found = evaluation.compare_floors(problem, gold_outputs, original_outputs, second_outputs, only_class)
            for name, floor in found.items():
                record = {**self._base(target, name, shown[name].name), **floor._asdict(), "notes": []}
                if name == "floor_gold_gold":
                    readouts, _ = evaluation.compare(problem, second_outputs, gold_outputs, only_class)
                    record |= dataclasses.asdict(readouts)
                records.append(record)
        return records

    def samples(
        self,
        method: str,
        outputs: evaluation.Outputs | None,
        gold_outputs: evaluation.Outputs,
        prediction: twin.TwinPrediction | None,
    ) -> Record:
        """The answers on each forgotten image: bits for right and wrong, and the distance of the outputs to gold's."""
        labels = self._request.problem.forget.labels
        entry = {**self._cell(), "method": method, "labels": labels.tolist()}
        if outputs is not None:
            entry["correct"] = _bits(metrics.correct(outputs.forget, labels))
            distances = metrics.activation_distances(outputs.forget, gold_outputs.forget)
            entry["distance"] = np.round(distances.astype(float), 4).tolist()
        if prediction is not None:
            entry["probability"] = np.round(prediction.probability.astype(float), 4).tolist()
            entry["easy"] = _bits(prediction.easy)
        return entry

    def features(self, prediction: twin.TwinPrediction, gold_outputs: evaluation.Outputs) -> list[Record]:
        """Scaled features with the true labels: the original's correctness on D_test, gold's on D_f."""
        problem = self._request.problem
        gold_correct = gold_outputs.forget.argmax(-1) == problem.forget.labels
        whole = np.isin(problem.forget.labels, problem.whole_classes)
        heldout_labels = problem.heldout.labels[~np.isin(problem.heldout.labels, problem.whole_classes)]
        sides = {
            "twin": (prediction.twin_features, prediction.heldout_easy, heldout_labels),
            "original": (prediction.original_features, gold_correct[~whole], problem.forget.labels[~whole]),
        }
        entries = []
        for side, (features, easy, labels) in sides.items():
            for c in np.unique(labels):
                chosen = labels == c
                columns: dict[str, Any] = {
                    column: np.round(features[chosen, i].astype(float), 5).tolist()
                    for i, column in enumerate(twin.FEATURES)
                }
                entry = {**self._cell(), "target_class": int(c), "problem": side}
                entries.append({**entry, **columns, "easy": easy[chosen].tolist()})
        return entries

    def _base(self, target: int | str, method: str, stage: str) -> Record:
        settings, problem = self._settings, self._request.problem
        return {
            "experiment": settings.experiment,
            "dataset": settings.dataset,
            "preset": settings.preset,
            "arch": settings.arch,
            "num_train": settings.num_train,
            "epochs": settings.recipe.epochs,
            "augment": settings.recipe.augment,
            "requests": settings.requests,
            "target_class": target,
            "class_name": "all" if isinstance(target, str) else self._data.class_names[target],
            "request": self._request.name,
            "variant": settings.variant,
            "num_forget": settings.num_forget,
            "num_heldout": int((problem.heldout.labels == target).sum())
            if isinstance(target, int)
            else len(problem.heldout),
            "heldout_source": settings.heldout_source,
            "ratio": settings.ratio,
            "seed": self._request.seed,
            **{f"{purpose}_seed": seed for purpose, seed in self._request.seeds._asdict().items()},
            "method": method,
            "stage": stage,
        }

    def _targets(self) -> list[tuple[int | str, int | None]]:
        """Each row's `target_class` and the class to restrict to; a combined request has a pooled row as well."""
        is_combined = self._settings.requests == "combined"
        classes = self._request.problem.target_classes if self._settings.by_class or not is_combined else ()
        return [*((c, c) for c in classes), *([("all", None)] if is_combined else [])]

    def _quality(
        self, prediction: twin.TwinPrediction, gold_outputs: evaluation.Outputs, only_class: int | None
    ) -> Record:
        quality = evaluation.prediction_quality(self._request.problem, prediction, gold_outputs, only_class)
        chosen = slice(None) if only_class is None else self._request.problem.forget.labels == only_class
        expected = 100.0 * float(np.mean(prediction.probability[chosen]))
        return {**_quality_fields(*quality), "eps": prediction.eps, "expected_forget_accuracy": expected}

    def _cell(self) -> Record:
        """What tells the entries of one request from those of others."""
        return {
            "variant": self._settings.variant,
            "num_forget": self._settings.num_forget,
            "ratio": self._settings.ratio,
            "request": self._request.name,
            "seed": self._request.seed,
        }


def _chance_note(name: str, problem: ForgetProblem, outputs: evaluation.Outputs) -> list[str]:
    """A sentence where the gold or the original model has learnt nothing, as by a learning rate far out."""
    accuracy = metrics.accuracy(outputs.test, problem.test.labels)
    chance = 100 * np.bincount(problem.test.labels).max() / len(problem.test)
    if accuracy > chance + 1:
        return []
    return [
        f"The {name} model gets {accuracy:.1f} % of the test images right, no more than one class for all would: it "
        f"has {LEARNT_NOTHING}. Try another learning rate, or more epochs."
    ]


def _bits(values: np.ndarray) -> str:
    return "".join("1" if value else "0" for value in values)


def _quality_fields(on_forget: Any, on_heldout: Any) -> Record:
    fields = {
        "predictor_accuracy": on_forget.accuracy,
        "predictor_auc": on_forget.auc,
        "predictor_brier": on_forget.brier,
        "predicted_hard_share": on_forget.predicted_hard / 100,
        "hard_share": on_forget.hard / 100,
    }
    if on_heldout is not None:
        fields |= {
            "heldout_predictor_accuracy": on_heldout.accuracy,
            "heldout_predictor_auc": on_heldout.auc,
            "heldout_predictor_brier": on_heldout.brier,
        }
    return fields
