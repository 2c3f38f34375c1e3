"""Runs the command line as people do: in a process of its own, with their environment."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
VITESSERA = (sys.executable, "-m", "vitessera.cli.main")


def run(
    *arguments: object, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """The command without a terminal, its output in pipes; `env` is added to ours."""
    command = [*VITESSERA, *map(str, arguments)]
    return subprocess.run(command, env={**os.environ, **(env or {})}, cwd=cwd, capture_output=True)


def in_a_terminal(columns: int, *arguments: object) -> tuple[int, list[str]]:
    """Exit code, and the lines on a terminal so many columns wide, without colours."""
    ours, theirs = pty.openpty()
    env = {**os.environ, "COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    command = [*VITESSERA, *map(str, arguments)]
    process = subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = bytearray()
    with suppress(OSError):  # so a terminal ends
        while part := os.read(ours, 1 << 16):
            shown += part
    os.close(ours)
    return process.wait(), shown.decode().replace("\r\n", "\n").splitlines()
