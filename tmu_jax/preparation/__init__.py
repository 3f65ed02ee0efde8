"""Prepare once, forget many: what no request changes, computed before any; then a request is only unlearning."""

from tmu_jax.preparation.bank import Bank, BankModel, BankSettings
from tmu_jax.preparation.building import prepare
from tmu_jax.preparation.estimates import Estimate
from tmu_jax.preparation.findings import Finding, Findings
from tmu_jax.preparation.forgetting import Forgotten, forget
from tmu_jax.preparation.grid import candidates, rehearse_candidates
from tmu_jax.preparation.looking import look
from tmu_jax.preparation.prepared import Prepared
from tmu_jax.preparation.refreshing import refresh
from tmu_jax.preparation.rehearsal import Rehearsal, rehearse
from tmu_jax.preparation.saving import load_prepared, save_prepared
from tmu_jax.preparation.tuning import Tuned, tune

__all__ = [
    "Bank",
    "BankModel",
    "BankSettings",
    "Estimate",
    "Finding",
    "Findings",
    "Forgotten",
    "Prepared",
    "Rehearsal",
    "Tuned",
    "candidates",
    "forget",
    "load_prepared",
    "look",
    "prepare",
    "refresh",
    "rehearse",
    "rehearse_candidates",
    "save_prepared",
    "tune",
]
