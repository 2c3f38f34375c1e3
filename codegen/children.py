"""Programs that we start, such as the simulator: they end with us, whatever ends us."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from . import guard

POLL_SECONDS = 0.2
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

# Nothing of the user's environment or packages: the guard takes milliseconds to start.
_GUARD = (sys.executable, "-I", "-S", guard.__file__)


class Program(subprocess.Popen[str]):
    """A program that has been started.

    It ends with this process, be it by a signal that cannot be handled, and so does all that it
    starts. Its return code is 128 + n if signal n ended it.

    Args:
        command: program and arguments.
        env: its environment; None for ours.
        cwd: its working folder; None for ours.
        stdout, stderr: as for subprocess.Popen.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: IO[str] | int,
        stderr: IO[str] | int,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        # Below a guard there is no need of another: it ends us and ours together.
        guarded = guard.GUARDED in os.environ
        watched, ours = os.pipe()
        self._lifeline = open(ours, "wb")  # noqa: PTH123, SIM115 (a descriptor, for our lifetime)
        with open(watched, "rb") as end:  # noqa: PTH123
            super().__init__(
                list(command) if guarded else [*_GUARD, *command],
                stdin=subprocess.DEVNULL if guarded else end,
                stdout=stdout,
                stderr=stderr,
                env=env,
                cwd=cwd,
                encoding="utf-8",
                errors="replace",
                # Ctrl-C in a terminal is for us: we end the others.
                start_new_session=not guarded,
            )

    def end(self) -> None:
        """Ends it, and waits for it; doing so again changes nothing."""
        self._lifeline.close()
        if guard.GUARDED in os.environ:
            self.kill()
        self.wait()


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: IO[str] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end, or to that of this call, should it be interrupted.

    Args:
        command, env, cwd: as for Program.
        log: takes what it prints; without one that is in the result.
        meanwhile: called from time to time while it runs.
    """
    output = subprocess.PIPE if log is None else log
    errors = subprocess.PIPE if log is None else subprocess.STDOUT
    process = Program(command, env=env, cwd=cwd, stdout=output, stderr=errors)
    try:
        printed, said = _communicate(process, meanwhile or (lambda: None))
    finally:
        process.end()
    code = process.returncode
    return subprocess.CompletedProcess(
        list(command), code if code >= 0 else 128 - code, printed, said
    )


def _communicate(process: Program, meanwhile: Callable[[], None]) -> tuple[str | None, str | None]:
    """What it prints until it ends."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=POLL_SECONDS)
        meanwhile()


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with us, and at once when the block fails or is interrupted.

    What is passed to them and what they return must be small, some hundred bytes: a process that is
    killed with half a message in a pipe leaves the pool waiting for the rest for ever. Work is
    submitted, not mapped: `map` cancels what is left of it, over which the pool's own thread
    stumbles when its processes are killed.
    """
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, initializer=_end_with_parent) as executor:
        try:
            yield executor
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _end_with_parent() -> None:
    """Those of a pool would wait for each other when their parent was killed."""
    end_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before we asked
        os._exit(1)


def end_with_parent() -> None:
    """Has the system end this process with the thread that started it."""
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
