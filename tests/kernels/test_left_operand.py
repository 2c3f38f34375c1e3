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


def send_plain(traffic: Traffic, config: HardwareConfig, word: IntArray) -> None:
    """A word [T, V] of left memory; any int8, for nothing may happen to it."""
    traffic.send("operand_r", words(config).operand_tag())
    traffic.send("left_r", pack_array(word, 8))
    traffic.expect("word_s", pack_array(word, 8))


def send_block(
    traffic: Traffic, config: HardwareConfig, values: IntArray, stored: IntArray, final: IntArray
) -> None:
    """Words [n, T, V] of probability memory with their maxima [n, T], and the final ones [T]."""
    pack = words(config)
    traffic.send("maximum_r", pack.maxima(rows=final))
    for n, (word, maxima) in enumerate(zip(values, stored, strict=True)):
        traffic.send("operand_r", pack.operand_tag(probability=1, block_start=n == 0))
        low = pack_array(word, 8)
        traffic.send("probability_r", pack_array(maxima, 8) << 8 * word.size | low)
        settled = numerics.settle(word, (final - maxima)[:, None])
        traffic.expect("word_s", pack_array(settled, 8))


@every_run
def test_settles_blocks_between_plain_words(run: Run) -> None:
    rng, config = run.rng(), run.config
    shape = (config.tile, config.depth)
    traffic = new_traffic()
    for _ in range(30):
        for _ in range(rng.integers(4)):
            send_plain(traffic, config, rng.integers(-128, 128, shape))
        count = int(rng.integers(1, 9))
        final = rng.integers(-128, 128, config.tile)
        lag = rng.choice([0, 0, 1, 2, 5, 7, 8, 9, 300], (count, config.tile))
        stored = np.maximum(final - lag, -128)
        send_block(traffic, config, rng.integers(0, 128, (count, *shape)), stored, final)
    check(run, "left_operand", traffic)


@full_speed
def test_every_probability_at_every_lag(run: Run) -> None:
    """Lags 0 to 255; beyond 8 all probabilities are gone."""
    config = run.config
    traffic = new_traffic()
    lags = [*range(20), 30, 31, 32, 63, 64, 127, 128, 254, 255]
    values = np.arange(128).reshape(-1, config.tile, config.depth)
    for lag in lags:
        high = np.minimum(127, lag - 128 + np.arange(config.tile))
        stored = np.broadcast_to(high - lag, (len(values), config.tile))
        send_block(traffic, config, values, stored, high)
    check(run, "left_operand", traffic)
