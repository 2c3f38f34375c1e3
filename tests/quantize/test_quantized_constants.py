"""The integer constants compute what the real-valued formulas say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from vitessera.codegen import numerics
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.graph import Function, Window
from vitessera.codegen.numerics import INT8_MAX, IntArray
from vitessera.codegen.preprocess import patch_rows, patches
from vitessera.codegen.quantexec import requantize
from vitessera.codegen.quantgraph import PatchInput, Requantization, Value
from vitessera.codegen.quantize.constants import (
    GroupSize,
    Scale,
    accumulator_bound,
    epilogue,
    exact_steps,
    fixed_point,
    group_size,
    integer_norm,
    integer_weights,
    mix_epilogue,
    plain_norm,
    pre_shift,
)

SEEDS = range(12)


def second_step(x: IntArray, constants: Requantization, limit: int) -> IntArray:
    active = numerics.activate(x, constants.function)
    scaled = numerics.rescale(active, constants.scale, constants.scale_shift)
    return numerics.saturate(scaled + constants.offset, limit)


# --- Fixed-point ratios --------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_fixed_point_is_accurate_and_normalised(seed: int) -> None:
    ratio = 2.0 ** np.random.default_rng(seed).uniform(-47.9, 15.9, 1000)
    found = fixed_point(ratio, "layer")
    assert found.multiplier.min() >= 1 << 15
    assert found.shift.max() <= 63
    real = found.multiplier / 2.0 ** found.shift.astype(np.float64)
    assert np.abs(real / ratio - 1).max() <= 2.0**-16


@pytest.mark.parametrize("ratio", [0.0, 2.0**-49, 2.0**16, math.inf])
def test_fixed_point_refuses_what_the_fields_cannot_hold(ratio: float) -> None:
    with pytest.raises(UnsupportedModelError, match="layer: channel 1 has to be scaled by"):
        fixed_point(np.array([1.0, ratio]), "layer")


def test_just_below_a_power_of_two() -> None:
    found = fixed_point(np.array([1.0 - 2.0**-40]), "layer")
    assert (int(found.multiplier[0]), int(found.shift[0])) == (1 << 15, 15)


# --- Products ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_product_is_within_one_unit_of_the_real_formula(seed: int) -> None:
    """Over random int8 operands, zero points and scales a channel: only rounding is left."""
    generator = np.random.default_rng(seed)
    width, out = int(generator.integers(1, 900)), 40
    scale = Scale(generator.uniform(0.01, 0.1, width), generator.uniform(-300, 300, width))
    real_weight = generator.standard_normal((out, width)) * generator.uniform(0.1, 9, (out, 1))
    bias = generator.standard_normal(out) * 10
    weights = integer_weights(real_weight, bias, scale, np.ones(width))
    limit = int(generator.choice([INT8_MAX, numerics.INT16_MAX]))
    operand = generator.integers(-INT8_MAX, INT8_MAX + 1, (200, width))
    # The weights as they were rounded, so that the rest must follow exactly.
    rounded = weights.weight * weights.unit[:, None]
    real = (operand - scale.offset) @ rounded.T + bias
    # int16 results have no zero point.
    centre = (real.max(axis=0) + real.min(axis=0)) / 2 * (limit == INT8_MAX)
    step = np.abs(real - centre).max(axis=0) / limit
    result = Scale(step, -centre / step)
    constants = epilogue(weights, result, None, "layer")
    scaled = requantize(operand @ weights.weight.astype(np.int64).T, constants)
    wanted = real / step + result.offset
    assert np.abs(second_step(scaled, constants, limit) - wanted).max() <= 1.0


@pytest.mark.parametrize("seed", SEEDS)
def test_weights_lose_at_most_half_a_step_unless_clipped(seed: int) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((30, 70))
    step = Scale(generator.uniform(0.01, 1.0, 70))
    weights = integer_weights(weight, np.zeros(30), step, np.ones(70))
    error = np.abs(weights.weight * weights.unit[:, None] / step.step - weight) * step.step
    inside = np.abs(weights.weight) < INT8_MAX
    assert (error / weights.unit[:, None])[inside].max() <= 0.5 + 1e-9


def test_a_large_bias_on_tiny_weights_fits() -> None:
    weights = integer_weights(
        np.array([[1e-9, -1e-9], [1.0, 0.5]]), np.array([1e3, 0.0]), Scale(np.ones(2)), np.ones(2)
    )
    assert accumulator_bound(weights) < 2**24
    assert weights.bias[0] * weights.unit[0] == pytest.approx(1e3, rel=1e-6)


def test_pre_shift_is_zero_whenever_possible() -> None:
    assert pre_shift(2**24 - 1, "layer") == 0
    assert pre_shift(2**24, "layer") == 1
    assert pre_shift(2**30, "layer") == 7
    with pytest.raises(UnsupportedModelError, match="more than 32 bits"):
        pre_shift(2**31, "layer")


# --- Activation functions ------------------------------------------------------------------------


def exact(function: Function, x: np.ndarray) -> np.ndarray:
    match function:
        case Function.RELU:
            return np.maximum(x, 0.0)
        case Function.GELU_ERF:
            erf = np.vectorize(math.erf)
            return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))
        case Function.GELU_TANH:
            inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
            return 0.5 * x * (1.0 + np.tanh(inner))
        case Function.SILU:
            return 0.5 * x * (1.0 + np.tanh(0.5 * x))
        case Function.TANH:
            return np.tanh(x)


@pytest.mark.parametrize("function", list(Function))
@pytest.mark.parametrize("high", [0.5, 4.0, 20.0])
def test_fused_activation_is_within_one_unit_everywhere(function: Function, high: float) -> None:
    """Every fixed-point number up to |x| = 8, and a sample beyond, where GELU is ReLU."""
    low = {Function.RELU: 0.0, Function.SILU: -0.28, Function.TANH: -1.0}.get(function, -0.18)
    step = (high - low) / 254
    result = Scale(np.array([step]), round(-INT8_MAX - low / step))
    weights = integer_weights(
        np.array([[1.0]]), np.zeros(1), Scale(np.full(1, 127 * 2.0**-12)), np.ones(1)
    )
    constants = epilogue(weights, result, function, "layer")
    near, far = np.arange(-(2**15), 2**15), np.arange(-(2**23), 2**23, 10007)
    accumulator = np.concatenate([near, far])[:, None]
    real = exact(function, accumulator * weights.unit)
    wanted = np.clip(real / step + result.offset, -INT8_MAX, INT8_MAX)
    found = second_step(requantize(accumulator, constants), constants, INT8_MAX)
    assert np.abs(found - wanted).max() <= 1.0


# --- Attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [2, 17, 197, 1370])
@pytest.mark.parametrize("seed", range(3))
def test_mix_is_within_one_unit_of_the_real_formula(tokens: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    value = generator.integers(-INT8_MAX, INT8_MAX + 1, (tokens, 24))
    # From one dominant key to many equal ones.
    sharpness = 2.0 ** generator.uniform(0, 6, (50, 1))
    probability = np.rint(127 * generator.uniform(0, 1, (50, tokens)) ** sharpness).astype(np.int64)
    probability[:, 0] = 127
    total = probability.sum(axis=1, keepdims=True) << numerics.SUM_FRACTION_BITS
    value_step = generator.uniform(0.01, 0.02, 24)
    real = (probability @ value) / probability.sum(axis=1, keepdims=True) * value_step
    result = Scale(np.abs(real).max(axis=0) / INT8_MAX)
    bound = tokens * INT8_MAX**2
    constants = mix_epilogue(Scale(value_step), result, bound, "attention")
    mixed = requantize(probability @ value, constants)
    mantissa, exponent = numerics.reciprocal(total)
    found = numerics.rescale(mixed, mantissa, exponent + constants.scale_shift)
    assert np.abs(found - real / result.step).max() <= 1.0


# --- LayerNorm -----------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [3, 32, 48, 192, 384, 1024])
@pytest.mark.parametrize("spread", [30.0, 3000.0])
@pytest.mark.parametrize("seed", range(2))
def test_layer_norm_is_within_one_unit(channels: int, spread: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    residual_step, eps = 0.002, 1e-5
    x = np.clip(np.rint(generator.standard_normal((40, channels)) * spread + 100), -32767, 32767)
    integers = x.astype(np.int64)
    gamma, beta = generator.uniform(0.2, 2, channels), generator.standard_normal(channels)
    real = x * residual_step
    deviation = real - real.mean(axis=1, keepdims=True)
    normal = deviation / np.sqrt(np.square(deviation).mean(axis=1, keepdims=True) + eps)
    wanted = normal * gamma + beta
    high, low = wanted.max(axis=0), wanted.min(axis=0)
    step = (high - low) / (2 * INT8_MAX)
    result = Scale(step, -(high + low) / 2 / step)
    norm = integer_norm(gamma, beta, eps, residual_step, result, GroupSize(len(gamma)))
    found = numerics.layer_norm(
        integers, norm.gamma.astype(np.int64), norm.beta.astype(np.int64), norm.constants
    )
    assert np.abs(found - wanted / step - result.offset).max() <= 1.0


@pytest.mark.parametrize("pixels, group", [(1, 3), (49, 1), (196, 2), (1024, 32), (12544, 2)])
@pytest.mark.parametrize("centre", [0.0, 2000.0])
def test_group_norm_is_within_one_unit(pixels: int, group: int, centre: float) -> None:
    generator = np.random.default_rng(pixels)
    residual_step, eps, groups = 0.002, 1e-5, 4
    x = np.rint(generator.standard_normal((pixels, groups * group)) * 3000 + centre)
    x = np.clip(x, -32767, 32767)
    gamma = generator.uniform(0.2, 2, x.shape[1]) * generator.choice([-1, 1], x.shape[1])
    beta = generator.standard_normal(x.shape[1])
    real = (x * residual_step).reshape(pixels, groups, group)
    deviation = real - real.mean(axis=(0, 2), keepdims=True)
    variance = np.square(deviation).mean(axis=(0, 2), keepdims=True)
    wanted = (deviation / np.sqrt(variance + eps)).reshape(x.shape) * gamma + beta
    result = Scale(np.abs(wanted).max(axis=0) / INT8_MAX)
    size = group_size(pixels * group, "norm")
    norm = integer_norm(gamma, beta, eps, residual_step, result, size)
    found = numerics.group_norm(
        x.astype(np.int64),
        norm.gamma.astype(np.int64),
        norm.beta.astype(np.int64),
        norm.constants,
        groups,
    )
    assert np.abs(found - wanted / result.step).max() <= 1.0


def test_sums_are_shifted_no_more_than_they_must() -> None:
    assert (group_size(4095, "x").shift, group_size(4096, "x").shift) == (0, 1)
    assert group_size(4095 * 128, "x").shift == 7
    with pytest.raises(UnsupportedModelError, match="Node x: it normalises 600000 numbers"):
        group_size(600000, "x")


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 1e-4])
def test_eps_counts_when_the_variance_is_small(eps: float) -> None:
    x = np.array([[-3, 1, 2, 0, 0, 0, 0, 0]], np.int64)
    real = x * 1e-3
    wanted = real / np.sqrt(np.square(real).mean() + eps)
    result = Scale(np.full(8, max(np.abs(wanted).max(), 1e-3) / INT8_MAX))
    norm = integer_norm(np.ones(8), np.zeros(8), eps, 1e-3, result, GroupSize(8))
    found = numerics.layer_norm(
        x, norm.gamma.astype(np.int64), norm.beta.astype(np.int64), norm.constants
    )
    assert np.abs(found - wanted / result.step).max() <= 1.5


@pytest.mark.parametrize("seed", SEEDS)
def test_plain_copy_rounds_to_the_nearest(seed: int) -> None:
    generator = np.random.default_rng(seed)
    ranges = 2.0 ** generator.uniform(4, 15, 64)
    x = np.trunc(generator.uniform(-1, 1, (100, 64)) * ranges).astype(np.int64)
    ones = np.ones(64)
    result = Scale(exact_steps(0.01 * ones, 0 * ones, 0.01 * ranges / INT8_MAX))
    assert np.abs(result.step * INT8_MAX / (0.01 * ranges) - 1).max() < 0.1
    norm = plain_norm(0.01, result)
    found = numerics.layer_norm(
        x, norm.gamma.astype(np.int64), norm.beta.astype(np.int64), norm.constants
    )
    assert np.abs(found - x * 0.01 / result.step).max() <= 0.5 + 1e-6


# --- Patches -------------------------------------------------------------------------------------


def test_patches_are_row_major_and_flattened_by_channel() -> None:
    image = np.arange(2 * 5 * 6, dtype=np.float32).reshape(1, 2, 5, 6)
    rows = patch_rows(image, (2, 2, 3))[0]
    assert rows.shape == (4, 12)
    assert np.array_equal(rows[3], image[0, :, 2:4, 3:6].ravel())


def test_tubelets_are_boxes_of_frames() -> None:
    video = np.arange(5 * 2 * 4 * 4, dtype=np.int64).reshape(1, 5, 2, 4, 4)
    rows = patch_rows(video, (2, 2, 2, 4))[0]
    assert rows.shape == (4, 32)
    assert np.array_equal(rows[2], video[0, 2:4, :, :2].ravel())


def test_overlapping_patches_are_what_a_convolution_sees() -> None:
    image = np.arange(1, 2 * 5 * 6 + 1).reshape(1, 2, 5, 6)
    window = Window((5, 6), (3, 2), 2, (1, 0), (3, 3))
    rows = patch_rows(image, (2, 3, 2), window)[0]
    padded = np.pad(image[0], ((0, 0), (1, 1), (0, 0)))
    seen = [padded[:, y : y + 3, x : x + 2].ravel() for y in (0, 2, 4) for x in (0, 2, 4)]
    assert np.array_equal(rows, seen)


def test_patches_round_half_up_and_saturate() -> None:
    value = Value(2, 4, 8, np.full(4, 0.5))
    node = PatchInput("p", (), (), value, patch=(1, 2, 2), prefix=1)
    image = np.array([[[0.25, -0.25], [1e30, -1e30]]], np.float32)
    assert patches(node, image).tolist() == [[0, 0, 0, 0], [1, 0, 127, -127]]
