"""Where simulators are built.

Verilator hands its paths to make and to a shell, which take a space, a quote or a # for something
else. So a build runs in a folder whose path has none of these, and reaches what it takes of the
Python environment, which may lie anywhere, through links in that folder.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..codegen.cache import CACHE_VARIABLE, cache_folder
from ..codegen.errors import ToolError
from ..codegen.scratch import ScratchFolder

PLAIN_PATH = re.compile(r"[\w./+@-]+", re.ASCII)
SHARED_PLACES = (Path("/tmp"), Path("/var/tmp"))


@contextmanager
def workplace(linked: dict[str, Path]) -> Iterator[Path]:
    """A scratch folder that make can work in.

    Args:
        linked: name of a link in it → the folder that it leads to.

    Raises:
        OSError: no folder can be made.
        ToolError: there is no place for it.
    """
    with ScratchFolder(_place()) as folder:
        for name, target in linked.items():
            (folder / name).symlink_to(target.absolute())
        yield folder


def _place() -> Path:
    """The cache where its path will do, since a temporary folder may be small."""
    places = (cache_folder().absolute(), Path(tempfile.gettempdir()), *SHARED_PLACES)
    for place in places:
        if PLAIN_PATH.fullmatch(str(place)) and os.access(place, os.W_OK):
            return place
    raise ToolError(
        f"There is no folder to build the simulator in: {', '.join(map(str, places))} cannot be "
        "written, or hold a space or another character that make does not take.",
        f"Set {CACHE_VARIABLE} to a folder with letters, digits and ./_+@- in its path.",
    )
