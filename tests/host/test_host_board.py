"""Which board this is, and who may use it; no pynq, no simulator, no board."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from vitessera.codegen.boards import BOARDS, Board
from vitessera.host import board
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


@pytest.mark.parametrize("known", BOARDS.values(), ids=lambda known: known.name)
def test_the_right_board(root: Path, known: Board) -> None:
    name, names = known.name, known.device_names
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
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of our locks, below one where the test may write; it is not there yet."""
    monkeypatch.setattr(board, "ROOT_LOCKS", tmp_path / "locks")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return board.lock_folder()


def test_locks_of_root_lie_where_only_root_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert board.lock_folder() == Path("/run/vitessera")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert board.lock_folder() == Path(tempfile.gettempdir(), "vitessera-1000")


@pytest.mark.usefixtures("locks")
def test_a_lock_is_held_once() -> None:
    first = DeviceLock("device")
    for _ in range(2):  # who fails must not wipe out who holds it
        with pytest.raises(
            BoardError, match=r"device is in use by this process itself\. Close the"
        ):
            DeviceLock("device")
    other = DeviceLock("another")
    first.release()
    first.release()  # again changes nothing
    DeviceLock("device").release()
    other.release()


HOLD = """
import sys
from pathlib import Path
from vitessera.host import board
board.lock_folder = lambda: Path(sys.argv[1])
lock = board.DeviceLock("device")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_lock_goes_with_its_process(locks: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(locks)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BoardError, match=f"in use by process {other.pid}"):
            DeviceLock("device")
        other.kill()
    DeviceLock("device").release()


@pytest.mark.parametrize("what", ["the lock", "its folder"])
def test_planted_links_are_not_followed(locks: Path, tmp_path: Path, what: str) -> None:
    """Root once truncated whatever a link in the temporary folder led to."""
    precious = tmp_path / "precious"
    precious.mkdir(mode=0o700)
    (precious / "vitessera-device.lock").write_text("keep this")
    if what == "its folder":
        locks.symlink_to(precious)
    else:
        locks.mkdir(mode=0o700)
        (locks / "vitessera-device.lock").symlink_to(precious / "vitessera-device.lock")
    with pytest.raises(BoardError, match=r"vitessera-device\.lock .*cannot be opened.*Remove"):
        DeviceLock("device")
    assert (precious / "vitessera-device.lock").read_text() == "keep this"


@pytest.mark.parametrize("mode", [0o770, 0o702])
def test_a_folder_where_others_may_write(locks: Path, mode: int) -> None:
    locks.mkdir()
    locks.chmod(mode)
    with pytest.raises(BoardError, match=r"someone else may write.*nobody else may write"):
        DeviceLock("device")
    assert not list(locks.iterdir())


@pytest.mark.usefixtures("locks")
def test_a_folder_of_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # who is not whom the folder is made by
    with pytest.raises(BoardError, match=r"vitessera-54321.*someone else may write"):
        DeviceLock("device")
