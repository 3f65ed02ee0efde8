"""SCRUB's passes against plain gradient steps in NumPy, and what rewinding takes."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tmu_jax
from tests.preparation.made import gathered_rows
from tests.unlearning import linear
from tmu_jax.stages import PASS_WORK
from tmu_jax.training import Recipe
from tmu_jax.unlearning import scrub

KEY = jax.random.key(5)
ALPHA, GAMMA, TEMPERATURE = 0.3, 0.7, 2.0
OPTIONS = {"alpha": ALPHA, "gamma": GAMMA, "temperature": TEMPERATURE, "max_epochs": 2, "forget_batch": 16}


@pytest.fixture(scope="module")
def made():
    return linear.made()


def divergence(teacher, logits):
    """Of each image, in sums."""
    p, q = linear.softmax(teacher / TEMPERATURE), linear.softmax(logits / TEMPERATURE)
    return TEMPERATURE**2 * (p * (np.log(p) - np.log(q))).sum(-1)


def test_its_epochs_are_the_published_ones(made):
    """Each pass is one step on the whole set: max, min, max, min, min."""
    problem, original = made
    rate, decay = 0.4, 0.01
    recipe = Recipe(
        epochs=3, batch_size=len(problem.retain), learning_rate=rate, schedule="constant", weight_decay=decay
    )
    teacher = weights = linear.weights_of(original)
    (x_f, _), (x_r, y_r) = (
        (linear.inputs(problem, original, rows), linear.labels(problem, rows))
        for rows in (problem.forget.indices, problem.retain.indices)
    )

    def away_from_the_teacher(weights, x):
        """The gradient of T² KL by the logits is T (q − p)."""
        p, q = (linear.softmax(linear.logits(one, x) / TEMPERATURE) for one in (teacher, weights))
        return TEMPERATURE * (q - p)

    for epoch in range(3):
        if epoch < 2:
            ascent = linear.backward(x_f, -away_from_the_teacher(weights, x_f))
            weights = weights.plus(ascent.plus(weights, decay), -rate)
        label_part = linear.gradient(weights, x_r, y_r)
        teacher_part = linear.backward(x_r, away_from_the_teacher(weights, x_r))
        both = linear.Weights(*(ALPHA * t + GAMMA * c for t, c in zip(teacher_part, label_part, strict=True)))
        weights = weights.plus(both.plus(weights, decay), -rate)
    found = tmu_jax.unlearn("scrub", problem, original, key=KEY, recipe=recipe, **OPTIONS)
    linear.close(found, weights)
    assert len(found.losses) == 3


@pytest.mark.parametrize("epochs", [2, 5])
def test_its_work_is_the_images_that_it_draws(made, epochs, monkeypatch):
    problem, original = made
    own = tmu_jax.METHODS["scrub"]
    recipe = dataclasses.replace(own.recipe, batch_size=4, epochs=epochs)
    with gathered_rows(monkeypatch) as rows:
        tmu_jax.unlearn("scrub", problem, original, key=KEY, recipe=recipe, forget_batch=4)
    drawn = sum(part.size for part in rows)
    assert drawn == recipe.epochs * len(problem.retain) + 2 * len(problem.forget)
    assert own.configured(recipe).work(problem) == pytest.approx(drawn + PASS_WORK * len(problem.train))


def test_the_losses_are_the_published_sums():
    rng = np.random.default_rng(0)
    logits, teacher = rng.normal(size=(2, 6, 4))
    labels = np.eye(4)[rng.integers(0, 4, 6)]
    arrays = [jnp.asarray(a, jnp.float32) for a in (logits, np.concatenate([teacher, labels], 1), np.ones(6))]
    cross_entropy = -(labels * np.log(linear.softmax(logits))).sum(-1).mean()
    kl = divergence(teacher, logits).mean()
    np.testing.assert_allclose(scrub.Ascent(TEMPERATURE)(*arrays), -kl, rtol=1e-5)
    expected = ALPHA * kl + GAMMA * cross_entropy
    np.testing.assert_allclose(scrub.Descent(ALPHA, GAMMA, TEMPERATURE)(*arrays), expected, rtol=1e-5)


def shifted(original, shift):
    """The same model with more of class 0: the more, the more images of other classes are wrong."""
    dense = original.variables["params"]["Dense_0"]
    return {"params": {"Dense_0": {**dense, "bias": dense["bias"] + jnp.array([shift, 0, 0, 0], jnp.float32)}}}


def test_rewinding_takes_the_epoch_nearest_to_the_held_out_error(made):
    problem, original = made
    students = [shifted(original, shift) for shift in (0.0, 1.0, 8.0, 2.0)]

    def error(student, split):
        model = dataclasses.replace(original, variables=student)
        answers = linear.logits(linear.weights_of(model), linear.inputs(problem, model, split.indices)).argmax(-1)
        return (answers != split.labels).mean()

    errors = np.array([error(student, problem.forget) for student in students])
    reference = error(students[-1], problem.heldout)
    nearest = np.argmin(np.abs(errors - reference))
    assert nearest not in (3, np.argmin(errors), np.argmax(errors))
    found = scrub.rewound(problem, original, students, [1.0, 2.0])
    chex.assert_trees_all_equal(found.variables, students[nearest])
    assert found.losses == (1.0, 2.0)
    assert found.notes[0].startswith(f"rewound to epoch {nearest + 1} of 4: {100 * errors[nearest]:.1f} percent")
    assert f"{100 * reference:.1f} percent of the held-out" in found.notes[0]


def test_rewinding_is_asked_for(made):
    problem, original = made
    recipe = Recipe(epochs=1, batch_size=len(problem.retain), learning_rate=0.1, schedule="constant")
    notes = [
        tmu_jax.unlearn("scrub", problem, original, key=KEY, recipe=recipe, **OPTIONS, rewind=rewind).notes
        for rewind in (False, True)
    ]
    assert notes[0] == ()
    assert notes[1][0].startswith("rewound to epoch 1 of 1")
    bare = dataclasses.replace(problem, heldout=tmu_jax.data.Split(problem.pool, np.zeros(0, np.int32)))
    with pytest.raises(ValueError, match="rewind=True needs held-out images"):
        scrub.run(bare, original, KEY, recipe=recipe, progress=None, **OPTIONS, rewind=True)


def test_bad_options_get_one_line(made):
    problem, original = made
    for options, said in (
        ({"alpha": -1.0}, "alpha=-1.0 must be 0 or more"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"max_epochs": 1.5}, "max_epochs=1.5 must be a whole number, 0 or more"),
        ({"forget_batch": 1}, "forget_batch=1 must be a whole number of images, at least 2"),
        ({"rewind": "yes"}, "rewind='yes' must be True or False"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("scrub", problem, original, key=KEY, **options)
