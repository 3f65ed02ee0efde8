"""The convolution for CPUs: `conv_general_dilated` as lax has it, faster; README.md says how and when."""

from tmu_jax.cpu.convolution import conv_general_dilated, fast_convolutions
from tmu_jax.cpu.native import describe, is_available, scratch_bytes

__all__ = ["conv_general_dilated", "describe", "fast_convolutions", "is_available", "scratch_bytes"]
