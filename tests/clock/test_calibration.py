"""The timing model on public cores whose clocks were published with Vivado.

Published: picorv32's README (`picorv32_axi` as in its scripts/vivado/tabtest.v, placed and routed
by a search for the shortest period), VexRiscv's README ("full no MMU" on the fastest Artix 7).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from vitessera.codegen.boards import ProcessorKind
from vitessera.codegen.clock.analysis import analyse
from vitessera.codegen.clock.delays import CALIBRATIONS, Delays, delays_of
from vitessera.codegen.clock.netlist import from_yosys
from vitessera.codegen.synthesis import run_yosys

WITHIN = 0.15  # of the ratio that docs/clock.md gives

# Kintex fabric is faster than Artix': MicroBlaze's published clocks, 398 and 265 MHz.
KINTEX_TO_ARTIX = 1.5


@dataclass(frozen=True)
class Core:
    """A core of a pip package.

    Attributes:
        package, file, top: its Verilog.
        parameters: of the top module.
    """

    package: str
    file: str
    top: str
    parameters: str = ""


PICORV32 = Core("pythondata_cpu_picorv32", "picorv32.v", "picorv32_axi", "-set TWO_CYCLE_COMPARE 1")
VEXRISCV = Core("pythondata_cpu_vexriscv", "VexRiscv_Full.v", "VexRiscv")

ZYNQ, ULTRASCALE = ProcessorKind.ZYNQ_7000, ProcessorKind.ZYNQ_ULTRASCALE


def published(core: Core, family: ProcessorKind) -> float:
    """The published period in ns, of the family's speed grade -1 as Zynq has it."""
    artix_3, kintex_2 = delays_of(ZYNQ, "x-3"), delays_of(ZYNQ, "x-2")
    if family is ULTRASCALE:
        return 1.4 / _faster(delays_of(family, "x-2"), family)  # picorv32, xcku3p-ffva676-2-e
    if core is PICORV32:
        return 2.4 / _faster(kintex_2, family) * KINTEX_TO_ARTIX  # xc7k70t-fbg676-2
    return 1000 / 199 / _faster(artix_3, family)


def _faster(delays: Delays, family: ProcessorKind) -> float:
    return delays.lut / delays_of(family, "x-1").lut


def source(core: Core) -> Path:
    """The core's Verilog."""
    if importlib.util.find_spec(core.package) is None:
        pytest.skip(f"{core.package} is not installed: pip install 'vitessera[calibration]'")
    folder = Path(importlib.import_module(core.package).data_location)
    return next(folder.rglob(core.file))


@pytest.mark.synth
@pytest.mark.parametrize(
    ("core", "family", "yosys"),
    [(PICORV32, ZYNQ, "xc7"), (VEXRISCV, ZYNQ, "xc7"), (PICORV32, ULTRASCALE, "xcup")],
    ids=["picorv32-7-series", "vexriscv-7-series", "picorv32-ultrascale"],
)
def test_public_cores_land_where_the_docs_say(
    core: Core, family: ProcessorKind, yosys: str, tmp_path: Path
) -> None:
    (tmp_path / "core.v").write_text(source(core).read_text(encoding="utf-8"), encoding="utf-8")
    for memory in source(core).parent.glob("*.bin"):
        (tmp_path / memory.name).write_bytes(memory.read_bytes())
    script = (
        "read_verilog -sv core.v",
        *((f"chparam {core.parameters} {core.top}",) if core.parameters else ()),
        f"synth_xilinx -family {yosys} -flatten -noiopad -noclkbuf -top {core.top}",
        f"select {core.top}",
        "write_json -selected flat.json",
    )
    (tmp_path / "script.ys").write_text("\n".join(script), encoding="utf-8")
    outcome = run_yosys("-q", "script.ys", folder=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    modules = json.loads((tmp_path / "flat.json").read_text(encoding="utf-8"))["modules"]
    module = next(each for name, each in modules.items() if core.top in name)
    period = analyse(from_yosys(module), delays_of(family, "x-1")).longest.period
    ratio = period / published(core, family)
    assert ratio == pytest.approx(CALIBRATIONS[family].alone, rel=WITHIN), f"{period:.2f} ns"
