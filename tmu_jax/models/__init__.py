"""Classifiers: Flax Linen modules called as `model(images, train=False) -> (logits, embedding)`."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from tmu_jax.models.allcnn import AllCNN
from tmu_jax.models.resnet import ResNet, ResNet18, SmallResNet
from tmu_jax.models.vit import ViT

Architecture = Literal["small_resnet", "resnet18", "allcnn", "vit"]
ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "small_resnet": SmallResNet,
    "resnet18": ResNet18,
    "allcnn": AllCNN,
    "vit": ViT,
}


def create(name: Architecture, num_classes: int, dtype: DTypeLike | None = None) -> nn.Module:
    """Makes a classifier by name.

    Args:
      name: one of "small_resnet", "resnet18", "allcnn", "vit".
      num_classes: number of outputs, at least 2.
      dtype: of the computation; by default bfloat16 on an accelerator and float32 on a CPU. Parameters and batch
        statistics are float32 always.

    Returns:
      A Flax module called as `model(images float32[n, h, w, c], train=False) -> (logits, embedding)`.

    Raises:
      ValueError: for an unknown name or fewer than two classes.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"name={name!r} is not an architecture; choose one of {sorted(ARCHITECTURES)}")
    if num_classes < 2:
        raise ValueError(f"num_classes={num_classes} is too few; a classifier needs at least 2")
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    return ARCHITECTURES[name](num_classes=num_classes, dtype=dtype)


__all__ = ["ARCHITECTURES", "AllCNN", "Architecture", "ResNet", "ViT", "create"]
