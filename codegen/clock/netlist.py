"""A mapped netlist: cells of an FPGA, and the nets between their pins.

Yosys's JSON of a large module is hundreds of megabytes, most of it names of no interest. A
`Netlist` keeps what timing needs, and is small enough for the cache.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Net = int  # Yosys's number of a net; CONSTANT for a pin that stands at a level
CONSTANT = 0


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        kind: its type, such as "LUT6".
        module: the instance that it belongs to, as "core.softmax"; empty at the top.
        parameters: those that change its timing.
        pins: pin → its nets, lowest bit first.
    """

    kind: str
    module: str
    parameters: Mapping[str, str]
    pins: Mapping[str, tuple[Net, ...]]


@dataclass(frozen=True)
class Netlist:
    """A module, flat.

    Attributes:
        inputs, outputs: port → its nets.
        cells: in no order.
        names: of nets that the RTL named.
    """

    inputs: Mapping[str, tuple[Net, ...]]
    outputs: Mapping[str, tuple[Net, ...]]
    cells: tuple[Cell, ...]
    names: Mapping[Net, str]

    def to_table(self) -> list[Any]:
        """As JSON has it, for the cache."""
        cells = [[c.kind, c.module, c.parameters, c.pins] for c in self.cells]
        return [self.inputs, self.outputs, cells, list(self.names.items())]


def read_netlist(table: list[Any]) -> Netlist:
    """What `Netlist.to_table` wrote."""
    inputs, outputs, cells, names = table
    return Netlist(
        _pins(inputs),
        _pins(outputs),
        tuple(Cell(kind, module, params, _pins(pins)) for kind, module, params, pins in cells),
        dict(names),
    )


def _pins(pins: Mapping[str, list[Net]]) -> dict[str, tuple[Net, ...]]:
    return {name: tuple(nets) for name, nets in pins.items()}


# Parameters that say which registers of a hard block are in use.
_TELLING = re.compile(r"(A|B|C|D|AD|M|P)REG|USE_MULT|USE_DPORT|AMULTSEL|DO[AB]_REG|OREG_[AB]")


def from_yosys(module: Mapping[str, Any]) -> Netlist:
    """A module of Yosys's `write_json`, flattened."""
    ports: dict[str, dict[str, tuple[Net, ...]]] = {"input": {}, "output": {}, "inout": {}}
    for name, port in module["ports"].items():
        ports[port["direction"]][name] = _nets(port["bits"])
    cells = tuple(
        Cell(
            cell["type"],
            _module_of(name),
            {k: str(v) for k, v in cell["parameters"].items() if _TELLING.fullmatch(k)},
            {pin: _nets(bits) for pin, bits in cell["connections"].items()},
        )
        for name, cell in module["cells"].items()
    )
    return Netlist(ports["input"], ports["output"], cells, dict(_names(module["netnames"])))


def _nets(bits: list[int | str]) -> tuple[Net, ...]:
    return tuple(bit if isinstance(bit, int) else CONSTANT for bit in bits)


def _names(netnames: Mapping[str, Any]) -> Iterator[tuple[Net, str]]:
    """The shortest name of each net that has one in the RTL."""
    found: dict[Net, str] = {}
    for name, entry in netnames.items():
        if entry.get("hide_name"):
            continue
        many = len(entry["bits"]) > 1
        for index, net in enumerate(entry["bits"]):
            full = f"{name}[{index}]" if many else name
            if isinstance(net, int) and (net not in found or len(full) < len(found[net])):
                found[net] = full
    return iter(found.items())


def _module_of(name: str) -> str:
    """The instance that a flattened cell belongs to, at most one below the core.

    So `$flatten\\core.\\left_memory.\\reader[0].$1` is of core.left_memory, and the black box
    `core.softmax` is its own.
    """
    path, hidden, _ = name.removeprefix("$flatten").replace("\\", "").partition("$")
    instances = path.split(".")[: -1 if hidden else None]
    return ".".join(instances[: 2 if instances[:1] == [CORE] else 1])


CORE = "core"


def join(frame: Netlist, blocks: Mapping[str, Netlist]) -> Netlist:
    """`frame` with the netlists of its black boxes in their places.

    Args:
        frame: holds cells whose kind is a key of `blocks`.
        blocks: kind → its content.
    """
    cells = [cell for cell in frame.cells if cell.kind not in blocks]
    names = dict(frame.names)
    free = 1 + max(
        (net for cell in frame.cells for nets in cell.pins.values() for net in nets), default=0
    )
    for box in frame.cells:
        if box.kind in blocks:
            free = _place(box, blocks[box.kind], free, cells, names)
    return Netlist(frame.inputs, frame.outputs, tuple(cells), names)


# A wire within a block from one of its ports to another.
ALIAS = "$alias"


def _place(box: Cell, block: Netlist, free: int, cells: list[Cell], names: dict[Net, str]) -> int:
    """Appends the block's cells, its nets renumbered from `free` on; returns the next free one."""
    known = _outside(box, block, cells)
    for cell in block.cells:
        for net in itertools.chain.from_iterable(cell.pins.values()):
            if net not in known:
                known[net] = free
                free += 1
        pins = {pin: tuple(known[net] for net in nets) for pin, nets in cell.pins.items()}
        cells.append(Cell(cell.kind, box.module, cell.parameters, pins))
    for net, name in block.names.items():
        if known.get(net, CONSTANT) != CONSTANT:
            names.setdefault(known[net], f"{box.module}.{name}")
    return free


def _outside(box: Cell, block: Netlist, cells: list[Cell]) -> dict[Net, Net]:
    """What the nets at the block's ports are outside; appends aliases for wires through it."""
    known = {CONSTANT: CONSTANT}
    for port, nets in block.inputs.items():
        known |= dict(zip(nets, box.pins.get(port, ()), strict=False))
    for port, nets in block.outputs.items():
        for inner, outer in zip(nets, box.pins.get(port, ()), strict=False):
            if inner in known:
                cells.append(Cell(ALIAS, box.module, {}, {"I": (known[inner],), "O": (outer,)}))
            else:
                known[inner] = outer
    return known
