from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from command_line import DIGITS, Command, Outcome
from vitessera.cli.main import main

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("host", "importer")]


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


@pytest.fixture(scope="session")
def digits_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model, compiled once."""
    folder = tmp_path_factory.mktemp("digits") / "build"
    arguments = ["compile", str(DIGITS / "vit_digits.onnx"), "-o", str(folder)]
    assert main([*arguments, "--calibration", str(DIGITS / "digits.npz")]) == 0
    return folder


@pytest.fixture
def damaged(digits_build: Path, tmp_path: Path) -> Path:
    """A copy of the digits build, to be damaged."""
    return Path(shutil.copytree(digits_build, tmp_path / "build"))
