"""Writes small hybrid Vision Transformers in ONNX by hand: a convolution stem, then blocks.

Needs no torch. Every part of the stem can be changed, so that one detail can be made wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx_builder import Calm, Net

Step = Callable[[Net, str], str]

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Hybrid:
    """conv, norm, ReLU, max pool, perhaps a residual block, patches, then transformer blocks.

    Attributes:
        side: pixels of the square image.
        channels: of the image.
        stem: channels of the stem.
        kernel: of the first convolution, whose stride is 2; (7, 7) halves the image.
        groups: of the group norm.
        norm: how the norm is written, by name in `NORMS`.
        padding: how padding is written: "pads" (attribute, symmetric), "same" (auto_pad), "pad"
            (a node before the operator, more of it behind than before) or "none".
        pool: whether there is a max pool, 3 × 3, stride 2.
        residual: whether there is a bottleneck (1 × 1, 3 × 3, 1 × 1, and a 1 × 1 shortcut).
        patch: kernel and stride of the last convolution.
        dim: channels of the transformer.
        heads: of its attention.
        hidden: channels inside its feed-forward part.
        depth: number of blocks.
        class_token: whether there is one, which the head then reads; else the mean.
        classes: of the head.
        opset: of the file.
        images: how many it takes at once.
    """

    side: int = 32
    channels: int = 3
    stem: int = 32
    kernel: tuple[int, int] = (7, 7)
    groups: int = 8
    norm: str = "instance"
    padding: str = "pads"
    pool: bool = True
    residual: bool = False
    patch: int = 2
    dim: int = 24
    heads: int = 2
    hidden: int = 32
    depth: int = 2
    class_token: bool = True
    classes: int = 5
    opset: int = 21
    images: int = 1

    @property
    def map_side(self) -> int:
        """Of the map that patches are cut from."""
        side = self._halved(self.side, self.kernel[0])
        return self._halved(side, 3) if self.pool else side

    def _halved(self, side: int, kernel: int) -> int:
        return (side - kernel) // 2 + 1 if self.padding == "none" else -(-side // 2)

    @property
    def tokens(self) -> int:
        """The class token counted."""
        return (self.map_side // self.patch) ** 2 + self.class_token


def hybrid(recipe: Hybrid | None = None, net: Net | None = None) -> onnx.ModelProto:
    """The model, whose input is "image" and whose output is "logits" [1, classes]."""
    recipe = recipe or Hybrid()
    net = net or Calm(opset=recipe.opset)
    x = patches(net, stem(net, "image", recipe), recipe)
    for _ in range(recipe.depth):
        x = block(net, x, recipe)
    x = layer_norm(net, x, recipe.dim)
    if recipe.class_token:
        x = net.op("Gather", x, net.const(0, np.int64), axis=1)
    else:
        x = net.op("ReduceMean", x, net.ints(1), keepdims=0)
    product = net.op("MatMul", x, net.weight(recipe.dim, recipe.classes))
    net.op("Add", product, net.weight(recipe.classes), name="logits")
    image = (recipe.images, recipe.channels, recipe.side, recipe.side)
    model = net.model("logits", [helper.make_tensor_value_info("image", TensorProto.FLOAT, image)])
    onnx.checker.check_model(model)
    return model


def stem(net: Net, x: str, recipe: Hybrid) -> str:
    """The image as a map [1, stem, side, side]."""
    x = conv(net, x, recipe.channels, recipe.stem, recipe.kernel, 2, recipe.padding)
    x = net.op("Relu", norm(net, x, recipe.stem, recipe))
    if recipe.pool:
        x = max_pool(net, x, recipe.padding)
    return bottleneck(net, x, recipe) if recipe.residual else x


def conv(
    net: Net,
    x: str,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: int = 1,
    padding: str = "pads",
    *,
    bias: bool = False,
) -> str:
    """A convolution that gives a pixel for each `stride` pixels, unless padding is "none"."""
    operands = [net.weight(outputs, inputs, *kernel)]
    if bias:
        operands.append(net.weight(outputs))
    x, attributes = padded(net, x, kernel, stride, padding, 0.0)
    return net.op("Conv", x, *operands, strides=[stride] * 2, **attributes)


def max_pool(net: Net, x: str, padding: str) -> str:
    """3 × 3, stride 2."""
    x, attributes = padded(net, x, (3, 3), 2, padding, LOWEST)
    return net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], **attributes)


def padded(
    net: Net, x: str, kernel: tuple[int, int], stride: int, padding: str, value: float
) -> tuple[str, dict[str, object]]:
    """The operand and the attributes that bring `padding` about.

    A node pads as SAME_UPPER does where the side is a multiple of the stride.
    """
    if padding == "none" or max(kernel) == 1:
        return x, {}
    if padding == "same":
        return x, {"auto_pad": "SAME_UPPER"}
    if padding == "pads":
        sides = [side // 2 for side in kernel]
        return x, {"pads": [*sides, *sides]}
    total = [max(side - stride, 0) for side in kernel]
    before = [side // 2 for side in total]
    behind = [side - half for side, half in zip(total, before, strict=True)]
    pads = net.ints(0, 0, *before, 0, 0, *behind)
    return net.op("Pad", x, pads, net.const(value)), {}


def bottleneck(net: Net, x: str, recipe: Hybrid) -> str:
    """The block of a residual network, whose norms follow its convolutions."""
    wide, narrow = recipe.stem, max(recipe.stem // 4, recipe.groups)
    shortcut = norm(net, conv(net, x, wide, wide, (1, 1)), wide, recipe)
    y = net.op("Relu", norm(net, conv(net, x, wide, narrow, (1, 1)), narrow, recipe))
    y = conv(net, y, narrow, narrow, (3, 3), 1, "pads")
    y = net.op("Relu", norm(net, y, narrow, recipe))
    y = norm(net, conv(net, y, narrow, wide, (1, 1)), wide, recipe)
    return net.op("Relu", net.op("Add", y, shortcut))


def patches(net: Net, x: str, recipe: Hybrid) -> str:
    """A map as tokens [1, tokens, dim], with class token and positions."""
    size = (recipe.patch, recipe.patch)
    x = conv(net, x, recipe.stem, recipe.dim, size, recipe.patch, "none", bias=True)
    x = net.op("Transpose", net.op("Reshape", x, net.ints(0, recipe.dim, -1)), perm=[0, 2, 1])
    if recipe.class_token:
        token = net.op("Expand", net.weight(1, 1, recipe.dim), net.ints(recipe.images, 1, 1))
        x = net.op("Concat", token, x, axis=1)
    return net.op("Add", x, net.weight(1, recipe.tokens, recipe.dim))


# --- Norms ---------------------------------------------------------------------------------------


def norm(net: Net, x: str, channels: int, recipe: Hybrid) -> str:
    """The norm of a map [1, channels, height, width]."""
    return NORMS[recipe.norm](net, x, channels, recipe.groups)


def by_instance(net: Net, x: str, channels: int, groups: int) -> str:
    """As TorchScript writes nn.GroupNorm: each group as one channel, then γ and β."""
    shape = net.op("Shape", x)
    rows = net.op("Reshape", x, net.ints(0, groups, -1))
    ones, zeros = net.const(np.ones(groups)), net.const(np.zeros(groups))
    normal = net.op("InstanceNormalization", rows, ones, zeros, epsilon=1e-5)
    return _affine(net, net.op("Reshape", normal, shape), channels)


def by_group(net: Net, x: str, channels: int, groups: int) -> str:
    """One operator, with γ and β by channel as of opset 21."""
    assert net.opset >= 21
    gamma, beta = net.weight(channels), small(net, channels)
    return net.op("GroupNormalization", x, gamma, beta, num_groups=groups, epsilon=1e-5)


def spelled_out(net: Net, x: str, channels: int, groups: int) -> str:
    """Mean and variance of a group by ReduceMean."""
    shape = net.op("Shape", x)
    rows = net.op("Reshape", x, net.ints(0, groups, -1))
    centred = net.op("Sub", rows, net.op("ReduceMean", rows, net.ints(2)))
    square = net.op("Mul", centred, centred)
    variance = net.op("Add", net.op("ReduceMean", square, net.ints(2)), net.const(1e-5))
    normal = net.op("Div", centred, net.op("Sqrt", variance))
    return _affine(net, net.op("Reshape", normal, shape), channels)


def by_batch(net: Net, x: str, channels: int, _: int) -> str:
    """BatchNorm in inference: no norm at all, but factors and offsets."""
    positive = net.const(0.5 + net.random.random(channels))
    operands = (net.weight(channels), small(net, channels), small(net, channels), positive)
    return net.op("BatchNormalization", x, *operands, epsilon=1e-5)


def _affine(net: Net, x: str, channels: int) -> str:
    gamma, beta = net.weight(channels), small(net, channels)
    gamma, beta = (net.op("Unsqueeze", values, net.ints(1, 2)) for values in (gamma, beta))
    return net.op("Add", net.op("Mul", x, gamma), beta)


def small(net: Net, channels: int) -> str:
    """Offsets of either sign, so that ReLU cuts about half."""
    return net.const(0.3 * net.random.standard_normal(channels))


def as_it_is(_net: Net, x: str, _channels: int, _groups: int) -> str:
    return x


NORMS: dict[str, Callable[[Net, str, int, int], str]] = {
    "instance": by_instance,
    "group": by_group,
    "spelled out": spelled_out,
    "batch": by_batch,
    "none": as_it_is,
}


# --- The transformer -----------------------------------------------------------------------------


def layer_norm(net: Net, x: str, dim: int) -> str:
    return net.op("LayerNormalization", x, net.weight(dim), net.weight(dim), axis=-1)


def block(net: Net, x: str, recipe: Hybrid) -> str:
    """x + attention(norm(x)), then x + mlp(norm(x))."""
    x = net.op("Add", x, attention(net, layer_norm(net, x, recipe.dim), recipe))
    y = net.linear(layer_norm(net, x, recipe.dim), recipe.dim, recipe.hidden)
    return net.op("Add", x, net.linear(net.op("Gelu", y), recipe.hidden, recipe.dim))


def attention(net: Net, x: str, recipe: Hybrid) -> str:
    dim, depth = recipe.dim, recipe.dim // recipe.heads
    split = net.ints(0, -1, recipe.heads, depth)
    q, k, v = (net.op("Reshape", net.linear(x, dim, dim), split) for _ in range(3))
    q = net.op("Transpose", q, perm=[0, 2, 1, 3])
    k = net.op("Transpose", k, perm=[0, 2, 3, 1])
    v = net.op("Transpose", v, perm=[0, 2, 1, 3])
    scores = net.op("Mul", net.op("MatMul", q, k), net.const(depth**-0.5))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    joined = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
    return net.linear(net.op("Reshape", joined, net.ints(0, -1, dim)), dim, dim)
