"""Runs a command, and ends it, with all it has started, when whoever asked for it is gone.

children.py starts it, as a program that needs nothing but Python itself, with a pipe as standard
input: nothing is ever written to the pipe, but the system closes it with the last process that
could. So the command ends with its parent even where that had no time to say so (SIGKILL).

It must lead a session, which it ends with itself. It takes the command as arguments and ends with
the command's exit code, or 128 and the number of the signal that ended it. What runs below it finds
VITESSERA_GUARDED in its environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GUARDED = "VITESSERA_GUARDED"


def main(command: list[str]) -> int:
    """Runs `command` until it ends or standard input is closed; its exit code."""
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env={**os.environ, GUARDED: "yes"}
        )
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    threading.Thread(target=_end_when_alone, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


def _end_when_alone() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
