"""What the import of a model may take, whoever the model is from."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass

from ..errors import ConfigError
from .refusal import Refused

MEMORY_VARIABLE, TIME_VARIABLE = "VITESSERA_IMPORT_GB", "VITESSERA_IMPORT_MINUTES"

# ViT-Base takes 2 GB and a quarter of a minute, ViT-Huge 14 GB and two minutes.
DEFAULT_GIGABYTES, DEFAULT_MINUTES = 16.0, 15.0

MOST = 10_000  # of either: a week
GIGABYTE = 10**9


@dataclass(frozen=True)
class Limits:
    """Of one import.

    Attributes:
        gigabytes: memory, 10⁹ bytes each.
        minutes: time by the clock.
    """

    gigabytes: float
    minutes: float

    @property
    def bytes(self) -> int:
        """The memory."""
        return int(self.gigabytes * GIGABYTE)

    @property
    def seconds(self) -> float:
        """The time."""
        return self.minutes * 60


def import_limits() -> Limits:
    """As the environment says, or the defaults.

    Raises:
        ConfigError: what it says is no such number.
    """
    return Limits(
        _from_environment(MEMORY_VARIABLE, DEFAULT_GIGABYTES),
        _from_environment(TIME_VARIABLE, DEFAULT_MINUTES),
    )


def _from_environment(variable: str, default: float) -> float:
    text = os.environ.get(variable)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST:
        raise ConfigError(
            f"{variable} is {text!r}, not a number above zero and up to {MOST}.",
            f"Correct it, or unset it for {default:g}.",
        )
    return value


def out_of_memory(error: Exception) -> Refused:
    """The verdict on a node on which memory ran out."""
    return Refused(
        f"it takes more memory than an import may ({error or 'none is left'})",
        "Check the model in ONNX Runtime. If it needs that much, give a number of gigabytes in "
        f"{MEMORY_VARIABLE} (now {import_limits().gigabytes:g}).",
    )
