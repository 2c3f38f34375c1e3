"""A model is compiled again into the same folder: what was measured stays while it holds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from vitessera.cli.main import main
from vitessera.codegen.builddir import RESULT_FILE, read_build, result_file

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
MEASURED = {"bit_exact": True, "layer_cycles": {"head": 123}}


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    """A build directory with the result of a simulation."""
    shutil.copy(DIGITS / "vit_digits.onnx", tmp_path)
    build = compiled(tmp_path, ())
    result_file(build).write(MEASURED)
    return build


def compiled(folder: Path, options: Sequence[str]) -> Path:
    arguments = [str(folder / "vit_digits.onnx"), "-o", str(folder / "build"), *options]
    assert main(["compile", *arguments]) == 0
    return folder / "build"


@pytest.mark.slow
def test_with_other_preprocessing_the_measured_cycles_stay(
    simulated: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled(simulated.parent, ("--mean", "0.5", "--std", "0.5", "--resize", "10", "--crop", "8"))
    found = read_build(simulated, check_rtl=False).preprocessing
    assert found is not None and found.resize == 10
    capsys.readouterr()
    assert main(["report", str(simulated)]) == 0
    assert "123" in capsys.readouterr().out


@pytest.mark.slow
def test_with_other_weights_or_another_accelerator_they_go(simulated: Path) -> None:
    compiled(simulated.parent, ("--calibration", str(DIGITS / "digits.npz")))
    assert not (simulated / RESULT_FILE).exists()
