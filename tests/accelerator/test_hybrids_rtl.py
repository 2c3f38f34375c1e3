"""Hybrids on the RTL: maps normalised by groups, pooled and unfolded by GATHER, bit by bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
from random_hybrid import STEMS, Stem, random_hybrid
from random_vit import Shape, random_images
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.preprocess import patches
from vitessera.codegen.quantgraph import Gather, QuantGraph
from vitessera.codegen.quantize import quantize
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.split import split
from vitessera.sim.accelerator import DramTiming
from whole import DEFAULT, SMALL, Workload, check

pytestmark = pytest.mark.accelerator

# Groups of 1 to 16 channels begin, fill or exceed a word of 4 or 8 lanes and a column tile.
CONFIGS = {
    "4x4x4-lanes4": SMALL,
    "8x8x4-lanes8": replace(DEFAULT, maps=True),
    "16x16x4-lanes4": HardwareConfig(tile=16, depth=4, lanes=4, bus_bits=128, maps=True),
}


def work(graph: QuantGraph, config: HardwareConfig, seed: int, count: int = 2) -> Workload:
    """The network on random images whose results differ."""
    program = schedule(graph, config)
    images = random_images(graph, count, seed)
    made = Workload.of(program, [patches(graph.source, image) for image in images])
    assert len(set(made.outputs)) == count, "images that give the same results show little"
    return made


def hybrid(stem: Stem, seed: int, prefix: int = 1) -> QuantGraph:
    graph = random_hybrid(seed, Shape(image=(3, 12, 20), blocks=1, prefix=prefix), stem)
    return quantize(graph, random_images(graph, 8, seed + 1))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("name", STEMS)
def test_outputs_equal_the_reference(config: HardwareConfig, name: str) -> None:
    simulation = check(work(hybrid(STEMS[name], seed=1), config, seed=3))
    print([run.counters["CYCLES"] for run in simulation.runs], "cycles")


@pytest.mark.parametrize("prefix", [0, 2, 5, 15])
def test_rows_of_zeros_stand_before_the_first_token(prefix: int) -> None:
    check(work(hybrid(STEMS["r-stem"], 2, prefix), SMALL, seed=4))


def test_stems_in_parts() -> None:
    graph = split(hybrid(STEMS["r-stem"], seed=5), 4)
    assert sum(isinstance(node, Gather) for node in graph) == 4
    for timing in (DramTiming(read_latency=1), DramTiming(read_latency=200, beats_per_16=8)):
        check(work(graph, replace(SMALL, left_words=4096), seed=6), timing)
