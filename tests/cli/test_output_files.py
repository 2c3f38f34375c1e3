"""What commands write, and what they leave alone: nobody's file is lost or half-written.

A command replaces what it wrote itself and no other file; through links and `..` it looks at the
place that it then writes.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from command_line import DIGITS, Command, Outcome, assert_refused
from vitessera.cli import run as run_command
from vitessera.cli import simulate as simulate_command
from vitessera.codegen import builddir
from vitessera.codegen.builddir import read_build, write_build
from vitessera.codegen.errors import OutputError, SimulationError
from vitessera.codegen.outputfile import OutputFile
from vitessera.codegen.package import package_name
from vitessera.host.build import read_compiled

MODEL = DIGITS / "vit_digits.onnx"
IMAGES = DIGITS / "digits.npz"


def snapshot(folder: Path) -> dict[str, object]:
    """All that is below a folder, with the content of files and the targets of links."""

    def content(path: Path) -> object:
        if path.is_symlink():
            return path.readlink()
        return path.read_bytes() if path.is_file() else path.lstat().st_mode

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


# --- compile -o: what is no build directory of ours stays


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


def plant_link_to_a_folder(path: Path) -> None:
    (path.parents[1] / "photos").mkdir()
    (path.parents[1] / "photos" / "cat.jpg").write_text("mine")
    path.symlink_to(path.parents[1] / "photos", target_is_directory=True)


def plant_file(path: Path) -> None:
    path.write_text("mine", encoding="utf-8")


def plant_folder(path: Path) -> None:
    path.mkdir()


PLANTS = (plant_fifo, plant_broken_link, plant_link_to_a_folder, plant_file, plant_folder)


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("name", [".mine", "simulation.json", "images.npz"])
def test_a_build_directory_with_something_else_in_it_is_kept(
    command: Command, damaged: Path, plant: Callable[[Path], None], name: str
) -> None:
    (damaged / name).unlink(missing_ok=True)
    plant(damaged / name)
    before = snapshot(damaged.parent)
    outcome = command("compile", MODEL, "-o", damaged)
    assert_refused(outcome, f"{damaged} holds {name}, which", "vitessera", "Move it away", "-o")
    assert snapshot(damaged.parent) == before


def test_a_link_in_the_place_of_a_folder_is_not_followed(command: Command, damaged: Path) -> None:
    (damaged / "rtl").rename(damaged.parent / "rtl")
    (damaged / "rtl").symlink_to(damaged.parent / "rtl")
    before = snapshot(damaged.parent)
    assert_refused(command("compile", MODEL, "-o", damaged), "holds rtl, which vitessera did not")
    assert snapshot(damaged.parent) == before


def test_changes_to_a_build_directory_are_kept(command: Command, damaged: Path) -> None:
    (damaged / "rtl" / "core.v").write_text("// mended by hand")
    outcome = command("compile", MODEL, "-o", damaged)
    assert_refused(outcome, "rtl/core.v, which has changed since vitessera wrote it", "Move it")
    assert (damaged / "rtl" / "core.v").read_text() == "// mended by hand"


@pytest.mark.parametrize(
    "change",
    [
        {"vitessera": None, "format": None, "design_hash": None},  # None: without that entry
        {"design_hash": None},
        {"design_hash": "main.js"},
        {"vitessera": None},
        {"files": ["thesis.txt"]},
        {"files": None},
    ],
)
def test_a_manifest_of_another_program_vouches_for_nothing(
    command: Command, tmp_path: Path, change: dict[str, object]
) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    ours = {
        "vitessera": "1",
        "format": 1,
        "design_hash": "0123",
        "files": {"thesis.txt": hashlib.sha256(b"mine").hexdigest()},
    }
    manifest = {key: value for key, value in (ours | change).items() if value is not None}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    before = snapshot(folder)
    assert_refused(command("compile", MODEL, "-o", folder), "vitessera did not write", "-o")
    assert snapshot(folder) == before


@pytest.mark.parametrize("deep", ["[" * 100_000, '{"files": ' * 100_000], ids=["list", "dict"])
def test_a_manifest_that_is_deep_vouches_for_nothing(
    command: Command, tmp_path: Path, deep: str
) -> None:
    (tmp_path / "manifest.json").write_text(deep)
    assert_refused(command("compile", MODEL, "-o", tmp_path), "holds manifest.json, which")
    assert (tmp_path / "manifest.json").read_text() == deep


def test_a_manifest_that_is_a_pipe_is_not_opened(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "manifest.json")
    assert_refused(command("compile", MODEL, "-o", tmp_path), "holds manifest.json, which")


@pytest.mark.parametrize("way", ["missing/../existing", "link", "link/../existing"])
def test_compile_looks_at_the_place_that_it_writes(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("existing").mkdir()
    Path("existing", "thesis.txt").write_text("mine", encoding="utf-8")
    Path("link").symlink_to("existing")
    before = snapshot(tmp_path)
    assert_refused(command("compile", MODEL, "-o", way), f"{way} holds thesis.txt", "-o")
    assert snapshot(tmp_path) == before


def test_a_place_behind_a_missing_folder_is_named_as_it_can_be_used(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = command("compile", MODEL, "-o", "missing/../build")
    assert outcome.code == 0, outcome.errors
    assert f"vitessera simulate {tmp_path / 'build'}" in outcome.output
    assert [path.name for path in tmp_path.iterdir()] == ["build"]


def link_in_a_circle(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("plant", [plant_fifo, link_in_a_circle])
def test_an_output_that_is_no_folder_is_kept(
    command: Command, tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    plant(tmp_path / "build")
    before = snapshot(tmp_path)
    assert_refused(command("compile", MODEL, "-o", tmp_path / "build"), "is no folder", "-o")
    assert snapshot(tmp_path) == before


def test_what_has_come_while_compiling_is_kept(
    damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, write = read_build(damaged), builddir._write_files

    def meanwhile(*arguments: Any) -> None:  # noqa: ANN401
        write(*arguments)
        (damaged / "thesis.txt").write_text("mine")

    monkeypatch.setattr(builddir, "_write_files", meanwhile)
    with pytest.raises(OutputError, match=r"holds thesis\.txt, which vitessera did not write"):
        write_build(build, damaged)
    assert (damaged / "thesis.txt").read_text() == "mine"
    (damaged / "thesis.txt").unlink()
    assert read_build(damaged).model == build.model
    assert list(damaged.parent.iterdir()) == [damaged]


def test_a_build_directory_of_another_version_is_replaced(damaged: Path) -> None:
    build = read_build(damaged)
    manifest = json.loads((damaged / "manifest.json").read_text())
    (damaged / "manifest.json").write_text(json.dumps(manifest | {"vitessera": "0.0.1"}))
    builddir.result_file(damaged).write({"images": 1, "bit_exact": True})
    (damaged / "images.npz").unlink()
    write_build(build, damaged)
    assert read_build(damaged).model == build.model
    # The program is the same, so what was measured stays.
    assert (damaged / "simulation.json").exists()


# --- Every file that an option names


def no_simulation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets nobody simulate: what is refused is refused before."""

    def simulate(*_: object, **__: object) -> None:
        raise AssertionError("this should have been refused before")

    monkeypatch.setattr(simulate_command, "simulate_with_progress", simulate)
    monkeypatch.setattr(run_command, "Accelerator", simulate)
    monkeypatch.setattr("vitessera.cli.inspect.inspect_confined", simulate)


# What is written → how. DIR is the build directory, FILE the file.
WRITERS: dict[str, tuple[object, ...]] = {
    "inspect --json": ("inspect", MODEL, "--json", "FILE"),
    "simulate --json": ("simulate", "DIR", "--json", "FILE"),
    "simulate --waves": ("simulate", "DIR", "--waves", "FILE"),
    "run --json": ("run", "DIR", IMAGES, "--json", "FILE"),
    "run --outputs": ("run", "DIR", IMAGES, "--outputs", "FILE"),
    "report --timeline": ("report", "DIR", "--timeline", "FILE"),
    "package -o": ("package", "DIR", "-o", "FILE"),
}


def write(command: Command, writer: str, build: Path, file: object) -> Outcome:
    names = {"DIR": build, "FILE": file}
    return command(*(names.get(str(part), part) for part in WRITERS[writer]))


@pytest.mark.parametrize("writer", WRITERS)
class TestRefused:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        no_simulation(monkeypatch)
        monkeypatch.chdir(tmp_path)
        Path("keep.png").write_text("mine", encoding="utf-8")
        Path("link.png").symlink_to("keep.png")
        Path("circle.png").symlink_to("circle.png")
        Path("far.png").symlink_to("nowhere/x.png")
        Path("folder.png").mkdir()

    @pytest.mark.parametrize(
        ("file", "words"),
        [
            ("keep.png", "did not write it. Move it away, or give another path with -"),
            ("link.png", "did not write it. Move it away, or give another path with -"),
            ("folder.png/../keep.png", "did not write it. Move it away"),
            ("folder.png", "folder.png is a folder. Give another path with -"),
            (".", ". is a folder"),
            ("missing/../keep.png", "cannot be written (No such file"),
            ("missing/new.png", "cannot be written (No such file"),
            ("keep.png/new.png", "cannot be written (Not a directory"),
            ("far.png", "cannot be written (No such file"),
            ("circle.png", "is no regular file"),
            ("x" * 300, "cannot be written (File name too long"),
        ],
    )
    def test_it_stays_as_it_was(
        self,
        command: Command,
        digits_build: Path,
        tmp_path: Path,
        writer: str,
        file: str,
        words: str,
    ) -> None:
        before = snapshot(tmp_path)
        assert_refused(write(command, writer, digits_build, file), file, words)
        assert snapshot(tmp_path) == before

    def test_what_another_command_wrote(
        self, command: Command, digits_build: Path, writer: str
    ) -> None:
        for other in set(WRITERS) - {writer}:
            mark = OutputFile(Path("keep.png"), other).mark
            Path("keep.png").write_text(mark, encoding="utf-8")
            assert_refused(
                write(command, writer, digits_build, "keep.png"), f"'vitessera {writer}' did not"
            )
            assert Path("keep.png").read_text(encoding="utf-8") == mark


@pytest.mark.parametrize("writer", [name for name in WRITERS if not name.endswith("--json")])
@pytest.mark.parametrize("device", ["pipe.png", "/dev/null"])
def test_a_pipe_or_device_for_what_is_not_text(
    command: Command,
    digits_build: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    writer: str,
    device: str,
) -> None:
    no_simulation(monkeypatch)
    os.mkfifo(tmp_path / "pipe.png")
    outcome = write(command, writer, digits_build, tmp_path / device)
    assert_refused(outcome, f"{device} is no regular file. Give another path with -")


def test_a_file_that_is_read_only(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "account.json"
    assert command("inspect", MODEL, "--json", path).code == 0
    before = path.read_bytes()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    words = ("account.json cannot be written (Permission denied)", "writable folder")
    assert_refused(command("inspect", MODEL, "--json", path), *words)
    assert path.read_bytes() == before


def test_two_options_with_one_file(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_simulation(monkeypatch)
    (tmp_path / "link").symlink_to("x")
    options = ("--json", tmp_path / "x", "--waves", tmp_path / "link")
    words = ("link is named twice", "'simulate --json'", "'simulate --waves'", "a path of its own")
    assert_refused(command("simulate", digits_build, *options), *words)
    result = digits_build / "simulation.json"
    outcome = command("simulate", digits_build, "--json", result)
    assert_refused(outcome, "simulation.json is named twice")
    assert not result.exists()


def test_a_command_replaces_its_own_file(command: Command, tmp_path: Path) -> None:
    path, link = tmp_path / "account.json", tmp_path / "link.json"
    path.touch()  # empty, as mktemp leaves it
    link.symlink_to(path)
    for name in (path, path, link):
        assert command("inspect", MODEL, "--json", name).code == 0
        account = json.loads(path.read_text())
        assert account["supported"] is True
        path.write_text(json.dumps(account | {"supported": None}))
    assert link.is_symlink()
    assert {entry.name for entry in tmp_path.iterdir()} == {"account.json", "link.json"}
    umask = os.umask(0)
    os.umask(umask)
    fresh = tmp_path / "fresh.json"
    assert command("inspect", MODEL, "--json", fresh).code == 0
    assert fresh.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_package_is_replaced_by_the_next(
    command: Command, digits_build: Path, tmp_path: Path
) -> None:
    for _ in range(2):
        assert command("package", digits_build, "-o", tmp_path / "x.tar.gz").code == 0
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        assert archive.getnames()[0] == "vit_digits-pynq-z2/manifest.json"


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("my vit.onnx", "my vit-pynq-z2"),
        ("modèle.onnx", "modèle-pynq-z2"),
        ("-rf.onnx", "_rf-pynq-z2"),
        ("a\x1b[2J\nb.onnx", "a__2J_b-pynq-z2"),
        ("x/..", "_.-pynq-z2"),
        ("", "_pynq-z2"),
    ],
)
def test_a_package_s_name_is_the_name_of_a_file(digits_build: Path, model: str, name: str) -> None:
    assert package_name(replace(read_build(digits_build), model=model)) == name


# --- Pipes and devices, for JSON


def test_json_goes_to_a_pipe(command: Command, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()), daemon=True)
    # The reader is there before there is anything to read: it waits for someone to write.
    held = os.open(pipe, os.O_RDWR)
    reader.start()
    outcome = command("inspect", MODEL, "--json", pipe)
    os.close(held)
    reader.join()
    assert outcome.code == 0, outcome.errors
    assert json.loads(received[0])["supported"] is True


@pytest.mark.parametrize(
    ("device", "words"),
    [("pipe", ("Nobody reads the pipe", "Start its reader")), ("/dev/full", ("No space left",))],
)
def test_json_that_nobody_takes(
    command: Command, tmp_path: Path, device: str, words: tuple[str, ...]
) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert_refused(command("inspect", MODEL, "--json", tmp_path / device), *words)


def test_json_may_be_thrown_away(command: Command) -> None:
    assert command("inspect", MODEL, "--json", "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("way", ["/dev/stdout", "log"])
def test_json_goes_behind_what_is_printed(tmp_path: Path, way: str) -> None:
    script = "import sys; from vitessera.cli.main import main; sys.exit(main(sys.argv[1:]))"
    arguments = [sys.executable, "-c", script, "inspect", str(MODEL), "--json", way]
    with (tmp_path / "log").open("w") as log:
        subprocess.run(arguments, stdout=log, check=True, cwd=tmp_path)
    printed, brace, account = (tmp_path / "log").read_text().partition("{\n")
    assert "Supported: " in printed
    assert json.loads(brace + account)["supported"] is True


# --- simulate, with a simulation that only looks like one

RESULT = {
    "images": 1,
    "bit_exact": True,
    "cycles_per_image": 2.0,
    "mac_peak_share": 0.5,
    "images_per_second": 1.0,
    "clock_mhz": 100,
}


def test_what_simulate_writes_is_replaced_by_the_next(
    command: Command, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulate(_: object, __: object, waves: Path) -> dict[str, object]:
        waves.write_text("$enddefinitions $end\n#0\n", encoding="utf-8")
        return RESULT

    monkeypatch.setattr(simulate_command, "simulate_with_progress", simulate)
    files = [tmp_path / "out" / name for name in ("result.json", "run.vcd")]
    files[0].parent.mkdir()
    for _ in range(2):
        options = ("--json", files[0], "--waves", files[1])
        outcome = command("simulate", damaged, *options)
        assert outcome.code == 0, outcome.errors
        result = json.loads((damaged / "simulation.json").read_text())
        assert result.pop("written_by") == "[vitessera simulate]"
        assert result == RESULT
        assert json.loads(files[0].read_text()).items() > RESULT.items()
        assert files[1].read_text().startswith("$enddefinitions $end\n#0\n\n$comment")
        assert sorted(files[0].parent.iterdir()) == files


def test_a_result_of_others_in_the_build_directory(
    command: Command, damaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_simulation(monkeypatch)
    (damaged / "simulation.json").write_text('{"weather": "fine"}')
    words = ("simulation.json is there already", "'vitessera simulate' did not write it")
    assert_refused(command("simulate", damaged), *words, "Move it away.")
    assert (damaged / "simulation.json").read_text() == '{"weather": "fine"}'


def test_waves_survive_a_simulation_that_fails(
    command: Command, digits_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulate(_: object, __: object, waves: Path) -> None:
        waves.write_text("$enddefinitions $end\n#0\n", encoding="utf-8")
        raise SimulationError("It hangs.", "Look at the waves.")

    monkeypatch.setattr(simulate_command, "simulate_with_progress", simulate)
    for _ in range(2):
        outcome = command("simulate", digits_build, "--waves", tmp_path / "run.vcd")
        assert_refused(outcome, "It hangs. Look at the waves.")
        assert f"waveform of the failed run: {tmp_path}" in outcome.errors
        assert (tmp_path / "run.vcd").read_text().startswith("$enddefinitions")
    assert not (digits_build / "simulation.json").exists()


# --- run --outputs


def test_outputs_are_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = OutputFile(tmp_path / "out.npz", "run --outputs")
    for value in (1.0, 2.0):
        run_command.save(file, {"logits": np.full(3, value)})
    with np.load(file.path) as content:
        assert content["logits"].tolist() == [2, 2, 2]
    before = file.path.read_bytes()

    def interrupted(entry: Any, _: object) -> None:  # noqa: ANN401
        entry.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np.lib.format, "write_array", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_command.save(file, {"logits": np.full(3, 3.0)})
    assert file.path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file.path]


NAMES = {
    "logits": "logits",
    "block/out.0": "block/out.0",
    "Identity:0": "Identity:0",
    "sortie_é": "sortie_é",
    "..x/x..": "..x/x..",
    "/blocks.0/Add_output_0": "%2Fblocks.0/Add_output_0",
    "../../etc/x": "%2E%2E/%2E%2E/etc/x",
    "a/../b": "a/%2E%2E/b",
    "..": "%2E%2E",
    "./x": "%2E/x",
    "a//b": "a/%2Fb",
    "///x": "%2F%2F%2Fx",
    "..\\x": "..%5Cx",
    "x\n\x1b[2J": "x%0A%1B[2J",
    "a\0b": "a%00b",
    "%2Fblocks": "%252Fblocks",
}


@pytest.mark.parametrize("name", NAMES)
def test_the_names_of_outputs_stay_below_a_folder(tmp_path: Path, name: str) -> None:
    member = run_command.member_name(name)
    assert member == NAMES[name]
    assert unquote(member) == name
    file = OutputFile(tmp_path / "out.npz", "run --outputs")
    run_command.save(file, {member: np.zeros(1)})
    with zipfile.ZipFile(file.path) as archive:
        (path,) = archive.namelist()
    folder = tmp_path / "folder"
    assert Path(os.path.normpath(folder / path)).is_relative_to(folder)
    assert path == os.path.normpath(path)


def test_a_name_that_is_encoded_is_said(
    command: Command, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_compiled(damaged)
    outputs = (replace(model.outputs[0], name="/logits"),)
    renamed = replace(model, outputs=outputs)
    monkeypatch.setattr(run_command, "read_compiled", lambda _: renamed)

    class Ready:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Ready:
            return self

        def __exit__(self, *_: object) -> None: ...
        def run(self, images: np.ndarray, _: object, done: list[dict[str, np.ndarray]]) -> None:
            done.extend({"/logits": np.zeros((1, 10))} for _ in images)

        def profile(self) -> None: ...

    monkeypatch.setattr(run_command, "Accelerator", Ready)
    saved = tmp_path / "out.npz"
    outcome = command("run", damaged, IMAGES, "--simulate", "--outputs", saved)
    assert outcome.code == 0, outcome.errors
    assert f"{saved} holds '/logits' as '%2Flogits'." in outcome.errors
    with np.load(saved) as content:
        assert content.files == ["%2Flogits"]


def test_a_name_that_no_archive_holds(
    command: Command, damaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_simulation(monkeypatch)
    model = read_compiled(damaged)
    long = replace(model, outputs=(replace(model.outputs[0], name="a/" + "x" * 300),))
    monkeypatch.setattr(run_command, "read_compiled", lambda _: long)
    outcome = command("run", damaged, IMAGES, "--outputs", tmp_path / "out.npz")
    assert_refused(outcome, "The output 'a/xxx", "too long", "302 characters", "Rename it")
    assert not (tmp_path / "out.npz").exists()


@pytest.mark.parametrize("moves", [1, 2])
def test_a_replacement_that_is_interrupted(
    damaged: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    """Between the move of the old build and that of the new one, too: one of them is there."""
    build = builddir.read_build(damaged, check_rtl=False)
    before = snapshot(damaged.parent)
    replace, done = Path.replace, []

    def interrupted(path: Path, target: Path) -> Path:
        result = replace(path, target)
        if "build" in (path.name, target.name):
            done.append(path)
            if len(done) == moves:
                raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        builddir.write_build(build, damaged)
    monkeypatch.undo()
    after = snapshot(damaged.parent)
    assert after.keys() == before.keys()
    builddir.read_build(damaged, check_rtl=False)
