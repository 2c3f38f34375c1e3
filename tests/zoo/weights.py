"""Weights of about the size that training leaves, for models that were never trained.

Freshly made models have tiny weights: attention is uniform and every block adds next to nothing, so
that any mistake in one would pass.
"""

from __future__ import annotations

import math

import torch
from torch import nn

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def trained_like(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in inference mode with new parameters, the same for every seed."""
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: nn.Parameter, deviation: float, mean: float = 0.0) -> None:
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.data = (mean + deviation * drawn).to(parameter.dtype)

    done: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in done:
                continue
            done.add(id(parameter))
            product = isinstance(module, PRODUCTS) or name.endswith("proj_weight")
            if product and parameter.ndim > 1:
                normal(parameter, 1.0 / math.sqrt(math.prod(parameter.shape[1:])))
            elif parameter.ndim == 1 and "bias" not in name:
                normal(parameter, 0.2, 1.0)  # LayerNorm's gamma, LayerScale
            elif name.endswith("bias_table"):
                normal(parameter, 3.0)  # of relative positions
            else:
                normal(parameter, 0.2)  # biases, tokens, positions
    return model.eval()
