"""The clock that the fabric gets, against the one that its bitstream was built for."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from host_support import NO_PYNQ, Open
from vitessera.codegen.boards import BOARDS
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.vivado import fabric_mhz
from vitessera.host.build import read_compiled
from vitessera.host.clock import KEPT_METADATA, forget_overlays, settle_clock
from vitessera.host.errors import BuildDirectoryError, OverlayError


class Clocks:
    """As pynq.Clocks: reads the fabric's clock, and sets the nearest to which the PLL divides."""

    def __init__(self, pll_mhz: float, division: int, most: int = 3969) -> None:
        self.pll_mhz, self.division, self.most = pll_mhz, division, most

    @property
    def fclk0_mhz(self) -> float:
        return round(self.pll_mhz / self.division, 6)

    @fclk0_mhz.setter
    def fclk0_mhz(self, mhz: float) -> None:
        self.division = min(self.most, max(1, round(self.pll_mhz / mhz)))
        warnings.warn("Setting frequency to the closest possible value", stacklevel=2)


@pytest.mark.parametrize("pll_mhz", [1500, 1499.985, 1500.5])
def test_the_clock_that_was_meant(pll_mhz: float) -> None:
    """Or what PYNQ makes of 33.333 MHz for a crystal of 33.3333."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert settle_clock(Clocks(pll_mhz, 8), 187.5) == round(pll_mhz / 8, 6)


def test_a_pll_that_is_slower_is_said() -> None:
    """Divided by 16, as for a PLL of 1600 MHz."""
    with pytest.warns(RuntimeWarning, match=r"at 62.5 MHz, the bitstream was built for 100\. Res"):
        assert settle_clock(Clocks(1000, 16), 100) == 62.5


@pytest.mark.parametrize(
    "pll_mhz, division, allowed, made",
    [
        (1516.5, 8, 187.5, 168.5),  # one percent more, from another boot loader
        (1000, 10, 80, 76.923077),  # the dividers of the bitstream before this one
        (1600, 5, 200, 200),
        (1500, 1, 9.5, 9.493671),
    ],
)
def test_a_clock_that_is_too_fast_is_set_lower(
    pll_mhz: float, division: int, allowed: float, made: float
) -> None:
    clocks = Clocks(pll_mhz, division)
    with pytest.warns(RuntimeWarning, match=rf"built for {allowed}; the clock has been set to"):
        assert settle_clock(clocks, allowed) == made
    assert clocks.pll_mhz / (clocks.division - 1) > allowed, "a faster one would have done"


def test_a_clock_that_cannot_be_set_lower_is_refused() -> None:
    with pytest.raises(
        OverlayError, match=r"at 250 MHz, the bitstream was built for 187.5, and no .*lower clock_m"
    ):
        settle_clock(Clocks(1500, 6, most=6), 187.5)


# --- What a build says of its clock


@pytest.mark.parametrize(
    "config, mhz",
    [
        (BOARDS["pynq-z2"].config, 100),
        (BOARDS["zcu104"].config, 187.5),
        (HardwareConfig(board="zcu104", clock_mhz=180), 187.5),
        (HardwareConfig(board="custom", clock_mhz=123), 123),
    ],
)
def test_the_clock_of_a_build_is_what_its_board_makes(config: HardwareConfig, mhz: float) -> None:
    assert fabric_mhz(config) == mhz


@pytest.mark.parametrize(
    "clock, message",
    [
        ("fast", "fabric_mhz is 'fast'"),
        (float("nan"), "the fabric's clock is nan MHz"),
        (-1.0, "the fabric's clock is -1.0 MHz"),
    ],
)
def test_a_build_with_an_impossible_clock(
    folder: Path, tmp_path: Path, clock: object, message: str
) -> None:
    copy = tmp_path / "build"
    shutil.copytree(folder, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    assert manifest["fabric_mhz"] == 100.0
    (copy / "manifest.json").write_text(json.dumps(manifest | {"fabric_mhz": clock}))
    with pytest.raises(BuildDirectoryError, match=message):
        read_compiled(copy)


# --- On a device


@pytest.mark.pynq
@pytest.mark.accelerator
def test_profiles_are_of_the_clock_that_runs(open_board: Open, folder: Path) -> None:
    pytest.importorskip("pynq", reason=NO_PYNQ)
    from vitessera.sim.board import SimulatedBoard

    device = SimulatedBoard(folder)
    device.clocks.pll_mhz = 1600.0
    device.clocks.division = 12
    with pytest.warns(RuntimeWarning, match="the clock has been set to 100 MHz"):
        acc = open_board(folder, simulate=None, device=device)
    assert device.clocks.fclk0_mhz == 100
    device.clocks.division = 32
    acc._broken = True  # so that the next run loads the overlay again
    with pytest.warns(RuntimeWarning, match="at 50 MHz, the bitstream was built for 100"):
        acc.run(np.zeros(acc.model.image, np.float32))
    profile = acc.profile()
    assert profile.clock_mhz == 50
    assert profile.milliseconds == profile.cycles / 50e3
    acc.close()
    device.close()


@pytest.mark.pynq
@pytest.mark.parametrize("by_path", [False, True], ids=["by hash", "by path alone"])
def test_an_overlay_that_was_built_again_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_path: bool
) -> None:
    """PYNQ would go on with what the old .hwh said, and with its dividers."""
    pytest.importorskip("pynq", reason=NO_PYNQ)
    from pynq.pl_server import embedded_device, global_state

    for module in (embedded_device, global_state):
        monkeypatch.setattr(module, "__file__", str(tmp_path / "module.py"))
    monkeypatch.setattr(global_state, "STATE_DIR", str(tmp_path))
    bit = tmp_path / "vitessera.bit"
    bit.write_bytes(b"old")
    state = global_state.GlobalState(
        bitfile_name=str(bit),
        bitfile_hash=global_state.bitstream_hash(str(bit)),
        active_name="",
        timestamp="",
    )
    global_state.save_global_state(state)
    kept = tmp_path / KEPT_METADATA
    kept.write_bytes(pickle.dumps(Parser()))
    handler = embedded_device.BitfileHandler(bit)
    if by_path:
        bit.write_bytes(b"new")
        monkeypatch.setattr(handler, "_cache_exists", lambda: True)
    assert isinstance(handler._get_cache(), Parser)
    forget_overlays()
    assert not kept.exists()
    with pytest.raises(embedded_device.CacheMetadataError):  # PYNQ reads the .hwh then
        handler._get_cache()
    forget_overlays()  # again changes nothing


class Parser:
    """Stands for what PYNQ keeps of a .hwh."""

    mem_dict: dict[str, object] = {}  # noqa: RUF012
