"""Runs Tcl with some commands answered by Python.

Python's own Tcl (the module tkinter; no display is needed) if it has one, else the program tclsh.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

Answer = Callable[[str, list[str]], str]

COMMAND = """
proc NAME args {
  lassign [__call NAME {*}$args] failed value
  if {$failed} { return -code error $value }
  return $value
}
"""
# Words cross the pipe in hexadecimal, a line a message; what the script prints is passed over.
PIPE = r"""
proc __hex {text} { return [binary encode hex [encoding convertto utf-8 $text]] }
proc __text {hex} { return [encoding convertfrom utf-8 [binary decode hex $hex]] }
proc __call args {
  set words {}
  foreach word $args { lappend words [__hex $word] }
  puts "\x01[join $words ,]"
  flush stdout
  lassign [split [gets stdin] ,] failed value
  return [list $failed [__text $value]]
}
COMMANDS
if {[catch {source SCRIPT} message]} { puts "\x02[__hex $message]" } else { puts "\x03" }
"""


class TclError(Exception):
    """The script ended with an error; the message is Tcl's."""


def engines() -> tuple[str, ...]:
    """The interpreters that this machine has."""
    found = []
    if importlib.util.find_spec("_tkinter"):
        found.append("tkinter")
    if shutil.which("tclsh"):
        found.append("tclsh")
    return tuple(found)


def run(engine: str, script: Path, commands: Iterable[str], answer: Answer) -> None:
    """Sources `script`; `answer` gets name and arguments of each of `commands`.

    Raises:
        TclError: the script failed; an exception of `answer` is an error in the script.
    """
    definitions = "".join(COMMAND.replace("NAME", name) for name in commands)
    runner = _run_tkinter if engine == "tkinter" else _run_tclsh
    runner(script, definitions, answer)


def _try(answer: Answer, name: str, arguments: list[str]) -> tuple[int, str]:
    try:
        return 0, answer(name, arguments)
    except Exception as error:
        return 1, str(error)


def _run_tkinter(script: Path, definitions: str, answer: Answer) -> None:
    import tkinter

    interpreter = tkinter.Tcl()
    interpreter.createcommand(
        "__call", lambda name, *rest: _try(answer, name, [str(word) for word in rest])
    )
    interpreter.eval(definitions)
    interpreter.eval("proc puts args {}")
    try:
        interpreter.eval(f"source {{{script}}}")
    except tkinter.TclError as error:
        raise TclError(str(error)) from None


def _run_tclsh(script: Path, definitions: str, answer: Answer) -> None:
    driver = PIPE.replace("COMMANDS", definitions).replace("SCRIPT", f"{{{script}}}")
    path = script.with_suffix(".driver")
    path.write_text(driver)
    try:
        with subprocess.Popen(
            ["tclsh", str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin and process.stdout
            for line in process.stdout:
                _message(line.rstrip("\n"), process.stdin, answer)
    finally:
        path.unlink()


def _message(line: str, reply: IO[str], answer: Answer) -> None:
    if line.startswith("\x01"):
        name, *arguments = (bytes.fromhex(word).decode() for word in line[1:].split(","))
        failed, value = _try(answer, name, arguments)
        reply.write(f"{failed},{value.encode().hex()}\n")
        reply.flush()
    elif line.startswith("\x02"):
        raise TclError(bytes.fromhex(line[1:]).decode())
