"""The accelerator that is picked for a model and a board; no simulator."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parent / "schedule"))
from builders import Shape, vision_transformer
from vitessera.codegen.boards import BOARDS, Board, Resources
from vitessera.codegen.config import Memory
from vitessera.codegen.errors import CapacityError
from vitessera.codegen.quantgraph import QuantGraph
from vitessera.codegen.report import report
from vitessera.codegen.schedule import schedule
from vitessera.codegen.schedule.split import schedule_in_parts, split
from vitessera.codegen.schedule.timing import estimate
from vitessera.codegen.sizing import (
    HEADROOM,
    SHAPES,
    STANDARD_SPEED,
    boards_that_would_do,
    fits,
    pick,
    plan,
)


@pytest.fixture(scope="module")
def graph() -> QuantGraph:
    shape = Shape(tokens=197, channels=96, heads=3, hidden=192, blocks=1, patch=48)
    return vision_transformer(np.random.default_rng(1), shape)


@pytest.mark.parametrize("name", BOARDS)
def test_it_fits_with_headroom(graph: QuantGraph, name: str) -> None:
    board = BOARDS[name]
    chosen = pick(graph, board)
    assert all(share <= HEADROOM[kind] for kind, share in chosen.shares().items())
    assert chosen.config.board == name
    assert chosen.config.clock_mhz == board.config.clock_mhz
    assert chosen.config.bus_bits == board.memory_port_bits
    again = schedule(split(graph, chosen.program.parts), chosen.config)
    assert replace(again, parts=chosen.program.parts) == chosen.program
    assert estimate(chosen.program).cycles == chosen.cycles


def test_a_bias_gets_room_for_a_few_blocks(
    graph: QuantGraph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for as many as DRAM could deliver ahead into a memory without end."""
    monkeypatch.setattr("vitessera.codegen.sizing._standard", lambda *_: None)
    shape = Shape(tokens=197, channels=96, heads=3, hidden=192, blocks=1, patch=48, bias=True)
    biased = vision_transformer(np.random.default_rng(1), shape)
    board = BOARDS["kv260"]
    plain, chosen = pick(graph, board), pick(biased, board)
    streamed = [
        entry.words
        for entry in chosen.program.allocations
        if entry.streamed and entry.memory is Memory.RESIDUAL
    ]
    config = chosen.config
    assert set(streamed) == {-(-197 // config.tile) * config.beats_per_tile}
    if config.tile == plain.config.tile:
        added = config.residual_words - plain.config.residual_words
        assert 0 < added <= 3 * max(streamed) + 512


# Two blocks stand for twelve: memories are as deep for one as for all.
COMMON = {
    "cifar": Shape(tokens=65, channels=192, heads=3, hidden=768, blocks=2, patch=48),
    "deit_tiny": Shape(tokens=197, channels=192, heads=3, hidden=768, blocks=2, patch=768),
    "deit_small": Shape(tokens=197, channels=384, heads=6, hidden=1536, blocks=2, patch=768),
    "vit_base": Shape(tokens=197, channels=768, heads=12, hidden=3072, blocks=2, patch=768),
}


@pytest.fixture(scope="module")
def common() -> dict[str, QuantGraph]:
    rng = np.random.default_rng(1)
    return {name: vision_transformer(rng, shape) for name, shape in COMMON.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("board", "largest"),
    [
        ("pynq-z2", "deit_tiny"),
        ("ultra96-v2", "deit_small"),
        ("kv260", "vit_base"),
        ("zcu104", "vit_base"),
        ("zcu102", "vit_base"),
        ("rfsoc4x2", "vit_base"),
    ],
)
def test_common_models_share_the_standard_accelerator(
    common: dict[str, QuantGraph], board: str, largest: str
) -> None:
    assert fits(BOARDS[board].config, BOARDS[board])
    for name in list(COMMON)[: list(COMMON).index(largest) + 1]:
        assert pick(common[name], BOARDS[board]).config == BOARDS[board].config, name


def test_a_model_that_its_own_accelerator_suits_much_better_gets_that() -> None:
    digits = vision_transformer(
        np.random.default_rng(1), Shape(tokens=17, channels=32, heads=2, hidden=64, blocks=3)
    )
    board = BOARDS["pynq-z2"]
    chosen, standard = pick(digits, board), estimate(schedule(digits, board.config))
    assert chosen.config.lanes > board.config.lanes
    assert chosen.cycles < STANDARD_SPEED * standard.cycles


def test_what_does_not_fit_the_standard_accelerator_gets_its_own(
    common: dict[str, QuantGraph],
) -> None:
    board = BOARDS["zcu104"]
    shallow = replace(board, config=replace(board.config, left_words=512))
    assert pick(common["deit_tiny"], shallow).config.left_words > 512


@pytest.mark.slow
def test_nothing_that_fits_is_much_faster(graph: QuantGraph) -> None:
    """The one that is picked against each shape alone."""
    from vitessera.codegen import sizing

    board = BOARDS["ultra96-v2"]
    best = pick(graph, board).images_per_second
    for shape in SHAPES:
        try:
            found = sizing._fit(
                sizing._Cut(graph, 1), sizing._base(board, *shape, maps=False), board
            )
        except CapacityError:
            continue
        assert found.images_per_second <= best * sizing.GAIN


def test_a_larger_part_is_never_slower(graph: QuantGraph) -> None:
    board = BOARDS["pynq-z2"]
    roomy = replace(board, resources=board.resources.times(4))
    assert pick(graph, roomy).images_per_second >= pick(graph, board).images_per_second


def small(board: Board) -> Board:
    """A part that hardly holds anything."""
    return replace(board, resources=Resources(9000, 20000, 8, 0, 40))


def test_a_part_that_is_too_small(graph: QuantGraph) -> None:
    with pytest.raises(CapacityError, match="of what pynq-z2 has") as caught:
        pick(graph, small(BOARDS["pynq-z2"]))
    assert "words" in str(caught.value)


@pytest.mark.slow
def test_a_network_that_no_instruction_could_address() -> None:
    """16 frames of 224 x 224 in tubelets of 2 x 16 x 16, as VideoMAE has them."""
    shape = Shape(tokens=1568, channels=384, heads=6, hidden=1536, blocks=1, patch=1536, prefix=0)
    videos = vision_transformer(np.random.default_rng(1), replace(shape, pool="mean"))
    with pytest.raises(CapacityError, match=r"left memory would need some .* fewer tokens"):
        pick(videos, BOARDS["kv260"])
    assert "kv260" not in boards_that_would_do(videos)


def test_boards_that_would_do(graph: QuantGraph, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zcu102", "zcu104", "rfsoc4x2", "ultra96-v2"):
        monkeypatch.delitem(BOARDS, name)
    monkeypatch.setitem(BOARDS, "pynq-z2", small(BOARDS["pynq-z2"]))
    assert boards_that_would_do(graph) == ["kv260"]


def test_the_plan_says_what_parts_cost(graph: QuantGraph) -> None:
    chosen = pick(graph, BOARDS["kv260"])
    assert plan(graph, chosen.program).startswith(f"Predicted: {chosen.cycles:,} cycles an image")
    assert "parts" not in plan(graph, chosen.program)
    used = max(e.used for e in report(chosen.program).memories if e.memory == "left")
    tight = replace(chosen.config, left_words=used * 3 // 4)
    program = schedule_in_parts(graph, tight)
    assert program.parts > 1
    text = plan(graph, program)
    assert f"cut into up to {program.parts} parts" in text
    assert "with more memory" in text
