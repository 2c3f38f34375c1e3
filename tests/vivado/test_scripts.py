"""The scripts run in a Tcl interpreter, against a stand-in that knows Vivado's commands and IPs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from tcl_interpreter import TclError
from vitessera.codegen.boardfile import read_board
from vitessera.codegen.boards import BOARDS, ProcessorKind
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import ConfigError
from vitessera.codegen.toplevel import Rtl
from vitessera.codegen.vivado import VIVADO_VERSIONS, block_design, vivado_sources
from vitessera.codegen.vivado.design import dividers
from vitessera.host.interface import VLNV
from vivado_catalogue import RELEASES
from vivado_stand_in import Vivado, build, written


def test_build_ends_in_bitstream_handoff_and_reports(folder: Path, each_engine: str) -> None:
    build(each_engine, Vivado(folder))
    results = folder / "bitstream"
    assert (results / "vitessera.bit").read_text() == ".bit"
    assert (results / "vitessera.hwh").read_text() == ".hwh"
    names = {path.name for path in results.iterdir()}
    assert {"timing.txt", "utilization.txt", "utilization_hierarchy.txt"} < names


@pytest.mark.parametrize("release", [*RELEASES, "2023.1.1"])
def test_every_release(folder: Path, engine: str, release: str) -> None:
    build(engine, Vivado(folder, release))
    assert (folder / "bitstream" / "vitessera.bit").is_file()


def test_releases_are_those_that_the_catalogue_knows() -> None:
    assert VIVADO_VERSIONS == RELEASES


@pytest.mark.parametrize("release", ["2021.1", "2022.1", "2026.1"])
def test_other_releases_are_refused(folder: Path, engine: str, release: str) -> None:
    with pytest.raises(TclError, match=rf"This is Vivado {release}; .* 2022.2, .* 2025.2"):
        build(engine, Vivado(folder, release))


def test_the_design_that_vivado_gets_is_the_one_described(
    folder: Path, engine: str, board: str
) -> None:
    vivado = Vivado(folder)
    build(engine, vivado)
    design = block_design(BOARDS[board].config)
    assert list(vivado.cells) == [cell.name for cell in design.cells]
    described = {(s.offset, s.size, f"/{s.target}") for s in design.segments}
    assert {(a.offset, a.size, a.target) for a in vivado.assigned} == described
    interrupts = {wire for wire in vivado.wires if "irq" in str(wire) or "interrupt" in str(wire)}
    assert ("/accelerator_0/interrupt", "/axi_intc_0/intr") in interrupts
    assert len(interrupts) == 2


def test_the_clock_is_the_configured_one(folder: Path, engine: str, board: str) -> None:
    vivado = Vivado(folder)
    build(engine, vivado)
    values = vivado.cells["ps_0"].values
    name = {
        ProcessorKind.ZYNQ_7000: "PCW_FPGA0_PERIPHERAL_FREQMHZ",
        ProcessorKind.ZYNQ_ULTRASCALE: "PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ",
    }[BOARDS[board].processor]
    assert abs(float(values[name]) - BOARDS[board].config.clock_mhz) < 1
    # With this, Vivado would not look at the frequency.
    assert values.get("PSU__OVERRIDE__BASIC_CLOCK", "0") == "0"


DDR_MIB = {
    "pynq-z2": 512,
    "ultra96-v2": 2048,
    "kv260": 4096,
    "zcu104": 2048,
    "zcu102": 4096,
    "rfsoc4x2": 4096,
}


def test_the_accelerator_reaches_the_whole_ddr(folder: Path, engine: str, board: str) -> None:
    vivado = Vivado(folder)
    build(engine, vivado)
    reached = [a for a in vivado.assigned if a.space == "/accelerator_0/m_axi"]
    assert sum(entry.size for entry in reached) == DDR_MIB[board] << 20


def test_constraints_are_legal(folder: Path, engine: str) -> None:
    build(engine, Vivado(folder), "constraints.xdc")


# --- What goes wrong in Vivado


def test_missed_timing_leaves_no_bitstream(folder: Path, engine: str) -> None:
    with pytest.raises(TclError, match=r"Timing is missed by 0\.25 ns.*lower clock_mhz"):
        build(engine, Vivado(folder, slack=(0.1, -0.25)))
    assert not (folder / "bitstream" / "vitessera.bit").exists()


def test_paths_without_a_constraint_are_passed_over(folder: Path, engine: str) -> None:
    build(engine, Vivado(folder, slack=("", 0.1)))
    assert (folder / "bitstream" / "vitessera.bit").is_file()


@pytest.mark.parametrize("run", ["synth_1", "impl_1"])
def test_a_run_that_fails_is_named(folder: Path, engine: str, run: str) -> None:
    with pytest.raises(TclError, match=rf"{run} failed: ERROR.*{run}/runme.log"):
        build(engine, Vivado(folder, broken_run=run))
    assert not (folder / "bitstream").exists()


def test_missing_board_files_are_named(folder: Path, engine: str, board: str) -> None:
    vivado = Vivado(folder, board_parts=())
    if BOARDS[board].board_part is None:
        build(engine, vivado)
        return
    remedy = re.escape(BOARDS[board].board_files)
    with pytest.raises(TclError, match=rf"no board files for {board}\. {remedy}"):
        build(engine, vivado)


def test_missing_ip_is_named(folder: Path, engine: str) -> None:
    vivado = Vivado(folder)
    del vivado.versions["xilinx.com:ip:axi_intc"]
    with pytest.raises(TclError, match=r"IP xilinx\.com:ip:axi_intc is not in Vivado's catalogue"):
        build(engine, vivado)


def test_pulses_that_are_too_short_leave_no_bitstream(folder: Path, engine: str) -> None:
    with pytest.raises(TclError, match=r"pulses are too short, by 0\.4 ns.*lower clock_mhz"):
        build(engine, Vivado(folder, pulse_slack="-0.400"))
    assert not (folder / "bitstream" / "vitessera.bit").exists()


def test_a_run_without_statistics_of_pulses(folder: Path, engine: str) -> None:
    build(engine, Vivado(folder, pulse_slack=""))
    assert (folder / "bitstream" / "vitessera.bit").is_file()


# --- The clock that Vivado makes, and the board's


@pytest.fixture
def pynq_z2(rtl: dict[str, Rtl], tmp_path: Path) -> Path:
    """DIR/vivado/ of the Pynq-Z2, written."""
    return written(vivado_sources(rtl["pynq-z2"], BOARDS["pynq-z2"].config), tmp_path)


def test_without_peripherals_vivado_takes_another_pll(pynq_z2: Path, engine: str) -> None:
    """The fabric of a Pynq-Z2 would get 1000 MHz / 16 instead of 1600 MHz / 16."""
    script = pynq_z2 / "block_design.tcl"
    script.write_text(
        re.sub(r"  CONFIG\.PCW_(QSPI|ENET0|SD0|SDIO|USB0|UART0).*\n", "", script.read_text())
    )
    message = (
        r"Of pynq-z2's PLL, 1000 MHz, the fabric would get 62\.500 MHz where 100\.000 are meant, "
        r"with timing computed for 100\.000 MHz: Vivado divides by 16, .* name those of the boot "
        r"image under processor_properties in a board file\."
    )
    with pytest.raises(TclError, match=message):
        build(engine, Vivado(pynq_z2))


def test_timing_computed_for_a_slower_clock(pynq_z2: Path, engine: str) -> None:
    """The divisors are right, but Vivado's PLL is slower than the board's."""
    script = pynq_z2 / "block_design.tcl"
    text = script.read_text()
    right = "CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ {100}"
    assert right in text
    slow = f"{right.replace('100', '96')} CONFIG.PCW_CRYSTAL_PERIPHERAL_FREQMHZ {{48}}"
    script.write_text(re.sub(r"  CONFIG\.PCW_(QSPI|ENET0|SD0).*\n", "", text).replace(right, slow))
    script.write_text(script.read_text().replace("$division != 10", "$division != 15"))
    with pytest.raises(TclError, match=r"with timing computed for 96\.000 MHz"):
        build(engine, Vivado(pynq_z2))


# --- Board files of several publishers


@pytest.mark.parametrize(
    "held, taken",
    [
        (["avnet.com:ultra96v2:part0:1.2"], "avnet.com:ultra96v2:part0:1.2"),
        (["avnet-tria:ultra96v2:part0:1.3"], "avnet-tria:ultra96v2:part0:1.3"),
        (
            ["avnet-tria:ultra96v2:part0:1.3", "avnet.com:ultra96v2:part0:1.2"],
            "avnet-tria:ultra96v2:part0:1.3",
        ),
    ],
)
def test_the_newest_board_files_are_taken(
    rtl: dict[str, Rtl], tmp_path: Path, engine: str, held: list[str], taken: str
) -> None:
    folder = written(vivado_sources(rtl["ultra96-v2"], BOARDS["ultra96-v2"].config), tmp_path)
    vivado = Vivado(folder, board_parts=tuple(held))
    build(engine, vivado)
    assert vivado.board_part == taken


def test_the_accelerator_sees_nothing_but_ddr(folder: Path, engine: str, board: str) -> None:
    """What is neither assigned nor excluded is a critical warning."""
    vivado = Vivado(folder)
    build(engine, vivado)
    kept = {target for space, target in vivado.excluded if space == "/accelerator_0/m_axi"}
    assert not any("DDR" in target for target in kept)
    assert ("/ps_0/SAXIGP2/HP0_PCIE_LOW" in kept) == (board == "zcu102")
    assert ("/ps_0/SAXIGP2/HP0_QSPI" in kept) == (board != "pynq-z2")


def test_what_is_not_excluded_is_found(rtl: dict[str, Rtl], tmp_path: Path, engine: str) -> None:
    folder = written(vivado_sources(rtl["zcu102"], BOARDS["zcu102"].config), tmp_path)
    script = folder / "block_design.tcl"
    script.write_text(script.read_text().replace("exclude_bd_addr_seg", "list"))
    with pytest.raises(TclError, match="SAXIGP2/HP0_PCIE_LOW has no address"):
        build(engine, Vivado(folder))


# --- A slip in a script does not get past the stand-in

SLIPS = {
    "command": ("validate_bd_design", "validate_design", "invalid command name"),
    "option": ("-target_address_space", "-target_adress_space", "unknown option"),
    "ip": ("smartconnect]", "smart_connect]", "not in Vivado's catalogue"),
    "our ip": (VLNV, "vitessera:ip:accelerator:9.0", "not in the cat"),
    "property": ("CONFIG.NUM_MI", "CONFIG.NUM_M", "no property CONFIG.NUM_M"),
    "value": ("CONFIG.NUM_MI {2}", "CONFIG.NUM_MI {two}", "cannot have CONFIG.NUM_MI"),
    "too few ports": ("CONFIG.NUM_MI {2}", "CONFIG.NUM_MI {1}", "no interface M01_AXI"),
    "too many ports": ("CONFIG.NUM_MI {2}", "CONFIG.NUM_MI {3}", "M02_AXI is not connected"),
    "pin": ("accelerator_0/aclk", "accelerator_0/clk", "no pin clk"),
    "cell": ("reset_0/peripheral", "reset/peripheral", "no cell 'reset'"),
    "interface": ("axi_intc_0/s_axi]", "axi_intc_0/S_AXI]", "no interface S_AXI"),
    "direction": ("accelerator_0/interrupt", "axi_intc_0/s_axi_aclk", "0 drivers"),
    "kind of pin": ("reset_0/peripheral_aresetn", "reset_0/peripheral_reset", "cannot drive"),
    "kind of object": ("get_bd_intf_pins accel", "get_bd_cells accel", "is no intf_pin"),
    "segment": ("accelerator_0/s_axi/Reg", "accelerator_0/s_axi/Regs", "no segment"),
    "space": ("get_bd_addr_spaces ps_0/Data", "get_bd_addr_spaces ps_0/Code", "no address space"),
    "size": ("-range 0x00001000", "-range 0x00002000", "cannot lie at"),
    "alignment": ("0010000 -range", "0018000 -range", "cannot lie at"),
    "overlap": ("0010000 -range", "0000000 -range", "overlaps"),
    "ip for no block design": (
        " -filter {design_tool_contexts =~ *IPI*}",
        "",
        "smartconnect:9.0 is not in the catalogue",
    ),
    "ddr excluded": ("lappend ddr", "list", "is assigned in"),
    "crossed": ("memory_0/M00_AXI", "control_0/M00_AXI", "connected already"),
}


def assert_found(script: Path, engine: str, right: str, wrong: str, message: str) -> None:
    """The build stops with `message` when `wrong` stands in the script in place of `right`."""
    text = script.read_text(encoding="utf-8")
    assert right in text
    script.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(TclError, match=re.escape(message)):
        build(engine, Vivado(script.parent))


@pytest.mark.parametrize("slip", SLIPS)
def test_slips_are_found(folder: Path, engine: str, slip: str) -> None:
    assert_found(folder / "block_design.tcl", engine, *SLIPS[slip])


def statements(text: str) -> list[str]:
    """The connections and address assignments of a script; one may take several lines."""
    found = re.findall(r"^(?:connect|assign)(?:.*\\\n)*.*\n", text, re.M)
    return [str(statement) for statement in found]


def test_no_connection_may_be_missing(folder: Path, engine: str) -> None:
    script = folder / "block_design.tcl"
    text = script.read_text()
    assert len(statements(text)) >= 20
    for statement in statements(text):
        script.write_text(text.replace(statement, ""))
        vivado = Vivado(folder)
        with pytest.raises(TclError, match=r"connected|nothing|no address|nowhere|no way"):
            build(engine, vivado)
        (folder / "project").rmdir()


BUILD_SLIPS = {
    "command": ("launch_runs synth_1", "launch_run synth_1", "invalid command name"),
    "option": ("-to_step", "-to-step", "unknown option"),
    "repository": ("[file join $folder ip]", "[file join $folder ips]", "not in the catalogue"),
    "property": ("set_property ip_repo_paths", "set_property ip_repo_path", "no property"),
    "no wait": ("wait_on_run $run", "set run $run", "is still running"),
    "top": ("set_property top vitessera_wrapper", "set_property top vitessera", "not the top"),
    "run": ("open_run impl_1", "open_run impl_2", "is not done"),
    "bitstream": ("vitessera_wrapper.bit", "vitessera.bit", "no such file"),
    "handoff": ("hw_handoff", "handoff", "no such file"),
}


@pytest.mark.parametrize("slip", BUILD_SLIPS)
def test_slips_in_the_build_are_found(folder: Path, engine: str, slip: str) -> None:
    assert_found(folder / "build.tcl", engine, *BUILD_SLIPS[slip])


# --- Configurations


@pytest.mark.parametrize(
    "pll_mhz, clock_mhz, expected",
    [(1000, 100, (5, 2)), (1000, 200, (5, 1)), (1000, 142, (7, 1)), (1500, 300, (5, 1))],
)
def test_dividers(pll_mhz: int, clock_mhz: int, expected: tuple[int, int]) -> None:
    assert dividers(pll_mhz, clock_mhz) == expected


def test_a_clock_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"clock_mhz is 700.*PLL of 1000 MHz.*whole number"):
        block_design(HardwareConfig(board="pynq-z2", clock_mhz=700))


def test_a_board_without_block_design_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no block design for board 'custom'.*pynq-z2.*kv260"):
        block_design(HardwareConfig())


def test_without_a_board_there_is_the_ip_alone(rtl: dict[str, Rtl], tmp_path: Path) -> None:
    files = vivado_sources(rtl["pynq-z2"], HardwareConfig())
    assert {name.partition("/")[0] for name in files} == {"ip", "Makefile"}
    (tmp_path / "Makefile").write_text(files["Makefile"])
    outcome = subprocess.run(["make", "-C", tmp_path], capture_output=True, text=True, check=False)
    assert outcome.returncode == 2
    assert 'board = "NAME"' in outcome.stdout and ", ".join(BOARDS) in outcome.stdout


def test_make_says_so_when_there_is_no_vivado(folder: Path) -> None:
    outcome = subprocess.run(
        ["make", "-C", folder, "bitstream", "VIVADO=no-such-program"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert outcome.returncode == 2
    assert "Vivado is not on PATH" in outcome.stdout and "2022.2" in outcome.stdout


def test_make_runs_the_build_in_batch_mode(folder: Path) -> None:
    outcome = subprocess.run(
        ["make", "-C", folder, "--silent", "VIVADO=echo"],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "-mode batch -notrace -nojournal -log build.log -source build.tcl"
    assert outcome.stdout.strip() == expected


# --- Boards from files

FILES = {
    "ultrascale": (
        "zcu104",
        """\
part = "xczu7ev-ffvc1156-2-e"
processor = "zynq-ultrascale"
pll_mhz = 1500
ddr_mib = 2048
ddr_bytes_per_second = 17_064_000_000
board_part = "*:zcu104:*"
""",
    ),
    "zynq-7000": (
        "pynq-z2",
        """\
part = "xc7z020clg400-1"
processor = "zynq-7000"
pll_mhz = 1000
ddr_mib = 1024
ddr_bytes_per_second = 4_200_000_000
[processor_properties]
PCW_UIPARAM_DDR_PARTNO = "MT41K256M16 RE-125"
PCW_UIPARAM_DDR_BUS_WIDTH = "32 Bit"
PCW_QSPI_PERIPHERAL_ENABLE = "1"
PCW_ENET0_PERIPHERAL_ENABLE = "1"
""",
    ),
}
TABLES = """
[resources]
luts = 1
flip_flops = 1
bram36 = 1
uram = 0
dsp = 1
[config]
clock_mhz = 150
"""


@pytest.mark.parametrize("kind", FILES)
def test_a_board_from_a_file_builds(
    rtl: dict[str, Rtl], tmp_path: Path, engine: str, kind: str
) -> None:
    known, text = FILES[kind]
    (tmp_path / "my-board.toml").write_text(text + TABLES)
    board = read_board(tmp_path / "my-board.toml")
    vivado = Vivado(written(vivado_sources(rtl[known], board.config, board), tmp_path))
    build(engine, vivado)
    assert vivado.part == board.part
    reached = [a for a in vivado.assigned if a.space == "/accelerator_0/m_axi"]
    assert sum(entry.size for entry in reached) == board.ddr_bytes
    assert dict(board.properties).items() <= vivado.cells["ps_0"].values.items()
