"""The block design as the .hwh ("hardware hand-off") that Vivado writes and PYNQ reads.

Where there is no Vivado, the simulated device takes it for the real one: addresses, registers,
interrupts and clocks are the same. It holds what PYNQ asks for, not all that Vivado says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree.ElementTree import Element

from ..boards import ProcessorKind
from ..registers import REGISTERS, BitField, Register
from ..toplevel import Rtl
from .component import ACCESS, TOP, ports
from .design import (
    ACCELERATOR,
    OVERLAY,
    PROCESSOR,
    REGISTER_BYTES,
    VIVADO_VERSIONS,
    VLNV,
    BlockDesign,
    Bus,
    Cell,
    Net,
    Segment,
)
from .markup import document, element

# Vivado leaves "xc" away from the names of 7-series devices, and the temperature grade everywhere.
PART = re.compile(
    r"(xc(?=7))?(?P<device>[a-z0-9]+?)-?(?P<package>[a-z]{3,4}\d+)(?P<speed>-[0-9A-Z]+)(-[a-z])?$"
)
AXI = "xilinx.com:interface:aximm:1.0"
# IPTYPE and MODCLASS of modules, by the IP; of others both are PERIPHERAL.
CLASSES = {
    "smartconnect": ("BUS", "BUS"),
    "axi_intc": ("PERIPHERAL", "INTERRUPT_CNTLR"),
}
ARCHITECTURES = {
    ProcessorKind.ZYNQ_7000: "zynq",
    ProcessorKind.ZYNQ_ULTRASCALE: "zynquplus",
}


def handoff(design: BlockDesign, rtl: Rtl) -> str:
    """The text of the .hwh."""
    root = element(
        "EDKSYSTEM",
        [
            _system(design),
            element("EXTERNALPORTS"),
            element("EXTERNALINTERFACES"),
            element("MODULES", [_module(design, cell, rtl) for cell in design.cells]),
        ],
        {
            "EDWVERSION": "1.2",
            "TIMESTAMP": "made by vitessera, without Vivado",
            "VIVADOVERSION": VIVADO_VERSIONS[-1],
        },
    )
    return document(root)


def _system(design: BlockDesign) -> Element:
    architecture = ARCHITECTURES[design.board.processor]
    found = PART.match(design.board.part)
    known = {"device": design.board.part, "package": "", "speed": ""}
    if found:
        known = found.groupdict()
    return element(
        "SYSTEMINFO",
        (),
        {
            "ARCH": architecture,
            "DEVICE": known["device"],
            "NAME": OVERLAY,
            "PACKAGE": known["package"],
            "SPEEDGRADE": known["speed"],
        },
    )


def _module(design: BlockDesign, cell: Cell, rtl: Rtl) -> Element:
    kind, version = cell.vlnv.split(":")[2:]
    iptype, module_class = CLASSES.get(kind, ("PERIPHERAL", "PERIPHERAL"))
    content = [
        element("ADDRESSBLOCKS", [_address_block()] if cell.vlnv == VLNV else []),
        element(
            "PARAMETERS",
            [
                element("PARAMETER", (), {"NAME": name, "VALUE": value})
                for name, value in (*cell.properties, *cell.parameters, *_bases(design, cell))
            ],
        ),
        element("PORTS", list(_ports(design, cell, rtl))),
        element("BUSINTERFACES", list(_bus_interfaces(design, cell, rtl))),
    ]
    reached = [segment for segment in design.segments if _cell(segment.space) == cell.name]
    if reached:
        content += [
            element("MEMORYMAP", [_range(segment) for segment in reached]),
            element(
                "PERIPHERALS",
                [
                    element("PERIPHERAL", (), {"INSTANCE": name})
                    for name in dict.fromkeys(_cell(segment.target) for segment in reached)
                ],
            ),
        ]
    return element(
        "MODULE",
        content,
        {
            "FULLNAME": f"/{cell.name}",
            "HWVERSION": version,
            "INSTANCE": cell.name,
            "IPTYPE": iptype,
            "IS_ENABLE": "1",
            # PYNQ 3.0.1 finds the processor by this alone.
            "IS_PL": "FALSE" if cell.name == PROCESSOR else "TRUE",
            "MODCLASS": module_class,
            "MODTYPE": kind,
            "VLNV": cell.vlnv,
        },
    )


def _cell(path: str) -> str:
    return path.partition("/")[0]


def _last(path: str) -> str:
    return path.partition("/")[2]


def _bases(design: BlockDesign, cell: Cell) -> Iterator[tuple[str, str]]:
    for segment in design.segments:
        if _cell(segment.target) == cell.name and not segment.memory:
            yield "C_BASEADDR", f"0x{segment.offset:08X}"
            yield "C_HIGHADDR", f"0x{segment.offset + segment.size - 1:08X}"


def _range(segment: Segment) -> Element:
    return element(
        "MEMRANGE",
        (),
        {
            "ADDRESSBLOCK": segment.target.rpartition("/")[2],
            "BASENAME": "C_BASEADDR",
            "BASEVALUE": f"0x{segment.offset:08X}",
            "HIGHNAME": "C_HIGHADDR",
            "HIGHVALUE": f"0x{segment.offset + segment.size - 1:08X}",
            "INSTANCE": _cell(segment.target),
            "IS_DATA": "TRUE",
            "IS_INSTRUCTION": "TRUE",
            "MASTERBUSINTERFACE": segment.master,
            "MEMTYPE": "MEMORY" if segment.memory else "REGISTER",
            "SLAVEBUSINTERFACE": segment.slave,
        },
    )


# --- Pins


def _ports(design: BlockDesign, cell: Cell, rtl: Rtl) -> Iterator[Element]:
    for net in design.nets:
        ends = (net.source, *net.sinks)
        for end in ends:
            if _cell(end) == cell.name:
                yield _pin(design, net, end)
    if cell.name == ACCELERATOR:
        for port in ports(rtl.files[f"{TOP}.v"]):
            if port.name.startswith(("s_axi_", "m_axi_")):
                bounds = {"LEFT": str(port.width - 1), "RIGHT": "0"} if port.vector else {}
                signal = f"{ACCELERATOR}_{port.name}"
                yield element(
                    "PORT",
                    (),
                    {"DIR": port.direction[0].upper(), "NAME": port.name, "SIGIS": "undef"}
                    | {"SIGNAME": signal}
                    | bounds,
                )


def _pin(design: BlockDesign, net: Net, end: str) -> Element:
    attributes = {
        "DIR": "O" if end == net.source else "I",
        "NAME": _last(end),
        "SIGIS": net.kind,
        "SIGNAME": net.source.replace("/", "_"),
    }
    if net.kind == "clk":
        attributes["CLKFREQUENCY"] = str(design.clock.hz)
    if net.kind == "INTERRUPT":
        attributes["SENSITIVITY"] = "LEVEL_HIGH"
    others = net.sinks if end == net.source else (net.source,)
    connections = [
        element("CONNECTION", (), {"INSTANCE": _cell(other), "PORT": _last(other)})
        for other in others
    ]
    return element("PORT", [element("CONNECTIONS", connections)], attributes)


def _bus_interfaces(design: BlockDesign, cell: Cell, rtl: Rtl) -> Iterator[Element]:
    for bus in design.buses:
        for end in (bus.master, bus.slave):
            if _cell(end) == cell.name:
                yield _bus_interface(design, bus, end, rtl)


def _bus_interface(design: BlockDesign, bus: Bus, end: str, rtl: Rtl) -> Element:
    name = _last(end)
    content = [element("PARAMETER", (), {"NAME": "FREQ_HZ", "VALUE": str(design.clock.hz)})]
    maps = [
        element(
            "PORTMAP",
            (),
            {"LOGICAL": port.name.removeprefix(f"{name}_").upper(), "PHYSICAL": port.name},
        )
        for port in ports(rtl.files[f"{TOP}.v"])
        if _cell(end) == ACCELERATOR and port.name.startswith(f"{name}_")
    ]
    content.append(element("PORTMAPS", maps))
    return element(
        "BUSINTERFACE",
        content,
        {
            "BUSNAME": bus.master.replace("/", "_"),
            "NAME": name,
            "TYPE": "MASTER" if end == bus.master else "SLAVE",
            "VLNV": AXI,
        },
    )


# --- Registers


def _address_block() -> Element:
    return element(
        "ADDRESSBLOCK",
        [element("REGISTERS", [_register(register) for register in REGISTERS])],
        {
            "ACCESS": "read-write",
            "INTERFACE": "s_axi",
            "NAME": "Reg",
            "RANGE": str(REGISTER_BYTES),
            "USAGE": "register",
        },
    )


def _register(register: Register) -> Element:
    access, _, _ = ACCESS[register.access]
    properties = {
        "DESCRIPTION": register.doc,
        "ADDRESS_OFFSET": f"0x{register.offset:X}",
        "SIZE": "32",
        "ACCESS": access,
        "IS_ENABLED": "true",
        "RESET_VALUE": "0",
    }
    fields = element("FIELDS", [_field(register, field) for field in register.fields])
    return element("REGISTER", [*_properties(properties), fields], {"NAME": register.name})


def _field(register: Register, field: BitField) -> Element:
    access, read, write = ACCESS[field.access or register.access]
    properties = {
        "DESCRIPTION": field.doc,
        "ADDRESS_OFFSET": str(field.low),
        "ACCESS": access,
        "MODIFIED_WRITE_VALUES": write or "",
        "WRITE_CONSTRAINT": "0",
        "READ_ACTION": read or "",
        "BIT_OFFSET": str(field.low),
        "BIT_WIDTH": str(field.width),
    }
    return element("FIELD", list(_properties(properties)), {"NAME": field.name})


def _properties(values: dict[str, str]) -> Iterator[Element]:
    for name, value in values.items():
        yield element("PROPERTY", (), {"NAME": name, "VALUE": value})
