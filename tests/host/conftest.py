"""What the tests of the host runtime share: build directories and accelerators on simulated RTL.

Those that load an overlay need pynq; they are run once with each generation of it (see Makefile).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_support import DIGITS, NO_PYNQ, SMALL, Compile, Open, vouch
from vitessera.codegen.builddir import read_build, write_build
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.pipeline import compile_model
from vitessera.host import Accelerator

sys.path.append(str(Path(__file__).parents[1] / "schedule"))


@pytest.fixture(scope="session")
def digits() -> dict[str, np.ndarray]:
    """images, labels, calibration."""
    with np.load(DIGITS / "digits.npz") as content:
        return dict(content)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, digits: dict[str, np.ndarray]) -> Compile:
    """Compiles the digits model for a configuration; gives the build directory."""

    def make(config: HardwareConfig) -> Path:
        folder = tmp_path_factory.mktemp("model") / "build"
        build = compile_model(DIGITS / "vit_digits.onnx", config, digits["calibration"])
        write_build(build, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def folder(compiled: Compile) -> Path:
    """The digits model, compiled for the small accelerator."""
    return compiled(SMALL)


@pytest.fixture(scope="session")
def stuck(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    """As `folder`, but nobody ever signals, so that the first who waits does so forever."""
    copy = tmp_path_factory.mktemp("stuck") / "build"
    shutil.copytree(folder, copy)
    instructions = read_build(folder).program.instructions
    silent = b"".join(replace(i, signal=0).encode().to_bytes(32, "little") for i in instructions)
    vouch(copy, "program/program.bin", silent)
    return copy


@pytest.fixture
def open_board(folder: Path) -> Iterator[Open]:
    """Opens accelerators on simulated boards, and closes them after the test."""
    pytest.importorskip("pynq", reason=NO_PYNQ)
    opened: list[Accelerator] = []

    def make(path: Path = folder, **options: Any) -> Accelerator:  # noqa: ANN401
        opened.append(Accelerator(path, **{"simulate": True, **options}))
        return opened[-1]

    yield make
    for accelerator in opened:
        accelerator.close()
