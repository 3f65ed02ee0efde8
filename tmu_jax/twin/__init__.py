"""The twin problem, where the gold model is known: its models, features and generalization labels."""

from tmu_jax.twin.features import FEATURES, Feature
from tmu_jax.twin.labels import TwinPrediction, all_hard, predict_labels, scale_features
from tmu_jax.twin.measure import ProblemFeatures, choose_eps, measure_features
from tmu_jax.twin.models import train_curriculum, train_first_epoch, train_twin
from tmu_jax.twin.request import check_exclude, predict_generalization, prediction_stage, trains_afresh
from tmu_jax.twin.settings import DEFAULT_SETTINGS, TwinSettings

__all__ = [
    "DEFAULT_SETTINGS",
    "FEATURES",
    "Feature",
    "ProblemFeatures",
    "TwinPrediction",
    "TwinSettings",
    "all_hard",
    "check_exclude",
    "choose_eps",
    "measure_features",
    "predict_generalization",
    "predict_labels",
    "prediction_stage",
    "scale_features",
    "train_curriculum",
    "train_first_epoch",
    "train_twin",
    "trains_afresh",
]
