from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from runs import Run, Traffic, check, every_run, full_speed
from vitessera.codegen import isa, numerics
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.numerics import SoftmaxState
from words import words

pytestmark = pytest.mark.kernel
IntArray = npt.NDArray[np.int64]
INT16_MAX = numerics.INT16_MAX


def send_block(traffic: Traffic, config: HardwareConfig, scores: IntArray, keys: int) -> None:
    """Scores [T rows, inner * T] of a block of rows, of which the first `keys` columns exist."""
    pack, tile, lanes = words(config), config.tile, config.lanes
    inner = scores.shape[1] // tile
    state = [SoftmaxState.start(()) for _ in range(tile)]
    for i, row, beat in np.ndindex(inner, tile, config.beats_per_row):
        column = i * tile + beat * lanes
        valid = np.arange(column, column + lanes) < keys
        target = pack.target(
            memory=isa.EpilogueTarget.SOFTMAX,
            row=row,
            beat=beat,
            first=i == 0,
            last=i == inner - 1,
            address=1000 + i,
            valid=valid,
            signal=255 if (i + 1, row + 1) == (inner, tile) else 0,
        )
        part = scores[row, column : column + lanes]
        traffic.send("beat_r", pack.score_beat(lanes=part, target=target))
        state[row], values = numerics.softmax_beat(state[row], part, valid)
        maximum = int(state[row].maximum)
        beat_word = pack.probability_beat(lanes=values, maximum=maximum, target=target)
        traffic.expect("probability_s", beat_word)
    mantissa, exponent = numerics.reciprocal(np.array([row.total for row in state]))
    traffic.expect("maximum_s", pack.maxima(rows=[row.maximum for row in state]))
    traffic.expect("reciprocal_s", pack.reciprocals(mantissa=mantissa, exponent=exponent))


def shapes(rng: np.random.Generator, rows: int, columns: int) -> list[IntArray]:
    """Score matrices [rows, columns]: what attention gives, and what could go wrong."""
    size = (rows, columns)
    ramp = np.linspace(-INT16_MAX, INT16_MAX, columns).astype(np.int64)
    spike = np.full(size, -INT16_MAX)
    spike[np.arange(rows), rng.integers(0, columns, rows)] = INT16_MAX
    return [
        rng.normal(0, 600, size).round().astype(np.int64),
        rng.integers(-INT16_MAX, INT16_MAX + 1, size),
        np.tile(ramp, (rows, 1)),  # the maximum rises at each beat
        np.tile(ramp[::-1], (rows, 1)),
        np.arange(columns) * 256 // 4 + rng.integers(0, 256, size),
        spike,
        np.full(size, -INT16_MAX),
        np.full(size, INT16_MAX),
        rng.choice([-257, -256, -255, -1, 0, 1, 255, 256, 257], size),
        np.tile(np.arange(columns) % 2 * 30000 - 15000, (rows, 1)),
    ]


@every_run
def test_rows_of_every_shape(run: Run) -> None:
    rng, config = run.rng(), run.config
    traffic = Traffic(["beat_r"], ["probability_s", "maximum_s", "reciprocal_s"])
    tile = config.tile
    for inner in (1, 2, 5):
        columns = inner * tile
        for scores in shapes(rng, tile, columns):
            keys = int(rng.choice([columns, columns - 1, columns - tile + 1]))
            send_block(traffic, config, scores, keys)
    check(run, "softmax", traffic)


@every_run
def test_masked_lanes_beats_and_tiles(run: Run) -> None:
    """Whatever the padding holds has no effect, be it a lane, a beat, a tile or the row."""
    rng, config = run.rng(), run.config
    traffic = Traffic(["beat_r"], ["probability_s", "maximum_s", "reciprocal_s"])
    columns = 3 * config.tile
    for keys in range(columns + 1):
        scores = rng.normal(0, 1000, (config.tile, columns)).round().astype(np.int64)
        scores[:, keys:] = rng.choice([-INT16_MAX, INT16_MAX, 0])
        send_block(traffic, config, scores, keys)
    check(run, "softmax", traffic)


@full_speed
def test_every_fraction_and_distance_to_the_maximum(run: Run) -> None:
    """The exp2 table entry by entry, at every shift."""
    config = run.config
    traffic = Traffic(["beat_r"], ["probability_s", "maximum_s", "reciprocal_s"])
    for distance in range(1, 13):
        scores = np.arange(256).reshape(config.tile, -1) - 256 * distance
        peak = np.full((config.tile, config.tile), -1)
        send_block(traffic, config, np.hstack([peak, scores]), config.tile + scores.shape[1])
    check(run, "softmax", traffic)


@full_speed
def test_long_flat_tails(run: Run) -> None:
    """What hundreds of keys lose to rounding goes from beat to beat, over a maximum that rises."""
    rng, config = run.rng(), run.config
    traffic = Traffic(["beat_r"], ["probability_s", "maximum_s", "reciprocal_s"])
    columns = 24 * config.tile
    for spike in (0, columns // 2, columns - 1):
        scores = rng.integers(-40, 40, (config.tile, columns))
        scores[:, spike] = np.arange(config.tile) * 300 + 1500
        send_block(traffic, config, scores, columns)
    check(run, "softmax", traffic)
