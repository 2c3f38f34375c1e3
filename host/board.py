"""Which board this program runs on, and whether it may be used."""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .errors import BoardError

FPGA_MANAGER = "sys/class/fpga_manager/fpga0"  # where Linux loads bitstreams
ROOT_LOCKS = Path("/run/vitessera")  # gone after a restart, as all locks are
BOARD_NAME = "proc/device-tree/chosen/pynq_board"  # PYNQ's images put it there


def has_board(root: Path = Path("/")) -> bool:
    """Whether this machine has an FPGA that Linux can load."""
    return (root / FPGA_MANAGER).exists()


def board_name(root: Path = Path("/")) -> str:
    """The board's name as its PYNQ image has it; empty when it does not say."""
    try:
        text = (root / BOARD_NAME).read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = os.environ.get("BOARD", "")
    return text.strip("\0\n ")


def check_board(compiled_for: str, names: Sequence[str], root: Path = Path("/")) -> None:
    """Raises BoardError unless this is a board that the bitstream may be loaded into.

    Args:
        compiled_for: the board's name as --board takes it.
        names: what PYNQ images of that board call it; nothing is compared if there are none.
        root: of the file system.
    """
    if os.geteuid() != 0:
        raise BoardError(
            "Loading a bitstream needs root, and this process has not.",
            "Run it with: sudo -E env PATH=$PATH python3 ... (Jupyter on a PYNQ image is root "
            "already).",
        )
    found = board_name(root)
    if found and names and found.lower() not in {name.lower() for name in names}:
        raise BoardError(
            f"This board is {found!r}, the model was compiled for {compiled_for}.",
            "Compile it with the --board that 'vitessera boards' lists for this one.",
        )


class DeviceLock:
    """Keeps a second process, or a second Accelerator, off the device."""

    def __init__(self, tag: str) -> None:
        """Takes the lock of the device called `tag`.

        Raises:
            BoardError: it is taken, or its file is not in a folder that is ours alone.
        """
        folder = lock_folder()
        path = folder / f"vitessera-{tag}.lock"
        try:
            self._file = os.fdopen(
                _open_in(folder, path.name), "r+", encoding="utf-8", errors="replace"
            )
        except OSError as error:
            raise BoardError(
                f"The lock {path} of device {tag} cannot be opened ({error.strerror or error}).",
                f"Remove {folder} when nothing uses the device any more; it must be a folder of "
                "this user that nobody else may write.",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = self._file.read().strip() or "unknown"
            self._file.close()
            whose = "this process itself" if holder == str(os.getpid()) else f"process {holder}"
            raise BoardError(
                f"The device {tag} is in use by {whose}.",
                "Close the other Accelerator (close(), or leave its 'with' block; in a notebook, "
                "shut the other kernel down).",
            ) from error
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        """Gives the device free; doing so again changes nothing."""
        if not self._file.closed:
            fcntl.flock(self._file, fcntl.LOCK_UN)  # a forked process may hold the file, too
            self._file.close()


def lock_folder() -> Path:
    """Where locks lie: root's where only root writes, another user's in a folder of its own."""
    user = os.geteuid()
    return ROOT_LOCKS if user == 0 else Path(tempfile.gettempdir(), f"vitessera-{user}")


def _open_in(folder: Path, name: str) -> int:
    """A file descriptor of `name` in `folder`; both are made if they are not there.

    Links are not followed, since someone else may have put them there, and nothing is truncated.

    Raises:
        OSError: also if someone else owns the folder, or may write there.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(opened)
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise OSError("someone else may write in its folder")
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        file = os.open(name, flags, 0o600, dir_fd=opened)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError("it is no regular file")
        return file
    finally:
        os.close(opened)
