"""What a record says of the machine and the software that made it; no paths."""

import importlib.metadata
import os
import pathlib
import platform
import subprocess

import jax

from tmu_jax import devices
from tmu_jax.cpu import native

PACKAGES = ("tmu-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers depend on; on a CPU, what computes convolutions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    if jax.default_backend() == "cpu":
        found["convolutions"] = native.describe()
    return found


def device() -> str:
    """The device that computes, in words."""
    if jax.default_backend() == "cpu":
        several = f", as {len(devices.in_use())} devices" if len(devices.in_use()) > 1 else ""
        return f"cpu ({platform.machine()}, {_cores()} cores{several})"
    return devices.describe()


def _cores() -> int | None:
    """Those that this process may use; of the machine where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def made_by() -> dict[str, str | None]:
    """What makes a stage now: device, commit, and a version each."""
    return {"device": device(), "git_revision": git_revision(), **versions()}


def git_revision() -> str | None:
    """The commit of this checkout, marked "-dirty" where tracked files differ; None outside a checkout."""
    here = pathlib.Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
