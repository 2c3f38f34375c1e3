"""What the LayerNorm kernels have in common: a row tile in the order of its words, and the
statistics of a row, composed of numerics.py's own steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from vitessera.codegen import isa, numerics
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.numerics import NormConstants

OUTSIDE = -1  # of a map
IntArray = npt.NDArray[np.int64]
FRACTION = 16 + numerics.MEAN_FRACTION_BITS - numerics.NORMALIZED_FRACTION_BITS


@dataclass(frozen=True)
class Statistics:
    """Of rows [n]: mean with 8 fraction bits; 1 / deviation = mantissa / 2^shift."""

    mean: IntArray
    mantissa: IntArray
    shift: IntArray


def constants(channels: int, eps_mantissa: int = 1, eps_exponent: int = 0) -> NormConstants:
    inverse = round(2**numerics.INVERSE_BITS / channels)
    return NormConstants(channels, inverse, eps_mantissa, eps_exponent, shift=0)


def sum_shift_of(count: int) -> int:
    """The least shift that leaves no more than 12 bits of `count` numbers."""
    return next(s for s in range(8) if int(numerics.round_shift(np.int64(count), s)) < 4096)


def group_constants(count: int, eps_mantissa: int = 1, eps_exponent: int = 0) -> NormConstants:
    """Of a group of so many numbers."""
    sum_shift = sum_shift_of(count)
    channels = int(numerics.round_shift(np.int64(count), sum_shift))
    inverse = round(2 ** (numerics.INVERSE_BITS + sum_shift) / count)
    return NormConstants(channels, inverse, eps_mantissa, eps_exponent, 0, sum_shift=sum_shift)


def row_statistics(x: IntArray, norm: NormConstants) -> Statistics:
    """Statistics of rows [n, padded channels], or of the numbers of groups [n, numbers]."""
    total, squares = (
        numerics.round_shift(sums.sum(axis=-1), norm.sum_shift) for sums in (x, x * x)
    )
    mean_shift = numerics.INVERSE_BITS - numerics.MEAN_FRACTION_BITS
    mean = numerics.round_shift(total * norm.inverse, mean_shift)
    largest = (1 << numerics.VARIANCE_BITS) - 1
    eps = min(norm.eps_mantissa << norm.eps_exponent, largest)
    variance = np.clip(norm.channels * squares - total * total + eps, 1, largest)
    mantissa, exponent = numerics.rsqrt(variance)
    return Statistics(mean, mantissa, exponent + FRACTION - norm.log2_channels)


def scaled(
    x: IntArray, rows: Statistics, gamma: IntArray, beta: IntArray, shift: int, plain: bool
) -> IntArray:
    """The int8 result of rows [n, channels] for any statistics."""
    z = x
    if not plain:
        centered = (x << numerics.MEAN_FRACTION_BITS) - rows.mean[:, None]
        product = numerics.round_shift(centered * rows.mantissa[:, None], rows.shift[:, None])
        z = numerics.saturate_bits(product, numerics.NORMALIZED_BITS)
    value = numerics.round_shift(z * gamma + beta, shift)
    return numerics.saturate(value, numerics.INT8_MAX)


def beats(x: IntArray, config: HardwareConfig) -> IntArray:
    """[T rows, padded channels] → [column tiles, T rows, beats a row, lanes], word by word."""
    tile, lanes = config.tile, config.lanes
    return x.reshape(tile, -1, config.beats_per_row, lanes).swapaxes(0, 1)


def visits(gather: isa.Gather, config: HardwareConfig) -> int:
    """How often a word of the map is read for the sums: once for each group that it holds."""
    return max(1, config.lanes // (1 << gather.group))


def window_pixels(gather: isa.Gather, config: HardwareConfig) -> list[list[int]]:
    """For each row of a GATHER's result, the map's pixels below its kernel, or OUTSIDE."""
    return [_seen_by(gather, row) for row in range(gather.outer * config.tile)]


def _seen_by(gather: isa.Gather, row: int) -> list[int]:
    line, column = divmod(row - gather.prefix, gather.columns)
    top, left = gather.y + line * gather.step, gather.x + column * gather.step
    found = []
    for y in range(top, top + gather.kernel_height):
        for x in range(left, left + gather.kernel_width):
            inside = row >= gather.prefix and 0 <= y < gather.height and 0 <= x < gather.width
            found.append(y * gather.width + x if inside else OUTSIDE)
    return found
