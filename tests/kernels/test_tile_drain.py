from __future__ import annotations

import numpy as np
import pytest
from runs import Run, Traffic, check, every_run
from words import pack_array, words

pytestmark = pytest.mark.kernel


@every_run
def test_beats_leave_row_by_row(run: Run) -> None:
    rng, config = run.rng(), run.config
    pack = words(config)
    low, high = -(2**31), 2**31 - 1
    shape = (config.tile, config.tile)
    tiles = [
        np.arange(config.tile**2).reshape(shape),
        *(np.full(shape, value) for value in (low, high, 0, -1)),
        *rng.integers(low, high + 1, (40, *shape)),
    ]
    traffic = Traffic(["tile_r"], ["beat_s"])
    for tile in tiles:
        traffic.send("tile_r", pack_array(tile, 32))
        traffic.expect("beat_s", *(pack.beat(lanes=b) for b in tile.reshape(-1, config.lanes)))
    check(run, "tile_drain", traffic)
