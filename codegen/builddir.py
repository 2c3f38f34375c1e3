"""The build directory: everything `compile` produces, self-contained and checked when read.

manifest.json   version, model, configuration, design hash, what hosts do to images, class names,
                hash of every file below
hls/            DSLX sources, generated config.x and isa.x included
rtl/            Verilog of the whole accelerator, top module `accelerator`
program/        instructions, packed weights, description, and the host's tables (hostlayout.py)
reports/        quantisation error of every value, resources of the program
vivado/         the bitstream's sources: packaged IP, scripts; `make -C vivado bitstream`
images.npz      some of the calibration images, for `simulate`
accelerator.toml  the configuration, complete: `compile --config` takes it
tail.onnx       what the host does behind the accelerator; only of networks that were cut

`simulate` adds simulation.json, its result. A model that is compiled again to the same program and
RTL, with other pictures or classes, keeps it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..host.build import (
    FORMAT,
    MANIFEST,
    TAIL,
    BuildFiles,
    read_tasks,
    reading_manifest,
    unpack_arrays,
)
from ..host.imagesets import Array
from ..host.preprocessing import Preprocessing
from ..host.reading import reading
from ..host.tail import Tail
from ..host.tasks import Task
from .buildfiles import CONFIG, IMAGES, check_generated, known_names, required_names
from .config import HardwareConfig
from .errors import BuildDirectoryError, OutputError
from .hostlayout import host_layout
from .outputfile import JsonFile, is_regular, is_there, resolved, staging
from .program import PROGRAM_FILES, Program, parse_program_files, save_program
from .schedule.timing import estimate
from .toplevel import Rtl

RESULT_FILE = "simulation.json"  # of the last simulation; `report` shows its cycles by layer
_COMPILE_AGAIN = "Compile the model again into an empty folder."


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
        tail: what the host does behind the accelerator; None for nothing.
        tasks: what each result means, by its ONNX name.
        notes: what is to be known of the model's import; said once, and not kept.
        fabric_mhz: the clock as the board makes it; None for the configured one.
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
    tail: Tail | None = None
    tasks: Mapping[str, Task] = field(default_factory=dict)
    fabric_mhz: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def config(self) -> HardwareConfig:
        """The accelerator's configuration."""
        return self.program.config


def result_file(folder: Path) -> JsonFile:
    """Where `simulate` leaves its result in a build directory.

    Raises:
        BuildDirectoryError: a link is there, or something else by which it would go elsewhere.
    """
    path = folder / RESULT_FILE
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise BuildDirectoryError(
            f"{path} is a link, or no plain file: the result would go elsewhere.", "Remove it."
        )
    return _result(path)


def _result(path: Path) -> JsonFile:
    return JsonFile(path, "simulate", signature=b'"bit_exact": ')


def check_output(folder: Path) -> None:
    """Raises OutputError unless `folder` is free, or a build directory that may be replaced."""
    try:
        place = resolved(folder)
        _check_free(place, folder)
        # Tried where the first new folder would go; nothing stays behind if compiling fails.
        existing = next(parent for parent in place.parents if parent.exists())
        with staging(existing):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from error


def _check_free(place: Path, name: Path) -> None:
    """Raises OutputError, which calls it `name`, if what is at `place` must not be replaced."""
    if (reason := _not_free(place)) is not None:
        raise OutputError(f"{name} {reason}.", "Give an empty or new folder with -o.")
    if place.is_dir() and (reason := _foreign(place)) is not None:
        raise OutputError(
            f"{name} holds {reason}.", "Move it away, or give an empty or new folder with -o."
        )


def _not_free(place: Path) -> str | None:
    if not is_there(place):
        return None
    if place.is_symlink() or not place.is_dir():
        return "is a file" if is_regular(place) else "is no folder"
    if Path.cwd().is_relative_to(place):
        return "is the current folder, or holds it, and cannot be replaced"
    if place.is_mount():
        return "is a mount point and cannot be replaced"
    return None


def _foreign(folder: Path) -> str | None:
    """What is in `folder` and not as vitessera wrote it, by the folder's manifest."""
    files = _vouched(folder)
    folders = {parent for name in files for parent in PurePosixPath(name).parents}
    for path in _entries(folder):
        name = PurePosixPath(path.relative_to(folder))
        if not is_regular(path):
            known = name in folders and path.is_dir() and not path.is_symlink()
        elif str(name) == MANIFEST:
            known = bool(files)
        elif str(name) == RESULT_FILE:
            known = _result(path).is_ours(path)
        else:
            known = str(name) in files
            if known and files[str(name)] != _digest(path):
                return f"{name}, which has changed since vitessera wrote it"
        if not known:
            return f"{name}, which vitessera did not write"
    return None


def _entries(folder: Path) -> Iterator[Path]:
    """All that is below `folder`, a folder before what it holds; links are not followed."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path))


def _vouched(folder: Path) -> dict[str, str]:
    """File → its hash, of all that vitessera, of any version, wrote to `folder` by its manifest.

    A manifest of ours is known by what no other program writes into one.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8")) if is_regular(path) else {}
        int(manifest["design_hash"], 16), manifest["vitessera"], manifest["format"]
        return dict(manifest["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{folder} cannot be written ({error.strerror or error}).",
        "Give a folder on a disk with space, where you may write, with -o.",
    )


def write_build(build: Build, folder: Path) -> Path:
    """Writes `build` to `folder`; complete or not at all.

    Returns:
        the place that `folder` leads to: a link stays, what it points to is written.

    Raises:
        OutputError: the folder is not free or cannot be written.
    """
    try:
        place = resolved(folder)
        _check_free(place, folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        with staging(place.parent) as scratch:
            staged = scratch / "build"
            _write_files(build, staged)
            if place.exists():
                _check_free(place, folder)  # again: it is about to be deleted
                _keep_result(place, staged)
            _put_in_place(staged, place, scratch / "replaced")
    except OSError as error:
        raise _unwritable(folder, error) from error
    return place


def _keep_result(old: Path, new: Path) -> None:
    """Takes along what was measured of the same program on the same RTL."""
    if is_regular(old / RESULT_FILE) and _measured(old) == _measured(new):
        shutil.copyfile(old / RESULT_FILE, new / RESULT_FILE)


def _measured(folder: Path) -> dict[str, str]:
    """What cycles and outputs depend on: file → its hash."""
    return {
        name: digest
        for name, digest in _vouched(folder).items()
        if name.startswith(("rtl/", "program/"))
    }


def _put_in_place(staged: Path, place: Path, old: Path) -> None:
    """Moves `staged` to `place`, and what was there to `old`; back again if that is interrupted."""
    try:
        if place.exists():
            place.replace(old)
        staged.replace(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.replace(place)
        raise


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
    (folder / CONFIG).write_text(build.config.to_toml(), encoding="utf-8")
    if build.tail is not None:
        (folder / TAIL).write_bytes(build.tail.model)
    manifest = {
        "format": FORMAT,
        "vitessera": version("vitessera"),
        "model": build.model,
        "config": json.loads(build.config.to_json()),
        "preprocessing": build.preprocessing and build.preprocessing.to_dict(),
        "device_names": build.device_names,
        "results": build.tail.results if build.tail else (),
        "tasks": {name: task.to_dict() for name, task in build.tasks.items()},
        "fabric_mhz": build.fabric_mhz or float(build.config.clock_mhz),
        "design_hash": f"{build.rtl.design_hash:016x}",
        "expected_cycles": estimate(build.program).cycles,
        "files": {str(path.relative_to(folder)): _digest(path) for path in _files(folder)},
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class BuiltAccelerator:
    """The accelerator of a build directory.

    Attributes:
        config: its configuration.
        design_hash: two builds with the same one run on the same bitstream.
        device_names, fabric_mhz: as in Build.
    """

    config: HardwareConfig
    design_hash: int
    device_names: tuple[str, ...]
    fabric_mhz: float | None

    def taken_over(self, build: Build) -> Build:
        """`build`, which has this configuration, for the board that this accelerator is on.

        A board that somebody described is known to the first build alone.
        """
        return replace(build, device_names=self.device_names, fabric_mhz=self.fabric_mhz)


def read_accelerator(folder: Path) -> BuiltAccelerator:
    """The accelerator of the build in `folder`, without reading the rest.

    Raises:
        BuildDirectoryError: it is not a build directory, or its manifest is damaged.
        ConfigError: the manifest names a configuration that cannot be.
    """
    manifest = BuildFiles(folder).manifest
    with reading_manifest(folder):
        values, design_hash = dict(manifest["config"]), int(manifest["design_hash"], 16)
        names, clock = tuple(manifest["device_names"]), manifest.get("fabric_mhz")
    config = HardwareConfig.from_dict(values, f"{folder / MANIFEST}, config")
    return BuiltAccelerator(config, design_hash, names, clock)


def read_build(folder: Path, *, check_rtl: bool = True) -> Build:
    """The build in `folder`, after checking that it is whole and of this version.

    Every file is read once; what was checked is what the Build holds.

    Args:
        folder: a build directory.
        check_rtl: whether to generate the RTL, and what else the configuration determines, anew,
            and to compare. Needed before anything is built from them; takes minutes where no
            kernel of the configuration has been compiled yet.

    Raises:
        BuildDirectoryError: it is not a build directory, from another version, or changed; or its
            RTL is not what this vitessera generates.
        ToolError: the HLS compiler is missing, which check_rtl needs.
    """
    with reading(folder, BuildDirectoryError, "not a whole build directory", _COMPILE_AGAIN):
        return _read_build(folder, check_rtl)


def _read_build(folder: Path, check_rtl: bool) -> Build:
    source = BuildFiles(folder)
    _check_manifest(source)
    manifest = source.manifest
    files = {name: source.read(name) for name in manifest["files"]}
    program = _program(files, folder)
    if json.loads(program.config.to_json()) != manifest["config"]:
        raise BuildDirectoryError(
            f"{folder}: manifest.json and program/program.json name different configurations.",
            _COMPILE_AGAIN,
        )
    design_hash = int(manifest["design_hash"], 16)
    if check_rtl:
        rtl = check_generated(files, design_hash, program.config, folder)
    else:
        rtl = Rtl(_texts(files, "rtl", folder), design_hash)
    return Build(
        model=manifest["model"],
        program=program,
        rtl=rtl,
        sources=_texts(files, "hls", folder),
        reports=_texts(files, "reports", folder),
        vivado=_texts(files, "vivado", folder),
        images=_images(files, folder),
        preprocessing=_preprocessing(folder, manifest),
        device_names=tuple(manifest["device_names"]),
        tail=_tail(files, manifest),
        tasks=read_tasks(manifest),
        fabric_mhz=manifest.get("fabric_mhz"),
    )


def _tail(files: Mapping[str, bytes], manifest: dict[str, Any]) -> Tail | None:
    return Tail(files[TAIL], tuple(manifest["results"])) if TAIL in files else None


def _images(files: Mapping[str, bytes], folder: Path) -> Array:
    arrays = unpack_arrays(files[IMAGES], folder / IMAGES)
    if "images" not in arrays:
        raise BuildDirectoryError(f"{folder / IMAGES} holds no images.", _COMPILE_AGAIN)
    return arrays["images"]


def _program(files: Mapping[str, bytes], folder: Path) -> Program:
    contents = {name: files[f"program/{name}"] for name in PROGRAM_FILES}
    return parse_program_files(contents, folder / "program")


def _preprocessing(folder: Path, manifest: dict[str, Any]) -> Preprocessing | None:
    values = manifest.get("preprocessing", {})  # which is refused, as a damaged one is
    return None if values is None else Preprocessing.from_dict(values, folder / MANIFEST)


def _texts(files: Mapping[str, bytes], part: str, folder: Path) -> dict[str, str]:
    """The files of one sub-folder, by path in it."""
    prefix = f"{part}/"
    names = sorted(name for name in files if name.startswith(prefix))
    return {name.removeprefix(prefix): _text(files[name], folder / name) for name in names}


def _text(content: bytes, path: Path) -> str:
    with reading(path, BuildDirectoryError, "not text", _COMPILE_AGAIN):
        return content.decode()


def _check_manifest(source: BuildFiles) -> None:
    """BuildDirectoryError unless the manifest is of this version and names just our files."""
    path, manifest = source.folder / MANIFEST, source.manifest
    with reading_manifest(source.folder):
        written = manifest["format"], manifest["vitessera"]
        _ = manifest["config"], manifest["device_names"], int(manifest["design_hash"], 16)
        if type(manifest["model"]) is not str:
            raise ValueError(f"model is {manifest['model']!r}")
    if written != (FORMAT, version("vitessera")):
        raise BuildDirectoryError(
            f"{source.folder} was written by vitessera {written[1]} (format {written[0]}); this is "
            f"{version('vitessera')} (format {FORMAT}).",
            _COMPILE_AGAIN,
        )
    listed = manifest["files"].keys()
    if missing := sorted(required_names() - listed):
        raise BuildDirectoryError(f"{path} is damaged (no {missing[0]} in it).", _COMPILE_AGAIN)
    if unknown := sorted(listed - known_names()):
        raise BuildDirectoryError(
            f"{path} names {unknown[0]!r}, a file that vitessera does not write.",
            f"It was altered, or something else wrote it. {_COMPILE_AGAIN}",
        )
