"""The reference interpreter on a hand-written program, and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.errors import HostBufferError, ProgramError
from vitessera.codegen.packing import pack_operand, pack_parameters, to_dram
from vitessera.codegen.program import (
    InputDescription,
    OutputDescription,
    Program,
    pack_input,
    parse_program,
)
from vitessera.codegen.reference import Reference, tile_products

CONFIG = HardwareConfig(
    tile=4,
    depth=4,
    lanes=4,
    left_words=8,
    right_words=8,
    parameter_words=4,
    residual_words=16,
    probability_words=4,
)
WEIGHT = np.random.default_rng(2).integers(-127, 128, (4, 8), dtype=np.int8)
# [8, 8] patches times WEIGHT transposed, as [8, 4]. Loads land in order: the last one signals.
TEXT = """
load target=right address=1 words=2
load target=parameter address=3 words=1 offset=32 signal=epilogue
load target=left words=4 region=input signal=compute
compute wait=load outer=2 inner=1 depth=2 left_outer=2 left_step=1 right_base=1 right_step=1
epilogue wait=load outer=2 inner=1 target=residual parameter=3 scale=1 outer_stride=4 signal=store
store wait=residual words=8 region=output signal=control
end wait=store
"""


def program(text: str = TEXT) -> Program:
    listing = parse_program(text)
    parameters = pack_parameters(
        np.array([5, -6, 7, 8]), np.full(4, 3), np.array([0, 1, 2, 3]), CONFIG
    )
    weights = to_dram(pack_operand(WEIGHT, CONFIG), Memory.RIGHT, CONFIG)
    return Program(
        config=CONFIG,
        instructions=listing.instructions,
        labels=listing.labels,
        weights=weights + to_dram(parameters, Memory.PARAMETER, CONFIG),
        input=InputDescription("image", (1, 8, 8), (2, 4), 0, 8, 8, (1.0,) * 8, 64),
        outputs=(OutputDescription("out", 0, 8, 7, 3, 1, (1.0,) * 3, 0),),
    )


def expected(patches: np.ndarray) -> np.ndarray:
    biased = patches.astype(np.int64) @ WEIGHT.T.astype(np.int64) + [5, -6, 7, 8]
    scaled = np.floor(biased * 3 / np.array([1, 2, 4, 8]) + 0.5)
    return np.clip(scaled, -32767, 32767)[..., 1:8, :3]


def test_hand_written_product() -> None:
    patches = np.random.default_rng(3).integers(-127, 128, (5, 8, 8), dtype=np.int8)
    outputs = Reference(program()).run(patches)
    np.testing.assert_array_equal(outputs["out"], expected(patches))
    single = Reference(program()).run(pack_input(program(), patches[0]))
    np.testing.assert_array_equal(single["out"], expected(patches[0]))


def test_tap_sees_memories_after_each_instruction() -> None:
    seen = []
    patches = np.ones((8, 8), np.int8)
    Reference(program(), lambda index, *_: seen.append(index)).run(patches)
    assert seen == list(range(7))


@pytest.mark.parametrize(
    ("strides", "loops"),
    [((0, 1), (1, 0)), ((1, 0), (0, 1)), ((1, 1), (1, 1)), ((0, 0), (0, 0)), ((1, 1), (0, 0))],
)
def test_products_of_every_loop_shape(strides: tuple[int, int], loops: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    outer, inner = 3, 2
    shapes = [(2, outer if o else 1, inner if i else 1, 5, 4, 2) for o, i in (strides, loops)]
    left, right = (rng.integers(-127, 128, shape, dtype=np.int8) for shape in shapes)
    tiles = tile_products(left, right, outer, inner)
    exact = np.einsum("boikrv,boikcv->boirc", left.astype(int), right.astype(int))
    np.testing.assert_array_equal(tiles, np.broadcast_to(exact, (2, outer, inner, 4, 4)))


def test_long_contractions_are_exact() -> None:
    left = np.full((1, 1, 1, 2047, 4, 4), 127, np.int8)
    left[..., 0] = 126
    tiles = tile_products(left, left, 1, 1)
    assert (tiles == 2047 * (3 * 127**2 + 126**2)).all()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("address=1 words=2", "address=1 words=1", "Instruction 3 reads right word 2, which no"),
        ("words=4 region=input", "words=5 region=input", "reaches byte 80 of input, which has 64"),
        ("address=1 words=2", "address=7 words=2", "reaches right word 8, the memory has 8"),
        ("offset=32", "offset=33", "Instruction 1 reaches byte 65 of weights"),
        ("words=2\n", "words=2 offset=4\n", "Instruction 0 starts at byte 4"),
        ("store wait=residual words=8", "store wait=residual words=9", "residual word 8"),
        ("region=output", "region=input", "Instruction 5 writes to a buffer that is not"),
        ("compute wait=load", "compute wait=load,norm", "Instruction 3 waits for norm, which no"),
        ("compute wait=load", "compute", "Instruction 6 leaves 1 semaphores from load to compute"),
        ("outer_stride=4", "outer_stride=0", "Instruction 4 writes a word twice"),
        ("outer=2 inner=1 target", "outer=1 inner=2 target", "takes 1 x 2 tiles, its compute"),
        ("target=residual", "target=left accumulate=1", "accumulates, but its target is not"),
        ("target=residual", "target=softmax accumulate=1 addend=5", "reads residual word 5, which"),
        (
            "target=residual",
            "target=softmax accumulate=1 addend=9",
            "reaches residual word 16, the",
        ),
        ("scale=1", "row_scale=1", "takes 2 softmax blocks, there are 0"),
        ("left_step=1", "left_step=1 left_source=probability", "reads probability word 0"),
        (
            "end wait=store",
            "compute outer=1 inner=1 depth=1 right_base=1\nend wait=store",
            "1 comp",
        ),
        ("target=parameter", "target=parameter region=input", "fills parameter from input"),
    ],
)
def test_impossible_instructions_are_named(old: str, new: str, reason: str) -> None:
    assert old in TEXT
    with pytest.raises(ProgramError, match=re.escape(reason)):
        Reference(program(TEXT.replace(old, new, 1))).run(np.ones((2, 8, 8), np.int8))


@pytest.mark.parametrize("text", ["", "load", TEXT.replace("compute wait", "end\ncompute wait")])
def test_end_stands_last_and_only_there(text: str) -> None:
    with pytest.raises(ProgramError, match=r"END at .*, not once as its last instruction"):
        Reference(program(text)).run(np.ones((8, 8), np.int8))


def test_wrong_buffer_size_is_refused() -> None:
    with pytest.raises(HostBufferError, match="3 bytes, the program reads 64"):
        Reference(program()).run(b"abc")
