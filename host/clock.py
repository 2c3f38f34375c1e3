"""The fabric's clock: made by the processor, of a PLL that the board's boot image has set.

PYNQ sets the dividers when it loads an overlay. It knows nothing of what timing the bitstream was
built for, and Vivado knows nothing of the board's PLL; so the clock is read back here.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from .errors import OverlayError

TOLERANCE = 1e-3  # of a frequency: PYNQ takes 33.333 MHz for a crystal of 33.3333
STEPS = 100  # in which slower clocks are asked for
KEPT_METADATA = "_current_metadata.pkl"  # PYNQ's, beside its modules


class Clocks(Protocol):
    """What is used of `pynq.Clocks`."""

    fclk0_mhz: float


def settle_clock(clocks: Clocks, allowed_mhz: float) -> float:
    """Sees to it that the fabric is not clocked faster than it was built for.

    Args:
        clocks: reads and sets the fabric's clock, in MHz.
        allowed_mhz: that the bitstream was built for.

    Returns:
        The fabric's clock in MHz. A warning says so when it is lower than allowed.

    Raises:
        OverlayError: it is higher, and cannot be set lower.
    """
    made = clocks.fclk0_mhz
    if _exceeds(made, allowed_mhz):
        _slow_down(clocks, allowed_mhz)
        if _exceeds(clocks.fclk0_mhz, allowed_mhz):
            raise OverlayError(
                f"The processor clocks the fabric at {clocks.fclk0_mhz:.6g} MHz, the bitstream was "
                f"built for {allowed_mhz:.6g}, and no slower clock can be set.",
                "Copy the .bit and its .hwh again; if that does not help, compile with a lower "
                "clock_mhz, and build the bitstream again.",
            )
        _say(
            f"the processor clocked the fabric at {made:.6g} MHz, and the bitstream was built for "
            f"{allowed_mhz:.6g}; the clock has been set to {clocks.fclk0_mhz:.6g} MHz"
        )
    elif made < allowed_mhz * (1 - TOLERANCE):
        _say(
            f"the processor clocks the fabric at {made:.6g} MHz, the bitstream was built for "
            f"{allowed_mhz:.6g}"
        )
    return clocks.fclk0_mhz


def _exceeds(mhz: float, allowed_mhz: float) -> bool:
    return mhz > allowed_mhz * (1 + TOLERANCE)


def _slow_down(clocks: Clocks, allowed_mhz: float) -> None:
    """Sets the fastest clock that is not above `allowed_mhz`, if there is one.

    PYNQ takes the nearest that the PLL can be divided to, which may be above.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PYNQ's, that it took the nearest
        for step in range(STEPS, 0, -1):
            clocks.fclk0_mhz = allowed_mhz * step / STEPS
            if not _exceeds(clocks.fclk0_mhz, allowed_mhz):
                return


def _say(what: str) -> None:
    warnings.warn(
        f"vitessera: {what}. Results are right, and profiles are of the clock that runs; with its "
        "own clock the accelerator would be faster. The PLL of this board's boot image is not the "
        "one that the bitstream was built for: 'Clock' in docs/board.md.",
        RuntimeWarning,
        stacklevel=4,
    )


def forget_overlays() -> None:
    """Has PYNQ read the .hwh anew when it loads an overlay.

    PYNQ keeps what it read for the last overlay in a file of its own. Some releases know it by the
    bitstream's path alone, so that one that was built again, for another clock, would run with the
    dividers of the old one.
    """
    with suppress(ImportError, OSError):  # other releases keep it elsewhere, or not at all
        from pynq.pl_server import global_state

        # What PYNQ must know to shut the last overlay down stands in another file, and stays.
        Path(global_state.__file__).with_name(KEPT_METADATA).unlink()
