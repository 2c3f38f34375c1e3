from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from runs import Run, Traffic, check, every_run, full_speed
from vitessera.codegen import numerics
from vitessera.codegen.config import HardwareConfig
from words import pack_array, words

pytestmark = pytest.mark.kernel
IntArray = npt.NDArray[np.int64]


def new_traffic() -> Traffic:
    return Traffic(["operand_r", "left_r", "probability_r", "maximum_r"], ["word_s"])


def send_plain(traffic: Traffic, config: HardwareConfig, word: IntArray, start: bool) -> None:
    """A word [T, V] of left memory; any int8, for nothing may happen to it."""
    traffic.send("operand_r", words(config).operand_tag(tile_start=start))
    traffic.send("left_r", pack_array(word, 8))
    traffic.expect("word_s", pack_array(word, 8))


def send_block(
    traffic: Traffic,
    config: HardwareConfig,
    values: IntArray,
    stored: IntArray,
    final: IntArray,
    tiles: int = 1,
) -> None:
    """Words [n, T, V] of probability memory with their maxima [n, T], and the final ones [T].

    The words are read once for each of the tiles.
    """
    pack, depth = words(config), config.depth
    traffic.send("maximum_r", pack.maxima(rows=final))
    lag = np.repeat((final - stored).T, depth, axis=1)
    rows = values.swapaxes(0, 1).reshape(config.tile, -1)  # [T, n * V]
    settled = numerics.settle(rows, lag).reshape(config.tile, -1, depth).swapaxes(0, 1)
    for tile, n in np.ndindex(tiles, len(values)):
        start = n == 0
        tag = pack.operand_tag(probability=1, block_start=start and tile == 0, tile_start=start)
        traffic.send("operand_r", tag)
        low = pack_array(values[n], 8)
        traffic.send("probability_r", pack_array(stored[n], 8) << 8 * values[n].size | low)
        traffic.expect("word_s", pack_array(settled[n], 8))


@every_run
def test_settles_blocks_between_plain_words(run: Run) -> None:
    rng, config = run.rng(), run.config
    shape = (config.tile, config.depth)
    traffic = new_traffic()
    for _ in range(30):
        for _ in range(rng.integers(4)):
            word = rng.integers(-128, 128, shape)
            send_plain(traffic, config, word, start=bool(rng.integers(2)))
        count = int(rng.integers(1, 9))
        final = rng.integers(-128, 128, config.tile)
        lag = rng.choice([0, 0, 1, 2, 5, 7, 8, 9, 300], (count, config.tile))
        stored = np.maximum(final - lag, -128)
        values = rng.integers(0, 128, (count, *shape))
        send_block(traffic, config, values, stored, final, tiles=int(rng.integers(1, 4)))
    check(run, "left_operand", traffic)


@full_speed
def test_every_probability_at_every_lag(run: Run) -> None:
    """Lags 0 to 255; beyond 18 all probabilities are gone."""
    config = run.config
    traffic = new_traffic()
    lags = [*range(22), 30, 31, 32, 63, 64, 127, 128, 254, 255]
    values = np.arange(128).reshape(-1, config.tile, config.depth)
    for lag in lags:
        high = np.minimum(127, lag - 128 + np.arange(config.tile))
        stored = np.broadcast_to(high - lag, (len(values), config.tile))
        send_block(traffic, config, values, stored, high)
    check(run, "left_operand", traffic)


@every_run
def test_long_rows_keep_what_their_words_lose(run: Run) -> None:
    """The fraction goes from word to word: full probabilities, and single units, for hundreds of
    keys, whose maxima rise on the way."""
    rng, config = run.rng(), run.config
    traffic = new_traffic()
    shape = (64, config.tile, config.depth)
    for values in (np.full(shape, 127), np.full(shape, 1), rng.integers(0, 3, shape)):
        rises = rng.integers(0, 4, (len(values), config.tile)) // 3
        stored = np.cumsum(rises, axis=0) - 100
        send_block(traffic, config, values, stored, stored[-1] + rng.integers(0, 2, config.tile))
    check(run, "left_operand", traffic)
