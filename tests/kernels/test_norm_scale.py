from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from norm_model import (
    IntArray,
    Statistics,
    beats,
    constants,
    group_constants,
    row_statistics,
    scaled,
)
from runs import Run, Traffic, check, every_run, with_and_without_maps
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
        tag = pack.norm_result_tag(
            fresh=start, plain=plain, first=1, last=1, shift=shift, target=target
        )
        traffic.send("tag_r", tag)
        word = pack_array(words_of_tile[i, row, beat], 16)
        traffic.send("word_r", pack.norm_word(word=word))
        traffic.send("parameter_r", parameters[i * config.beats_per_row + beat])
        operand = pack.operand_beat(lanes=results[i, row, beat], target=target)
        traffic.expect("operand_s", operand)
    send_statistics(traffic, config, statistics)


def send_statistics(traffic: Traffic, config: HardwareConfig, found: Statistics) -> None:
    for mean, mantissa, shift in zip(found.mean, found.mantissa, found.shift, strict=True):
        word = words(config).row_statistics(mean=mean, mantissa=mantissa, shift=shift)
        traffic.send("statistics_r", word)


def send_groups(
    traffic: Traffic,
    config: HardwareConfig,
    rng: np.random.Generator,
    group: int,
    found: Statistics,
) -> None:
    """Statistics of groups; the words that come with them do not matter."""
    pack = words(config)
    for number in range(config.tile >> group):
        target = pack.target(row=number)
        any_of = {"plain": rng.integers(2), "relu": rng.integers(2), "shift": rng.integers(64)}
        tag = pack.norm_result_tag(
            fresh=1, group=group, by_column=1, first=1, target=target, **any_of
        )
        traffic.send("tag_r", tag)
        word = pack_array(rng.integers(-9999, 9999, config.lanes), 16)
        traffic.send("word_r", pack.norm_word(outside=rng.integers(2), word=word))
        traffic.send("parameter_r", int(rng.integers(2**48)))
    send_statistics(traffic, config, found)


def send_windows(
    traffic: Traffic,
    config: HardwareConfig,
    x: IntArray,
    outside: npt.NDArray[np.bool_],
    z: IntArray,
    affine: tuple[IntArray, IntArray],
    *,
    group: int,
    shift: int,
    plain: bool,
    relu: bool,
) -> IntArray:
    """Words of results as a GATHER walks over them, of one column tile.

    Args:
        traffic: gets them.
        config: of the kernel.
        x: [T rows, pixels of the kernel, T channels].
        outside: [T rows, pixels of the kernel].
        z: x normalised.
        affine: gamma and beta [T channels].
        group, shift, plain, relu: as in the instruction.

    Returns:
        The results expected [T rows, T channels].
    """
    pack, lanes = words(config), config.lanes
    gamma, beta = affine
    parameters = pack_rows(pack_norm(gamma, beta, config))
    y = numerics.saturate(numerics.round_shift(z * gamma + beta, shift), numerics.INT8_MAX)
    y = np.maximum(y, 0) if relu else y
    greatest = np.where(outside[..., None], -(10**6), y).max(axis=1)
    result = np.where(outside.all(axis=1)[:, None], 0, greatest)
    kernel = x.shape[1]
    for row, beat in np.ndindex(config.tile, config.beats_per_row):
        channels = slice(beat * lanes, (beat + 1) * lanes)
        for tap in range(kernel):
            target = pack.target(row=row, beat=beat, address=3 * row, signal=tap)
            tag = pack.norm_result_tag(
                group=group,
                by_column=1,
                plain=plain,
                relu=relu,
                first=tap == 0,
                last=tap == kernel - 1,
                shift=shift,
                target=target,
            )
            traffic.send("tag_r", tag)
            word = pack_array(x[row, tap, channels], 16)
            traffic.send("word_r", pack.norm_word(outside=outside[row, tap], word=word))
            traffic.send("parameter_r", parameters[beat])
        operand = pack.operand_beat(lanes=result[row, channels], target=target)
        traffic.expect("operand_s", operand)
    return result


def column_normalized(x: IntArray, group: int, found: Statistics) -> IntArray:
    """x [..., T channels] normalised by statistics of its groups."""
    columns = numerics.Statistics(
        *(np.repeat(values, 1 << group) for values in (found.mean, found.mantissa, found.shift))
    )
    return numerics.normalize(x, columns)


@with_and_without_maps
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


@with_and_without_maps
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


KERNELS = (1, 1, 2, 9, 9, 49)


@every_run
def test_groups_and_windows(run: Run) -> None:
    """GATHERs of every group size, between NORMs whose statistics do not stay."""
    rng, config = run.rng(), run.config
    traffic, tile = new_traffic(), config.tile
    seen = []
    cases = [
        (group, kernel) for group in range(tile.bit_length()) for kernel in rng.permutation(KERNELS)
    ]
    for n, (group, kernel) in enumerate(cases):
        plain, relu = n % 5 == 4, bool(rng.integers(2))
        deviation = rng.choice([40, 500, 9000], tile)
        x = rng.normal(0, 1, (tile, kernel, tile)) * deviation + rng.integers(-3000, 3000, tile)
        x = x.clip(-INT16_MAX, INT16_MAX).round().astype(np.int64)
        outside = rng.random((tile, kernel)) < 0.4
        gamma = rng.integers(-8000, 8000, tile)
        beta = rng.integers(-(2**22), 2**22, tile)
        groups = x.reshape(-1, tile >> group, 1 << group).swapaxes(0, 1)
        groups = groups.reshape(tile >> group, -1)
        found = row_statistics(groups, group_constants(groups.shape[1], 7, 3))
        z = x if plain else column_normalized(x, group, found)
        send_groups(traffic, config, rng, group, found)
        # The statistics stay for further column tiles and instructions.
        for shift in rng.integers(17, 20, 2):
            result = send_windows(
                *(traffic, config, x, outside, z, (gamma, beta)),
                group=group,
                shift=int(shift),
                plain=plain,
                relu=relu,
            )
            seen.append(result)
            assert relu <= bool((result >= 0).all())
        if n % 4 == 0:
            norm = replace(constants(tile, 7, 3), shift=18)
            rows = x[:, 0]
            layer = numerics.layer_norm(rows, gamma, beta, norm)
            own = row_statistics(rows, norm)
            send_tile(
                *(traffic, config, rows, own, (gamma, beta), layer), shift=norm.shift, plain=False
            )
    assert len(np.unique(np.concatenate(seen))) > 100, "the data exercises nothing"
    check(run, "norm_scale", traffic)


@every_run
def test_any_statistics_of_columns(run: Run) -> None:
    """Every field from its whole range, its ends above all."""
    rng, config = run.rng(), run.config
    traffic, tile = new_traffic(), config.tile
    for shift in range(64):
        group = int(rng.integers(tile.bit_length()))
        kernel = int(rng.integers(1, 4))
        x = rng.choice([-INT16_MAX, -1, 0, 1, INT16_MAX, *range(-99, 99, 7)], (tile, kernel, tile))
        largest = 2**23
        found = Statistics(
            mean=rng.choice([-largest, largest, 0, *rng.integers(-9999, 9999, 5)], tile >> group),
            mantissa=rng.choice([32768, 65535, *rng.integers(32768, 65536, 3)], tile >> group),
            shift=rng.choice([0, 1, 39, *range(8, 39)], tile >> group),
        )
        gamma = rng.choice([-32768, 32767, 0, 1, *rng.integers(-5000, 5000, 5)], tile)
        beta = rng.choice([-(2**31), 2**31 - 1, 0, *rng.integers(-(2**20), 2**20, 5)], tile)
        plain = bool(rng.integers(2))
        send_groups(traffic, config, rng, group, found)
        send_windows(
            *(traffic, config, x, rng.random((tile, kernel)) < 0.3),
            *(x if plain else column_normalized(x, group, found), (gamma, beta)),
            group=group,
            shift=shift,
            plain=plain,
            relu=bool(rng.integers(2)),
        )
    check(run, "norm_scale", traffic)
