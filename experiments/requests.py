r"""Prepare once, forget many: how near each method comes to gold for 1 to 20 % of retraining, and what was foretold.

Run it as `python -m experiments.requests`. Every recipe is chosen by rehearsal, on held-out images and the twin model;
gold only judges. The report gives alignment against cost, what the rehearsal promised beside what came true, the labels
of several banks, and requests in turn.

On all of CIFAR-10, three seeds (`results/requests-cifar10-small-resnet-cpu`), without a bank, in the time of some 20
trainings of five to eight minutes on two CPU cores:

    python -m experiments.requests --preset fast --arch small_resnet --folds 0 --baselines original retrain \
        --within rewarm rewarm_rehearsed --budgets 0.05 0.1 0.2 --seeds 0 1 2

    rewarm, 20 %: A_t 82.97, gap 3.2, agreement 88.2, distance .192 (a second gold: 81.64, 0.8, 87.8, .203; means)

and with one (`results/requests-known-cifar10-small-resnet-cpu`), 40 minutes a seed:

    python -m experiments.requests --preset fast --arch small_resnet --folds 2 --baselines original retrain \
        --within rewarm_twin soft_twin --budgets 0.02 0.05 0.1 0.2 --seeds 1 2 0

    soft_twin, 5 %: A_t 81.64, gap 2.9, agreement 87.2, distance .196 (a second gold: 81.83, 0.2, 87.8, .202; means)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import FAST, PAPER, QUICK, DataOptions, RequestOptions, RunOptions
from experiments.protocol.settings import Settings
from experiments.report import requests as report_requests
from tmu_jax import unlearning
from tmu_jax.data import Dataset
from tmu_jax.preparation import BankSettings, candidates
from tmu_jax.resuming import leave

METHODS = ("rewarm", "rewarm_rehearsed", "rewarm_twin", "soft_twin")
COMBINED = {"requests": "combined"}


@dataclasses.dataclass(frozen=True)
class Options(RequestOptions, RunOptions, DataOptions):
    """Prepare once, forget many: alignment with gold against the cost of a request, and whether it was foretold.

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; seeds, budgets and banks may be added.
    """

    dataset: Literal["auto", "cifar10", "cifar100", "synthetic"] = "auto"  # type: ignore[assignment]
    """Images: auto takes CIFAR-10 where it is found on this machine, else the embedded synthetic set. Of cifar100 name
    some --classes, or images of all hundred are forgotten."""
    budgets: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2)
    """Shares of retraining that a request may cost."""
    baselines: tuple[str, ...] = ("original", "retrain", "finetune", "twin", "bank_labels")
    """Methods with their own recipes, whatever they cost."""
    within: tuple[str, ...] = METHODS
    """Methods whose recipes are chosen within each budget."""
    folds: int = 2
    """K: parts of D; each model of the bank is trained without one. 0: no bank."""
    repetitions: int = 2
    """R: how often D is split anew."""
    epochs_share: float = 0.5
    """Epochs of a bank's model, as a share of the original's."""
    banks: tuple[str, ...] = ()
    """Further banks, whose labels alone are measured: R x K x share, such as 1x4x0.3."""
    in_turn: int = 0
    """Also cut the request into so many, one after another. Default: 0, not."""
    in_turn_budgets: tuple[float, ...] = (0.05,)
    """Shares of retraining that those may cost together."""


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """The baselines, an arm for each budget, each of requests in turn, and each further bank.

    Raises:
      ValueError: for a number of images, a budget or a bank that cannot be.
    """
    bank = BankSettings(options.folds, options.repetitions, options.epochs_share)
    # The report reads the request as a whole; what it holds of a class the answers on the images tell.
    base = dataclasses.replace(settings, methods=tuple(options.baselines), bank=bank, by_class=False)
    assert isinstance(settings.num_forget, int)  # as the option is
    forgotten = len(settings.classes) * settings.num_forget
    if forgotten < 1:
        raise ValueError(f"num_forget={settings.num_forget} must be at least 1")
    if not 0 <= options.in_turn <= forgotten:
        raise ValueError(f"in_turn={options.in_turn} must lie in 0..{forgotten}, the forgotten images")
    unknown = [name for name in options.within if name not in METHODS]
    if unknown:
        raise ValueError(f"within holds {unknown[0]!r}; choose among {', '.join(METHODS)}")
    learners = {name for name, method in unlearning.METHODS.items() if method.needs in ("bank", "datamodels")}
    banked = [name for name in (*options.within, *options.baselines) if name in learners]
    if banked and not options.folds:
        raise ValueError(
            f"folds=0 leaves no bank, but {', '.join(banked)} would learn from one; leave out those methods"
        )
    asked = dataclasses.replace(base, methods=tuple(options.within))
    found = [base]
    for budget in options.budgets:
        found.append(_within(asked, budget, forgotten, 0))
    for budget in options.in_turn_budgets if options.in_turn else ():
        found.append(_within(asked, budget, forgotten, options.in_turn))
    for name in options.banks:
        found.append(
            dataclasses.replace(
                base, bank=bank_named(name), methods=("bank_labels",), unlearn=False, variant=f"bank {name}"
            )
        )
    return found


def _within(base: Settings, budget: float, forgotten: int, in_turn: int) -> Settings:
    """The arm of a budget, with those of its methods that the budget buys."""
    count = in_turn or 1
    known = candidates(base.recipe, base.num_train - forgotten, -(-forgotten // count), budget / count)
    methods = tuple(name for name in base.methods if any(method.name == name for method in known))
    variant = f"{100 * budget:g} %" + (f" in {in_turn} requests" if in_turn else "")
    return dataclasses.replace(base, budget=budget, in_turn=in_turn, methods=methods, variant=variant)


def bank_named(name: str) -> BankSettings:
    """The bank that an option names.

    Raises:
      ValueError: for a name that is none.
    """
    parts = name.split("x")
    try:
        repetitions, folds, share = int(parts[0]), int(parts[1]), float(parts[2])
    except (ValueError, IndexError):
        raise ValueError(f"banks holds {name!r}; write R x K x share of the epochs, such as 2x2x0.5") from None
    return BankSettings(folds, repetitions, share)


EXPERIMENT = Experiment(
    name="requests",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets={"quick": QUICK, "fast": FAST | COMBINED, "paper": PAPER | COMBINED},
    arms=arms,
    body=report_requests.body,
    source=cifar("cifar10", "cifar100"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
