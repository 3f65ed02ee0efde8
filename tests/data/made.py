"""Data sets of random images, and what must hold of every request."""

import numpy as np

from tmu_jax.data import Dataset


def make_data(num_train: int = 1000, num_test: int = 200, num_classes: int = 10, side: int = 8) -> Dataset:
    """Balanced classes of random images, no two alike, so that a copy can be traced to its source."""
    rng = np.random.default_rng(0)

    def split(count: int) -> tuple[np.ndarray, np.ndarray]:
        images = rng.integers(0, 256, (count, side, side, 3), np.uint8)
        return images, rng.permutation(np.arange(count) % num_classes).astype(np.int32)

    return Dataset("made", "arrays", *split(num_train), *split(num_test), tuple(f"c{c}" for c in range(num_classes)))


def make_large_data(num_train: int = 50_000, num_test: int = 10_000, num_classes: int = 10) -> Dataset:
    """CIFAR-10's sizes, with images of one pixel."""
    return Dataset(
        "large",
        "arrays",
        np.zeros((num_train, 1, 1, 1), np.uint8),
        (np.arange(num_train) % num_classes).astype(np.int32),
        np.zeros((num_test, 1, 1, 1), np.uint8),
        (np.arange(num_test) % num_classes).astype(np.int32),
        tuple(f"c{c}" for c in range(num_classes)),
    )


def rows(split) -> set[int]:
    values = split.indices.tolist()
    assert len(set(values)) == len(values)
    return set(values)


def check_algebra(data: Dataset, problem) -> None:
    train, forget, retain, heldout = map(rows, (problem.train, problem.forget, problem.retain, problem.heldout))
    assert forget | retain == train
    assert not forget & retain
    assert not heldout & train
    num_train = len(data.train_labels)
    assert rows(problem.test) == set(range(num_train, num_train + len(data.test_labels)))
    assert set(problem.forget.labels.tolist()) == set(problem.target_classes)
    assert set(problem.heldout.labels.tolist()) == set(problem.target_classes)
    assert (np.diff(problem.heldout.labels) >= 0).all()
    for split in (problem.train, problem.forget, problem.retain, problem.heldout, problem.test):
        assert split.pool is problem.pool
