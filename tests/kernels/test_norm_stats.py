from __future__ import annotations

import numpy as np
import pytest
from norm_model import (
    IntArray,
    Statistics,
    beats,
    constants,
    group_constants,
    row_statistics,
    sum_shift_of,
    visits,
)
from runs import MAIN, Run, Traffic, check, every_run, full_speed, with_and_without_maps
from vitessera.codegen import isa, numerics
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
            valid=[1] * config.lanes,
            forward=1,
        )
        word = pack_array(words_of_tile[i, row, beat], 16)
        traffic.send("tag_r", tag)
        traffic.send("residual_r", word)
        traffic.expect("word_s", pack.norm_word(word=word))
    expect_statistics(traffic, config, row_statistics(x, norm))


def expect_statistics(traffic: Traffic, config: HardwareConfig, found: Statistics) -> None:
    for mean, mantissa, shift in zip(found.mean, found.mantissa, found.shift, strict=True):
        statistics = words(config).row_statistics(mean=mean, mantissa=mantissa, shift=shift)
        traffic.expect("statistics_s", statistics)


def send_map(
    traffic: Traffic, config: HardwareConfig, x: IntArray, group: int, norm: NormConstants
) -> None:
    """The pass over a map [pixels, padded channels] for its sums, in an order of its own."""
    pack, size, lanes = words(config), 1 << group, config.lanes
    once = visits(isa.Gather(group=group), config)
    whole = x.reshape(len(x), -1, config.beats_per_row, lanes)
    end = (len(x) - 1, whole.shape[1] - 1)
    for pixel, i, beat in np.ndindex(whole.shape[:3]):
        for visit in range(once):
            channels = beat * lanes + np.arange(lanes)
            counts = channels // size == (beat * lanes + visit * size) // size
            last = (pixel, i) == end and size - 1 in channels[counts] % size
            tag = pack.norm_tag(
                row=int(channels[counts][0]) // size,
                first=pixel == i == 0 and 0 in channels[counts] % size,
                last=last,
                valid=counts,
                forward=last,
                outside=pixel % 2,
                channels=norm.channels,
                inverse=norm.inverse,
                eps_mantissa=norm.eps_mantissa,
                eps_exponent=norm.eps_exponent,
                sum_shift=norm.sum_shift,
            )
            word = pack_array(whole[pixel, i, beat], 16)
            traffic.send("tag_r", tag)
            traffic.send("residual_r", word)
            if last:
                traffic.expect("word_s", pack.norm_word(outside=pixel % 2, word=word))
    split = x.reshape(len(x), -1, config.tile // size, size)  # groups of a column tile
    groups = split.transpose(2, 0, 1, 3).reshape(config.tile // size, -1)
    expect_statistics(traffic, config, row_statistics(groups, norm))


def send_gathered(
    traffic: Traffic, config: HardwareConfig, rng: np.random.Generator, count: int
) -> None:
    """Words of a GATHER's results: they pass, and leave sums as they are."""
    pack = words(config)
    for outside in rng.integers(0, 2, count):
        word = pack_array(rng.integers(-INT16_MAX, INT16_MAX + 1, config.lanes), 16)
        traffic.send("tag_r", pack.norm_tag(forward=1, outside=outside, channels=1))
        traffic.send("residual_r", word)
        traffic.expect("word_s", pack.norm_word(outside=outside, word=word))


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


@with_and_without_maps
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


@every_run
def test_statistics_of_groups(run: Run) -> None:
    """Groups of every size, between row tiles of a NORM and words that only pass."""
    rng, config = run.rng(), run.config
    traffic = new_traffic()
    for group in range(config.tile.bit_length()):
        whole = 1 << group == config.tile
        for n, tiles in enumerate((1, 3) if whole else (1,)):
            pixels = int(rng.integers(1, 40))
            size = (pixels, tiles * config.tile)
            x = rng.normal(rng.integers(-3000, 3000), 2000, size).round().astype(np.int64)
            norm = group_constants(pixels * tiles << group, 11, 4)
            send_map(traffic, config, x.clip(-INT16_MAX, INT16_MAX), group, norm)
            send_gathered(traffic, config, rng, 20)
            if n == 0:
                tile = rng.integers(-999, 999, (config.tile, config.tile))
                send_tile(traffic, config, tile, constants(config.tile))
    check(run, "norm_stats", traffic)


@full_speed
@pytest.mark.parametrize("sum_shift", [1, 4, 7])
def test_sums_that_are_shifted(run: Run, sum_shift: int) -> None:
    """As many numbers as sum_shift makes room for, up to the largest; and constant maps."""
    rng, config = run.rng(), MAIN
    traffic = new_traffic()
    size = ((CHANNELS_MAX << sum_shift) // (4 * config.tile), 4 * config.tile)
    assert sum_shift_of(size[0] * size[1]) == sum_shift
    norm = group_constants(size[0] * size[1], 3, 2)
    group = config.tile.bit_length() - 1
    for x in (rng.integers(-INT16_MAX, INT16_MAX + 1, size), np.full(size, -INT16_MAX)):
        send_map(traffic, config, x, group, norm)
    check(run, "norm_stats", traffic)


@full_speed
def test_rounded_sums_of_a_map_without_variance(run: Run) -> None:
    """What n * sum(x^2) - sum(x)^2 is after rounding may be negative: it counts as 1."""
    traffic, config = new_traffic(), MAIN
    group, tile = config.tile.bit_length() - 1, config.tile
    negative = 0
    for value in (-9000, -3, 0, 1, 20, INT16_MAX):
        x = np.full((8301, tile), value)
        norm = group_constants(x.size, 0)
        total, squares = (int(numerics.round_shift(s.sum(), norm.sum_shift)) for s in (x, x * x))
        negative += norm.channels * squares - total**2 < 0
        send_map(traffic, config, x, group, norm)
    assert negative == 4
    check(run, "norm_stats", traffic)
