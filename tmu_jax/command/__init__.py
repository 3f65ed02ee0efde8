"""`tmu-jax`: check, prepare, forget, audit and verify, for people with a model, its images and a list of ids."""

from tmu_jax.command.line import main

__all__ = ["main"]
