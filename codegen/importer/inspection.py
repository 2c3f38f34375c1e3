"""The importer's two entry points, and the account it gives of every ONNX node."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from pathlib import Path

from ...host.reading import foreign
from ...host.tail import Tail
from ..errors import UnsupportedModelError, VitesseraError, internal_error
from ..graph import Graph
from .cut import Cut, find_cut, holds_attention, tail_of
from .emit import emit
from .heads import Head, heads_of
from .load import Announce, Source, load_source, silent
from .refusal import Refused
from .rewrite import rewrite
from .trace import ARITHMETIC, WRITE_OTHERWISE, Trace, trace


class Status(Enum):
    """What became of an ONNX node."""

    MAPPED = "mapped"
    FOLDED = "folded"
    LEFT = "left to the host"
    REFUSED = "refused"


@dataclass(frozen=True)
class Row:
    """The account of one ONNX node.

    Attributes:
        name: of the ONNX node; made unique if the file's is not.
        op_type: its operator, with the domain if that is not the default one.
        status: mapped to an operator, folded (constant, layout, unused), behind the cut, or
            refused.
        into: the graph nodes it became part of, or "constant", or "unused".
        reason: why it is refused; empty otherwise.
        remedy: what to do about it; empty otherwise.
        consequence: whether it is refused only because another node is.
    """

    name: str
    op_type: str
    status: Status
    into: str
    reason: str = ""
    remedy: str = ""
    consequence: bool = False


@dataclass(frozen=True)
class Offer:
    """A cut that has not been asked for.

    Attributes:
        tensors: names of the tensors at which the network could be cut.
        attentions: the number of attention layers before it.
        left: the number of ONNX nodes behind it.
        complete: whether all attention is before it.
    """

    tensors: tuple[str, ...]
    attentions: int
    left: int
    complete: bool

    def __str__(self) -> str:
        at = ", ".join(map(repr, self.tensors))
        layers = _counted(self.attentions, "attention layer")
        return (
            f"Up to {at} the network can be mapped, with {layers}: --split takes that, and leaves "
            f"{_counted(self.left, 'node')} behind it to the host; --results, with the same names, "
            "leaves that out."
        )


@dataclass(frozen=True)
class Inspection:
    """The account of a whole model: one row for each ONNX node, in the file's order.

    The nodes of branches come before the If that chooses between them.

    Attributes:
        path: of the file.
        rows: the account.
        graph: the network of one image; None if any row is refused.
        images: how many the file takes at once.
        tail: what is left to the host, if the network was cut.
        offer: where the network could be cut, if any row is refused and it can.
        notes: what else is to be known: in what the network is not to the letter what the file
            says, and who says what the file leaves open.
        heads: what stands around each result of the network, and of its tail.
    """

    path: Path
    rows: tuple[Row, ...]
    graph: Graph | None
    images: int = 1
    tail: Tail | None = None
    offer: Offer | None = None
    notes: tuple[str, ...] = ()
    heads: Mapping[str, Head] = field(default_factory=dict)

    @property
    def supported(self) -> bool:
        """Whether the model can be compiled."""
        return self.graph is not None

    def count(self, status: Status) -> int:
        """The number of nodes with this status."""
        return sum(row.status is status for row in self.rows)


def inspect_model(
    path: str | os.PathLike[str],
    outputs: Sequence[str] = (),
    announce: Announce = silent,
    split: bool = False,
    shape: Sequence[int] = (),
) -> Inspection:
    """Accounts for every node of an ONNX model, supported or not.

    Args:
        path: the ONNX file.
        outputs: names of the tensors to take as results, of the model's outputs or inside it;
            none for all outputs. Nodes that no result depends on are left out.
        announce: called with what is being done, as a clause: "at node 'x' (Add)".
        split: cut off what cannot be mapped, where only what follows it would be lost.
        shape: of the image, without the batch, where the file leaves it open; none to find it out
            from the network and from what lies beside the file.

    Raises:
        ModelFileError: missing, unreadable or not ONNX.
        ModelValueError: a weight holds NaN or infinity.
        UnsupportedModelError: the results do not depend on exactly one image of floats, or
            nothing, or contradictory things, are said of its size.
        PreprocessingError: a file beside the model that may tell the size is damaged.
    """
    path = Path(path)
    source = load_source(path, outputs, announce, shape)
    with foreign(partial(_failed, path), let=(MemoryError,)):
        traced = trace(source, announce)
        announce("when it looked for patterns")
        graph = emit(source, traced, rewrite(traced))
        cut = None
        if graph is None:
            announce("when it looked for a place to cut the network")
            cut = find_cut(source, traced)
        notes = (*source.notes, *_quantised(source, traced))
        if cut is not None and split:
            rows = _cut_rows(source, cut, traced)
            heads = heads_of(source, (*cut.tensors, *source.outputs))
            tail = tail_of(source, cut)
            images = source.images
            return Inspection(path, rows, cut.graph, images, tail, notes=notes, heads=heads)
    account = [_row(number, source, traced, graph) for number in range(len(source.nodes))]
    account += [_output_row(name, source, traced) for name, _ in traced.bad_outputs]
    offer = None if cut is None else _offer(source, cut, traced)
    heads = heads_of(source, source.outputs)
    rows = tuple(account)
    return Inspection(path, rows, graph, source.images, offer=offer, notes=notes, heads=heads)


def _offer(source: Source, cut: Cut, traced: Trace) -> Offer:
    complete = not holds_attention(source, cut, traced)
    return Offer(cut.tensors, cut.attentions, len(cut.left), complete)


def _cut_rows(source: Source, cut: Cut, whole: Trace) -> tuple[Row, ...]:
    """The account of a network that is cut; `whole` is what became of it uncut."""
    rows = []
    for number in range(len(source.nodes)):
        row = _row(number, source, cut.traced, cut.graph)
        if number in cut.left:
            row = replace(row, status=Status.LEFT, into="the tail")
        elif number in whole.constants:  # it may be one of the tail's constants
            row = replace(row, status=Status.FOLDED, into="constant")
        rows.append(row)
    return tuple(rows)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _quantised(source: Source, traced: Trace) -> Iterator[str]:
    """What is to be said of a file that is quantised."""
    used = [
        (node.op_type, number in traced.constants)
        for number, node in enumerate(source.nodes)
        if number not in traced.unused
    ]
    weights = [("DequantizeLinear", True), ("MatMulInteger", False), ("ConvInteger", False)]
    results = [("QuantizeLinear", False), ("DynamicQuantizeLinear", False)]
    if constants := sum(used.count(each) for each in weights):
        yield f"Quantised in the file, and dequantised: {_counted(constants, 'constant')}."
    if rounded := sum(used.count(each) for each in results):
        yield (
            f"Left out: {_counted(rounded, 'rounding')} of results to integers of a range. "
            "Quantising is done anew, with other scales."
        )


def _failed(path: Path, error: Exception) -> VitesseraError:
    if isinstance(error, RecursionError):
        return UnsupportedModelError(
            f"{path} holds a chain of sums or activations that is too long to follow.",
            "Stack what is summed, and sum over the stack.",
        )
    return internal_error(f"{path}: importing it", error)


def import_model(
    path: str | os.PathLike[str], outputs: Sequence[str] = (), shape: Sequence[int] = ()
) -> Graph:
    """Imports a Vision Transformer; arguments as `inspect_model`.

    Raises:
        UnsupportedModelError: at least one node cannot be mapped; names each, with the reason of
            the first ones.
        ModelFileError, ModelValueError, PreprocessingError: as `inspect_model`.
    """
    return graph_of(inspect_model(path, outputs, shape=shape))


def graph_of(inspection: Inspection) -> Graph:
    """The network, if all of it can be mapped.

    Raises:
        UnsupportedModelError: as `import_model`.
    """
    if inspection.graph is None:
        raise _unsupported(inspection)
    return inspection.graph


def _unsupported(inspection: Inspection) -> UnsupportedModelError:
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    refused.sort(key=lambda row: row.consequence)
    first = refused[0]
    culprit = f"Node {first.name!r} ({first.op_type}) cannot be mapped: {first.reason}."
    remedy = first.remedy
    if inspection.offer is not None:
        # Behind all attention, people keep what they have: how to write it otherwise is no help.
        rewriting = remedy != WRITE_OTHERWISE and not inspection.offer.complete
        remedy = f"{remedy} {inspection.offer}" if rewriting else str(inspection.offer)
    if len(refused) == 1:
        return UnsupportedModelError(culprit, remedy)
    others = ", ".join(repr(row.name) for row in refused[1:4])
    more = f" and {len(refused) - 4} more" if len(refused) > 4 else ""
    return UnsupportedModelError(
        f"{culprit} Refused as well: {others}{more}.",
        f"{remedy} `vitessera inspect {inspection.path}` explains each.",
    )


def _row(number: int, source: Source, traced: Trace, graph: Graph | None) -> Row:
    node = source.nodes[number]
    name = source.names[number]
    op_type = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    if number in traced.refused:
        verdict = traced.refused[number]
        return _refused(name, op_type, verdict)
    if number in traced.unused:
        return Row(name, op_type, Status.FOLDED, "unused")
    if number in traced.constants:
        return Row(name, op_type, Status.FOLDED, "constant")
    if number in traced.random:
        return Row(name, op_type, Status.FOLDED, "random, and comes to nothing")
    into = _into(name, source, traced, number, graph)
    if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
        into = into or "left out"
    computes = node.op_type in ARITHMETIC
    return Row(name, op_type, Status.MAPPED if computes else Status.FOLDED, into)


def _refused(name: str, op_type: str, verdict: Refused) -> Row:
    reason, remedy = verdict.reason, verdict.remedy
    return Row(name, op_type, Status.REFUSED, "", reason, remedy, verdict.consequence)


def _into(name: str, source: Source, traced: Trace, number: int, graph: Graph | None) -> str:
    """The graph nodes that hold ONNX node `name`.

    A node that repeats another's computation, or changes nothing, is found through the term whose
    value it shows.
    """
    if graph is None:
        return ""
    found = _holders(graph, name)
    if not found and number in traced.terms:
        origin = traced.terms[number].origin
        found = _holders(graph, source.names[origin[0]]) if origin else [graph.image.name]
    return ", ".join(found)


def _holders(graph: Graph, name: str) -> list[str]:
    return [node.name for node in graph if name in node.origin]


def _output_row(name: str, source: Source, traced: Trace) -> Row:
    verdict = next(refusal for output, refusal in traced.bad_outputs if output == name)
    producer: Iterable[int] = (
        number for number, node in enumerate(source.nodes) if name in node.output
    )
    made_by = "".join(f" of {source.names[number]}" for number in producer)
    return _refused(f"{name}{made_by}", "(output)", verdict)
