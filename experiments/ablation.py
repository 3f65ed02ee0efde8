"""Table 4: which of the three features tell a predictor whether a gold model gets a forgotten image right.

Run it as `python -m experiments.ablation`. Nothing is unlearned: each choice of features (NF, AF, CF, each pair, all
three) trains a predictor of its own on the twin problem, and is compared with the known labels there and with the gold
model's answers on the forgotten images. Models and features are those of `experiments.cifar10`, trained once.

Not yet run at full size. What to expect of `small_resnet` on all of CIFAR-10, two seeds on two CPU cores, where beside
the original and gold models of `experiments.cifar10` the twin models took 6 and 4 minutes, the curriculum models and
features 1.5 each seed, the predictors none (`results/ablation-small-resnet-cpu`):

    python -m experiments.ablation --preset paper --arch small_resnet --epochs 12 --batch-size 64 --learning-rate 0.05
        --schedule cosine --requests combined --seeds 0 1

    NF+AF+CF: accuracy on D_f 83.1 ± 2.5, AUC 83.3 ± 11.2 (call all easy: 81.8 ± 8.9; another gold: 86.5 ± 12.1)
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import PRESETS, DataOptions, RequestOptions, RunOptions
from experiments.protocol.settings import Settings
from experiments.report import ablation as report_ablation
from tmu_jax.data import Dataset
from tmu_jax.resuming import leave
from tmu_jax.twin.features import FEATURES


@dataclasses.dataclass(frozen=True)
class Options(RequestOptions, RunOptions, DataOptions):
    """Compare the features NF, AF and CF, each pair and all three, as predictors of the gold model (Table 4).

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds and sizes may be added.
    """


def arms(settings: Settings, options: Any, data: Dataset) -> list[Settings]:
    """One arm for each choice of features."""
    chosen = [names for count in (1, 2, 3) for names in itertools.combinations(FEATURES, count)]
    return [
        dataclasses.replace(
            settings,
            variant="+".join(names),
            methods=("twin",),
            unlearn=False,
            twin_settings=dataclasses.replace(settings.twin_settings, features=names),
        )
        for names in chosen
    ]


EXPERIMENT = Experiment(
    name="ablation",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets=PRESETS,
    arms=arms,
    body=report_ablation.body,
    source=cifar("cifar10"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
