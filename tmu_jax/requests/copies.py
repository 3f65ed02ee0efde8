"""Copies of forgotten images among what stays: the very pixels, and what a model can hardly tell from them."""

import dataclasses

import numpy as np

from tmu_jax.boundary import checked
from tmu_jax.data import ForgetProblem, Split
from tmu_jax.data.copies import copies_note, exact_copies
from tmu_jax.training import TrainedModel, predict
from tmu_jax.twin.neighbors import nearest_distances

NEAR_COSINE = 0.98
"""Least cosine of two embeddings that may be of copies."""
NEAR_SHARE = 0.25
"""Of the distance that images of D_r usually have from their nearest: farther apart is no copy."""
_MOST_REFERENCES = 1000


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Copies:
    """Copies of forgotten images among those that stay in training or are held out; `print` it.

    Attributes:
      exact: int32[c, 2], rows of the pool: of a forgotten image and of its copy.
      near: int32[d, 2], likewise, of those that are not exact; in the order of their cosines, the largest first.
      cosines: float32[d], of the embeddings of each near pair.
      threshold: the least cosine that counted, see `find_copies`; None without a model.
    """

    exact: np.ndarray
    near: np.ndarray
    cosines: np.ndarray
    threshold: float | None

    @property
    def rows(self) -> np.ndarray:
        """int32[c + d]: the rows of all copies, ascending, each once."""
        return np.unique(np.concatenate([self.exact[:, 1], self.near[:, 1]])).astype(np.int32)

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on the exact copies and one on the near ones, where there are any."""
        return (*copies_note(self.exact), *copies_note(self.near, "nearly equal to"))

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        looked = (
            "pixels" if self.threshold is None else f"pixels, and embeddings with cosines from {self.threshold:.4f}"
        )
        return "\n".join(self.notes) or f"no copies among what stays, by {looked}"


@checked
def find_copies(problem: ForgetProblem, model: TrainedModel | None = None) -> Copies:
    """Copies of D_f among the images that stay in training or are held out.

    Args:
      problem: the request.
      model: the classifier, for near copies: flipped, shifted or compressed anew, its embeddings are all but the same.
        A pair counts where the cosine is at least `NEAR_COSINE` and the two embeddings, at unit length, lie within
        `NEAR_SHARE` of the usual distance between an image of D_r and its nearest: a model that has drawn its classes
        together gives almost all pairs of a class large cosines. It embeds all of D_r. None: equal pixels alone.

    Returns:
      The copies; near ones are candidates that a person should look at.
    """
    exact = exact_copies(problem)
    nothing = np.zeros((0, 2), np.int32), np.zeros(0, np.float32)
    if model is None:
        return Copies(exact, *nothing, threshold=None)
    others = np.setdiff1d(np.union1d(problem.retain.indices, problem.heldout.indices), exact[:, 1]).astype(np.int32)
    forgotten, kept, stays = (
        _embed(model, split) for split in (problem.forget, problem.retain, Split(problem.pool, others))
    )
    distance = min(_distance(NEAR_COSINE), NEAR_SHARE * _usual_distance(kept))
    threshold = 1 - distance**2 / 2
    if not len(others):
        return Copies(exact, *nothing, threshold)
    close = np.flatnonzero(np.asarray(nearest_distances(stays, forgotten, k=1))[:, 0] <= distance)
    cosines = stays[close] @ forgotten.T
    best = cosines.argmax(1)
    found = cosines[np.arange(len(close)), best]
    order = np.argsort(-found, kind="stable")
    near = np.stack([problem.forget.indices[best], others[close]], axis=1)[order]
    return Copies(exact, near.astype(np.int32), found[order].astype(np.float32), threshold)


def _usual_distance(kept: np.ndarray) -> float:
    """The median distance between an embedding of D_r, float32[m, d], and the nearest other one."""
    if len(kept) < 2:
        return 0.0
    chosen = np.random.default_rng(0).permutation(len(kept))[:_MOST_REFERENCES]
    # The nearest of each is itself.
    return float(np.median(np.asarray(nearest_distances(kept[chosen], kept, k=2))[:, 1]))


def _embed(model: TrainedModel, split: Split) -> np.ndarray:
    """Embeddings at unit length, float32[n, d]."""
    embeddings = predict(model, split)[1]
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)


def _distance(cosine: float) -> float:
    """The distance of two unit vectors by their cosine."""
    return float(np.sqrt(2 - 2 * cosine))
