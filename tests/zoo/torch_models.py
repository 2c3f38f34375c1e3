"""torchvision's ViT, and what one writes with torch alone."""

from __future__ import annotations

from itertools import pairwise

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
    """nn.TransformerEncoder behind a patch stem, with one head or several.

    A causal one hides later tokens and reads the last.
    """

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
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.stem = PatchStem(channels, 32, 8, 48, stem)
        self.token = -1 if causal else 0
        mask = nn.Transformer.generate_square_subsequent_mask(17) if causal else None
        self.register_buffer("mask", mask)
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
        x = self.encoder(self.stem(image), self.mask, is_causal=False)[:, self.token]
        results = tuple(head(x) for head in self.heads)
        return results if len(results) > 1 else results[0]


class VideoEncoder(nn.Module):
    """nn.TransformerEncoder on videos of four frames, pooled over all tokens.

    Either on [batch, channels, frames, height, width], with tubelets of two frames; or on
    [batch, frames, channels, height, width], each frame cut up by itself.
    """

    def __init__(self, frame_by_frame: bool = False) -> None:
        super().__init__()
        self.frame_by_frame = frame_by_frame
        tubelet = (2, 8, 8)
        self.patch = (
            nn.Conv2d(3, 48, 8, 8) if frame_by_frame else nn.Conv3d(3, 48, tubelet, tubelet)
        )
        self.positions = nn.Parameter(torch.zeros(1, 64 if frame_by_frame else 32, 48))
        layer = nn.TransformerEncoderLayer(
            48, 4, 96, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 10)

    def forward(self, video: Tensor) -> Tensor:
        batch = video.shape[0]
        x = self.patch(video.flatten(0, 1) if self.frame_by_frame else video)
        tokens = x.flatten(2).transpose(1, 2).reshape(batch, -1, 48)
        return self.head(self.encoder(tokens + self.positions).mean(1))


class EinsumBlock(nn.Module):
    """Attention and MLP the way papers write them: einsum, weights with an axis of heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        depth = width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        deviation = width**-0.5
        self.query, self.key, self.value = (
            nn.Parameter(torch.randn(width, heads, depth) * deviation) for _ in range(3)
        )
        self.out = nn.Parameter(torch.randn(heads, depth, width) * deviation)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.scale = depth**-0.5

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (torch.einsum("bnc,chd->bnhd", y, w) for w in (self.query, self.key, self.value))
        p = torch.softmax(torch.einsum("bihd,bjhd->bhij", q * self.scale, k), -1)
        x = x + torch.einsum("bihd,hdc->bic", torch.einsum("bhij,bjhd->bihd", p, v), self.out)
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class EinsumVit(nn.Module):
    """Two such blocks behind a convolution with batch norm; pooled over channels-first maps."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 48, 8, 8), nn.BatchNorm2d(48)
        self.positions = nn.Parameter(torch.zeros(1, 16, 48))
        self.blocks = nn.Sequential(EinsumBlock(48, 3), EinsumBlock(48, 3))
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.patch(image)).flatten(2).transpose(1, 2)
        x = self.blocks(x + self.positions)
        return self.head(self.pool(x.transpose(1, 2).reshape(-1, 48, 4, 4)).flatten(1))


NORMS = {
    "batch": nn.BatchNorm2d,
    "group": lambda channels: nn.GroupNorm(4, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "layer": lambda channels: nn.GroupNorm(1, channels),
}


class EarlyConvolutions(nn.Module):
    """Convolutions 3 × 3 in place of patches (Xiao et al., 2021), then nn.TransformerEncoder.

    Either with a class token, or pooled without positions.
    """

    def __init__(
        self, norm: str = "batch", activation: type[nn.Module] = nn.ReLU, token: bool = True
    ) -> None:
        super().__init__()
        widths = (3, 12, 24, 48)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers.append(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False))
            layers += [NORMS[norm](outputs), activation()]
        self.stem = nn.Sequential(*layers, nn.Conv2d(48, 48, 1))
        self.token = nn.Parameter(torch.zeros(1, 1, 48)) if token else None
        self.positions = nn.Parameter(torch.zeros(1, 17, 48)) if token else None
        layer = nn.TransformerEncoderLayer(
            48, 4, 96, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(48, 10)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).flatten(2).transpose(1, 2)
        if self.token is None:
            return self.head(self.encoder(x).mean(1))
        tokens = self.token.expand(image.shape[0], -1, -1)
        return self.head(self.encoder(torch.cat([tokens, x], dim=1) + self.positions)[:, 0])


def early_convolutions(norm: str, activation: str = "ReLU", *, token: bool = True) -> nn.Module:
    """The same by the name of the activation."""
    return EarlyConvolutions(norm, getattr(nn, activation), token)
