"""What a simulated board and its simulator process say to each other."""

from __future__ import annotations

from dataclasses import dataclass

from ..codegen.config import HardwareConfig


@dataclass(frozen=True)
class Job:
    """What the simulator process is started with; a pickle.

    Attributes:
        config: of the accelerator.
        rtl: file name → Verilog.
        plusargs: of the simulator.
        requests, interrupts: paths of the sockets.
    """

    config: HardwareConfig
    rtl: dict[str, str]
    plusargs: tuple[str, ...]
    requests: str
    interrupts: str


@dataclass(frozen=True)
class Request:
    """What the simulator is asked; every request gets a Reply.

    Attributes:
        kind: "read", "write" (registers of the accelerator), "read_controller",
            "write_controller" (of the interrupt controller); and for tests "latency" (of DRAM
            reads, in cycles) and "wire" (1: the interrupt arrives, 0: it is cut).
        offset: of the register.
        value: to write or set.
    """

    kind: str
    offset: int = 0
    value: int = 0


@dataclass(frozen=True)
class Reply:
    """The answer: the register's value, and whether a bus rule has been broken so far."""

    value: int
    violated: bool
