"""Several models on one bitstream: a second model takes the accelerator of the first."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import DIGITS, Command, assert_refused
from host_support import SMALL
from onnx_builder import Calm, Recipe, build
from vitessera.codegen.builddir import read_accelerator, write_build
from vitessera.codegen.pipeline import compile_model


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first") / "build"
    return write_build(compile_model(DIGITS / "vit_digits.onnx", SMALL), folder)


@pytest.fixture
def second(tmp_path: Path) -> Path:
    net, output = build(Recipe(), Calm())
    return net.save(tmp_path / "second.onnx", output)


def test_like_takes_the_accelerator_of_a_build(
    command: Command, first: Path, second: Path, tmp_path: Path
) -> None:
    outcome = command("compile", second, "-o", tmp_path / "build", "--like", first)
    assert outcome.code == 0, outcome.errors
    assert read_accelerator(tmp_path / "build") == read_accelerator(first)
    shown = command("boards", "pynq-z2", "--builds", first, tmp_path / "build").output
    assert shown.count(f"{read_accelerator(first).design_hash:016x}") == 2


def test_like_keeps_what_a_board_file_says(
    command: Command, first: Path, second: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(first, tmp_path / "first"))
    manifest = json.loads((other / "manifest.json").read_text(encoding="utf-8"))
    described = {"device_names": ["Mine"], "fabric_mhz": 99.5}
    (other / "manifest.json").write_text(json.dumps(manifest | described), encoding="utf-8")
    assert command("compile", second, "-o", tmp_path / "build", "--like", other).code == 0
    manifest = json.loads((tmp_path / "build" / "manifest.json").read_text(encoding="utf-8"))
    assert {name: manifest[name] for name in described} == described


def test_a_build_holds_its_complete_configuration(
    command: Command, first: Path, second: Path, tmp_path: Path
) -> None:
    complete = first / "accelerator.toml"
    assert len(complete.read_text(encoding="utf-8").splitlines()) == len(SMALL.__dict__)
    outcome = command("compile", second, "-o", tmp_path / "build", "--config", complete)
    assert outcome.code == 0, outcome.errors
    assert read_accelerator(tmp_path / "build") == read_accelerator(first)


def test_an_altered_configuration_file_is_noticed(
    command: Command, first: Path, tmp_path: Path
) -> None:
    outcome = command("compile", first / "x.onnx", "-o", tmp_path / "b", "--like", tmp_path)
    assert_refused(outcome, f"{tmp_path} is not a build directory", "vitessera compile -o")
    manifest = json.loads((first / "manifest.json").read_text(encoding="utf-8"))
    manifest["config"]["tile"] = 5
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    outcome = command("compile", first / "x.onnx", "-o", tmp_path / "b", "--like", tmp_path)
    assert_refused(outcome, "manifest.json, config: Hardware configuration: tile is 5")


def test_boards_names_those_that_a_build_fits(command: Command, first: Path) -> None:
    words = command("boards", "--builds", first).output.split()
    # The SMALL accelerator has a narrow bus and a clock that all boards reach.
    assert {"pynq-z2,", "kv260,", "rfsoc4x2"} <= set(words)
