"""The networks that are benchmarked: stock ViTs with random weights, exported by torch.

python -m vitessera.sim.benchmark.models deit_tiny build/bench
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

OPSET = 20
SIDE = 224
PATCH = 16
CLASSES = 1000
SEED = 0
CALIBRATION_IMAGES = 4


@dataclass(frozen=True)
class Size:
    """What tells one ViT from another; 224x224 pixels, patches of 16x16.

    Attributes:
        dim: channels of a token.
        heads: of the attention.
        depth: blocks.
    """

    dim: int
    heads: int
    depth: int = 12


# Touvron et al., "Training data-efficient image transformers" (DeiT), table 1.
SIZES = {
    "deit_tiny": Size(192, 3),
    "deit_small": Size(384, 6),
    "vit_base": Size(768, 12),
}


def network_macs(size: Size) -> int:
    """Multiplications of an image, of the network as published and with nothing left out."""
    tokens, dim, hidden = (SIDE // PATCH) ** 2 + 1, size.dim, 4 * size.dim
    block = tokens * dim * (4 * dim + 2 * hidden) + 2 * tokens * tokens * dim
    return (tokens - 1) * dim * 3 * PATCH**2 + size.depth * block + dim * CLASSES


def export(name: str, path: Path) -> None:
    """Writes the network called `name` as torch exports it; the same weights every time."""
    import torch

    from .vit import VisionTransformer

    size = SIZES[name]
    torch.manual_seed(SEED)
    model = VisionTransformer(
        channels=3,
        side=SIDE,
        patch=PATCH,
        dim=size.dim,
        heads=size.heads,
        depth=size.depth,
        hidden=4 * size.dim,
        classes=CLASSES,
    ).eval()
    _spread(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = torch.zeros(1, 3, SIDE, SIDE)
    program = torch.onnx.export(
        model,
        (image,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["image"],
        output_names=["logits"],
        verbose=False,
    )
    assert program is not None
    partial = path.with_suffix(".partial")
    program.save(str(partial))
    partial.replace(path)


def _spread(model: object) -> None:
    """Random parameters of the spread that trained ones have, so that no layer idles at zero."""
    import torch

    assert isinstance(model, torch.nn.Module)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif "norm" in name:
                parameter.normal_(1, 0.2)
            else:
                fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
                parameter.normal_(0, min(1.0, fan_in**-0.5))


def calibration(name: str) -> npt.NDArray[np.float32]:
    """Smooth random images [n, 3, 224, 224] with about the spread of normalised photographs."""
    rng = np.random.default_rng([SEED, len(name)])
    coarse = rng.standard_normal((CALIBRATION_IMAGES, 3, SIDE // 8, SIDE // 8))
    fine = rng.standard_normal((CALIBRATION_IMAGES, 3, SIDE, SIDE))
    smooth = np.repeat(np.repeat(coarse, 8, axis=2), 8, axis=3)
    return (smooth + 0.2 * fine).astype(np.float32)


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2], f"{sys.argv[1]}.onnx"))
