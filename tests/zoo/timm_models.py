"""Models of timm by their registered names, shrunk by keyword."""

from __future__ import annotations

import timm
from torch import Tensor, nn

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 10, "img_size": 32}


def vit(name: str, **changes: object) -> nn.Module:
    """`name` with patches of 8 pixels unless `changes` say otherwise."""
    return timm.create_model(name, **{**SMALL, "patch_size": 8, **changes})


def native(name: str, **changes: object) -> nn.Module:
    """`name` with the patches it is registered with."""
    return timm.create_model(name, **{**SMALL, **changes})


def full_size(name: str) -> nn.Module:
    """`name` as it is registered, but all blocks are the first one: a file of a block's size."""
    model = timm.create_model(name)
    for index in range(len(model.blocks)):
        model.blocks[index] = model.blocks[0]
    return model


class Half(nn.Module):
    """A model in float16, image and logits in float32."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model(image.half()).float()


def half(name: str, **changes: object) -> nn.Module:
    """`name` in float16."""
    return Half(vit(name, **changes).half())


def unfused(name: str, **changes: object) -> nn.Module:
    """`name` with attention spelled out: dynamo does not export torch's own with a bias."""
    model = vit(name, **changes)
    for block in model.blocks:
        block.attn.fused_attn = False
    return model
