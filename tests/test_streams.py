"""Loops in the block diagram. Each needs a reason why it cannot stop, so each is named here."""

from __future__ import annotations

from collections import defaultdict

from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.toplevel import QUEUES, links

# docs/architecture.md, "What a step promises", says why none of them stops.
LOOPS = {
    # A credit leaves after the beats that it stands for.
    frozenset(
        ("instruction_fetch", "axi_read_request", "axi_read_data", "dispatch", "load_request")
    ),
    # Queues hold as many softmax blocks as a program may leave untaken.
    frozenset(("left_operand", "tile_engine", "tile_drain", "epilogue", "softmax")),
}


def edges() -> dict[str, set[str]]:
    """Instance → those that it sends to; instructions go through the units' queues."""
    found: dict[str, set[str]] = defaultdict(set)
    for link in links(HardwareConfig()):
        found[link.source.split(".")[0]].add(link.sink.split(".")[0])
    for sink in QUEUES.values():
        found["dispatch"].add(sink.split(".")[0])
    return found


def reached(start: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that words from `start` may lead to."""
    found: set[str] = set()
    pending = [start]
    while pending:
        for following in graph.get(pending.pop(), set()) - found:
            found.add(following)
            pending.append(following)
    return found


def test_every_loop_of_streams_is_known() -> None:
    graph = edges()
    after = {instance: reached(instance, graph) for instance in list(graph)}
    loops = {
        frozenset(other for other in after if instance in after[other] and other in after[instance])
        for instance in after
        if instance in after[instance]
    }
    assert loops == LOOPS


def test_only_what_is_counted_on_keeps_its_depth() -> None:
    """All other streams may be as short as one word, which tests/campaign tries."""
    least = {link.sink: link.depth for link in links(HardwareConfig(stream_depth=1))}
    assert {sink for sink, depth in least.items() if depth > 1} == {
        "dispatch.beat_r",
        "left_operand.maximum_r",
        "epilogue.reciprocal_r",
        "norm_scale.word_r",
    }
