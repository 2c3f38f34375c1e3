"""Random Vision Transformers on accelerators of every tile, lane count and bus width.

A head's channels are a multiple of no tile (10), of the smallest (12) and of all (16); token
counts leave one row in the last tile; class token, mean pooling, several outputs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from builders import Shape, vision_transformer
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.quantgraph import Attention
from vitessera.codegen.schedule.split import split
from vitessera.codegen.sizing import SHAPES as ENGINES
from vitessera.sim.accelerator import DramTiming
from whole import DEFAULT, SMALL, check, network, transformer

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


def test_a_small_network_on_a_large_engine() -> None:
    """timm's VisionTransformer(img_size=32, patch_size=4, embed_dim=96, depth=4, num_heads=3).

    It once stopped for ever: its products are so short that the queue of COMPUTE is full most of
    the time, and a credit for the fetch FIFO left before the beats that it stood for.
    """
    shape = Shape(tokens=65, channels=96, heads=3, hidden=384, blocks=4, classes=(10,), patch=48)
    check(transformer(shape, CONFIGS["16x16x4-lanes16-bus128"], seed=1, count=1))


def test_what_is_added_to_scores() -> None:
    """Of all tokens and of the class token alone; with whole networks, and with heads in parts."""
    shape = replace(SHAPES["class-token"], bias=True, pool="early")
    graph = vision_transformer(np.random.default_rng(3), shape)
    check(network(graph, SMALL, seed=4))
    check(network(split(graph, 2), SMALL, seed=5))


def test_residual_memory_that_two_blocks_of_a_bias_share() -> None:
    """Each is loaded over the one before the last, as soon as its scores are done and no sooner."""
    shape = replace(SHAPES["class-token"], bias=True)
    standing, block = 5 * 5 * 4, 5 * 4  # words of 20 x 20 and of 4 x 20 elements
    config = replace(SMALL, residual_words=standing + 2 * block)
    work = transformer(shape, config, seed=6)
    streamed = [entry for entry in work.program.allocations if entry.streamed]
    loads = [entry.address for entry in streamed if entry.memory is Memory.RESIDUAL]
    assert loads == [0, block] * (len(loads) // 2)
    for timing in (DramTiming(read_latency=1), DramTiming(read_latency=200, beats_per_16=8)):
        check(work, timing)


def test_hidden_layers_in_parts() -> None:
    """Heads and hidden channels one part after the other, each added to the residual stream."""
    shape = SHAPES["class-token"]
    graph = split(vision_transformer(np.random.default_rng(3), shape), 2)
    assert sum(isinstance(node, Attention) for node in graph) == shape.heads * shape.blocks
    check(network(graph, SMALL, seed=4))
