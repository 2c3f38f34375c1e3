"""The .hwh, read as PYNQ reads it; by PYNQ itself where it is installed."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.registers import REGISTERS
from vitessera.codegen.vivado import ACCELERATOR, VLNV, block_design
from vitessera.codegen.vivado.design import CONTROL, CONTROLLER, MEMORY, PROCESSOR

ZYNQ_7000 = "pynq-z2"  # the others are UltraScale+
PLL_MHZ = {
    "pynq-z2": 1000,
    "ultra96-v2": 1500,
    "kv260": 1000,
    "zcu104": 1500,
    "zcu102": 1500,
    "rfsoc4x2": 1500,
}


def base(board: str) -> int:
    return 0x4000_0000 if board == ZYNQ_7000 else 0xA000_0000


def interrupt_pin(board: str) -> str:
    return "IRQ_F2P" if board == ZYNQ_7000 else "pl_ps_irq0"


def divisor(board: str, clock: int, index: int) -> str:
    zynq_7000, ultrascale = (
        "PCW_FCLK{}_PERIPHERAL_DIVISOR{}",
        "PSU__CRL_APB__PL{}_REF_CTRL__DIVISOR{}",
    )
    return (zynq_7000 if board == ZYNQ_7000 else ultrascale).format(clock, index)


@pytest.fixture(scope="session")
def modules(sources: dict[str, str]) -> dict[str, Element]:
    root = ElementTree.fromstring(sources["vitessera.hwh"])
    assert root.find("EXTERNALPORTS") is not None  # PYNQ walks it
    return {node.attrib["INSTANCE"]: node for node in root.iter("MODULE")}


def values(module: Element, kind: str, attribute: str) -> dict[str, str]:
    return {node.attrib["NAME"]: node.get(attribute, "") for node in module.iter(kind)}


def test_modules_are_the_cells(modules: dict[str, Element], board: str) -> None:
    design = block_design(BOARDS[board].config)
    assert {name: node.get("VLNV") for name, node in modules.items()} == {
        cell.name: cell.vlnv for cell in design.cells
    }
    assert all(node.get("FULLNAME") == f"/{name}" for name, node in modules.items())


def test_addresses(modules: dict[str, Element], board: str) -> None:
    ranges = {
        node.attrib["INSTANCE"]: (
            int(node.attrib["BASEVALUE"], 16),
            int(node.attrib["HIGHVALUE"], 16),
        )
        for node in modules[PROCESSOR].iter("MEMRANGE")
    }
    start = base(board)
    assert ranges == {
        ACCELERATOR: (start, start + 0xFFF),
        CONTROLLER: (start + 0x10000, start + 0x1FFFF),
    }


def test_the_processor_is_not_in_the_fabric(modules: dict[str, Element]) -> None:
    """By this alone PYNQ 3.0.1 finds it."""
    assert {name for name, node in modules.items() if node.get("IS_PL") == "FALSE"} == {PROCESSOR}
    assert {node.get("IS_PL") for node in modules.values()} == {"FALSE", "TRUE"}


def test_registers(modules: dict[str, Element]) -> None:
    found = {}
    for node in modules[ACCELERATOR].iter("REGISTER"):
        own = {entry.attrib["NAME"]: entry.attrib["VALUE"] for entry in node.findall("PROPERTY")}
        fields = {}
        for field in node.iter("FIELD"):
            bits = {e.attrib["NAME"]: e.attrib["VALUE"] for e in field.findall("PROPERTY")}
            fields[field.attrib["NAME"]] = int(bits["BIT_OFFSET"]), int(bits["BIT_WIDTH"])
        found[node.attrib["NAME"]] = int(own["ADDRESS_OFFSET"], 16), fields
    assert found == {
        entry.name: (entry.offset, {f.name: (f.low, f.width) for f in entry.fields})
        for entry in REGISTERS
    }


def test_the_interrupt_goes_through_the_controller(modules: dict[str, Element], board: str) -> None:
    signals = {name: values(node, "PORT", "SIGNAME") for name, node in modules.items()}
    assert signals[ACCELERATOR]["interrupt"] == signals[CONTROLLER]["intr"]
    assert signals[CONTROLLER]["irq"] == signals[PROCESSOR][interrupt_pin(board)]


def test_clocks(modules: dict[str, Element], board: str) -> None:
    parameters = values(modules[PROCESSOR], "PARAMETER", "VALUE")
    first, second = (int(parameters[divisor(board, 0, index)]) for index in (0, 1))
    made = PLL_MHZ[board] / (first * second)
    assert abs(made - BOARDS[board].config.clock_mhz) < 1
    for clock in (1, 2, 3):
        assert divisor(board, clock, 1) in parameters


SYSTEMS = {
    "pynq-z2": ("7z020", "clg400", "-1"),
    "ultra96-v2": ("xczu3eg", "sbva484", "-1"),
    "kv260": ("xck26", "sfvc784", "-2LV"),
    "zcu104": ("xczu7ev", "ffvc1156", "-2"),
    "zcu102": ("xczu9eg", "ffvb1156", "-2"),
    "rfsoc4x2": ("xczu48dr", "ffvg1517", "-2"),
}


def test_the_part_is_named_as_vivado_names_it(sources: dict[str, str], board: str) -> None:
    system = ElementTree.fromstring(sources["vitessera.hwh"]).find("SYSTEMINFO")
    assert system is not None
    assert tuple(system.attrib[n] for n in ("DEVICE", "PACKAGE", "SPEEDGRADE")) == SYSTEMS[board]


def test_modules_have_vivado_s_classes(modules: dict[str, Element]) -> None:
    found = {name: (node.get("IPTYPE"), node.get("MODCLASS")) for name, node in modules.items()}
    assert found[MEMORY] == found[CONTROL] == ("BUS", "BUS")
    assert found[CONTROLLER] == ("PERIPHERAL", "INTERRUPT_CNTLR")
    assert found[ACCELERATOR] == ("PERIPHERAL", "PERIPHERAL")


def test_divisors_are_spread_as_vivado_spreads_them(
    modules: dict[str, Element], board: str
) -> None:
    """A Zynq-7000 divides twice, 5 by 2; an UltraScale+ once, 8 by 1."""
    parameters = values(modules[PROCESSOR], "PARAMETER", "VALUE")
    pair = [int(parameters[divisor(board, 0, index)]) for index in (0, 1)]
    assert pair == ([5, 2] if board == ZYNQ_7000 else [PLL_MHZ[board] // 187, 1])


def test_fields_that_only_the_hardware_writes(modules: dict[str, Element]) -> None:
    fields = {
        field.attrib["NAME"]: {e.attrib["NAME"]: e.attrib["VALUE"] for e in field.iter("PROPERTY")}
        for node in modules[ACCELERATOR].iter("REGISTER")
        if node.get("NAME") == "CTRL"
        for field in node.iter("FIELD")
    }
    access = {name: (bits["ACCESS"], bits["READ_ACTION"]) for name, bits in fields.items()}
    assert access == {
        "START": ("read-write", ""),
        "DONE": ("read-only", "modify"),
        "IDLE": ("read-only", ""),
        "READY": ("read-only", "modify"),
    }


def test_signals_are_connected_at_both_ends(modules: dict[str, Element]) -> None:
    pins = {
        (name, port.attrib["NAME"]): port
        for name, node in modules.items()
        for port in node.iter("PORT")
    }
    for (name, pin), port in pins.items():
        for end in port.iter("CONNECTION"):
            other = pins[end.attrib["INSTANCE"], end.attrib["PORT"]]
            assert other.get("SIGNAME") == port.get("SIGNAME"), (name, pin)
            assert {other.get("DIR"), port.get("DIR")} == {"I", "O"}


@pytest.mark.pynq
def test_pynq_reads_it(sources: dict[str, str], board: str, tmp_path: Path) -> None:
    parsers = pytest.importorskip(
        "pynq.pl_server.hwh_parser", reason="pynq is not installed: pip install pynq"
    )
    path = tmp_path / "vitessera.hwh"
    path.write_text(sources["vitessera.hwh"])
    kind = parsers._HWHZynq if board == ZYNQ_7000 else parsers._HWHUltrascale
    parsed = kind(hwh_name=str(path))
    entry = parsed.ip_dict[ACCELERATOR]
    assert entry["type"] == VLNV
    assert (entry["phys_addr"], entry["addr_range"]) == (base(board), 4096)
    assert list(entry["registers"]) == [register.name for register in REGISTERS]
    assert entry["interrupts"]["interrupt"]["controller"] == CONTROLLER
    assert parsed.interrupt_controllers[CONTROLLER]["index"] == 0
    assert parsed.clock_dict[0]["enable"] == 1
