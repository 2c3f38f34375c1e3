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
LEFT, RIGHT = isa.EpilogueTarget.LEFT, isa.EpilogueTarget.RIGHT


def send_tile(
    traffic: Traffic,
    config: HardwareConfig,
    tile: npt.NDArray[np.int8],
    *,
    memory: isa.EpilogueTarget,
    transpose: bool,
    address: int,
    signal: int,
) -> None:
    pack = words(config)
    beats = tile.reshape(config.tile, config.beats_per_row, config.lanes)
    for row, beat in np.ndindex(beats.shape[:2]):
        end = (row, beat) == (config.tile - 1, config.beats_per_row - 1)
        target = pack.target(
            memory=memory,
            transpose=transpose,
            row=row,
            beat=beat,
            address=address,
            signal=signal if end else 0,
        )
        traffic.send("beat_r", pack.operand_beat(lanes=beats[row, beat], target=target))
    packed = pack_operand(tile.T if transpose else tile, config)
    stream = "left_s" if memory == LEFT else "right_s"
    for index, word in enumerate(packed):
        end = index == len(packed) - 1
        write = pack.operand_write(
            address=address + index, data=pack_array(word, 8), signal=signal if end else 0
        )
        traffic.expect(stream, write)


@every_run
def test_tiles_become_operand_words(run: Run) -> None:
    rng, config = run.rng(), run.config
    traffic = Traffic(["beat_r"], ["left_s", "right_s"])
    highest = 2**ADDRESS_BITS - config.words_per_tile
    size = config.tile**2
    known = [np.arange(size), np.arange(size) * 7 % 255 - 127, np.full(size, -127)]
    for tile in (*known, *rng.integers(-127, 128, (50, size))):
        send_tile(
            traffic,
            config,
            tile.reshape(config.tile, config.tile).astype(np.int8),
            memory=LEFT if rng.integers(2) else RIGHT,
            transpose=bool(rng.integers(2)),
            address=int(rng.choice([0, highest, rng.integers(highest)])),
            signal=int(rng.choice([0, 0, 1, 255])),
        )
    check(run, "operand_pack", traffic, tail_cycles=config.words_per_tile)
