"""A request within a budget: recipes are rehearsed, and each method runs with the one that rehearsed best."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from experiments.protocol.graph import Graph
from experiments.protocol.requests import Request
from experiments.protocol.settings import Settings
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.preparation import Prepared, Rehearsal, candidates
from tmu_jax.preparation.grid import repeats_of
from tmu_jax.preparation.rehearsal import rehearsal_stage, taught
from tmu_jax.stages import Progress, Stage, key_for
from tmu_jax.text import option_words
from tmu_jax.training import TrainedModel
from tmu_jax.twin import TwinPrediction
from tmu_jax.unlearning import METHODS, Method, UnlearnedModel
from tmu_jax.unlearning.needs import Foretell


class BudgetGraph(Graph):
    """The stages of a request whose methods may spend a share of retraining, alone or cut into several in turn."""

    def model(self, name: str) -> Stage:
        """The model that a method's row shows: after one request, or after several in turn."""
        problems = self._in_turn()
        stage = self.original
        for number, problem in enumerate(problems):
            stage = self._chosen(METHODS[name], problem, stage, number)
        return stage

    def rehearsals(self, name: str) -> list[Stage]:
        """The rehearsals that a method's recipe is chosen by."""
        return [stage for method, stage in self._rehearsed if method.name == name]

    @functools.cached_property
    def _rehearsed(self) -> list[tuple[Method, Stage]]:
        settings, problem = self.settings, self.request.problem
        assert settings.budget is not None
        count = settings.in_turn or 1
        each = -(-len(problem.forget) // count)
        size = min(each, len(self.heldout))
        methods = candidates(settings.recipe, len(problem.retain), each, settings.budget / count)
        repeats = repeats_of(size, len(self.heldout))
        return [(method, rehearsal_stage(self.rehearsing, method, size, repeats)) for method in methods]

    def share(self, method: Method) -> float:
        """The same of all requests together."""
        work = sum(method.work(problem, self.settings.recipe) for problem in self._in_turn())
        return work / (self.settings.recipe.epochs * len(self.request.problem.retain))

    def _in_turn(self) -> list[ForgetProblem]:
        """The request, or its parts one after another: what an earlier one forgot is no part of a later one's D."""
        problem, count = self.request.problem, self.settings.in_turn
        if not count:
            return [problem]
        order = np.asarray(jax.random.permutation(key_for(self.unlearning_key, "in turn"), problem.forget.indices))
        found, train = [], problem.train.indices
        for rows in np.array_split(order, count):
            retain = np.setdiff1d(train, rows).astype(np.int32)
            own = [Split(problem.pool, indices) for indices in (train, np.sort(rows), retain)]
            found.append(dataclasses.replace(problem, train=own[0], forget=own[1], retain=own[2]))
            train = retain
        return found

    def _chosen(self, method: Method, problem: ForgetProblem, original: Stage, number: int) -> Stage:
        """Unlearning with the recipe that rehearsed best: known by name before, its numbers when it is made."""
        rehearsals = {f"rehearsal_{i}": stage for i, stage in enumerate(self.rehearsals(method.name))}
        parents = {"original": original, **rehearsals}
        if method.needs == "bank":
            parents["labels"] = self.prediction_of(problem)
        elif method.needs == "rehearsal":
            parents["prepared"] = self.rehearsing
        key = key_for(self.unlearning_key, f"method {method.name}" + (f" {number}" if self.settings.in_turn else ""))

        def make(
            original: TrainedModel,
            progress: Progress,
            labels: TwinPrediction | Foretell | None = None,
            prepared: Prepared | None = None,
            **tried: Rehearsal,
        ) -> UnlearnedModel:
            rehearsal = best_of(tuple(tried.values()))
            best = method.configured(None, rehearsal.options)
            if prepared is not None:
                labels = taught(prepared, rehearsal)
            model = best.apply(problem, original, key, labels, progress)
            notes = (*model.notes, described(best))
            if not self.settings.in_turn:
                return dataclasses.replace(model, notes=notes)
            # Of several requests in turn the costs add up, and the last one's labels are not those of all.
            before = original.seconds_by_part["unlearning"] if isinstance(original, UnlearnedModel) else 0.0
            parts = {**model.seconds_by_part, "unlearning": model.seconds_by_part["unlearning"] + before}
            return dataclasses.replace(
                model, prediction=None, notes=notes, seconds_by_part=parts, seconds=math.fsum(parts.values())
            )

        return Stage(
            method.name,
            f"{method.name} {number + 1} of {self.settings.in_turn}" if self.settings.in_turn else method.name,
            make,
            UnlearnedModel,
            method.version,
            parents,
            {
                "key": key,
                "train": problem.train.indices,
                "forget": problem.forget.indices,
                "budget": self.settings.budget,
            },
            work=(self.settings.budget or 0) * self.settings.recipe.epochs * len(problem.retain),
        )


def graph_of(settings: Settings, request: Request, module: nn.Module) -> Graph:
    """The stages of a request as its arm has them."""
    return (Graph if settings.budget is None else BudgetGraph)(settings, request, module)


def described(method: Method) -> str:
    """A method's recipe in words."""
    return f"recipe: {option_words(method.options)}"


def best_of(rehearsals: Sequence[Rehearsal]) -> Rehearsal:
    """The rehearsal that came nearest to gold."""
    return min(rehearsals, key=lambda rehearsal: rehearsal.misalignment)


def estimates(
    best: Rehearsal, every: Sequence[Rehearsal], share: float, prepared: Prepared, forgotten: np.ndarray
) -> dict[str, Any]:
    """What a record says of the preparation and the rehearsal behind it.

    Costs, what was promised, what was tried, and how many of the forgotten rows int32[n] each model was trained on.
    """
    promised = {name: getattr(best, name) for name in ("agreement", "gap", "distance", "forget_accuracy", "test_loss")}
    return {
        "work_share": share,
        "preparation": {**prepared.costs, "rehearsals": sum(one.share * one.repeats for one in every)},
        "debt": prepared.after(forgotten, prepared.model).debt(),
        **{f"rehearsed_{name}": estimate.value for name, estimate in promised.items()},
        **{f"rehearsed_{name}_interval": [estimate.low, estimate.high] for name, estimate in promised.items()},
        "rehearsed_untouched": best.untouched,
        "misalignment": best.misalignment,
        "options": best.options,
        "recipe": best.recipe,
        "tried": [
            {
                "options": one.options,
                "size": one.size,
                "agreement": one.agreement.value,
                "gap": one.gap.value,
                "distance": one.distance.value,
                "test_loss": one.test_loss.value,
                "seconds": one.seconds,
            }
            for one in every
        ],
    }
