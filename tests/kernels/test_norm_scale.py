from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from norm_model import IntArray, Statistics, beats, constants, row_statistics, scaled
from runs import Run, Traffic, check, every_run
from vitessera.codegen import isa, numerics
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.numerics import INT16_MAX
from vitessera.codegen.packing import pack_norm
from words import pack_array, pack_rows, words

pytestmark = pytest.mark.kernel


def new_traffic() -> Traffic:
    return Traffic(["tag_r", "word_r", "statistics_r", "parameter_r"], ["operand_s"])


def send_tile(
    traffic: Traffic,
    config: HardwareConfig,
    x: IntArray,
    statistics: Statistics,
    affine: tuple[IntArray, IntArray],
    result: IntArray,
    *,
    shift: int,
    plain: bool,
) -> None:
    """A row tile [T, padded channels] with gamma and beta [padded channels]."""
    pack = words(config)
    parameters = pack_rows(pack_norm(*affine, config))
    words_of_tile, results = beats(x, config), beats(result, config)
    for i, row, beat in np.ndindex(words_of_tile.shape[:3]):
        target = pack.target(
            memory=isa.EpilogueTarget.RIGHT,
            transpose=row % 2,
            row=row,
            beat=beat,
            address=1000 * i + row,
            signal=(i * 37 + row) % 256,
        )
        start = i == beat == 0
        tag = pack.norm_result_tag(row_start=start, plain=plain, shift=shift, target=target)
        traffic.send("tag_r", tag)
        traffic.send("word_r", pack_array(words_of_tile[i, row, beat], 16))
        traffic.send("parameter_r", parameters[i * config.beats_per_row + beat])
        operand = pack.operand_beat(lanes=results[i, row, beat], target=target)
        traffic.expect("operand_s", operand)
    for mean, mantissa, width in zip(
        statistics.mean, statistics.mantissa, statistics.shift, strict=True
    ):
        traffic.send("statistics_r", pack.row_statistics(mean=mean, mantissa=mantissa, shift=width))


@every_run
def test_rows_are_normalised_as_numerics_says(run: Run) -> None:
    """Statistics of the rows themselves: the whole LayerNorm, as test_norm_stats leaves it."""
    rng, config = run.rng(), run.config
    traffic = new_traffic()
    for n, channels in enumerate((5, 16, 33, 48, 48, 40)):
        padded = -(-channels // config.tile) * config.tile
        x, gamma, beta = np.zeros((config.tile, padded), np.int64), *np.zeros((2, padded), np.int64)
        deviation = rng.permutation(np.resize([0, 3, 500, 9000], config.tile))[:, None]
        values = rng.normal(0, 1, (config.tile, channels)) * deviation + rng.integers(-3000, 3000)
        x[:, :channels] = values.clip(-INT16_MAX, INT16_MAX).round()
        gamma[:channels] = rng.integers(-8000, 8000, channels)
        beta[:channels] = rng.integers(-(2**23), 2**23, channels)
        plain = n == 4
        norm = replace(constants(channels, 7, 3), shift=int(rng.integers(17, 20)), plain=plain)
        result = numerics.layer_norm(x, gamma, beta, norm)
        assert len(np.unique(result)) > 10, "the data exercises nothing"
        statistics = row_statistics(x, norm)
        affine = (gamma, beta)
        send_tile(traffic, config, x, statistics, affine, result, shift=norm.shift, plain=plain)
    check(run, "norm_scale", traffic)


@every_run
def test_any_statistics_and_parameters(run: Run) -> None:
    """Every field from its whole range, its ends above all."""
    rng, config = run.rng(), run.config
    traffic = new_traffic()
    tile, padded = config.tile, 2 * config.tile
    for shift in range(64):
        x = rng.choice([-INT16_MAX, -1, 0, 1, INT16_MAX, *range(-99, 99, 7)], (tile, padded))
        largest = 2**23
        statistics = Statistics(
            mean=rng.choice([-largest, largest, 0, *rng.integers(-largest, largest, 5)], tile),
            mantissa=rng.choice([32768, 65535, *rng.integers(32768, 65536, 3)], tile),
            shift=rng.choice([0, 1, 39, *range(8, 39)], tile),
        )
        gamma = rng.choice([-32768, 32767, 0, 1, *rng.integers(-5000, 5000, 5)], padded)
        ends = [-(2**31), 2**31 - 1, 0]
        beta = rng.choice([*ends, *rng.integers(-(2**20), 2**20, 5)], padded)
        plain = bool(rng.integers(2))
        result = scaled(x, statistics, gamma, beta, shift, plain)
        affine = (gamma, beta)
        send_tile(traffic, config, x, statistics, affine, result, shift=shift, plain=plain)
    check(run, "norm_scale", traffic)
