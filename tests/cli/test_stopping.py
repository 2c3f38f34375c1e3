"""A command that is told to stop, or killed, leaves neither processes nor files behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from command_line import DIGITS, Command
from vitessera.cli.main import main

MODEL = DIGITS / "vit_digits.onnx"
PATIENCE_SECONDS = 300
IMAGES = 100  # of which the simulation takes much longer than stopping it


def until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    """Waits for something that must come about while `process` runs."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


def start(temporary: Path, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    """The command line in a process of its own, with a temporary folder of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "vitessera.cli.main", *map(str, arguments)],
        env={**os.environ, "TMPDIR": str(temporary), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes(temporary: Path) -> list[str]:
    """Command lines of the processes whose temporary folder this is."""
    mark = f"TMPDIR={temporary}\0".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may have ended, or be another user's
            if mark in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return [line for line in found if line]  # without those that are dead and not yet taken away


def wait_until_alone(temporary: Path) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while found := processes(temporary):
        assert time.monotonic() < end, found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def small_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model on the smallest accelerator, whose simulator builds quickest."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "small.toml").write_text("tile = 4\nlanes = 4\n")
    arguments = ["--config", str(folder / "small.toml"), "-o", str(folder / "build")]
    assert main(["compile", str(MODEL), *arguments]) == 0
    # So that the simulator is there.
    assert main(["simulate", str(folder / "build"), "--count", "1"]) == 0
    return folder / "build"


@pytest.mark.accelerator
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_simulation_that_is_stopped(small_build: Path, temporary: Path, number: int) -> None:
    before = sorted(path.name for path in small_build.iterdir())
    process = start_simulation(small_build, temporary)
    process.send_signal(number)
    output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + number, errors
    how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    assert f"vitessera: {how}; nothing half-written is left behind." in errors
    assert "Traceback" not in errors and not output
    assert not processes(temporary)
    assert not list(temporary.iterdir())
    assert sorted(path.name for path in small_build.iterdir()) == before


@pytest.mark.accelerator
def test_a_simulation_that_is_killed(command: Command, small_build: Path, temporary: Path) -> None:
    process = start_simulation(small_build, temporary)
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    wait_until_alone(temporary)
    assert list(temporary.iterdir())  # it had no time to remove it, so the next one does
    assert command("simulate", small_build, "--count", 1).code == 0
    assert not list(temporary.iterdir())


def start_simulation(build: Path, temporary: Path) -> subprocess.Popen[str]:
    """A simulation in which the simulator has begun with the images."""
    images = DIGITS / "digits.npz"
    process = start(temporary, "simulate", build, "--images", images, "--count", IMAGES)
    until(lambda: list(temporary.glob("*/results.jsonl")), process)
    assert any("testbench" in line for line in processes(temporary))
    return process


def start_compiling(temporary: Path, folder: Path) -> subprocess.Popen[str]:
    """A compilation in which XLS is at work, since its cache is empty."""
    cache = str(folder / "cache")
    process = start(temporary, "compile", MODEL, "-o", folder / "build", VITESSERA_CACHE=cache)
    until(lambda: list(temporary.glob("*/*/*.x")), process)
    return process


@pytest.mark.slow
def test_a_compilation_that_is_stopped(tmp_path: Path, temporary: Path) -> None:
    process = start_compiling(temporary, tmp_path)
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, errors
    wait_until_alone(temporary)
    assert not list(temporary.iterdir())
    assert not (tmp_path / "build").exists()


@pytest.mark.slow
def test_a_compilation_that_is_killed(command: Command, tmp_path: Path, temporary: Path) -> None:
    process = start_compiling(temporary, tmp_path)
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    wait_until_alone(temporary)
    assert list(temporary.iterdir())
    assert command("compile", MODEL, "-o", tmp_path / "build").code == 0
    assert not list(temporary.iterdir())


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN);"
        "from vitessera.cli.stopping import stoppable\n"
        "with stoppable(): signal.raise_signal(signal.SIGHUP); print('still here')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "still here\n", done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_whose_exception_python_drops_is_sent_again(number: signal.Signals) -> None:
    code = (
        "import signal, time\n"
        "from vitessera.cli.stopping import stoppable\n"
        "class Struck:\n"
        f"    def __del__(self): signal.raise_signal({int(number)})\n"
        "try:\n"
        "    with stoppable():\n"
        "        Struck()\n"
        "        time.sleep(60)\n"
        "        print('it went on')\n"
        "except KeyboardInterrupt as stop:\n"
        "    print(type(stop).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    expected = "KeyboardInterrupt" if number == signal.SIGINT else "Stopped"
    assert (done.stdout, done.stderr) == (f"{expected}\n", "")


def test_other_exceptions_that_python_drops_are_shown() -> None:
    code = (
        "from vitessera.cli.stopping import stoppable\n"
        "class Broken:\n"
        "    def __del__(self): raise ValueError('of a destructor')\n"
        "with stoppable(): Broken()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "of a destructor" in done.stderr
