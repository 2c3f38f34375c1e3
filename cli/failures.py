"""What becomes of an error that ends a command: words, and a log for those who mend it."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from vitessera.codegen.errors import InternalError, ToolError, VitesseraError, internal_error
from vitessera.host.reading import SYSTEM_REMEDIES, reason
from vitessera.host.text import printable

# How libraries say in words what is wrong with a file, or with the machine. Of anything else that
# one came upon the words tell little.
IN_WORDS = (OSError, ValueError, MemoryError, RecursionError, ImportError, VitesseraError)


def unforeseen(error: Exception) -> VitesseraError:
    """The error to show for one that nothing has foreseen; `error` becomes its cause."""
    if isinstance(error, OSError):
        name = f": {printable(error.filename)}" if error.filename else ""
        remedy = SYSTEM_REMEDIES.get(error.errno or 0)
        kind = InternalError if remedy is None else ToolError
        shown: VitesseraError = kind(
            "The system refused something that vitessera needs "
            f"({error.strerror or reason(error)}{name}).",
            remedy or "If it should not have, please report it.",
        )
    else:
        shown = internal_error("This command", error)
    shown.__cause__ = error
    return shown


def report(error: VitesseraError, arguments: Sequence[str]) -> str:
    """The paragraph to show; writes a log file, and names it, where words do not tell enough.

    Args:
        error: what ended the command.
        arguments: of the command line.
    """
    lines = str(error).splitlines()
    if isinstance(error, InternalError) or _is_obscure(error.__cause__):
        lines[-1] += f" {_logged(error, arguments)}"
    # Indented, so that no line of a name or log can pass for an error of its own.
    return "vitessera: error: " + "\n  ".join(lines)


def _is_obscure(cause: BaseException | None) -> bool:
    return cause is not None and not isinstance(cause, IN_WORDS)


def _logged(error: VitesseraError, arguments: Sequence[str]) -> str:
    """Writes the log; what to say of it."""
    content = _log(error, arguments)
    try:
        # A new file that no one else may read or has planted; the name cannot be foretold.
        number, name = tempfile.mkstemp(prefix="vitessera-", suffix=".log")
        with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(content)
    except OSError:
        print(content, file=sys.stderr)
        return "The details are above, since no log file could be written."
    return f"The details are in {Path(name)}."


def _log(error: VitesseraError, arguments: Sequence[str]) -> str:
    heading = (
        f"vitessera {version('vitessera')}, Python {platform.python_version()}, "
        f"{platform.platform()}\n{shlex.join(['vitessera', *arguments])}\n"
    )
    lines = traceback.format_exception(type(error), error, error.__traceback__)
    return printable(heading + "".join(lines), keep="\n")
