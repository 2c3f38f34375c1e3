from __future__ import annotations

from pathlib import Path

import pytest
from shell_bench import CONFIGS, DRAM_BYTES
from vitessera.codegen import registers, toplevel
from vitessera.sim import verilator
from vitessera.sim.dram import Dram, dram_sources

BENCH = Path(__file__).with_name("bench.sv")


@pytest.mark.accelerator
@pytest.mark.parametrize("name", CONFIGS)
def test_shell(name: str, tmp_path: Path) -> None:
    rtl = toplevel.generate(CONFIGS[name])
    dram = Dram(tmp_path / "dram", DRAM_BYTES)
    design = verilator.Design(
        top="bench",
        sources={**rtl.files, **dram_sources(), BENCH.name: BENCH.read_text()},
        options=(f"-GBUS_BITS={CONFIGS[name].bus_bits}", "-CFLAGS", "-O1"),
    )
    environment = {
        "DRAM_FILE": str(dram.path),
        "SHELL_CONFIG": name,
        "SHELL_HASH": str(rtl.design_hash),
    }
    verilator.run(design, "shell_bench", tmp_path, environment, plusargs=dram.plusargs)


def test_register_names_and_offsets_are_unique() -> None:
    entries = registers.REGISTERS
    assert len({entry.name for entry in entries}) == len(entries)
    assert len({entry.offset for entry in entries}) == len(entries)
