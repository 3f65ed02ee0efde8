"""Selective synaptic dampening against its two formulas in NumPy."""

import jax
import numpy as np
import pytest

import tmu_jax
from tests.tiny import tiny_data
from tests.unlearning import linear

KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def made():
    return linear.made()


def importance(problem, original, groups):
    """Mean over groups of the squared gradient of a group's mean loss."""
    weights = linear.weights_of(original)
    squares = [
        [
            part**2
            for part in linear.gradient(weights, linear.inputs(problem, original, rows), linear.labels(problem, rows))
        ]
        for rows in groups
    ]
    return linear.Weights(*(np.mean(parts, axis=0) for parts in zip(*squares, strict=True)))


def grouped(rows, size):
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@pytest.mark.parametrize("group", [1, 7])
def test_it_is_the_published_rule(made, group):
    """Of 16 and 184 images, groups of seven leave a last one that is not full."""
    problem, original = made
    alpha, dampening = 1.5, 0.8
    forgotten = grouped(problem.forget.indices, group)
    of_forgotten = importance(problem, original, forgotten)
    of_all = importance(problem, original, forgotten + grouped(problem.retain.indices, group))
    expected, selected = [], 0
    for weight, f, d in zip(linear.weights_of(original), of_forgotten, of_all, strict=True):
        chosen = f > alpha * d
        expected.append(np.where(chosen, np.minimum(dampening * d / f, 1) * weight, weight))
        selected += chosen.sum()
    assert 10 < selected < 190
    found = tmu_jax.unlearn("ssd", problem, original, key=KEY, alpha=alpha, dampening=dampening, group=group)
    linear.close(found, linear.Weights(*expected))
    assert found.notes == (f"{selected} of 196 parameters were dampened",)


def test_a_factor_above_one_makes_nothing_larger(made):
    problem, original = made
    found = tmu_jax.unlearn("ssd", problem, original, key=KEY, alpha=0.5, dampening=0.9)
    before, after = (np.concatenate([part.ravel() for part in linear.weights_of(one)]) for one in (original, found))
    assert (np.abs(after) <= np.abs(before)).all()
    assert 0 < (after == before).sum() < 196


def test_of_more_than_its_share_of_d_nothing_is_selected(made):
    """F_D is at least |D_f| / |D| of F_f: of a tenth of D, alpha 10 selects nothing, and the note says why."""
    _, original = made
    problem = tmu_jax.data.forget_subset(tiny_data(), target_classes=[1], num_forget=20)
    found = tmu_jax.unlearn("ssd", problem, original, key=KEY)
    (note,) = found.notes
    assert note.startswith("0 of 196 parameters were dampened: alpha=10 can select none where a request is 1/10 of")


def test_bad_options_get_one_line(made):
    problem, original = made
    for options, said in (
        ({"alpha": 0.0}, "alpha=0.0 must be above 0"),
        ({"dampening": -1.0}, "dampening=-1.0 must be above 0"),
        ({"group": 0}, "group=0 must be a whole number of images, at least 1"),
        ({"group": 2.5}, "group=2.5 must be"),
    ):
        with pytest.raises(ValueError, match=said):
            tmu_jax.unlearn("ssd", problem, original, key=KEY, **options)
