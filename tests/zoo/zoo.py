"""The zoo: exports of Vision Transformers as they are found in the wild, shrunk.

Models are built from the libraries at test time; this table names them. Nothing here needs torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

Build = Callable[[], Any]

# What has to be among the architectures that compile, and so on the RTL.
FAMILIES = (
    *(f"transformers classifier({kind})" for kind in ("ViT", "DeiT", "Dinov2")),
    *(f"transformers features({kind}" for kind in ("ViTMSN", "IJepa", "Beit", "VideoMAE")),
    *(
        f"transformers features_and_pooled({kind}"
        for kind in ("ViT", "Dinov2WithRegisters", "CLIPVision", "SiglipVision")
    ),
    *(f"transformers {kind}" for kind in ("deit_with_teacher", "siglip_classifier", "mae_encoder")),
    "transformers video_classifier(Vivit",
    *(
        f"timm vit({name}"
        for name in (
            "deit_tiny_distilled_patch16_224",
            "deit3_small_patch16_224",
            "vit_small_patch14_reg4_dinov2",
            "vit_base_patch16_clip_224",
            "vit_base_patch16_siglip_224",
            "vit_base_patch16_siglip_gap_224",
            "vit_base_patch16_gap_224",
            "vit_small_patch16_18x2_224",
            "vit_base_patch16_rpn_224",
            "flexivit_small",
        )
    ),
    "transformers dpt_hybrid(",
    *(f"timm hybrid({backbone}" for backbone in ("big_transfer", "resnet_d", "conv_stem")),
    "timm native(vit_tiny_r_s16_p8_224",
    "torch early_convolutions",
    "torchvision torchvision_vit",
    "torch Encoder(norm_first=True",
    "torch Encoder(norm_first=False",
    "torch EinsumVit",
    "torch VideoEncoder",
)

IMAGE = (3, 32, 32)
VIDEO = (4, 3, 32, 32)  # frames, channels, height, width


@dataclass(frozen=True)
class Export:
    """One way to get an ONNX file.

    Attributes:
        name: unique; what it shows.
        architecture: what is built, by library, builder and options. Exports that share it differ
            in exporter and file, and in nothing that the hardware sees.
        build: makes the torch module.
        needs: modules that have to be installed.
        image: channels, height, width; or VIDEO.
        exporter: by name in `exporters.EXPORTERS`.
        opset: operator set that the exporter is asked for.
        after: what is done to the file; see `exporters.AFTERWARDS`.
        symbolic: whether the batch axis is.
        batch: how many images it is exported with.
        memory: fields of the hardware configuration that differ from the default.
        refused: for what cannot be mapped, a piece of the reason; empty for what can.
        inspected: whether a refusal is a table by node; else the file or the quantiser says no.
    """

    name: str
    architecture: str
    build: Build
    needs: tuple[str, ...] = ()
    image: tuple[int, ...] = IMAGE
    exporter: str = "dynamo"
    opset: int = 18
    after: str = ""
    symbolic: bool = False
    batch: int = 1
    memory: dict[str, int] = field(default_factory=dict)
    refused: str = ""
    inspected: bool = True


def _export(
    name: str, needs: tuple[str, ...], module: str, function: str, *args: str, **options: Any
) -> Export:
    """What `function` of a module of this folder builds, when it is called."""
    changes = options.pop("changes", {})

    def build() -> Any:
        return getattr(importlib.import_module(module), function)(*args, **changes)

    details = [*args, *(f"{key}={value}" for key, value in changes.items())]
    if "image" in options:
        details.append(f"image={options['image']}")
    architecture = f"{needs[-1]} {function}({', '.join(details)})"
    simplified = ("onnxsim",) if options.get("after") == "onnxsim" else ()
    return Export(name, architecture, build, (*needs, *simplified), **options)


def _hf(name: str, function: str, *args: str, **options: Any) -> Export:
    """A model of transformers; `changes` go to its configuration."""
    needs = ("torch", "transformers")
    return _export(f"hf-{name}", needs, "hugging_face", function, *args, **options)


def _timm(name: str, model: str, function: str = "vit", **options: Any) -> Export:
    return _export(f"timm-{name}", ("torch", "timm"), "timm_models", function, model, **options)


def _torch(name: str, function: str, **options: Any) -> Export:
    needs = ("torch", "torchvision") if "torchvision" in name else ("torch",)
    return _export(name, needs, "torch_models", function, **options)


HUGGING_FACE = (
    _hf("vit-classifier", "classifier", "ViT"),
    _hf("vit-classifier-script", "classifier", "ViT", exporter="script", opset=17),
    _hf("vit-classifier-batch", "classifier", "ViT", batch=4),
    _hf("vit-by-transformers", "classifier", "ViT", exporter="transformers", opset=20),
    _hf(
        "vit-by-transformers-dynamic",
        "classifier",
        "ViT",
        exporter="transformers",
        symbolic=True,
        opset=18,
    ),
    _hf("dinov2-by-transformers", "features_and_pooled", "Dinov2", exporter="transformers"),
    _hf(
        "clip-by-transformers",
        "features_and_pooled",
        "CLIPVision",
        "CLIPVisionModel",
        exporter="transformers",
    ),
    _hf("vit-features", "vit_without_pooler", exporter="script", opset=14),
    _hf("vit-hidden-states", "vit_with_hidden_states"),
    _hf("vit-relu", "classifier", "ViT", changes={"hidden_act": "relu"}),
    _hf("vit-silu", "classifier", "ViT", changes={"hidden_act": "silu"}),
    _hf("vit-biasless-qkv", "classifier", "ViT", changes={"qkv_bias": False}, opset=20),
    _hf("vit-pooler", "features_and_pooled", "ViT"),
    _hf("deit-classifier", "classifier", "DeiT", symbolic=True),
    _hf("deit-with-teacher", "deit_with_teacher", exporter="script", opset=17),
    _hf("dinov2-features", "features_and_pooled", "Dinov2"),
    _hf("dinov2-other-size", "features_and_pooled", "Dinov2", image=(3, 40, 24)),
    _hf(
        "dinov2-other-size-script",
        "features_and_pooled",
        "Dinov2",
        image=(3, 40, 24),
        exporter="script",
        opset=17,
    ),
    _hf("dinov2-classifier", "classifier", "Dinov2", exporter="script", opset=17),
    _hf("dinov2-registers", "features_and_pooled", "Dinov2WithRegisters", opset=23),
    _hf(
        "dinov2-swiglu",
        "features",
        "Dinov2",
        changes={"use_swiglu_ffn": True},
        refused="multiplies",
    ),
    _hf("clip-vision-quickgelu", "clip_quickgelu"),
    _hf("clip-vision-gelu", "clip_embedding", exporter="script", opset=17),
    _hf("clip-vision-features", "features_and_pooled", "CLIPVision", "CLIPVisionModel"),
    _hf("siglip-vision", "features_and_pooled", "SiglipVision", "SiglipVisionModel"),
    _hf(
        "siglip-vision-script",
        "features_and_pooled",
        "SiglipVision",
        "SiglipVisionModel",
        exporter="script",
        opset=17,
        symbolic=True,
    ),
    _hf("siglip-classifier", "siglip_classifier"),
    _hf("mae-encoder", "mae_encoder"),
    _hf("msn-features", "features", "ViTMSN"),
    _hf("ijepa-features", "features", "IJepa"),
    _hf("beit-absolute", "features", "Beit", changes={"use_absolute_position_embeddings": True}),
    _hf(
        "beit-relative",
        "features",
        "Beit",
        changes={"use_relative_position_bias": True, "attn_implementation": "eager"},
    ),
    _hf(
        "beit-relative-script",
        "features",
        "Beit",
        changes={"use_relative_position_bias": True},
        exporter="script",
        opset=17,
    ),
    _hf(
        "beit-shared-script",
        "classifier",
        "Beit",
        changes={"use_shared_relative_position_bias": True},
        exporter="script",
        opset=17,
    ),
    _hf(
        "beit-relative-other-size-script",
        "features",
        "Beit",
        changes={"use_relative_position_bias": True},
        image=(3, 40, 24),
        exporter="script",
        opset=17,
    ),
    _hf("dinov3-rope", "features", "DINOv3ViT", refused="rotary"),
    _hf("videomae", "features", "VideoMAE", changes={"num_frames": 4}, image=VIDEO),
    _hf(
        "videomae-classifier-script",
        "video_classifier",
        "VideoMAE",
        changes={"num_frames": 4},
        image=VIDEO,
        exporter="script",
        opset=17,
        symbolic=True,
    ),
    _hf(
        "videomae-batch-script",
        "features",
        "VideoMAE",
        changes={"num_frames": 4},
        image=VIDEO,
        exporter="script",
        opset=17,
        batch=2,
    ),
    _hf(
        "videomae-one-tubelet",
        "features",
        "VideoMAE",
        changes={"num_frames": 2},
        image=(2, 3, 32, 32),
    ),
    _hf(
        "videomae-frames-in-channels",
        "video_mae_of_image",
        changes={"frames": 4},
        image=(12, 32, 32),
    ),
    _hf(
        "vivit",
        "video_classifier",
        "Vivit",
        changes={"num_frames": 4, "tubelet_size": [2, 8, 8]},
        image=VIDEO,
        symbolic=True,
    ),
    _hf(
        "timesformer",
        "video_classifier",
        "Timesformer",
        changes={"num_frames": 4},
        image=VIDEO,
        refused="which is not the token axis",
    ),
    _hf(
        "vjepa2",
        "vjepa2",
        image=VIDEO,
        refused="rotary",
    ),
)

TIMM = (
    _timm(
        "vit-tiny-p16",
        "vit_tiny_patch16_224",
        "native",
        changes={"img_size": 64},
        image=(3, 64, 64),
    ),
    _timm("vit-small-p8", "vit_small_patch8_224", "native", exporter="script", opset=17),
    _timm(
        "vit-small-p32",
        "vit_small_patch32_224",
        "native",
        changes={"img_size": 64},
        image=(3, 64, 64),
    ),
    _timm(
        "vit-base-p14",
        "vit_huge_patch14_224",
        "native",
        changes={"img_size": 42},
        image=(3, 42, 42),
    ),
    _timm("vit-base-p16-opset24", "vit_base_patch16_224", opset=24),
    _timm("deit", "deit_tiny_patch16_224", exporter="script", opset=14),
    _timm("deit-distilled", "deit_tiny_distilled_patch16_224"),
    _timm("deit3", "deit3_small_patch16_224", symbolic=True),
    _timm("registers", "vit_small_patch14_reg4_dinov2", changes={"patch_size": 8}),
    _timm("registers-gap", "vit_medium_patch16_reg4_gap_256", exporter="script", opset=18),
    _timm("layer-scale", "vit_base_patch14_dinov2", changes={"num_classes": 0}),
    _timm("clip", "vit_base_patch16_clip_224"),
    _timm("clip-quickgelu", "vit_base_patch16_clip_quickgelu_224", exporter="script", opset=17),
    _timm("siglip-map", "vit_base_patch16_siglip_224"),
    _timm(
        "siglip-map-script",
        "vit_base_patch16_siglip_224",
        exporter="script",
        opset=17,
        symbolic=True,
    ),
    _timm("siglip-map-batch", "vit_base_patch16_siglip_224", batch=3),
    _timm("siglip-map-opset23", "vit_base_patch16_siglip_224", opset=23),
    _timm("siglip-gap", "vit_base_patch16_siglip_gap_224"),
    _timm("mean-pool", "vit_base_patch16_224", changes={"global_pool": "avg"}),
    _timm("no-class-token", "vit_base_patch16_gap_224"),
    _timm(
        "unpooled-features", "vit_base_patch16_224", changes={"global_pool": "", "num_classes": 0}
    ),
    _timm("parallel-blocks", "vit_small_patch16_18x2_224"),
    _timm("residual-post-norm", "vit_base_patch16_rpn_224"),
    _timm("expanded-mlp-gelu-tanh", "vit_giant_patch14_224", changes={"mlp_ratio": 3.0}),
    _timm("flexivit", "flexivit_small"),
    _timm("grey", "vit_tiny_patch16_224", changes={"in_chans": 1}, image=(1, 32, 32)),
    _timm("four-channels", "vit_tiny_patch16_224", changes={"in_chans": 4}, image=(4, 32, 32)),
    _timm(
        "not-square",
        "vit_tiny_patch16_224",
        changes={"img_size": (24, 48), "patch_size": (8, 12)},
        image=(3, 24, 48),
    ),
    _timm("uneven-heads", "vit_tiny_patch16_224", changes={"embed_dim": 50, "num_heads": 5}),
    _timm("one-head", "vit_tiny_patch16_224", changes={"num_heads": 1}),
    _timm("by-timm", "vit_tiny_patch16_224", exporter="timm", opset=17, symbolic=True),
    _timm("by-timm-dynamo", "vit_tiny_patch16_224", exporter="timm-dynamo", symbolic=True),
    _timm("five-tokens", "vit_tiny_patch16_224", "native", changes={"depth": 1}),
    _timm(
        "1025-tokens",
        "vit_tiny_patch16_224",
        changes={"img_size": 64, "patch_size": 2, "depth": 1, "embed_dim": 24},
        image=(3, 64, 64),
        memory={"probability_words": 1024},
    ),
    _timm("dynamic-image", "vit_tiny_patch16_224", changes={"dynamic_img_size": True}),
    _timm("onnxsim", "vit_tiny_patch16_224", exporter="script", opset=17, after="onnxsim"),
    _timm("onnxsim-symbolic", "vit_base_patch16_clip_224", after="onnxsim", symbolic=True),
    _timm("ort-optimised", "vit_tiny_patch16_224", exporter="script", opset=17, after="ort"),
    _timm("ort-optimised-dynamo", "deit3_small_patch16_224", after="ort"),
    _timm(
        "ort-extended",
        "vit_tiny_patch16_224",
        exporter="script",
        opset=17,
        after="ort-extended",
        refused="com.microsoft",
    ),
    _timm("external-data", "vit_tiny_patch16_224", after="external"),
    _timm("half-weights", "vit_tiny_patch16_224", after="half-weights"),
    _timm("half-file", "vit_tiny_patch16_224", exporter="script", opset=17, after="half-file"),
    _timm("half-file-dynamo", "deit3_small_patch16_224", after="half-file"),
    _timm("half-model", "vit_tiny_patch16_224", "half", exporter="script", opset=17),
    _timm("half-model-dynamo", "vit_tiny_patch16_224", "half"),
    _timm(
        "qk-norm",
        "vit_base_patch16_224",
        changes={"qk_norm": True},
        refused="each head by themselves",
    ),
    _timm("beit-script", "beit_base_patch16_224", exporter="script", opset=17),
    _timm("beit", "beit_base_patch16_224", "unfused"),
    _timm("beitv2-script", "beitv2_base_patch16_224", exporter="script", opset=17, symbolic=True),
    _timm("cait", "cait_xxs24_224", refused="scores or probabilities, not"),
    _timm("xcit", "xcit_nano_12_p8_224", "native", refused="ReduceL2 is not supported"),
    _timm("rope", "vit_small_patch16_rope_224", refused="rotary"),
    _timm(
        "eva-swiglu",
        "eva02_tiny_patch14_224",
        "native",
        changes={"img_size": 28},
        image=(3, 28, 28),
        refused="rotary",
    ),
)

TORCH = (
    _torch("torchvision-vit", "torchvision_vit"),
    _torch("torchvision-vit-script", "torchvision_vit", exporter="script", opset=17, symbolic=True),
    _torch("torchvision-vit-batch-script", "torchvision_vit", exporter="script", opset=17, batch=2),
    _torch("encoder-pre-norm", "Encoder", changes={"norm_first": True, "final_norm": True}),
    _torch("encoder-post-norm", "Encoder", changes={"norm_first": False}),
    _torch(
        "encoder-post-norm-script",
        "Encoder",
        changes={"norm_first": False},
        exporter="script",
        opset=17,
    ),
    _torch(
        "encoder-post-norm-batch-script",
        "Encoder",
        changes={"norm_first": False},
        exporter="script",
        opset=17,
        batch=4,
    ),
    _torch(
        "encoder-post-norm-relu",
        "Encoder",
        changes={"norm_first": False, "activation": "relu", "final_norm": True},
    ),
    _torch("encoder-biasless", "Encoder", changes={"norm_first": True, "bias": False}),
    _torch("encoder-causal", "Encoder", changes={"norm_first": True, "causal": True}),
    _torch(
        "encoder-causal-script",
        "Encoder",
        changes={"norm_first": True, "causal": True},
        exporter="script",
        opset=17,
    ),
    _torch("patches-by-unfold", "Encoder", changes={"norm_first": True, "stem": "unfold"}),
    _torch(
        "patches-by-einops",
        "Encoder",
        changes={"norm_first": True, "stem": "einops"},
        exporter="script",
        opset=17,
    ),
    _torch("einsum-batch-norm", "EinsumVit"),
    _torch("einsum-batch-norm-script", "EinsumVit", exporter="script", opset=17),
    _torch("video-channels-first", "VideoEncoder", image=(3, 4, 32, 32)),
    _torch(
        "video-frame-by-frame",
        "VideoEncoder",
        changes={"frame_by_frame": True},
        image=VIDEO,
        exporter="script",
        opset=17,
    ),
    _torch("three-heads", "Encoder", changes={"norm_first": True, "heads": (10, 3, 1)}),
)

# Convolutions before the transformer; maps need room.
MAPS = {"left_words": 1 << 15, "maps": True}
_timm_hybrid = partial(_timm, image=(3, 64, 64), memory=MAPS)
_hf_hybrid = partial(_hf, image=(3, 64, 64), memory=MAPS)
_r_stem = partial(
    _timm_hybrid, model="vit_tiny_r_s16_p8_224", function="native", changes={"img_size": 64}
)
_early = partial(_torch, function="early_convolutions", memory=MAPS)
HYBRIDS = (
    _r_stem("r-stem"),
    _r_stem("r-stem-opset21", opset=21),
    _r_stem("r-stem-opset25", opset=25, symbolic=True),
    _r_stem("r-stem-script", exporter="script", opset=17),
    _r_stem("r-stem-script-symbolic", exporter="script", opset=20, symbolic=True),
    _r_stem("r-stem-script-opset14", exporter="script", opset=14),
    _r_stem("r-stem-batch", batch=3),
    _r_stem("r-stem-onnxsim", exporter="script", opset=17, after="onnxsim"),
    _r_stem("r-stem-ort-optimised", after="ort"),
    _hf_hybrid("dpt-hybrid", "dpt_hybrid"),
    _hf_hybrid("dpt-hybrid-script", "dpt_hybrid", exporter="script", opset=17),
    _timm_hybrid("big-transfer", "big_transfer", "hybrid"),
    _timm_hybrid("big-transfer-opset21", "big_transfer", "hybrid", opset=21),
    _timm_hybrid("big-transfer-script", "big_transfer", "hybrid", exporter="script", opset=17),
    _timm_hybrid("resnet-d", "resnet_d", "hybrid"),
    _timm_hybrid("resnet-d-script", "resnet_d", "hybrid", exporter="script", opset=17),
    _timm_hybrid("conv-stem", "conv_stem", "hybrid", changes={"project": False}),
    _timm_hybrid(
        "conv-stem-script",
        "conv_stem",
        "hybrid",
        changes={"project": False},
        exporter="script",
        opset=17,
        batch=2,
    ),
    _early("early-convolutions-batch", changes={"norm": "batch"}),
    _early("early-convolutions-group-gelu", changes={"norm": "group", "activation": "GELU"}),
    _early("early-convolutions-instance-silu", changes={"norm": "instance", "activation": "SiLU"}),
    _early("early-convolutions-layer-pooled", changes={"norm": "layer", "token": False}),
    *(
        _early(
            f"early-convolutions-{norm}-script",
            changes={"norm": norm},
            exporter="script",
            opset=17,
        )
        for norm in ("batch", "group", "instance")
    ),
)

# Every operator set, by the exporter that writes it itself.
OPSETS = tuple(
    _torch(
        f"opset-{opset}-{exporter}",
        "Encoder",
        changes={"norm_first": True},
        exporter=exporter,
        opset=opset,
    )
    for exporter, opsets in (("script", range(14, 21)), ("dynamo", range(18, 26)))
    for opset in opsets
)

ZOO = (*HUGGING_FACE, *TIMM, *TORCH, *HYBRIDS, *OPSETS)
MAPPED = tuple(export for export in ZOO if not export.refused)
REFUSED = tuple(export for export in ZOO if export.refused)

# The first export of each architecture that compiles also runs on the RTL.
ON_RTL = {export.architecture: export for export in reversed(MAPPED)}


def full_size(name: str) -> Export:
    """A model of timm as it is registered."""
    return _timm(name, name, "full_size", image=(3, 224, 224), exporter="script", opset=17)
