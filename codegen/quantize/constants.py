"""Integer constants from real ones, within the fields that numerics.py and isa.py define."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import UnsupportedModelError
from ..graph import Function
from ..isa import Gather, highest
from ..numerics import (
    BIASED_BITS,
    DELTA_TABLES,
    INT8_MAX,
    INT16_MAX,
    INVERSE_BITS,
    NORMALIZED_FRACTION_BITS,
    SCALED_BITS,
    SCORE_FRACTION_BITS,
    VARIANCE_BITS,
    NormConstants,
)
from ..quantgraph import Requantization
from .calibrate import FloatArray

IntArray = npt.NDArray[np.int64]

MULTIPLIER_BITS = 16
SHIFT_MAX = 63
COUNTED_MAX = highest(Gather, "channels")  # numbers that the sums of a normalisation count
MOST_SUM_SHIFT = highest(Gather, "sum_shift")
# By how much of the variance the count's rounding may change it.
COUNT_ERROR = 0.02
PRE_SHIFT_MAX = 7
INT32_MAX = 2**31 - 1
# A bias up to here leaves half of the biased accumulator to the products.
BIAS_MAX = 2 ** (BIASED_BITS - 2)
# Output channels whose weights stay this far below the largest are as good as zero.
SMALLEST_WEIGHTS = 2.0**-20
LOWEST_SCORE = -INT16_MAX / 2**SCORE_FRACTION_BITS  # in units of log2
# A score that is saturated there weighs nothing, as it should, if the greatest of its row lies
# above minus this: 28 shifts leave nothing of the softmax's sum, still less of a probability.
HARMLESS_SCORE = 100.0
# Of a row of weights, the share of its range that int8 covers; clipping rarely pays with 8 bits.
WEIGHT_CLIPPING = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)


@dataclass(frozen=True)
class Scale:
    """Real value of one unit of each channel, and what stands for real zero; see Value."""

    step: FloatArray  # [channels]
    offset: float | FloatArray = 0

    @property
    def zero(self) -> FloatArray:
        """The real values that integer zero stands for, [channels]."""
        return np.asarray(-self.offset * self.step, np.float64)


@dataclass(frozen=True)
class FixedPoint:
    """ratio ≈ multiplier / 2^shift, multiplier in [2^15, 2^16)."""

    multiplier: npt.NDArray[np.uint16]
    shift: npt.NDArray[np.uint8]


def fixed_point(ratio: FloatArray, culprit: str) -> FixedPoint:
    """The multipliers and shifts nearest to positive ratios.

    Raises:
        UnsupportedModelError: a ratio outside 2^-48 ... 2^16; `culprit` names the node.
    """
    inside = (ratio >= 2.0 ** (MULTIPLIER_BITS - 1 - SHIFT_MAX)) & (ratio < 2.0**MULTIPLIER_BITS)
    mantissa, exponent = np.frexp(np.where(inside, ratio, 1.0))
    multiplier = np.rint(mantissa * 2.0**MULTIPLIER_BITS).astype(np.int64)
    shift = MULTIPLIER_BITS - exponent.astype(np.int64)
    full = multiplier == 1 << MULTIPLIER_BITS
    multiplier, shift = np.where(full, multiplier >> 1, multiplier), shift - full
    inside &= shift >= 0  # the largest ratios may round up
    if not inside.all():
        channel = int(np.argmin(inside))
        raise UnsupportedModelError(
            f"Node {culprit}: channel {channel} has to be scaled by {ratio[channel]:.3g}, outside "
            "the range 2^-48 to 2^16 of the hardware's multipliers.",
            "Check the layer's weights and that the calibration images are normalised as in "
            "training.",
        )
    return FixedPoint(multiplier.astype(np.uint16), shift.astype(np.uint8))


# --- Products ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegerWeights:
    """weight.T @ x + bias ≈ unit * (acc + bias) over the integers of x."""

    weight: npt.NDArray[np.int8]  # [out, in]
    bias: IntArray  # [out]
    unit: FloatArray  # [out]: real value of one accumulator unit


def integer_weights(
    weight: FloatArray, bias: FloatArray, operand: Scale, mean_square: FloatArray
) -> IntegerWeights:
    """int8 weights with the operand's scales folded in, int32 bias with its zero point.

    Args:
        weight: [out, in].
        bias: [out].
        operand: scale of the operand, over in.
        mean_square: of the operand's channels: what an error of a weight costs.
    """
    folded = weight * operand.step
    unit = _weight_unit(folded, bias, mean_square / np.square(operand.step))
    integers = np.clip(np.rint(folded / unit[:, None]), -INT8_MAX, INT8_MAX).astype(np.int64)
    zero = (operand.offset * integers).sum(axis=1)
    integer_bias = np.rint(bias / unit - zero).astype(np.int64)
    return IntegerWeights(integers.astype(np.int8), integer_bias, unit)


def _weight_unit(folded: FloatArray, bias: FloatArray, cost: FloatArray) -> FloatArray:
    full = np.abs(folded).max(axis=1) / INT8_MAX
    candidates = np.array([full * share for share in WEIGHT_CLIPPING])
    errors = np.array([_weight_error(folded, unit, cost) for unit in candidates])
    best = candidates[errors.argmin(axis=0), np.arange(len(full))]
    # A row of zeros may have any unit; a lone bias must still fit.
    largest = full.max() if full.max() > 0.0 else 1.0
    smallest = np.maximum(largest * SMALLEST_WEIGHTS, np.abs(bias) / BIAS_MAX)
    unit: FloatArray = np.maximum(best, smallest)
    return unit


def _weight_error(folded: FloatArray, unit: FloatArray, cost: FloatArray) -> FloatArray:
    safe = np.where(unit > 0.0, unit, 1.0)[:, None]
    integers = np.clip(np.rint(folded / safe), -INT8_MAX, INT8_MAX)
    return np.square(integers * safe - folded) @ cost


def accumulator_bound(weights: IntegerWeights) -> int:
    """The greatest magnitude of acc + bias over all int8 operands."""
    sums = np.abs(weights.weight.astype(np.int64)).sum(axis=1)
    return int((INT8_MAX * sums + np.abs(weights.bias)).max())


def pre_shift(bound: int, culprit: str) -> int:
    """The shift that brings magnitudes up to `bound` into the biased accumulator's bits."""
    shift = max(0, math.ceil(math.log2((bound + 1) / 2 ** (BIASED_BITS - 1))))
    if shift > PRE_SHIFT_MAX or bound > INT32_MAX:
        raise UnsupportedModelError(
            f"Node {culprit}: its accumulator reaches {bound}, more than 32 bits hold.",
            "Split the layer; its contraction is too long.",
        )
    return shift


def epilogue(
    weights: IntegerWeights, result: Scale, function: Function | None, culprit: str
) -> Requantization:
    """From the accumulator to `result`, through the activation function if there is one.

    Without one, the bias takes the offset, so that each channel may have its own.
    """
    if function is None:
        moved = np.rint(weights.bias - result.zero / weights.unit).astype(np.int64)
        weights = replace(weights, bias=moved)
    shift = pre_shift(accumulator_bound(weights), culprit)
    bias = weights.bias.astype(np.int32)
    real = weights.unit * 2.0**shift
    if function is None:
        first = fixed_point(real / result.step, culprit)
        return Requantization(bias, first.multiplier, first.shift, shift)
    table = DELTA_TABLES[function]
    first = fixed_point(real / table.argument_unit, culprit)
    second = fixed_point(table.result_unit / result.step[:1], culprit)
    return Requantization(
        bias,
        first.multiplier,
        first.shift,
        shift,
        function,
        int(second.multiplier[0]),
        int(second.shift[0]),
        int(result.offset),
    )


# --- Attention -----------------------------------------------------------------------------------


def score_epilogue(ratio: float, bound: int, culprit: str) -> Requantization:
    """Attention scores: acc * ratio, |acc| ≤ bound."""
    shift = pre_shift(bound, culprit)
    first = fixed_point(np.array([ratio * 2.0**shift]), culprit)
    return Requantization(np.zeros(1, np.int32), first.multiplier, first.shift, shift)


def score_bias(bias: FloatArray) -> npt.NDArray[np.int16]:
    """What is added to scores, in their unit; [heads, queries, keys], the greatest of a row zero.

    Softmax does not see what is taken from a whole row. What lies below the format stands at its
    end; see HARMLESS_SCORE.
    """
    lowered = bias - bias.max(axis=-1, keepdims=True)
    units = np.rint(lowered * math.log2(math.e) * 2**SCORE_FRACTION_BITS)
    return np.maximum(units, -INT16_MAX).astype(np.int16)


def mix_epilogue(value: Scale, result: Scale, bound: int, culprit: str) -> Requantization:
    """p @ v to the attention's result; |acc| ≤ bound.

    The reciprocal divides by the sum of probabilities, which has SUM_FRACTION_BITS = 8 bits more
    than the probabilities in the accumulator, as mantissa / 2^(exponent + 16): with a first factor
    of ratio * 2^(scale_shift - 8), the result is ratio * real mix. scale_shift is as large as
    keeps the first step within its 24 bits: so many bits enter the division.
    """
    ratio = value.step / result.step
    largest = (2 ** (SCALED_BITS - 1) - 1) / bound
    scale_shift = max(0, min(24, math.floor(math.log2(largest / ratio.max())) + 8))
    shift = pre_shift(bound, culprit)
    first = fixed_point(ratio * 2.0 ** (scale_shift - 8 + shift), culprit)
    return Requantization(
        np.zeros(len(ratio), np.int32),
        first.multiplier,
        first.shift,
        shift,
        scale_shift=scale_shift,
    )


# --- LayerNorm -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class IntegerNorm:
    """Gamma, beta and the constants of one NORM."""

    gamma: npt.NDArray[np.int16]
    beta: npt.NDArray[np.int32]
    constants: NormConstants


@dataclass(frozen=True)
class GroupSize:
    """How many numbers a statistic is of.

    Attributes:
        numbers: true count.
        shift: of the sums, so that they count at most COUNTED_MAX numbers.
    """

    numbers: int
    shift: int = 0

    @property
    def counted(self) -> int:
        """Numbers that the shifted sums count."""
        return round(self.numbers / 2**self.shift)

    @property
    def error(self) -> float:
        """Of the variance, as a share of the mean's square: what rounding the count causes."""
        return abs(self.counted * 2**self.shift - self.numbers) / self.numbers


def group_size(numbers: int, culprit: str) -> GroupSize:
    """The least shift of the sums of so many numbers; `culprit` names the node."""
    for shift in range(MOST_SUM_SHIFT + 1):
        size = GroupSize(numbers, shift)
        if size.counted <= COUNTED_MAX:
            return size
    raise UnsupportedModelError(
        f"Node {culprit}: it normalises {numbers} numbers together, the hardware sums "
        f"{COUNTED_MAX << MOST_SUM_SHIFT} at most.",
        "Use more groups or a smaller image.",
    )


def integer_norm(
    gamma: FloatArray,
    beta: FloatArray,
    eps: float,
    residual_step: float,
    result: Scale,
    size: GroupSize,
) -> IntegerNorm:
    """Normalisation of the residual stream to `result`, statistics over `size` numbers."""
    mantissa, exponent = _eps(eps * (size.counted / residual_step) ** 2)
    gain = norm_gain(gamma, size.counted)
    shift = _norm_shift(gain / result.step, beta / result.step + result.offset)
    inverse = round(2 ** (INVERSE_BITS + size.shift) / size.numbers)
    constants = NormConstants(
        size.counted, inverse, mantissa, exponent, shift, sum_shift=size.shift
    )
    return _integer_norm(gain, beta, result, constants)


def plain_norm(residual_step: float, result: Scale) -> IntegerNorm:
    """The copy of the residual stream to int8 `result`."""
    channels = len(result.step)
    gain, beta = np.full(channels, residual_step), np.zeros(channels)
    shift = _norm_shift(gain / result.step, beta + result.offset)
    inverse = round(2**INVERSE_BITS / channels)
    constants = NormConstants(channels, inverse, 0, 0, shift, plain=True)
    return _integer_norm(gain, beta, result, constants)


def norm_gain(gamma: FloatArray, count: int) -> FloatArray:
    """Real value that a normalisation over `count` numbers gives for one unit of its integers."""
    # The hardware scales by a power of two in place of the count: gamma makes up for it.
    rest = count / 2 ** (count.bit_length() - 1)
    return gamma * rest / 2.0**NORMALIZED_FRACTION_BITS


def exact_steps(gain: FloatArray, beta: FloatArray, step: FloatArray) -> FloatArray:
    """The steps from `step` upwards with which gain / step needs no rounding.

    Beside outlier channels, whose gain is small, the common shift leaves few bits of gamma; an
    error there would scale the whole channel. The next weights take up any step exactly.
    """
    one = 2.0 ** _norm_shift(gain / step, beta / step)
    integers = np.floor(np.abs(gain) / step * one)
    return np.where(integers > 0.0, np.abs(gain) * one / np.maximum(integers, 1.0), step)


def _integer_norm(
    gain: FloatArray, beta: FloatArray, result: Scale, constants: NormConstants
) -> IntegerNorm:
    one = 2.0**constants.shift
    return IntegerNorm(
        np.rint(gain / result.step * one).astype(np.int16),
        np.rint((beta / result.step + result.offset) * one).astype(np.int32),
        constants,
    )


def _norm_shift(gain: FloatArray, beta: FloatArray) -> int:
    """As many fraction bits as gamma's 16 and beta's 32 bits hold."""
    limits = [
        math.floor(math.log2(maximum / np.abs(values).max()))
        for values, maximum in ((gain, INT16_MAX), (beta, INT32_MAX))
        if np.abs(values).max() > 0.0
    ]
    return max(0, min([SHIFT_MAX, *limits]))


def _eps(units: float) -> tuple[int, int]:
    """(mantissa u16, exponent): units ≈ mantissa << exponent."""
    units = min(units, 2.0 ** (VARIANCE_BITS - 1))
    exponent = max(0, math.ceil(math.log2((units + 1.0) / 2**MULTIPLIER_BITS)))
    return min(round(units / 2**exponent), 2**MULTIPLIER_BITS - 1), exponent
