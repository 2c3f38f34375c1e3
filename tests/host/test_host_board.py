"""Which board this is, and who may use it; no pynq, no simulator, no board."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from vitessera.codegen.boards import BOARDS, Board
from vitessera.host.board import (
    BOARD_NAME,
    FPGA_MANAGER,
    DeviceLock,
    board_name,
    check_board,
    has_board,
)
from vitessera.host.errors import BoardError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a file system; we are its root user, and BOARD is not set."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.delenv("BOARD", raising=False)
    return tmp_path


def is_a(root: Path, name: str) -> None:
    """Has the device tree say which board this is, ended by a zero as there."""
    (root / BOARD_NAME).parent.mkdir(parents=True, exist_ok=True)
    (root / BOARD_NAME).write_bytes(f"{name}\0".encode())


def test_a_board_is_what_has_an_fpga(root: Path) -> None:
    assert not has_board(root)
    (root / FPGA_MANAGER).mkdir(parents=True)
    assert has_board(root)


def test_the_name_of_the_board(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert board_name(root) == ""
    monkeypatch.setenv("BOARD", "KV260")
    assert board_name(root) == "KV260"
    is_a(root, "Pynq-Z2")
    assert board_name(root) == "Pynq-Z2"
    (root / BOARD_NAME).write_bytes(b"\xff\xfe\0")
    assert board_name(root)  # unreadable, but no crash


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_the_right_board(root: Path, board: Board) -> None:
    name, names = board.name, board.device_names
    check_board(name, names, root)  # it does not say which it is
    for found in names:
        is_a(root, found)
        check_board(name, names, root)
        is_a(root, found.upper())
        check_board(name, names, root)


def test_a_board_that_nobody_has_named(root: Path) -> None:
    is_a(root, "MyBoard")
    check_board("my-board", (), root)


def test_the_wrong_board(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    is_a(root, "KV260")
    wrong = r"This board is 'KV260', the model was compiled for pynq-z2\..*'vitessera boards'"
    with pytest.raises(BoardError, match=wrong):
        check_board("pynq-z2", BOARDS["pynq-z2"].device_names, root)
    (root / BOARD_NAME).unlink()
    monkeypatch.setenv("BOARD", "ZCU104")
    with pytest.raises(BoardError, match="This board is 'ZCU104'"):
        check_board("pynq-z2", BOARDS["pynq-z2"].device_names, root)


def test_no_root(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BoardError, match=r"needs root.*sudo -E env PATH=\$PATH"):
        check_board("pynq-z2", BOARDS["pynq-z2"].device_names, root)


# --- One at a time


@pytest.fixture
def tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device; its lock lies where the test may write."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return "device"


def test_a_lock_is_held_once(tag: str) -> None:
    first = DeviceLock(tag)
    with pytest.raises(BoardError, match=r"device is in use by this process itself\. Close the"):
        DeviceLock(tag)
    other = DeviceLock("another")
    first.release()
    first.release()  # again changes nothing
    DeviceLock(tag).release()
    other.release()


HOLD = """
import sys
from vitessera.host.board import DeviceLock
lock = DeviceLock(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_goes_with_its_process(tag: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tag],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BoardError, match=f"in use by process {other.pid}"):
            DeviceLock(tag)
        other.kill()
    DeviceLock(tag).release()


def test_a_lock_that_another_user_holds(tag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(BoardError, match="another user has used the device"):
        DeviceLock(tag)
