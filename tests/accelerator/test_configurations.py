"""Random Vision Transformers on accelerators of every tile, lane count and bus width.

A head's channels are a multiple of no tile (10), of the smallest (12) and of all (16); token
counts leave one row in the last tile; class token, mean pooling, several outputs.
"""

from __future__ import annotations

import pytest
from builders import Shape
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.sizing import SHAPES as ENGINES
from whole import DEFAULT, SMALL, check, transformer

pytestmark = pytest.mark.accelerator

CONFIGS = {
    "4x4x4-bus64": SMALL,
    "8x8x4-bus64": DEFAULT,
    # All that a board may be given. On the smallest a residual word is a part of a beat: words are
    # padded in DRAM.
    **{
        f"{tile}x{tile}x{depth}-lanes{lanes}-bus128": HardwareConfig(
            tile=tile, depth=depth, lanes=lanes, bus_bits=128
        )
        for tile, depth, lanes in ENGINES
    },
}

SHAPES = {
    "class-token": Shape(tokens=17, channels=20, hidden=40, blocks=2, patch=12),
    "mean-two-outputs": Shape(
        tokens=5, channels=24, hidden=28, blocks=1, classes=(10, 21), patch=5, pool="mean"
    ),
    "last-token-before-norm": Shape(
        tokens=17,
        channels=32,
        hidden=48,
        blocks=1,
        classes=(7,),
        patch=24,
        prefix=2,
        pool="residual",
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("seed", [1], ids="seed{}".format)
def test_outputs_equal_the_reference(config: HardwareConfig, shape: Shape, seed: int) -> None:
    simulation = check(transformer(shape, config, seed))
    print([run.counters["CYCLES"] for run in simulation.runs], "cycles")
