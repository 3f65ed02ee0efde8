"""How surely a model answers on images that it was trained on: what models that never saw them cannot say.

M_o knows D_f as M_t knows the held-out images. What a model is not sure of though it was trained on it, a gold model
hardly gets right. That carries over from one to the other only where both were trained alike, and apart.
"""

import numpy as np

from tmu_jax.data import Split
from tmu_jax.preparation.calibration import log_odds
from tmu_jax.statistics import separation
from tmu_jax.training import TrainedModel, predict

MOST_ROWS = 2_000
"""Images that stand for more of them."""
ALIKE = 10.0
"""Points of AUC about 50 within which two trainings of one recipe lie; one of more epochs lies 15 and more away."""


def knowledge(model: TrainedModel, images: Split) -> np.ndarray:
    """The log-odds of the true classes of images that a model was trained on, float64[n, 1]."""
    return log_odds(predict(model, images)[0], images.labels)[:, None]


def know_alike(one: TrainedModel, other: TrainedModel, images: Split) -> bool:
    """Whether two models, both trained on some images, are not told apart by how surely they answer on them."""
    shown = some_of(images)
    found = separation(knowledge(one, shown)[:, 0], knowledge(other, shown)[:, 0], shown.labels, shown.labels)
    return found is not None and abs(found.auc.value - 50) <= ALIKE


def some_of(split: Split) -> Split:
    """At most `MOST_ROWS` of the images, always the same ones."""
    if len(split) <= MOST_ROWS:
        return split
    chosen = np.random.default_rng(0).permutation(len(split))[:MOST_ROWS]
    return Split(split.pool, split.indices[np.sort(chosen)])
