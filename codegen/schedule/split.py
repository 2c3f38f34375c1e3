"""Networks whose activations do not fit at once: hidden layers in parts.

An MLP's hidden matrix, and the heads of an attention, are sums over channels in what follows:

    x + W2 gelu(W1 n) = x + W2[:, a] gelu(W1[a] n) + W2[:, b] gelu(W1[b] n)

So only a part of them need exist at a time. Every weight is still read once; what it costs is that
the residual stream is rounded, read and written once more for each part. The same holds for the map
of a convolution stem, between the convolution that makes it and the one that makes tokens of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ..config import HardwareConfig
from ..errors import CapacityError
from ..legal import check_quantgraph
from ..program import Program
from ..quantgraph import Attention, Gather, Product, QuantGraph, QuantNode, Requantization, Value
from . import schedule

PARTS = (1, 2, 4, 8, 16)

Channels = npt.NDArray[np.int64]  # numbers of channels, in order


def schedule_in_parts(graph: QuantGraph, config: HardwareConfig) -> Program:
    """The program of `graph`, in as few parts as make it fit.

    Raises:
        CapacityError: no number of parts does; it is the one of the whole.
        UnsupportedModelError: a combination of nodes that has no instructions.
    """
    refusal: CapacityError | None = None
    for parts in PARTS:
        try:
            return replace(schedule(split(graph, parts), config), parts=parts)
        except CapacityError as error:  # noqa: PERF203 (a few turns)
            refusal = refusal or error
    assert refusal is not None
    raise refusal


def split(graph: QuantGraph, parts: int) -> QuantGraph:
    """`graph` with hidden channels, heads and the stem's channels in up to `parts` parts each.

    Values keep their names, scales and sizes; results differ in the rounding of the residual.
    """
    if parts == 1:
        return graph
    nodes = list(graph.nodes)
    for last in [node for node in graph.nodes if _adds(node)]:
        assert isinstance(last, Product)
        before = graph[last.inputs[0]]
        if len(graph.consumers(before.name)) != 1:
            continue
        if isinstance(before, Product) and len(before.inputs) == 1:
            cuts = _cuts(before.value, parts)
            chain = [list(_hidden(before, last, cuts, each)) for each in cuts]
            nodes = _replaced(nodes, (before, last), chain)
        elif isinstance(before, Attention):
            sources = [graph[name] for name in before.inputs]
            alone = all(len(graph.consumers(source.name)) == 1 for source in sources)
            if alone and all(isinstance(s, Product) and len(s.inputs) == 1 for s in sources):
                cuts = _whole_groups(before.value.channels, before.heads, parts)
                chain = [list(_heads(sources, before, last, cuts, each)) for each in cuts]
                nodes = _replaced(nodes, (*sources, before, last), chain)
        elif isinstance(before, Gather):
            source = graph[before.inputs[0]]
            stored = source.name in {value for _, value in graph.outputs}
            alone = len(graph.consumers(source.name)) == 1 and not stored
            if alone and isinstance(source, Product) and len(source.inputs) == 1:
                groups = source.value.channels if before.constants.plain else before.groups
                stem_cuts = _whole_groups(source.value.channels, groups, parts)
                chain = [list(_gathered(source, before, last, stem_cuts, c)) for c in stem_cuts]
                nodes = _replaced(nodes, (source, before, last), chain)
    return check_quantgraph(replace(graph, nodes=tuple(nodes)), f"Cutting in {parts} parts")


def _adds(node: QuantNode) -> bool:
    """Whether the node adds a product to the residual stream."""
    return isinstance(node, Product) and len(node.inputs) == 2


def _cuts(value: Value, parts: int) -> list[Channels]:
    """Ranges of channels, nearly even."""
    return _whole_groups(value.channels, value.channels, parts)


def _whole_groups(channels: int, groups: int, parts: int) -> list[Channels]:
    """Ranges of channels that cut through no group, nearly even."""
    edges = np.linspace(0, groups, min(parts, groups) + 1).round().astype(int)
    return [np.arange(low, high) for low, high in itertools.pairwise(edges * (channels // groups))]


def _replaced(
    nodes: Sequence[QuantNode], old: Sequence[QuantNode], chain: list[list[QuantNode]]
) -> list[QuantNode]:
    """`nodes` with `chain` instead of `old`: one part after the other, the last one's sum last."""
    _connect(chain, old[-1])
    place = nodes.index(old[-1])
    kept = [node for node in nodes[:place] if node not in old]
    return [*kept, *(node for part in chain for node in part), *nodes[place + 1 :]]


def _connect(chain: list[list[QuantNode]], last: QuantNode) -> None:
    """Each part adds to the sum of those before; the last has the name of the whole."""
    stream = last.inputs[1]
    for number, part in enumerate(chain):
        total = part[-1]
        name = last.name if number == len(chain) - 1 else f"{last.name}.{number}"
        part[-1] = replace(total, name=name, inputs=(total.inputs[0], stream))
        stream = name


def _hidden(
    first: Product, last: Product, cuts: Sequence[Channels], channels: Channels
) -> Iterator[QuantNode]:
    part = _outputs(first, channels)
    yield part
    yield _inputs(last, part.name, first.value, cuts, channels)


def _gathered(
    source: Product, node: Gather, last: Product, cuts: Sequence[Channels], channels: Channels
) -> Iterator[QuantNode]:
    part = _outputs(source, channels)
    yield part
    columns = [_of_each_pixel(node, source.value.channels, cut) for cut in cuts]
    own = columns[next(i for i, cut in enumerate(cuts) if cut is channels)]
    gather = replace(
        node,
        name=f"{node.name}.{channels[0]}",
        inputs=(part.name,),
        value=_part(node.value, own),
        gamma=node.gamma[channels],
        beta=node.beta[channels],
        groups=max(1, node.groups * len(channels) // source.value.channels),
    )
    yield gather
    yield _inputs(last, gather.name, node.value, columns, own)


def _of_each_pixel(node: Gather, channels: int, cut: Channels) -> Channels:
    """The same channels of each pixel of the kernel that is unfolded."""
    pixels = np.arange(node.value.channels // channels)
    return np.asarray((pixels[:, None] * channels + cut).reshape(-1), np.int64)


def _heads(
    sources: Sequence[QuantNode],
    node: Attention,
    last: Product,
    cuts: Sequence[Channels],
    channels: Channels,
) -> Iterator[QuantNode]:
    parts = []
    for source in sources:
        assert isinstance(source, Product)
        parts.append(_outputs(source, channels))
    yield from parts
    size = node.value.channels // node.heads
    first, count = int(channels[0]) // size, len(channels) // size
    heads = replace(
        node,
        name=f"{node.name}.{channels[0]}",
        inputs=tuple(part.name for part in parts),
        value=_part(node.value, channels),
        heads=count,
        mix=_requantization(node.mix, channels),
        bias=None if node.bias is None else node.bias[first : first + count],
    )
    yield heads
    yield _inputs(last, heads.name, node.value, cuts, channels)


def _part(value: Value, channels: Channels) -> Value:
    return replace(
        value,
        channels=len(channels),
        scale=value.scale[channels],
        offset=np.broadcast_to(value.offset, value.channels)[channels],
    )


def _requantization(constants: Requantization, channels: Channels) -> Requantization:
    return replace(
        constants,
        bias=constants.bias[channels],
        multiplier=constants.multiplier[channels],
        shift=constants.shift[channels],
    )


def _outputs(node: Product, channels: Channels) -> Product:
    """The product's output channels in `channels` alone."""
    return replace(
        node,
        name=f"{node.name}.{channels[0]}",
        value=_part(node.value, channels),
        weight=node.weight[channels],
        requantization=_requantization(node.requantization, channels),
    )


def _inputs(
    node: Product, source: str, value: Value, cuts: Sequence[Channels], channels: Channels
) -> Product:
    """The product over its input channels in `channels` alone.

    The bias goes with the first part, but each keeps what undoes the offset of its own channels:
    partial sums then stay as small as the whole.
    """
    bias = _undone(node, value, channels)
    if channels is cuts[0]:
        bias = node.requantization.bias - sum(_undone(node, value, each) for each in cuts[1:])
    return replace(
        node,
        inputs=(source, node.inputs[1]),
        weight=np.ascontiguousarray(node.weight[:, channels]),
        requantization=replace(node.requantization, bias=bias.astype(np.int32)),
    )


def _undone(node: Product, value: Value, channels: Channels) -> npt.NDArray[np.int64]:
    """What the bias holds against the offsets of input channels [out]."""
    offset = np.broadcast_to(np.asarray(value.offset, np.float64), value.channels)[channels]
    return -np.rint(node.weight[:, channels].astype(np.float64) @ offset).astype(np.int64)
