"""`vitessera package`: what is in the archive, that it does for a board, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import venv
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command_line import Command, Outcome, assert_refused
from host_support import vouch
from vitessera.cli.main import COMMANDS
from vitessera.codegen import package
from vitessera.codegen.errors import ToolError
from vitessera.host.build import read_compiled

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
NAME = "vit_digits-pynq-z2"
WHEEL = f"vitessera-{metadata.version('vitessera')}-py3-none-any.whl"
CONTENT = {
    "manifest.json",
    "images.npz",
    "program/layout.npz",
    "program/program.bin",
    "program/program.json",
    "program/weights.bin",
    "reports/registers.json",
    WHEEL,
}
BITSTREAM = {"vivado/bitstream/vitessera.bit", "vivado/bitstream/vitessera.hwh"}


def unpack(archive: Path, target: Path) -> Path:
    """Unpacks a package; the folder that came out."""
    with tarfile.open(archive) as content:
        # Releases of Python 3.10 and 3.11 before the summer of 2023, as in Debian 12, have none.
        filtered = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        content.extractall(target, **filtered)
    (folder,) = target.iterdir()
    return folder


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def add_bitstream(folder: Path) -> None:
    for path in BITSTREAM:
        (folder / path).parent.mkdir(exist_ok=True, parents=True)
        (folder / path).write_bytes(path.encode())


def install(wheel: Path, target: Path) -> None:
    """Installs a wheel as a board does, but into a folder."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*command, "--target", str(target), str(wheel)], check=True)


@pytest.fixture(scope="module")
def archive(digits_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package of the digits model."""
    target = tmp_path_factory.mktemp("package") / "digits.tar.gz"
    return package.write_package(digits_build, target).path


@pytest.fixture
def unpacked(archive: Path, tmp_path: Path) -> Path:
    """A package, as it lies on the board."""
    return unpack(archive, tmp_path / "board")


# --- What is in it


def test_the_board_finds_all_it_needs(unpacked: Path, digits_build: Path) -> None:
    assert unpacked.name == NAME
    assert files(unpacked) == CONTENT
    here, there = read_compiled(digits_build), read_compiled(unpacked)
    assert there.classes[9] == "nine"
    for name in ("name", "config", "design_hash", "instructions", "weights", "hardware"):
        assert getattr(there, name) == getattr(here, name)
    with np.load(unpacked / "images.npz") as content:
        assert content["images"].shape[1:] == there.image


def test_the_bitstream_travels(command: Command, damaged: Path, tmp_path: Path) -> None:
    add_bitstream(damaged)
    outcome = command("package", damaged, "-o", tmp_path / "with.tar.gz")
    assert (outcome.code, outcome.errors) == (0, "")
    found = unpack(tmp_path / "with.tar.gz", tmp_path / "with")
    assert files(found) == CONTENT | BITSTREAM
    assert read_compiled(found).bitstream.read_text() == "vivado/bitstream/vitessera.bit"
    outcome = command("package", damaged, "-o", tmp_path / "no.tar.gz", "--without-bitstream")
    assert (outcome.code, outcome.errors) == (0, "")
    assert files(unpack(tmp_path / "no.tar.gz", tmp_path / "no")) == CONTENT


@pytest.mark.parametrize("present", [set(), {"bit"}, {"hwh"}])
def test_without_a_whole_bitstream_it_says_what_to_do(
    command: Command, damaged: Path, tmp_path: Path, present: set[str]
) -> None:
    add_bitstream(damaged)
    for path in BITSTREAM:
        if path.rpartition(".")[2] not in present:
            (damaged / path).unlink()
    outcome = command("package", damaged, "-o", tmp_path / "no.tar.gz")
    assert outcome.code == 0
    assert "holds no bitstream" in outcome.errors
    assert f"make -C {damaged}/vivado bitstream" in outcome.errors
    assert files(unpack(tmp_path / "no.tar.gz", tmp_path / "no")) == CONTENT


def test_for_no_board_there_is_no_bitstream_to_make(command: Command, tmp_path: Path) -> None:
    (tmp_path / "none.toml").write_text('board = "custom"\n')
    model = ROOT / "examples" / "digits" / "vit_digits.onnx"
    config = ("--config", tmp_path / "none.toml")
    assert command("compile", model, "-o", tmp_path / "build", *config).code == 0
    outcome = command("package", tmp_path / "build", "-o", tmp_path / "x.tar.gz")
    assert outcome.code == 0
    assert "compiled for no board" in outcome.errors
    assert "make -C" not in outcome.errors


def test_it_says_how_to_go_on(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("package", digits_build)
    assert outcome.code == 0, outcome.errors
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.tar.gz"]
    lines = [line.strip() for line in outcome.output.splitlines()]
    assert lines[0].startswith(f"Written to {NAME}.tar.gz (")
    assert f"scp {NAME}.tar.gz USER@BOARD:" in lines
    assert f"tar xzf {NAME}.tar.gz" in lines
    root = "sudo -E env PATH=$PATH"
    assert f"{root} pip install --no-deps --force-reinstall {NAME}/{WHEEL}" in lines
    assert f"{root} vitessera run {NAME} {NAME}/images.npz" in lines


def test_packing_again_gives_the_same_bytes(
    command: Command, damaged: Path, digits_build: Path, archive: Path, tmp_path: Path
) -> None:
    os.utime(damaged / "manifest.json", (1e9, 1e9))
    os.chmod(damaged / "images.npz", 0o600)  # noqa: PTH101 (as os.utime)
    before = os.umask(0o077)
    try:
        outcome = command("package", damaged, "-o", tmp_path / "again.tar.gz")
    finally:
        os.umask(before)
    assert outcome.code == 0
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()
    assert command("package", digits_build, "-o", tmp_path / "again.tar.gz").code == 0
    assert (tmp_path / "again.tar.gz").read_bytes() == archive.read_bytes()


# --- vitessera itself


def test_every_package_of_the_distribution_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    names = project["tool"]["setuptools"]["packages"]
    assert {name.split(".")[1] for name in names} == set(package.MODULES)


@pytest.mark.slow
def test_the_wheel_makes_itself_again(unpacked: Path, digits_build: Path, archive: Path) -> None:
    """From an installation that is not editable, the same package comes."""
    site = unpacked.parent / "site"
    install(unpacked / WHEEL, site)
    again = unpacked.parent / "again.tar.gz"
    script = (
        "import sys, vitessera.cli.main as m; assert m.__file__.startswith(sys.argv[1]), m;"
        "sys.exit(m.main(sys.argv[2:]))"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(site), "package", str(digits_build), "-o", str(again)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *wheel_s_path()])},
        cwd=unpacked,
        check=True,
        capture_output=True,
    )
    assert again.read_bytes() == archive.read_bytes()


def wheel_s_path() -> list[str]:
    """Where the package `wheel` was found, for another process."""
    return [str(Path(str(metadata.distribution("wheel").locate_file(""))))]


@pytest.fixture(scope="module")
def board(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """An environment with numpy and the package's wheel, and nothing else."""
    folder = tmp_path_factory.mktemp("board")
    venv.create(folder / "venv")
    found = unpack(archive, folder / "files")
    python = folder / "venv" / "bin" / "python"
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    install(found / WHEEL, site)
    numpy = Path(str(np.__file__)).parent
    for part in (numpy, numpy.with_name("numpy.libs")):
        if part.exists():
            (site / part.name).symlink_to(part, target_is_directory=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def call(*arguments: object) -> Outcome:
        command = [str(python), *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, check=False
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return SimpleNamespace(call=call, script=site / "bin" / "vitessera", files=found)


@pytest.mark.slow
def test_on_a_board_there_is_numpy_only(board: SimpleNamespace) -> None:
    for name in ("rich", "onnx", "jinja2", "wheel", "pip", "pynq"):
        assert "ModuleNotFoundError" in board.call("-c", f"import {name}").errors


@pytest.mark.slow
def test_the_commands_on_a_board(board: SimpleNamespace) -> None:
    assert board.call("-c", "import vitessera.cli.main").code == 0
    helped = board.call(board.script, "--help")
    assert helped.code == 0
    assert all(f"    {name} " in helped.output for name in COMMANDS)
    assert "not here: The Python package onnx is not installed." in helped.output
    shown = board.call(board.script, "run", "--help")
    assert (shown.code, shown.errors) == (0, "")
    assert "--timeout" in shown.output
    version = board.call(board.script, "--version")
    assert version.output == f"vitessera {metadata.version('vitessera')}\n"


@pytest.mark.slow
def test_the_compiler_is_not_on_a_board(board: SimpleNamespace) -> None:
    for name in ("inspect", "compile", "simulate", "report", "boards"):
        outcome = board.call(board.script, name, "--whatever", "-h", "x")
        assert_refused(outcome, "is not installed", "vitessera[compile]")
        assert_refused(board.call(board.script, name), "is not installed")
    outcome = board.call(board.script, "package", board.files)
    assert_refused(outcome, "is not installed", "vitessera[compile]")


@pytest.mark.slow
def test_a_run_on_a_board_gets_as_far_as_pynq(board: SimpleNamespace) -> None:
    script = (
        "import sys, vitessera.cli.run as r; r.has_board = lambda: True;"
        "from vitessera.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    images = board.files / "images.npz"
    outcome = board.call("-c", script, "run", board.files, images)
    assert "vitessera: on the board." in outcome.errors
    assert_refused(outcome, "PYNQ cannot be imported", "vitessera[board]")
    outcome = board.call("-c", script, "run", board.files, images, "--simulate")
    assert_refused(outcome, "holds no RTL", "vitessera package")


# --- What is refused


def test_no_build_directory(command: Command, tmp_path: Path) -> None:
    outcome = command("package", tmp_path / "no", "-o", tmp_path / "x.tar.gz")
    assert_refused(outcome, "no is not a build directory", "vitessera compile")
    assert not list(tmp_path.iterdir())


def test_a_changed_build_directory(command: Command, damaged: Path, tmp_path: Path) -> None:
    (damaged / "images.npz").write_bytes(b"")
    outcome = command("package", damaged, "-o", tmp_path / "x.tar.gz")
    assert_refused(outcome, "images.npz has changed", "Compile the model again")
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_build_directory_that_the_host_cannot_read(
    command: Command, damaged: Path, tmp_path: Path
) -> None:
    vouch(damaged, "program/layout.npz", b"no tables")
    outcome = command("package", damaged, "-o", tmp_path / "x.tar.gz")
    assert_refused(outcome, "layout.npz: not a file of numpy arrays", "Compile the model again")


def test_a_program_that_the_host_must_not_run(
    command: Command, damaged: Path, tmp_path: Path
) -> None:
    weights = (damaged / "program" / "weights.bin").read_bytes()[:-8]
    vouch(damaged, "program/weights.bin", weights)
    program = json.loads((damaged / "program" / "program.json").read_text())
    program["sha256"]["weights.bin"] = hashlib.sha256(weights).hexdigest()
    vouch(damaged, "program/program.json", json.dumps(program).encode())
    outcome = command("package", damaged, "-o", tmp_path / "x.tar.gz")
    assert_refused(outcome, "must not be run", "of the weights buffer, which has", "Compile the")
    assert not (tmp_path / "x.tar.gz").exists()


def test_a_bitstream_that_cannot_be_read(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "has_bitstream", lambda _: True)
    outcome = command("package", digits_build, "-o", tmp_path / "x.tar.gz")
    assert_refused(outcome, "vitessera.bit cannot be read (No such file", "Make it readable")


def foreign_tar(name: str) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = 4
        archive.addfile(entry, io.BytesIO(b"mine"))
    return content.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"my thesis", b"\x1f\x8b\x08\x00", foreign_tar("thesis.tex"), foreign_tar("x/manifest.json")],
)
def test_what_is_not_ours_is_kept(
    command: Command, digits_build: Path, tmp_path: Path, content: bytes
) -> None:
    path = tmp_path / "thesis.tar.gz"
    path.write_bytes(content)
    outcome = command("package", digits_build, "-o", path)
    assert_refused(outcome, "thesis.tar.gz is there already", "did not write it", "-o")
    assert path.read_bytes() == content


def test_a_folder_is_kept(command: Command, digits_build: Path, tmp_path: Path) -> None:
    outcome = command("package", digits_build, "-o", tmp_path)
    assert_refused(outcome, f"{tmp_path} is a folder", "-o")


def test_a_package_is_written_where_a_link_points(
    command: Command, digits_build: Path, archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "x.tar.gz")
    for _ in range(2):
        assert command("package", digits_build, "-o", tmp_path / "link").code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "x.tar.gz").read_bytes() == archive.read_bytes()


def test_a_folder_that_is_not_there(command: Command, digits_build: Path, tmp_path: Path) -> None:
    outcome = command("package", digits_build, "-o", tmp_path / "no" / "x.tar.gz")
    assert_refused(outcome, "x.tar.gz cannot be written (No such file", "writable folder")
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = tmp_path / "x.tar.gz"
    assert command("package", digits_build, "-o", target).code == 0
    before = target.read_bytes()
    monkeypatch.setattr(package, "_write_archive", write)
    outcome = command("package", digits_build, "-o", target)
    assert_refused(outcome, "x.tar.gz cannot be written (No space left", "with space")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]
    assert target.read_bytes() == before


def test_without_the_package_wheel(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package.importlib.util, "find_spec", lambda _: None)
    outcome = command("package", digits_build, "-o", tmp_path / "x.tar.gz")
    assert_refused(outcome, "wheel is not installed", "vitessera[compile]")
    assert not list(tmp_path.iterdir())


def test_from_within_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There setuptools leaves metadata of its own, and Python finds them first."""
    tree = tmp_path / "tree" / "vitessera.egg-info"
    tree.mkdir(parents=True)
    (tree / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: vitessera\nVersion: 0\n")
    monkeypatch.syspath_prepend(str(tree.parent))
    assert metadata.version("vitessera") == "0"
    assert package.make_wheel(tmp_path).name == WHEEL


@pytest.mark.parametrize("known", [None, []])
def test_without_metadata(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: list[object] | None
) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda **_: [SimpleNamespace(files=known)])
    with pytest.raises(ToolError, match=r"not installed by pip.*Install it with pip"):
        package.make_wheel(tmp_path)
    assert not list(tmp_path.iterdir())


def test_wheel_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "WHEEL_FILE", "no tags\n")
    with pytest.raises(ToolError, match=r"'wheel pack' failed: .*tag.*--upgrade wheel"):
        package.make_wheel(tmp_path)
    assert not list(tmp_path.iterdir())
