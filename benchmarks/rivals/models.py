"""The same classifiers in idiomatic PyTorch: modules named as in Flax, NCHW images, `(logits, embedding)`."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.arrays import to_torch


def _conv(channels: int, features: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, features, size, stride, padding=size // 2, bias=False)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv_0, self.norm_0 = _conv(channels, width, 3, stride), nn.BatchNorm2d(width)
        self.conv_1, self.norm_1 = _conv(width, width, 3), nn.BatchNorm2d(width)
        self.projects = stride != 1 or channels != width
        if self.projects:
            self.shortcut_conv, self.shortcut_norm = _conv(channels, width, 1, stride), nn.BatchNorm2d(width)

    def forward(self, features: Tensor) -> Tensor:
        shortcut = self.shortcut_norm(self.shortcut_conv(features)) if self.projects else features
        features = functional.relu(self.norm_0(self.conv_0(features)))
        return functional.relu(self.norm_1(self.conv_1(features)) + shortcut)


class ResNet(nn.Module):
    """A residual network with a 3×3 stem and no max-pool."""

    def __init__(
        self,
        num_classes: int = 10,
        stem_width: int = 64,
        widths: tuple[int, ...] = (64, 128, 256, 512),
        blocks: tuple[int, ...] = (2, 2, 2, 2),
        strides: tuple[int, ...] = (1, 2, 2, 2),
    ) -> None:
        super().__init__()
        self.stem_conv, self.stem_norm = _conv(3, stem_width, 3), nn.BatchNorm2d(stem_width)
        self.blocks, channels = [], stem_width
        for stage, (width, count, stride) in enumerate(zip(widths, blocks, strides, strict=True)):
            for block in range(count):
                name = f"block_{stage}_{block}"
                self.add_module(name, ResidualBlock(channels, width, stride if block == 0 else 1))
                self.blocks.append(name)
                channels = width
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = functional.relu(self.stem_norm(self.stem_conv(images)))
        for name in self.blocks:
            features = getattr(self, name)(features)
        embedding = features.float().mean((2, 3))
        return self.head(embedding), embedding


class AllCNN(nn.Module):
    """AllCNN-C with batch norm and a dense head on the averaged features."""

    LAYERS = ((96, 3, 1), (96, 3, 1), (96, 3, 2), (192, 3, 1), (192, 3, 1), (192, 3, 2), (192, 3, 1), (192, 1, 1))

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        channels = 3
        for index, (width, size, stride) in enumerate(self.LAYERS):
            self.add_module(f"conv_{index}", _conv(channels, width, size, stride))
            self.add_module(f"norm_{index}", nn.BatchNorm2d(width))
            channels = width
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = images
        for index in range(len(self.LAYERS)):
            features = getattr(self, f"conv_{index}")(features)
            features = functional.relu(getattr(self, f"norm_{index}")(features))
        embedding = features.float().mean((2, 3))
        return self.head(embedding), embedding


def shifted_patches(images: Tensor, patch: int) -> Tensor:
    """Patches of an image and its four half-patch diagonal shifts, [n, patches, patch·patch·5·c]."""
    n, channels, height, width = images.shape
    shift = patch // 2
    padded = functional.pad(images, (shift, shift, shift, shift))
    corners = [(0, 0), (0, 2 * shift), (2 * shift, 0), (2 * shift, 2 * shift)]
    shifted = [padded[:, :, top : top + height, left : left + width] for top, left in corners]
    grid = torch.cat([images, *shifted], 1).reshape(n, 5 * channels, height // patch, patch, width // patch, patch)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, patch * patch * 5 * channels)


class LocalitySelfAttention(nn.Module):
    """Attention with a learnt temperature a head, each token masked from itself."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.query_key_value = nn.Linear(width, 3 * num_heads * head_dim, bias=False)
        self.log_temperature = nn.Parameter(torch.zeros(num_heads))
        self.output = nn.Linear(num_heads * head_dim, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, count, _ = tokens.shape
        projected = self.query_key_value(tokens).reshape(n, count, 3, self.num_heads, self.head_dim)
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        query = query * torch.exp(-self.log_temperature)[:, None, None].to(query.dtype)
        others = ~torch.eye(count, dtype=torch.bool, device=tokens.device)
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=others, scale=1.0)
        return self.output(mixed.transpose(1, 2).reshape(n, count, -1))


class ViT(nn.Module):
    """A pre-norm vision transformer for small images with a class token."""

    def __init__(
        self,
        num_classes: int = 10,
        patch: int = 4,
        depth: int = 9,
        width: int = 192,
        num_heads: int = 12,
        head_dim: int = 16,
        mlp_width: int = 384,
        size: int = 32,
    ) -> None:
        super().__init__()
        self.patch, self.depth = patch, depth
        patch_values = patch * patch * 5 * 3
        self.patch_norm, self.patch_embedding = nn.LayerNorm(patch_values, eps=1e-6), nn.Linear(patch_values, width)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        for block in range(depth):
            self.add_module(f"attention_norm_{block}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"attention_{block}", LocalitySelfAttention(width, num_heads, head_dim))
            self.add_module(f"mlp_norm_{block}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"mlp_in_{block}", nn.Linear(width, mlp_width))
            self.add_module(f"mlp_out_{block}", nn.Linear(mlp_width, width))
        self.final_norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.patch_embedding(self.patch_norm(shifted_patches(images, self.patch)))
        tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1) + self.positions
        for block in range(self.depth):
            attention, norm = getattr(self, f"attention_{block}"), getattr(self, f"attention_norm_{block}")
            tokens = tokens + attention(norm(tokens))
            hidden = getattr(self, f"mlp_in_{block}")(getattr(self, f"mlp_norm_{block}")(tokens))
            tokens = tokens + getattr(self, f"mlp_out_{block}")(functional.gelu(hidden, approximate="tanh"))
        embedding = self.final_norm(tokens[:, 0]).float()
        return self.head(embedding), embedding


def create(arch: str) -> nn.Module:
    """A classifier by name, freshly initialised by PyTorch."""
    if arch == "small_resnet":
        return ResNet(stem_width=32, widths=(32, 64, 256), blocks=(1, 1, 1), strides=(2, 2, 2))
    return {"resnet18": ResNet, "allcnn": AllCNN, "vit": ViT}[arch]()


def load(arch: str, arrays: dict[str, Any], device: str, channels_last: bool) -> nn.Module:
    """A classifier with Flax's variables.

    Args:
      arch: the architecture.
      arrays: inputs of a case, with "params/…" and "batch_stats/…".
      device: "cpu" or "cuda".
      channels_last: the memory layout of convolution kernels.

    Returns:
      The module, in training mode.

    Raises:
      RuntimeError: when a variable has no counterpart, or a parameter no value.
    """
    module = create(arch)
    variables = {path: value for path, value in arrays.items() if path.startswith(("params/", "batch_stats/"))}
    state = {name: torch.from_numpy(value.copy()) for name, value in to_torch(variables).items()}
    missing, unexpected = module.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise RuntimeError(f"variables do not fit the module: missing {missing}, unexpected {unexpected}")
    module = module.to(device)
    return module.to(memory_format=torch.channels_last) if channels_last else module
