"""The importer in a process of its own, within limits: the way in for model files from anywhere.

A few numbers in a file can ask for any amount of memory or time, of us, of numpy, of ONNX's
reference implementation and of its shape inference, and a crash of any of them would end us
without a word. One process around all of them bounds them all. It keeps accidents and files made
to exhaust a machine away from us. It is no sandbox: what takes over the process can do what its
user can.

The process sends what it is at, then the result or the error that it came to, over a pipe. Weights
follow one by one, which keeps them from being held twice on either side.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

from ..children import end_with_parent
from ..errors import ModelFileError, UnsupportedModelError, VitesseraError
from ..graph import Graph
from .fold import load_operators
from .inspection import Inspection, graph_of, inspect_model
from .limits import MEMORY_VARIABLE, TIME_VARIABLE, Limits, import_limits

# Modules come from where they came from here, and never from the folder that we happen to be in.
BOOT = (
    "import sys; connection, parent, *sys.path = sys.argv[1:]; "
    "from vitessera.codegen.importer.confined import serve; serve(int(connection), int(parent))"
)

FIRST_TO_GO = 1000  # of /proc/self/oom_score_adj
NEARLY_ALL = 0.8  # of the memory that it may take: who dies with so much in use died of it
LOG_BYTES = 10_000  # of what a process that died had said last


@dataclass(frozen=True)
class _Request:
    """What is to be done."""

    path: Path
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    limits: Limits
    split: bool


@dataclass(frozen=True)
class _Doing:
    """What is being done."""

    what: str


@dataclass(frozen=True)
class _Done:
    """The result, pickled; so many buffers follow, which hold its arrays."""

    inspection: bytes
    buffers: int


@dataclass(frozen=True)
class _Failed:
    """What was raised, and where."""

    error: Exception
    trace: str


class ImporterTraceback(Exception):  # noqa: N818 (a text, never raised by itself)
    """What the process said of where it failed: the cause of the error that is raised here."""


class _Died(Exception):  # noqa: N818 (becomes an error that names the file)
    """The process ended without a result."""


def import_confined(
    path: str | os.PathLike[str], outputs: Sequence[str] = (), shape: Sequence[int] = ()
) -> Graph:
    """`import_model` within limits; arguments as there.

    Raises:
        UnsupportedModelError: as there; or as `inspect_confined`.
        ModelFileError, ModelValueError, PreprocessingError, ConfigError: as `inspect_confined`.
    """
    return graph_of(inspect_confined(path, outputs, shape=shape))


def inspect_confined(
    path: str | os.PathLike[str],
    outputs: Sequence[str] = (),
    split: bool = False,
    shape: Sequence[int] = (),
) -> Inspection:
    """`inspect_model` within limits; arguments as there.

    Raises:
        UnsupportedModelError: as there; or the import takes more memory or time than it may.
        ModelFileError: as there; or the process died of the file.
        ModelValueError, PreprocessingError: as there.
        ConfigError: the environment gives a limit that is no number.
    """
    request = _Request(Path(path), tuple(outputs), tuple(shape), import_limits(), split)
    with tempfile.TemporaryFile() as log, _importer(log) as (process, connection):
        try:
            answer = _answer(connection, request)
        except _Died as death:
            raise _end(request, process, str(death)) from ImporterTraceback(_tail(log))
    if isinstance(answer, Inspection):
        return answer
    if isinstance(answer.error, VitesseraError):
        raise answer.error
    raise answer.error from ImporterTraceback(answer.trace)


@contextmanager
def _importer(log: IO[bytes]) -> Iterator[tuple[subprocess.Popen[bytes], Connection]]:
    """The process, which writes into `log` and ends with the block, and the pipe to it."""
    connection, theirs = Pipe()
    with connection:
        with theirs:
            # A session of its own: Ctrl-C in a terminal is for us, who end it.
            process = subprocess.Popen(
                [sys.executable, "-c", BOOT, str(theirs.fileno()), str(os.getpid()), *sys.path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        try:
            yield process, connection
        finally:
            process.kill()
            process.wait()


def _answer(connection: Connection, request: _Request) -> Inspection | _Failed:
    """What the process comes to.

    Raises:
        UnsupportedModelError: memory or time ran out.
        _Died: nothing came; says what the process was at.
    """
    deadline = time.monotonic() + request.limits.seconds
    doing = "when it started"
    try:
        connection.send(request)
        while connection.poll(max(0.0, deadline - time.monotonic())):
            match connection.recv():
                case _Doing(what):
                    doing = what
                case _Failed(error=MemoryError() as error):
                    raise _too_large(request, error, doing)
                case _Failed() as failure:
                    return failure
                case _Done(inspection, count):
                    buffers = [bytearray(connection.recv_bytes()) for _ in range(count)]
                    return pickle.loads(inspection, buffers=buffers)
    except (EOFError, OSError) as error:
        raise _Died(doing) from error
    raise _too_slow(request, doing)


# --- What is said of it


def _too_large(request: _Request, error: MemoryError, doing: str) -> UnsupportedModelError:
    allowed = f"{request.limits.gigabytes:g}"
    return UnsupportedModelError(
        f"{request.path} takes more memory to import than the {allowed} GB that it may "
        f"({doing}; {str(error) or 'nothing is left'}).",
        "Check the model in ONNX Runtime, or export it for a smaller image. If it needs that "
        f"much, set {MEMORY_VARIABLE} to more than {allowed}, on a machine that has it.",
    )


def _too_slow(request: _Request, doing: str) -> UnsupportedModelError:
    allowed = f"{request.limits.minutes:g}"
    return UnsupportedModelError(
        f"{request.path} takes longer to import than the {allowed} min that it may ({doing}).",
        "Check the model in ONNX Runtime. If it needs that long, set "
        f"{TIME_VARIABLE} to more than {allowed}.",
    )


def _end(request: _Request, process: subprocess.Popen[bytes], doing: str) -> VitesseraError:
    """Of a process that ended by itself: libraries that lack memory do not always say so."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if usage.ru_maxrss * 1024 > NEARLY_ALL * request.limits.bytes:  # Linux counts it in KiB
        return _too_large(request, MemoryError(), doing)
    code = process.returncode
    how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
    if code == -signal.SIGKILL:
        how += ", as Linux does when the machine's memory is used up"
    return ModelFileError(
        f"{request.path}: the process that imports it was ended {how} ({doing}).",
        "Check the model in ONNX Runtime, and export it again. If it is a good one, please report "
        "it.",
    )


def _tail(log: IO[bytes]) -> str:
    """The end of what the process wrote."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_BYTES))
    return log.read().decode(errors="replace")


# --- In the process itself


def serve(handle: int, parent: int) -> None:
    """Answers the one request that comes over the file descriptor `handle`.

    Args:
        handle: of the pipe.
        parent: number of the process at its other end.
    """
    end_with_parent()
    if os.getppid() != parent:
        sys.exit("the parent is gone")
    faulthandler.enable()
    with Connection(handle) as connection:
        request = connection.recv()
        load_operators()  # before the limit, so that no node is to blame for them
        _confine(request.limits)
        try:
            result = inspect_model(
                request.path,
                request.outputs,
                lambda what: connection.send(_Doing(what)),
                request.split,
                request.shape,
            )
            buffers: list[pickle.PickleBuffer] = []
            content = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
        except Exception as error:  # whatever it is, it is for the parent
            connection.send(_Failed(_portable(error), traceback.format_exc()))
            return
        connection.send(_Done(content, len(buffers)))
        for buffer in buffers:
            connection.send_bytes(buffer.raw())


def _confine(limits: Limits) -> None:
    """Bounds what this process can allocate, and lets Linux end it before others."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(FIRST_TO_GO), encoding="utf-8")
    # What can be written to, whether it is touched or not. Libraries map much more than they use,
    # but that counts as address space only.
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = limits.bytes if most == resource.RLIM_INFINITY else min(limits.bytes, most)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _portable(error: Exception) -> Exception:
    """`error`, or if it does not survive pickling, one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # exceptions of libraries need not
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
