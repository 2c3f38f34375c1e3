"""What a board needs of a build directory, in one archive: no internet, no compiler there.

    <model>-<board>/manifest.json, program/, reports/registers.json    what the host reads
                    images.npz                                         something to run
                    tail.onnx                                          of a network that was cut
                    vivado/bitstream/                                  where there is one
                    vitessera-<version>-py3-none-any.whl               this vitessera

The same build directory gives the same bytes: order, owners and times in the archive are fixed.
"""

from __future__ import annotations

import gzip
import importlib.util
import io
import os
import re
import sys
import tarfile
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ..host.build import BITSTREAM, MANIFEST, TAIL, BuildFiles, read_compiled
from ..host.interface import OVERLAY
from . import children
from .builddir import Build, read_build
from .buildfiles import IMAGES, LAYOUT, REGISTERS
from .errors import BuildDirectoryError, ToolError
from .outputfile import OutputFile
from .program import PROGRAM_FILES
from .scratch import ScratchFolder

if TYPE_CHECKING:
    from importlib.abc import Traversable

DISTRIBUTION = "vitessera"
MODULES = ("cli", "codegen", "hls", "host", "sim")  # the packages of the distribution
WHEEL_FILE = """\
Wheel-Version: 1.0
Generator: vitessera
Root-Is-Purelib: true
Tag: py3-none-any
"""
# Of every file in the archive: 1980, as early as a zip file, which a wheel is, can say.
TIMESTAMP = 315_532_800
FILE_MODE = 0o644


@dataclass(frozen=True)
class Package:
    """An archive for a board.

    Attributes:
        path: of the archive.
        folder: what it unpacks to.
        wheel: name of the wheel in that folder.
        bitstream: whether there is one in it.
        for_board: whether there is a block design, from which Vivado makes one.
    """

    path: Path
    folder: str
    wheel: str
    bitstream: bool
    for_board: bool


def package_name(build: Build) -> str:
    """What the package of `build` is called, model and board: a name for a file and a folder."""
    return re.sub(r"^\W|[^\w .-]", "_", f"{Path(build.model).stem}-{build.config.board}")


def write_package(
    folder: Path,
    target: Path | None = None,
    bitstream: bool = True,
    *,
    check_rtl: bool = True,
) -> Package:
    """Packs the build directory `folder`; the archive is complete or not there at all.

    Args:
        folder: a build directory, as `compile` wrote it.
        target: the archive, .tar.gz; named after model and board if there is none.
        bitstream: whether to pack the bitstream, if there is one.
        check_rtl: as for `read_build`. It says nothing of the bitstream, which nobody can check.

    Raises:
        BuildDirectoryError: the build directory is damaged, of another version, or not ours.
        OutputError: the archive cannot be written, or something else is in its place.
        ToolError: the package `wheel` is missing, or this vitessera was not installed by pip.
    """
    build = read_build(folder, check_rtl=check_rtl)
    read_compiled(folder)  # as the board will
    name = package_name(build)
    archive = OutputFile(target or Path(f"{name}.tar.gz"), "package -o")
    files = _contents(folder, bitstream)
    with archive.writing() as staged:
        wheel = make_wheel(staged.parent)
        files[wheel.name] = wheel.read_bytes()
        _write_archive(staged, name, files, archive.mark)
    for_board = f"{OVERLAY}.hwh" in build.vivado
    return Package(archive.path, name, wheel.name, BITSTREAM in files, for_board)


# --- The archive


def _contents(folder: Path, bitstream: bool) -> dict[str, bytes]:
    """Path in the build directory → content."""
    source = BuildFiles(folder)
    names = sorted([IMAGES, LAYOUT, *(f"program/{name}" for name in PROGRAM_FILES)])
    if TAIL in source.manifest["files"]:
        names.append(TAIL)
    contents = {MANIFEST: source.text}
    contents |= {name: source.read(name) for name in (*names, f"reports/{REGISTERS}")}
    if bitstream and has_bitstream(folder):
        contents |= {name: _read(folder, name) for name in _bitstream_files()}
    return contents


def _bitstream_files() -> tuple[str, str]:
    return BITSTREAM, str(PurePosixPath(BITSTREAM).with_suffix(".hwh"))


def has_bitstream(folder: Path) -> bool:
    """Whether Vivado has left both files that PYNQ loads."""
    return all((folder / path).is_file() for path in _bitstream_files())


def _read(folder: Path, name: str) -> bytes:
    """A file that the manifest does not vouch for."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        # It would take whatever file a foreign build directory points to along to the board.
        raise BuildDirectoryError(
            f"{path} is a link that leads out of the build directory.",
            "Copy the file there, or pack without it: --without-bitstream.",
        )
    try:
        return path.read_bytes()
    except OSError as error:
        raise BuildDirectoryError(
            f"{path} cannot be read ({error.strerror or error}).",
            "Make it readable, or compile the model again.",
        ) from error


def _write_archive(path: Path, folder: str, files: dict[str, bytes], mark: str) -> None:
    """Writes `path`; `mark` stands where gzip keeps the name of what it packed."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename=mark, mode="wb", fileobj=raw, mtime=TIMESTAMP) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(content), TIMESTAMP, FILE_MODE
            archive.addfile(entry, io.BytesIO(content))


# --- The wheel


def make_wheel(folder: Path) -> Path:
    """Writes a wheel of this vitessera into `folder`, from its installed files.

    How it was installed does not matter, and neither a source tree nor a build backend is needed.

    Raises:
        ToolError: the package `wheel` is missing, or this vitessera was not installed by pip.
        OSError: `folder` cannot be written.
    """
    if importlib.util.find_spec("wheel") is None:
        raise ToolError(
            "The Python package wheel is not installed.", "Run: pip install 'vitessera[compile]'."
        )
    with ScratchFolder(folder) as scratch:
        content = Path(scratch, "content")
        for module in MODULES:
            _copy(resources.files(f"{DISTRIBUTION}.{module}"), content / DISTRIBUTION / module)
        _write_metadata(content)
        return _zip(content, folder)


def _copy(source: Traversable, target: Path) -> None:
    """Copies a folder; neither byte code nor hidden files."""
    for entry in source.iterdir():
        if entry.name == "__pycache__" or entry.name.startswith("."):
            continue
        if entry.is_dir():
            _copy(entry, target / entry.name)
        else:
            _write(target / entry.name, entry.read_bytes())


def _write_metadata(content: Path) -> None:
    """The .dist-info folder, but for RECORD."""
    own = [
        file
        # A source tree on the path has metadata, too, but not those of an installation.
        for distribution in metadata.distributions(name=DISTRIBUTION)
        for file in distribution.files or ()
        if file.parts[0].endswith(".dist-info")
    ]
    # The others say how this installation came about.
    kept = [file for file in own if _travels(PurePosixPath(*file.parts[1:]))]
    if not kept:
        raise ToolError(
            "This vitessera was not installed by pip, so its metadata are not there to be packed.",
            "Install it with pip, in a virtual environment.",
        )
    for file in kept:
        _write(content / file, file.read_binary())
    _write(content / kept[0].parts[0] / "WHEEL", WHEEL_FILE.encode())


def _travels(path: PurePosixPath) -> bool:
    return str(path) in ("METADATA", "entry_points.txt") or path.parts[0] == "licenses"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(FILE_MODE)  # whatever the umask: it is recorded in the wheel


def _zip(content: Path, folder: Path) -> Path:
    """Has `wheel pack` write RECORD and the wheel; with fixed times."""
    made = children.run(
        [sys.executable, "-m", "wheel", "pack", str(content), "--dest-dir", str(folder)],
        env=os.environ | {"SOURCE_DATE_EPOCH": str(TIMESTAMP)},
        cwd=content.parent,  # where no module lies that could be taken for `wheel`
    )
    if made.returncode != 0:
        reason = made.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ToolError(
            f"'wheel pack' failed: {reason[0]}.",
            "If it is not the disk that is full: pip install --upgrade wheel.",
        )
    return next(folder.glob("*.whl"))
