"""Small Vision Transformers in the ways people write them, exported at test time."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

DIM, HEADS, HIDDEN, SIDE, PATCH, CLASSES = 24, 3, 40, 12, 4, 5
TOKENS = (SIDE // PATCH) ** 2


class ManualNorm(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.gamma = nn.Parameter(torch.rand(DIM) + 0.5)
        self.beta = nn.Parameter(torch.randn(DIM))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(-1, keepdim=True)
        centred = x - mean
        if self.form == "pow":
            variance = (x - mean).pow(2).mean(-1, keepdim=True)
            return self.gamma * (centred / torch.sqrt(variance + 1e-5)) + self.beta
        if self.form == "rsqrt":
            variance = (centred * centred).mean(dim=2, keepdim=True)
            return centred * torch.rsqrt(variance + 1e-5) * self.gamma + self.beta
        if self.form == "half_power":
            variance = centred.square().mean(-1, keepdim=True)
            return centred * (variance + 1e-5) ** -0.5 * self.gamma + self.beta
        variance = x.var(-1, keepdim=True, unbiased=False)
        return centred / (variance + 1e-5).sqrt() * self.gamma + self.beta


class ManualGelu(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form

    def forward(self, x: Tensor) -> Tensor:
        match self.form:
            case "half_first":
                return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
            case "half_last":
                return x * (torch.erf(x * math.sqrt(0.5)) + 1.0) * 0.5
            case "half_inside":
                return x * (0.5 * (1.0 + torch.erf(x / 2**0.5)))
            case "distributed":
                return x * (0.5 + 0.5 * torch.erf(x * 0.5 * math.sqrt(2)))
            case "spread_out":
                return 0.5 * x + torch.erf(x / math.sqrt(2)) * (x * 0.5)
            case "tanh_pow":
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))
                return 0.5 * x * (1 + torch.tanh(inner))
            case "tanh_factored":
                inner = x * 0.7978845608028654 * (1 + 0.044715 * x * x)
                return x * 0.5 * (1 + torch.tanh(inner))
        raise AssertionError(self.form)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
}


@dataclass(frozen=True)
class Variant:
    depth: int = 1
    qkv: str = "fused"  # fused, interleaved, chunk, separate, mha
    scale: str = "scores"  # scores, q, k, both, divide, sdpa
    activation: str = "gelu"
    norm: str = "module"
    pool: str = "cls"  # cls, cls_early, mean, mean_patches, none
    prefix: int = 1
    positions: str = "after"  # after, before, none
    layer_scale: bool = False
    output_heads: str = "last"  # how heads are joined: last, depth_major


class Attention(nn.Module):
    def __init__(self, v: Variant) -> None:
        super().__init__()
        self.v = v
        if v.qkv == "separate":
            self.q, self.k, self.val = (nn.Linear(DIM, DIM, bias=i != 1) for i in range(3))
        else:
            self.qkv = nn.Linear(DIM, 3 * DIM)
        self.proj = nn.Linear(DIM, DIM)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b, n, _ = x.shape
        depth = DIM // HEADS
        if self.v.qkv == "fused":
            return self.qkv(x).reshape(b, n, 3, HEADS, depth).permute(2, 0, 3, 1, 4).unbind(0)
        if self.v.qkv == "interleaved":
            parts = self.qkv(x).reshape(b, n, HEADS, depth, 3).permute(4, 0, 2, 1, 3)
            return parts[0], parts[1], parts[2]
        if self.v.qkv == "chunk":
            parts = self.qkv(x).split(DIM, dim=-1)
        else:
            parts = (self.q(x), self.k(x), self.val(x))
        return tuple(p.view(b, n, HEADS, depth).transpose(1, 2) for p in parts)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, value = self.split(x)
        s = (DIM // HEADS) ** -0.5
        match self.v.scale:
            case "sdpa":
                mixed = nn.functional.scaled_dot_product_attention(q, k, value)
            case "q":
                mixed = ((q * s) @ k.transpose(-2, -1)).softmax(-1) @ value
            case "k":
                mixed = (q @ (k * s).transpose(-2, -1)).softmax(-1) @ value
            case "both":
                mixed = ((q * s**0.5) @ (k.transpose(-2, -1) * s**0.5)).softmax(-1) @ value
            case "divide":
                mixed = (q @ k.transpose(-2, -1) / s**-1).softmax(-1) @ value
            case _:
                mixed = (q @ k.transpose(-2, -1) * s).softmax(-1) @ value
        if self.v.output_heads == "depth_major":
            return self.proj(mixed.permute(0, 2, 3, 1).reshape(b, n, DIM))
        return self.proj(mixed.transpose(1, 2).reshape(b, n, DIM))


class SelfAttention(nn.Module):
    """torch's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(DIM, HEADS, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    def __init__(self, v: Variant) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(v), norm(v)
        self.attn = SelfAttention() if v.qkv == "mha" else Attention(v)
        self.fc1, self.fc2 = nn.Linear(DIM, HIDDEN), nn.Linear(HIDDEN, DIM)
        known = ACTIVATIONS.get(v.activation)
        self.act = known() if known else ManualGelu(v.activation)
        self.ls = nn.ParameterList(torch.rand(DIM) for _ in range(2)) if v.layer_scale else None

    def forward(self, x: Tensor) -> Tensor:
        a = self.attn(self.norm1(x))
        x = x + (a * self.ls[0] if self.ls else a)
        m = self.fc2(self.act(self.fc1(self.norm2(x))))
        return x + (m * self.ls[1] if self.ls else m)


def norm(v: Variant) -> nn.Module:
    if v.norm != "module":
        return ManualNorm(v.norm)
    made = nn.LayerNorm(DIM)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    nn.init.normal_(made.bias)
    return made


class Vit(nn.Module):
    def __init__(self, v: Variant) -> None:
        super().__init__()
        self.v = v
        self.patch = nn.Conv2d(3, DIM, PATCH, PATCH)
        self.cls = nn.Parameter(torch.randn(1, v.prefix, DIM))
        count = TOKENS + (v.prefix if v.positions == "after" else 0)
        self.pos = nn.Parameter(torch.randn(1, count, DIM))
        self.blocks = nn.Sequential(*(Block(v) for _ in range(v.depth)))
        self.norm = norm(v)
        self.head = nn.Linear(DIM, CLASSES)

    def embed(self, images: Tensor) -> Tensor:
        x = self.patch(images).flatten(2).transpose(1, 2)
        if self.v.positions == "before":
            x = x + self.pos
        if self.v.prefix:
            x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1)
        return x + self.pos if self.v.positions == "after" else x

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.embed(images))
        match self.v.pool:
            case "cls":
                return self.head(self.norm(x)[:, 0])
            case "cls_early":
                return self.head(self.norm(x[:, :1]).squeeze(1))
            case "mean":
                return self.head(self.norm(x).mean(1))
            case "mean_patches":
                return self.head(self.norm(x.narrow(1, self.v.prefix, TOKENS).mean(dim=1)))
        return self.norm(x)


class UnsupportedOpsetError(Exception):
    """This torch cannot write that operator set."""


def export(
    variant: Variant, path: Path, *, dynamo: bool, opset: int, dynamic_batch: bool = False
) -> Path:
    torch.manual_seed(1)
    model = Vit(variant).eval()
    images = torch.randn(2 if dynamic_batch else 1, 3, SIDE, SIDE)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            _export_dynamo(model, images, path, opset, dynamic_batch)
        else:
            _export_script(model, images, path, opset, dynamic_batch)
    return path


def _export_dynamo(
    model: nn.Module, images: Tensor, path: Path, opset: int, dynamic_batch: bool
) -> None:
    shapes = ({0: torch.export.Dim("batch")},) if dynamic_batch else None
    program = torch.onnx.export(
        model, (images,), dynamo=True, opset_version=opset, verbose=False, dynamic_shapes=shapes
    )
    proto = program.model_proto
    written = next(entry.version for entry in proto.opset_import if entry.domain == "")
    if written != opset:
        raise UnsupportedOpsetError(f"opset {opset} fell back to {written}")
    onnx.save(proto, path)


def _export_script(
    model: nn.Module, images: Tensor, path: Path, opset: int, dynamic_batch: bool
) -> None:
    axes = {"image": {0: "batch"}} if dynamic_batch else None
    file = io.BytesIO()
    try:
        torch.onnx.export(
            model,
            (images,),
            file,
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            dynamic_axes=axes,
        )
    except (ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise UnsupportedOpsetError(str(error)) from error
    path.write_bytes(file.getvalue())
