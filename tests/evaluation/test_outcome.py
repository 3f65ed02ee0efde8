"""What became of forgotten images, on logits whose answer is known."""

import numpy as np
import pytest

from tmu_jax.evaluation.outcome import Expected, judge

LABELS = np.zeros(100, int)


def right_on(count, of=100, margin=2.0, seed=0):
    """Logits of two classes, right on the first `count` of class 0."""
    signs = np.where(np.arange(of) < count, 1.0, -1.0)
    return np.stack([signs * (margin + np.random.default_rng(seed).random(of)), np.zeros(of)], axis=1)


def gold(percent):
    return Expected(percent, 0.0, "known")


@pytest.mark.parametrize(
    ("before", "after", "expected", "state"),
    [
        (100, 99, 0, "nothing forgotten"),  # forty mislabelled images by `twin`
        (100, 0, 0, "forgotten"),
        (100, 50, 0, "partly"),
        (100, 80, 0, "nothing forgotten"),  # a fifth of what was to go
        (100, 70, 0, "partly"),
        (100, 4, 0, "forgotten"),
        (100, 82, 80, "forgotten"),
        (100, 95, 80, "partly"),
        (100, 97, 80, "nothing forgotten"),
        (80, 95, 80, "nothing forgotten"),  # learnt, if anything
        (99, 98, 97, "partly"),  # no more than chance apart before either: it cannot be told
    ],
)
def test_by_accuracy(before, after, expected, state):
    found = judge(right_on(before), right_on(after, seed=1), LABELS, gold(expected))
    assert found.state == state
    assert f"{before} % of them were right before, {after} % are after" in found.sentence


def test_of_few_images_chance_is_allowed_for():
    """Of four images 75 % right is not above an expected 50; of four hundred it is."""
    for repeats, state in ((1, "forgotten"), (100, "partly")):
        before, after = (np.repeat(right_on(count, 4), repeats, 0) for count in (4, 3))
        assert judge(before, after + 0.1, np.zeros(4 * repeats, int), gold(50)).state == state


def test_more_than_gold_is_said():
    assert "fewer than gold" in judge(right_on(100), right_on(20), LABELS, gold(80)).sentence


def test_an_untouched_model_has_forgotten_nothing_whatever_is_expected():
    for expected in (gold(0), gold(100), None):
        assert judge(right_on(100), right_on(100), LABELS, expected).state == "nothing forgotten"


@pytest.mark.parametrize(
    ("known", "left", "state"),
    [
        (6.0, 6.0, "nothing forgotten"),
        (6.0, 2.0, "forgotten"),
        (6.0, 3.2, "partly"),
        (2.0, 2.02, "forgotten"),
        (2.0, 6.0, "nothing forgotten"),
    ],
)
def test_where_accuracy_says_nothing_margins_do(known, left, state):
    """All are right, before and after, as gold is expected to be; margins of held-out images lie between 2 and 3."""
    heldout = right_on(100, margin=2.0, seed=2)
    before, after = right_on(100, margin=known), right_on(100, margin=left, seed=1)
    if state == "partly":
        after[:50] = right_on(50, 50, margin=2.0, seed=1)
    found = judge(before, after, LABELS, gold(100), (heldout, heldout, LABELS))
    assert found.state == state
    assert "AUC" in found.sentence


def test_images_of_an_easy_class_are_compared_with_that_class():
    """Drawn as the held-out images are, nine of ten of the class with the larger margins: nothing is left to see."""
    labels, heldout_labels = np.repeat([0, 1], [180, 20]), np.repeat([0, 1], [100, 100])

    def drawn(labels, seed):
        sure = np.where(labels == 0, 6.0, 2.0) + np.random.default_rng(seed).random(len(labels))
        return np.where(np.arange(2) == labels[:, None], sure[:, None], 0.0)

    heldout = (drawn(heldout_labels, 0), drawn(heldout_labels, 1), heldout_labels)
    found = judge(drawn(labels, 2), drawn(labels, 3), labels, gold(100), heldout)
    assert found.state == "forgotten"
    known = drawn(labels, 2) + 3.0 * np.eye(2)[labels]
    assert judge(known, drawn(labels, 3), labels, gold(100), heldout).state == "forgotten"
    assert judge(known, known + 1e-6 * np.eye(2)[0], labels, gold(100), heldout).state == "nothing forgotten"


def test_without_a_held_out_image_of_its_classes_it_cannot_be_told():
    heldout = right_on(100, seed=2)
    found = judge(right_on(100), right_on(100, seed=3), LABELS, gold(100), (heldout, heldout, np.ones(100, int)))
    assert found.state == "partly"
    assert "cannot be told" in found.sentence


@pytest.mark.parametrize("count", [1, 6])
def test_of_so_few_images_that_margins_cannot_tell_nothing_is_claimed(count):
    """Known by heart, and hardly changed: chance reaches an AUC of 100 for one image, of 73 for six."""
    heldout, labels = right_on(100, seed=2), np.zeros(count, int)
    before, known = right_on(count, count, margin=6.0), right_on(count, count, margin=2.2)
    for one in (before, known)[count > 1 :]:
        found = judge(one, one + 1e-6 * np.eye(2)[0], labels, gold(100), (heldout, heldout, LABELS))
        assert found.state == "partly"
        assert "cannot be told" in found.sentence


def test_where_nothing_is_known_of_gold():
    before = right_on(100)
    assert judge(before, right_on(40), LABELS, None).state == "partly"
    assert judge(before, right_on(100, seed=3), LABELS, None).state == "partly"
    assert judge(before, right_on(99), LABELS, None, is_harder=True).state == "nothing forgotten"
    assert judge(before, right_on(20), LABELS, None, is_harder=True).state == "partly"
