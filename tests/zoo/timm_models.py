"""Models of timm by their registered names, shrunk by keyword."""

from __future__ import annotations

from functools import partial

import timm
from timm.layers import StdConv2dSame
from timm.models.resnet import Bottleneck, ResNet
from timm.models.resnetv2 import ResNetV2
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
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


class TwoStages(ResNet):
    """A ResNet of two stages, without a head."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer2(self.layer1(x))


def big_transfer() -> nn.Module:
    """What vit_base_r50_s16_224 and its like have before the blocks, with two stages."""
    return ResNetV2(
        layers=(1, 1),
        channels=(128, 256),
        stem_chs=32,
        num_classes=0,
        global_pool="",
        preact=False,
        stem_type="same",
        conv_layer=partial(StdConv2dSame, eps=1e-8),
    )


def resnet_d() -> nn.Module:
    """What vit_small_resnet26d_224 and its like have, with two narrow stages."""
    return TwoStages(
        Bottleneck,
        (1, 1),
        stem_width=8,
        stem_type="deep",
        avg_down=True,
        channels=(16, 32),
        num_classes=0,
    )


def conv_stem() -> nn.Module:
    """What vit_base_mci_224 has: patches, which are a map that is cut twice more."""
    return ConvStem(
        channels=(16, 16, 48), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0, act_layer=nn.GELU
    )


BACKBONES = {"big_transfer": big_transfer, "resnet_d": resnet_d, "conv_stem": conv_stem}


def hybrid(backbone: str, *, project: bool = True, **changes: object) -> nn.Module:
    """A ViT of images of 64 pixels behind a convolutional network, each pixel of it a token."""
    embed = partial(HybridEmbed, backbone=BACKBONES[backbone](), proj=project)
    options = {**SMALL, "img_size": 64, "patch_size": 1, "embed_layer": embed, **changes}
    return VisionTransformer(**options)
