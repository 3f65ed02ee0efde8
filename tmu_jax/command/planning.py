"""What a command is going to do, and about how long it takes."""

import dataclasses
from collections.abc import Sequence

from tmu_jax.command.inputs import about
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.preparation.choosing import is_rehearsed
from tmu_jax.preparation.grid import LEARN_FROM, candidates, repeats_of
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.stages import Stage
from tmu_jax.training import TrainedModel
from tmu_jax.training.checking import training_speed
from tmu_jax.twin import DEFAULT_SETTINGS
from tmu_jax.unlearning import Method


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is going to be trained.

    Attributes:
      parts: what, and how many images it trains on (an image counts once an epoch).
      images_per_second: of training.
    """

    parts: tuple[tuple[str, float], ...]
    images_per_second: float

    @property
    def minutes(self) -> float:
        return sum(work for _, work in self.parts) / self.images_per_second / 60

    def lines(self) -> list[str]:
        """A line for each part, and one for all."""
        found = [f"  train {what}: {work:,.0f} images" for what, work in self.parts] or ["  nothing is to be trained"]
        rounded = f"about {self.minutes:,.0f} minute{'s' * (round(self.minutes) > 1)}"
        took = "less than a minute" if self.minutes < 1 else rounded
        return [*found, f"  {took}, at {self.images_per_second:,.0f} images per second"]


def plan(model: TrainedModel, rows: Split, parts: Sequence[tuple[str, float]]) -> Plan:
    """Times a few training steps, and adds up.

    Args:
      model: what is trained; it stays as it is.
      rows: images to time it on.
      parts: as in `Plan`.
    """
    with about("--model", "cannot be trained"):
        return Plan(tuple(parts), training_speed(model, rows))


def of_stages(stages: Sequence[Stage]) -> list[tuple[str, float]]:
    """The parts of a preparation, those of one kind together."""
    found: dict[str, list[float]] = {}
    for stage in stages:
        found.setdefault(stage.kind, []).append(stage.work)
    words = {"twin_model": "the twin model", "bank": "the bank"}
    return [
        (f"{words.get(kind, kind)}{f' ({len(works)} models)' if kind == 'bank' else ''}", sum(works))
        for kind, works in found.items()
    ]


def of_request(
    problem: ForgetProblem,
    model: TrainedModel,
    method: str | Method,
    budget: float,
    folds: int,
    prepared: Prepared | None,
) -> list[tuple[str, float]]:
    """The parts of a request.

    Args:
      problem: the request.
      model: the classifier.
      method: "auto" or a method.
      budget: the share of retraining of "auto".
      folds: of the bank.
      prepared: what the last request left, with its rehearsals.
    """
    retraining = model.training_recipe.epochs * len(problem.retain)
    if isinstance(method, Method):
        return _of_method(problem, model, method, retraining)
    sizes = len(problem.retain), len(problem.forget)
    with about("--budget", budget):
        tried = candidates(model.training_recipe, *sizes, budget, LEARN_FROM if folds else ("rehearsal",))
    parts = [("the unlearning", budget * retraining)]
    # Whether the request is a random draw, which rehearsals with held-out images need, is not known yet.
    if prepared is None or not is_rehearsed(prepared, problem, budget, alike=True):
        heldout = min(1000, len(problem.test) // 2) if prepared is None else len(prepared.heldout)
        times = repeats_of(len(problem.forget), heldout)
        work = times * sum(one.work(problem) for one in tried)
        parts.insert(0, (f"rehearsals of {len(tried)} recipes{f', {times} times each' * (times > 1)}, at most", work))
    return parts


def _of_method(
    problem: ForgetProblem, model: TrainedModel, method: Method, retraining: float
) -> list[tuple[str, float]]:
    work = retraining if method.reference == "gold" else method.work(problem, model.training_recipe)
    found = [(f"the unlearning ({method.name})", work)]
    if method.needs == "rehearsal":
        found.insert(0, ("the rehearsal that it learns from", work))
    if method.needs == "prediction":
        shown = DEFAULT_SETTINGS.curriculum_epochs * DEFAULT_SETTINGS.curriculum_share * len(problem.retain)
        found.insert(0, ("the curriculum model", shown))
    return found
