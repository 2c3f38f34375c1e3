"""component.xml: the rules of IP-XACT 1685-2009 that Vivado enforces when it reads an IP.

ORDER is the schema's sequence of child elements, for the elements that we write.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.registers import REGISTERS, Access
from vitessera.codegen.toplevel import Rtl
from vitessera.codegen.vivado import VLNV

SPIRIT = "{http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009}"
XILINX = "{http://www.xilinx.com}"

# Element → its children in order: required ones plain, optional with ?, repeated with +.
ORDER: dict[str, str] = {
    "component": "vendor library name version busInterfaces? addressSpaces? memoryMaps? model? "
    "choices? fileSets? description? parameters? vendorExtensions?",
    "busInterfaces": "busInterface+",
    "busInterface": "name displayName? description? busType abstractionType? master? slave? "
    "connectionRequired? portMaps? parameters?",
    "master": "addressSpaceRef?",
    "slave": "memoryMapRef?",
    "portMaps": "portMap+",
    "portMap": "logicalPort physicalPort",
    "logicalPort": "name vector?",
    "physicalPort": "name vector?",
    "parameters": "parameter+",
    "parameter": "name displayName? description? value",
    "addressSpaces": "addressSpace+",
    "addressSpace": "name displayName? description? range width",
    "memoryMaps": "memoryMap+",
    "memoryMap": "name displayName? description? addressBlock+",
    "addressBlock": "name displayName? description? baseAddress range width usage? volatile? "
    "access? parameters? register+",
    "register": "name displayName? description? addressOffset size volatile? access? reset? "
    "field+?",
    "field": "name displayName? description? bitOffset bitWidth volatile? access? "
    "modifiedWriteValue? writeValueConstraint? readAction? testable?",
    "model": "views? ports? modelParameters?",
    "views": "view+",
    "view": "name displayName? description? envIdentifier language? modelName? fileSetRef? "
    "parameters?",
    "fileSetRef": "localName",
    "ports": "port+",
    "port": "name displayName? description? wire",
    "wire": "direction vector? wireTypeDefs? driver?",
    "vector": "left right",
    "wireTypeDefs": "wireTypeDef+",
    "wireTypeDef": "typeName viewNameRef+",
    "fileSets": "fileSet+",
    "fileSet": "name file+",
    "file": "name fileType+ userFileType+?",
}
ENUMERATIONS = {
    "access": {"read-only", "write-only", "read-write", "writeOnce", "read-writeOnce"},
    "usage": {"memory", "register", "reserved"},
    "direction": {"in", "out", "inout"},
    "modifiedWriteValue": {
        *("oneToClear", "oneToSet", "oneToToggle", "zeroToClear", "zeroToSet", "zeroToToggle"),
        *("clear", "set", "modify"),
    },
    "readAction": {"clear", "set", "modify"},
    "fileType": {"verilogSource", "vhdlSource", "tclSource", "systemVerilogSource"},
}
# Signals of the bus definitions aximm and aximm_rtl, that both sides or AXI4-Lite demand.
AXI4_LITE = {
    *("AWADDR", "AWVALID", "AWREADY", "WDATA", "WSTRB", "WVALID", "WREADY", "BRESP", "BVALID"),
    *("BREADY", "ARADDR", "ARVALID", "ARREADY", "RDATA", "RRESP", "RVALID", "RREADY"),
}
AXI4 = AXI4_LITE | {"AWLEN", "AWSIZE", "AWBURST", "WLAST", "ARLEN", "ARSIZE", "ARBURST", "RLAST"}
AXI_OPTIONAL = {
    *("AWPROT", "ARPROT", "AWLOCK", "ARLOCK", "AWCACHE", "ARCACHE", "AWQOS", "ARQOS"),
    *("AWID", "ARID", "BID", "RID", "AWREGION", "ARREGION"),
}


@pytest.fixture(scope="session")
def root(sources: dict[str, str]) -> Element:
    return ElementTree.fromstring(sources["ip/component.xml"])


def local(node: Element) -> str:
    return node.tag.rpartition("}")[2]


def text(node: Element, path: str) -> str:
    return node.findtext("/".join(f"{SPIRIT}{part}" for part in path.split("/"))) or ""


def every(node: Element, name: str) -> list[Element]:
    return list(node.iter(f"{SPIRIT}{name}"))


def errors(root: Element) -> list[str]:
    """What the schema has against the document."""
    return list(_structure(root)) or [*_references(root), *_registers(root)]


def _structure(root: Element) -> Iterator[str]:
    for node in root.iter():
        if not node.tag.startswith(SPIRIT):
            continue
        name = local(node)
        if name in ORDER:
            yield from _children(name, [local(child) for child in node])
        if name in ENUMERATIONS and node.text not in ENUMERATIONS[name]:
            yield f"{name} is {node.text!r}"


def _children(name: str, found: list[str]) -> Iterator[str]:
    order = ORDER[name].split()
    names = [entry.rstrip("?+") for entry in order]
    unknown = [child for child in found if child not in names]
    if unknown:
        yield f"{name} holds {unknown}"
        return
    places = [names.index(child) for child in found]
    if places != sorted(places):
        yield f"children of {name} are out of order: {found}"
    for entry, child in zip(order, names, strict=True):
        if not entry.endswith("?") and child not in found:
            yield f"{name} has no {child}"
        if "+" not in entry and found.count(child) > 1:
            yield f"{name} has several {child}"


def _names(root: Element, name: str) -> set[str]:
    return {text(node, "name") for node in every(root, name)}


def _references(root: Element) -> Iterator[str]:
    targets = {
        "memoryMapRef": _names(root, "memoryMap"),
        "addressSpaceRef": _names(root, "addressSpace"),
    }
    for name, known in targets.items():
        for node in every(root, name):
            if node.get(f"{SPIRIT}{name}") not in known:
                yield f"{name} leads nowhere"
    physical = {text(node, "name") for node in every(root, "physicalPort")}
    listed = {
        "fileSetRef": ({text(n, "localName") for n in every(root, "fileSetRef")}, "fileSet"),
        "physicalPort": (physical, "port"),
        "viewNameRef": ({n.text or "" for n in every(root, "viewNameRef")}, "view"),
    }
    for name, (used, kind) in listed.items():
        yield from (f"{name} {entry} leads nowhere" for entry in used - _names(root, kind))
    identities = Counter(node.get(f"{SPIRIT}id") for node in every(root, "value"))
    yield from (f"id {entry} is used {n} times" for entry, n in identities.items() if n > 1)
    for kind in ("port", "busInterface", "register", "view", "fileSet"):
        names = Counter(text(node, "name") for node in every(root, kind))
        yield from (f"{kind} {entry} stands {n} times" for entry, n in names.items() if n > 1)
    interfaces = _names(root, "busInterface")
    for node in every(root, "parameter"):
        if text(node, "name") in ("ASSOCIATED_BUSIF", "ASSOCIATED_RESET"):
            used = set(text(node, "value").split(":"))
            yield from (f"{text(node, 'name')} names {entry}" for entry in used - interfaces)


def _registers(root: Element) -> Iterator[str]:
    for block in every(root, "addressBlock"):
        size, taken = int(text(block, "range")), set()
        for node in every(block, "register"):
            offset = int(text(node, "addressOffset"), 0)
            if offset % 4 or offset + 4 > size or offset in taken:
                yield f"register {text(node, 'name')} at {offset:#x}"
            taken.add(offset)
            yield from _fields(node)


def _fields(register: Element) -> Iterator[str]:
    taken: set[int] = set()
    for node in every(register, "field"):
        low, width = int(text(node, "bitOffset")), int(text(node, "bitWidth"))
        bits = set(range(low, low + width))
        if bits & taken or max(bits) > 31:
            yield f"field {text(register, 'name')}.{text(node, 'name')} at bits {sorted(bits)}"
        taken |= bits


def test_component_obeys_the_schema(root: Element) -> None:
    assert errors(root) == []
    assert local(root) == "component" and root.tag.startswith(SPIRIT)


def test_name_is_the_one_that_drivers_bind_to(root: Element) -> None:
    parts = ("vendor", "library", "name", "version")
    assert ":".join(text(root, part) for part in parts) == VLNV


def test_every_register_and_field_is_declared(root: Element) -> None:
    declared = {
        text(node, "name"): (
            int(text(node, "addressOffset"), 0),
            {
                text(f, "name"): (text(f, "bitOffset"), text(f, "bitWidth"))
                for f in every(node, "field")
            },
        )
        for node in every(root, "register")
    }
    assert declared == {
        entry.name: (
            entry.offset,
            {field.name: (str(field.low), str(field.width)) for field in entry.fields},
        )
        for entry in REGISTERS
    }


def test_read_only_registers_are_declared_so(root: Element) -> None:
    access = {text(node, "name"): text(node, "access") for node in every(root, "register")}
    read_only = {entry.name for entry in REGISTERS if entry.access is Access.READ}
    assert {name for name, value in access.items() if value == "read-only"} == read_only


def test_fields_of_control_are_declared_as_hls_declares_them(root: Element) -> None:
    (control,) = [node for node in every(root, "register") if text(node, "name") == "CTRL"]
    assert text(control, "access") == "read-write"
    access = {text(node, "name"): text(node, "access") for node in every(control, "field")}
    assert access == {
        "START": "read-write",
        "DONE": "read-only",
        "IDLE": "read-only",
        "READY": "read-only",
    }


def test_as_many_bursts_are_declared_as_the_bus_guard_counts(
    root: Element, rtl: dict[str, Rtl], board: str
) -> None:
    """Undeclared, interconnects would take two for granted."""
    (master,) = [n for n in every(root, "busInterface") if text(n, "name") == "m_axi"]
    declared = {text(node, "name"): text(node, "value") for node in every(master, "parameter")}
    (log2,) = re.findall(r"BURSTS_LOG2 = (\d+)", rtl[board].files["axi_guard.v"])
    for way in ("READ", "WRITE"):
        assert int(declared[f"NUM_{way}_OUTSTANDING"]) == 1 << int(log2)


def test_the_files_are_there_and_are_the_rtl(
    root: Element, sources: dict[str, str], rtl: dict[str, Rtl], board: str
) -> None:
    names = {text(node, "name") for node in every(root, "file")}
    verilog = {name for name in names if name.endswith(".v")}
    assert {f"ip/{name}" for name in names} <= sources.keys()
    assert {name: sources[f"ip/{name}"] for name in verilog} == {
        f"hdl/{name}": content for name, content in rtl[board].files.items()
    }


def test_ports_are_those_of_the_top_module(root: Element, rtl: dict[str, Rtl], board: str) -> None:
    header = rtl[board].files["accelerator.v"].partition(");")[0]
    declared = {
        text(node, "name"): (
            text(node, "wire/direction"),
            f"[{text(node, 'wire/vector/left')}:0]" if text(node, "wire/vector/left") else "",
        )
        for node in every(root, "port")
    }
    lines = [line.split() for line in header.splitlines() if " wire " in line or " reg " in line]
    expected = {
        words[-1].rstrip(","): (words[0].removesuffix("put"), words[2] if len(words) > 3 else "")
        for words in lines
    }
    assert declared == expected


@pytest.mark.parametrize("bus, demanded", [("s_axi", AXI4_LITE), ("m_axi", AXI4)])
def test_axi_signals_are_complete(root: Element, bus: str, demanded: set[str]) -> None:
    (interface,) = [node for node in every(root, "busInterface") if text(node, "name") == bus]
    logical = {text(node, "name") for node in every(interface, "logicalPort")}
    assert demanded <= logical <= demanded | AXI_OPTIONAL


def test_bus_parameters(root: Element, board: str) -> None:
    config = BOARDS[board].config
    values = {
        (text(bus, "name"), text(node, "name")): text(node, "value")
        for bus in every(root, "busInterface")
        for node in every(bus, "parameter")
    }
    assert values["m_axi", "DATA_WIDTH"] == str(config.bus_bits)
    assert values["s_axi", "ADDR_WIDTH"] == "12"
    assert values["aclk", "ASSOCIATED_BUSIF"] == "s_axi:m_axi"
    assert values["aresetn", "POLARITY"] == "ACTIVE_LOW"
    assert values["interrupt", "SENSITIVITY"] == "LEVEL_HIGH"


def test_registers_fill_the_slave(root: Element) -> None:
    (block,) = every(root, "addressBlock")
    ports = {text(node, "name"): text(node, "wire/vector/left") for node in every(root, "port")}
    assert int(text(block, "range")) == 1 << (int(ports["s_axi_awaddr"]) + 1)


def test_another_design_has_another_revision(rtl: dict[str, Rtl]) -> None:
    from vitessera.codegen.vivado.component import component

    revisions = {
        ElementTree.fromstring(component(rtl[name], board.config)).findtext(
            f".//{XILINX}coreRevision"
        )
        for name, board in BOARDS.items()
    }
    assert len(revisions) == len(BOARDS)


# --- The rules notice what is wrong

BROKEN = {
    "order": ("<spirit:vendor>", "<spirit:description>x</spirit:description><spirit:vendor>"),
    "element": ("spirit:addressOffset", "spirit:offset"),
    "access": ("read-only", "readonly"),
    "memory map": ('memoryMapRef="s_axi"', 'memoryMapRef="s_axil"'),
    "address space": ('addressSpaceRef="m_axi"', 'addressSpaceRef="axi"'),
    "port": ("<spirit:physicalPort><spirit:name>s_", "<spirit:physicalPort><spirit:name>t_"),
    "bus of the clock": (">s_axi:m_axi<", ">s_axi:m_axis<"),
    "file set": ("xpgui_view_fileset</spirit:localName", "xgui_view_fileset</spirit:localName"),
    "register": (">0x4<", ">0x0<"),
    "field": ("<spirit:bitOffset>1<", "<spirit:bitOffset>0<"),
}


@pytest.mark.parametrize("slip", BROKEN)
def test_slips_are_found(sources: dict[str, str], slip: str) -> None:
    right, wrong = BROKEN[slip]
    document = _flat(sources["ip/component.xml"])
    assert right in document
    assert errors(ElementTree.fromstring(document.replace(right, wrong)))


def _flat(document: str) -> str:
    """Without indentation."""
    return re.sub(r">\s+<", "><", document)


def test_the_folder_is_all_that_vivado_needs(folder: Path) -> None:
    assert (folder / "ip" / "component.xml").is_file()
    assert (folder / "ip" / "xgui" / "accelerator.tcl").is_file()
