"""The table of boards, and boards read from files."""

from __future__ import annotations

from pathlib import Path

import pytest
from vitessera.codegen.boardfile import EXAMPLE, find_board, read_board
from vitessera.codegen.boards import BOARDS, Board, ProcessorKind, Resources
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.vivado import block_design, fabric_mhz

Shapes = tuple[tuple[int, int], ...]  # words, bits
BRAM36: Shapes = ((512, 72), (1024, 36))
URAM: Shapes = ((4096, 72),)


@pytest.fixture(params=BOARDS)
def board(request: pytest.FixtureRequest) -> Board:
    return BOARDS[request.param]


def test_the_configuration_names_its_board(board: Board) -> None:
    assert board.config.board == board.name


def test_the_bus_is_as_wide_as_the_memory_port(board: Board) -> None:
    assert board.config.bus_bits == board.memory_port_bits


def test_the_clock_is_what_the_pll_gives(board: Board) -> None:
    clock_mhz = fabric_mhz(board.config)
    assert board.config.clock_mhz <= clock_mhz < board.config.clock_mhz + 1


def test_the_engine_has_the_multipliers(board: Board) -> None:
    # Two int8 products share one multiplier.
    assert board.config.macs // 2 < board.resources.dsp


def blocks(config: HardwareConfig, shapes: Shapes) -> dict[str, int]:
    """Blocks that each memory takes, in the shape that takes the fewest."""
    sizes = {m.value: (config.words(m), config.word_bits(m)) for m in Memory}
    sizes["norm buffer"] = (config.norm_buffer_words, config.word_bits(Memory.RESIDUAL))
    return {
        name: min(-(-depth // words) * -(-width // bits) for words, bits in shapes)
        for name, (depth, width) in sizes.items()
    }


def test_the_memories_fit(board: Board) -> None:
    bram36, uram = blocks(board.config, BRAM36), blocks(board.config, URAM)
    free = board.resources.uram
    # The largest ones go where a block holds most.
    for name in sorted(bram36, key=lambda name: -bram36[name]):
        if uram[name] <= free:
            free -= uram[name]
            del bram36[name]
    assert sum(bram36.values()) <= board.resources.bram36


def test_device_names_are_of_one_board() -> None:
    names = [name for board in BOARDS.values() for name in board.device_names]
    assert len(names) == len(set(names)) >= len(BOARDS)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my-board.toml"
    path.write_text(EXAMPLE)
    return path


def test_a_board_from_a_file(file: Path) -> None:
    assert read_board(file) == Board(
        name="my-board",
        part="xczu5ev-sfvc784-1-e",
        resources=Resources(luts=117120, flip_flops=234240, bram36=144, uram=64, dsp=1248),
        processor=ProcessorKind.ZYNQ_ULTRASCALE,
        pll_mhz=1500,
        ddr_bytes=4 << 30,
        ddr_bytes_per_second=19_200_000_000,
        config=HardwareConfig(tile=8, lanes=8, bus_bits=128, clock_mhz=150, board="my-board"),
        device_names=("MyBoard",),
        board_part="*:my-board:*",
        properties=(("PSU__USE__IRQ1", "0"),),
    )


def test_what_may_be_left_out(file: Path) -> None:
    lines = [line for line in EXAMPLE.splitlines() if not line.startswith(("device", "PSU__"))]
    file.write_text("\n".join(lines), encoding="utf-8")
    board = read_board(file)
    assert board.device_names == () and board.properties == ()


def test_a_file_is_found_by_name(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert find_board("my-board") == find_board("my-board.toml") == find_board(str(file))
    file.rename(file.with_name("kv260.toml"))
    assert find_board("kv260") is BOARDS["kv260"]


@pytest.mark.parametrize(
    "mebibytes, expected",
    [
        (1024, [1 << 30]),
        (2048, [1 << 31]),
        (4096, [1 << 31, 1 << 31]),
        # The upper segment is a power of two, so it reaches past the DDR.
        (8192, [1 << 31, 1 << 33]),
        (32768, [1 << 31, 1 << 35]),
    ],
)
def test_the_ddr_is_divided_into_segments(file: Path, mebibytes: int, expected: list[int]) -> None:
    file.write_text(EXAMPLE.replace("ddr_mib = 4096", f"ddr_mib = {mebibytes}"), encoding="utf-8")
    board = read_board(file)
    segments = block_design(board.config, board).segments
    assert [segment.size for segment in segments if segment.memory] == expected
