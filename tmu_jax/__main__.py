"""`python -m tmu_jax` is the command `tmu-jax`."""

import sys

from tmu_jax.command import main

if __name__ == "__main__":
    sys.exit(main())
