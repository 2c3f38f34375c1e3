"""The build directory carries the bitstream's sources."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from vitessera.cli.main import main
from vitessera.codegen.builddir import read_build
from vitessera.codegen.errors import BuildDirectoryError

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits model, compiled for the default board."""
    path = tmp_path_factory.mktemp("digits") / "build"
    arguments = ["compile", str(DIGITS / "vit_digits.onnx"), "-o", str(path)]
    assert main([*arguments, "--calibration", str(DIGITS / "digits.npz")]) == 0
    return path


def test_sources_are_written_hashed_and_read_back(digits: Path) -> None:
    read = read_build(digits).vivado
    listed = json.loads((digits / "manifest.json").read_text())["files"]
    written = {
        path.relative_to(digits / "vivado").as_posix()
        for path in (digits / "vivado").rglob("*")
        if path.is_file()
    }
    assert set(read) == written
    assert {f"vivado/{name}" for name in written} <= set(listed)
    assert {"Makefile", "build.tcl", "vitessera.hwh", "ip/component.xml"} < written


def test_what_vivado_adds_does_not_spoil_the_build(digits: Path) -> None:
    before = read_build(digits)
    (digits / "vivado" / "bitstream").mkdir()
    (digits / "vivado" / "bitstream" / "vitessera.bit").write_bytes(b"\xff\x00")
    assert read_build(digits).vivado == before.vivado


def test_a_changed_script_is_noticed(digits: Path) -> None:
    script = digits / "vivado" / "block_design.tcl"
    text = script.read_text()
    script.write_text(text + "# changed\n")
    try:
        with pytest.raises(BuildDirectoryError, match=r"block_design\.tcl has changed"):
            read_build(digits)
    finally:
        script.write_text(text)


def test_a_clock_that_the_board_cannot_make_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "fast.toml"
    file.write_text('board = "kv260"\nclock_mhz = 700\n')
    output = tmp_path / "build"
    arguments = ["compile", str(DIGITS / "vit_digits.onnx"), "-o", str(output)]
    assert main([*arguments, "--config", str(file)]) == 2
    printed = " ".join(capsys.readouterr().err.split())
    assert "clock_mhz is 700" in printed and "Choose 1000 divided by a whole number" in printed
    assert not output.exists()
