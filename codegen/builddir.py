"""The build directory: everything `compile` produces, self-contained and checked when read.

manifest.json   version, model, configuration, design hash, what hosts do to images, class names,
                hash of every file below
hls/            DSLX sources, generated config.x and isa.x included
rtl/            Verilog of the whole accelerator, top module `accelerator`
program/        instructions, packed weights, description, and the host's tables (hostlayout.py)
reports/        quantisation error of every value, resources of the program
vivado/         the bitstream's sources: packaged IP, scripts; `make -C vivado bitstream`
images.npz      some of the calibration images, for `simulate`

`simulate` adds simulation.json, its result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from ..host.build import FORMAT, MANIFEST, check_types, reading_manifest
from ..host.imagesets import Array
from ..host.preprocessing import Preprocessing
from ..host.reading import reading
from .config import HardwareConfig
from .errors import BuildDirectoryError, OutputError
from .hostlayout import host_layout
from .program import Program, load_program, save_program
from .schedule.timing import estimate
from .scratch import ScratchFolder
from .toplevel import Rtl

# What a manifest must vouch for; the rest hangs on these.
ESSENTIAL = {"images.npz", "rtl/accelerator.v", "rtl/core.v", "rtl/shell.v"} | {
    f"program/{name}" for name in ("program.bin", "program.json", "weights.bin", "layout.npz")
}
RESULT_FILE = "simulation.json"  # of the last simulation; `report` shows its cycles by layer
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
        vivado: path below vivado/ → text.
        images: float [n, ...] as the model takes them, some of the calibration images.
        preprocessing: from image files to what the network takes, and the names of its classes;
            None when nothing is known.
        device_names: what the board that it is for calls itself; empty for any.
    """

    model: str
    program: Program
    rtl: Rtl
    sources: dict[str, str]
    reports: dict[str, str]
    vivado: dict[str, str]
    images: Array
    preprocessing: Preprocessing | None = None
    device_names: tuple[str, ...] = ()

    @property
    def config(self) -> HardwareConfig:
        """The accelerator's configuration."""
        return self.program.config


def check_output(folder: Path) -> None:
    """Raises OutputError unless `folder` is free, or a build directory that may be replaced."""
    try:
        reason = _not_free(folder)
        if reason is None:
            # Tried where the first new folder would go; nothing stays behind if compiling fails.
            existing = next(parent for parent in folder.resolve().parents if parent.exists())
            with ScratchFolder(existing):
                pass
    except OSError as error:
        raise _unwritable(folder, error) from error
    if reason is not None:
        raise OutputError(f"{folder} {reason}.", "Give an empty or new folder with -o.")


def _not_free(folder: Path) -> str | None:
    """Why `folder` must not be replaced, None if it may."""
    if not folder.exists():
        return None
    if not folder.is_dir():
        return "is a file"
    if Path.cwd().is_relative_to(folder.resolve()):
        return "is the current folder, or holds it, and cannot be replaced"
    if folder.is_mount():
        return "is a mount point and cannot be replaced"
    foreign = sorted({str(path.relative_to(folder)) for path in _files(folder)} - _own(folder))
    if foreign:
        return f"holds files that vitessera did not write, such as {foreign[0]}"
    return None


def _own(folder: Path) -> set[str]:
    """Files in `folder` that vitessera wrote, by the folder's manifest; of any version."""
    try:
        files = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return {*files, MANIFEST, RESULT_FILE} if isinstance(files, dict) else set()


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
        target = folder.resolve()  # a link stays, what it points to is written
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the folder, so that putting it in place is one rename.
        with ScratchFolder(target.parent) as scratch:
            staged = Path(scratch, "build")
            _write_files(build, staged)
            if target.exists():
                target.replace(Path(scratch, "replaced"))
            staged.replace(target)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _write_files(build: Build, folder: Path) -> None:
    texts = {
        "hls": build.sources,
        "rtl": dict(build.rtl.files),
        "reports": build.reports,
        "vivado": build.vivado,
    }
    for name, files in texts.items():
        for file, text in files.items():
            path = folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    (folder / "program").mkdir()
    save_program(build.program, folder / "program")
    tables: dict[str, Any] = host_layout(build.program)
    np.savez_compressed(folder / "program" / "layout.npz", **tables)
    np.savez_compressed(folder / "images.npz", images=build.images)
    manifest = {
        "format": FORMAT,
        "vitessera": version("vitessera"),
        "model": build.model,
        "config": json.loads(build.config.to_json()),
        "preprocessing": build.preprocessing and build.preprocessing.to_dict(),
        "device_names": build.device_names,
        "design_hash": f"{build.rtl.design_hash:016x}",
        "expected_cycles": estimate(build.program).cycles,
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
    with reading(folder, BuildDirectoryError, "not a whole build directory", _COMPILE_AGAIN):
        return _read_build(folder)


def _read_build(folder: Path) -> Build:
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
        rtl=Rtl(_texts(folder, manifest, "rtl"), int(manifest["design_hash"], 16)),
        sources=_texts(folder, manifest, "hls"),
        reports=_texts(folder, manifest, "reports"),
        vivado=_texts(folder, manifest, "vivado"),
        images=images,
        preprocessing=_preprocessing(folder, manifest),
        device_names=tuple(manifest.get("device_names", ())),
    )


def _preprocessing(folder: Path, manifest: dict[str, Any]) -> Preprocessing | None:
    values = manifest.get("preprocessing", {})  # which is refused, as a damaged one is
    return None if values is None else Preprocessing.from_dict(values, folder / MANIFEST)


def _texts(folder: Path, manifest: dict[str, Any], part: str) -> dict[str, str]:
    """The files of one sub-folder, by path in it; only those that the manifest vouches for."""
    prefix = f"{part}/"
    names = sorted(name for name in manifest["files"] if name.startswith(prefix))
    return {
        name.removeprefix(prefix): (folder / name).read_text(encoding="utf-8") for name in names
    }


def _read_manifest(folder: Path) -> dict[str, Any]:
    with reading_manifest(folder):
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        written = manifest["format"], manifest["vitessera"]
        check_types(manifest)
        _ = manifest["model"], int(manifest["design_hash"], 16)
        if missing := ESSENTIAL - manifest["files"].keys():
            raise KeyError(*sorted(missing))
    if written != (FORMAT, version("vitessera")):
        raise BuildDirectoryError(
            f"{folder} was written by vitessera {written[1]} (format {written[0]}); this is "
            f"{version('vitessera')} (format {FORMAT}).",
            _COMPILE_AGAIN,
        )
    return manifest
