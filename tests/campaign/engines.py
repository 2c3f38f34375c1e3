"""The accelerators that random programs run on."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache

from vitessera.codegen import toplevel
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.sizing import SHAPES
from vitessera.codegen.toplevel import Rtl

# Queues, fetch FIFO and streams: from what boards get down to the least there can be.
DEPTHS = {"queue_depth": (1, 2, 5, 32), "fetch_depth": (1, 2, 3, 32), "stream_depth": (1, 2, 64)}
LEAST = {name: min(depths) for name, depths in DEPTHS.items()}


@cache
def generated(config: HardwareConfig) -> Rtl:
    """The hardware of `config`."""
    return toplevel.generate(config)


def least(config: HardwareConfig) -> HardwareConfig:
    """`config` with every queue as short as it may be."""
    return replace(config, **LEAST)


def random_engine(seed: int) -> HardwareConfig:
    """Each seed another shape, bus, choice of maps, and depths."""
    source = random.Random(seed)
    tile, depth, lanes = SHAPES[seed % len(SHAPES)]
    return HardwareConfig(
        tile=tile,
        depth=depth,
        lanes=lanes,
        bus_bits=source.choice((64, 128)),
        maps=source.random() < 0.5,
        **{name: source.choice(depths) for name, depths in DEPTHS.items()},
    )


def describe(config: HardwareConfig) -> str:
    """An engine in one word for tables."""
    maps = "-maps" if config.maps else ""
    depths = "-".join(f"{name[0]}{getattr(config, name)}" for name in DEPTHS)
    shape = f"{config.tile}x{config.tile}x{config.depth}-e{config.lanes}"
    return f"{shape}-bus{config.bus_bits}{maps}-{depths}"
