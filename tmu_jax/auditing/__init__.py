"""The audit of a request, its page and its evidence, and how a third party checks them."""

from tmu_jax.auditing.audits import Audit, Written, audit
from tmu_jax.auditing.reading import Check
from tmu_jax.auditing.verifying import Verification, verify

__all__ = ["Audit", "Check", "Verification", "Written", "audit", "verify"]
