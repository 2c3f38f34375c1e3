"""Where a network that cannot be mapped as a whole is cut: the rest is for the host.

Nodes that were refused, and all that depends on them, are the *tail*; what the tail reads of the
other nodes is what the network must then give. That may be refused in its turn: between a Linear
and an activation that is not known stands a factor, say, that no weight can absorb. So nodes move
to the tail until all that is before it can be mapped.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ...host.tail import Tail, TailRunner
from ..errors import BuildDirectoryError, UnsupportedModelError
from ..graph import Attention, Graph
from .call import Constant, Noise, Tensor
from .emit import emit
from .load import Source, with_shapes
from .reach import reads
from .rewrite import rewrite
from .trace import Trace, trace
from .view import View

MOST_TRIES = 32
PRODUCTS = frozenset({"Attention", "Einsum", "MatMul"})
# Nodes that tracing reads otherwise than the file has them, with what goes with them.
REWRITTEN = frozenset({"DynamicQuantizeLinear", "If"})
LARGEST_MESSAGE = 1 << 31  # bytes that protobuf can hold in one


@dataclass(frozen=True)
class Cut:
    """A network in two parts.

    Attributes:
        graph: the part that is mapped. Its outputs are what the tail reads, and those of the file's
            outputs that need no tail.
        traced: what became of its nodes.
        left: numbers of the nodes in the tail.
    """

    graph: Graph
    traced: Trace
    left: frozenset[int]

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors at which the network is cut."""
        return tuple(name for name, _ in self.graph.outputs)

    @property
    def attentions(self) -> int:
        """The number of attention layers before the cut."""
        return sum(isinstance(node, Attention) for node in self.graph)


def find_cut(source: Source, traced: Trace) -> Cut | None:
    """The cut that leaves least to the host.

    Args:
        source: the model.
        traced: what became of it, with refusals.

    Returns:
        None when it would leave all attention to the host, or when the tail would need the image
        itself, or hold a branch or a dynamic scale. A file for several images at once is not cut.
    """
    if source.images > 1:
        return None
    live = set(range(len(source.nodes))) - traced.unused - traced.constants
    left: set[int] = set()
    more = _blamed(source, traced)
    for _ in range(MOST_TRIES):
        if more <= left:
            return None
        left |= _behind(source, more, live)
        if any(source.nodes[number].op_type in REWRITTEN for number in left):
            return None
        tensors = _frontier(source, left, traced)
        if not tensors or source.image.name in tensors:
            return None
        part = replace(source, outputs=tensors)
        tried = trace(part)
        graph = emit(part, tried, rewrite(tried))
        if graph is not None:
            cut = Cut(graph, tried, frozenset(left))
            return cut if cut.attentions else None
        more = _blamed(part, tried)
    return None


def _blamed(source: Source, traced: Trace) -> set[int]:
    """Nodes that were refused, and those that make an output that was."""
    bad = {name for name, _ in traced.bad_outputs}
    makers = {n for n, node in enumerate(source.nodes) if bad.intersection(node.output)}
    return set(traced.refused) | makers


def _behind(source: Source, start: set[int], live: set[int]) -> set[int]:
    """`start`, and all nodes of `live` that depend on it."""
    found, made = set(start), set[str]()
    for number, node in enumerate(source.nodes):  # in execution order
        if number in live and not made.isdisjoint(reads(node)):
            found.add(number)
        if number in found:
            made.update(filter(None, node.output))
    return found


def _frontier(source: Source, left: set[int], traced: Trace) -> tuple[str, ...]:
    """What the nodes `left` read of others, and outputs of others; without constants."""
    others = set(range(len(source.nodes))) - left - traced.constants
    given = {name for number in others for name in source.nodes[number].output if name}
    given.add(source.image.name)
    wanted = [name for number in sorted(left) for name in sorted(reads(source.nodes[number]))]
    return tuple(dict.fromkeys(name for name in (*wanted, *source.outputs) if name in given))


def holds_attention(source: Source, cut: Cut, traced: Trace) -> bool:
    """Whether the tail multiplies results by each other, as attention does."""
    known = {name for number in traced.constants for name in source.nodes[number].output}
    known |= source.weights.keys()
    products = (source.nodes[n] for n in cut.left if source.nodes[n].op_type in PRODUCTS)
    return any(len(set(node.input) - known) > 1 for node in products)


# --- The tail as a file


def tail_of(source: Source, cut: Cut) -> Tail:
    """The nodes behind the cut as a model of their own.

    What they read that does not depend on the image is stored in it as it was folded: a shape or a
    batch size that the exporter left open may be computed from what is now on the other side.

    Raises:
        UnsupportedModelError: it is larger than an ONNX file without external data can be, or ONNX
            Runtime does not take it.
    """
    nodes = [source.nodes[number] for number in sorted(cut.left)]
    made = {name for node in nodes for name in node.output}
    read = {name for node in nodes for name in reads(node)} - made
    kept = trace(source, keep=frozenset(read)).kept
    graph = helper.make_graph(
        nodes,
        "tail",
        [_declared(source, name, kept[name]) for name in cut.tensors if name in read],
        [helper.make_empty_tensor_value_info(name) for name in source.outputs if name in made],
        [_stored(name, kept[name]) for name in sorted(read & kept.keys() - set(cut.tensors))],
    )
    model = helper.make_model(
        graph,
        producer_name="vitessera",
        ir_version=source.ir_version,
        opset_imports=[helper.make_opsetid(*entry) for entry in source.opsets],
    )
    if model.ByteSize() >= LARGEST_MESSAGE:
        raise UnsupportedModelError(
            f"The {len(nodes)} nodes behind {', '.join(cut.tensors)} hold more than 2 GB.",
            "Take these tensors as --results, and run what is behind them by yourself.",
        )
    tail = Tail((with_shapes(model) or model).SerializeToString(), source.outputs)
    try:
        TailRunner(tail, "The part behind the cut")
    except BuildDirectoryError as error:
        raise UnsupportedModelError(
            error.culprit, "Do without --split: take the tensors at the cut with --results."
        ) from error
    return tail


def result_shapes(tail: Tail | None) -> dict[str, tuple[int, ...]]:
    """The shapes of what the tail makes, by ONNX name, as far as they are settled."""
    if tail is None:
        return {}
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in onnx.load_from_string(tail.model).graph.output
        if value.type.tensor_type.HasField("shape")  # else it is not known, and no single number
    }
    return {name: shape for name, shape in shapes.items() if all(shape)}


def _declared(source: Source, name: str, tensor: Tensor | Noise) -> onnx.ValueInfoProto:
    assert isinstance(tensor, View)
    kind = source.kinds.get(name, onnx.TensorProto.FLOAT)
    return helper.make_tensor_value_info(name, kind, tensor.ids.shape)


def _stored(name: str, tensor: Tensor | Noise) -> onnx.TensorProto:
    assert isinstance(tensor, Constant)
    return numpy_helper.from_array(np.asarray(tensor.values, order="C"), name)
