"""The accelerator as an IP of Vivado's catalogue: component.xml, IP-XACT 1685-2009.

Bus interfaces, registers and files are declared as Vivado's packager declares them, so that naming
the folder in ip_repo_paths is all that it takes. The register names reach PYNQ's register_map
through Vivado's .hwh.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from ..config import MAX_BURST, OUTSTANDING_BURSTS, HardwareConfig
from ..registers import REGISTERS, Access, BitField, Register
from ..toplevel import Rtl
from .design import REGISTER_BYTES, VLNV
from .markup import document, element

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
TOP = "accelerator"
# Of the addresses that m_axi sends, the ones that any Zynq has.
ADDRESS_SPACE_BYTES = 1 << 40
REVISION_BITS = 31

SYNTHESIS = "xilinx_anylanguagesynthesis"
SIMULATION = "xilinx_anylanguagebehavioralsimulation"
GUI = "xilinx_xpgui"
FILES = "{}_view_fileset"
GUI_FILE = "xgui/accelerator.tcl"

ElementTree.register_namespace("spirit", SPIRIT)
ElementTree.register_namespace("xilinx", XILINX)

# What a register's access is in IP-XACT: access, action of a read, action of a write.
ACCESS: dict[Access, tuple[str, str | None, str | None]] = {
    Access.READ: ("read-only", None, None),
    Access.WRITE: ("read-write", None, None),
    Access.CONTROL: ("read-write", "modify", None),
    Access.CLEARED: ("read-only", "modify", None),
    Access.TOGGLE: ("read-write", None, "oneToToggle"),
}


@dataclass(frozen=True)
class Port:
    """A port of the accelerator's top module.

    Attributes:
        name: in Verilog.
        direction: in or out.
        width: bits.
        vector: it has a range, if only [0:0].
    """

    name: str
    direction: str
    width: int
    vector: bool


def ports(verilog: str) -> tuple[Port, ...]:
    """The ports of a generated module."""
    header = verilog[: verilog.index(");")]
    found = re.findall(r"^\s+(in|out)put (?:wire|reg) (?:\[(\d+):0\] )?(\w+),?$", header, re.M)
    return tuple(
        Port(name, direction, int(high or 0) + 1, bool(high)) for direction, high, name in found
    )


def component(rtl: Rtl, config: HardwareConfig) -> str:
    """The text of component.xml; Verilog files lie in hdl/ beside it."""
    top = ports(rtl.files[f"{TOP}.v"])
    vendor, library, name, version = VLNV.split(":")
    root = _spirit(
        "component",
        [
            _spirit("vendor", vendor),
            _spirit("library", library),
            _spirit("name", name),
            _spirit("version", version),
            _spirit("busInterfaces", _bus_interfaces(top, config)),
            _spirit("addressSpaces", [_address_space(config)]),
            _spirit("memoryMaps", [_memory_map()]),
            _spirit(
                "model",
                [_spirit("views", _views()), _spirit("ports", [_port(port) for port in top])],
            ),
            _spirit("fileSets", _file_sets(rtl)),
            _spirit("description", "Vision Transformer accelerator made by vitessera"),
            _spirit("parameters", [_component_name(name)]),
            _spirit("vendorExtensions", [_extensions(rtl)]),
        ],
    )
    return document(root)


def _component_name(name: str) -> Element:
    """The parameter that every IP has: the name of its instance."""
    attributes = {"resolve": "user", "id": "PARAM_VALUE.Component_Name", "order": "1"}
    value = _spirit("value", f"{name}_v1", attributes)
    return _spirit("parameter", [_spirit("name", "Component_Name"), value])


def interface_gui() -> str:
    """The Tcl that Vivado wants with every IP: a dialogue with nothing to set but the name."""
    return (
        "proc init_gui { IPINST } {\n"
        '  ipgui::add_param $IPINST -name "Component_Name"\n'
        '  ipgui::add_page $IPINST -name "Page 0"\n'
        "}\n"
    )


def _spirit(
    name: str, content: str | list[Element] = "", attributes: dict[str, str] | None = None
) -> Element:
    qualified = {f"{{{SPIRIT}}}{key}": value for key, value in (attributes or {}).items()}
    return element(f"{{{SPIRIT}}}{name}", content, qualified)


def _number(name: str, value: int) -> Element:
    return _spirit(name, str(value), {"format": "long"})


def _parameter(name: str, value: str, identity: str) -> Element:
    return _spirit("parameter", [_spirit("name", name), _spirit("value", value, {"id": identity})])


def _bus_interfaces(top: tuple[Port, ...], config: HardwareConfig) -> list[Element]:
    both = "s_axi:m_axi"
    reference = {"memoryMapRef": "s_axi"}
    slave = _spirit("slave", [_spirit("memoryMapRef", attributes=reference)])
    space = {"addressSpaceRef": "m_axi"}
    master = _spirit("master", [_spirit("addressSpaceRef", attributes=space)])
    registers = {
        "PROTOCOL": "AXI4LITE",
        "DATA_WIDTH": "32",
        "ADDR_WIDTH": str(REGISTER_BYTES.bit_length() - 1),
        "READ_WRITE_MODE": "READ_WRITE",
    }
    memory = {
        "PROTOCOL": "AXI4",
        "DATA_WIDTH": str(config.bus_bits),
        "ADDR_WIDTH": "64",
        "ID_WIDTH": "1",
        "READ_WRITE_MODE": "READ_WRITE",
        "MAX_BURST_LENGTH": str(MAX_BURST),
        "SUPPORTS_NARROW_BURST": "0",
        # Interconnects take two each for granted where nothing is said, and hold the rest back.
        "NUM_READ_OUTSTANDING": str(OUTSTANDING_BURSTS),
        "NUM_WRITE_OUTSTANDING": str(OUTSTANDING_BURSTS),
    }
    return [
        _interface("s_axi", "interface:aximm", slave, _logical(top, "s_axi"), registers),
        _interface("m_axi", "interface:aximm", master, _logical(top, "m_axi"), memory),
        _interface(
            "aclk",
            "signal:clock",
            _spirit("slave"),
            {"CLK": "aclk"},
            {"ASSOCIATED_BUSIF": both, "ASSOCIATED_RESET": "aresetn"},
        ),
        _interface(
            "aresetn",
            "signal:reset",
            _spirit("slave"),
            {"RST": "aresetn"},
            {"POLARITY": "ACTIVE_LOW"},
        ),
        _interface(
            "interrupt",
            "signal:interrupt",
            _spirit("master"),
            {"INTERRUPT": "interrupt"},
            {"SENSITIVITY": "LEVEL_HIGH"},
        ),
    ]


def _logical(top: tuple[Port, ...], bus: str) -> dict[str, str]:
    """Name of the signal in the bus's definition → port."""
    return {
        port.name.removeprefix(f"{bus}_").upper(): port.name
        for port in top
        if port.name.startswith(f"{bus}_")
    }


def _interface(
    name: str, kind: str, role: Element, signals: dict[str, str], parameters: dict[str, str]
) -> Element:
    library, kind_name = kind.split(":")
    definition = {"vendor": "xilinx.com", "library": library, "version": "1.0"}
    maps = [
        _spirit(
            "portMap",
            [
                _spirit("logicalPort", [_spirit("name", logical)]),
                _spirit("physicalPort", [_spirit("name", physical)]),
            ],
        )
        for logical, physical in signals.items()
    ]
    values = [
        _parameter(key, value, f"BUSIFPARAM_VALUE.{name.upper()}.{key}")
        for key, value in parameters.items()
    ]
    return _spirit(
        "busInterface",
        [
            _spirit("name", name),
            _spirit("busType", attributes=definition | {"name": kind_name}),
            _spirit("abstractionType", attributes=definition | {"name": f"{kind_name}_rtl"}),
            role,
            _spirit("portMaps", maps),
            _spirit("parameters", values),
        ],
    )


def _address_space(config: HardwareConfig) -> Element:
    return _spirit(
        "addressSpace",
        [
            _spirit("name", "m_axi"),
            _number("range", ADDRESS_SPACE_BYTES),
            _number("width", config.bus_bits),
        ],
    )


def _memory_map() -> Element:
    block = [
        _spirit("name", "Reg"),
        _number("baseAddress", 0),
        _number("range", REGISTER_BYTES),
        _number("width", 32),
        _spirit("usage", "register"),
        _spirit("access", "read-write"),
        *map(_register, REGISTERS),
    ]
    return _spirit("memoryMap", [_spirit("name", "s_axi"), _spirit("addressBlock", block)])


def _register(register: Register) -> Element:
    access, _, _ = ACCESS[register.access]
    return _spirit(
        "register",
        [
            _spirit("name", register.name),
            _spirit("displayName", register.name),
            _spirit("description", register.doc),
            _spirit("addressOffset", f"0x{register.offset:X}"),
            _number("size", 32),
            _spirit("access", access),
            *(_field(register, field) for field in register.fields),
        ],
    )


def _field(register: Register, field: BitField) -> Element:
    access, read, write = ACCESS[field.access or register.access]
    content = [
        _spirit("name", field.name),
        _spirit("description", field.doc),
        _spirit("bitOffset", str(field.low)),
        _number("bitWidth", field.width),
        _spirit("access", access),
    ]
    if write:
        content.append(_spirit("modifiedWriteValue", write))
    if read:
        content.append(_spirit("readAction", read))
    return _spirit("field", content)


def _views() -> list[Element]:
    code = [("language", "verilog"), ("modelName", TOP)]
    return [
        _view(SYNTHESIS, "Synthesis", ":vivado.xilinx.com:synthesis", code),
        _view(SIMULATION, "Simulation", ":vivado.xilinx.com:simulation", code),
        _view(GUI, "UI Layout", ":vivado.xilinx.com:xgui.ui", []),
    ]


def _view(name: str, display: str, environment: str, code: list[tuple[str, str]]) -> Element:
    return _spirit(
        "view",
        [
            _spirit("name", name),
            _spirit("displayName", display),
            _spirit("envIdentifier", environment),
            *(_spirit(key, value) for key, value in code),
            _spirit("fileSetRef", [_spirit("localName", FILES.format(name))]),
        ],
    )


def _port(port: Port) -> Element:
    wire = [_spirit("direction", port.direction)]
    if port.vector:
        wire.append(_spirit("vector", [_number("left", port.width - 1), _number("right", 0)]))
    definition = [
        _spirit("typeName", "wire"),
        _spirit("viewNameRef", SYNTHESIS),
        _spirit("viewNameRef", SIMULATION),
    ]
    wire.append(_spirit("wireTypeDefs", [_spirit("wireTypeDef", definition)]))
    return _spirit("port", [_spirit("name", port.name), _spirit("wire", wire)])


def _file_sets(rtl: Rtl) -> list[Element]:
    # The top module comes last, as Vivado's packager has it.
    names = sorted(rtl.files, key=lambda name: (name == f"{TOP}.v", name))
    verilog = [_file(f"hdl/{name}", [_spirit("fileType", "verilogSource")]) for name in names]
    gui = [_spirit("fileType", "tclSource"), _spirit("userFileType", "XGUI_VERSION_2")]
    return [
        _file_set(SYNTHESIS, verilog),
        _file_set(SIMULATION, verilog),
        _file_set(GUI, [_file(GUI_FILE, gui)]),
    ]


def _file_set(view: str, files: list[Element]) -> Element:
    return _spirit("fileSet", [_spirit("name", FILES.format(view)), *files])


def _file(name: str, kinds: list[Element]) -> Element:
    return _spirit("file", [_spirit("name", name), *kinds])


def _extensions(rtl: Rtl) -> Element:
    def xilinx(
        name: str, content: str | list[Element], attributes: dict[str, str] | None = None
    ) -> Element:
        qualified = {f"{{{XILINX}}}{key}": value for key, value in (attributes or {}).items()}
        return element(f"{{{XILINX}}}{name}", content, qualified)

    families = [
        xilinx("family", family, {"lifeCycle": "Production"})
        for family in ("zynq", "zynquplus", "zynquplusRFSOC")
    ]
    core = [
        xilinx("supportedFamilies", families),
        xilinx("taxonomies", [xilinx("taxonomy", "/UserIP")]),
        xilinx("displayName", "Vision Transformer accelerator"),
        xilinx("definitionSource", "package_project"),
        # Vivado asks for an upgrade of the cell when the revision, thus the design, is another.
        xilinx("coreRevision", str(rtl.design_hash % (1 << REVISION_BITS))),
    ]
    return xilinx("coreExtensions", core)
