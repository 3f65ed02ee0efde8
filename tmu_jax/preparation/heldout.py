"""Which test images stand for "never seen"."""

from collections.abc import Sequence

import jax
import numpy as np

from tmu_jax.data import Dataset
from tmu_jax.data.checks import check_rows


def heldout_rows(
    data: Dataset, heldout: int | Sequence[int] | np.ndarray, key: jax.Array, removed: np.ndarray | None = None
) -> np.ndarray:
    """Rows of the pool that are held out, int32[u], ascending.

    Args:
      data: the images.
      heldout: how many test images, in equal shares of the classes; or their rows in `data.test_images`.
      key: a PRNG key.
      removed: int32[k], rows of the pool, not to be held out.

    Raises:
      TypeError: for neither a number nor a sequence of integers.
      ValueError: rows out of range, removed or named twice, more images than there are, or a trained class without any.
    """
    num_train, labels = len(data.train_labels), data.test_labels
    removed = np.zeros(0, np.int32) if removed is None else removed
    if isinstance(heldout, int | np.integer):
        order = np.asarray(jax.random.permutation(key, len(labels)))
        order = order[~np.isin(num_train + order, removed)]
        if not 2 <= heldout <= len(order):
            raise ValueError(f"heldout={heldout} must be at least 2 and at most {len(order)}, the test images")
        # The first of every class, then the second of every class, and so on: equal shares as far as there are images.
        turn = np.empty(len(labels), np.int64)
        for c in np.unique(labels):
            of_class = order[labels[order] == c]
            turn[of_class] = np.arange(len(of_class))
        rows = order[np.argsort(turn[order], kind="stable")][:heldout]
    else:
        rows = check_rows("heldout", heldout, "the test images", len(labels))
        if len(rows) < 2:
            raise ValueError(f"heldout must name at least 2 of the {len(labels)} test images")
        gone = rows[np.isin(num_train + rows, removed)]
        if len(gone):
            raise ValueError(f"heldout holds {gone[0]}, the test image of a picture that was removed; leave it out")
    kept = np.setdiff1d(np.arange(num_train), removed)
    without = np.setdiff1d(data.train_labels[kept], labels[rows])
    if len(without):
        raise ValueError(f"heldout holds no image of class {data.class_names[without[0]]!r}; each class needs one")
    return np.sort(num_train + rows).astype(np.int32)
