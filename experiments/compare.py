r"""Every method and floor under one protocol: alignment with gold against cost, as published and tuned by rehearsal.

Run it as `python -m experiments.compare`. Three requests: images drawn at random from all classes, a part of one class,
and a whole class. Each method runs with its published recipe and with the one that `python -m experiments.tune` chose
for it without looking at gold. The report gives every readout, ranks with their intervals over the seeds, which pairs
differ, and alignment against seconds.

Images at random of a tenth of CIFAR-10 (`results/compare-cifar10-5000-small-resnet-cpu`), an hour on two CPU cores:

    python -m experiments.compare --preset fast --arch small_resnet --num-train 5000 --scenarios random --share 0.1 \
        --seeds 0 1 2

    rewarm_twin, tuned: gap 2.3, agreement 71.0, distance .409 (a second gold: 1.7, 74.0, .399)

and of other trainings with --twin-model (`results/compare-known-cifar10-5000-small-resnet-cpu`), four minutes a seed:

    rewarm_twin, tuned: gap 1.9, agreement 73.3, distance .397 (a second gold: 0.9, 72.7, .413)

Of all of it (`results/compare-cifar10-small-resnet-cpu`, without `fisher`, `influence`, `ntk` and four more), 95
and 103 minutes a seed beside other work:

    python -m experiments.compare --preset fast --arch small_resnet --scenarios random --seeds 0 1

    finetune, tuned: gap 2.4, agreement 88.6, distance .199 (a second gold: 1.2, 87.1, .210)
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import FAST, FROM_BANK, PAPER, QUICK, DataOptions, RunOptions
from experiments.protocol.settings import Settings, recipes_name
from experiments.report import compare as report_compare
from tmu_jax.data import Dataset
from tmu_jax.preparation import BankSettings
from tmu_jax.resuming import leave
from tmu_jax.unlearning import METHODS
from tmu_jax.unlearning.shipped import SHIPPED, read_recipes

Scenario = Literal["random", "part", "class"]
PUBLISHED = "published"


@dataclasses.dataclass(frozen=True)
class Options(RunOptions, DataOptions):
    """Compare every method and floor, as published and tuned by rehearsal, in three kinds of request.

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; methods, seeds, scenarios and recipes may be added.
    """

    dataset: Literal["auto", "cifar10", "cifar100", "synthetic"] = "auto"  # type: ignore[assignment]
    """Images: auto takes CIFAR-10 where it is found on this machine, else the embedded synthetic set. Of cifar100 name
    some --classes, or images of all hundred are forgotten."""
    methods: tuple[str, ...] = ("all",)
    """Methods, by name, or all of them; those that learn from a bank are left out where --folds is 0."""
    scenarios: tuple[Scenario, ...] = ("random", "part", "class")
    """random: a share of the images of every class, in one request. part: a part of the first of --classes. class: all
    of it."""
    share: float | None = None
    """Of the images of each class, in "random". Default: 0.1 in quick, else 0.02."""
    part: float = 0.2
    """Of the images of the class, in "part"."""
    recipes: tuple[str, ...] = (PUBLISHED, SHIPPED)
    """Which recipes the methods have: published, and the name of tuned ones that ship or a file that experiments.tune
    wrote. Methods without anything to tune run as published alone."""
    folds: int = 2
    """K: parts of D; each model of the bank is trained without one. 0: no bank."""
    repetitions: int = 2
    """R: how often D is split anew."""
    epochs_share: float = 0.5
    """Epochs of a bank's model, as a share of the original's."""
    twin_model: bool = False
    """Also train a twin model, so that what the bank says of an image rests on how well the image is known too, as in
    tmu_jax.forget. It costs as much as a retraining, once for all requests."""


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """An arm for each scenario and set of recipes.

    Raises:
      ValueError: for a scenario, share, method or recipe that cannot be.
    """
    for name in ("scenarios", "recipes"):
        values = getattr(options, name)
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name}={list(values)} must name at least one, each once")
    names = [recipes if recipes == PUBLISHED else recipes_name(recipes) for recipes in options.recipes]
    if len(set(names)) < len(names):
        raise ValueError(f"recipes={list(options.recipes)} holds the same recipes twice")
    for name in ("share", "part"):
        if not 0 < getattr(options, name) < 1:
            raise ValueError(f"{name}={getattr(options, name)} must lie between 0 and 1: it is a share of a class")
    possible = [name for name, method in METHODS.items() if options.folds or method.needs not in FROM_BANK]
    methods = tuple(possible if options.methods == ("all",) else options.methods)
    for name in methods:
        if name in METHODS and name not in possible:
            raise ValueError(f"folds=0 leaves no bank, but {name} would learn from one; leave it out")
    if options.twin_model and not options.folds:
        raise ValueError("twin_model=True has no use beside folds=0: it is for what a bank says")
    bank = BankSettings(options.folds, options.repetitions, options.epochs_share)
    base = dataclasses.replace(settings, requests="combined", bank=bank, twin_model=options.twin_model, by_class=False)
    found = []
    for scenario in options.scenarios:
        asked = _asked(base, scenario, options, data)
        for name, recipes in zip(names, options.recipes, strict=True):
            arm = dataclasses.replace(asked, variant=f"{scenario}, {name}", methods=methods)
            if recipes != PUBLISHED:
                tuned = read_recipes(recipes)
                own = tuple(name for name in methods if name in tuned)
                if not own:
                    raise ValueError(f"recipes={recipes!r} hold none of the methods; they have: {', '.join(tuned)}")
                arm = dataclasses.replace(arm, recipes=recipes, methods=own)
            found.append(arm)
    return found


def _asked(base: Settings, scenario: Scenario, options: Any, data: Dataset) -> Settings:
    """The settings of a scenario's request."""
    sizes = np.bincount(data.train_labels, minlength=data.num_classes)[list(base.classes)]
    if scenario == "random":
        return dataclasses.replace(base, num_forget=max(1, round(options.share * int(sizes.min()))))
    count: Any = "all" if scenario == "class" else max(1, round(options.part * int(sizes[0])))
    return dataclasses.replace(base, classes=base.classes[:1], num_forget=count)


def describe(settings: Settings, options: Any) -> list[str]:
    """What the requests are: the paper has one kind, 100 images of each class in turn."""
    words = {
        "random": f"{100 * options.share:g} % of every class at random",
        "part": f"{100 * options.part:g} % of a class",
        "class": "a whole class",
    }
    known = ["a bank that also sees how well an image is known"] if options.twin_model else []
    return [f"requests of {words[name]}" for name in options.scenarios] + known


def _preset(values: dict[str, Any], share: float) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in ("requests", "num_forget")} | {"share": share}


EXPERIMENT = Experiment(
    name="compare",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets={"quick": _preset(QUICK, 0.1), "fast": _preset(FAST, 0.02), "paper": _preset(PAPER, 0.02)},
    arms=arms,
    describe=describe,
    body=report_compare.body,
    source=cifar("cifar10", "cifar100"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
