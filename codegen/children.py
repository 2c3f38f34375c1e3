"""Programs that we start, such as the simulator: they end with us, whatever ends us."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from . import guard

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)

# Nothing of the user's environment or packages: the guard takes milliseconds to start.
_GUARD = (sys.executable, "-I", "-S", guard.__file__)


def run(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: IO[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `command` to its end.

    It ends early, with all that it has started, when this call is interrupted or this process
    ends, be it by a signal that cannot be handled.

    Args:
        command: program and arguments.
        env: its environment; None for ours.
        cwd: its working folder; None for ours.
        log: takes what it prints; without one that is in the result.

    Returns:
        The result; its return code is 128 + n for a command that signal n ended.
    """
    output = subprocess.PIPE if log is None else log
    errors = subprocess.PIPE if log is None else subprocess.STDOUT
    watched, ours = os.pipe()
    with open(watched, "rb") as end, open(ours, "wb") as lifeline:  # noqa: PTH123 (descriptors)
        process = subprocess.Popen(
            [*_GUARD, *command],
            stdin=end,
            stdout=output,
            stderr=errors,
            env=env,
            cwd=cwd,
            text=True,
            errors="replace",
            # Ctrl-C in a terminal is for us: we end the others.
            start_new_session=True,
        )
        end.close()
        try:
            printed, said = process.communicate()
        except BaseException:
            lifeline.close()
            process.wait()
            raise
    return subprocess.CompletedProcess(list(command), process.returncode, printed, said)


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with us, and at once when the block fails or is interrupted."""
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(processes, initializer=_end_with_parent) as executor:
        try:
            yield executor
        except BaseException:
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _end_with_parent() -> None:
    """Has the system end this process with the thread that started it.

    Those of a pool would wait for each other when their parent was killed.
    """
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():  # it ended before we asked
        os._exit(1)
