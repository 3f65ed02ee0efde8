"""Where arrays lie when there is more than one device: batches split over them, everything else on each.

The programs are the same for any number of devices: XLA divides them as their arguments lie, and sums over a batch
(its loss, its gradients, its statistics) go over the whole of it. Over several processes (`jax.distributed`) each runs
the same program with the same arguments.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tmu_jax.boundary import checked, shown

Tree = TypeVar("Tree")

_chosen: contextvars.ContextVar[tuple[jax.Device, ...] | None] = contextvars.ContextVar("devices", default=None)


@contextlib.contextmanager
@checked
def use_devices(devices: Sequence[jax.Device]) -> Iterator[None]:
    """Lets what runs inside use these devices alone; by default it uses all that there are.

    Args:
      devices: such as `jax.devices()[:1]`; with several processes, some of each.

    Raises:
      TypeError: for what is no sequence of devices.
      ValueError: for no devices, or one of them twice.
    """
    if not all(isinstance(device, jax.Device) for device in devices):
        raise TypeError(f"devices={shown(devices)} must be devices such as jax.devices()[:1]")
    if not devices or len(set(devices)) < len(devices):
        raise ValueError(f"devices={shown(devices)} must hold at least one device, each once")
    token = _chosen.set(tuple(devices))
    try:
        yield
    finally:
        _chosen.reset(token)


def in_use() -> tuple[jax.Device, ...]:
    """The devices that the next computation is divided over."""
    return _chosen.get() or tuple(jax.devices())


def replicate(tree: Tree) -> Tree:
    """The arrays of a tree on every device in use; with one device in all they are left where they are."""
    return tree if _is_plain() else jax.tree.map(lambda leaf: _put(leaf, PartitionSpec(), _mesh(1)), tree)


def split(array: np.ndarray, axis: int) -> jax.Array | np.ndarray:
    """An array divided over the devices in use along an axis.

    Where its length is no multiple of their number it is divided over as many as divide it, with equal copies on the
    others.
    """
    if _is_plain():
        return array
    return _put(array, PartitionSpec(*[None] * axis, "batch"), _mesh(array.shape[axis]))


def on_host(array: jax.Array) -> np.ndarray:
    """The whole of an array, on every process."""
    return np.asarray(array if array.is_fully_addressable else replicate(array))


def _put(leaf: jax.Array | np.ndarray, partition: PartitionSpec, mesh: Mesh) -> jax.Array:
    sharding = NamedSharding(mesh, partition)
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and not sharding.is_fully_addressable:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = _put(jax.random.key_data(leaf), partition, mesh)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        leaf = np.asarray(leaf)  # Each process has the same, which JAX checks.
    return jax.device_put(leaf, sharding)


def describe() -> str:
    """The kind of the devices in use and how many they are, such as "NVIDIA H200 (8 of them)"."""
    kind, count = in_use()[0].device_kind, len(in_use())
    return f"{kind} ({count} of them)" if count > 1 else str(kind)


def refuse_processes(what: str) -> None:
    """Raises ValueError where this is one of several processes; `what` names what they cannot do together."""
    if jax.process_count() > 1:
        raise ValueError(
            f"{what} is for one process, and this is one of {jax.process_count()} that compute together; run "
            "without it, or in one process over its own devices"
        )


def _is_plain() -> bool:
    """Whether there is nothing to choose from and to divide."""
    return _chosen.get() is None and jax.device_count() == 1


def _mesh(size: int) -> Mesh:
    """The devices in use, as many of them along "batch" as divide the size."""
    devices = in_use()
    parts = math.gcd(size, len(devices))
    return Mesh(np.reshape(np.array(devices, object), (parts, -1)), ("batch", "copies"))
