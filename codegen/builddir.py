"""The build directory: everything `compile` produces, self-contained and checked when read.

manifest.json   version, model, configuration, design hash, hash of every file below
hls/            DSLX sources, generated config.x and isa.x included
rtl/            Verilog of the whole accelerator, top module `accelerator`
program/        instructions, packed weights, description; program.txt is the readable form
reports/        quantisation error of every value, resources of the program
images.npz      some of the calibration images, for `simulate`
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from .config import HardwareConfig
from .errors import BuildDirectoryError, OutputError
from .images import Array
from .program import Program, load_program, save_program
from .toplevel import Rtl

FORMAT = 1  # of the directory; raise when older ones cannot be read any more
MANIFEST = "manifest.json"
_COMPILE_AGAIN = "Compile the model again."


@dataclass(frozen=True)
class Build:
    """What a build directory holds.

    Attributes:
        model: file name of the model.
        program: instructions, weights, descriptions.
        rtl: the generated hardware.
        sources: DSLX file name → text.
        reports: file name → text.
        images: float [n, channels, height, width], some of the calibration images.
    """

    model: str
    program: Program
    rtl: Rtl
    sources: dict[str, str]
    reports: dict[str, str]
    images: Array

    @property
    def config(self) -> HardwareConfig:
        """The accelerator's configuration."""
        return self.program.config


def check_output(folder: Path) -> None:
    """Raises OutputError unless `folder` is free, or a build directory that may be replaced."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise OutputError(
            f"{folder} holds files that vitessera did not write.",
            "Give an empty or new folder with -o.",
        )
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file.", "Give an empty or new folder with -o.")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".vitessera-"):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written ({error.strerror or error}).",
        "Give a folder on a disk with space, where you may write, with -o.",
    )


def write_build(build: Build, folder: Path) -> None:
    """Writes `build` to `folder`; complete or not at all.

    Raises:
        OutputError: the folder is not free or cannot be written.
    """
    check_output(folder)
    try:
        # Beside the folder, so that putting it in place is one rename.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".vitessera-") as scratch:
            staged = Path(scratch, "build")
            _write_files(build, staged)
            if folder.exists():
                folder.replace(Path(scratch, "replaced"))
            staged.replace(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_files(build: Build, folder: Path) -> None:
    texts = {
        "hls": build.sources,
        "rtl": dict(build.rtl.files),
        "reports": build.reports,
    }
    for name, files in texts.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text, encoding="utf-8")
    (folder / "program").mkdir()
    save_program(build.program, folder / "program")
    np.savez_compressed(folder / "images.npz", images=build.images)
    manifest = {
        "format": FORMAT,
        "vitessera": version("vitessera"),
        "model": build.model,
        "config": json.loads(build.config.to_json()),
        "design_hash": f"{build.rtl.design_hash:016x}",
        "files": {str(path.relative_to(folder)): _digest(path) for path in _files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_build(folder: Path) -> Build:
    """The build in `folder`, after checking that it is whole and of this version.

    Raises:
        BuildDirectoryError: it is not a build directory, from another version, or changed.
    """
    manifest = _read_manifest(folder)
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise BuildDirectoryError(f"{path} is missing.", _COMPILE_AGAIN)
        if _digest(path) != digest:
            raise BuildDirectoryError(f"{path} has changed since it was compiled.", _COMPILE_AGAIN)
    with np.load(folder / "images.npz") as content:
        images = content["images"]
    return Build(
        model=manifest["model"],
        program=load_program(folder / "program"),
        rtl=Rtl(_texts(folder / "rtl"), int(manifest["design_hash"], 16)),
        sources=_texts(folder / "hls"),
        reports=_texts(folder / "reports"),
        images=images,
    )


def _texts(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        written = manifest["format"], manifest["vitessera"]
        _ = manifest["files"], manifest["model"], int(manifest["design_hash"], 16)
    except OSError as error:
        raise BuildDirectoryError(
            f"{folder} is not a build directory: {MANIFEST} cannot be read "
            f"({error.strerror or error}).",
            "Give a folder that 'vitessera compile -o' wrote.",
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BuildDirectoryError(f"{path} is damaged ({error}).", _COMPILE_AGAIN) from error
    if written != (FORMAT, version("vitessera")):
        raise BuildDirectoryError(
            f"{folder} was written by vitessera {written[1]} (format {written[0]}); this is "
            f"{version('vitessera')} (format {FORMAT}).",
            _COMPILE_AGAIN,
        )
    return manifest
