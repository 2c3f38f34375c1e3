"""Text from elsewhere - names in files, names of files - as it may be shown to people."""

from __future__ import annotations

import unicodedata

# Control and format characters, lone surrogates, and what else ends a line. A terminal obeys them,
# or shows the text behind them in another order or not at all.
_UNSHOWN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Format characters that Persian, the scripts of India and emoji are written with.
_JOINERS = {"\u200c", "\u200d"}


def printable(text: object, keep: str = "") -> str:
    """`text` on one line, with what is not to be shown as such escaped as in a Python string.

    Args:
        text: what to show; an object is shown as `str` has it.
        keep: characters that stay as they are, such as a newline where lines are meant.
    """
    shown = str(text)
    if shown.isprintable():
        return shown
    return "".join(
        character if character in keep or _is_shown(character) else _escaped(character)
        for character in shown
    )


def _is_shown(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in _UNSHOWN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
