"""Finding an entry of a table by its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, TypeVar

from .errors import UnknownNameError


class Named(Protocol):
    """What has a name."""

    @property
    def name(self) -> str:
        """Unique in its table."""
        ...


Entry = TypeVar("Entry", bound=Named)


def by_name(entries: Iterable[Entry], name: str, kind: str) -> Entry:
    """The entry called `name`; `kind` says in messages what the entries are.

    Raises:
        UnknownNameError: there is none; gives the known names.
    """
    known = {entry.name: entry for entry in entries}
    if name not in known:
        raise UnknownNameError(
            f"There is no {kind} called {name!r}.", f"Known names: {', '.join(known)}."
        )
    return known[name]
