"""What the paper leaves open of the twin problem, or states once, as settings with their defaults.

References:
  Ji et al., Towards Aligned Data Removal via Twin Machine Unlearning, 2024 (arXiv 2408.11433).
"""

import dataclasses
from typing import Any, Literal, get_args

from tmu_jax.boundary import check_fields
from tmu_jax.training import Recipe
from tmu_jax.twin.features import FEATURES, Feature

TWIN_RECIPE = Recipe(epochs=5, batch_size=128, learning_rate=0.01, schedule="cosine")
FIRST_EPOCH_RECIPE = Recipe(epochs=1, batch_size=128, learning_rate=0.02, schedule="constant")

PARTS: dict[str, tuple[str, ...]] = {
    "twin_model": ("twin_recipe", "max_twin_epochs", "enough_accuracy", "twin_replay"),
    "curriculum": ("curriculum", "curriculum_epochs", "curriculum_share", "curriculum_data"),
    "features": ("num_neighbors", "bank", "normalize_embeddings", "attack_steps", "eps_candidates", "attack_order"),
    "predictor": ("features", "scaling", "min_scaling", "threshold", "predictor_batch_size", "predictor_epochs"),
}
"""Which settings each part of the twin problem depends on; a part depends on the ones before it as well."""

_ADDED = ("curriculum_data", "predictor_epochs")
"""Settings that parts were made without before: where they have the default, a part is called as it was then."""


CurriculumSource = Literal["fresh", "first_epoch"]
CurriculumData = Literal["unseen", "train", "train_and_heldout"]
NeighborBank = Literal["class", "all"]
AttackOrder = Literal["clean_target", "adversarial_target"]
Scaling = Literal["per_problem", "twin"]
Threshold = Literal["half", "count"]


@dataclasses.dataclass(frozen=True)
class TwinSettings:
    """What the paper leaves open or states once, with its values.

    Attributes:
      twin_recipe: fine-tuning of the twin model; `epochs` is the least number, and augmentation is the original's.
      max_twin_epochs: go on to so many epochs while the twin model's accuracy on D_test is below `enough_accuracy`.
      enough_accuracy: percent.
      twin_replay: share of D that the twin model is fine-tuned on beside D_test, in (0, 1].
      curriculum: where CF comes from: "fresh" (G_c, a fresh model trained briefly) or "first_epoch" (each problem's own
        model after one epoch of fine-tuning on its retain set, as the paper's introduction has it).
      curriculum_epochs: epochs of the curriculum model.
      curriculum_share: share of `curriculum_data` that it is trained on, in (0, 1].
      curriculum_data: what the curriculum model is drawn from: "unseen" (D without any forget or held-out image),
        "train" (all of D, D_f included) or "train_and_heldout" (D and D_test, so that it knows D_f and D_test alike).
      num_neighbors: nearest neighbours averaged by NF.
      bank: "class" (neighbours are of the sample's class) or "all" (of any class of the retain set).
      normalize_embeddings: whether NF divides each embedding by its L2 norm.
      attack_steps: steps of PGD.
      eps_candidates: L-infinity radii tried on the twin problem, in pixel units 0..1.
      attack_order: "clean_target" or "adversarial_target", the order of AF's cross-entropy.
      features: which of "NF", "AF", "CF" the predictor sees.
      scaling: "per_problem", "twin" (statistics of the twin problem for both), or None: per problem from
        `min_scaling` samples of a class on, the twin problem's below.
      min_scaling: see `scaling`.
      threshold: "half" (easy when p ≥ 0.5) or "count" (as many hard as M_o gets wrong of D_test, class by class).
      predictor_batch_size: samples a step of the predictor's training.
      predictor_epochs: its passes over D_test.
    """

    twin_recipe: Recipe = TWIN_RECIPE
    max_twin_epochs: int = 10
    enough_accuracy: float = 95.0
    twin_replay: float = 1.0
    curriculum: CurriculumSource = "fresh"
    curriculum_epochs: int = 2
    curriculum_share: float = 0.2
    curriculum_data: CurriculumData = "unseen"
    num_neighbors: int = 5
    bank: NeighborBank = "class"
    normalize_embeddings: bool = True
    attack_steps: int = 5
    eps_candidates: tuple[float, ...] = (0.25 / 255, 0.5 / 255, 1 / 255, 2 / 255, 4 / 255)
    attack_order: AttackOrder = "clean_target"
    features: tuple[Feature, ...] = FEATURES
    scaling: Scaling | None = None
    min_scaling: int = 20
    threshold: Threshold = "half"
    predictor_batch_size: int = 16
    predictor_epochs: int = 100

    def __post_init__(self) -> None:
        check_fields(self)
        at_least_one = ("max_twin_epochs", "curriculum_epochs", "num_neighbors", "attack_steps")
        for name in (*at_least_one, "predictor_batch_size", "predictor_epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if not (self.enough_accuracy == 0 or 1 < self.enough_accuracy <= 100):
            raise ValueError(f"enough_accuracy={self.enough_accuracy} must be a percentage, such as 95.0")
        for name in ("twin_replay", "curriculum_share"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be a share above 0 and at most 1")
        if not self.features or set(self.features) - set(FEATURES) or len(set(self.features)) < len(self.features):
            raise ValueError(f"features={self.features} must be one or more of {FEATURES}, each once")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r}; choose one of {', '.join(map(repr, choices))}")
        if not self.eps_candidates or not all(0 < eps <= 1 for eps in self.eps_candidates):
            raise ValueError(
                f"eps_candidates={self.eps_candidates} must be radii above 0 and at most 1, in pixel units"
            )

    def part(self, name: str) -> dict[str, Any]:
        """The settings that one part of the twin problem depends on, see `PARTS`."""
        default = {field.name: field.default for field in dataclasses.fields(self) if field.name in _ADDED}
        return {
            field: value
            for field, value in dataclasses.asdict(self).items()
            if field in PARTS[name] and not (field in default and value == default[field])
        }


_CHOICES: dict[str, tuple[str | None, ...]] = {
    "curriculum": get_args(CurriculumSource),
    "curriculum_data": get_args(CurriculumData),
    "bank": get_args(NeighborBank),
    "attack_order": get_args(AttackOrder),
    "scaling": (*get_args(Scaling), None),
    "threshold": get_args(Threshold),
}
DEFAULT_SETTINGS = TwinSettings()
