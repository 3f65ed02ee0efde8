r"""Tune every method by rehearsal, with as many tries each, and never by gold; gold judges what that came to.

Run it as `python -m experiments.tune`. The first try is the published recipe, the others are spread over the method's
ranges (`Method.ranges`). Each is rehearsed on held-out images and the twin model; then it is run on the request itself,
and the report says what the choice came to, beside the published recipe and beside what a choice by gold would have
reached. `recipes.json` in the output folder holds what was chosen, with every try; `tmu_jax.tuned` reads it, and
`python -m experiments.compare --recipes FILE` compares with it.

The recipes that ship, of a tenth of CIFAR-10, took an hour beside other work on two CPU cores:

    python -m experiments.tune --preset fast --arch small_resnet --num-train 5000 --num-forget 50 --tries 4 --folds 2 \
        --methods finetune negative_gradient random_labeling bad_teacher bank_labels rewarm soft_twin rewarm_twin \
        rewarm_rehearsed ssd scrub salun l1_sparse

    nine of 13 choices are gold's own; not peeking costs 0.2 points of misalignment in the mean
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import FAST, FROM_BANK, PAPER, QUICK, DataOptions, RequestOptions, RunOptions
from experiments.protocol.settings import Settings
from experiments.report import tune as report_tune
from tmu_jax.data import Dataset
from tmu_jax.preparation import BankSettings
from tmu_jax.preparation.tuning import MOST_TRIES
from tmu_jax.resuming import leave
from tmu_jax.unlearning import METHODS

COMBINED = {"requests": "combined"}


@dataclasses.dataclass(frozen=True)
class Options(RequestOptions, RunOptions, DataOptions):
    """Tune every method by rehearsal, and measure what that came to.

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; methods, seeds and tries may be added.
    """

    dataset: Literal["auto", "cifar10", "cifar100", "synthetic"] = "auto"  # type: ignore[assignment]
    """Images: auto takes CIFAR-10 where it is found on this machine, else the embedded synthetic set. Of cifar100 name
    some --classes, or images of all hundred are forgotten."""
    methods: tuple[str, ...] = ("all",)
    """Methods that have ranges, by name, or all of them."""
    tries: int = 6
    """Recipes of each method, the published one among them."""
    folds: int = 0
    """K: parts of D; each model of the bank is trained without one. 0: no bank, and no method that learns from one."""
    repetitions: int = 2
    """R: how often D is split anew."""
    epochs_share: float = 0.5
    """Epochs of a bank's model, as a share of the original's."""


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """An arm for each try; the first is the published recipe.

    Raises:
      ValueError: for a method that has nothing to tune, or no rehearsal.
    """
    if not 1 <= options.tries <= MOST_TRIES:
        raise ValueError(f"tries={options.tries} must lie in 1..{MOST_TRIES}")
    bank = BankSettings(options.folds, options.repetitions, options.epochs_share)
    has_bank = options.folds > 0
    known = [name for name, method in METHODS.items() if method.ranges and (has_bank or method.needs not in FROM_BANK)]
    methods = known if options.methods == ("all",) else list(options.methods)
    for name in methods:
        if name not in known:
            raise ValueError(f"methods holds {name!r}, which this run cannot tune; all, or of {' '.join(known)}")
    base = dataclasses.replace(settings, methods=("original", "retrain", *methods), bank=bank, by_class=False)
    return [
        dataclasses.replace(
            base,
            attempt=number,
            variant=f"try {number}",
            methods=base.methods if number == 0 else tuple(methods),
        )
        for number in range(options.tries)
    ]


EXPERIMENT = Experiment(
    name="tune",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets={"quick": QUICK, "fast": FAST | COMBINED, "paper": PAPER | COMBINED},
    arms=arms,
    body=report_tune.body,
    source=cifar("cifar10", "cifar100"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
