"""Compiles the DSLX kernels of hls/ to Verilog modules with XLS.

Each kernel is one proc in a file of its own: `hls/tile_engine.x` holds proc `TileEngine` and
becomes module `tile_engine`. What varies between accelerators comes from two generated modules
that kernels import: `config.x` (sizes, tables) and `isa.x` (instruction decoders).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from importlib import resources
from pathlib import Path

import jinja2

from . import children, isa, numerics, registers
from .cache import cached_text
from .config import ADDRESS_BITS, INSTRUCTION_BITS, MAX_BURST, HardwareConfig, Memory
from .errors import ToolError
from .graph import Function
from .lookup import by_name
from .progress import Step, tell
from .scratch import ScratchFolder

SOURCE = resources.files("vitessera.hls")
OPTIONS_FILE = "kernels.json"


@dataclass(frozen=True)
class Promise:
    """A word sent that tells that another one has been taken.

    XLS does not order what a step sends and takes: see "What a step promises" in
    docs/architecture.md. A promise moves the send to a later pipeline stage, which a step enters
    only when all of its earlier stages are done.

    Attributes:
        taken: the channel that receives.
        told: the channel that sends.
    """

    taken: str
    told: str


@dataclass(frozen=True)
class Kernel:
    """A DSLX proc and how deep its pipeline is.

    Attributes:
        name: file, module and (in CamelCase) proc.
        stages: pipeline stages; enough that no stage holds more than about one multiplication.
        promises: what its words tell others about words that it has taken.
    """

    name: str
    stages: int
    promises: tuple[Promise, ...] = ()

    @property
    def proc(self) -> str:
        """Name of the proc in DSLX."""
        return "".join(part.capitalize() for part in self.name.split("_"))


# In the order in which data passes through them.
KERNELS: tuple[Kernel, ...] = (
    Kernel("instruction_fetch", 2),
    Kernel("axi_read_request", 2),
    Kernel("axi_read_data", 1),
    # A credit tells that an instruction's last beat has left the fetch FIFO.
    Kernel("dispatch", 2, (Promise("beat_r", "credit_s"),)),
    Kernel("load_request", 2),
    Kernel("load_fill", 2),
    Kernel("operand_walk", 2),
    Kernel("left_operand", 3),
    Kernel("tile_engine", 4),
    Kernel("tile_drain", 1),
    Kernel("epilogue_walk", 2),
    Kernel("epilogue", 9),
    Kernel("operand_pack", 2),
    Kernel("softmax", 8),
    Kernel("probability_pack", 2),
    Kernel("norm_walk", 4),
    Kernel("norm_stats", 9),
    Kernel("norm_result_walk", 2),
    Kernel("norm_scale", 6),
    Kernel("store_request", 2),
    Kernel("store_pack", 1),
    Kernel("axi_write_request", 2),
    Kernel("axi_write_data", 1),
    Kernel("axi_write_response", 1),
)


def kernel(name: str) -> Kernel:
    """The kernel called `name`."""
    return by_name(KERNELS, name, "kernel")


def template(name: str, **values: object) -> str:
    """Renders hls/<name>; a missing value is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.from_string(SOURCE.joinpath(name).read_text(encoding="utf-8")).render(
        **values
    )


def config_module(config: HardwareConfig) -> str:
    """The text of config.x."""
    return template("config.x.j2", constants=tuple(_constants(config)), tables=tuple(_tables()))


def _constants(config: HardwareConfig) -> Iterator[tuple[str, str, int | str]]:
    yield "TILE", "u32", config.tile
    yield "DEPTH", "u32", config.depth
    yield "LANES", "u32", config.lanes
    yield "BUS_BITS", "u32", config.bus_bits
    yield "MAPS", "bool", str(config.maps).lower()
    yield "BEATS_PER_ROW", "u32", config.beats_per_row
    yield "BEATS_PER_TILE", "u32", config.beats_per_tile
    yield "WORDS_PER_TILE", "u32", config.words_per_tile
    yield "ADDRESS_BITS", "u32", ADDRESS_BITS
    yield "INSTRUCTION_BITS", "u32", INSTRUCTION_BITS
    yield "INSTRUCTION_BEATS", "u32", INSTRUCTION_BITS // config.bus_bits
    yield "FETCH_DEPTH", "u32", config.fetch_depth
    yield "MAX_BURST", "u32", MAX_BURST
    for memory in Memory:
        yield f"{memory.name}_BITS", "u32", config.word_bits(memory)
        yield f"{memory.name}_BEATS", "u32", config.beats_per_word(memory)
    yield from registers.dslx_errors()
    yield "SCORE_MAX", "s16", numerics.SCORE_MAX
    yield "MAXIMUM_MIN", "s8", numerics.MAXIMUM_MIN
    yield "TANH_ONE", "s24", numerics.TANH_ONE
    yield "SETTLE_FRACTION_BITS", "u32", numerics.SETTLE_FRACTION_BITS


def _tables() -> Iterator[tuple[str, str, tuple[int, ...]]]:
    for function in (Function.GELU_ERF, Function.GELU_TANH, Function.SILU, Function.TANH):
        table = numerics.DELTA_TABLES[function]
        yield f"{function.name}_BASE", "u10", table.base
        yield f"{function.name}_FALL", "s9", table.fall
    yield "EXP2_TABLE", "u11", numerics.EXP2_TABLE
    yield "RECIPROCAL_BASE", "u16", numerics.RECIPROCAL_BASE
    yield "RECIPROCAL_FALL", "u10", numerics.RECIPROCAL_FALL
    yield "RSQRT_BASE", "u16", numerics.RSQRT_BASE
    yield "RSQRT_FALL", "u11", numerics.RSQRT_FALL


def isa_module() -> str:
    """The text of isa.x."""
    kinds = [
        {
            "name": kind.__name__,
            "opcode": kind.OPCODE,
            "bits": isa.fields(kind)[-1].low + isa.fields(kind)[-1].width,
            "fields": [_field(field) for field in isa.fields(kind)],
        }
        for kind in isa.INSTRUCTIONS
    ]
    return template(
        "isa.x.j2",
        kinds=kinds,
        enums=[_enum(*entry) for entry in _enums().items()],
        opcode_bits=isa.OPCODE_BITS,
        instruction_bits=INSTRUCTION_BITS,
    )


def _field(field: isa.Field) -> dict[str, object]:
    free = -1 << (field.width - 1) if field.signed else 0
    top = (1 << (field.width - field.signed)) - 1
    return {
        "name": field.name,
        "low": field.low,
        "width": field.width,
        "signed": field.signed,
        "doc": field.doc,
        # A bound that every value keeps needs no check.
        "least": field.least if field.least > free else None,
        "highest": field.highest if field.highest < top else None,
    }


def _enums() -> dict[type[IntEnum], int]:
    fields = (field for kind in isa.INSTRUCTIONS for field in isa.fields(kind))
    return {field.enum: field.width for field in fields if field.enum}


def _enum(enum: type[IntEnum], width: int) -> dict[str, object]:
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.__name__).upper()
    return {"name": name, "width": width, "members": list(enum)}


def sources(config: HardwareConfig) -> dict[str, str]:
    """Every DSLX file of the accelerator, generated modules included: file name → text."""
    return {
        "config.x": config_module(config),
        "isa.x": isa_module(),
        **dict(sorted(_written().items())),
    }


def _written() -> dict[str, str]:
    """The DSLX files that are not generated."""
    return {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in SOURCE.iterdir()
        if entry.name.endswith(".x")
    }


def published(config: HardwareConfig) -> dict[str, str]:
    """The folder hls/ of a build directory: the sources, and how XLS is to compile them."""
    return {**sources(config), OPTIONS_FILE: options()}


def published_names() -> frozenset[str]:
    """The files of `published`, whatever the configuration."""
    return frozenset({"config.x", "isa.x", OPTIONS_FILE} | _written().keys())


COMPILING = "compile HLS kernels"
SOURCES = "sources"  # folder of the kernels' sources among what is not to stay


def compile_kernels(config: HardwareConfig, names: tuple[str, ...] | None = None) -> dict[str, str]:
    """Verilog of the kernels: module name → text, one module each.

    Results are cached by the content of every source and option, so that a second compilation
    of the same configuration takes no time. Tells of each kernel that is there.

    Args:
        config: what the generated config.x is rendered from.
        names: the kernels wanted; all by default.

    Raises:
        ToolError: XLS is not installed, or refuses a kernel.
    """
    texts = sources(config)
    wanted = KERNELS if names is None else tuple(kernel(name) for name in names)
    processes = min(len(wanted), os.cpu_count() or 1)
    try:
        with ScratchFolder() as scratch, children.pool(processes) as pool:
            _write_sources(texts, scratch)
            # What is large lies in files: a pipe with half a message in it would keep the pool from
            # ending when one of its processes is killed.
            pending = [pool.submit(_fill_cache, entry, scratch) for entry in wanted]
            for done, compiled in enumerate(as_completed(pending), 1):
                compiled.result()
                tell(Step(COMPILING, done, len(wanted), "kernels"))
            return {entry.name: _cached(entry, texts, scratch) for entry in wanted}
    except BrokenProcessPool as error:
        raise ToolError(
            "A process in which XLS compiled kernels was ended from outside.",
            "If it was killed for want of memory, close other programs.",
        ) from error


def _imports(name: str, texts: dict[str, str]) -> dict[str, str]:
    """The file and everything it imports, so that the cache key covers no more than it must."""
    found: dict[str, str] = {}
    pending = [f"{name}.x"]
    while pending:
        file = pending.pop()
        if file in texts and file not in found:
            found[file] = texts[file]
            pending += [f"{match}.x" for match in re.findall(r"^import (\w+);", texts[file], re.M)]
    return found


def _write_sources(texts: dict[str, str], scratch: Path) -> None:
    folder = scratch / SOURCES
    folder.mkdir()
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")


def _fill_cache(entry: Kernel, scratch: Path) -> None:
    """Compiles the kernel from the sources in `scratch`, unless the cache has it."""
    files = (scratch / SOURCES).iterdir()
    _cached(entry, {file.name: file.read_text(encoding="utf-8") for file in files}, scratch)


def _cached(entry: Kernel, texts: dict[str, str], scratch: Path) -> str:
    """The kernel's Verilog, compiled unless the cache has it."""
    needed = _imports(entry.name, texts)
    options = (entry, _scheduling(entry), _codegen(entry))
    digest = hashlib.sha256(repr((options, sorted(needed.items()), _xls_version())).encode())
    return cached_text(
        f"{entry.name}-{digest.hexdigest()[:24]}.v",
        lambda: _compile(entry, needed, scratch / entry.name),
    )


def _xls_version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("xls-python")
    except PackageNotFoundError as error:
        raise ToolError(
            "The HLS compiler XLS is not installed.", "Run: pip install 'vitessera[compile]'."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps XLS's log off the terminal; what goes wrong arrives as an exception."""
    kept = os.dup(2)
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def options() -> str:
    """OPTIONS_FILE of a build directory: how XLS compiles each kernel, for whoever repeats it."""
    table = {
        entry.name: {
            "proc": entry.proc,
            "scheduling_options": _scheduling(entry),
            "codegen_flags": _codegen(entry),
        }
        for entry in KERNELS
    }
    return json.dumps({"xls-python": _xls_version(), "kernels": table}, indent=2)


def _scheduling(entry: Kernel) -> str:
    """XLS's scheduling options; a throughput of 1 is what the project calls II=1."""
    later = (
        f', io_constraints: "{entry.name}__{promise.taken}:recv:'
        f'{entry.name}__{promise.told}:send:1:none"'
        for promise in entry.promises
    )
    return (
        f'delay_model: "unit", pipeline_stages: {entry.stages}, '
        f"worst_case_throughput: 1, multi_proc: true{''.join(later)}"
    )


def _codegen(entry: Kernel) -> str:
    """XLS's code generation options."""
    return (
        f'generator: GENERATOR_KIND_PIPELINE, module_name: "{entry.name}", reset: "rst", '
        "use_system_verilog: false, flop_inputs: false, flop_outputs: false, "
        # A receive that does not happen gives its default, as DSLX says, not what lies at the port.
        "gate_recvs: true, "
        'streaming_channel_data_suffix: "_data", streaming_channel_valid_suffix: "_vld", '
        'streaming_channel_ready_suffix: "_rdy"'
    )


def _compile(entry: Kernel, texts: dict[str, str], folder: Path) -> str:
    import xls
    from xls import c_api

    folder.mkdir()
    with _quiet():
        for name, text in texts.items():
            Path(folder, name).write_text(text, encoding="utf-8")
        try:
            ir = xls.convert_dslx_to_ir(
                texts[f"{entry.name}.x"],
                str(Path(folder, f"{entry.name}.x")),
                entry.name,
                c_api.DSLX_STDLIB_PATH,
                [str(folder)],
            )
            optimized = xls.optimize_ir(ir, f"__{entry.name}__{entry.proc}_0_next")
            package = xls.Package.parse_ir(optimized)
            result = package.schedule_and_codegen(
                with_delay_model=True,
                scheduling_options_textproto=_scheduling(entry),
                codegen_flags_textproto=_codegen(entry),
            )
        except Exception as error:  # the wheel raises bare RuntimeError and ValueError alike
            raise ToolError(
                f"XLS refuses kernel {entry.name}: {error}",
                f"See hls/{entry.name}.x; if the file is unchanged, please report it.",
            ) from error
    return str(result.get_verilog_text())


@dataclass(frozen=True)
class Port:
    """One stream of a compiled kernel.

    Attributes:
        channel: its name in DSLX.
        sends: True when the kernel is the producer.
        width: data bits; 0 for a stream of ().
    """

    channel: str
    sends: bool
    width: int


def ports(module: str, verilog: str) -> tuple[Port, ...]:
    """The streams of a compiled kernel, read from its port list."""
    found = re.findall(r"^\s+(input|output) wire (?:\[(\d+):0\] )?(\w+),?$", verilog, re.M)
    widths = {name: int(high or 0) + 1 for _, high, name in found}
    sends = {name: direction == "output" for direction, _, name in found if name.endswith("_vld")}
    prefix = f"{module}__"
    return tuple(
        Port(
            channel=valid.removeprefix(prefix).removesuffix("_vld"),
            sends=producer,
            width=widths.get(valid.removesuffix("_vld") + "_data", 0),
        )
        for valid, producer in sends.items()
    )
