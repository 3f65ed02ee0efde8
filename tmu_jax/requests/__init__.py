"""Requests as they come in: a ledger of what was removed, and the copies of it that stay."""

from tmu_jax.requests.copies import Copies, find_copies
from tmu_jax.requests.ledger import Ledger
from tmu_jax.requests.record import Request

__all__ = ["Copies", "Ledger", "Request", "find_copies"]
