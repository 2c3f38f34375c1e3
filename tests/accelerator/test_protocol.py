"""The bare accelerator on a library's AXI models that pause at random, under a bus monitor."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from vitessera.codegen.schedule.product import product_patches, product_program
from vitessera.sim import verilator
from whole import SMALL, TINY, Workload, generated, transformer

pytestmark = pytest.mark.accelerator

SEEDS = (1, 2, 3, 4)
PRODUCT = (21, 20, 26)


def test_results_and_bus_rules_hold_with_random_pauses(tmp_path: Path) -> None:
    program = product_program(SMALL, *PRODUCT)
    matrices = [product_patches(*PRODUCT[:2], seed=seed) for seed in (0, 1)]
    workloads = {
        "product": Workload.of(program, matrices),
        "transformer": transformer(TINY, SMALL, seed=2),
    }
    path = tmp_path / "workloads.pickle"
    path.write_bytes(pickle.dumps(workloads))
    design = verilator.Design(
        top="accelerator", sources=generated(SMALL).files, options=("-CFLAGS", "-O1")
    )
    verilator.run(
        design,
        "protocol_bench",
        tmp_path,
        {"PROTOCOL_WORKLOADS": str(path), "PROTOCOL_SEEDS": ",".join(map(str, SEEDS))},
    )
