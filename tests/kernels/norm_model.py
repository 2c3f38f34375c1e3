"""What the LayerNorm kernels have in common: a row tile in the order of its words, and the
statistics of a row, composed of numerics.py's own steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from vitessera.codegen import numerics
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.numerics import NormConstants

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


def row_statistics(x: IntArray, norm: NormConstants) -> Statistics:
    """Statistics of rows [n, padded channels]."""
    total, squares = x.sum(axis=-1), (x * x).sum(axis=-1)
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
