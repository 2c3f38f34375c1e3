"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it printed."""

    code: int
    output: str
    errors: str


Command = Callable[..., Outcome]


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2 and one paragraph that holds `words`."""
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.errors
    # Before the message: the stages that went well, and argparse's usage line.
    message = outcome.errors.split("error: ")[-1].strip()
    assert message, outcome
    assert "\n\n" not in message
    folded = " ".join(message.split())
    for word in words:
        assert word in folded, f"{word!r} is not in: {folded}"
