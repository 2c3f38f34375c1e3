"""Products on the RTL, against numpy alone; and how busy they keep the engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from vitessera.codegen.program import unpack_outputs
from vitessera.codegen.quantgraph import Product
from vitessera.codegen.schedule.product import product_graph, product_patches, product_program
from vitessera.sim.accelerator import Run
from whole import DEFAULT, Workload, check

pytestmark = pytest.mark.accelerator

SEED = 3
Size = tuple[int, int, int]


def expected(size: Size) -> npt.NDArray[np.int64]:
    """The product in plain numpy: multiply, add, scale, round half up, clip."""
    rows, depth, columns = size
    product = product_graph(rows, depth, columns, SEED)["result"]
    assert isinstance(product, Product)
    left, right = product_patches(rows, depth, SEED).astype(int), product.weight.astype(int)
    step = product.requantization
    scaled = (left @ right.T + step.bias) * step.multiplier.astype(int)
    halves = 1 << step.shift.astype(int) - 1
    return np.clip(scaled + halves >> step.shift, -32767, 32767)


def run_product(size: Size, resident: bool = True) -> Run:
    """The product on the RTL of the default accelerator, results checked."""
    program = product_program(DEFAULT, *size, seed=SEED, resident=resident)
    (run,) = check(Workload.of(program, [product_patches(*size[:2], seed=SEED)])).runs
    result = unpack_outputs(program, run.output)["result"]
    np.testing.assert_array_equal(result, expected(size))
    assert len(np.unique(result)) > result.size // 20, "a product of little variety shows little"
    return run


def utilisation(size: Size, run: Run) -> float:
    """Share of the engine's MACs that are needed, from its first cycle to its last."""
    ideal_cycles = np.prod(size) / DEFAULT.macs
    return float(ideal_cycles / (run.counters["COMPUTE_LAST"] - run.counters["COMPUTE_FIRST"] + 1))


def test_square_product_keeps_the_engine_busy() -> None:
    size = (64, 64, 64)
    run = run_product(size)
    print(f"{run.counters}, utilisation {utilisation(size, run):.4f}")
    assert run.counters["COMPUTE_WORDS"] * DEFAULT.macs == np.prod(size)
    assert utilisation(size, run) >= 0.90


def test_mlp_product_of_deit_tiny_keeps_the_engine_busy() -> None:
    size = (197, 192, 768)
    run = run_product(size)
    print(f"{run.counters}, utilisation {utilisation(size, run):.4f}")
    assert utilisation(size, run) >= 0.95


@pytest.mark.parametrize(
    ("size", "resident"),
    [((100, 96, 72), True), ((100, 96, 72), False), ((61, 50, 83), True), ((1, 3, 1), True)],
    ids=str,
)
def test_products_of_odd_sizes(size: Size, resident: bool) -> None:
    run = run_product(size, resident)
    print(f"{run.counters['CYCLES']} cycles, utilisation {utilisation(size, run):.4f}")
