"""What the tests of the whole accelerator share: designs, workloads, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from builders import Shape, images, vision_transformer
from vitessera.codegen import toplevel
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.numerics import INT16_MAX
from vitessera.codegen.packing import Int8Array
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import Program, pack_input, unpack_outputs
from vitessera.codegen.quantgraph import PatchInput, QuantGraph
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule
from vitessera.codegen.toplevel import Rtl
from vitessera.sim.accelerator import DramTiming, Simulation, simulate

# Every configuration is a simulation binary of its own, so tests share these two. One gathers maps.
SMALL = HardwareConfig(tile=4, depth=4, lanes=4, maps=True)
DEFAULT = HardwareConfig()

# Some hundred times what any workload here takes; a hang fails in seconds.
TIMEOUT_CYCLES = 1_000_000

# The smallest network that keeps every unit busy. A head has six channels, one and a half tiles.
TINY = Shape(tokens=9, channels=12, heads=2, hidden=16, blocks=1, classes=(3,), patch=8)


@cache
def generated(config: HardwareConfig) -> Rtl:
    """The hardware of `config`."""
    return toplevel.generate(config)


@dataclass(frozen=True)
class Workload:
    """A program, input buffers, and the output buffers that the reference makes of them."""

    program: Program
    inputs: tuple[bytes, ...]
    outputs: tuple[bytes, ...]

    @classmethod
    def of(cls, program: Program, matrices: Sequence[Int8Array]) -> Workload:
        """`program` on patch matrices, int8 [tokens, channels] each."""
        inputs = tuple(pack_input(program, matrix) for matrix in matrices)
        reference = Reference(program)
        return cls(program, inputs, tuple(reference.run_buffer(buffer) for buffer in inputs))


def network(graph: QuantGraph, config: HardwareConfig, seed: int, count: int = 2) -> Workload:
    """`graph` on `count` random images whose results differ and do not saturate."""
    rng = np.random.default_rng(seed)
    source = next(node for node in graph if isinstance(node, PatchInput))
    program = schedule(graph, config)
    work = Workload.of(program, [patches(source, image) for image in images(rng, graph, count)])
    assert len(set(work.outputs)) == count, "images that give the same results show little"
    for buffer in work.outputs:
        for name, result in unpack_outputs(program, buffer).items():
            assert np.abs(result).max() < INT16_MAX, f"{name} saturates"
    return work


def transformer(shape: Shape, config: HardwareConfig, seed: int, count: int = 2) -> Workload:
    """A random Vision Transformer on random images."""
    graph = vision_transformer(np.random.default_rng(seed), shape)
    return network(graph, config, seed, count)


def check(work: Workload, timing: DramTiming | None = None) -> Simulation:
    """Runs `work` on the RTL; every byte of the output buffers must be the reference's."""
    rtl = generated(work.program.config)
    simulation = simulate(
        work.program, rtl, work.inputs, timing=timing, timeout_cycles=TIMEOUT_CYCLES
    )
    for index, (run, expected) in enumerate(zip(simulation.runs, work.outputs, strict=True)):
        assert run.output == expected, f"run {index}: {describe(work, run.output, expected)}"
    return simulation


def describe(work: Workload, got: bytes, expected: bytes) -> str:
    """Where two output buffers differ first."""
    wanted = unpack_outputs(work.program, expected)
    for name, result in unpack_outputs(work.program, got).items():
        wrong = np.argwhere(result != wanted[name])
        if len(wrong):
            token, channel = wrong[0]
            return (
                f"{name}[{token}, {channel}] is {result[token, channel]} instead of "
                f"{wanted[name][token, channel]}; {len(wrong)} of {result.size} differ"
            )
    return "padding differs"
