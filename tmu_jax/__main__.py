"""`python -m tmu_jax` is the command `tmu-jax`."""

from tmu_jax.command import main
from tmu_jax.resuming import leave

if __name__ == "__main__":
    leave(main())
