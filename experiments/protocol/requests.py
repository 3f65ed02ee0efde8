"""The forget requests of a run, checked before any long work starts."""

import dataclasses
from collections.abc import Sequence

import numpy as np

import tmu_jax
from experiments.protocol.settings import Seeds, Settings
from tmu_jax.data import Dataset, ForgetProblem
from tmu_jax.unlearning import METHODS

FLOORS = "floors"


@dataclasses.dataclass(frozen=True)
class Request:
    """One forget request of a run.

    Attributes:
      name: "class 3" or "all classes".
      seed: the repetition.
      seeds: what it draws with.
      problem: the request itself.
      shared_forget: int32, forgotten rows of every request that shares this one's curriculum model.
    """

    name: str
    seed: int
    seeds: Seeds
    problem: ForgetProblem
    shared_forget: np.ndarray

    def described(self, settings: Settings) -> str:
        """The request for people, under the settings of an arm."""
        arm = "" if settings.variant == "default" else f", {settings.variant}"
        return f"{self.name}, seed {self.seed}{arm}"


def check_methods(methods: Sequence[str]) -> None:
    """Raises ValueError for a name that is no method, or a repeated one."""
    unknown = [name for name in methods if name not in METHODS]
    if unknown:
        raise ValueError(f"methods holds {unknown[0]!r}; choose from {' '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"methods={list(methods)} names one twice")
    if not methods:
        raise ValueError(f"methods is empty; choose from {' '.join(METHODS)}")
    for name in methods:
        if name == FLOORS or name.startswith("floor_"):
            raise ValueError(f"methods holds {name!r}, which names a floor; register the method under another name")
        if METHODS[name].name != name:
            raise ValueError(
                f"methods holds {name!r}, which METHODS has as {METHODS[name].name!r}; register it under its own name"
            )


def make_requests(settings: Settings, data: Dataset) -> list[Request]:
    """All forget requests of a run, checked before any long work starts.

    Args:
      settings: of the run.
      data: its data set.

    Returns:
      The requests, seed by seed.

    Raises:
      ValueError: when a request cannot be made from this data.
    """
    for name in ("classes", "seeds"):
        values = getattr(settings, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)} must name at least one, each once")

    def subset(classes: Sequence[int], seed: int) -> ForgetProblem:
        return tmu_jax.data.forget_subset(
            data,
            target_classes=classes,
            num_forget=settings.num_forget,
            seed=seed,
            heldout_source=settings.heldout_source,
            ratio=settings.ratio,
            tuned_share=settings.tuned_share,
        )

    requests = []
    for seed in settings.seeds:
        seeds = settings.seeds_of(seed)
        if settings.requests == "combined":
            problem = subset(settings.classes, seeds.split)
            requests.append(Request("all classes", seed, seeds, problem, problem.forget.indices))
            continue
        problems = {c: subset([c], seeds.split) for c in settings.classes}
        for c, problem in problems.items():
            shared = problem.forget.indices
            if settings.share_curriculum and isinstance(settings.num_forget, int):
                # One curriculum model serves the requests of all classes, those that are added later included.
                rows = [tmu_jax.data.forget_rows(data, k, settings.num_forget, seeds.split) for k in _trained(data)]
                shared = np.concatenate(rows)
            requests.append(Request(f"class {c}", seed, seeds, problem, shared))
    return requests


def _trained(data: Dataset) -> list[int]:
    """The classes that have training images."""
    return np.unique(data.train_labels).tolist()
