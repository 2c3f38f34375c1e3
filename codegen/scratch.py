"""Folders for what is not to stay: they go with the process that made them, whatever ends it.

A process that can, removes its own. What it left behind when it was killed is removed by the next
one that makes a folder in the same place. The name holds the maker's process number, and the maker
holds a lock on the folder for as long as it lives; so nobody's folder goes while it is in use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

_NAME = re.compile(r"\.vitessera-(\d+)-\w{8}")
# A process that was just killed may write a last file while its folder is removed.
REMOVAL_ATTEMPTS = 20
REMOVAL_SECONDS = 0.1  # between two of them


class ScratchFolder:
    """An empty folder, removed at the end of the `with` block, by `cleanup`, or with the process.

    Args:
        parent: the folder that it is made in; None for the system's temporary folder.

    Attributes:
        path: the folder.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, parent: Path | None = None) -> None:
        place = Path(tempfile.gettempdir()) if parent is None else parent
        sweep(place)
        self.path = Path(tempfile.mkdtemp(dir=place, prefix=f".vitessera-{os.getpid()}-"))
        try:
            lock = _opened(self.path)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except BaseException:
            self.path.rmdir()
            raise
        self._remove = weakref.finalize(self, _removed, self.path, lock, os.getpid())

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.cleanup()

    def cleanup(self) -> None:
        """Removes it with all that is in it; doing so again changes nothing."""
        self._remove()


def _removed(folder: Path, lock: int, maker: int) -> None:
    """Removes `folder`, but not at the end of a process that was forked from its maker."""
    if os.getpid() != maker:
        return
    with suppress(OSError):
        folder.rmdir()  # takes no file descriptor, of which there may be none left
    for attempt in range(1, REMOVAL_ATTEMPTS + 1):
        try:
            shutil.rmtree(folder)
            break
        except FileNotFoundError:
            break
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or attempt == REMOVAL_ATTEMPTS:
                raise
            time.sleep(REMOVAL_SECONDS)
    os.close(lock)


def sweep(parent: Path) -> None:
    """Removes the scratch folders that dead processes have left in `parent`.

    What belongs to another user, is in use, or cannot be removed stays.
    """
    with suppress(OSError), os.scandir(parent) as entries:
        found = [Path(entry) for entry in entries if _NAME.fullmatch(entry.name)]
        for folder in filter(_is_left_behind, found):
            shutil.rmtree(folder, ignore_errors=True)


def _is_left_behind(folder: Path) -> bool:
    match = _NAME.fullmatch(folder.name)
    assert match is not None
    if _is_alive(int(match[1])):
        return False
    try:
        lock = _opened(folder)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(lock).st_uid == os.geteuid()
    except OSError:  # a process that we do not see holds it: in another container, say
        return False
    finally:
        os.close(lock)


def _opened(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
