"""What the tests of the command line share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from vitessera.cli.main import main

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    output: str
    errors: str


Command = Callable[..., Outcome]


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2 and one paragraph that holds `words`."""
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.errors
    # Before the message: the stages that went well, and argparse's usage line.
    message = outcome.errors.split("error: ")[-1].strip()
    assert message, outcome
    assert "\n\n" not in message
    folded = " ".join(message.split())
    for word in words:
        assert word in folded, f"{word!r} is not in: {folded}"


# --- Fixtures, which conftest.py of a folder takes from here


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is taken for the system's temporary folder."""
    # A short name: the simulated board has sockets there, whose paths may have 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="t", dir=tmp_path.parent))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], temporary: Path) -> Command:
    """Runs the command line in this process, with a temporary folder of its own."""
    del temporary

    def run(*arguments: object) -> Outcome:
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse: --help, or a wrong argument
            code = int(stop.code or 0)
        printed = capsys.readouterr()
        return Outcome(code, printed.out, printed.err)

    return run


@pytest.fixture
def needs_pynq() -> None:
    """Skips the test where there is no PYNQ."""
    pytest.importorskip("pynq", reason="pynq is not installed: pip install pynq")
