"""Tables 1 and 3: forget images of each CIFAR-10 class, and compare every method with the retrained gold model.

Run it as `python -m experiments.cifar10`: the first lines printed say what this machine can do. `--preset quick` takes
minutes on a CPU; `--preset paper` is the whole protocol with ResNet-18 and ten requests, a GPU's work, and `--preset
fast` the same with originals and gold models trained in a third of the epochs; `--arch allcnn` and `--arch vit` are its
other architectures.

Not yet run at full size. What to expect of `small_resnet` on all of CIFAR-10, two seeds on two CPU cores, 12 minutes to
train a gold model and 12 for a twin request (`results/cifar10-small-resnet-cpu`):

    python -m experiments.cifar10 --preset paper --arch small_resnet --epochs 12 --batch-size 64 --learning-rate 0.05
        --schedule cosine --requests combined --seeds 0 1 --methods original retrain finetune random_labeling
        bad_teacher twin

    twin: A_t 81.07 ± 8.45, A_f 89.3 ± 32.4, gap 10.6 ± 13.3, agreement 83.2 ± 1.9, activation distance 0.306 ± 0.183
"""

import dataclasses
from collections.abc import Sequence

from experiments.protocol import command
from experiments.protocol.experiment import Experiment, cifar
from experiments.protocol.options import PRESETS, DataOptions, MethodOptions, RequestOptions, RunOptions
from tmu_jax.resuming import leave


@dataclasses.dataclass(frozen=True)
class Options(MethodOptions, RequestOptions, RunOptions, DataOptions):
    """Forget images of CIFAR-10 classes and measure how well each method agrees with retraining (the paper's Table 1).

    A preset only sets the defaults of the other options. Started again with the same --output, a run continues where
    it stopped; classes, seeds, methods and sizes may be added.
    """


EXPERIMENT = Experiment(
    name="cifar10",
    dataset="cifar10",
    title="CIFAR-10",
    num_train=50_000,
    presets=PRESETS,
    source=cifar("cifar10"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    return command.main(EXPERIMENT, Options, arguments)


if __name__ == "__main__":
    leave(main())
