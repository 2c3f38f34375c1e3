"""Benchmark programs of one product."""

from __future__ import annotations

import numpy as np
import pytest
from builders import config
from vitessera.codegen import isa
from vitessera.codegen.errors import CapacityError
from vitessera.codegen.quantexec import execute
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule.product import product_graph, product_patches, product_program


@pytest.mark.parametrize("size", [(4, 4, 4), (8, 4, 8), (16, 4, 16)])
@pytest.mark.parametrize("shape", [(64, 64, 64), (197, 192, 768), (5, 7, 3)])
@pytest.mark.parametrize("resident", [True, False])
def test_product(size: tuple[int, int, int], shape: tuple[int, int, int], resident: bool) -> None:
    hardware = config(*size, residual_words=40000)
    program = product_program(hardware, *shape, seed=1, resident=resident)
    patches = product_patches(*shape[:2], seed=1)
    result = Reference(program).run(patches)["result"]
    image = patches.T.astype(np.float32)[None, :, :, None]
    expected = execute(product_graph(*shape, seed=1), image)["result"][0]
    np.testing.assert_array_equal(result, expected)
    assert 4 < np.abs(result).mean() < 16384
    assert np.abs(result).max() < 32767


def test_resident_product_is_one_compute_after_all_loads() -> None:
    program = product_program(config(), 64, 64, 64)
    kinds = [type(instruction) for instruction in program.instructions]
    assert kinds == [isa.Load] * 3 + [isa.Compute, isa.Epilogue, isa.Store, isa.End]
    assert program.instructions[2].signal >> isa.Unit.COMPUTE & 1
    assert program.instructions[3].wait == 1 << isa.Source.LOAD


def test_product_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CapacityError, match="right memory"):
        product_program(config(right_words=100), 64, 64, 64)
    product_program(config(right_words=100), 64, 64, 64, resident=False)
