"""Speed of `tmu_jax` beside its rivals and beside the floor of the machine: `python -m benchmarks`.

The rivals run in a Python of their own: `rivals/` and what it imports (`cases`, `arrays`) import neither JAX nor
`tmu_jax`.
"""

import os

# Two processes share one GPU: JAX must not take most of its memory at the start.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
