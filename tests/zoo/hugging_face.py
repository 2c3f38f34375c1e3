"""Vision towers of transformers, a block or two of 48 channels each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor, nn

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 96,
    "image_size": 32,
    "patch_size": 8,
}


class Picked(nn.Module):
    """A model that takes one image and returns some of its results."""

    def __init__(self, model: nn.Module, pick: Callable[[Any], object], **fixed: object) -> None:
        super().__init__()
        self.model = model
        self.pick = pick
        self.fixed = fixed

    def forward(self, image: Tensor) -> object:
        return self.pick(self.model(image, **self.fixed))


def _config(kind: str, **changes: object) -> Any:
    return getattr(transformers, f"{kind}Config")(**{**SIZES, **changes})


def _logits(result: Any) -> Tensor:
    return result.logits


def _features(result: Any) -> Tensor:
    return result.last_hidden_state


def _both(result: Any) -> tuple[Tensor, Tensor]:
    return result.last_hidden_state, result.pooler_output


def classifier(kind: str, **changes: object) -> nn.Module:
    """`kind`ForImageClassification with ten classes."""
    config = _config(kind, num_labels=10, **changes)
    return Picked(getattr(transformers, f"{kind}ForImageClassification")(config), _logits)


def video_classifier(kind: str, **changes: object) -> nn.Module:
    """`kind`ForVideoClassification with ten classes."""
    config = _config(kind, num_labels=10, **changes)
    return Picked(getattr(transformers, f"{kind}ForVideoClassification")(config), _logits)


def features(kind: str, model: str = "", **changes: object) -> nn.Module:
    """The tokens of the last layer."""
    made = getattr(transformers, model or f"{kind}Model")(_config(kind, **changes))
    return Picked(made, _features)


def features_and_pooled(kind: str, model: str = "", **changes: object) -> nn.Module:
    """All that the model returns by itself: tokens, and the pooled one."""
    return Picked(getattr(transformers, model or f"{kind}Model")(_config(kind, **changes)), _both)


def vit_without_pooler() -> nn.Module:
    return Picked(transformers.ViTModel(_config("ViT"), add_pooling_layer=False), _features)


def vit_with_hidden_states() -> nn.Module:
    model = transformers.ViTForImageClassification(_config("ViT", num_labels=10))
    return Picked(model, lambda r: (r.logits, r.hidden_states[1]), output_hidden_states=True)


def deit_with_teacher() -> nn.Module:
    config = _config("DeiT", num_labels=10)
    return Picked(transformers.DeiTForImageClassificationWithTeacher(config), _logits)


def clip_embedding() -> nn.Module:
    config = _config("CLIPVision", projection_dim=24, hidden_act="gelu")
    return Picked(transformers.CLIPVisionModelWithProjection(config), lambda r: r.image_embeds)


def clip_quickgelu() -> nn.Module:
    config = _config("CLIPVision", projection_dim=24)
    return Picked(transformers.CLIPVisionModelWithProjection(config), lambda r: r.image_embeds)


def siglip_classifier() -> nn.Module:
    config = transformers.SiglipConfig(vision_config=SIZES, num_labels=10)
    return Picked(transformers.SiglipForImageClassification(config), _logits)


def mae_encoder() -> nn.Module:
    """Masks nothing; the noise that orders the patches is in their own order."""
    model = transformers.ViTMAEModel(_config("ViTMAE", mask_ratio=0.0))
    return Picked(model, _features, noise=torch.arange(16.0)[None])


class Video(nn.Module):
    """A model of videos that takes the frames as channels of one image."""

    def __init__(self, model: nn.Module, frames: int) -> None:
        super().__init__()
        self.model = model
        self.frames = frames

    def forward(self, image: Tensor) -> Tensor:
        batch, channels, height, width = image.shape
        video = image.reshape(batch, self.frames, channels // self.frames, height, width)
        return self.model(video).last_hidden_state


def video_mae_of_image(frames: int) -> nn.Module:
    """Tubelets are two frames deep."""
    return Video(transformers.VideoMAEModel(_config("VideoMAE", num_frames=frames)), frames)


def vjepa2() -> nn.Module:
    """The encoder."""
    config = transformers.VJEPA2Config(
        patch_size=8,
        crop_size=32,
        frames_per_clip=4,
        hidden_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2,
        pred_hidden_size=48,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    return Picked(transformers.VJEPA2Model(config), _features, skip_predictor=True)


def dpt_hybrid() -> nn.Module:
    """The encoder of DPT behind BiT with three stages, the hybrid that transformers has."""
    backbone = transformers.BitConfig(
        embedding_size=32,
        hidden_sizes=[128, 128, 256],
        depths=[1, 1, 1],
        layer_type="bottleneck",
        num_groups=32,
        global_padding="same",
        embedding_dynamic_padding=True,
        out_features=["stage1", "stage2", "stage3"],
    )
    config = transformers.DPTConfig(
        is_hybrid=True,
        backbone_config=backbone,
        backbone_featmap_shape=[1, 256, 4, 4],
        image_size=64,
        patch_size=16,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=96,
        neck_ignore_stages=[0, 1],
        backbone_out_indices=[0, 1],
    )
    return Picked(transformers.DPTModel(config, add_pooling_layer=False), _features)
