"""The cells of one forget request: its stages, then the records of one method after another."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import tmu_jax
from experiments import environment
from experiments.graph import TWIN_METHODS, Graph, Node
from experiments.plan import FLOORS, Request, Settings
from experiments.progress import Display
from experiments.records import Record
from experiments.stages import (
    StagedModel,
    features_from_stage,
    features_to_stage,
    from_stage,
    prediction_from_stage,
    prediction_to_stage,
    to_stage,
)
from tmu_jax import evaluation, metrics, twin
from tmu_jax.checkpoint import Stage, StageStore
from tmu_jax.data import Dataset, Split
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Progress, TrainedModel
from tmu_jax.unlearning import METHODS, UnlearnedModel

MAX_CACHED = 8
"""Evaluated models that a run keeps in memory: arms and methods share the original and the gold models."""


class Found(NamedTuple):
    """What one method of a request adds to an output folder.

    Attributes:
      records: one for each class, and the pooled one.
      features: of both problems, for the picture.
      samples: the answers on each forgotten image, for the intervals.
    """

    records: list[Record]
    features: list[Record]
    samples: list[Record]


class Cells:
    """The cells of one request: its stages, then one evaluation a method."""

    def __init__(
        self,
        settings: Settings,
        data: Dataset,
        request: Request,
        store: StageStore,
        display: Display,
        cache: MutableMapping[str, evaluation.Outputs] | None = None,
    ) -> None:
        """Prepares; nothing is computed yet.

        Args:
          settings: of the arm.
          data: its data set.
          request: what to compute.
          store: where stages lie.
          display: shows progress.
          cache: outputs of evaluated models, shared by the requests and arms of a run.
        """
        self._settings, self._data, self._request = settings, data, request
        self._store, self._display = store, display
        self._module = tmu_jax.models.create(settings.arch, data.num_classes)
        self._graph = Graph(settings, request, self._module)
        self._cache = {} if cache is None else cache

    def run(self, todo: Sequence[str]) -> Iterator[Found]:
        """Yields what one method after another adds, floors last."""
        problem, graph = self._request.problem, self._graph
        original = self._trained(graph.original, problem.train)
        self._display.advance()
        gold = self._trained(graph.gold, problem.retain)
        gold_outputs = self._evaluated("gold", gold)
        self._display.advance()
        for name in todo:
            if name == FLOORS:
                yield self._floors(original, gold_outputs)
            elif name in TWIN_METHODS and not self._settings.unlearn:
                yield self._predicted(name, original, gold_outputs)
            else:
                model = self._unlearned(name, original, gold)
                outputs = gold_outputs if name == "retrain" else self._evaluated(name, model)
                features = [] if model.prediction is None else self._features(model.prediction, gold_outputs)
                records = self._method_records(name, model, outputs, gold_outputs, gold)
                yield Found(records, features, [self._samples(name, outputs, gold_outputs, model.prediction)])

    # ---- stages

    def _stage(self, node: Node, compute: Callable[[Progress], Stage]) -> Stage:
        description = f"{node.label}, {self._request.name}, seed {self._request.seed}"
        if self._settings.variant != "default":
            description += f", {self._settings.variant}"
        if self._store.has(node.kind, node.produced_by):
            self._display.found(description)

        def made() -> Stage:
            stage = compute(self._display.start(description))
            made_by = {"device": environment.device(), "versions": environment.versions()}
            return stage._replace(metadata={**stage.metadata, **made_by, "git_revision": environment.git_revision()})

        return self._store.get(node.kind, node.produced_by, made)

    def _trained(self, node: Node, split: Split) -> StagedModel:
        """The original model or a gold model: a training from scratch on a split."""
        recipe = self._settings.recipe
        key = self._graph.key(node.produced_by["purpose"], self._request.seeds.training)
        stage = self._stage(
            node,
            lambda progress: to_stage(tmu_jax.train(self._module, split, key=key, recipe=recipe, progress=progress)),
        )
        return from_stage(stage, self._module, recipe, node.stage)

    def _prediction(self, original: StagedModel) -> twin.TwinPrediction:
        """Twin model, curriculum model, features and prediction, a stage each."""
        graph, problem, settings = self._graph, self._request.problem, self._settings.twin_settings
        if not graph.has_twin_problem:
            return twin.all_hard(problem)
        keys = {part: graph.key(part, self._request.seeds.unlearning) for part in ("twin", "curriculum", "predictor")}
        of_twin = self._stage(
            graph.twin_model,
            lambda progress: to_stage(twin.train_twin(problem, original, keys["twin"], settings, progress=progress)),
        )
        twin_model = from_stage(of_twin, self._module, settings.twin_recipe, graph.twin_model.stage)
        of_curriculum = self._stage(
            graph.curriculum,
            lambda progress: to_stage(
                *twin.train_curricula(
                    problem, original, twin_model, keys["curriculum"], settings, self._request.shared_forget, progress
                )
            ),
        )
        curricula = [
            from_stage(of_curriculum, self._module, original.recipe, graph.curriculum.stage, which) for which in (0, 1)
        ]

        def measure(progress: Progress) -> Stage:
            with Stopwatch() as watch:
                models = (curricula[0], curricula[1])
                features = twin.measure_features(problem, original, twin_model, models, settings, progress)
            return features_to_stage(features, watch)

        of_features = self._stage(graph.features, measure)
        features = features_from_stage(of_features)
        of_prediction = self._stage(
            graph.prediction,
            lambda progress: prediction_to_stage(twin.predict_labels(problem, features, keys["predictor"], settings)),
        )
        cost = of_features.metadata
        # Both curriculum models are in one stage, with the seconds of both.
        return twin.with_costs(
            prediction_from_stage(of_prediction), twin_model, curricula[:1], cost["seconds"], cost["compile_seconds"]
        )

    def _unlearned(self, name: str, original: StagedModel, gold: TrainedModel) -> UnlearnedModel:
        """The model after one method; "original" and "retrain" are the models that are there already."""
        problem, key = self._request.problem, self._graph.key(f"method {name}", self._request.seeds.unlearning)
        if name == "original":
            return METHODS["original"](problem, original, key)
        if name == "retrain":
            fields = {field.name: getattr(gold, field.name) for field in dataclasses.fields(TrainedModel)}
            return UnlearnedModel(**fields, method=name, seconds_by_part={"retraining": gold.seconds})
        takes = inspect.signature(METHODS[name]).parameters
        options: dict[str, Any] = {}
        if (recipe := self._graph.recipe_of(name)) is not None:
            options["recipe"] = recipe
        prediction = None
        if name in TWIN_METHODS:
            prediction = options["prediction"] = self._prediction(original)

        def compute(progress: Progress) -> Stage:
            if "progress" in takes:
                options["progress"] = progress
            model = METHODS[name](problem, original, key, **options)
            own = prediction is None and model.prediction is not None
            stage = to_stage(model)
            known = {"seconds_by_part": model.seconds_by_part, "notes": list(model.notes)}
            if own:
                assert model.prediction is not None
                labels = prediction_to_stage(model.prediction)
                stage.arrays["prediction"], known["prediction"] = labels.arrays, labels.metadata
            return stage._replace(metadata={**stage.metadata, **known})

        node = self._graph.method(name)
        stage = self._stage(node, compute)
        if "prediction" in stage.metadata:
            prediction = prediction_from_stage(Stage(stage.arrays["prediction"], stage.metadata["prediction"]))
        model = from_stage(stage, self._module, original.recipe, node.stage)
        fields = {field.name: getattr(model, field.name) for field in dataclasses.fields(TrainedModel)}
        return UnlearnedModel(
            **fields,
            method=name,
            original=original,
            forget_indices=problem.forget.indices,
            prediction=prediction,
            seconds_by_part=stage.metadata["seconds_by_part"],
            notes=tuple(stage.metadata["notes"]),
        )

    def _evaluated(self, name: str, model: TrainedModel) -> evaluation.Outputs:
        """A model's outputs on the sets of the problem; those of original and gold models are kept."""
        problem = self._request.problem
        if not isinstance(model, StagedModel):
            self._display.start(f"evaluating {name}, {self._request.name}, seed {self._request.seed}")
            return evaluation.outputs(model, problem)
        sets = [getattr(problem, field).indices.tobytes() for field in evaluation.Outputs._fields]
        cell = f"{model.stage} {hash(tuple(sets))}"
        if cell not in self._cache:
            self._display.start(f"evaluating {name}, {self._request.name}, seed {self._request.seed}")
            while len(self._cache) >= MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[cell] = evaluation.outputs(model, problem)
        return self._cache[cell]

    # ---- records

    def _base(self, target: int | str, method: str) -> Record:
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
        }

    def _targets(self) -> list[tuple[int | str, int | None]]:
        """Each row's `target_class` and the class to restrict to; a combined request has a pooled row as well."""
        targets: list[tuple[int | str, int | None]] = [(c, c) for c in self._request.problem.target_classes]
        return targets + ([("all", None)] if self._settings.requests == "combined" else [])

    def _method_records(
        self,
        name: str,
        model: UnlearnedModel,
        outputs: evaluation.Outputs,
        gold_outputs: evaluation.Outputs,
        gold: TrainedModel,
    ) -> list[Record]:
        problem = self._request.problem
        cost = {
            "seconds": model.seconds,
            "compile_seconds": model.compile_seconds,
            "retraining_share": model.seconds / gold.seconds,
            "seconds_by_part": model.seconds_by_part,
        }
        records = []
        for target, only_class in self._targets():
            readouts, outside = evaluation.compare(problem, outputs, gold_outputs, only_class)
            record = {
                **self._base(target, name),
                **dataclasses.asdict(readouts),
                "test_accuracy_outside_heldout": outside,
                "predictor_accuracy": None,
                "predictor_auc": None,
            }
            if model.prediction is not None:
                record |= self._quality(model.prediction, gold_outputs, only_class)
            records.append({**record, **cost, "notes": list(model.notes)})
        return records

    def _quality(
        self, prediction: twin.TwinPrediction, gold_outputs: evaluation.Outputs, only_class: int | None
    ) -> Record:
        quality = evaluation.prediction_quality(self._request.problem, prediction, gold_outputs, only_class)
        return {**_quality_fields(*quality), "eps": prediction.eps}

    def _predicted(self, name: str, original: StagedModel, gold_outputs: evaluation.Outputs) -> Found:
        """The predicted labels alone, where nothing is to be unlearned."""
        prediction = self._prediction(original)
        costs = {"seconds_by_part": prediction.seconds_by_part, "seconds": sum(prediction.seconds_by_part.values())}
        costs["compile_seconds"] = prediction.compile_seconds
        records = [
            {
                **self._base(target, name),
                **_NO_READOUTS,
                "forget_accuracy": None,
                "forget_gap": None,
                "agreement": None,
                **self._quality(prediction, gold_outputs, only_class),
                **costs,
                "notes": list(prediction.notes),
            }
            for target, only_class in self._targets()
        ]
        samples = [self._samples(name, None, gold_outputs, prediction)]
        # Arms that choose among the features have the same ones: one set is enough for the picture.
        all_features = self._settings.twin_settings.features == twin.FEATURES
        return Found(records, self._features(prediction, gold_outputs) if all_features else [], samples)

    def _floors(self, original: StagedModel, gold_outputs: evaluation.Outputs) -> Found:
        problem = self._request.problem
        second = self._trained(self._graph.second_gold, problem.retain)
        second_outputs = self._evaluated("second gold", second)
        original_outputs = self._evaluated("original", original)
        records = []
        for target, only_class in self._targets():
            found = evaluation.floors(problem, gold_outputs, original_outputs, second_outputs, only_class)
            for name, floor in found.items():
                record = {**self._base(target, name), **_NO_READOUTS, **floor._asdict(), "notes": []}
                if name == "floor_gold_gold":
                    readouts, _ = evaluation.compare(problem, second_outputs, gold_outputs, only_class)
                    record |= dataclasses.asdict(readouts)
                records.append(record)
        samples = [
            self._samples("floor_gold_gold", second_outputs, gold_outputs, None),
            # The floors are compared with gold, and so need its answers even where "retrain" is no method of the run.
            self._samples("retrain", gold_outputs, gold_outputs, None),
        ]
        return Found(records, [], samples)

    def _cell(self) -> Record:
        """What tells the entries of one request from those of others."""
        return {
            "variant": self._settings.variant,
            "num_forget": self._settings.num_forget,
            "ratio": self._settings.ratio,
            "request": self._request.name,
            "seed": self._request.seed,
        }

    def _samples(
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

    def _features(self, prediction: twin.TwinPrediction, gold_outputs: evaluation.Outputs) -> list[Record]:
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
                columns = {
                    column: np.round(features[chosen, i].astype(float), 5).tolist()
                    for i, column in enumerate(twin.FEATURES)
                }
                entry = {**self._cell(), "target_class": int(c), "problem": side}
                entries.append({**entry, **columns, "easy": easy[chosen].tolist()})
        return entries


def _bits(values: np.ndarray) -> str:
    return "".join("1" if value else "0" for value in values)


_NO_READOUTS: Record = dict.fromkeys(
    ("test_accuracy", "retain_accuracy", "activation_distance", "kl", "js", "predictor_accuracy", "predictor_auc",
     "seconds", "compile_seconds", "retraining_share")
)  # fmt: skip


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
