from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from command_line import DIGITS, command, needs_pynq, temporary
from vitessera.cli.main import main

__all__ = ["command", "damaged", "digits_build", "needs_pynq", "temporary"]

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("host", "importer")]


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
