"""The cells of one forget request: its stages, then the records of one method after another."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from typing import Any, NamedTuple

import tmu_jax
from experiments.protocol import environment
from experiments.protocol.entries import Entries
from experiments.protocol.graph import TWIN_METHODS, Graph, Node
from experiments.protocol.progress import Display
from experiments.protocol.records import Record
from experiments.protocol.requests import FLOORS, Request
from experiments.protocol.settings import Settings
from experiments.protocol.stages import (
    StagedModel,
    features_from_stage,
    features_to_stage,
    from_stage,
    prediction_from_stage,
    prediction_to_stage,
    to_stage,
)
from tmu_jax import evaluation, twin
from tmu_jax.data import Dataset, Split
from tmu_jax.store import Stage, StageStore
from tmu_jax.timing import Stopwatch
from tmu_jax.training import Progress, TrainedModel
from tmu_jax.unlearning import METHODS, UnlearnedModel

MAX_CACHED = 8
"""Evaluated models that a run keeps in memory: arms and methods share the original and the gold models."""


class Found(NamedTuple):
    """What one method of a request adds to an output folder.

    Attributes:
      records: one for each class, and the pooled one.
      features: of both problems, for the picture; the reports that compare arms have none.
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
        self._entries = Entries(settings, data, request)

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
                outputs = self._evaluated(name, {"original": original, "retrain": gold}.get(name, model))
                records = self._entries.of_method(name, model, outputs, gold_outputs, gold)
                samples = self._entries.samples(name, outputs, gold_outputs, model.prediction)
                features = []
                if model.prediction is not None and self._settings.variant == "default":
                    features = self._entries.features(model.prediction, gold_outputs)
                yield Found(records, features, [samples])

    def _predicted(self, name: str, original: StagedModel, gold_outputs: evaluation.Outputs) -> Found:
        prediction, entries = self._prediction(original), self._entries
        records = entries.of_prediction(name, prediction, gold_outputs)
        return Found(records, [], [entries.samples(name, None, gold_outputs, prediction)])

    def _floors(self, original: StagedModel, gold_outputs: evaluation.Outputs) -> Found:
        second = self._trained(self._graph.second_gold, self._request.problem.retain)
        second_outputs = self._evaluated("second gold", second)
        original_outputs = self._evaluated("original", original)
        samples = [
            self._entries.samples("floor_gold_gold", second_outputs, gold_outputs, None),
            # The floors are compared with gold, and so need its answers even where "retrain" is no method of the run.
            self._entries.samples("retrain", gold_outputs, gold_outputs, None),
        ]
        return Found(self._entries.of_floors(gold_outputs, original_outputs, second_outputs), [], samples)

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
