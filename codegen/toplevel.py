"""Wires the compiled kernels into the core: instances, streams between them, memories, queues.

The tables here are the block diagram. Widths are read from the compiled kernels' ports, and the
two ends of every stream must agree.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from . import hls, isa, registers
from .config import (
    ADDRESS_BITS,
    INSTRUCTION_BITS,
    OUTSTANDING_BURSTS,
    SOFTMAX_BLOCKS,
    HardwareConfig,
    Memory,
)
from .errors import ToolError
from .isa import Source, Unit
from .registers import Event

# Verilog that is the same in every accelerator.
VERILOG_LIBRARY = (
    "axi_guard.v",
    "axi_slice.v",
    "fifo.v",
    "ram_fifo.v",
    "stream_ram.v",
    "semaphores.v",
    "unit_queue.v",
)

# Words of a memory that each reader is given ahead. Three are on their way in a stream at full
# speed; the rest evens out operands that take paths of different length.
READ_AHEAD = 8
# Every file that `generate` makes, whatever the configuration.
RTL_FILES = frozenset(
    {f"{entry.name}.v" for entry in hls.KERNELS}
    | {*VERILOG_LIBRARY, "core.v", "shell.v", "accelerator.v"}
)

# Instance → kernel. Most kernels are there once.
INSTANCES: dict[str, str] = {
    entry.name: entry.name for entry in hls.KERNELS if entry.name != "operand_pack"
} | {"epilogue_pack": "operand_pack", "norm_pack": "operand_pack"}


@dataclass(frozen=True)
class Link:
    """A stream from one kernel to another.

    Attributes:
        source, sink: "instance.channel".
        depth: words that its queue holds; 2 keeps full speed, more lets the source run ahead.
        counted: a program or a credit counts on the whole depth. Without it, any depth will do.
        in_ram: the queue is deep enough to live in block RAM.
    """

    source: str
    sink: str
    depth: int = 2
    counted: bool = False
    in_ram: bool = False


def links(config: HardwareConfig) -> tuple[Link, ...]:
    """Every stream between two kernels, in the order in which data flows."""
    return tuple(
        link
        if link.counted
        else dataclasses.replace(link, depth=min(link.depth, config.stream_depth))
        for link in _full_links(config)
    )


def _full_links(config: HardwareConfig) -> tuple[Link, ...]:
    """The same, each as deep as it is good for."""
    fetch_beats = config.fetch_depth * INSTRUCTION_BITS // config.bus_bits
    return (
        Link("instruction_fetch.request_s", "axi_read_request.fetch_r"),
        Link("load_request.request_s", "axi_read_request.load_r"),
        Link("axi_read_request.route_s", "axi_read_data.route_r", OUTSTANDING_BURSTS),
        Link("axi_read_data.fetch_s", "dispatch.beat_r", fetch_beats, counted=True),
        Link("dispatch.credit_s", "instruction_fetch.credit_r", config.fetch_depth),
        Link("load_request.fill_s", "load_fill.command_r", 16),
        Link("axi_read_data.load_s", "load_fill.beat_r", 4),
        # Tags wait for the memories' words, which take three cycles.
        Link("operand_walk.operand_s", "left_operand.operand_r", 8),
        Link("operand_walk.engine_s", "tile_engine.engine_r", 16),
        Link("left_operand.word_s", "tile_engine.left_r"),
        # The second set of accumulators: the engine goes on while a tile drains.
        Link("tile_engine.tile_s", "tile_drain.tile_r", 1),
        Link("tile_drain.beat_s", "epilogue.accumulator_r"),
        Link("epilogue_walk.beat_s", "epilogue.beat_r", 8),
        Link("epilogue.operand_s", "epilogue_pack.beat_r"),
        Link("epilogue.score_s", "softmax.beat_r"),
        Link("softmax.probability_s", "probability_pack.beat_r"),
        Link("softmax.maximum_s", "left_operand.maximum_r", SOFTMAX_BLOCKS, counted=True),
        Link("softmax.reciprocal_s", "epilogue.reciprocal_r", SOFTMAX_BLOCKS, counted=True),
        Link("norm_walk.tag_s", "norm_stats.tag_r", 8),
        Link("norm_walk.command_s", "norm_result_walk.command_r"),
        Link(
            "norm_stats.word_s",
            "norm_scale.word_r",
            config.norm_buffer_words,
            counted=True,
            in_ram=True,
        ),
        Link("norm_stats.statistics_s", "norm_scale.statistics_r", 2 * config.tile),
        Link("norm_result_walk.tag_s", "norm_scale.tag_r", 8),
        Link("norm_scale.operand_s", "norm_pack.beat_r"),
        Link("store_request.request_s", "axi_write_request.request_r"),
        Link("store_pack.beat_s", "axi_write_data.beat_r", 4),
        Link("axi_write_request.burst_s", "axi_write_data.burst_r", 4),
        Link("axi_write_request.pending_s", "axi_write_response.pending_r", 16),
    )


@dataclass(frozen=True)
class MemoryPorts:
    """Who uses a memory; earlier ports go first.

    Attributes:
        writers: "instance.channel" of each stream of words with addresses.
        readers: ("instance.channel" of the addresses, "instance.channel" of the words).
    """

    writers: tuple[str, ...]
    readers: tuple[tuple[str, str], ...]


MEMORIES: dict[Memory, MemoryPorts] = {
    Memory.LEFT: MemoryPorts(
        ("epilogue_pack.left_s", "norm_pack.left_s", "load_fill.left_s"),
        (("operand_walk.left_s", "left_operand.left_r"),),
    ),
    Memory.RIGHT: MemoryPorts(
        ("epilogue_pack.right_s", "norm_pack.right_s", "load_fill.right_s"),
        (("operand_walk.right_s", "tile_engine.right_r"),),
    ),
    Memory.PROBABILITY: MemoryPorts(
        ("probability_pack.probability_s",),
        (("operand_walk.probability_s", "left_operand.probability_r"),),
    ),
    Memory.RESIDUAL: MemoryPorts(
        ("epilogue.residual_s", "load_fill.residual_s"),
        (
            ("epilogue_walk.residual_s", "epilogue.residual_r"),
            ("norm_walk.residual_s", "norm_stats.residual_r"),
            ("store_request.read_s", "store_pack.word_r"),
        ),
    ),
    Memory.PARAMETER: MemoryPorts(
        ("load_fill.parameter_s",), (("epilogue_walk.parameter_s", "epilogue.parameter_r"),)
    ),
    Memory.NORM: MemoryPorts(
        ("load_fill.norm_s",), (("norm_result_walk.parameter_s", "norm_scale.parameter_r"),)
    ),
}

# Whose landed writes (or signal stream) stand for a source of completion.
COMPLETIONS: dict[Source, tuple[str, ...]] = {
    Source.LOAD: tuple(
        f"load_fill.{memory.value}_s" for memory in Memory if memory is not Memory.PROBABILITY
    ),
    Source.COMPUTE: ("tile_engine.signal_s",),
    Source.EPILOGUE: ("epilogue_pack.left_s", "epilogue_pack.right_s"),
    Source.RESIDUAL: ("epilogue.residual_s",),
    Source.SOFTMAX: ("probability_pack.probability_s",),
    Source.NORM: ("norm_pack.left_s", "norm_pack.right_s"),
    Source.STORE: ("axi_write_response.signal_s",),
}
WRITERS = tuple(end for ports in MEMORIES.values() for end in ports.writers)
# Completion that is no write to a memory on chip has a stream of its own.
SIGNALS = tuple(end for ends in COMPLETIONS.values() for end in ends if end not in WRITERS)

# The kernel that takes each unit's instructions; LOAD and STORE see the DRAM bases beside them.
QUEUES: dict[Unit, str] = {
    Unit.LOAD: "load_request.command_r",
    Unit.COMPUTE: "operand_walk.command_r",
    Unit.EPILOGUE: "epilogue_walk.command_r",
    Unit.NORM: "norm_walk.command_r",
    Unit.STORE: "store_request.command_r",
}
NEEDS_BASES = (Unit.LOAD, Unit.STORE)

# Streams that leave the core: its port → "instance.channel".
EXTERNAL: dict[str, str] = {
    "start": "instruction_fetch.start_r",
    "ar": "axi_read_request.address_s",
    "r": "axi_read_data.beat_r",
    "aw": "axi_write_request.address_s",
    "w": "axi_write_data.data_s",
    "b": "axi_write_response.response_r",
}
ERRORS = ("dispatch.error_s", "axi_read_data.error_s", "axi_write_response.error_s")

# Streams whose transfers the performance counters count. LOAD_WAIT is made in the template.
EVENTS: dict[Event, str] = {
    Event.LOAD: "load_fill.beat_r",
    Event.COMPUTE: "tile_engine.engine_r",
    Event.EPILOGUE: "epilogue.beat_r",
    Event.SOFTMAX: "softmax.beat_r",
    Event.NORM: "norm_scale.tag_r",
    Event.STORE: "store_pack.beat_s",
    Event.COMPUTE_WORD: "tile_engine.engine_r",
    Event.INSTRUCTION: "dispatch.credit_s",
}


def _wire(end: str) -> str:
    """The Verilog name of "instance.channel"."""
    return end.replace(".", "__")


def _port_table(modules: Mapping[str, str]) -> dict[str, hls.Port]:
    """ "instance.channel" → port."""
    return {
        f"{instance}.{port.channel}": port
        for instance, kernel in INSTANCES.items()
        for port in hls.ports(kernel, modules[kernel])
    }


def _check(config: HardwareConfig, table: Mapping[str, hls.Port]) -> None:
    """Both ends of every stream agree, and no end is left open or used twice."""
    used = [end for link in links(config) for end in (link.source, link.sink)]
    used += [*EXTERNAL.values(), *ERRORS, *QUEUES.values(), *SIGNALS]
    used += [f"dispatch.{unit.name.lower()}_s" for unit in Unit]
    for ports in MEMORIES.values():
        used += [*ports.writers, *(end for reader in ports.readers for end in reader)]
    open_ends = sorted(set(table) ^ set(used)) or sorted(
        {end for end in used if used.count(end) > 1}
    )
    mismatched = [
        f"{link.source} ({table[link.source].width} bits) and {link.sink} "
        f"({table[link.sink].width} bits)"
        for link in links(config)
        if not open_ends and table[link.source].width != table[link.sink].width
    ]
    if open_ends or mismatched:
        raise ToolError(
            f"The block diagram does not fit the kernels: {', '.join(open_ends or mismatched)}.",
            "Kernel sources and codegen/toplevel.py must change together.",
        )


@dataclass(frozen=True)
class Rtl:
    """The generated hardware.

    Attributes:
        files: file name → text, everything that a simulator or Vivado needs; the top module is
            `accelerator`.
        design_hash: 64 bits over all of it and nothing else, readable in the accelerator's
            registers.
    """

    files: Mapping[str, str]
    design_hash: int


def generate(config: HardwareConfig) -> Rtl:
    """Compiles the kernels and generates the whole accelerator around them.

    Raises:
        ToolError: the HLS compiler is missing or refuses a kernel.
    """
    modules = hls.compile_kernels(config)
    files = {f"{name}.v": text for name, text in modules.items()}
    files |= {
        name: hls.SOURCE.joinpath(name).read_text(encoding="utf-8") for name in VERILOG_LIBRARY
    }
    files["core.v"] = core(config, modules)
    # The shell carries the hash, so it enters the hash before it carries it.
    unnamed = hls.template("shell.v.j2", **registers.shell_values(config, 0))
    content = repr((sorted(files.items()), unnamed))
    design_hash = int(hashlib.sha256(content.encode()).hexdigest()[:16], 16)
    files["shell.v"] = hls.template("shell.v.j2", **registers.shell_values(config, design_hash))
    files["accelerator.v"] = _accelerator(files["shell.v"], files["core.v"])
    return Rtl(files, design_hash)


def _pins(verilog: str) -> dict[str, tuple[str, str]]:
    """Name → (direction, range) of a generated module's ports."""
    header = verilog[: verilog.index(");")]
    found = re.findall(r"^\s+(input|output) (?:wire|reg) (\[\d+:0\] )?(\w+),?$", header, re.M)
    return {name: (direction, bits) for direction, bits, name in found}


def _accelerator(shell: str, core_text: str) -> str:
    shell_pins, core_pins = _pins(shell), _pins(core_text)
    bus = ("s_axi_", "m_axi_", "interrupt", "aclk", "aresetn")
    outside = {name: kind for name, kind in shell_pins.items() if name.startswith(bus)}
    return hls.template(
        "accelerator.v.j2",
        outside=outside,
        inside={name: kind for name, kind in shell_pins.items() if name not in outside},
        core_pins=[name for name in core_pins if name not in ("clk", "rst")],
    )


def core(config: HardwareConfig, modules: Mapping[str, str]) -> str:
    """The Verilog of module `core`: everything but the shell.

    Args:
        config: sizes of memories and queues.
        modules: the compiled kernels, as hls.compile_kernels returns them.
    """
    table = _port_table(modules)
    _check(config, table)
    return hls.template(
        "core.v.j2",
        config=config,
        instances=INSTANCES,
        streams=tuple(_streams(table)),
        links=[
            {"source": _wire(link.source), "sink": _wire(link.sink), "depth": link.depth}
            | {"module": "ram_fifo" if link.in_ram else "fifo"}
            | {"width": max(1, table[link.source].width)}
            for link in links(config)
        ],
        memories=[_memory(config, memory, ports) for memory, ports in MEMORIES.items()],
        completions=[
            {"source": source.name.lower(), "index": source.value}
            | {"ends": [_wire(end) for end in ends]}
            for source, ends in COMPLETIONS.items()
        ],
        signals=[_wire(end) for end in SIGNALS],
        queues=[
            {"unit": unit.name.lower(), "index": unit.value, "sink": _wire(QUEUES.get(unit, ""))}
            | {"bases": unit in NEEDS_BASES}
            for unit in Unit
        ],
        external={port: _wire(end) for port, end in EXTERNAL.items()},
        external_width={port: table[end].width for port, end in EXTERNAL.items()},
        external_sends={port: table[end].sends for port, end in EXTERNAL.items()},
        errors=[_wire(end) for end in ERRORS],
        events={event.name.lower(): _wire(end) for event, end in EVENTS.items()},
        wait_low=next(f.low for f in isa.fields(isa.End) if f.name == "wait"),
        semaphore_bits=isa.SEMAPHORE_BITS,
        signal_bits=isa.SIGNAL_BITS,
        address_bits=ADDRESS_BITS,
        instruction_bits=INSTRUCTION_BITS,
        sources=len(Source),
        units=len(Unit),
        queue_depth=config.queue_depth,
        read_ahead=min(READ_AHEAD, config.stream_depth),
    )


def _streams(table: Mapping[str, hls.Port]) -> Iterator[dict[str, object]]:
    for end, port in table.items():
        instance, channel = end.split(".")
        module = INSTANCES[instance]
        yield {
            "wire": _wire(end),
            "instance": instance,
            "pin": f"{module}__{channel}",
            "width": port.width,
        }


def _memory(config: HardwareConfig, memory: Memory, ports: MemoryPorts) -> dict[str, object]:
    return {
        "name": memory.value,
        "width": config.word_bits(memory),
        "words": config.words(memory),
        "writers": [_wire(end) for end in ports.writers],
        "addresses": [_wire(address) for address, _ in ports.readers],
        "results": [_wire(word) for _, word in ports.readers],
    }
