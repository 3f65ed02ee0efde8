"""Whole unlearnings beside torchunlearn's: the cases and what each side is told. Plain data, without JAX or PyTorch."""

import dataclasses
from typing import Any

TORCHUNLEARN, TORCHUNLEARN_LAST = "torchunlearn", "torchunlearn, channels-last"
ACCURACIES = ("test_accuracy", "forget_accuracy")
PARTS = 16
"""D_f is one in so many of D, so that batches of both sides have it in this proportion and an epoch sees all once."""


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How large the unlearnings are.

    Attributes:
      batch: images of a step; with so many, D is 16 batches.
      fisher: images of D where both sides take them one by one, as often as there are classes.
      influence: images of D where our side goes over them again and again.
      num_test: test images.
      epochs: of the training of the original model.
    """

    batch: int
    fisher: int
    influence: int
    num_test: int
    epochs: int


SIZES = {"full": Sizes(64, 64, 256, 500, 6), "tiny": Sizes(16, 32, 64, 40, 20)}


@dataclasses.dataclass(frozen=True)
class Unlearning:
    """One method on both sides.

    Attributes:
      method: our name.
      rival: torchunlearn's.
      ours: our options.
      theirs: torchunlearn's, of its constructor or (without training) of its `fit`.
      learning_rate: of both sides.
      optimizer: of both sides.
      exact: the output that must agree number by number; None where the two draw or solve differently.
    """

    method: str
    rival: str
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)
    theirs: dict[str, Any] = dataclasses.field(default_factory=dict)
    learning_rate: float = 0.01
    optimizer: str = "sgd"
    exact: str | None = None


# Of a batch: torchunlearn weighs the means over the two sets, we weigh images.
_KEPT, _FORGOTTEN = 1 - 1 / PARTS, 1 / PARTS

UNLEARNINGS = (
    Unlearning("finetune", "Finetune", exact="logits"),
    Unlearning("negative_gradient", "NegGrad", {"alpha": 0.95}, {"retain_lambda": 0.95}, exact="logits"),
    Unlearning("random_labeling", "RandomLabel", theirs={"retain_lambda": _KEPT}),
    Unlearning("l1_sparse", "L1Sparse", {"gamma": 1e-4}, {"gamma": 1e-4}, exact="logits"),
    Unlearning("bad_teacher", "BadTeacher", {"retain_share": 1.0},
               {"retain_lambda": _KEPT, "forget_lambda": _FORGOTTEN}, 1e-4, "adam"),
    Unlearning("scrub", "SCRUB", {"alpha": 1.0, "gamma": 1.0, "temperature": 1.0, "max_epochs": 1}, {}, 5e-4),
    Unlearning("salun", "SalUn", {"share": 0.5},
               {"saliency_threshold": 0.5, "retain_lambda": _KEPT, "forget_lambda": _FORGOTTEN}),
    Unlearning("fisher", "FisherForget", {"alpha": 1e-7}, {"alphas": [1e-7], "repeat": 1}, exact="information"),
    Unlearning("influence", "Influence", {}, {"alphas": [1.0], "repeat": 1}),
)  # fmt: skip


def unlearning_cases(case: Any, name: str, on_cpu: bool) -> list[Any]:
    """A case for each method; `case` makes one, see `cases.cases`."""
    sizes, found = SIZES[name], []
    for one in UNLEARNINGS:
        num_train = {"fisher": sizes.fisher, "influence": sizes.influence}.get(one.method, PARTS * sizes.batch)
        settings = {"arch": "small_resnet", "num_train": num_train, "num_test": sizes.num_test,
                    "num_forget": num_train // PARTS, "training_epochs": sizes.epochs, "batch": sizes.batch,
                    **dataclasses.asdict(one)}  # fmt: skip
        # Both draw their own labels, noise and networks, and some of theirs is another algorithm.
        most = 100.0 if name == "tiny" else 15.0
        # Of FisherForget's noise only what it is laid by is ours: accuracies on few images say nothing beside it.
        tolerances = {accuracy: ("absolute", most) for accuracy in ACCURACIES if one.method != "fisher"}
        if one.exact is not None:
            tolerances[one.exact] = ("relative", 2e-2 if on_cpu else 1e-1)
        # These two flatten gradients as they can in PyTorch's default layout alone.
        layouts = (TORCHUNLEARN,) if one.method in ("salun", "influence") else (TORCHUNLEARN, TORCHUNLEARN_LAST)
        found.append(
            case(f"unlearning-{one.method}", "unlearning", settings, "unlearning", layouts, tolerances, is_long=True)
        )
    return found
