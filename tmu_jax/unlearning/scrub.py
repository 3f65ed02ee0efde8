"""SCRUB: a student leaves the original model, its teacher, on D_f, and stays with it on D_r; in turns.

    max:  − mean over D_f of KL(teacher ‖ student), while epoch < `max_epochs`
    min:  mean over D_r of α KL(teacher ‖ student) + γ CE(label, student)

Each epoch is a pass over D_f, while there is one, and then a pass over D_r. With `rewind` (SCRUB+R) the student of the
epoch is taken whose error on D_f is nearest to what the last one has on held-out images of the same classes.

The Kullback-Leibler divergence is that of outputs at a temperature T, times T², as in the authors' code; the paper's
formula is T = 1. There it is a cross-entropy with the teacher's outputs, but at another temperature it is no target
that the one loss could take, and the ascent has no bound: so SCRUB brings its losses.

Momentum starts anew with each pass. In the authors' code one optimiser goes through both kinds, so the first steps of
a descent go on with the ascent; the paper's steps are plain.

References:
  Kurmanji et al., Towards Unbounded Machine Unlearning, 2023 (arXiv 2302.09880), Eq. 3 and Algorithm 1; the settings
  are those of its code for CIFAR-10 as a whole.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from tmu_jax.data import ForgetProblem, Split
from tmu_jax.stages import PASS_WORK, Progress, ignore_progress
from tmu_jax.training import Recipe, Stream, TrainedModel, Variables, fit, one_hot, predict
from tmu_jax.unlearning.method import Method
from tmu_jax.unlearning.ranges import Range
from tmu_jax.unlearning.relabelling import equal_weights
from tmu_jax.unlearning.unlearned import UnlearnedModel, with_variables

RECIPE = Recipe(epochs=3, batch_size=256, learning_rate=5e-4, schedule="constant")


def divergence(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """T² KL(teacher ‖ student) of each image at temperature T, by both logits float32[n, classes]; float32[n]."""
    student_log = jax.nn.log_softmax(logits / temperature)
    teacher_log = jax.nn.log_softmax(teacher / temperature)
    return temperature**2 * jnp.sum(jnp.exp(teacher_log) * (teacher_log - student_log), axis=-1)


@dataclasses.dataclass(frozen=True)
class Ascent:
    """The loss of a max step; targets are the teacher's logits and the one-hot label, side by side."""

    temperature: float

    def __call__(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        teacher, _ = jnp.split(targets, 2, axis=-1)
        return -jnp.mean(weights * divergence(logits, teacher, self.temperature))


@dataclasses.dataclass(frozen=True)
class Descent:
    """The loss of a min step; targets as for `Ascent`."""

    alpha: float
    gamma: float
    temperature: float

    def __call__(self, logits: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        teacher, labels = jnp.split(targets, 2, axis=-1)
        cross_entropy = -jnp.sum(labels * jax.nn.log_softmax(logits), axis=-1)
        losses = self.alpha * divergence(logits, teacher, self.temperature) + self.gamma * cross_entropy
        return jnp.mean(weights * losses)


def run(
    problem: ForgetProblem,
    original: TrainedModel,
    key: jax.Array,
    *,
    recipe: Recipe,
    progress: Progress | None,
    alpha: float,
    gamma: float,
    temperature: float,
    max_epochs: int,
    forget_batch: int,
    rewind: bool,
) -> UnlearnedModel:
    """Ascends and descends, epoch by epoch.

    Args:
      problem: the request.
      original: the teacher, and where the student starts.
      key: a PRNG key.
      recipe: of the passes over D_r; those over D_f have its rates. A rate is of a whole epoch.
      progress: called with (steps done, steps in all), of each pass.
      alpha: weight of the divergence on D_r.
      gamma: weight of the cross-entropy on D_r.
      temperature: of both outputs in the divergence.
      max_epochs: epochs that begin with a pass over D_f.
      forget_batch: images in a step on D_f.
      rewind: takes the epoch by its error on D_f.

    Raises:
      ValueError: before any work, to rewind where no image is held out.
    """
    if rewind and not len(problem.heldout):
        raise ValueError("rewind=True needs held-out images of the forgotten classes, and the request has none")
    report = progress or ignore_progress
    teacher = np.zeros((len(problem.pool.labels), problem.num_classes), np.float32)
    for split in (problem.forget, problem.retain):
        teacher[split.indices] = predict(original, split)[0]
    targets = np.concatenate([teacher, one_hot(problem.pool.labels, problem.num_classes)], axis=1)
    rates = recipe.learning_rates(recipe.epochs)
    keys = jax.random.split(key, (recipe.epochs, 2))
    student, losses, students = original.variables, [], []
    for epoch in range(recipe.epochs):
        passes: list[tuple[Split, int, Ascent | Descent]] = [
            (problem.retain, recipe.batch_size, Descent(alpha, gamma, temperature))
        ]
        if epoch < max_epochs:
            passes.insert(0, (problem.forget, forget_batch, Ascent(temperature)))
        for (split, batch_size, loss), own_key in zip(passes, keys[epoch], strict=False):
            student, found = fit(
                original.module,
                student,
                original.normalization,
                problem.pool,
                Stream((split.indices,)),
                targets,
                equal_weights(problem),
                dataclasses.replace(
                    recipe, epochs=1, batch_size=batch_size, learning_rate=float(rates[epoch]), schedule="constant"
                ),
                own_key,
                progress=report,
                loss=loss,
            )
        losses += found
        students.append(student)
    if not rewind:
        return with_variables(original, student, losses)
    return rewound(problem, original, students, losses)


def rewound(
    problem: ForgetProblem, original: TrainedModel, students: list[Variables], losses: list[float]
) -> UnlearnedModel:
    """The student whose error on D_f is nearest to the last one's on held-out images; the earlier one of equals."""
    models = [dataclasses.replace(original, variables=student) for student in students]
    reference = error(models[-1], problem.heldout)
    errors = [error(model, problem.forget) for model in models]
    taken = int(np.argmin(np.abs(np.array(errors) - reference)))
    note = (
        f"rewound to epoch {taken + 1} of {len(students)}: {100 * errors[taken]:.1f} percent of the forgotten images "
        f"are wrong there, and {100 * reference:.1f} percent of the held-out ones in the end"
    )
    return with_variables(original, students[taken], losses, [note])


def error(model: TrainedModel, split: Split) -> float:
    """Share of a split's images that are classified wrongly."""
    return float(np.mean(predict(model, split)[0].argmax(-1) != split.labels))


def check(alpha: float, gamma: float, temperature: float, max_epochs: int, forget_batch: int, rewind: bool) -> None:
    """Raises ValueError for options out of range."""
    for name, value in (("alpha", alpha), ("gamma", gamma)):
        if not value >= 0:
            raise ValueError(f"{name}={value} must be 0 or more")
    if not temperature > 0:
        raise ValueError(f"temperature={temperature} must be above 0")
    if max_epochs < 0 or max_epochs != int(max_epochs):
        raise ValueError(f"max_epochs={max_epochs} must be a whole number, 0 or more")
    if forget_batch < 2 or forget_batch != int(forget_batch):
        raise ValueError(f"forget_batch={forget_batch} must be a whole number of images, at least 2")
    if rewind not in (True, False):
        raise ValueError(f"rewind={rewind!r} must be True or False")


def draws_once(problem: ForgetProblem, max_epochs: int, **others: float) -> float:
    """Images of the passes over D_f, and the teacher's pass over D."""
    return max_epochs * len(problem.forget) + PASS_WORK * len(problem.train)


scrub = Method(
    "scrub",
    run=run,
    recipe=RECIPE,
    options={
        "alpha": 0.001,
        "gamma": 0.99,
        "temperature": 4.0,
        "max_epochs": 2,
        "forget_batch": 512,
        "rewind": False,
    },
    ranges={
        "alpha": Range(1e-4, 1.0, "log"),
        "max_epochs": Range(1, 3, "whole"),
        "forget_batch": Range(32, 512, "whole"),
        "learning_rate": Range(1e-4, 0.05, "log"),
        "epochs": Range(3, 5, "whole"),
    },
    check=check,
    draws=lambda problem, **options: len(problem.retain),
    draws_once=draws_once,
)
