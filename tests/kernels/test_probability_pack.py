from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from runs import Run, Traffic, check, every_run
from vitessera.codegen import isa
from vitessera.codegen.config import ADDRESS_BITS, HardwareConfig
from vitessera.codegen.packing import pack_operand
from words import pack_array, words

pytestmark = pytest.mark.kernel
IntArray = npt.NDArray[np.int64]


def send_tile(
    traffic: Traffic,
    config: HardwareConfig,
    tile: IntArray,
    maxima: IntArray,
    address: int,
    signal: int,
) -> None:
    """Probabilities [T, T] and the maximum [T, beats] that each beat is relative to."""
    pack = words(config)
    beats = tile.reshape(config.tile, config.beats_per_row, config.lanes)
    for row, beat in np.ndindex(maxima.shape):
        end = (row, beat) == (config.tile - 1, config.beats_per_row - 1)
        target = pack.target(
            memory=isa.EpilogueTarget.SOFTMAX,
            row=row,
            beat=beat,
            address=address,
            signal=signal if end else 0,
        )
        maximum = maxima[row, beat]
        traffic.send(
            "beat_r",
            pack.probability_beat(lanes=beats[row, beat], maximum=maximum, target=target),
        )
    for index, word in enumerate(pack_operand(tile.astype(np.int8), config)):
        column = maxima[:, index * config.depth // config.lanes]
        data = pack_array(column, 8) << 8 * word.size | pack_array(word, 8)
        end = index == config.words_per_tile - 1
        write = pack.probability_write(
            address=address + index, data=data, signal=signal if end else 0
        )
        traffic.expect("probability_s", write)


@every_run
def test_tiles_become_words_with_their_maxima(run: Run) -> None:
    rng, config = run.rng(), run.config
    traffic = Traffic(["beat_r"], ["probability_s"])
    highest = 2**ADDRESS_BITS - config.words_per_tile
    shape = (config.tile, config.tile)
    rows = (config.tile, config.beats_per_row)
    known = [np.arange(config.tile**2).reshape(shape) % 128, np.full(shape, 127)]
    for tile in (*known, *rng.integers(0, 128, (50, *shape))):
        send_tile(
            traffic,
            config,
            tile,
            rng.choice([-128, -1, 0, 127, rng.integers(-128, 128)], rows),
            int(rng.choice([0, highest, rng.integers(highest)])),
            int(rng.choice([0, 0, 1, 255])),
        )
    check(run, "probability_pack", traffic, tail_cycles=config.words_per_tile)
