"""From what a user asks for to rows that a preparation can forget."""

from collections.abc import Sequence

import numpy as np

from tmu_jax.data import ForgetProblem, Pool, Split
from tmu_jax.data.checks import check_rows, name_some
from tmu_jax.data.demand import equal, head


def rows_of_problem(problem: ForgetProblem, train: Split) -> np.ndarray:
    """The rows that a request made elsewhere asks for, where it is of a preparation's images.

    Args:
      problem: from `tmu_jax.data` or a `Ledger`.
      train: D of the preparation.

    Raises:
      ValueError: for other images, and where D holds images that the request does not train on.
    """
    if not _begins_with(problem.pool, train.pool):
        raise ValueError(
            "problem is of other images than the preparation; make it of the data set that `prepare` was given"
        )
    beyond = np.setdiff1d(train.indices, problem.train.indices)
    if len(beyond):
        advice = "ask with heldout_source='test'"
        if problem.heldout_source == "test":
            advice = "prepare with removed=ledger.removed(data)"
        raise ValueError(
            f"problem keeps {len(beyond)} images out of training that the preparation was made with, rows "
            f"{name_some(map(str, beyond))}; {advice}"
        )
    return problem.forget.indices


def _begins_with(pool: Pool, first: Pool) -> bool:
    """Whether a pool's first rows are another pool: augmented copies come behind them."""
    if pool is first:
        return True
    count = len(first)
    return equal(head(pool.images, count), first.images) and np.array_equal(pool.labels[:count], first.labels)


def checked_rows(
    indices: Sequence[int] | np.ndarray, train: Split, forgotten: np.ndarray, removed: np.ndarray
) -> np.ndarray:
    """Rows to forget, int32[n], in their order.

    Args:
      indices: rows of the training images.
      train: D, what earlier requests left of it.
      forgotten: int32[f], rows of earlier requests.
      removed: int32[r], rows that were removed before D was prepared.

    Raises:
      TypeError: for what is no sequence of integers.
      ValueError: none, repeated, out of range, forgotten or removed already.
    """
    rows = check_rows("indices", indices, "the training images")
    if not len(rows):
        raise ValueError("indices is empty; name at least one training image")
    gone = rows[np.isin(rows, forgotten)]
    if len(gone):
        raise ValueError(f"indices holds {gone[0]}, which an earlier request forgot already")
    gone = rows[np.isin(rows, removed)]
    if len(gone):
        raise ValueError(f"indices holds {gone[0]}, which was removed before this preparation and is not in it")
    unknown = rows[~np.isin(rows, train.indices)]
    if len(unknown):
        last = max(train.indices.max(), *forgotten, 0)
        raise ValueError(f"indices holds {unknown[0]}, no row that the model was trained on; they lie in 0..{last}")
    return rows.astype(np.int32)
