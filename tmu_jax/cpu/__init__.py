"""The convolution for CPUs."""
