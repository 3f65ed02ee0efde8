"""The stages of one forget request as a graph: what produces each, and how much work it is. Nothing is computed here.

A stage is found by a hash of everything that determines it, its parents' hashes included. So a run resumes, two
experiments share what they have in common, and a plan can be made before anything is trained.
"""

import dataclasses
import functools
import inspect
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

import tmu_jax
from experiments.protocol.requests import FLOORS, Request
from experiments.protocol.settings import Settings
from tmu_jax.data import Split
from tmu_jax.store import stage_hash
from tmu_jax.training import Recipe
from tmu_jax.unlearning import METHODS

TWIN_METHODS = ("twin", "twin_negative_gradient")
PASS_SHARE = 1 / 3
"""Work of running a model on an image, as a share of training on it (forward; two more passes go backward)."""
ATTACK_SHARE = 2 / 3
"""The same of an attack's step (forward, and backward to the pixels)."""
STREAM_SHARES = {"finetune": (1, 0), "negative_gradient": (2, 0), "random_labeling": (1, 1), "bad_teacher": (0.4, 1)}
STREAM_SHARES |= {"twin": (1, 1), "twin_negative_gradient": (2, 2)}
"""Images a method draws in an epoch: shares of the retain and of the forget set (bad teacher's teachers included)."""


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One stage.

    Attributes:
      kind: a short name for the folder, such as "gold".
      label: for people.
      produced_by: everything that determines it, see `stage_hash`.
      work: in images trained on.
    """

    kind: str
    label: str
    produced_by: Mapping[str, Any]
    work: float

    @functools.cached_property
    def stage(self) -> str:
        """The hash."""
        return stage_hash(self.produced_by)


class Graph:
    """The stages of one request under one arm's settings."""

    def __init__(self, settings: Settings, request: Request, module: nn.Module) -> None:
        """Args: settings, request: of the run; module: the architecture."""
        self.settings, self.request, self.problem = settings, request, request.problem
        self._dtype = str(jnp.dtype(getattr(module, "dtype", jnp.float32)))

    def key(self, purpose: str, seed: int) -> jax.Array:
        """A key of its own for each seed and purpose."""
        return jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))

    def trained(self, purpose: str, split: Split, request_name: str = "") -> Node:
        """A training from scratch: "original", "gold" or "gold replicate"."""
        recipe = self.settings.recipe
        produced_by = {
            "tmu_jax": tmu_jax.__version__,
            "data": self.settings.data_fingerprint,
            "arch": self.settings.arch,
            "dtype": self._dtype,
            "recipe": dataclasses.asdict(recipe),
            "indices": split.indices,
            "seed": self.request.seeds.training,
            "purpose": f"{purpose} {request_name}",
        }
        return Node(purpose.split()[0], f"{purpose} model", produced_by, recipe.epochs * len(split))

    @functools.cached_property
    def original(self) -> Node:
        return self.trained("original", self.problem.train)

    @functools.cached_property
    def gold(self) -> Node:
        return self.trained("gold", self.problem.retain, self.request.name)

    @functools.cached_property
    def second_gold(self) -> Node:
        return self.trained("gold replicate", self.problem.retain, self.request.name)

    @property
    def has_twin_problem(self) -> bool:
        """Whether anything of a forgotten class is left to predict easy."""
        return set(self.problem.whole_classes) != set(self.problem.target_classes)

    @functools.cached_property
    def twin_model(self) -> Node:
        settings, problem = self.settings.twin_settings, self.problem
        produced_by = {
            **self._of_part("twin_model"),
            "heldout": problem.heldout.indices,
            "train": problem.train.indices,
            "split_seed": self.request.seeds.split,
        }
        images = settings.twin_replay * len(problem.train) + len(problem.heldout)
        return Node("twin_model", "twin model", produced_by, settings.twin_recipe.epochs * images)

    @functools.cached_property
    def curriculum(self) -> Node:
        settings, problem = self.settings.twin_settings, self.problem
        produced_by = {
            **self._of_part("curriculum"),
            "train": problem.train.indices,
            "exclude": self.request.shared_forget,
        }
        work = settings.curriculum_share * settings.curriculum_epochs * len(problem.train)
        if settings.curriculum == "first_epoch":
            produced_by |= {"twin": self.twin_model.stage, "forget": problem.forget.indices}
            work = len(problem.train) + len(problem.retain)
        return Node("curriculum", "curriculum model", produced_by, work)

    @functools.cached_property
    def features(self) -> Node:
        settings, problem = self.settings.twin_settings, self.problem
        produced_by = {
            **self._of_part("features"),
            "twin": self.twin_model.stage,
            "curriculum": self.curriculum.stage,
            "forget": problem.forget.indices,
            "heldout": problem.heldout.indices,
            "train": problem.train.indices,
        }
        attacked = len(settings.eps_candidates) * len(problem.heldout) + len(problem.forget)
        bank = 2 * len(problem.train) * len(problem.target_classes) / problem.num_classes
        work = ATTACK_SHARE * settings.attack_steps * attacked + PASS_SHARE * bank
        return Node("features", "features", produced_by, work)

    @functools.cached_property
    def prediction(self) -> Node:
        return Node("prediction", "predictor", {**self._of_part("predictor"), "features": self.features.stage}, 0)

    def method(self, name: str) -> Node:
        """The model after one method."""
        problem, recipe = self.problem, self.recipe_of(name)
        produced_by = {
            "original": self.original.stage,
            "method": name,
            "recipe": dataclasses.asdict(recipe) if recipe is not None else None,
            "forget": problem.forget.indices,
            "train": problem.train.indices,
            "seed": self.request.seeds.unlearning,
        }
        if name in TWIN_METHODS and self.has_twin_problem:
            produced_by["prediction"] = self.prediction.stage
        of_retain, of_forget = STREAM_SHARES.get(name, (1, 1))
        images = of_retain * len(problem.retain) + of_forget * len(problem.forget)
        return Node(name, name, produced_by, images * (recipe.epochs if recipe is not None else 1))

    def recipe_of(self, name: str) -> Recipe | None:
        """How a method fine-tunes; None where it takes no recipe."""
        takes = inspect.signature(METHODS[name]).parameters
        recipe = takes["recipe"].default if "recipe" in takes else None
        if not isinstance(recipe, Recipe):
            return None
        return dataclasses.replace(
            recipe,
            learning_rate=self.settings.unlearning_rate_factor * recipe.learning_rate,
            schedule=self.settings.unlearning_schedule or recipe.schedule,
        )

    def nodes(self, todo: Sequence[str]) -> list[Node]:
        """Every stage that the methods of a request need, parents first, each once.

        Args:
          todo: names in `METHODS`, and `FLOORS`.
        """
        found = [self.original, self.gold]
        for name in todo:
            if name == FLOORS:
                found.append(self.second_gold)
            elif name in TWIN_METHODS:
                if self.has_twin_problem:
                    found += [self.twin_model, self.curriculum, self.features, self.prediction]
                found += [self.method(name)] if self.settings.unlearn else []
            elif name not in ("original", "retrain"):
                found.append(self.method(name))
        return list({node.stage: node for node in found}.values())

    def evaluations(self, todo: Sequence[str]) -> dict[tuple[str, str], float]:
        """Work of running each evaluated model, in images trained on, by its stage and the sets it is run on."""
        sets = [getattr(self.problem, name).indices for name in ("test", "forget", "retain", "heldout")]
        models = {self.gold.stage}
        for name in todo:
            if name == FLOORS:
                models |= {self.second_gold.stage, self.original.stage}
            elif name == "original":
                models.add(self.original.stage)
            elif name != "retrain" and self.settings.unlearn:
                models.add(self.method(name).stage)
        where = stage_hash({str(i): indices for i, indices in enumerate(sets)})
        return {(model, where): PASS_SHARE * sum(map(len, sets)) for model in models}

    def _of_part(self, part: str) -> dict[str, Any]:
        return {
            "original": self.original.stage,
            "settings": self.settings.twin_settings.part(part),
            "seed": self.request.seeds.unlearning,
        }
