from __future__ import annotations

import numpy as np
import pytest
from norm_model import IntArray, beats, constants, row_statistics
from runs import Run, Traffic, check, every_run, full_speed
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.numerics import INT16_MAX, NormConstants
from words import pack_array, words

pytestmark = pytest.mark.kernel
CHANNELS_MAX = 4095  # what the instruction can say; beyond 4096 the sums could overflow


def new_traffic() -> Traffic:
    return Traffic(["tag_r", "residual_r"], ["word_s", "statistics_s"])


def send_tile(traffic: Traffic, config: HardwareConfig, x: IntArray, norm: NormConstants) -> None:
    """A row tile [T, padded channels]."""
    pack = words(config)
    words_of_tile = beats(x, config)
    inner = len(words_of_tile)
    for i, row, beat in np.ndindex(words_of_tile.shape[:3]):
        tag = pack.norm_tag(
            row=row,
            first=i == beat == 0,
            last=i == inner - 1 and beat == config.beats_per_row - 1,
            channels=norm.channels,
            inverse=norm.inverse,
            eps_mantissa=norm.eps_mantissa,
            eps_exponent=norm.eps_exponent,
        )
        word = pack_array(words_of_tile[i, row, beat], 16)
        traffic.send("tag_r", tag)
        traffic.send("residual_r", word)
        traffic.expect("word_s", word)
    found = row_statistics(x, norm)
    for mean, mantissa, shift in zip(found.mean, found.mantissa, found.shift, strict=True):
        statistics = pack.row_statistics(mean=mean, mantissa=mantissa, shift=shift)
        traffic.expect("statistics_s", statistics)


def rows(rng: np.random.Generator, tile: int, channels: int) -> list[IntArray]:
    """Row tiles [T, channels]: usual, and of no, little and the largest variance."""
    size = (tile, channels)
    spike = np.zeros(size, np.int64)
    spike[np.arange(tile), rng.integers(0, channels, tile)] = INT16_MAX
    alternating = np.where(np.arange(channels) % 2, INT16_MAX, -INT16_MAX)
    return [
        rng.normal(100, 2000, size).round().astype(np.int64),
        rng.integers(-INT16_MAX, INT16_MAX + 1, size),
        np.zeros(size, np.int64),
        np.broadcast_to(rng.integers(-INT16_MAX, INT16_MAX + 1, (tile, 1)), size),
        np.full(size, -INT16_MAX),
        np.tile(alternating, (tile, 1)),
        rng.integers(-1, 2, size),
        spike,
    ]


def pad(x: IntArray, tile: int) -> IntArray:
    return np.pad(x, ((0, 0), (0, -x.shape[1] % tile)))


@every_run
def test_statistics_of_rows(run: Run) -> None:
    rng, config = run.rng(), run.config
    traffic = new_traffic()
    eps = [(0, 0), (1, 0), (40000, 12), (65535, 40), (65535, 63)]
    for channels in (1, 2, 3, config.tile, config.tile + 1, 5 * config.tile - 3):
        for n, x in enumerate(rows(rng, config.tile, channels)):
            norm = constants(channels, *eps[n % len(eps)])
            send_tile(traffic, config, pad(x, config.tile), norm)
    check(run, "norm_stats", traffic)


@full_speed
def test_epsilon_at_every_exponent(run: Run) -> None:
    """rsqrt over its whole range, and the saturation above."""
    traffic, config = new_traffic(), run.config
    x = np.zeros((config.tile, config.tile), np.int64)
    for mantissa in (1, 3, 32768, 46341, 65535):
        for exponent in range(64):
            send_tile(traffic, config, x, constants(config.tile, mantissa, exponent))
    check(run, "norm_stats", traffic)


@full_speed
def test_the_largest_sums(run: Run) -> None:
    traffic, config = new_traffic(), run.config
    tile = config.tile
    signs = np.where(np.arange(tile) % 2, 1, -1)[:, None]
    x = np.full((tile, CHANNELS_MAX), INT16_MAX) * signs
    x[2:, ::2] *= -1
    x = np.pad(x, ((0, 0), (0, 1)))  # to whole tiles
    send_tile(traffic, config, pad(x, tile), constants(CHANNELS_MAX))
    check(run, "norm_stats", traffic)
