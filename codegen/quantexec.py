"""Executes a QuantGraph in integers, a whole matrix at a time.

Follows numerics.py to the letter, so that the instruction-level interpreter and the hardware give
the same numbers on the true rows. Much faster than either: used for accuracy and error reports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..host.images import check_images
from . import numerics
from .errors import missing_case
from .graph import OUTSIDE, Window
from .numerics import INT8_MAX, INT16_MAX, IntArray, SoftmaxState
from .preprocess import patches
from .quantgraph import (
    Arrange,
    Attention,
    Constant,
    Gather,
    Norm,
    PatchInput,
    Pool,
    Product,
    QuantGraph,
    QuantNode,
    Requantization,
    SelectToken,
)

Integers = npt.NDArray[np.integer]

LANES = 8
ROWS_PER_BATCH = 4096  # tokens executed at once by `predict`


def execute(
    quantgraph: QuantGraph, images: npt.NDArray[np.generic], lanes: int = LANES
) -> dict[str, Integers]:
    """Every value, as int8 or int16 [images, tokens, channels].

    Args:
        quantgraph: what to execute.
        images: float [n, C, H, W].
        lanes: scores that the softmax takes at a time (HardwareConfig.lanes). Its running maximum
            depends on it, and with the maximum the last bit of a probability.

    Raises:
        ImageError: the images have the wrong shape, dtype or values.
    """
    checked = check_images(images, quantgraph.image.shape, "Input images")
    values: dict[str, Integers] = {}
    for node in quantgraph:
        if isinstance(node, PatchInput):
            result: Integers = np.stack([patches(node, image) for image in checked])
        else:
            operands = [values[name].astype(np.int64) for name in node.inputs]
            result = _run(node, operands, len(checked), lanes)
        values[node.name] = result.astype(np.int8 if node.value.bits == 8 else np.int16)
    return values


def predict(
    quantgraph: QuantGraph, images: npt.NDArray[np.generic], lanes: int = LANES
) -> dict[str, npt.NDArray[np.float64]]:
    """The network's outputs in real values, [images, tokens, channels] by their ONNX names."""
    batch = max(1, ROWS_PER_BATCH // max(node.value.tokens for node in quantgraph))
    starts = range(0, max(len(images), 1), batch)
    runs = [execute(quantgraph, images[start : start + batch], lanes) for start in starts]
    return {
        label: np.concatenate([quantgraph[name].value.dequantize(run[name]) for run in runs])
        for label, name in quantgraph.outputs
    }


def _run(node: QuantNode, operands: list[IntArray], images: int, lanes: int) -> Integers:
    match node:
        case Constant(data=data):
            return np.broadcast_to(data, (images, *data.shape))
        case Product(weight=weight):
            accumulator = _matmul(operands[0], weight.astype(np.int64).T)
            return _epilogue(node, accumulator, node.requantization, *operands[1:])
        case Norm():
            gamma, beta = node.gamma.astype(np.int64), node.beta.astype(np.int64)
            return numerics.layer_norm(operands[0], gamma, beta, node.constants)
        case Gather():
            return _gather(node, operands[0])
        case SelectToken(index=index):
            return operands[0][:, index : index + 1]
        case Arrange(rows=rows):
            return np.where((np.array(rows) == OUTSIDE)[:, None], 0, operands[0][:, rows])
        case Pool(start=start, stop=stop):
            total = operands[0][:, start:stop].sum(axis=1, keepdims=True)
            return _epilogue(node, total, node.requantization)
        case Attention():
            return _attention(node, operands, lanes)
        case _:
            raise missing_case(node, "The matrix-level execution")


def _gather(node: Gather, x: IntArray) -> IntArray:
    """Rows of maps [images, pixels, channels] as node.pool and node.unfold see them."""
    gamma, beta = node.gamma.astype(np.int64), node.beta.astype(np.int64)
    pixels = numerics.group_norm(x, gamma, beta, node.constants, node.groups)
    pixels = np.maximum(pixels, 0) if node.relu else pixels
    pooled = _seen(pixels, node.pool, -INT8_MAX - 1).max(axis=2)
    rows = _seen(pooled, node.unfold, 0)
    rows = rows.reshape(*rows.shape[:2], -1)
    return np.pad(rows, ((0, 0), (node.prefix, 0), (0, 0)))


def _seen(maps: IntArray, window: Window, outside: int) -> IntArray:
    """[images, results, pixels of the kernel, channels] of maps [images, pixels, channels]."""
    rows = window.pixels
    return np.where((rows == OUTSIDE)[..., None], outside, maps[:, rows])


def _matmul(left: IntArray, right: IntArray) -> IntArray:
    """The exact product of int8 matrices, by floating-point BLAS."""
    dtype = numerics.exact_float(left.shape[-1])
    product: IntArray = np.matmul(left.astype(dtype), right.astype(dtype)).astype(np.int64)
    return product


def _limit(node: QuantNode) -> int:
    return INT8_MAX if node.value.bits == 8 else INT16_MAX


def requantize(accumulator: IntArray, constants: Requantization) -> IntArray:
    """The first step of an epilogue, for accumulators [..., out]."""
    return numerics.requantize(
        accumulator,
        constants.bias.astype(np.int64),
        constants.multiplier.astype(np.int64),
        constants.shift.astype(np.int64),
        constants.pre_shift,
    )


def _epilogue(
    node: QuantNode, accumulator: IntArray, constants: Requantization, *residual: IntArray
) -> IntArray:
    active = numerics.activate(requantize(accumulator, constants), constants.function)
    scaled = numerics.rescale(active, constants.scale, constants.scale_shift) + constants.offset
    return numerics.saturate(sum(residual, scaled), _limit(node))


# --- Attention -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Beat:
    """The probabilities of some keys, with the maximum they are relative to."""

    values: IntArray  # [..., queries, keys]
    maximum: IntArray  # [..., queries]


def _attention(node: Attention, operands: list[IntArray], lanes: int) -> IntArray:
    query, key, value = (_heads(operand, node.heads) for operand in operands)
    scores = requantize(_matmul(query, key.swapaxes(-1, -2)), node.scores)
    if node.bias is not None:
        scores = scores + node.bias
    scores = numerics.saturate(scores, INT16_MAX)
    probabilities, total = _softmax(scores, lanes)
    mixed = requantize(_join(_matmul(probabilities, value)), node.mix)
    mantissa, exponent = numerics.reciprocal(total)
    rows = mixed.shape[:2]
    width = mixed.shape[2] // node.heads
    by_head = mixed.reshape(*rows, node.heads, width)
    shift = exponent.transpose(0, 2, 1)[..., None] + node.mix.scale_shift
    scaled = numerics.rescale(by_head, mantissa.transpose(0, 2, 1)[..., None], shift)
    return numerics.saturate(scaled.reshape(mixed.shape) + node.mix.offset, _limit(node))


def _heads(x: IntArray, heads: int) -> IntArray:
    """[n, tokens, channels] → [n, heads, tokens, channels of a head]."""
    images, tokens, _ = x.shape
    by_head: IntArray = x.reshape(images, tokens, heads, -1).transpose(0, 2, 1, 3)
    return by_head


def _join(x: IntArray) -> IntArray:
    images, _, tokens, _ = x.shape
    joined: IntArray = x.transpose(0, 2, 1, 3).reshape(images, tokens, -1)
    return joined


def _softmax(scores: IntArray, lanes: int) -> tuple[IntArray, IntArray]:
    """(probabilities relative to each row's final maximum, their sums)."""
    state = SoftmaxState.start(scores.shape[:-1])
    beats = []
    for part in _beats(scores, lanes):
        state, values = numerics.softmax_beat(state, part, np.ones(part.shape[-1], np.bool_))
        beats.append(_Beat(values, state.maximum))
    lags = [
        np.broadcast_to((state.maximum - beat.maximum)[..., None], beat.values.shape)
        for beat in beats
    ]
    values = np.concatenate([beat.values for beat in beats], axis=-1)
    return numerics.settle(values, np.concatenate(lags, axis=-1)), state.total


def _beats(scores: IntArray, lanes: int) -> Iterator[IntArray]:
    for start in range(0, scores.shape[-1], lanes):
        yield scores[..., start : start + lanes]
