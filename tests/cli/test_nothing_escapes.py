"""What nobody foresaw, and what files say to the terminal: neither reaches the user as it is."""

from __future__ import annotations

import errno
import os
import re
import resource
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from command_line import DIGITS, Command, assert_refused
from vitessera.cli import run as run_command
from vitessera.cli.terminal import show_progress
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.importer import inspect_model
from vitessera.host import Accelerator
from vitessera.host.errors import BoardError, ImageError, VitesseraError
from vitessera.host.reading import reading
from vitessera.host.tasks import CLASSES, Kind, Task
from vitessera.host.text import printable

MODEL = DIGITS / "vit_digits.onnx"
# Clears the screen and writes an error of its own, in colour, from right to left.
EVIL = "name\x1b[2J\x1b[31m\r\nvitessera: error: all is well\u202e\x9b1m\u2028\ud800\x00"
SHOWN = r"name\x1b[2J\x1b[31m\r\nvitessera: error: all is well\u202e\x9b1m\u2028\ud800\x00"


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Has `inspect` end with `error`."""

    def run(_: object) -> int:
        raise error

    monkeypatch.setattr("vitessera.cli.inspect.run", run)


# --- What nobody foresaw


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("by zero"),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        KeyError("\x1b[31mkey"),
        AssertionError(),
        ModuleNotFoundError("No module named 'nobody'", name="nobody"),
        ImportError("cannot import name 'x'"),
        NotImplementedError("\n\nvitessera: all is well"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_is_a_paragraph_and_a_log(
    command: Command, temporary: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    fail(monkeypatch, error)
    outcome = command("inspect", MODEL, "--results", "a b")
    assert_refused(outcome, "This is a bug in vitessera", "report it", type(error).__name__)
    (log,) = temporary.iterdir()
    assert str(log) in outcome.errors
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    text = log.read_text()
    assert f"vitessera inspect {MODEL} --results 'a b'" in text
    assert "Traceback" in text and type(error).__name__ in text and "vitessera 0." in text
    assert "\x1b" not in text + outcome.errors
    assert len(re.findall("^vitessera: ", outcome.errors, re.MULTILINE)) == 1


def test_a_bug_without_a_place_for_its_log(
    command: Command, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "nowhere"))
    fail(monkeypatch, ZeroDivisionError("by zero"))
    outcome = command("inspect", MODEL)
    assert outcome.code == 2
    assert "ZeroDivisionError: by zero" in outcome.errors
    assert "The details are above" in outcome.errors


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EMFILE, ("Too many open files", "ulimit -n")),
        (errno.ENOSPC, ("No space left", "make room")),
        (errno.EACCES, ("Permission denied", "please report it. The details are in")),
    ],
)
def test_the_system_refuses(
    command: Command, monkeypatch: pytest.MonkeyPatch, number: int, words: tuple[str, ...]
) -> None:
    fail(monkeypatch, OSError(number, os.strerror(number), "/some\nwhere"))
    outcome = command("inspect", MODEL)
    assert_refused(outcome, "The system refused", r"/some\nwhere", *words)
    assert ("details" in outcome.errors) == (number == errno.EACCES)  # elsewhere words are enough


def test_bugs_in_the_importer_name_the_file(
    command: Command, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(*_: object) -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr("vitessera.codegen.importer.inspection.trace", trace)
    # In this process, where the bug can be planted.
    monkeypatch.setattr("vitessera.codegen.pipeline.inspect_confined", inspect_model)
    outcome = command("compile", MODEL, "-o", temporary / "build")
    assert_refused(outcome, "vit_digits.onnx: importing it failed", "AttributeError", "a bug")
    (log,) = temporary.iterdir()
    assert str(log) in outcome.errors


@pytest.mark.parametrize(
    "error",
    [
        TypeError("no"),
        OverflowError("too large"),
        RuntimeError("encrypted"),
        NotImplementedError("compression"),
        RecursionError("deep"),
        MemoryError(),
        IndexError(),
        StopIteration(),
        EOFError("end"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_over_a_file_names_the_file(error: Exception) -> None:
    with (
        pytest.raises(ImageError, match=r"^folder/x\\n\.npz: damaged \(.+\)\. Copy it\.$"),
        reading("folder/x\n.npz", ImageError, "damaged", "Copy it."),
    ):
        raise error


@pytest.mark.parametrize("timeout", ["5", b"5", True, [1], 0, -1.0, float("nan"), float("inf")])
def test_a_timeout_that_is_none(tmp_path: Path, timeout: Any) -> None:  # noqa: ANN401
    with pytest.raises(BoardError, match=r"The timeout is .* Give a number of seconds") as caught:
        Accelerator(tmp_path, timeout=timeout)
    assert repr(timeout) in str(caught.value)


def test_what_is_ours_stays_as_it_is() -> None:
    for own in (BoardError("A.", "B."), ModuleNotFoundError("x"), KeyboardInterrupt()):
        with (
            pytest.raises(type(own)) as caught,
            reading("x", ImageError, "damaged", "Copy it."),
        ):
            raise own
        assert caught.value is own


@pytest.mark.parametrize("limit", range(7, 13))
def test_no_free_file_descriptors(tmp_path: Path, limit: int) -> None:
    (tmp_path / "temporary").mkdir()
    arguments = ["compile", str(MODEL), "-o", str(tmp_path / "build")]
    code = f"import sys; from vitessera.cli.main import main; sys.exit(main({arguments}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    assert "Too many open files" in done.stderr and "ulimit -n" in done.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


# --- Models whose parts are not what ONNX knows


def broken_model(kind: str, folder: Path) -> Path:
    """The digits model with something that the format has no meaning for."""
    model, path = onnx.load(MODEL), folder / "model.onnx"
    match kind:
        case "input type":
            model.graph.input[0].type.tensor_type.elem_type = 99
        case "weight type":
            model.graph.initializer[0].data_type = 99
        case "weight size":
            model.graph.initializer[0].dims[0] = -1
        case _:
            name = {
                "input name": model.graph.input[0].name,
                "output name": model.graph.output[0].name,
                "node name": model.graph.node[2].name,
                "weight name": model.graph.initializer[0].name,
            }[kind].encode()
            content = MODEL.read_bytes()
            path.write_bytes(content.replace(name, b"\xed\xa0\x80" + name[3:]))
            return path
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("input type", ("'image' is of the unknown type 99", "float32")),
        ("weight type", ("cannot be read", "99", "export the model again")),
        ("weight size", ("model.onnx", "Negative dimension")),
        ("input name", ("model.onnx holds the name b'", "UTF-8", "Export")),
        ("output name", ("model.onnx holds the name b'", "UTF-8", "Export")),
        ("node name", ("model.onnx holds the name b'", "UTF-8", "Export")),
        ("weight name", ("model.onnx holds the name b'", "UTF-8", "Export")),
    ],
)
@pytest.mark.parametrize("name", ["compile", "inspect"])
def test_models_beyond_the_format(
    command: Command, tmp_path: Path, name: str, kind: str, words: tuple[str, ...]
) -> None:
    model = broken_model(kind, tmp_path)
    rest = ("-o", tmp_path / "build") if name == "compile" else ()
    assert_refused(command(name, model, *rest), *words)
    assert not (tmp_path / "build").exists()


# --- What files say to the terminal


def test_foreign_text_is_shown_on_one_line() -> None:
    assert printable(EVIL) == SHOWN
    assert printable("a\n\tb", keep="\n") == "a\n\\tb"
    plain = "Köln 東京 نمی\u200cخواهم 👩\u200d🔬 x\xa0y"
    assert printable(plain) == plain


def test_errors_may_be_shown_as_they_are() -> None:
    error = ImageError(f"{EVIL} is wrong.", "Rename it.")
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800]", str(error))
    assert error.culprit == f"{EVIL} is wrong."


def test_an_error_of_several_lines_fakes_none(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, VitesseraError(f"{EVIL}:\n  log", "See above."))
    outcome = command("inspect", MODEL)
    assert_refused(outcome, "See above.")
    assert "\x1b" not in outcome.errors and "\r" not in outcome.errors
    assert len(re.findall("^vitessera: error", outcome.errors, re.MULTILINE)) == 1


def test_no_command_can_forget_it(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(_: object) -> int:
        print(EVIL)
        print(EVIL, file=sys.stderr)
        show_progress(EVIL)
        return 0

    monkeypatch.setattr("vitessera.cli.inspect.run", run)
    monkeypatch.setenv("COLUMNS", "200")  # progress is cut off where the terminal ends
    outcome = command("inspect", MODEL)
    for text in (outcome.output, outcome.errors.replace(r"\x00" + "\r", "")):
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028\ud800]", text)
        assert r"\x1b[2J" in text and r"\ud800" in text


def test_commands_without_anybody_to_listen(tmp_path: Path) -> None:
    for redirection in (">&-", "2>&-", ">&- 2>&-", "</dev/null >/dev/null 2>&-"):
        command = f"exec {sys.executable} -m vitessera.cli.main boards {redirection}"
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 0, (redirection, done)
        assert b"Traceback" not in done.stderr


def test_characters_that_the_terminal_has_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vitessera.cli.main", "boards"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done
    assert all(name in done.stdout for name in BOARDS)


def test_names_of_nodes_and_layers(command: Command, tmp_path: Path) -> None:
    evil = EVIL.replace("\ud800", "")  # which protobuf would refuse
    model = onnx.load(MODEL)
    for node in model.graph.node:
        node.name = f"{node.name}{evil}"
    last = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = [evil if name == last else name for name in node.output]
    model.graph.output[0].name = evil
    path, build = tmp_path / "model.onnx", tmp_path / "build"
    onnx.save(model, path)
    for arguments in (
        ("inspect", path),
        ("compile", path, "-o", build),
        ("report", build, "--quantization"),
        ("inspect", path, "--results", "nothing"),
    ):
        outcome = command(*arguments)
        assert outcome.code in (0, 2) and outcome.code == ("nothing" in arguments) * 2, outcome
        printed = outcome.output + outcome.errors
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", printed)
        fakes = re.findall("^vitessera: error: all", printed, re.MULTILINE)
        assert not fakes, printed


def test_names_of_classes_images_and_outputs() -> None:
    items = [run_command.Item(Path(EVIL.replace("\x00", "")), 3)]
    for task in (CLASSES, Task(Kind.LABELS), Task(Kind.SCORES)):
        result = run_command.Result(EVIL, task, np.array([[[2.0, 1.0]]]), (EVIL, "dog"))
        text = run_command.text(result, items, 2)
        assert len(text.splitlines()) == 1 and SHOWN in text
