"""The build cache: generated Verilog and simulator binaries, by the hash of what made them.

A file in it is used only if it is as it was written: beside it stands the hash of its content.
Without that, or with another, it is made anew.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError
from .outputfile import is_regular, staging

CACHE_VARIABLE = "VITESSERA_CACHE"


def cache_folder() -> Path:
    """The cache's folder: $VITESSERA_CACHE, or vitessera in the user's cache folder.

    Raises:
        OutputError: there is neither.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base, "vitessera")
    try:
        return Path.home() / ".cache" / "vitessera"
    except RuntimeError as error:
        raise OutputError(
            "There is no folder for the build cache: this user has no home folder.",
            f"Set {CACHE_VARIABLE} to a folder on a disk with space, where you may write.",
        ) from error


@contextmanager
def cache_access() -> Iterator[None]:
    """Makes OutputError, which names the cache, of whatever the file system refuses."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"The build cache {cache_folder()} cannot be used ({error.strerror or error}).",
            f"Set {CACHE_VARIABLE} to a folder on a disk with space, where you may write.",
        ) from error


def cached_text(name: str, make: Callable[[], str]) -> str:
    """The cached text `name`, made on first use; safe against concurrent processes."""
    path = cache_folder() / name
    with cache_access():
        path.parent.mkdir(parents=True, exist_ok=True)
        if (content := cached_bytes(path)) is not None:
            return content.decode()
    text = make()
    with cache_access():
        keep(path, text.encode())
    return text


def cached_bytes(path: Path) -> bytes | None:
    """The content of a file in the cache; None if it is not there, or not as it was written."""
    if not (is_regular(path) and is_regular(_hash_file(path))):
        return None
    content = path.read_bytes()
    return content if _hash_file(path).read_bytes() == _hash(content) else None


def keep(path: Path, content: bytes) -> None:
    """Writes a file of the cache, in a folder that is there, and its hash."""
    with staging(path.parent) as scratch:
        staged = scratch / path.name
        staged.write_bytes(content)
        seal(staged)
        for file in (path, _hash_file(path)):
            (scratch / file.name).replace(file)


def seal(path: Path) -> None:
    """Writes the hash of a file beside it."""
    _hash_file(path).write_bytes(_hash(path.read_bytes()))


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _hash(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
