"""The stages of one forget request: what is trained from which rows with which key. Nothing is computed here."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import tmu_jax
from experiments.protocol.requests import FLOORS, Request
from experiments.protocol.settings import Settings
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.evaluation import Outputs
from tmu_jax.preparation.building import prediction_from_bank, preparation_stage
from tmu_jax.preparation.datamodels import datamodels_stage
from tmu_jax.preparation.rehearsal import foretelling_stage, rehearsal_stage
from tmu_jax.stages import PASS_WORK, VERSIONS, Stage, key_for, stage_hash
from tmu_jax.training import Recipe, TrainedModel
from tmu_jax.training.packing import pack_recipe
from tmu_jax.twin import prediction_stage
from tmu_jax.unlearning import METHODS, Method, tuned
from tmu_jax.unlearning.ranges import attempt

_PARTS = {"twin_model": "twin_model", "curriculum": "curriculum", "features": "features", "prediction": "predictor"}
_PARTS |= {"bank": "bank", "rehearsal": "rehearsal"}
"""Parts of a method's seconds by the kind of stage that they are spent on."""


class Graph:
    """The stages of one request under one arm's settings. A plan walks them, a run computes or finds them."""

    def __init__(self, settings: Settings, request: Request, module: nn.Module) -> None:
        """Args: settings, request: of the run; module: the architecture."""
        self.settings, self.request, self.module = settings, request, module

    @functools.cached_property
    def original(self) -> Stage:
        """M_o, trained on D."""
        # The blank is part of the purpose: its key, and with it every figure, would change.
        return self._trained("original", "original model", self.request.problem.train, "original ")

    @functools.cached_property
    def original_with_updates(self) -> Stage:
        """M_o again, from the same key, by a training that keeps the updates of this request's images."""
        problem = self.request.problem
        return self._trained(
            "original", "original model with updates", problem.train, "original ", updates_of=problem.forget.indices
        )

    @functools.cached_property
    def gold(self) -> Stage:
        """M_g, trained on D_r."""
        return self._trained("gold", "gold model", self.request.problem.retain, f"gold {self.request.name}")

    @functools.cached_property
    def second_gold(self) -> Stage:
        """Another gold model, for the floor between two of them."""
        purpose = f"gold replicate {self.request.name}"
        return self._trained("gold", "second gold model", self.request.problem.retain, purpose)

    @property
    def unlearning_key(self) -> jax.Array:
        """The key that every method of the request is given: `tmu_jax.unlearn(…, key=…)` with it gives the record."""
        return jax.random.key(self.request.seeds.unlearning)

    @functools.cached_property
    def prediction(self) -> Stage:
        """The generalization labels, which the methods that need them share."""
        request, settings = self.request, self.settings.twin_settings
        return prediction_stage(request.problem, self.original, self.unlearning_key, settings, request.shared_forget)

    @functools.cached_property
    def prepared(self) -> Stage:
        """What no request changes, without a twin model: a bank, calibrated on this request's held-out images."""
        return self._prepared(with_twin=False)

    @functools.cached_property
    def rehearsing(self) -> Stage:
        """The same with the twin model of rehearsals."""
        return self._prepared()

    def prediction_of(self, problem: ForgetProblem) -> Stage:
        """The bank's labels and distributions of a request; with the twin model's say where one is asked for."""
        settings = self.settings
        with_twin = settings.twin_model or settings.budget is not None or settings.attempt is not None
        return prediction_from_bank(self.rehearsing if with_twin else self.prepared, problem)

    @functools.cached_property
    def heldout(self) -> np.ndarray:
        """Rows int32[n] of held-out images; augmented copies are no images of their own."""
        return self.request.problem.heldout_images.indices

    def _prepared(self, **options: Any) -> Stage:
        settings, problem = self.settings, self.request.problem
        return preparation_stage(
            self.original,
            settings.recipe,
            problem.train,
            Split(problem.pool, self.heldout),
            problem.test,
            settings.data_fingerprint,
            key_for(jax.random.key(self.request.seeds.training), "preparation"),
            settings.bank,
            **options,
        )

    def method(self, name: str) -> Method:
        """A method as this arm runs it: learning rate, schedule, noise and start may be the arm's, or its recipe."""
        method, settings = METHODS[name], self.settings
        if method.needs == "prediction":
            method = dataclasses.replace(method, start=settings.unlearning_start)
        if method.recipe is not None:
            method = dataclasses.replace(method, image_noise=settings.unlearning_noise)
        if settings.recipes is not None and method.ranges:
            return tuned(method, settings.recipes)
        if isinstance(method.recipe, Recipe):
            recipe = dataclasses.replace(
                method.recipe,
                learning_rate=settings.unlearning_rate_factor * method.recipe.learning_rate,
                schedule=settings.unlearning_schedule or method.recipe.schedule,
            )
            method = method.configured(recipe)
        return attempt(method, settings.attempt) if settings.attempt is not None and method.ranges else method

    def rehearsals(self, name: str) -> list[Stage]:
        """The rehearsals that a method's recipe is chosen by: of an attempt its own, else none."""
        if self.settings.attempt is None or METHODS[name].reference is not None:
            return []
        return [rehearsal_stage(self.rehearsing, self.method(name), len(self.heldout))]

    def share(self, method: Method) -> float:
        """What a method with its recipe costs, as a share of retraining's images."""
        problem = self.request.problem
        return method.work(problem, self.settings.recipe) / (self.settings.recipe.epochs * len(problem.retain))

    def model(self, name: str) -> Stage:
        """The model that a method's row shows: for the two ends of the scale those that are there already."""
        method = self.method(name)
        if method.reference is not None:
            return {"original": self.original, "gold": self.gold}[method.reference]
        labels = None if method.needs is None else self.labels(name)
        original = self.original_with_updates if method.needs_updates else self.original
        return method.stage(self.request.problem, original, self.unlearning_key, labels)

    def labels(self, name: str) -> Stage:
        """What a method learns of the forgotten images: the published labels, the bank's, or a rehearsal's."""
        method = METHODS[name]
        if method.needs == "rehearsal":
            rehearsal = rehearsal_stage(self.rehearsing, self.method(name), len(self.heldout))
            return foretelling_stage(self.rehearsing, rehearsal)
        if method.needs == "datamodels":
            return datamodels_stage(self.prepared)
        return self.prediction_of(self.request.problem) if method.needs == "bank" else self.prediction

    def shown(self, name: str) -> dict[str, Stage]:
        """What the records of a method, or of `FLOORS`, show, by the records' `method`: a model or the labels alone."""
        if name == FLOORS:
            golds = {"floor_gold_gold": self.second_gold, "floor_majority": self.gold}
            return {**golds, "floor_count_matched": self.original}
        return {name: self.labels(name) if self.stops_at_labels(name) else self.model(name)}

    def parts(self, name: str) -> dict[str, str]:
        """The names of the stages that a method predicts with, by part of its seconds: requests and methods share them.

        The curriculum's are two where it is each problem's own model after its first epoch.
        """
        (stage,) = self.shown(name).values()
        found: dict[str, list[str]] = {}
        for one in stage.with_ancestors():
            if one.kind in _PARTS:
                found.setdefault(_PARTS[one.kind], []).append(one.name)
        return {part: " ".join(names) for part, names in found.items()}

    def stops_at_labels(self, name: str) -> bool:
        """Whether this arm wants a method's generalization labels alone."""
        return not self.settings.unlearn and METHODS[name].needs in ("prediction", "bank")

    def stages(self, todo: Sequence[str]) -> list[Stage]:
        """Every stage that the methods of a request need, parents first, each once.

        Args:
          todo: names in `METHODS`, and `FLOORS`.
        """
        last = [self.original, self.gold, *(stage for name in todo for stage in self.shown(name).values())]
        return list({stage.name: stage for end in last for stage in end.with_ancestors()}.values())

    def evaluations(self, todo: Sequence[str]) -> dict[tuple[str, str], float]:
        """Work of running each evaluated model, in images trained on, by its stage's name and the sets it is run on."""
        evaluated = [self.gold]
        for name in todo:
            if name == FLOORS:
                evaluated += [self.second_gold, self.original]
            elif not self.stops_at_labels(name):
                evaluated.append(self.model(name))
        sets = [getattr(self.request.problem, name).indices for name in Outputs._fields]
        where = stage_hash({str(i): indices for i, indices in enumerate(sets)})
        return {(stage.name, where): PASS_WORK * sum(map(len, sets)) for stage in evaluated}

    def _trained(
        self, kind: str, label: str, split: Split, purpose: str, updates_of: np.ndarray | None = None
    ) -> Stage:
        """A training from scratch."""
        recipe = self.settings.recipe
        kept: dict[str, Any] = {} if updates_of is None else {"updates_of": updates_of}
        key = key_for(jax.random.key(self.request.seeds.training), purpose)
        return Stage(
            kind,
            label,
            lambda progress: tmu_jax.train(self.module, split, key=key, recipe=recipe, progress=progress, **kept),
            TrainedModel,
            VERSIONS["training"],
            made_from={
                "data": self.settings.data_fingerprint,
                "arch": self.settings.arch,
                "dtype": str(jnp.dtype(getattr(self.module, "dtype", jnp.float32))),
                "recipe": pack_recipe(recipe),
                "rows": split.indices,
                "key": key,
                **kept,
            },
            work=recipe.epochs * len(split),
        )
