"""The whole way in one test; read it first.

A network in integers becomes a program. The program runs twice: on the reference, which is the
definition of right, and on the RTL, which is driven through its registers and a simulated DRAM as
by a host. Both must give the same bits.
"""

from __future__ import annotations

import numpy as np
import pytest
from builders import Shape, images, vision_transformer
from vitessera.codegen import toplevel
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import pack_input, unpack_outputs
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import schedule
from vitessera.sim.accelerator import simulate

pytestmark = pytest.mark.accelerator


def test_rtl_gives_the_reference_bits() -> None:
    config = HardwareConfig(tile=4, depth=4, lanes=4)
    shape = Shape(tokens=5, channels=8, heads=2, hidden=12, blocks=1, classes=(3,), patch=8)
    rng = np.random.default_rng(0)
    graph = vision_transformer(rng, shape)
    (image,) = images(rng, graph, 1)

    program = schedule(graph, config)
    rows = patches(graph.nodes[0], image)
    expected = Reference(program).run(rows)

    rtl = toplevel.generate(config)
    simulation = simulate(program, rtl, [pack_input(program, rows)], timeout_cycles=100_000)
    (run,) = simulation.runs
    outputs = unpack_outputs(program, run.output)

    assert outputs.keys() == expected.keys() == {"output head0"}
    np.testing.assert_array_equal(outputs["output head0"], expected["output head0"])
    print(f"{run.counters['CYCLES']} cycles, {len(program.instructions)} instructions")
