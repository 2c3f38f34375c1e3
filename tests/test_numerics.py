"""numerics.py against real numbers: the kernels are held to numerics.py, numerics.py to these."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from vitessera.codegen import numerics
from vitessera.codegen.graph import Function
from vitessera.codegen.numerics import IntArray, NormConstants, SoftmaxState

FloatArray = npt.NDArray[np.float64]


def random_magnitudes(bits: int, count: int) -> IntArray:
    """Positive integers below 2^bits, all sizes alike."""
    exponents = np.random.default_rng(1).uniform(0, bits, count)
    return (2.0**exponents).astype(np.int64)


# --- Rounding and saturation


def test_round_shift_rounds_half_up() -> None:
    values = np.arange(-70, 70)
    for shift in range(8):
        exact = [math.floor(Fraction(int(v), 2**shift) + Fraction(1, 2)) for v in values]
        expected = exact if shift else values.tolist()
        assert numerics.round_shift(values, shift).tolist() == expected


def test_round_shift_of_the_widest_intermediate_values() -> None:
    values = np.array([-(2**41), 2**41 - 1, -1, 0, 1])
    assert numerics.round_shift(values, 63).tolist() == [0] * 5
    assert numerics.round_shift(values, 42).tolist() == [0, 0, 0, 0, 0]
    assert numerics.round_shift(values, 41).tolist() == [-1, 1, 0, 0, 0]
    shifts = np.array([0, 1, 2, 40, 63])
    assert numerics.round_shift(values[:1], shifts).tolist() == [
        -(2**41),
        -(2**40),
        -(2**39),
        -2,
        0,
    ]


def test_saturation_is_symmetric_for_results_and_not_for_bits() -> None:
    values = np.array([-(2**40), -129, -128, -127, 0, 127, 128, 2**40])
    assert numerics.saturate(values, 127).tolist() == [-127] * 4 + [0] + [127] * 3
    assert numerics.saturate_bits(values, 8).tolist() == [-128] * 3 + [-127, 0] + [127] * 3


def test_highest_bit() -> None:
    values = np.arange(1, 70000)
    assert numerics.highest_bit(values).tolist() == [int(v).bit_length() - 1 for v in values]
    powers = np.int64(1) << np.arange(62)
    assert numerics.highest_bit(powers).tolist() == list(range(62))
    assert numerics.highest_bit(powers[2:] - 1).tolist() == list(range(1, 61))


# --- Tables


def test_reciprocal_is_within_2_to_the_minus_14() -> None:
    total = np.concatenate([np.arange(1, 1 << 17), random_magnitudes(28, 200_000)])
    mantissa, exponent = numerics.reciprocal(total)
    assert mantissa.min() >= 1 << 15
    assert mantissa.max() < 1 << 16
    error = np.abs(mantissa / 2.0 ** (exponent + 16) * total - 1.0)
    assert error.max() < 2.0**-14


def test_reciprocal_of_nothing_is_that_of_one() -> None:
    found = numerics.reciprocal(np.array([0, 1]))
    assert [part.tolist() for part in found] == [[65535, 65535], [0, 0]]


def test_rsqrt_is_within_2_to_the_minus_13() -> None:
    x = np.concatenate([np.arange(1, 1 << 17), random_magnitudes(56, 200_000), [2**56 - 1]])
    mantissa, exponent = numerics.rsqrt(x)
    assert mantissa.min() >= 1 << 15
    assert mantissa.max() < 1 << 16
    error = np.abs(mantissa / 2.0 ** (exponent + 16) * np.sqrt(x.astype(np.float64)) - 1.0)
    assert error.max() < 2.0**-13


# --- Activation functions


def gelu_erf(x: FloatArray) -> FloatArray:
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2.0)) for v in x.tolist()])


def gelu_tanh(x: FloatArray) -> FloatArray:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


def relu(x: FloatArray) -> FloatArray:
    return np.maximum(x, 0.0)


def silu(x: FloatArray) -> FloatArray:
    return np.asarray(x * 0.5 * (1.0 + np.tanh(x / 2.0)))


EXACT: dict[Function, Callable[[FloatArray], FloatArray]] = {
    Function.GELU_ERF: gelu_erf,
    Function.GELU_TANH: gelu_tanh,
    Function.RELU: relu,
    Function.SILU: silu,
    Function.TANH: np.tanh,
}
LOWEST = {Function.SILU: -0.2785, Function.TANH: -1.0}  # of the others, -0.17 and more
ONE = 1 << numerics.ACTIVATION_FRACTION_BITS


def activation_inputs() -> IntArray:
    """Full resolution where the functions bend, samples over the rest of s24, and its ends."""
    bend = np.arange(-8 * ONE, 8 * ONE)
    edge = 1 << numerics.SCALED_BITS - 1
    rest = np.random.default_rng(0).integers(-edge, edge, 20_000)
    return np.concatenate([bend, rest, [-edge, edge - 1]])


@pytest.mark.parametrize("function", EXACT)
def test_activation_is_exact_to_three_units(function: Function) -> None:
    x = activation_inputs()
    table = numerics.DELTA_TABLES[function]
    exact = EXACT[function](x * table.argument_unit) / table.result_unit
    error = np.abs(numerics.activate(x, function) - exact)
    assert error.max() < 3.0


@pytest.mark.parametrize("function", EXACT)
@pytest.mark.parametrize("top", [0.5, 2.0, 6.2, 20.0, 500.0])
def test_int8_activation_is_within_one_step(function: Function, top: float) -> None:
    """For int8 results whose range -0.17 ... top is just filled."""
    x, table = activation_inputs(), numerics.DELTA_TABLES[function]
    unit = table.result_unit
    low = LOWEST.get(function, -0.17)
    step = (top - low) / 254
    zero_point = round(-127 - low / step)
    shift = math.floor(math.log2(65535 * step / unit))
    scale = round(2**shift / step * unit)
    scaled = numerics.rescale(numerics.activate(x, function), scale, shift)
    result = numerics.saturate(scaled + zero_point, numerics.INT8_MAX)
    exact = np.clip(
        EXACT[function](x * table.argument_unit) / step + zero_point,
        -127,
        127,
    )
    assert np.abs(result - exact).max() < 1.0
    assert np.abs(result - np.rint(exact)).max() <= 1


def test_no_activation_passes_everything_on() -> None:
    x = activation_inputs()
    assert (numerics.activate(x, None) == x).all()


# --- Epilogue


def test_requantize_is_a_multiplication_rounded_and_saturated() -> None:
    rng = np.random.default_rng(3)
    accumulator = rng.integers(-(2**23), 2**23, 20_000)  # with the bias within 25 bits
    bias = rng.integers(-(2**20), 2**20, 20_000)
    multiplier, shift = rng.integers(2**15, 2**16, 20_000), rng.integers(14, 30, 20_000)
    for pre_shift in range(8):
        found = numerics.requantize(accumulator, bias, multiplier, shift, pre_shift)
        exact = (accumulator + bias) * (multiplier / 2.0 ** (shift + pre_shift))
        exact = np.clip(exact, -(2**23), 2**23 - 1)
        # Half a unit for each of the two roundings, the first of them scaled.
        allowed = 0.5 + 0.5 * multiplier / 2.0**shift * (pre_shift > 0)
        assert (np.abs(found - exact) <= allowed).all()


def test_requantize_saturates_between_its_steps() -> None:
    ends = np.array([-(2**31), 2**31 - 1])
    zero, one = np.zeros(2, np.int64), np.ones(2, np.int64)
    assert numerics.requantize(ends, zero, one, 2 * one, 0).tolist() == [-(2**22), 2**22]
    assert numerics.requantize(ends, zero, one, zero, 7).tolist() == [-(2**23), 2**23 - 1]
    assert numerics.requantize(ends, zero, one, 8 * one, 7).tolist() == [-(2**16), 2**16]


# --- Softmax


@dataclass(frozen=True)
class Rows:
    """Integer softmax of rows.

    Attributes:
        settled: probabilities relative to the row's final maximum, times 2^7.
        maximum: the row's final maximum.
        total: the row's sum, with 8 more bits.
    """

    settled: IntArray
    maximum: IntArray
    total: IntArray

    @property
    def probabilities(self) -> FloatArray:
        """What the epilogue makes of them."""
        mantissa, exponent = numerics.reciprocal(self.total)
        scaled = self.settled << numerics.SUM_FRACTION_BITS
        return np.asarray(scaled * (mantissa / 2.0 ** (exponent + 16))[:, None])


def softmax(scores: IntArray, lanes: int) -> Rows:
    rows, keys = scores.shape
    padded = np.pad(scores, ((0, 0), (0, -keys % lanes)), constant_values=32767)
    state, beats = SoftmaxState.start((rows,)), []
    for start in range(0, keys, lanes):
        valid = np.arange(start, start + lanes) < keys
        state, values = numerics.softmax_beat(state, padded[:, start : start + lanes], valid)
        beats.append((values, state.maximum))
    lags = [np.broadcast_to((state.maximum - m)[:, None], v.shape) for v, m in beats]
    values = np.concatenate([v for v, _ in beats], axis=1)
    settled = numerics.settle(values, np.concatenate(lags, axis=1))
    return Rows(settled[:, :keys], state.maximum, state.total)


def attention_scores(spread: float, keys: int) -> IntArray:
    """Normal logits of this standard deviation, in the hardware's unit: log2, 8 fraction bits."""
    logits = np.random.default_rng(keys).normal(0, spread, (64, keys)) / math.log(2)
    scores = np.rint(logits * 2**numerics.SCORE_FRACTION_BITS).astype(np.int64)
    return np.clip(scores, -numerics.INT16_MAX, numerics.INT16_MAX)


SPREADS = [(0.01, 1000), (0.5, 50), (1.0, 197), (2.0, 197), (2.0, 577), (6.0, 197), (20.0, 64)]


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize(("spread", "keys"), [*SPREADS, (1.0, 1), (1.0, 3)])
def test_probabilities_and_sums_are_as_exact_as_their_bits(
    spread: float, keys: int, lanes: int
) -> None:
    scores = attention_scores(spread, keys)
    rows = softmax(scores, lanes)
    assert (rows.maximum == (scores.max(axis=1) >> numerics.SCORE_FRACTION_BITS) + 1).all()
    real = np.exp2(scores / 2.0**numerics.SCORE_FRACTION_BITS - rows.maximum[:, None]) * 127
    # One unit when stored, one when settled; both start from sums that are rounded.
    assert rows.settled.min() >= 0
    assert np.abs(rows.settled - real).max() < 2.0
    exact = real.sum(axis=1)
    assert (np.abs(rows.total / 256 - exact) <= 1e-3 * exact + keys / 256).all()


def hard_rows(keys: int) -> dict[str, IntArray]:
    """Scores [64, keys] that lose much when each probability is rounded for itself."""
    rng = np.random.default_rng(keys)
    flat = rng.integers(-64, 64, (64, keys))
    one = 1 << numerics.SCORE_FRACTION_BITS
    level = math.log2(keys) * one  # of a spike that outweighs all others together
    rows = {f"spike at {at}": flat.copy() for at in (0, keys // 2, keys - 1)}
    for at, scores in zip((0, keys // 2, keys - 1), rows.values(), strict=True):
        scores[:, at] += round(level)
    ramp = np.linspace(0, 12 * one, keys).round().astype(np.int64) + flat // 8
    steps = np.minimum(np.arange(keys) * 16 // keys, 10) * one + flat
    equal = np.zeros((64, keys), np.int64)
    equal[:, keys // 3] = 8 * one - 1
    return rows | {
        "rising": ramp,
        "falling": ramp[:, ::-1],
        "steps": steps,
        "alternating": flat + np.arange(keys) % 2 * 7 * one,
        "equal under a spike": equal,
    }


@pytest.mark.parametrize("keys", [197, 577, 1025])
@pytest.mark.parametrize("kind", hard_rows(4))
def test_no_part_of_a_row_is_lost(kind: str, keys: int) -> None:
    """Any run of keys has its share of the row within some units, whatever stands around it."""
    scores = list(hard_rows(keys).values())[list(hard_rows(4)).index(kind)]
    rows = softmax(scores, 8)
    exact = np.exp2((scores - scores.max(axis=1, keepdims=True)) / 256.0)
    exact /= exact.sum(axis=1, keepdims=True)
    gathered = np.cumsum(rows.probabilities - exact, axis=1)
    unit = 256.0 / rows.total[:, None]
    # A run's error is the difference of two of these.
    assert (np.abs(gathered) < 2.0 * unit).all()


@pytest.mark.parametrize(
    ("spread", "keys", "error"),
    [
        (0.01, 1000, 2e-5),
        (0.5, 50, 0.003),
        (1.0, 197, 0.02),
        (2.0, 577, 0.02),
        (20.0, 64, 0.02),
    ],
)
def test_softmax_of_whole_rows(spread: float, keys: int, error: float) -> None:
    """Probabilities times reciprocal against the exact softmax."""
    scores = attention_scores(spread, keys)
    exact = np.exp2((scores - scores.max(axis=1, keepdims=True)) / 256.0)
    exact /= exact.sum(axis=1, keepdims=True)
    found = softmax(scores, 8).probabilities
    assert np.abs(found - exact).max() < error
    assert np.abs(found.sum(axis=1) - 1.0).max() < 0.015


def test_no_sum_overflows_and_no_probability_exceeds_its_bits() -> None:
    """As many keys as an instruction can name, all at the top."""
    keys = 2**13 - 1
    rows = softmax(np.full((1, keys), 255), 8)
    assert rows.total < 2**28
    assert rows.settled.max() <= numerics.INT8_MAX


def test_padding_has_no_effect_on_a_row() -> None:
    scores = attention_scores(2.0, 64)
    valid = np.arange(8) < 5
    start = SoftmaxState.start((64,))
    states = []
    for padding in (-32767, 0, 32767):
        beat = np.where(valid, scores[:, :8], padding)
        state, values = numerics.softmax_beat(start, beat, valid)
        assert not values[:, 5:].any()
        states.append((state.maximum.tolist(), state.total.tolist(), values.tolist()))
    assert states[0] == states[1] == states[2]


def test_a_beat_without_keys_leaves_the_row_as_it_was() -> None:
    scores = attention_scores(2.0, 16)
    state, _ = numerics.softmax_beat(SoftmaxState.start((64,)), scores[:, :8], np.ones(8, np.bool_))
    after, values = numerics.softmax_beat(state, scores[:, 8:], np.zeros(8, np.bool_))
    assert not values.any()
    assert (after.maximum == state.maximum).all()
    assert (after.total == state.total).all()


# --- LayerNorm


def norm_constants(channels: int, eps: float = 0.0) -> NormConstants:
    mantissa, exponent = round(eps * channels**2), 0
    while mantissa >= 1 << 16:
        mantissa, exponent = mantissa >> 1, exponent + 1
    inverse = round(2**numerics.INVERSE_BITS / channels)
    return NormConstants(channels, inverse, mantissa, exponent, shift=0)


@pytest.mark.parametrize("channels", [3, 8, 64, 192, 384, 768, 1000, 1024])
@pytest.mark.parametrize(("mean", "deviation"), [(0, 3000), (0, 30), (2000, 500), (-300, 20)])
def test_layer_norm_is_within_one_step(channels: int, mean: float, deviation: float) -> None:
    """y = LayerNorm(x) * gamma + beta in steps of 4 / 127."""
    rng = np.random.default_rng(channels)
    x = np.rint(rng.normal(mean, deviation, (32, channels))).astype(np.int64)
    gamma, beta = rng.uniform(0.3, 1.5, channels), rng.normal(0, 0.3, channels)
    step, shift = 4 / 127, 14
    eps = 2.0
    # Gamma carries what the power of two misses of the channel count.
    norm = replace(norm_constants(channels, eps), shift=shift)
    rest = channels / 2**norm.log2_channels
    integer_gamma = np.rint(gamma * rest / step * 2.0 ** (shift - 12)).astype(np.int64)
    integer_beta = np.rint(beta / step * 2.0**shift).astype(np.int64)
    found = numerics.layer_norm(x, integer_gamma, integer_beta, norm)
    centered = x - x.mean(axis=1, keepdims=True)
    exact = centered / np.sqrt(x.var(axis=1, keepdims=True) + eps) * gamma + beta
    assert np.abs(found - np.clip(exact / step, -127, 127)).max() < 1.0


def test_layer_norm_of_constant_rows_is_beta() -> None:
    x = np.array([[0] * 64, [32767] * 64, [-32767] * 64])
    beta = np.arange(64) * 16
    gamma = np.full(64, 1000)
    for eps in (0.0, 1.0):
        norm = replace(norm_constants(64, eps), shift=4)
        assert (numerics.layer_norm(x, gamma, beta, norm) == np.arange(64)).all()


def test_padding_channels_do_not_count() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(-5000, 5000, (16, 50))
    gamma, beta = rng.integers(-5000, 5000, 50), rng.integers(-5000, 5000, 50)
    norm = replace(norm_constants(50, 1.0), shift=16)
    narrow = numerics.layer_norm(x, gamma, beta, norm)
    padded = [np.pad(part, [(0, 0)] * (part.ndim - 1) + [(0, 14)]) for part in (x, gamma, beta)]
    wide = numerics.layer_norm(padded[0], padded[1], padded[2], norm)
    assert (wide[:, :50] == narrow).all()
    assert not wide[:, 50:].any()


def test_a_plain_norm_scales_the_residual() -> None:
    x = np.array([[-32767, -100, 0, 1, 100, 32767]])
    norm = replace(norm_constants(6), shift=1, plain=True)
    result = numerics.layer_norm(x, np.full(6, 2), np.full(6, -2), norm)
    assert result.tolist() == [[-127, -101, -1, 0, 99, 127]]


@pytest.mark.parametrize("function", [Function.GELU_ERF, Function.GELU_TANH])
def test_activation_is_relu_beyond_its_table(function: Function) -> None:
    """All of s24 outside the table: there exact GELU and ReLU differ by less than one unit."""
    edge = numerics.DELTA_SEGMENTS << numerics.DELTA_SEGMENT_BITS
    for x in (np.arange(edge, 1 << 23), np.arange(-(1 << 23), 1 - edge)):
        np.testing.assert_array_equal(numerics.activate(x, function), np.maximum(x, 0))
    assert 4.0 * math.erfc(4.0 / math.sqrt(2.0)) / 2 * 4096 < 1.0
