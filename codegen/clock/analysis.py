"""Static timing analysis: the longest way from register to register, through any module.

Every net has one latest arrival, so the work is linear in the size of the netlist ("block-based";
see any text on static timing, such as Bhasker and Chadha). All paths count, also those that no
data can take.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import ToolError
from .cells import Ways, Wire, ways
from .delays import Delays
from .netlist import CONSTANT, Cell, Net, Netlist

# A net that carries a handshake, from one module to another.
HANDSHAKE = ("_rdy", "_vld")


@dataclass(frozen=True)
class Step:
    """One cell on a path, and the wire to it.

    Attributes:
        kind: of the cell.
        module: the instance that it belongs to.
        net: the name of the net that it drives; empty if the RTL has none for it.
        wire: ns of the wire that leads to it.
        cell: ns through it.
    """

    kind: str
    module: str
    net: str
    wire: float
    cell: float


@dataclass(frozen=True)
class Path:
    """From one register to another.

    Attributes:
        steps: the first is the register that starts, the last the one that ends.
        pin: of the last cell.
    """

    steps: tuple[Step, ...]
    pin: str

    @property
    def period(self) -> float:
        """The shortest clock period that it allows, ns."""
        return sum(step.wire + step.cell for step in self.steps)

    @property
    def wires(self) -> float:
        """The part of wires in it, ns."""
        return sum(step.wire for step in self.steps)

    @property
    def levels(self) -> int:
        """Cells between the registers that are reached through the fabric."""
        return sum(step.wire > 0 for step in self.steps[1:-1])

    @property
    def module(self) -> str:
        """Where it ends."""
        return self.steps[-1].module


@dataclass(frozen=True)
class Timing:
    """What limits the clock.

    Attributes:
        worst: module → the longest path that ends in it.
        handshake: the longest path by way of a handshake between modules; None if there is none.
    """

    worst: Mapping[str, Path]
    handshake: Path | None

    @property
    def longest(self) -> Path:
        """Of all of them; there must be one."""
        return max(self.worst.values(), key=lambda path: path.period)


def analyse(netlist: Netlist, delays: Delays) -> Timing:
    """The longest paths of a flat netlist, from register to register.

    Ports are left out: what lies outside is not known.

    Raises:
        ToolError: a cell of an unknown kind, or a loop without a register.
    """
    graph = _Graph(delays)
    for index, cell in enumerate(netlist.cells):
        graph.add(index, ways(cell, delays))
    graph.settle(netlist)
    return graph.timing(netlist)


class _End(NamedTuple):
    """A pin where a path ends; ordered by the period that it asks for."""

    period: float
    net: Net
    cell: int
    setup: float
    pin: str
    wire: float


@dataclass
class _Graph:
    """The nets of a netlist, and how signals pass between them."""

    delays: Delays
    # Net → (net before, cell, ns, wire), of each way that leads to it.
    into: dict[Net, list[tuple[Net, int, float, Wire]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    ends: list[tuple[Net, int, float, str, Wire]] = field(default_factory=list)
    inner: dict[int, float] = field(default_factory=dict)  # cell → ns
    in_slice: set[Net] = field(default_factory=set)  # that logic in a slice drives
    pins: Counter[Net] = field(default_factory=Counter)  # that a net leads to
    starts: dict[Net, tuple[float, int]] = field(default_factory=dict)
    arrival: dict[Net, float] = field(default_factory=dict)
    # Net → (net before, cell, ns of its wire) of the latest way.
    before: dict[Net, tuple[Net, int, float]] = field(default_factory=dict)
    by_handshake: dict[Net, bool] = field(default_factory=dict)

    def add(self, index: int, found: Ways) -> None:
        """A cell's ways."""
        for net, time in found.starts:
            if time > self.starts.get(net, (-1.0, 0))[0]:
                self.starts[net] = time, index
        reached = set()
        if found.in_slice:
            self.in_slice.update(out for _, out, _, _ in found.passes)
        for source, out, time, wire in found.passes:
            if source != CONSTANT:
                self.into[out].append((source, index, time, wire))
                reached.add(source)
        for net, time, pin, wire in found.ends:
            if net != CONSTANT:
                self.ends.append((net, index, time, pin, wire))
                reached.add(net)
        self.pins.update(reached)
        if found.inner:
            self.inner[index] = found.inner

    def settle(self, netlist: Netlist) -> None:
        """Finds the latest arrival at every net that a register leads to."""
        shake = {net for net, name in netlist.names.items() if name.endswith(HANDSHAKE)}
        for net in self._in_order(netlist):
            best, before = self.starts.get(net, (-math.inf, 0))[0], None
            for source, cell, time, wire in self.into.get(net, ()):
                if (known := self.arrival.get(source)) is not None:
                    way = self._wire(source, wire)
                    if known + way + time > best:
                        best, before = known + way + time, (source, cell, way)
            if best == -math.inf:
                continue
            self.arrival[net] = best
            if before is not None:
                self.before[net] = before
            passed = before is not None and self.by_handshake[before[0]]
            self.by_handshake[net] = passed or net in shake

    def _in_order(self, netlist: Netlist) -> Iterator[Net]:
        """Every net after those that it depends on."""
        waits = {net: len(ways) for net, ways in self.into.items()}
        follows: dict[Net, list[Net]] = defaultdict(list)
        for net, found in self.into.items():
            for source, *_ in found:
                follows[source].append(net)
        ready = [net for net in {*follows, *self.starts} if net not in waits]
        while ready:
            net = ready.pop()
            yield net
            for after in follows.get(net, ()):
                waits[after] -= 1
                if not waits[after]:
                    ready.append(after)
        stuck = next((net for net, count in waits.items() if count), None)
        if stuck is not None:
            raise ToolError(
                f"The netlist has a loop without a register, by way of "
                f"{netlist.names.get(stuck, 'a net without a name')}.",
                "If the RTL is unchanged, please report it.",
            )

    def _wire(self, net: Net, wire: Wire) -> float:
        """Ns from what drives the net to one of its pins."""
        count = self.pins[net]
        in_slice = wire is Wire.SLICE and count == 1 and net in self.in_slice
        if wire is Wire.FIXED or in_slice:
            return 0.0
        return self.delays.wire + self.delays.wire_growth * math.log2(count)

    def timing(self, netlist: Netlist) -> Timing:
        """The longest path to each module, and by a handshake."""
        worst: dict[str, _End] = {}
        shaken: _End | None = None
        for net, cell, time, pin, wire in self.ends:
            if (known := self.arrival.get(net)) is None:
                continue
            way = self._wire(net, wire)
            end = _End(known + way + time, net, cell, time, pin, way)
            module = netlist.cells[cell].module
            if module not in worst or end > worst[module]:
                worst[module] = end
            if self.by_handshake[net] and (shaken is None or end > shaken):
                shaken = end
        paths = {module: self._path(end, netlist) for module, end in worst.items()}
        for cell, period in self.inner.items():
            owner = netlist.cells[cell]
            if owner.module not in paths or period > paths[owner.module].period:
                paths[owner.module] = Path(
                    (Step(owner.kind, owner.module, self._driven(owner, netlist), 0.0, period),), ""
                )
        handshake = None if shaken is None else self._path(shaken, netlist)
        return Timing(paths, handshake)

    def _path(self, end: _End, netlist: Netlist) -> Path:
        """From the end back to the register that it starts from."""
        owner, net = netlist.cells[end.cell], end.net
        steps = [Step(owner.kind, owner.module, self._driven(owner, netlist), end.wire, end.setup)]
        while (link := self.before.get(net)) is not None:
            source, cell, wire = link
            through = self.arrival[net] - self.arrival[source] - wire
            at = netlist.cells[cell]
            steps.append(Step(at.kind, at.module, netlist.names.get(net, ""), wire, through))
            net = source
        time, cell = self.starts[net]
        at = netlist.cells[cell]
        steps.append(Step(at.kind, at.module, netlist.names.get(net, ""), 0.0, time))
        return Path(tuple(reversed(steps)), end.pin)

    def _driven(self, register: Cell, netlist: Netlist) -> str:
        """The name of the first net with a name that a register drives."""
        driven = (netlist.names.get(net, "") for net, _ in ways(register, self.delays).starts)
        return next(filter(None, driven), "")
