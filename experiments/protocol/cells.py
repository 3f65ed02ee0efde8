"""The cells of one forget request: its models, then the records of one method after another."""

from collections.abc import Iterator, MutableMapping, Sequence
from typing import NamedTuple

import tmu_jax
from experiments.protocol.budgets import best_of, estimates, graph_of
from experiments.protocol.entries import Entries
from experiments.protocol.progress import Display
from experiments.protocol.records import Record
from experiments.protocol.requests import FLOORS, Request
from experiments.protocol.settings import Settings
from experiments.protocol.stages import Stages
from tmu_jax import evaluation
from tmu_jax.data import Dataset
from tmu_jax.stages import Stage, stage_hash
from tmu_jax.store import StageStore
from tmu_jax.training import TrainedModel
from tmu_jax.unlearning.reference import as_reference

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
    """The cells of one request: its models, then one evaluation a method."""

    def __init__(
        self,
        settings: Settings,
        data: Dataset,
        request: Request,
        store: StageStore,
        display: Display,
        cache: MutableMapping[str, evaluation.Outputs],
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
        module = tmu_jax.models.create(settings.arch, data.num_classes)
        self._where = request.described(settings)
        self._settings, self._request, self._display, self._cache = settings, request, display, cache
        self._graph = graph_of(settings, request, module)
        self._stages = Stages(store, module, display, self._where)
        self._entries = Entries(self._graph, data)

    def run(self, todo: Sequence[str]) -> Iterator[Found]:
        """Yields what one method after another adds, floors last."""
        original = self._stages.kept(self._graph.original)
        self._display.advance()
        gold = self._stages.kept(self._graph.gold)
        gold_outputs = self._outputs(self._graph.gold, gold)
        self._display.advance()
        for name in todo:
            if name == FLOORS:
                yield self._floors(original, gold_outputs)
            elif self._graph.stops_at_labels(name):
                yield self._labels(name, gold_outputs)
            else:
                try:
                    yield self._method(name, original, gold, gold_outputs)
                except FloatingPointError as error:
                    if self._settings.attempt is None:
                        raise
                    self._display.found(f"that a recipe diverges, {name}, {self._where}: {error}")

    def _method(self, name: str, original: TrainedModel, gold: TrainedModel, gold_outputs: evaluation.Outputs) -> Found:
        stage, reference = self._graph.model(name), self._graph.method(name).reference
        if reference is None:
            model = self._stages.value(stage)
        else:
            model = as_reference(reference, {"original": original, "gold": gold}[reference])
        outputs = self._outputs(stage, model)
        records = self._entries.of_method(name, model, outputs, gold_outputs, gold)
        records[-1] |= self._estimates(name)
        records = self._with_makers(records, stage)
        samples = self._entries.samples(name, outputs, gold_outputs, model.prediction)
        features = []
        of_paper = model.prediction is not None and model.prediction.targets is None
        if of_paper and self._settings.variant == "default":
            features = self._entries.features(model.prediction, gold_outputs)
        return Found(records, features, [samples])

    def _estimates(self, name: str) -> Record:
        """What was rehearsed for a method, where its recipe was; for the pooled record."""
        tried = [self._stages.kept(stage) for stage in self._graph.rehearsals(name)]
        if not tried:
            return {}
        best = best_of(tried)
        share = self._graph.share(self._graph.method(name).configured(None, best.options))
        prepared = self._stages.kept(self._graph.rehearsing)
        return estimates(best, tried, share, prepared, self._request.problem.forget.indices)

    def _labels(self, name: str, gold_outputs: evaluation.Outputs) -> Found:
        prediction = self._stages.kept(self._graph.labels(name))
        records = self._entries.of_prediction(name, prediction, gold_outputs)
        records = self._with_makers(records, self._graph.labels(name))
        return Found(records, [], [self._entries.samples(name, None, gold_outputs, prediction)])

    def _floors(self, original: TrainedModel, gold_outputs: evaluation.Outputs) -> Found:
        second_outputs = self._outputs(self._graph.second_gold, self._stages.value(self._graph.second_gold))
        original_outputs = self._outputs(self._graph.original, original)
        samples = [
            self._entries.samples("floor_gold_gold", second_outputs, gold_outputs, None),
            # The floors are compared with gold, and so need its answers even where "retrain" is no method of the run.
            self._entries.samples("retrain", gold_outputs, gold_outputs, None),
        ]
        records = self._entries.of_floors(gold_outputs, original_outputs, second_outputs)
        return Found(self._with_makers(records, self._graph.original, self._graph.second_gold), [], samples)

    def _with_makers(self, records: list[Record], *stages: Stage) -> list[Record]:
        """The records, with what another machine or commit made of the stages and of gold, which they rest on."""
        elsewhere = self._stages.made_elsewhere(*stages, self._graph.gold)
        return [{**record, "made_elsewhere": elsewhere} for record in records] if elsewhere else records

    def _outputs(self, stage: Stage, model: TrainedModel) -> evaluation.Outputs:
        """A model's outputs on the sets of the problem; those of original and gold models are kept."""
        problem = self._request.problem
        sets = {field: getattr(problem, field).indices for field in evaluation.Outputs._fields}
        cell = f"{stage.name} {stage_hash(sets)}"
        if cell in self._cache:
            return self._cache[cell]
        self._display.start(f"evaluating {stage.label}, {self._where}")
        found = evaluation.outputs(model, problem)
        if stage.value is TrainedModel:
            while len(self._cache) >= MAX_CACHED:
                del self._cache[next(iter(self._cache))]
            self._cache[cell] = found
        return found
