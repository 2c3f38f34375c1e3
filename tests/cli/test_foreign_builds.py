"""Build directories from elsewhere, checksums and all: what commands take from them, what not."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import DIGITS, Command, assert_refused
from host_support import vouch
from vitessera.codegen import buildfiles
from vitessera.codegen.boardfile import EXAMPLE
from vitessera.codegen.builddir import read_build
from vitessera.codegen.errors import BuildDirectoryError
from vitessera.codegen.toplevel import RTL_FILES, generate

BUILDING = (("simulate",), ("report", "--resources"), ("package",))
MARK = "was-here"


def listed(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "manifest.json").read_text())["files"])


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def add(folder: Path, name: str, content: bytes) -> None:
    """Adds a file under that name, wherever it leads, and has the manifest vouch for it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit_manifest(folder, lambda manifest: manifest["files"].update({name: digest}))


# --- Names


def test_the_table_of_names_is_what_compile_writes(digits_build: Path) -> None:
    # The tail is of networks that were cut: tests/field/test_tails.py.
    assert listed(digits_build).keys() | {"tail.onnx"} == buildfiles.known_names()
    assert generate(read_build(digits_build).config).files.keys() == RTL_FILES


FOREIGN_NAMES = (
    "rtl/evil.cpp",
    "rtl/evil.sv",
    "rtl/Accelerator.v",
    "rtl/./core.v",
    "rtl//core.v",
    "rtl/../outside.v",
    "rtl/../../outside.v",
    "rtl/more/core.v",
    "hls/evil.x",
    "vivado/ip/hdl/evil.v",
    "vivado/evil.tcl",
    "vivado/bitstream/vitessera.bit",
    "reports/evil.txt",
    "program/evil.bin",
    "evil.so",
    "simulation.json",
    "manifest.json",
    "rtl/\x1b[2Jcore.v",
)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_names_that_vitessera_does_not_write(damaged: Path, name: str) -> None:
    if name != "manifest.json":
        add(damaged, name, b"int main() {}")
    edit_manifest(damaged, lambda manifest: manifest["files"].update({name: "0" * 64}))
    with pytest.raises(BuildDirectoryError, match="a file that vitessera does not write") as caught:
        read_build(damaged, check_rtl=False)
    assert f"manifest.json names {name!r}" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("arguments", [*BUILDING, ("report",), ("simulate", "--foreign-rtl")])
def test_such_a_name_is_refused_by(
    command: Command, damaged: Path, arguments: tuple[str, ...]
) -> None:
    add(damaged, "rtl/evil.cpp", b"int main() {}")
    words = ("'rtl/evil.cpp', a file that vitessera does not write", "Compile the model again")
    assert_refused(command(*arguments, damaged), *words)


@pytest.mark.parametrize("prefix", ["", "rtl/", "vivado/ip/hdl/"])
def test_names_that_lead_anywhere(
    command: Command, damaged: Path, tmp_path: Path, prefix: str
) -> None:
    """`scratch / name` once wrote to absolute paths, as the simulator was built."""
    target = tmp_path / MARK
    add(damaged, f"{prefix}{target}", b"x")
    target.write_bytes(b"x")
    outcome = command("simulate", damaged, "--foreign-rtl")
    assert_refused(outcome, "a file that vitessera does not write")
    assert target.read_bytes() == b"x"


# --- Content

# What is generated → what a forger adds to it.
FORGED = {
    "rtl/core.v": '\nmodule evil; initial $system("touch {}"); endmodule\n',
    "rtl/fifo.v": '\nmodule evil; reg [7:0] m [0:9]; initial $readmemh("{}", m); endmodule\n',
    "rtl/accelerator.v": '\n`include "{}"\n',
    "hls/config.x": "\n// {}\n",
    "vivado/Makefile": "\nbitstream: ; touch {}\n",
    "vivado/build.tcl": "\nexec touch {}\n",
    "vivado/block_design.tcl": "\nexec touch {}\n",
    "vivado/constraints.xdc": "\nexec touch {}\n",
    "vivado/ip/hdl/core.v": '\nmodule evil; initial $system("touch {}"); endmodule\n',
    "vivado/ip/xgui/accelerator.tcl": "\nexec touch {}\n",
    "vivado/ip/component.xml": "<!-- {} -->",
    "vivado/vitessera.hwh": "<!-- {} -->",
    "reports/registers.json": "\n",
}


@pytest.mark.parametrize("name", FORGED)
def test_sources_that_vitessera_does_not_generate(damaged: Path, tmp_path: Path, name: str) -> None:
    content = (damaged / name).read_bytes() + FORGED[name].format(tmp_path / MARK).encode()
    vouch(damaged, name, content)
    with pytest.raises(BuildDirectoryError, match="is not what this vitessera generates") as caught:
        read_build(damaged)
    assert str(damaged / name) in str(caught.value)


@pytest.mark.parametrize("arguments", BUILDING)
def test_such_a_source_is_refused_by(
    command: Command, damaged: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    mark = tmp_path / MARK
    core = (damaged / "rtl" / "core.v").read_bytes() + FORGED["rtl/core.v"].format(mark).encode()
    vouch(damaged, "rtl/core.v", core)
    words = ("rtl/core.v is not what this vitessera generates", "Compile the model again")
    assert_refused(command(*arguments, damaged), *words, "only if you trust", "--foreign-rtl")
    assert not mark.exists()
    assert command("report", damaged).code == 0  # nothing is built from it


@pytest.mark.parametrize("name", ["vivado/build.tcl", "vivado/ip/hdl/core.v"])
def test_sources_that_are_not_listed(damaged: Path, name: str) -> None:
    edit_manifest(damaged, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BuildDirectoryError, match=f"{name} is not what this vitessera generates"):
        read_build(damaged)


def test_a_design_hash_of_another_design(command: Command, damaged: Path) -> None:
    edit_manifest(damaged, lambda manifest: manifest.update(design_hash=f"{7:016x}"))
    words = ("the design hash in the manifest is 0000000000000007, not", "--foreign-rtl")
    assert_refused(command("simulate", damaged), *words)


def test_foreign_rtl_goes_into_a_package_when_asked_to(
    command: Command, damaged: Path, tmp_path: Path
) -> None:
    vouch(damaged, "rtl/core.v", (damaged / "rtl" / "core.v").read_bytes() + b"\n")
    target = tmp_path / "x.tar.gz"
    assert command("package", damaged, "-o", target).code == 2
    assert not target.exists()
    assert command("package", damaged, "-o", target, "--foreign-rtl").code == 0


# --- Configurations


def test_a_configuration_that_no_accelerator_has(command: Command, damaged: Path) -> None:
    path = damaged / "program" / "program.json"
    program = json.loads(path.read_text())
    program["config"]["tile"] = 5
    vouch(damaged, "program/program.json", json.dumps(program).encode())
    words = ("program.json: does not describe a program", "tile is 5", "Compile the model again")
    assert_refused(command("simulate", damaged), *words)


@pytest.mark.parametrize("config", [{"tile": 16}, {"board": "kv260"}, {"tile": 8.0}, {"side": 8}])
def test_two_configurations(command: Command, damaged: Path, config: dict[str, object]) -> None:
    edit_manifest(damaged, lambda manifest: manifest["config"].update(config))
    words = ("manifest.json and program/program.json name different configurations",)
    if config == {"tile": 8.0}:  # is the same number, but not for the host
        assert_refused(command("package", damaged), "the configuration's tile is 8.0")
    else:
        assert_refused(command("simulate", damaged), *words)


# --- Boards of which a build directory knows less


@pytest.mark.parametrize("board", ["custom", "my-board"])
def test_what_is_compared_without_a_board_that_is_known(
    command: Command, tmp_path: Path, board: str
) -> None:
    """Of a board in a user's file, the scripts cannot be generated again; the rest can."""
    (tmp_path / "none.toml").write_text('board = "custom"\n')
    (tmp_path / "my-board.toml").write_text(EXAMPLE)
    target = ("--config", tmp_path / "none.toml")
    if board == "my-board":
        target = ("--board", tmp_path / "my-board.toml")
    folder = tmp_path / "build"
    assert command("compile", DIGITS / "vit_digits.onnx", "-o", folder, *target).code == 0
    read_build(folder)
    scripts = {"vivado/Makefile"} if board == "custom" else set()
    for name in {"rtl/core.v", "vivado/ip/component.xml"} | scripts:
        original = (folder / name).read_bytes()
        vouch(folder, name, original + b"\n")
        with pytest.raises(BuildDirectoryError, match=f"{name} is not what this vitessera"):
            read_build(folder)
        vouch(folder, name, original)
    if board == "custom":
        add(folder, "vivado/build.tcl", b"exec touch x")
        with pytest.raises(BuildDirectoryError, match=r"build\.tcl is not what this vitessera"):
            read_build(folder)


# --- Where the result of a simulation goes


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_a_result_that_would_go_elsewhere(
    command: Command, damaged: Path, tmp_path: Path, kind: str
) -> None:
    target, result = tmp_path / MARK, damaged / "simulation.json"
    if kind == "pipe":
        os.mkfifo(result)
    elif kind == "folder":
        result.mkdir()
    else:
        result.symlink_to(target)
    if kind == "link":
        target.write_text("keep this")
    assert_refused(
        command("simulate", damaged), "simulation.json is a link, or no plain file", "Remove it"
    )
    assert (target.read_text() == "keep this") if kind == "link" else not target.exists()


# --- What a package takes along


@pytest.mark.parametrize("kind", [".bit", ".hwh"])
def test_a_bitstream_that_is_a_secret_of_ours(
    command: Command, damaged: Path, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "secret").write_text("key")
    bitstream = damaged / "vivado" / "bitstream" / "vitessera"
    bitstream.parent.mkdir()
    for suffix in (".bit", ".hwh"):
        bitstream.with_suffix(suffix).write_text("x")
    bitstream.with_suffix(kind).unlink()
    bitstream.with_suffix(kind).symlink_to(tmp_path / "secret")
    target = tmp_path / "x.tar.gz"
    outcome = command("package", damaged, "-o", target)
    words = (f"vitessera{kind} is a link that leads out", "--without-bitstream")
    assert_refused(outcome, *words)
    assert not target.exists()


@pytest.mark.parametrize("content", [b"", b"PK", b"text"])
def test_images_that_are_none(command: Command, damaged: Path, content: bytes) -> None:
    vouch(damaged, "images.npz", content)
    words = ("images.npz: not a file of numpy arrays", "Compile the model again")
    assert_refused(command("simulate", damaged), *words)
