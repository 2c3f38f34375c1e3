"""GATHER on the RTL of the whole accelerator: hand-written programs, against the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gathers import Gathers, random_patches, steps
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.program import unpack_outputs
from vitessera.codegen.schedule.timing import estimate
from whole import DEFAULT, SMALL, Workload, check

pytestmark = pytest.mark.accelerator


@pytest.mark.parametrize("config", [replace(DEFAULT, maps=True), SMALL], ids=["default", "small"])
def test_gathers(config: HardwareConfig) -> None:
    case = Gathers(config, steps(config))
    patches = random_patches(case, 2)
    work = Workload.of(case.program, patches)
    assert work.outputs[0] != work.outputs[1]
    for run, matrix in zip(check(work).runs, patches, strict=True):
        # What the scheduler counts with.
        assert run.counters["CYCLES"] == pytest.approx(estimate(case.program).cycles, rel=0.1)
        found = unpack_outputs(case.program, run.output)
        for n, expected in enumerate(case.expected(matrix)):
            np.testing.assert_array_equal(found[f"step{n}"], expected)
