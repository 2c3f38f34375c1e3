"""Runs a graph in float32, for calibration and per-layer error."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..errors import ImageError, missing_case
from ..graph import (
    OUTSIDE,
    Activation,
    Add,
    Arrange,
    Attention,
    FloatArray,
    Function,
    Graph,
    GroupNorm,
    Image,
    ImagePatches,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Node,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
    Unfold,
    Window,
)
from ..preprocess import patch_rows


def evaluate(graph: Graph, image: FloatArray) -> dict[str, FloatArray]:
    """Every value of the graph, by name, the image itself left out.

    Args:
        graph: an imported network.
        image: float32, of the graph's shape, or a batch [batch, ...] of them.

    Returns:
        [tokens, channels] for one image, [batch, tokens, channels] for a batch.

    Raises:
        ImageError: the image has another shape.
    """
    batch = np.asarray(image, dtype=np.float32)
    single = batch.ndim == len(graph.image.shape)
    if single:
        batch = batch[None]
    _check_shape(graph.image, batch)
    values: dict[str, FloatArray] = {graph.image.name: batch}
    for node in graph:
        operands = [values[name] for name in node.inputs]
        values[node.name] = np.asarray(_run(node, operands), dtype=np.float32)
    del values[graph.image.name]
    return {name: value[0] for name, value in values.items()} if single else values


def _check_shape(image: Image, batch: FloatArray) -> None:
    if batch.shape[1:] != image.shape:
        raise ImageError(
            f"Images of shape {list(batch.shape)} do not fit input {image.name!r}.",
            f"Give {list(image.shape)}, or a batch of them.",
        )


def _run(node: Node, operands: list[FloatArray]) -> FloatArray:
    x = operands[0]
    match node:
        case PatchEmbed() | ImagePatches() | Unfold() | MaxPool() | GroupNorm() | TokenEmbed():
            return _run_stem(node, x)
        case LayerNorm():
            return _layer_norm(node, x)
        case Linear():
            return _linear(x, node.weight, node.bias)
        case Attention():
            return _attention(node, *operands)
        case Activation(function=function):
            return FUNCTIONS[function](x)
        case Add():
            return _sum(x, operands[1])
        case SelectToken(index=index):
            return x[:, index : index + 1]
        case Arrange(rows=rows):
            return _arranged(x, rows)
        case MeanPool(start=start, stop=stop):
            return _mean_pool(x[:, start:stop])
        case _:
            raise missing_case(node, "The float execution")


def _run_stem(
    node: PatchEmbed | ImagePatches | Unfold | MaxPool | GroupNorm | TokenEmbed, x: FloatArray
) -> FloatArray:
    match node:
        case PatchEmbed():
            return _patch_embed(node, x)
        case TokenEmbed():
            return _token_embed(node, x)
        case ImagePatches(window=window):
            return _image_patches(x, window)
        case Unfold(window=window):
            seen = _seen(x, window, 0.0)
            return seen.reshape(*seen.shape[:2], -1)
        case MaxPool(window=window):
            return _greatest(x, window)
        case GroupNorm():
            return _group_norm(node, x)


def _sum(x: FloatArray, y: FloatArray) -> FloatArray:
    total: FloatArray = x + y
    return total


def _arranged(x: FloatArray, rows: tuple[int, ...]) -> FloatArray:
    numbers = np.array(rows)
    return np.where((numbers == OUTSIDE)[:, None], np.float32(0.0), x[:, numbers])


def _mean_pool(x: FloatArray) -> FloatArray:
    mean: FloatArray = x.mean(axis=1, keepdims=True)
    return mean


def _linear(x: FloatArray, weight: FloatArray, bias: FloatArray) -> FloatArray:
    return _sum(x @ weight.T, bias)


def _token_embed(node: TokenEmbed, x: FloatArray) -> FloatArray:
    count, tokens, channels = x.shape
    front = np.broadcast_to(node.prefix, (count, *node.prefix.shape))
    behind = np.zeros((count, len(node.positions) - len(node.prefix) - tokens, channels), x.dtype)
    return _sum(np.concatenate([front, x, behind], axis=1), node.positions)


def _patch_embed(node: PatchEmbed, images: FloatArray) -> FloatArray:
    out, *patch = node.weight.shape
    return _linear(patch_rows(images, tuple(patch)), node.weight.reshape(out, -1), node.bias)


def _seen(x: FloatArray, window: Window, padding: float) -> FloatArray:
    """[batch, results, pixels of the kernel, channels] of maps [batch, pixels, channels]."""
    around = np.full((len(x), 1, x.shape[2]), padding, np.float32)  # the last row: OUTSIDE is -1
    return np.concatenate([x, around], axis=1)[:, window.pixels]


def _image_patches(images: FloatArray, window: Window) -> FloatArray:
    batch, channels = images.shape[:2]
    seen = _seen(images.reshape(batch, channels, -1).swapaxes(1, 2), window, 0.0)
    patches: FloatArray = seen.swapaxes(2, 3).reshape(batch, seen.shape[1], -1)
    return patches


def _greatest(x: FloatArray, window: Window) -> FloatArray:
    greatest: FloatArray = _seen(x, window, -np.inf).max(axis=2)
    return greatest


def _group_norm(node: GroupNorm, x: FloatArray) -> FloatArray:
    batch, pixels, channels = x.shape
    grouped = x.reshape(batch, pixels, node.groups, -1)
    centred = grouped - grouped.mean(axis=(1, 3), keepdims=True)
    variance = np.square(centred).mean(axis=(1, 3), keepdims=True)
    normal = centred / np.sqrt(variance + np.float32(node.eps))
    return _sum(normal.reshape(batch, pixels, channels) * node.gamma, node.beta)


def _layer_norm(node: LayerNorm, x: FloatArray) -> FloatArray:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    normal = centred / np.sqrt(variance + np.float32(node.eps))
    return _sum(normal * node.gamma, node.beta)


def _attention(
    node: Attention, query: FloatArray, key: FloatArray, value: FloatArray
) -> FloatArray:
    q, k, v = (_split_heads(operand, node.heads) for operand in (query, key, value))
    scores = (q @ k.swapaxes(-2, -1)) * np.float32(node.scale)
    if node.bias is not None:
        scores = scores + node.bias
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v
    batch, heads, tokens, depth = mixed.shape
    joined: FloatArray = mixed.swapaxes(1, 2).reshape(batch, tokens, heads * depth)
    return joined


def _split_heads(x: FloatArray, heads: int) -> FloatArray:
    batch, tokens, channels = x.shape
    return x.reshape(batch, tokens, heads, channels // heads).swapaxes(1, 2)


# Rational approximations of W. J. Cody, "Rational Chebyshev approximation for the error
# function", Math. Comp. 23 (1969): double precision on |x| <= 0.46875 and 0.46875 < |x| <= 4.
SMALL_P = (
    1.85777706184603153e-1,
    3.16112374387056560e00,
    1.13864154151050156e02,
    3.77485237685302021e02,
    3.20937758913846947e03,
)
SMALL_Q = (
    1.0,
    2.36012909523441209e01,
    2.44024637934444173e02,
    1.28261652607737228e03,
    2.84423683343917062e03,
)
LARGE_P = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594e00,
    6.61191906371416295e01,
    2.98635138197400131e02,
    8.81952221241769090e02,
    1.71204761263407058e03,
    2.05107837782607147e03,
    1.23033935479799725e03,
)
LARGE_Q = (
    1.0,
    1.57449261107098347e01,
    1.17693950891312499e02,
    5.37181101862009858e02,
    1.62138957456669019e03,
    3.29079923573345963e03,
    4.36261909014324716e03,
    3.43936767414372164e03,
    1.23033935480374942e03,
)


def erf(x: FloatArray) -> FloatArray:
    """The error function in float32, computed in double; absolute error below 1e-7."""
    wide = x.astype(np.float64)
    # Beyond 4 the error function is 1 to within 1.6e-8, below half a unit of float32.
    side = np.minimum(np.abs(wide), 4.0)
    square = np.minimum(side, 0.46875) ** 2
    small = wide * np.polyval(SMALL_P, square) / np.polyval(SMALL_Q, square)
    tail = np.exp(-side * side) * np.polyval(LARGE_P, side) / np.polyval(LARGE_Q, side)
    return np.where(side <= 0.46875, small, np.copysign(1.0 - tail, wide)).astype(np.float32)


def _gelu_erf(x: FloatArray) -> FloatArray:
    activated: FloatArray = np.float32(0.5) * x * (1 + erf(x * np.float32(math.sqrt(0.5))))
    return activated


def _gelu_tanh(x: FloatArray) -> FloatArray:
    inner = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x * x * x)
    activated: FloatArray = np.float32(0.5) * x * (1 + np.tanh(inner))
    return activated


def _relu(x: FloatArray) -> FloatArray:
    activated: FloatArray = np.maximum(x, 0)
    return activated


def _silu(x: FloatArray) -> FloatArray:
    # tanh does not overflow, whatever the argument
    activated: FloatArray = x * (np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * x))
    return activated


FUNCTIONS: dict[Function, Callable[[FloatArray], FloatArray]] = {
    Function.GELU_ERF: _gelu_erf,
    Function.GELU_TANH: _gelu_tanh,
    Function.RELU: _relu,
    Function.SILU: _silu,
    Function.TANH: np.tanh,
}
