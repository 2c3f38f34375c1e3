"""Scheduled programs, run by the reference, against the matrix-level integer execution."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from builders import ROOMY, Builder, Shape, config, images, value, vision_transformer
from vitessera.codegen import isa
from vitessera.codegen.config import HardwareConfig, Memory
from vitessera.codegen.errors import CapacityError, UnsupportedModelError
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import load_program, parse_program, print_program, save_program
from vitessera.codegen.quantexec import execute
from vitessera.codegen.quantgraph import Attention, PatchInput, Product, QuantGraph
from vitessera.codegen.reference import Reference
from vitessera.codegen.schedule import Tuning, schedule
from vitessera.codegen.schedule.stages import TENSORS_IN_LAP, Ring

SIZES = [(4, 4, 4), (8, 4, 4), (8, 4, 8), (16, 4, 16)]


def check(
    graph: QuantGraph, hardware: HardwareConfig, tuning: Tuning | None = None, seed: int = 0
) -> None:
    """The program gives every value exactly, for two images."""
    print(f"seed {seed}, {hardware}")
    program = schedule(graph, hardware, tuning)
    batch = images(np.random.default_rng(seed), graph, 2)
    expected = execute(graph, batch, lanes=hardware.lanes)
    rows = np.stack([patches(graph.source, image) for image in batch])
    reference = Reference(program)
    for name, integers in reference.values(rows[0]).items():
        np.testing.assert_array_equal(integers, expected[name][0], err_msg=name)
    outputs = reference.run(rows)
    assert list(outputs) == [name for name, _ in graph.outputs]
    for name, value_name in graph.outputs:
        np.testing.assert_array_equal(outputs[name], expected[value_name])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bus_bits", [64, 128])
@pytest.mark.parametrize("tokens", [5, 17, 50])
def test_random_transformers(size: tuple[int, int, int], bus_bits: int, tokens: int) -> None:
    seed = tokens + bus_bits
    graph = vision_transformer(np.random.default_rng(seed), Shape(tokens=tokens))
    check(graph, config(*size, bus_bits), seed=seed)


@pytest.mark.parametrize("size", [(4, 2, 2), (8, 8, 8), (16, 8, 8), (16, 2, 4)])
def test_other_depths_and_lanes(size: tuple[int, int, int]) -> None:
    check(vision_transformer(np.random.default_rng(3), Shape(blocks=1)), config(*size))


@pytest.mark.parametrize("pool", ["token", "mean", "residual", "early"])
@pytest.mark.parametrize("size", SIZES)
def test_pooling_and_several_outputs(pool: str, size: tuple[int, int, int]) -> None:
    shape = Shape(blocks=1, classes=(10, 21), pool=pool, prefix=2)
    check(vision_transformer(np.random.default_rng(5), shape), config(*size))


def test_large_network() -> None:
    shape = Shape(
        tokens=197, channels=96, heads=3, hidden=192, blocks=1, classes=(1000,), patch=192
    )
    check(vision_transformer(np.random.default_rng(6), shape), config(8, 4, 8))


@pytest.mark.parametrize("right_words", [150, 200, 400])
def test_small_weight_memories_give_the_same_result(right_words: int) -> None:
    graph = vision_transformer(np.random.default_rng(7), Shape(blocks=2))
    hardware = config(8, 4, 8, right_words=right_words, parameter_words=16, left_words=160)
    check(graph, hardware)


def test_heads_of_whole_tiles() -> None:
    check(
        vision_transformer(np.random.default_rng(8), Shape(channels=32, heads=4)), config(8, 4, 8)
    )


def test_tuning_changes_instructions_but_not_results() -> None:
    graph = vision_transformer(np.random.default_rng(9), Shape(tokens=50, blocks=1))
    hardware = config(8, 4, 8)
    counts = set()
    for tuning in (Tuning(), Tuning(row_groups=1), Tuning(row_groups=7), Tuning(resident=True)):
        check(graph, hardware, tuning)
        counts.add(len(schedule(graph, hardware, tuning).instructions))
    assert len(counts) > 2


def test_selected_query_and_residual() -> None:
    """The last block of one token only, whose row is not the first of its tile."""
    build = Builder(np.random.default_rng(10))
    source = build.patches(17, 8, 0)
    x = build.product("embed", source, 24, residual=build.constant("c", 17, 24), bits=16)
    normed = build.norm("norm", x)
    token = build.select("token", normed, 11, 8)
    query = build.product("q", token, 24)
    key, values = build.product("k", normed, 24), build.product("v", normed, 24)
    mixed = build.attention("attention", query, key, values, 2)
    kept = build.select("kept", x, 11, 16)
    added = build.product("added", mixed, 24, residual=kept, bits=16)
    plain = build.norm("plain", added, plain=True)
    logits = build.product("logits", plain, 5, bits=16)
    for size in SIZES:
        check(build.graph((logits, added)), config(*size))


# --- What is added to attention scores


@pytest.mark.parametrize("size", [*SIZES, (8, 2, 2), (16, 2, 4)])
@pytest.mark.parametrize("pool", ["token", "early"])
@pytest.mark.parametrize("tokens", [5, 17, 50])
def test_biased_transformers(size: tuple[int, int, int], pool: str, tokens: int) -> None:
    shape = Shape(tokens=tokens, bias=True, pool=pool, prefix=2)
    check(vision_transformer(np.random.default_rng(tokens), shape), config(*size), seed=tokens)


def one_query(row: int, *, biased: bool = True) -> QuantGraph:
    """Attention of one token, whose row is not the first of its tile."""
    build = Builder(np.random.default_rng(10))
    source = build.patches(17, 8, 0)
    x = build.product("embed", source, 24, residual=build.constant("c", 17, 24), bits=16)
    normed = build.norm("norm", x)
    query = build.product("q", build.select("token", normed, row, 8), 24)
    key, values = build.product("k", normed, 24), build.product("v", normed, 24)
    mixed = build.attention("attention", query, key, values, 2, biased=biased)
    return build.graph((build.product("logits", mixed, 5, bits=16),))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("row", [0, 11, 16])
def test_bias_of_one_query(size: tuple[int, int, int], row: int) -> None:
    check(one_query(row), config(*size))


def bias_loads(graph: QuantGraph, hardware: HardwareConfig) -> list[isa.Load]:
    program = schedule(graph, hardware)
    return [
        entry
        for entry, label in zip(program.instructions, program.labels, strict=True)
        if isinstance(entry, isa.Load)
        and entry.target == isa.LoadTarget.RESIDUAL
        and label.startswith("attention")
    ]


def test_only_the_rows_that_are_needed_are_loaded() -> None:
    hardware = config(8, 4, 8)
    # One row tile of 17 keys for each of two heads.
    loads = bias_loads(one_query(11), hardware)
    assert [load.words for load in loads] == [3 * hardware.beats_per_tile] * 2
    assert not bias_loads(one_query(11, biased=False), hardware)


def test_layers_that_share_a_bias_share_its_bytes() -> None:
    graph = vision_transformer(np.random.default_rng(12), Shape(bias=True))
    first, second = (node for node in graph if isinstance(node, Attention))
    shared = dataclasses.replace(second, bias=first.bias)
    nodes = tuple(shared if node is second else node for node in graph)
    own, common = (schedule(g, config()) for g in (graph, dataclasses.replace(graph, nodes=nodes)))
    assert first.bias is not None
    words = shared.heads * 3 * 3 * config().beats_per_tile
    size = words * config().dram_bytes_per_word(Memory.RESIDUAL)
    assert len(own.weights) - len(common.weights) == size
    check(dataclasses.replace(graph, nodes=nodes), config())


# The stream takes 3 x 3 tiles of 8 words; the bias of a block 3 tiles.
STANDING, BLOCK = 72, 24


@pytest.mark.parametrize("blocks", [1, 2, 3, 5])
def test_a_bias_passes_through_what_residual_memory_is_left(blocks: int) -> None:
    graph = vision_transformer(np.random.default_rng(13), Shape(bias=True))
    hardware = config(residual_words=STANDING + blocks * BLOCK)
    check(graph, hardware)
    loads = bias_loads(graph, hardware)
    assert {load.words for load in loads} == {BLOCK}
    assert {load.address for load in loads} == {block * BLOCK for block in range(blocks)}


def test_loads_of_a_bias_run_ahead() -> None:
    """Each is issued before the scores of the block in front of its own."""
    graph = vision_transformer(np.random.default_rng(13), Shape(bias=True, blocks=1))
    program = schedule(graph, config(residual_words=STANDING + 3 * BLOCK))
    seen, ahead = 0, []
    for entry, label in zip(program.instructions, program.labels, strict=True):
        if isinstance(entry, isa.Load) and label == "attention0":
            seen += entry.target == isa.LoadTarget.RESIDUAL
        if isinstance(entry, isa.Epilogue) and entry.target == isa.EpilogueTarget.SOFTMAX:
            ahead.append(seen - len(ahead) - 1)
    assert len(ahead) == 6
    assert all(ahead[:-1])


def test_loads_of_a_bias_do_not_outrun_their_semaphores() -> None:
    """Long rows of small blocks, and room for all of them: no counter may overflow."""
    build = Builder(np.random.default_rng(14))
    source = build.patches(1025, 4, 0)
    x = build.product("embed", source, 8, residual=build.constant("c", 1025, 8), bits=16)
    normed = build.norm("norm", x)
    parts = [build.product(name, normed, 128) for name in "qkv"]
    build.attention("attention", *parts, 1, biased=True)
    mixed = build.select("token", "attention", 0, 8)
    graph = build.graph((build.product("logits", mixed, 3, bits=16),))
    roomy = config(4, 4, 4, left_words=1 << 16, right_words=1 << 17, residual_words=1 << 18)
    assert len(bias_loads(graph, roomy)) == 257


def test_no_room_for_a_bias_is_named() -> None:
    graph = vision_transformer(np.random.default_rng(13), Shape(bias=True))
    short = STANDING + BLOCK - 1
    with pytest.raises(
        CapacityError, match=r"attention0/bias\[\d+\] does not fit the residual"
    ) as e:
        schedule(graph, config(residual_words=short))
    assert f"it has {short} words, of which {BLOCK - 1} are left" in str(e.value)
    assert f"and {BLOCK} are needed at once" in str(e.value)
    assert "residual_words by at least 1" in e.value.remedy


def test_one_value_in_several_places() -> None:
    """Keys are also rows of a product and are pooled; a constant is read three times."""
    build = Builder(np.random.default_rng(11))
    source = build.patches(9, 8, 0)
    constant = build.constant("c", 9, 12)
    shared = build.product("shared", source, 12)
    normed = build.norm("norm", constant)
    mixed = build.attention("attention", shared, shared, normed, 1)
    first = build.product("first", mixed, 12, residual=constant, bits=16)
    second = build.product("second", normed, 12, residual=constant, bits=16)
    pooled = build.pool("pool", normed, 2, bits=16)
    pooled8 = build.pool("pool8", shared, 0)
    logits = build.product("logits", pooled8, 5, bits=16)
    for size in SIZES:
        check(build.graph((first, pooled, second, logits, constant)), config(*size))


def test_attention_heads_wider_than_their_values() -> None:
    build = Builder(np.random.default_rng(12))
    source = build.patches(10, 16, 0)
    query, key = build.product("q", source, 24), build.product("k", source, 24)
    values = build.product("v", source, 10)
    mixed = build.attention("attention", query, key, values, 2)
    logits = build.product("logits", mixed, 7, bits=16)
    for size in SIZES:
        check(build.graph((logits,)), config(*size))


def test_saved_and_printed_programs_are_the_same(tmp_path: Path) -> None:
    program = schedule(vision_transformer(np.random.default_rng(13), Shape()), config())
    save_program(program, tmp_path)
    assert load_program(tmp_path) == program
    listing = parse_program(print_program(program))
    assert (listing.instructions, listing.labels) == (program.instructions, program.labels)


@pytest.mark.parametrize(
    ("memory", "words", "named"),
    [
        ("left", 20, "does not fit the left memory"),
        ("right", 40, "does not fit the right memory"),
        ("right", 52, "right memory has 52 words, of which 4 are left .* q0 takes 6"),
        ("probability", 11, "attention0/probabilities"),
        ("residual", 32, "positions|embed"),
        ("parameter", 4, "parameter memory"),
        ("norm", 2, "norm memory"),
        ("norm_buffer", 20, "the norm buffer has 20"),
    ],
)
def test_too_small_memories_are_named(memory: str, words: int, named: str) -> None:
    graph = vision_transformer(np.random.default_rng(14), Shape())
    key = f"{memory}_words"
    assert key in ROOMY
    with pytest.raises(CapacityError, match=named) as error:
        schedule(graph, config(**{key: words}))
    assert f"Raise {key}" in error.value.remedy


def overwritten(build: Builder, source: str) -> str:
    x = build.product("x", source, 8, bits=16)
    y = build.product("y", source, 8, residual=x, bits=16)
    return build.product("z", build.norm("late", x), 8, residual=y, bits=16)


def other_row(build: Builder, source: str) -> str:
    x = build.product("x", source, 8, bits=16)
    left, right = build.select("a", source, 1, 8), build.select("b", x, 2, 16)
    return build.product("y", left, 8, residual=right, bits=16)


def wrong_bits(build: Builder, source: str) -> str:
    return build.product("y", build.product("x", source, 8, bits=16), 8, bits=16)


def two_heads(build: Builder, source: str) -> str:
    q = build.product("q", source, 24)
    first = build.attention("one", q, q, q, 2)
    return build.product("y", build.attention("two", first, q, q, 4), 8, bits=16)


def norm_as_heads(build: Builder, source: str) -> str:
    normed = build.norm("normed", build.product("x", source, 24, bits=16))
    return build.product("y", build.attention("mixed", normed, normed, normed, 2), 8, bits=16)


def selected_key(build: Builder, source: str) -> str:
    key = build.select("key", build.product("k", source, 8), 1, 8)
    return build.product("y", build.attention("mixed", source, key, key, 1), 8, bits=16)


def patches_with_offset(build: Builder, source: str) -> str:
    (patches,) = build.nodes
    moved = dataclasses.replace(patches.value, offset=1)
    build.nodes[0] = dataclasses.replace(patches, value=moved)
    return source


def transposed_patches(build: Builder, source: str) -> str:
    return build.pool("pooled", source, 0, bits=16)


def offset_in_padding(build: Builder, source: str) -> str:
    x = build.product("x", source, 12, bits=16)
    product = build.nodes[-1]
    assert isinstance(product, Product)
    step = dataclasses.replace(product.requantization, offset=3)
    build.nodes[-1] = dataclasses.replace(product, requantization=step)
    return build.product("y", build.norm("normed", x), 8, bits=16)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (offset_in_padding, "x has an offset, and LayerNorm reads its padding"),
        (overwritten, "late reads x after y has added to it in place"),
        (other_row, "y adds row 2 of b to row 1"),
        (wrong_bits, "x is an int16 value, but is used as left operand"),
        (selected_key, "key selects a token of k as (transposed )?right operand"),
        (patches_with_offset, "patches have offset 1"),
        (transposed_patches, "patches patches are used as transposed right operand"),
    ],
)
def test_unsupported_combinations_are_named(make: object, named: str) -> None:
    assert callable(make)
    build = Builder(np.random.default_rng(15))
    with pytest.raises(UnsupportedModelError, match=named):
        output = make(build, build.patches(9, 8, 0))
        schedule(build.graph((output,)), config())


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (two_heads, "read with 2 and with 4 heads"),
        (norm_as_heads, "normed gives heads or groups, .* but Norm cannot pad them"),
    ],
)
def test_what_another_tile_side_could_pad_is_named(make: object, named: str) -> None:
    assert callable(make)
    build = Builder(np.random.default_rng(15))
    with pytest.raises(CapacityError, match=named) as caught:
        output = make(build, build.patches(9, 8, 0))
        schedule(build.graph((output,)), config())
    assert "tile side" in caught.value.remedy


def test_network_without_input_is_refused() -> None:
    graph = vision_transformer(np.random.default_rng(16), Shape(blocks=0))
    nodes = (PatchInput("more", (), (), value(3, 8, 8), (8, 1, 1), 0), *graph.nodes)
    with pytest.raises(UnsupportedModelError, match="2 inputs"):
        schedule(QuantGraph(graph.image, nodes, graph.outputs), config())


# --- Rings


def test_a_ring_begins_anew_though_there_is_room() -> None:
    """Else nothing would keep loads from outrunning the semaphores' counters."""
    ring = Ring(1 << 18)
    places = []
    for _ in range(10 * TENSORS_IN_LAP):
        place = ring.find(8)
        assert place is not None
        ring.push(place, 8)
        places.append(place)
        if len(places) > 2:
            ring.pop()
    assert max(places) <= 8 * TENSORS_IN_LAP
    assert places.count(0) == 10


def test_a_place_that_is_given_back_does_not_lengthen_the_lap() -> None:
    ring = Ring(1000)
    for place in range(0, 10 * TENSORS_IN_LAP, 10):
        ring.push(place, 10)
    for _ in range(40):
        ring.pop()
    for _ in range(3):
        assert ring.find(10) == 0
        ring.push(0, 10)
        ring.drop()


def test_a_ring_takes_what_fits_only_further_on() -> None:
    ring = Ring(4096)
    for place in range(0, 8 * TENSORS_IN_LAP, 8):
        assert ring.find(8) == place
        ring.push(place, 8)
        if place:
            ring.pop()
    assert ring.find(1024) == 8 * TENSORS_IN_LAP
