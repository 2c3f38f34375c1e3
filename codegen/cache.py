"""The build cache: generated Verilog and simulator binaries, by the hash of what made them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import OutputError

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
        if path.is_file():
            return path.read_text()
    text = make()
    with cache_access():
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            file.write(text)
        Path(file.name).replace(path)
    return text
