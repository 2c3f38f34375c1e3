from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pytest
from runs import Run, Traffic, check, every_run, full_speed
from vitessera.codegen import isa, numerics
from vitessera.codegen.config import ADDRESS_BITS, HardwareConfig
from vitessera.codegen.packing import pack_parameters
from vitessera.codegen.reference import FUNCTIONS
from words import pack_array, pack_rows, words

pytestmark = pytest.mark.kernel
IntArray = npt.NDArray[np.int64]
SOFTMAX, RESIDUAL = isa.EpilogueTarget.SOFTMAX, isa.EpilogueTarget.RESIDUAL
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
EXPONENT_MAX = 27  # of a reciprocal of a u28 sum


@dataclass(frozen=True)
class Beats:
    """Inputs of n beats: fields of the tag [n], and what each lane takes [n, lanes].

    Attributes:
        row: of the tile; chooses the reciprocal.
        mantissa, exponent: reciprocals [n, T], new ones at each beat with block_start.
    """

    config: HardwareConfig
    accumulator: IntArray
    bias: IntArray
    multiplier: IntArray
    shift: IntArray
    residual: IntArray
    pre_shift: IntArray
    function: IntArray
    scale: IntArray
    scale_shift: IntArray
    offset: IntArray
    memory: IntArray
    accumulate: IntArray
    row_scale: IntArray
    block_start: IntArray
    row: IntArray
    mantissa: IntArray
    exponent: IntArray

    def results(self) -> IntArray:
        """numerics.py's epilogue, [n, lanes]."""
        x = numerics.requantize(
            self.accumulator, self.bias, self.multiplier, self.shift, self.pre_shift[:, None]
        )
        y = np.zeros_like(x)
        for code, function in FUNCTIONS.items():
            chosen = self.function == code
            y[chosen] = numerics.activate(x[chosen], function)
        scale, shift = self._scales()
        total = numerics.rescale(y, scale[:, None], shift[:, None]) + self.offset[:, None]
        total += self.residual * self.accumulate[:, None]
        wide = np.isin(self.memory, (SOFTMAX, RESIDUAL))[:, None]
        return np.where(
            wide,
            numerics.saturate(total, numerics.INT16_MAX),
            numerics.saturate(total, numerics.INT8_MAX),
        )

    def _scales(self) -> tuple[IntArray, IntArray]:
        # The reciprocals in force are those of the latest block_start.
        n = np.arange(len(self.row))
        block = np.maximum.accumulate(np.where(self.block_start, n, 0))
        by_row = self.row_scale == 1
        scale = np.where(by_row, self.mantissa[block, self.row], self.scale)
        row_shift = np.where(by_row, self.exponent[block, self.row], 0)
        return scale, self.scale_shift + row_shift

    def traffic(self) -> Traffic:
        pack, lanes = words(self.config), self.config.lanes
        traffic = Traffic(
            ["beat_r", "accumulator_r", "parameter_r", "residual_r", "reciprocal_r"],
            ["operand_s", "score_s", "residual_s"],
        )
        traffic.send("accumulator_r", *(pack.beat(lanes=beat) for beat in self.accumulator))
        parameters = (self.bias.ravel(), self.multiplier.ravel(), self.shift.ravel())
        packed = pack_parameters(*parameters, self.config).reshape(-1, lanes)
        traffic.send("parameter_r", *pack_rows(packed[: len(self.row)]))
        for n, result in enumerate(self.results()):
            self._send_tag(traffic, n, result)
        return traffic

    def _send_tag(self, traffic: Traffic, n: int, result: IntArray) -> None:
        pack = words(self.config)
        memory = self.memory[n]
        address, signal = n * 77 % 2**ADDRESS_BITS, n % 5 * 51
        target = pack.target(
            memory=memory,
            transpose=n % 2,
            row=self.row[n],
            beat=n % self.config.beats_per_row,
            first=n // 2 % 2,
            last=n // 4 % 2,
            address=address,
            valid=[(n >> lane) & 1 for lane in range(self.config.lanes)],
            signal=signal,
        )
        names = ("accumulate", "row_scale", "block_start", "function", "pre_shift", "scale")
        fields = {name: getattr(self, name)[n] for name in (*names, "scale_shift", "offset")}
        traffic.send("beat_r", pack.epilogue_tag(**fields, target=target))
        if self.accumulate[n]:
            traffic.send("residual_r", pack_array(self.residual[n], 16))
        if self.block_start[n]:
            reciprocals = pack.reciprocals(mantissa=self.mantissa[n], exponent=self.exponent[n])
            traffic.send("reciprocal_r", reciprocals)
        if memory == RESIDUAL:
            data = pack_array(result, 16)
            write = pack.residual_write(address=address, data=data, signal=signal)
            traffic.expect("residual_s", write)
        elif memory == SOFTMAX:
            traffic.expect("score_s", pack.score_beat(lanes=result, target=target))
        else:
            traffic.expect("operand_s", pack.operand_beat(lanes=result, target=target))


def plain_beats(config: HardwareConfig, accumulator: IntArray) -> Beats:
    """Beats [n, lanes] that pass to left memory as they are."""
    n, tile = len(accumulator), config.tile
    zeros, lanes = np.zeros(n, np.int64), np.zeros_like(accumulator)
    return Beats(
        config=config,
        accumulator=accumulator,
        bias=lanes,
        multiplier=lanes + 1,
        shift=lanes,
        residual=lanes,
        pre_shift=zeros,
        function=zeros,
        scale=zeros + 1,
        scale_shift=zeros,
        offset=zeros,
        memory=zeros,
        accumulate=zeros,
        row_scale=zeros,
        block_start=zeros,
        row=np.arange(n) % tile,
        mantissa=np.zeros((n, tile), np.int64),
        exponent=np.zeros((n, tile), np.int64),
    )


def random_beats(run: Run, count: int) -> Beats:
    """Constants as a compiler would choose them: results of all sizes up to just above the range.

    Every pre_shift, function, memory and both kinds of scaling mix freely.
    """
    rng, config = run.rng(), run.config
    lanes, rows = (count, config.lanes), (count, config.tile)
    row_scale = rng.integers(0, 2, count)
    memory = rng.integers(0, 4, count)
    magnitude = rng.integers(1, 31, (count, 1))
    multiplier = rng.integers(2**14, 2**16, lanes)
    pre_shift = np.maximum(0, np.minimum(7, magnitude[:, 0] - 22 + rng.integers(-1, 2, count)))
    # x gets 12 to 18 bits, the result about 8 or 16.
    shift = np.clip(magnitude + 16 - pre_shift[:, None] - rng.integers(12, 19, lanes), 0, 63)
    narrow = np.where(np.isin(memory, (SOFTMAX, RESIDUAL)), 0, 8)
    scale_shift = np.clip(narrow + rng.integers(12, 20, count) - 16 * row_scale, 0, 36)
    block_start = row_scale & (rng.random(count) < 0.1)
    block_start[np.argmax(row_scale)] = 1
    return Beats(
        config=config,
        accumulator=rng.integers(-(1 << magnitude), 1 << magnitude, lanes),
        bias=rng.integers(-(2**29), 2**29, lanes) >> rng.integers(0, 29, lanes),
        multiplier=multiplier,
        shift=shift,
        residual=rng.integers(-32767, 32768, lanes),
        pre_shift=pre_shift,
        function=rng.integers(0, len(isa.ActivationCode), count),
        scale=rng.integers(2**12, 2**16, count),
        scale_shift=scale_shift,
        offset=rng.integers(-256, 256, count),
        memory=memory,
        accumulate=rng.integers(0, 2, count) * np.isin(memory, (SOFTMAX, RESIDUAL)),
        row_scale=row_scale,
        block_start=block_start,
        row=rng.integers(0, config.tile, count),
        mantissa=rng.integers(32768, 65536, rows),
        exponent=rng.integers(0, EXPONENT_MAX + 1, rows) // 3,
    )


def extreme_beats(run: Run, count: int) -> Beats:
    """Every field from its whole range, its ends above all."""
    rng, config = run.rng(), run.config
    lanes, rows = (count, config.lanes), (count, config.tile)
    typical = random_beats(run, count)
    accumulator = rng.choice([INT32_MIN, INT32_MAX, 0, -1, 2**24, -(2**24) - 1], lanes)
    room = rng.choice([0, 1, 2**31 - 1, 2**24], lanes)  # acc + bias must fit s32
    return replace(
        typical,
        accumulator=accumulator,
        bias=np.where(accumulator > 0, -room, room),
        multiplier=rng.choice([0, 1, 2, 32767, 65535], lanes),
        shift=rng.choice([0, 1, 2, 16, 17, 24, 40, 41, 42, 62, 63, *range(64)], lanes),
        residual=rng.choice([-32767, -1, 0, 1, 32767], lanes),
        pre_shift=np.arange(count) % 8,
        scale=rng.choice([0, 1, 65535], count),
        scale_shift=np.arange(count) % 64,
        offset=rng.choice([-256, -128, 0, 255], count),
        mantissa=rng.choice([32768, 65535, 50000], rows),
        exponent=rng.choice([0, 1, EXPONENT_MAX - 1, EXPONENT_MAX], rows),
    )


@every_run
def test_every_path_with_typical_constants(run: Run) -> None:
    beats = random_beats(run, 1500)
    results = beats.results()
    for memory in isa.EpilogueTarget:
        here = results[beats.memory == memory]
        limit = 32767 if memory in (SOFTMAX, RESIDUAL) else 127
        inside = np.abs(here) < limit
        assert 0.2 < inside.mean() < 0.99, "the data exercises neither saturation nor arithmetic"
        assert {here.min(), here.max()} == {-limit, limit}
    check(run, "epilogue", beats.traffic())


@every_run
def test_every_path_with_extreme_constants(run: Run) -> None:
    check(run, "epilogue", extreme_beats(run, 800).traffic())


# --- Activation functions --------------------------------------------------------------------

Exact = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]


def exact_gelu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.array([0.5 * v * math.erfc(-v / math.sqrt(2.0)) for v in x.tolist()])


def exact_silu(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(x / (1.0 + np.exp(-x)))


# How far from 0 the function bends, and its least value.
BENT: dict[isa.ActivationCode, tuple[Exact, float, float]] = {
    isa.ActivationCode.GELU_ERF: (exact_gelu, 6.0, -0.17),
    isa.ActivationCode.SILU: (exact_silu, 12.0, -0.28),
    isa.ActivationCode.TANH: (np.tanh, 6.0, -1.0),
}


@full_speed
@pytest.mark.parametrize("code", BENT, ids=lambda code: code.name)
def test_activation_at_every_fixed_point_number(run: Run, code: isa.ActivationCode) -> None:
    """x at full resolution; int8 results within one step of the exact function."""
    exact, reach, low = BENT[code]
    function = isa.FUNCTIONS[code]
    assert function is not None
    table = numerics.DELTA_TABLES[function]
    argument, one = table.argument_unit, table.result_unit
    lanes = run.config.lanes
    limit = round(reach / argument / lanes) * lanes
    x = np.arange(-limit, limit).reshape(-1, lanes)
    high = float(exact(np.array([reach]))[0])
    step = (high - low) / 254  # fills the int8 range
    zero_point, shift = round(-127 - low / step), math.floor(math.log2(65535 * step / one))
    beats = replace(
        plain_beats(run.config, x),
        function=np.full(len(x), code),
        scale=np.full(len(x), round(2**shift / step * one)),
        scale_shift=np.full(len(x), shift),
        offset=np.full(len(x), zero_point),
    )
    wanted = np.clip(exact(x.ravel() * argument) / step + zero_point, -127, 127)
    assert np.abs(beats.results().ravel() - wanted).max() < 1
    check(run, "epilogue", beats.traffic())
