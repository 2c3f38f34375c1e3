"""Stands in for Vivado: takes its commands, checks each against the catalogue, and keeps the block
design, so that validation finds what hangs in the air.

Vivado's objects are words such as `pin:/ps_0/FCLK_CLK0`; a command that gets another kind of object
than it takes refuses it, as Vivado does.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import tcl_interpreter
from vivado_catalogue import (
    BOARD_PARTS,
    COMMANDS,
    INTERFACE_DEFINITIONS,
    IPI_FILTER,
    IPS,
    NOT_FOR_BLOCK_DESIGNS,
    OBJECT_PROPERTIES,
    PARTS,
    READ_PROPERTIES,
    Block,
    Interface,
    Ip,
    Pin,
    Shape,
)

SPIRIT = "{http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009}"
Options = dict[str, str]


class VivadoError(Exception):
    """What Vivado would refuse."""


@dataclass
class Cell:
    """A cell with its properties."""

    ip: Ip
    values: dict[str, str]

    @property
    def shape(self) -> Shape:
        return self.ip.shape(self.values)

    def read(self, name: str) -> str | None:
        """The value of a property, set or computed; None if there is none."""
        return {**self.values, **self.ip.derived(self.values)}.get(name)


@dataclass(frozen=True)
class Assigned:
    """A segment in an address space."""

    space: str
    target: str
    offset: int
    size: int


@dataclass
class Vivado:
    """The state of one run. `calls` is every command, as it came."""

    folder: Path
    release: str = "2024.1"
    board_parts: tuple[str, ...] = tuple(BOARD_PARTS)
    slack: tuple[float | str, ...] = (0.3, 0.02)
    pulse_slack: str = "0.000"  # total of the pulses that are too short
    broken_run: str = ""
    catalogue: dict[str, Ip] = field(default_factory=lambda: dict(IPS))
    versions: dict[str, str] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    project: str = ""
    project_folder: Path = Path()
    part: str = ""
    board_part: str = ""
    repositories: list[Path] = field(default_factory=list)
    design: str = ""
    cells: dict[str, Cell] = field(default_factory=dict)
    ports: dict[str, str] = field(default_factory=dict)
    wires: list[tuple[str, ...]] = field(default_factory=list)  # source first
    buses: list[tuple[str, str]] = field(default_factory=list)
    assigned: list[Assigned] = field(default_factory=list)
    excluded: list[tuple[str, str]] = field(default_factory=list)  # space, target
    valid: bool = False
    wrapper: Path | None = None
    added: list[Path] = field(default_factory=list)
    top: str = ""
    runs: list[str] = field(default_factory=list)
    waited: list[str] = field(default_factory=list)
    opened: str = ""

    def __post_init__(self) -> None:
        self.versions |= {name: ip.version(self.release) for name, ip in IPS.items()}

    # --- Calls

    def __call__(self, name: str, arguments: list[str]) -> str:
        """Answers a command."""
        self.calls.append(" ".join((name, *arguments)))
        options, positional = self._parse(name, arguments)
        handler: Callable[[Options, list[str]], str | None] = getattr(self, f"_{name}")
        return handler(options, positional) or ""

    def _parse(self, name: str, arguments: list[str]) -> tuple[Options, list[str]]:
        form = COMMANDS[name]
        options: Options = {}
        positional: list[str] = []
        words = iter(arguments)
        for word in words:
            if not re.match(r"-[a-z][\w-]*$", word):
                positional.append(word)
            elif word not in form.options:
                raise VivadoError(f"{name}: unknown option {word}")
            elif form.options[word]:
                options[word] = next(words, "")
                if not options[word]:
                    raise VivadoError(f"{name}: {word} without a value")
            else:
                options[word] = ""
        if not form.least <= len(positional) <= form.most:
            raise VivadoError(f"{name}: {len(positional)} arguments")
        return options, positional

    def _take(self, word: str, kind: str) -> str:
        """The name of the object `word`, which must be of that kind."""
        found, _, name = word.partition(":")
        if found != kind:
            raise VivadoError(f"{word!r} is no {kind}")
        return name

    def _cell_of(self, path: str) -> tuple[Cell, str, str]:
        name, _, rest = path.lstrip("/").partition("/")
        if name not in self.cells:
            raise VivadoError(f"no cell {name!r}")
        return self.cells[name], name, rest

    def _one(self, options: Options, names: str) -> None:
        for name in names.split():
            if name not in options:
                raise VivadoError(f"{name} is missing")

    # --- Project

    def _version(self, options: Options, _: list[str]) -> str:
        return self.release if "-short" in options else f"vivado v{self.release} (64-bit)"

    def _create_project(self, options: Options, names: list[str]) -> None:
        self._one(options, "-part")
        if options["-part"] not in PARTS:
            raise VivadoError(f"no part {options['-part']}")
        self.part = options["-part"]
        self.project, self.project_folder = names[0], Path(names[1])
        self.project_folder.mkdir(parents=True)

    def _current_project(self, _: Options, __: list[str]) -> str:
        if not self.project:
            raise VivadoError("no project is open")
        return f"project:{self.project}"

    def _current_design(self, _: Options, __: list[str]) -> str:
        return "design:current"

    def _get_board_parts(self, _: Options, patterns: list[str]) -> str:
        found = fnmatch.filter(self.board_parts, patterns[0] if patterns else "*")
        return " ".join(found)

    def _update_ip_catalog(self, _: Options, __: list[str]) -> None:
        for folder in self.repositories:
            for path in sorted(folder.rglob("component.xml")):
                name, version, ip = packaged(path)
                self.catalogue[name] = ip
                self.versions[name] = version

    def _set_property(self, options: Options, words: list[str]) -> None:
        *pair, target = words
        pairs = [(pair[0], pair[1])] if "-dict" not in options else _pairs(options["-dict"])
        kind, _, name = target.partition(":")
        for key, value in pairs:
            if kind == "cell":
                self._set_cell(name, key, value)
            else:
                self._set_object(kind, key, value)

    def _set_cell(self, path: str, key: str, value: str) -> None:
        cell, name, _ = self._cell_of(path)
        if not key.startswith("CONFIG."):
            raise VivadoError(f"{name} has no property {key}")
        reason = cell.ip.refuses(key.removeprefix("CONFIG."), value)
        if reason:
            raise VivadoError(f"{name} {reason}")
        cell.values[key.removeprefix("CONFIG.")] = value
        self.valid = False

    def _set_object(self, kind: str, key: str, value: str) -> None:
        legal = OBJECT_PROPERTIES.get(kind, {})
        if key not in legal or not re.fullmatch(legal[key], value):
            raise VivadoError(f"a {kind} has no property {key} = {value!r}")
        if key == "board_part":
            if value not in self.board_parts:
                raise VivadoError(f"no board part {value}")
            if BOARD_PARTS[value][0] != self.part:
                raise VivadoError(f"{value} is for {BOARD_PARTS[value][0]}, not {self.part}")
            self.board_part = value
        elif key == "ip_repo_paths":
            self.repositories = [Path(path) for path in value.split()]
        elif key == "top":
            self.top = value

    def _get_property(self, _: Options, words: list[str]) -> str:
        key, target = words
        kind, _, name = target.partition(":")
        if kind == "cell":
            return self._cell_property(name, key)
        if key not in READ_PROPERTIES.get(kind, set()):
            raise VivadoError(f"a {kind} has no property {key}")
        if key == "SLACK":
            return name
        if name not in self.waited:
            raise VivadoError(f"{name} is still running")
        if key == "STATS.TPWS":
            return self.pulse_slack
        good = name != self.broken_run
        return {"PROGRESS": "100%" if good else "40%", "STATUS": "Complete!" if good else "ERROR"}[
            key
        ]

    def _cell_property(self, path: str, key: str) -> str:
        cell, name, _ = self._cell_of(path)
        value = cell.read(key.removeprefix("CONFIG."))
        if not key.startswith("CONFIG.") or value is None:
            raise VivadoError(f"{name} has no property {key}")
        return value

    # --- Block design

    def _create_bd_design(self, _: Options, names: list[str]) -> None:
        self._current_project({}, [])
        self.design = names[0]

    def _get_ipdefs(self, options: Options, patterns: list[str]) -> str:
        known = [f"{name}:{version}" for name, version in self.versions.items()]
        if "-all" in options and self.release != "2022.2":
            known.append("xilinx.com:ip:zynq_ultra_ps_e:3.4")
        if options.get("-filter", IPI_FILTER) != IPI_FILTER:
            raise VivadoError(f"-filter {options['-filter']} is unknown")
        if "-all" in options and "-filter" not in options:
            known += NOT_FOR_BLOCK_DESIGNS
        return " ".join(fnmatch.filter(known, patterns[0]))

    def _create_bd_cell(self, options: Options, names: list[str]) -> str:
        self._one(options, "-type -vlnv")
        if not self.design or options["-type"] != "ip":
            raise VivadoError("no block design is open, or the cell is no IP")
        stem, _, version = options["-vlnv"].rpartition(":")
        if self.versions.get(stem) != version:
            raise VivadoError(f"the IP {options['-vlnv']} is not in the catalogue")
        if names[0] in self.cells:
            raise VivadoError(f"there is a cell {names[0]} already")
        ip = self.catalogue[stem]
        self.cells[names[0]] = Cell(ip, dict(ip.defaults))
        return f"cell:/{names[0]}"

    def _apply_bd_automation(self, options: Options, words: list[str]) -> None:
        self._one(options, "-rule -config")
        cell, name, _ = self._cell_of(self._take(words[0], "cell"))
        if not self.board_part:
            raise VivadoError("no board part is set, so there is no preset")
        rules = {stem.replace(":ip:", ":bd_rule:"): ip for stem, ip in self.catalogue.items()}
        if rules.get(options["-rule"]) is not cell.ip:
            raise VivadoError(f"{name} has no rule {options['-rule']}")
        if _pairs(options["-config"]) != [("apply_board_preset", "1")]:
            raise VivadoError(f"-config {options['-config']} is unknown")
        if not cell.ip.board_settings:
            raise VivadoError(f"the board's files say nothing of {name}")
        cell.values |= BOARD_PARTS[self.board_part][1]

    def _create_bd_intf_port(self, options: Options, names: list[str]) -> str:
        self._one(options, "-mode -vlnv")
        if options["-vlnv"] not in INTERFACE_DEFINITIONS.values():
            raise VivadoError(f"no interface {options['-vlnv']}")
        self.ports[names[0]] = options["-vlnv"]
        return f"intf_port:/{names[0]}"

    def _get_bd_cells(self, _: Options, names: list[str]) -> str:
        _, name, _ = self._cell_of(names[0])
        return f"cell:/{name}"

    def _get_bd_pins(self, _: Options, names: list[str]) -> str:
        cell, name, pin = self._cell_of(names[0])
        if pin not in cell.shape.pins:
            raise VivadoError(f"{name} has no pin {pin}")
        return f"pin:/{name}/{pin}"

    def _get_bd_intf_pins(self, _: Options, names: list[str]) -> str:
        cell, name, interface = self._cell_of(names[0])
        if interface not in cell.shape.interfaces:
            raise VivadoError(f"{name} has no interface {interface}")
        return f"intf_pin:/{name}/{interface}"

    def _get_bd_intf_ports(self, _: Options, names: list[str]) -> str:
        if names[0] not in self.ports:
            raise VivadoError(f"no port {names[0]}")
        return f"intf_port:/{names[0]}"

    def _get_bd_addr_spaces(self, _: Options, names: list[str]) -> str:
        cell, name, space = self._cell_of(names[0])
        if space not in cell.shape.spaces:
            raise VivadoError(f"{name} has no address space {space}")
        return f"space:/{name}/{space}"

    def _get_bd_addr_segs(self, options: Options, names: list[str]) -> str:
        if "-addressables" in options:
            return " ".join(self._addressable(self._take(options["-of_objects"], "space")))
        cell, name, segment = self._cell_of(names[0])
        if segment not in cell.shape.segments:
            raise VivadoError(f"{name} has no segment {segment}")
        return f"segment:/{name}/{segment}"

    def _addressable(self, space: str) -> list[str]:
        """The segments that accesses from an address space could reach."""
        cell, name, rest = self._cell_of(space)
        reached = self._reached(f"/{name}/{cell.shape.spaces[rest]}")
        return [
            f"segment:/{other}/{segment}"
            for other, found in self.cells.items()
            for segment, block in found.shape.segments.items()
            if f"/{other}/{block.interface}" in reached
        ]

    def _exclude_bd_addr_seg(self, options: Options, words: list[str]) -> None:
        self._one(options, "-target_address_space")
        space = self._take(options["-target_address_space"], "space")
        target = self._take(words[0], "segment")
        if f"segment:{target}" not in self._addressable(space):
            raise VivadoError(f"{space} does not reach {target}")
        if any((entry.space, entry.target) == (space, target) for entry in self.assigned):
            raise VivadoError(f"{target} is assigned in {space}, and would be lost")
        self.excluded.append((space, target))

    def _pin(self, path: str) -> Pin:
        cell, _, pin = self._cell_of(path)
        return cell.shape.pins[pin]

    def _interface(self, path: str) -> Interface:
        cell, _, interface = self._cell_of(path)
        return cell.shape.interfaces[interface]

    def _connect_bd_net(self, _: Options, words: list[str]) -> None:
        pins = [self._take(word, "pin") for word in words]
        sources = [pin for pin in pins if self._pin(pin).direction == "out"]
        sinks = [pin for pin in pins if pin not in sources]
        if len(sources) != 1:
            raise VivadoError(f"{', '.join(pins)}: {len(sources)} drivers")
        taken = {pin for wire in self.wires for pin in wire[1:]}
        for pin in sinks:
            if pin in taken:
                raise VivadoError(f"{pin} is driven already")
            if self._pin(pin).kind != self._pin(sources[0]).kind:
                raise VivadoError(f"{sources[0]} cannot drive {pin}")
        self.wires.append((sources[0], *sinks))

    def _connect_bd_intf_net(self, _: Options, words: list[str]) -> None:
        if words[0].startswith("intf_port:"):
            self._connect_port(self._take(words[0], "intf_port"), self._take(words[1], "intf_pin"))
            return
        first, second = (self._take(word, "intf_pin") for word in words)
        modes = self._interface(first).mode, self._interface(second).mode
        if sorted(modes) != ["Master", "Slave"]:
            raise VivadoError(f"{first} and {second} are both {modes[0]}s")
        master, slave = (first, second) if modes[0] == "Master" else (second, first)
        protocols = {self._interface(master).protocol, self._interface(slave).protocol} - {"any"}
        if len(protocols) > 1:
            raise VivadoError(f"{master} and {slave} differ: {', '.join(sorted(protocols))}")
        for end in (master, slave):
            if any(end in bus for bus in self.buses):
                raise VivadoError(f"{end} is connected already")
        self.buses.append((master, slave))

    def _connect_port(self, port: str, pin: str) -> None:
        wanted = INTERFACE_DEFINITIONS.get(self._interface(pin).protocol)
        if self.ports[port.lstrip("/")] != wanted:
            raise VivadoError(f"{port} is no {wanted}")
        self.buses.append((pin, port))

    def _assign_bd_address(self, options: Options, words: list[str]) -> None:
        self._one(options, "-target_address_space -offset -range")
        space = self._take(options["-target_address_space"], "space")
        target = self._take(words[0], "segment")
        offset, size = int(options["-offset"], 0), int(options["-range"], 0)
        cell, _, name = self._cell_of(target)
        block = cell.shape.segments[name]
        if size & (size - 1) or size < 4096 or size > block.size or offset % size:
            raise VivadoError(f"{target} cannot lie at {offset:#x} with {size:#x} bytes")
        if block.fixed is not None and offset != block.fixed:
            raise VivadoError(f"{target} lies at {block.fixed:#x}")
        for other in self.assigned:
            apart = offset + size <= other.offset or other.offset + other.size <= offset
            if other.space == space and not apart:
                raise VivadoError(f"{target} overlaps {other.target}")
        self.assigned.append(Assigned(space, target, offset, size))

    def _validate_bd_design(self, _: Options, __: list[str]) -> None:
        open_ends = list(self._open_ends())
        if open_ends:
            raise VivadoError("; ".join(open_ends))
        self.valid = True

    def _open_ends(self) -> list[str]:
        driven = {pin for wire in self.wires for pin in wire[1:]}
        connected = {end for bus in self.buses for end in bus}
        found = []
        for name, cell in self.cells.items():
            must = {f"/{name}/{pin}" for pin, form in cell.shape.pins.items() if form.must}
            ends = {f"/{name}/{interface}" for interface in cell.shape.interfaces}
            found += sorted((must - driven) | (ends - connected))
        missing = [f"{end} is not connected" for end in found]
        return missing + self._unreached() + self._idle_interrupt()

    def _idle_interrupt(self) -> list[str]:
        """An interrupt that nobody gets is legal in Vivado, and useless."""
        sources = {wire[0] for wire in self.wires}
        return [
            f"/{name}/{pin} goes nowhere"
            for name, cell in self.cells.items()
            for pin, form in cell.shape.pins.items()
            if form.kind == "intr" and form.direction == "out" and f"/{name}/{pin}" not in sources
        ]

    def _unreached(self) -> list[str]:
        """Slaves without address, masters with nothing to address, ways that do not exist."""
        targets = {entry.target for entry in self.assigned}
        # Of those that are neither, Vivado warns critically (BD 41-1356).
        treated = targets | {target for _, target in self.excluded}
        spaces = {entry.space for entry in self.assigned}
        found = []
        for name, cell in self.cells.items():
            found += [
                f"/{name}/{segment} has no address"
                for segment in cell.shape.segments
                if f"/{name}/{segment}" not in treated
            ]
            found += [
                f"/{name}/{space} addresses nothing"
                for space in cell.shape.spaces
                if f"/{name}/{space}" not in spaces
            ]
        return found + [
            f"there is no way from {entry.space} to {entry.target}"
            for entry in self.assigned
            if not self._way(entry)
        ]

    def _way(self, entry: Assigned) -> bool:
        cell, name, space = self._cell_of(entry.space)
        start = f"/{name}/{cell.shape.spaces[space]}"
        cell, name, segment = self._cell_of(entry.target)
        return f"/{name}/{cell.shape.segments[segment].interface}" in self._reached(start)

    def _reached(self, master: str) -> set[str]:
        """Slave interfaces behind a master, through interconnects."""
        reached: set[str] = set()
        for source, sink in self.buses:
            if source == master and sink.count("/") == 2:
                reached.add(sink)
                cell, name, _ = self._cell_of(sink)
                if self._interface(sink).protocol == "any":
                    for onward, form in cell.shape.interfaces.items():
                        if form.mode == "Master":
                            reached |= self._reached(f"/{name}/{onward}")
        return reached

    def _save_bd_design(self, _: Options, __: list[str]) -> None:
        if not self.valid:
            raise VivadoError("the design has not been validated")

    # --- Sources and runs

    def _get_files(self, _: Options, names: list[str]) -> str:
        if names[0] != f"{self.design}.bd":
            raise VivadoError(f"no file {names[0]}")
        return f"file:{self.project_folder}/{names[0]}"

    def _get_filesets(self, _: Options, names: list[str]) -> str:
        if names[0] not in ("sources_1", "constrs_1", "sim_1"):
            raise VivadoError(f"no fileset {names[0]}")
        return f"fileset:{names[0]}"

    def _make_wrapper(self, options: Options, _: list[str]) -> str:
        self._one(options, "-files -top")
        self._take(options["-files"], "file")
        if not self.valid:
            raise VivadoError("the block design is not valid")
        self.wrapper = self.project_folder / f"{self.design}_wrapper.v"
        self.wrapper.write_text("")
        return str(self.wrapper)

    def _add_files(self, options: Options, names: list[str]) -> None:
        path = Path(names[0])
        if not path.is_file():
            raise VivadoError(f"no file {path}")
        if (options.get("-fileset") == "constrs_1") != (path.suffix == ".xdc"):
            raise VivadoError(f"{path.name} is in the wrong fileset")
        self.added.append(path)

    def _update_compile_order(self, options: Options, _: list[str]) -> None:
        self._get_filesets({}, [options["-fileset"]])

    def _get_runs(self, _: Options, names: list[str]) -> str:
        if names[0] not in self.runs:
            raise VivadoError(f"no run {names[0]} has been started")
        return f"run:{names[0]}"

    def _launch_runs(self, options: Options, names: list[str]) -> None:
        before = {"synth_1": [], "impl_1": ["synth_1"]}
        if names[0] not in before or self.waited != before[names[0]]:
            raise VivadoError(f"{names[0]} cannot start after {self.waited}")
        if self.wrapper not in self.added or self.top != f"{self.design}_wrapper":
            raise VivadoError("the wrapper is not the top")
        self.runs.append(names[0])
        if options.get("-to_step") == "write_bitstream":
            self._write_bitstream()

    def _write_bitstream(self) -> None:
        bit = self.project_folder / f"{self.project}.runs/impl_1/{self.top}.bit"
        hwh = (
            self.project_folder
            / f"{self.project}.gen/sources_1/bd/{self.design}/hw_handoff/{self.design}.hwh"
        )
        for path in (bit, hwh):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.suffix)

    def _wait_on_run(self, _: Options, names: list[str]) -> None:
        self._get_runs({}, names)
        self.waited.append(names[0])

    def _open_run(self, _: Options, names: list[str]) -> None:
        if names[0] not in self.waited:
            raise VivadoError(f"{names[0]} is not done")
        self.opened = names[0]

    def _report_timing_summary(self, options: Options, _: list[str]) -> None:
        self._report(options)

    def _report_utilization(self, options: Options, _: list[str]) -> None:
        self._report(options)

    def _report(self, options: Options) -> None:
        if not self.opened:
            raise VivadoError("no run is open")
        Path(options["-file"]).write_text(self.calls[-1], encoding="utf-8")

    def _get_timing_paths(self, options: Options, _: list[str]) -> str:
        if options.get("-delay_type", "max") not in ("max", "min", "min_max"):
            raise VivadoError(f"-delay_type {options['-delay_type']}")
        return " ".join(f"path:{slack}" for slack in self.slack)


def build(engine: str, vivado: Vivado, script: str = "build.tcl") -> None:
    """Runs a script in the stand-in's folder."""
    tcl_interpreter.run(engine, vivado.folder / script, COMMANDS, vivado)


def written(files: dict[str, str], folder: Path) -> Path:
    """`folder`, with the files in it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def _pairs(text: str) -> list[tuple[str, str]]:
    """A Tcl list of names and values; values may be in braces or quotes."""
    found = re.findall(r"\{([^{}]*)\}|\"([^\"]*)\"|(\S+)", text)
    words = ["".join(forms) for forms in found]
    if len(words) % 2:
        raise VivadoError(f"an odd number of words: {text}")
    return list(zip(words[::2], words[1::2], strict=True))


def packaged(path: Path) -> tuple[str, str, Ip]:
    """Name, version and shape of an IP, read from its component.xml."""
    root = ElementTree.parse(path).getroot()

    def text(node: ElementTree.Element, name: str) -> str:
        return node.findtext(f"{SPIRIT}{name}") or ""

    kinds = {"clock": "clk", "reset": "rst", "interrupt": "intr"}
    directions = {
        text(port, "name"): port.findtext(f"{SPIRIT}wire/{SPIRIT}direction") or ""
        for port in root.iter(f"{SPIRIT}port")
    }
    pins: dict[str, Pin] = {}
    interfaces: dict[str, Interface] = {}
    maps: dict[str, str] = {}
    spaces: dict[str, str] = {}
    for bus in root.iter(f"{SPIRIT}busInterface"):
        kind = bus.find(f"{SPIRIT}busType").get(f"{SPIRIT}name")  # type: ignore[union-attr]
        values = {text(p, "name"): text(p, "value") for p in bus.iter(f"{SPIRIT}parameter")}
        if kind in kinds:
            (name,) = [text(p, "name") for p in bus.iter(f"{SPIRIT}physicalPort")]
            pins[name] = Pin(directions[name], kinds[kind], must=directions[name] == "in")
            continue
        reference = bus.find(f"{SPIRIT}slave/{SPIRIT}memoryMapRef")
        mode = "Master" if reference is None else "Slave"
        interfaces[text(bus, "name")] = Interface(mode, values["PROTOCOL"], "aclk")
        if reference is not None:
            maps[reference.get(f"{SPIRIT}memoryMapRef", "")] = text(bus, "name")
        else:
            space = bus.find(f"{SPIRIT}master/{SPIRIT}addressSpaceRef")
            assert space is not None
            spaces[space.get(f"{SPIRIT}addressSpaceRef", "")] = text(bus, "name")
    segments = {
        f"{text(entry, 'name')}/{text(block, 'name')}": Block(
            maps[text(entry, "name")], int(text(block, "range"))
        )
        for entry in root.iter(f"{SPIRIT}memoryMap")
        for block in entry.iter(f"{SPIRIT}addressBlock")
    }
    shape = Shape(pins, interfaces, segments, spaces)
    name = ":".join(text(root, part) for part in ("vendor", "library", "name"))
    return name, text(root, "version"), Ip(lambda _: "", {}, {}, lambda _: shape)
