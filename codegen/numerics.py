"""The integer arithmetic, defined once.

The reference interpreter calls these functions, the quantiser chooses their constants, and the
tables below are rendered into the kernels' `config.x`. Every function works element-wise on int64
arrays, which hold all intermediate values exactly.

**Rounding.** A rounding shift adds half and shifts arithmetically: round half towards plus
infinity, `floor(x / 2^s + 1/2)`. It is the one rule of hardware DSP blocks, costs one adder, and
its bias (2^(-s-1) of one unit, at exact ties) is far below the quantisation step.

**Saturation.** int8 is -127 ... 127 and int16 -32767 ... 32767. Without -128, two products share
one DSP multiplier: 4 * 127 * 127 stays below 2^16.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..host.images import INT8_MAX as INT8_MAX
from .graph import Function

IntArray = npt.NDArray[np.int64]

INT16_MAX = 32767
BIASED_BITS = 25  # accumulator + bias after pre_shift
SCALED_BITS = 24  # after the first requantisation step


def exact_float(contracted: int) -> type[np.floating]:
    """The smallest float type in which a sum of `contracted` products of int8 is exact."""
    return np.float32 if contracted * 128 * 128 <= 1 << 24 else np.float64


def round_shift(x: IntArray, shift: IntArray | int) -> IntArray:
    """floor(x / 2^shift + 1/2); a shift of 0 changes nothing."""
    # No value has more than 60 bits: whatever is shifted further is gone, too.
    shift = np.minimum(np.asarray(shift, np.int64), 62)
    half = np.where(shift > 0, np.left_shift(np.int64(1), np.maximum(shift - 1, 0)), 0)
    return (x + half) >> shift


def saturate(x: IntArray, limit: int) -> IntArray:
    """Clamps to -limit ... limit."""
    return np.clip(x, -limit, limit)


def saturate_bits(x: IntArray, bits: int) -> IntArray:
    """Clamps to the range of a two's complement number of `bits` bits."""
    return np.clip(x, -(1 << bits - 1), (1 << bits - 1) - 1)


# --- Activation functions ----------------------------------------------------------------------
#
# f(x) = relu(x) - delta(|x|): GELU's difference from ReLU is even, small and gone beyond |x| = 4,
# so that one short table with linear interpolation gives the whole function. For tanh it is what
# lacks to its limits: f(x) = ±(1 - delta(|x|)).

ACTIVATION_FRACTION_BITS = 12  # x is fixed-point with this many fraction bits; f(x), too, but tanh
DELTA_SEGMENTS = 64
DELTA_SEGMENT_BITS = 8  # a segment is 2^8 units of 2^-12: 1/16; the table ends at |x| = 4
# SiLU's δ fades more slowly: its argument and result are taken times this. At |x| = 4 of the table
# what is left of δ is then as small as the error of the interpolation.
SILU_SCALE = 7 / 16
# What tanh's limit is in its result: δ is all of it at 0, and a table's entries have 10 bits.
TANH_ONE = 1023


@dataclass(frozen=True)
class DeltaTable:
    """delta, in units of the result, and what those are.

    Attributes:
        base: delta at the segments' starts.
        fall: how much it falls over each.
        argument_unit, result_unit: real value of one unit of x and of f(x).
        limit: of an odd function, what it tends to, in units; None where it is relu(x) - delta.
    """

    base: tuple[int, ...]
    fall: tuple[int, ...]
    argument_unit: float = 2.0**-ACTIVATION_FRACTION_BITS
    result_unit: float = 2.0**-ACTIVATION_FRACTION_BITS
    limit: int | None = None


def _normal_cdf(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _delta_gelu_erf(x: float) -> float:
    return x * _normal_cdf(-x)


def _delta_gelu_tanh(x: float) -> float:
    return 0.5 * x * (1.0 - math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def _delta_silu(scaled: float) -> float:
    return scaled / (1.0 + math.exp(scaled / SILU_SCALE))


def _delta_tanh(x: float) -> float:
    return 1.0 - math.tanh(x)


def _delta_table(delta: Callable[[float], float], scale: float = 1.0) -> DeltaTable:
    """relu(x) - delta(x); x and delta are taken times `scale`."""
    unit = 2.0**-ACTIVATION_FRACTION_BITS
    return DeltaTable(*_segments(delta, unit), unit / scale, unit / scale)


def _odd_table(delta: Callable[[float], float], limit: int) -> DeltaTable:
    """±(1 - delta(|x|)), 1 standing for `limit`."""
    return DeltaTable(*_segments(delta, 1 / limit), result_unit=1 / limit, limit=limit)


def _segments(
    delta: Callable[[float], float], unit: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    step = 2.0 ** (DELTA_SEGMENT_BITS - ACTIVATION_FRACTION_BITS)
    values = [round(delta(i * step) / unit) for i in range(DELTA_SEGMENTS + 1)]
    return tuple(values[:-1]), tuple(start - end for start, end in itertools.pairwise(values))


DELTA_TABLES: dict[Function, DeltaTable] = {
    Function.GELU_ERF: _delta_table(_delta_gelu_erf),
    Function.GELU_TANH: _delta_table(_delta_gelu_tanh),
    Function.RELU: DeltaTable((0,) * DELTA_SEGMENTS, (0,) * DELTA_SEGMENTS),
    Function.SILU: _delta_table(_delta_silu, SILU_SCALE),
    Function.TANH: _odd_table(_delta_tanh, TANH_ONE),
}


def activate(x: IntArray, function: Function | None) -> IntArray:
    """The activation of fixed-point `x` in the units of its table; None passes x on."""
    if function is None:
        return x
    table = DELTA_TABLES[function]
    magnitude = np.abs(x)
    segment = magnitude >> DELTA_SEGMENT_BITS
    inside = segment < DELTA_SEGMENTS
    index = np.where(inside, segment, 0)
    rest = magnitude & ((1 << DELTA_SEGMENT_BITS) - 1)
    fall = np.asarray(table.fall, np.int64)[index]
    delta = np.asarray(table.base, np.int64)[index] - round_shift(fall * rest, DELTA_SEGMENT_BITS)
    delta = np.where(inside, delta, 0)
    if table.limit is None:
        return np.maximum(x, 0) - delta
    return np.where(x < 0, delta - table.limit, table.limit - delta)


# --- Epilogue ----------------------------------------------------------------------------------


def requantize(
    accumulator: IntArray,
    bias: IntArray,
    multiplier: IntArray,
    shift: IntArray,
    pre_shift: int,
) -> IntArray:
    """First step: s24 = (acc + bias) * multiplier / 2^(pre_shift + shift).

    Args:
        accumulator: s32.
        bias: s32, per output channel; acc + bias must fit s32.
        multiplier: u16, per output channel.
        shift: 0 ... 63, per output channel.
        pre_shift: 0 ... 7, brings long contractions into 25 bits.
    """
    biased = saturate_bits(round_shift(accumulator + bias, pre_shift), BIASED_BITS)
    return saturate_bits(round_shift(biased * multiplier, shift), SCALED_BITS)


def rescale(x: IntArray, scale: IntArray | int, shift: IntArray | int) -> IntArray:
    """Second step, after the activation: x * scale / 2^shift (scale u16, shift 0 ... 63)."""
    return round_shift(x * scale, shift)


# --- Softmax -----------------------------------------------------------------------------------
#
# Base 2, in streaming order. A score is s16 with 8 fraction bits in units of log2. A row keeps the
# running maximum m as an integer (the smallest above all its scores so far), so that bringing what
# was gathered under an older maximum to the present one is a shift. Each score is exponentiated
# once, relative to the maximum of its time.
#
# Probabilities are operands of the engine and have 7 bits. Rounded each for itself, a long flat
# tail of a row would vanish, or count double. So the running sum is rounded instead, and a
# probability is what the rounded sum grows by: what one key loses, a later one gets, and the
# probabilities of any run of keys add up to the true sum within one unit. The same is done when
# stored probabilities settle to the row's final maximum.

SCORE_FRACTION_BITS = 8
SCORE_MAX = 127 * 256 - 1  # keeps the integer maximum within s8
MAXIMUM_MIN = -128  # of a row that has seen no key
EXP2_BITS = 10  # a table entry is 2^fraction * 2^10, and a little less: see EXP2_TABLE
POWER_BITS = 15  # 2^(s - m) is computed times 2^15
SUM_FRACTION_BITS = 8  # and stored times 2^7: so many bits more have the power and the sum
POWER_SHIFT_MAX = 31
SUM_SHIFT_MAX = 31
SETTLE_FRACTION_BITS = 12  # of the running sum when probabilities settle
SETTLE_SHIFT_MAX = 31

# Times 127/128, which the row's sum divides out again: then no probability, what is carried from
# the keys before it included, exceeds 127.
EXP2_TABLE: tuple[int, ...] = tuple(
    round(2.0 ** (i / 2**SCORE_FRACTION_BITS + EXP2_BITS) * INT8_MAX / 128)
    for i in range(2**SCORE_FRACTION_BITS)
)


def power(score: IntArray, maximum: IntArray) -> IntArray:
    """2^(score - maximum) in 15 bits; `maximum` (an integer) lies above the score."""
    difference = score - (maximum << SCORE_FRACTION_BITS)
    mantissa = np.asarray(EXP2_TABLE, np.int64)[difference & ((1 << SCORE_FRACTION_BITS) - 1)]
    shift = np.minimum(-(difference >> SCORE_FRACTION_BITS), POWER_SHIFT_MAX)
    return round_shift(mantissa << (POWER_BITS - EXP2_BITS), shift)


def _growth(start: IntArray, parts: IntArray, fraction_bits: int) -> IntArray:
    """By how much each part makes the rounded sum grow.

    Args:
        start: the sum before, [...].
        parts: [..., n], like `start` with `fraction_bits` that the result lacks.
    """
    ends = start[..., None] + np.cumsum(parts, axis=-1)
    rounded = round_shift(np.concatenate([start[..., None], ends], axis=-1), fraction_bits)
    return np.diff(rounded, axis=-1)


@dataclass(frozen=True)
class SoftmaxState:
    """Of a set of rows: integer maximum and the sum of powers relative to it."""

    maximum: IntArray
    total: IntArray

    @classmethod
    def start(cls, shape: tuple[int, ...]) -> SoftmaxState:
        """Rows that have seen no key."""
        return cls(np.full(shape, MAXIMUM_MIN, np.int64), np.zeros(shape, np.int64))


def softmax_beat(
    state: SoftmaxState, scores: IntArray, valid: npt.NDArray[np.bool_]
) -> tuple[SoftmaxState, IntArray]:
    """Takes the next E scores of each row.

    Args:
        state: arrays [...].
        scores: s16 [..., E].
        valid: [E]; False for columns that are padding.

    Returns:
        The new state, and the probabilities [..., E] relative to the new maximum, 0 ... 127.
    """
    scores = np.minimum(scores, SCORE_MAX)
    ceiling = np.where(valid, (scores >> SCORE_FRACTION_BITS) + 1, MAXIMUM_MIN).max(axis=-1)
    maximum = np.maximum(state.maximum, ceiling)
    powers = np.where(valid, power(scores, maximum[..., None]), 0)
    before = state.total >> np.minimum(maximum - state.maximum, SUM_SHIFT_MAX)
    values = _growth(before, powers, SUM_FRACTION_BITS)
    return SoftmaxState(maximum, before + powers.sum(axis=-1)), values


def settle(values: IntArray, lag: IntArray) -> IntArray:
    """The probabilities of rows, brought from older maxima to the final one.

    Args:
        values: [..., keys], all keys in streaming order.
        lag: of the same shape: by how much the final maximum is higher.
    """
    parts = (values << SETTLE_FRACTION_BITS) >> np.minimum(lag, SETTLE_SHIFT_MAX)
    return _growth(np.zeros(values.shape[:-1], np.int64), parts, SETTLE_FRACTION_BITS)


RECIPROCAL_SEGMENTS = 128
RECIPROCAL_SEGMENT_BITS = 8


def _descending_table(
    function: object, segments: int, start: float, width: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(base, fall) of a falling function, in 16 bits, for linear interpolation."""
    assert callable(function)
    values = [min(round(function(start + i * width)), 65535) for i in range(segments + 1)]
    return tuple(values[:-1]), tuple(a - b for a, b in itertools.pairwise(values))


RECIPROCAL_BASE, RECIPROCAL_FALL = _descending_table(
    lambda x: 65536.0 / x, RECIPROCAL_SEGMENTS, 1.0, 1.0 / RECIPROCAL_SEGMENTS
)


def _interpolate(
    base: tuple[int, ...], fall: tuple[int, ...], index: IntArray, rest: IntArray, bits: int
) -> IntArray:
    falls = np.asarray(fall, np.int64)[index]
    return np.asarray(base, np.int64)[index] - round_shift(falls * rest, bits)


def highest_bit(x: IntArray) -> IntArray:
    """Position of the highest set bit of positive integers below 2^62."""
    position = np.zeros_like(x)
    for step in (32, 16, 8, 4, 2, 1):
        large = (x >> position) >= (np.int64(1) << step)
        position = np.where(large, position + step, position)
    return position


def reciprocal(total: IntArray) -> tuple[IntArray, IntArray]:
    """(mantissa u16, exponent) with 1 / total ≈ mantissa / 2^(exponent + 16).

    `total` is u28; zero, which no row with a key has, counts as one.
    """
    total = np.maximum(total, 1)
    exponent = highest_bit(total)
    normalized = (total << (31 - exponent)) >> 16  # u16, highest bit set
    index = (normalized >> RECIPROCAL_SEGMENT_BITS) & (RECIPROCAL_SEGMENTS - 1)
    rest = normalized & ((1 << RECIPROCAL_SEGMENT_BITS) - 1)
    mantissa = _interpolate(RECIPROCAL_BASE, RECIPROCAL_FALL, index, rest, RECIPROCAL_SEGMENT_BITS)
    return mantissa, exponent


# --- LayerNorm ---------------------------------------------------------------------------------

MEAN_FRACTION_BITS = 8
INVERSE_BITS = 26  # the instruction carries round(2^26 / channels)
NORMALIZED_FRACTION_BITS = 12
NORMALIZED_BITS = 18
VARIANCE_BITS = 56
RSQRT_SEGMENTS = 96
RSQRT_SEGMENT_BITS = 9
# Segment i starts at mantissa (32 + i) / 32, from 1 to 4.
RSQRT_BASE, RSQRT_FALL = _descending_table(
    lambda x: 65536.0 / math.sqrt(x), RSQRT_SEGMENTS, 1.0, 1.0 / 32
)


def rsqrt(x: IntArray) -> tuple[IntArray, IntArray]:
    """(mantissa u16, exponent) with 1 / sqrt(x) ≈ mantissa / 2^(exponent + 16), x ≥ 1."""
    exponent = highest_bit(x) >> 1
    even = 2 * exponent
    left, right = np.maximum(14 - even, 0), np.maximum(even - 14, 0)
    normalized = (x << left) >> right  # 2^14 ... 2^16 - 1: the mantissa 1 ... 4, 14 fraction bits
    index = (normalized >> RSQRT_SEGMENT_BITS) - 32
    rest = normalized & ((1 << RSQRT_SEGMENT_BITS) - 1)
    return _interpolate(RSQRT_BASE, RSQRT_FALL, index, rest, RSQRT_SEGMENT_BITS), exponent


@dataclass(frozen=True)
class NormConstants:
    """What one normalisation needs besides gamma and beta; fields as in NORM and GATHER."""

    channels: int
    inverse: int
    eps_mantissa: int
    eps_exponent: int
    shift: int
    plain: bool = False
    sum_shift: int = 0

    @property
    def log2_channels(self) -> int:
        """floor(log2(channels)), the power of two that stands in for the channel count."""
        return self.channels.bit_length() - 1


def layer_norm(x: IntArray, gamma: IntArray, beta: IntArray, constants: NormConstants) -> IntArray:
    """LayerNorm of int16 rows to int8.

    The row is normalised to z = (x - mean) * 2^floor(log2 n) / sqrt(n * sum(x^2) - sum(x)^2 + eps)
    in s18 with 12 fraction bits; what is missing to the true value, n / 2^floor(log2 n), is for
    gamma to carry. Then y = (z * gamma + beta) / 2^shift.

    Args:
        x: s16 [rows, padded channels]; padding channels are zero.
        gamma: s16 [padded channels], zero in the padding.
        beta: s32 [padded channels], zero in the padding.
        constants: see NormConstants; when `plain`, z is x.
    """
    if constants.plain:
        z = x
    else:
        total, squares = x.sum(axis=-1, keepdims=True), (x * x).sum(axis=-1, keepdims=True)
        z = normalize(x, statistics(total, squares, constants))
    return saturate(round_shift(z * gamma + beta, constants.shift), INT8_MAX)


def group_norm(
    x: IntArray, gamma: IntArray, beta: IntArray, constants: NormConstants, groups: int
) -> IntArray:
    """Normalisation of groups of channels over all rows, int16 to int8; else like layer_norm.

    The sums of a group are shifted by constants.sum_shift, so that they count no more than 12 bits
    of numbers.

    Args:
        x: s16 [..., rows, channels].
        gamma: s16 [channels].
        beta: s32 [channels].
        constants: see NormConstants; when `plain`, x is only scaled.
        groups: of equally many channels.
    """
    if constants.plain:
        z = x
    else:
        split = x.reshape(*x.shape[:-1], groups, -1)
        total = split.sum(axis=(-3, -1), keepdims=True)
        squares = (split * split).sum(axis=(-3, -1), keepdims=True)
        found = statistics(
            round_shift(total, constants.sum_shift),
            round_shift(squares, constants.sum_shift),
            constants,
        )
        z = normalize(split, found).reshape(x.shape)
    return saturate(round_shift(z * gamma + beta, constants.shift), INT8_MAX)


@dataclass(frozen=True)
class Statistics:
    """Mean with 8 fraction bits; 1 / standard deviation = mantissa / 2^shift."""

    mean: IntArray
    mantissa: IntArray
    shift: IntArray


def statistics(total: IntArray, squares: IntArray, constants: NormConstants) -> Statistics:
    """Of numbers whose sum is `total`, and that of their squares `squares`."""
    mean = round_shift(total * constants.inverse, INVERSE_BITS - MEAN_FRACTION_BITS)
    # An epsilon beyond the variance's width saturates, as in the kernel.
    largest = (1 << VARIANCE_BITS) - 1
    eps = min(constants.eps_mantissa << constants.eps_exponent, largest)
    variance = np.maximum(constants.channels * squares - total * total + eps, 1)
    mantissa, exponent = rsqrt(np.minimum(variance, largest))
    # 16 of the mantissa and 8 of the mean go, 12 stay.
    shift = (
        exponent + (16 + MEAN_FRACTION_BITS - NORMALIZED_FRACTION_BITS) - constants.log2_channels
    )
    return Statistics(mean, mantissa, shift)


def normalize(x: IntArray, found: Statistics) -> IntArray:
    """(x - mean) / standard deviation, s18 with 12 fraction bits."""
    centered = (x << MEAN_FRACTION_BITS) - found.mean
    return saturate_bits(round_shift(centered * found.mantissa, found.shift), NORMALIZED_BITS)
