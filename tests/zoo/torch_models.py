"""torchvision's ViT, and what one writes with torch alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def torchvision_vit() -> nn.Module:
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        image_size=32,
        patch_size=8,
        num_layers=2,
        num_heads=3,
        hidden_dim=48,
        mlp_dim=96,
        num_classes=10,
    )


class PatchStem(nn.Module):
    """Patches, class token and positions."""

    def __init__(self, channels: int, size: int, patch: int, width: int, stem: str) -> None:
        super().__init__()
        self.patch, self.stem = patch, stem
        count = (size // patch) ** 2
        if stem == "conv":
            self.project: nn.Module = nn.Conv2d(channels, width, patch, patch)
        else:
            self.project = nn.Linear(channels * patch * patch, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, count + 1, width))

    def forward(self, image: Tensor) -> Tensor:
        if self.stem == "conv":
            x = self.project(image).flatten(2).transpose(1, 2)
        elif self.stem == "unfold":
            p = self.patch
            tiles = image.unfold(2, p, p).unfold(3, p, p)
            x = self.project(tiles.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))
        else:  # channels last within a patch, as einops writes it
            b, c, h, w = image.shape
            p = self.patch
            tiles = image.reshape(b, c, h // p, p, w // p, p).permute(0, 2, 4, 3, 5, 1)
            x = self.project(tiles.reshape(b, (h // p) * (w // p), p * p * c))
        tokens = self.token.expand(image.shape[0], -1, -1)
        return torch.cat([tokens, x], dim=1) + self.positions


class Encoder(nn.Module):
    """nn.TransformerEncoder behind a patch stem, with one head or several."""

    def __init__(
        self,
        *,
        norm_first: bool,
        activation: str = "gelu",
        stem: str = "conv",
        channels: int = 3,
        bias: bool = True,
        heads: tuple[int, ...] = (10,),
        final_norm: bool = False,
    ) -> None:
        super().__init__()
        self.stem = PatchStem(channels, 32, 8, 48, stem)
        layer = nn.TransformerEncoderLayer(
            48,
            4,
            96,
            activation=activation,
            batch_first=True,
            norm_first=norm_first,
            bias=bias,
        )
        norm = nn.LayerNorm(48) if final_norm else None
        self.encoder = nn.TransformerEncoder(layer, 2, norm, enable_nested_tensor=False)
        self.heads = nn.ModuleList(nn.Linear(48, classes) for classes in heads)

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.encoder(self.stem(image))[:, 0]
        results = tuple(head(x) for head in self.heads)
        return results if len(results) > 1 else results[0]
