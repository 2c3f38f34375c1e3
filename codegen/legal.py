"""What is legal in a `Graph` and in a `QuantGraph`: a table of operators for each.

Stages hand each other networks that later stages take at their word. So each network is held
against its table where it is made, after every pass; what breaks a law is a bug in vitessera.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from . import graph as g
from . import isa
from . import quantgraph as q
from .errors import IllegalNetworkError, missing_case
from .graph import Graph, Node, Shape, Window, shape_of
from .numerics import BIASED_BITS, INT8_MAX, INT16_MAX, SCALED_BITS
from .quantgraph import QuantGraph, QuantNode, Requantization, Value

Anything = npt.NDArray[Any]
Size = TypeVar("Size")

MOST_SHIFT = 63
ROUNDED = 1e-12  # relative error of a few roundings in float64
RECIPROCAL_SHIFT = 27  # that the reciprocal of a softmax's sum adds at most


@dataclass(frozen=True)
class Law:
    """One thing that holds for every node of an operator.

    Attributes:
        says: what holds, as a sentence of the node: "its bias has one number a channel".
        holds: whether it does, for a node and the sizes of what it reads.
    """

    says: str
    holds: Callable[[Any, Any], bool | np.bool_]


@dataclass(frozen=True)
class Operator:
    """What is legal for one class of nodes.

    Attributes:
        reads: how many values it may read; an operator on the image reads it by name.
        laws: in the order in which they are looked at: each may take the ones before for granted.
    """

    reads: tuple[int, ...]
    laws: tuple[Law, ...] = ()


# --- Graph: a law sees the node, and [tokens, channels] of each value that it reads; for an
# operator on the image, the image's shape.


def _one_each(name: str) -> Law:
    return Law(
        f"its {name} has one number a channel",
        lambda node, read: getattr(node, name).shape == (read[0][1],),
    )


def _walks(window: Window, sides: tuple[int, ...]) -> bool:
    """Whether the window is one of a map, or image, with these sides."""
    numbers = (*window.kernel, window.stride, *window.grid)
    return window.source == sides and min(numbers) > 0


EPSILON = Law("its epsilon is a number, and not below zero", lambda n, _: 0 <= n.eps < math.inf)
OF_MAP = Law(
    "its window walks over a map of as many pixels",
    lambda n, read: _walks(n.window, n.window.source) and math.prod(n.window.source) == read[0][0],
)

GRAPH_OPERATORS: dict[type[Node], Operator] = {
    g.PatchEmbed: Operator(
        (1,),
        (
            Law(
                "its weight has a side for each axis of the image, behind that of its channels",
                lambda n, read: n.weight.ndim == 1 + len(read[0]),
            ),
            Law(
                "its patches fit the image",
                lambda n, read: all(
                    0 < patch <= side
                    for patch, side in zip(n.weight.shape[1:], read[0], strict=True)
                ),
            ),
            Law(
                "its bias has one number a channel", lambda n, _: n.bias.shape == n.weight.shape[:1]
            ),
        ),
    ),
    g.ImagePatches: Operator(
        (1,),
        (
            Law("it reads an image, no video", lambda _, read: len(read[0]) == 3),
            Law("its window walks over the image", lambda n, read: _walks(n.window, read[0][1:])),
        ),
    ),
    g.Unfold: Operator((1,), (OF_MAP,)),
    g.MaxPool: Operator(
        (1,),
        (
            OF_MAP,
            Law(
                "each of its windows sees the map",
                lambda n, _: (n.window.pixels != g.OUTSIDE).any(axis=1).all(),
            ),
        ),
    ),
    g.GroupNorm: Operator(
        (1,),
        (
            Law(
                "its groups have equal numbers of channels",
                lambda n, read: n.groups > 0 and read[0][1] % n.groups == 0,
            ),
            _one_each("gamma"),
            _one_each("beta"),
            EPSILON,
        ),
    ),
    g.TokenEmbed: Operator(
        (1,),
        (
            Law(
                "its prefix has tokens of as many channels",
                lambda n, read: n.prefix.ndim == 2 and n.prefix.shape[1] == read[0][1],
            ),
            Law(
                "it has a position for each token",
                lambda n, read: (
                    n.positions.ndim == 2
                    and n.positions.shape[1] == read[0][1]
                    and len(n.positions) >= len(n.prefix) + read[0][0]
                ),
            ),
        ),
    ),
    g.LayerNorm: Operator((1,), (_one_each("gamma"), _one_each("beta"), EPSILON)),
    g.Linear: Operator(
        (1,),
        (
            Law(
                "its weight is a matrix [out, channels]",
                lambda n, read: n.weight.ndim == 2 and n.weight.shape[1] == read[0][1],
            ),
            Law(
                "its bias has one number a channel", lambda n, _: n.bias.shape == n.weight.shape[:1]
            ),
        ),
    ),
    g.Attention: Operator(
        (3,),
        (
            Law(
                "query, key and value have as many channels, in heads of one size",
                lambda n, read: (
                    n.heads > 0
                    and len({channels for _, channels in read}) == 1
                    and read[0][1] % n.heads == 0
                ),
            ),
            Law("keys and values are of the same tokens", lambda _, read: read[1] == read[2]),
            Law("its scale is a number above zero", lambda n, _: 0 < n.scale < math.inf),
            Law(
                "its bias is [heads, queries, keys]",
                lambda n, read: n.bias is None or n.bias.shape == (n.heads, read[0][0], read[1][0]),
            ),
        ),
    ),
    g.Activation: Operator((1,)),
    g.Add: Operator(
        (2,), (Law("it adds values of one shape", lambda _, read: read[0] == read[1]),)
    ),
    g.SelectToken: Operator(
        (1,), (Law("there is such a token", lambda n, read: 0 <= n.index < read[0][0]),)
    ),
    g.Arrange: Operator(
        (1,),
        (Law("there are such tokens", lambda n, read: _are_rows(n.rows, read[0][0])),),
    ),
    g.MeanPool: Operator(
        (1,),
        (Law("there are such tokens", lambda n, read: 0 <= n.start < n.stop <= read[0][0]),),
    ),
}


def _are_rows(rows: tuple[int, ...], tokens: int) -> bool:
    """Whether these are numbers of tokens, or OUTSIDE, some of them the former."""
    return min(rows, default=tokens) >= g.OUTSIDE and g.OUTSIDE < max(rows, default=0) < tokens


ON_IMAGE = (g.PatchEmbed, g.ImagePatches)


def check_graph(graph: Graph, stage: str) -> Graph:
    """`graph`, if it is legal.

    Args:
        graph: the network.
        stage: what made it, for the message.

    Raises:
        IllegalNetworkError: it is not; names the stage, the node and the law.
        MissingCaseError: an operator that the table does not know.
    """
    shapes: dict[str, Shape] = {}
    for node in graph:
        operator = _operator(GRAPH_OPERATORS, node, "The table of legal graphs")
        known: Mapping[str, tuple[int, ...]] = shapes
        if isinstance(node, ON_IMAGE):
            known = {graph.image.name: graph.image.shape}
        taken = {graph.image.name, *shapes}
        broken = _broken(node, operator, known, taken) or _broken_parameter(node)
        if broken is not None:
            raise _illegal(stage, node, broken, node.origin)
        shapes[node.name] = shape_of(node, graph.image, shapes)
    _check_outputs(graph, shapes, stage)
    return graph


def _broken_parameter(node: Node) -> str | None:
    for name, values in _arrays(node):
        if values.dtype != np.float32 or not np.isfinite(values).all():
            return f"its {name} holds finite numbers in float32"
    return None


# --- QuantGraph: a law sees the node, and the `Value` of each node that it reads.


def _takes(*bits: int) -> Law:
    said = " and ".join(f"int{each}" for each in bits)
    return Law(
        f"it reads {said}",
        lambda _, read: all(value.bits == each for value, each in zip(read, bits, strict=False)),
    )


def _gives(*bits: int) -> Law:
    said = " or ".join(f"int{each}" for each in bits)
    return Law(f"its value is {said}", lambda node, _: node.value.bits in bits)


def _has_size(says: str, size: Callable[[Any, Any], tuple[int, int]]) -> Law:
    return Law(
        f"its value is {says}",
        lambda node, read: (node.value.tokens, node.value.channels) == size(node, read),
    )


def _requantizes(name: str, largest: Callable[[Any, Any], Any]) -> tuple[Law, ...]:
    """That the fields of a requantisation hold its constants, and the accumulator its sums.

    Args:
        name: of the attribute.
        largest: of a node and what it reads, the greatest magnitude of its sums.
    """
    return (
        Law(
            f"the constants of its {name} fit their fields",
            lambda node, _: _fits_epilogue(getattr(node, name)),
        ),
        Law(
            f"no sum saturates before its {name}",
            lambda node, read: (
                _reach(getattr(node, name), largest(node, read))
                < 2 ** (BIASED_BITS - 1 + getattr(node, name).pre_shift)
            ),
        ),
    )


def _fits_epilogue(constants: Requantization) -> bool:
    types = (constants.bias.dtype, constants.multiplier.dtype, constants.shift.dtype)
    return (
        types == tuple(map(np.dtype, (np.int32, np.uint16, np.uint8)))
        and bool(constants.shift.max() <= MOST_SHIFT)
        and _fits(isa.Epilogue, constants, ("pre_shift", "scale", "scale_shift", "offset"))
    )


def _fits(
    kind: type[isa.Instruction], constants: object, names: tuple[str, ...] | None = None
) -> bool:
    """Whether the instruction's fields of those names, or of any, hold the constants."""
    return all(
        entry.least <= int(getattr(constants, entry.name)) <= entry.highest
        for entry in isa.fields(kind)
        if hasattr(constants, entry.name) and (names is None or entry.name in names)
    )


def _reach(constants: Requantization, largest: Any) -> int:  # noqa: ANN401 (a number, or some)
    return int((largest + np.abs(constants.bias.astype(np.int64))).max())


def _normalises(kind: type[isa.Instruction]) -> tuple[Law, ...]:
    return (
        Law(
            "gamma is int16 and beta int32, one number a channel",
            lambda n, read: (
                (n.gamma.dtype, n.beta.dtype) == (np.int16, np.int32)
                and n.gamma.shape == n.beta.shape == (read[0].channels,)
            ),
        ),
        Law("its constants fit their fields", lambda n, _: _fits(kind, n.constants)),
    )


def _mix_reach(node: q.Attention, read: tuple[Value, ...]) -> float:
    """The greatest magnitude of what is mixed, after its first step."""
    mix = node.mix
    ratio = mix.multiplier / 2.0 ** (mix.shift + float(mix.pre_shift))
    return float((read[1].tokens * INT8_MAX**2 * ratio).max())


WITHOUT_OFFSET = Law("its value has no offset", lambda n, _: not np.any(n.value.offset))

QUANT_OPERATORS: dict[type[QuantNode], Operator] = {
    q.PatchInput: Operator(
        (0,),
        (
            _gives(8),
            WITHOUT_OFFSET,
            Law(
                "its channels are the values of a patch",
                lambda n, _: n.value.channels == math.prod(n.patch),
            ),
            Law("there are tokens behind its prefix", lambda n, _: 0 <= n.prefix < n.value.tokens),
        ),
    ),
    q.Constant: Operator(
        (0,),
        (
            _gives(16),
            Law("its data is int16", lambda n, _: n.data.dtype == np.int16),
            _has_size("as large as its data", lambda n, _: n.data.shape),
        ),
    ),
    q.Product: Operator(
        (1, 2),
        (
            _takes(8, 16),
            Law(
                "its weight is int8 above -128",
                lambda n, _: n.weight.dtype == np.int8 and n.weight.min() >= -INT8_MAX,
            ),
            Law(
                "its weight is a matrix [channels, channels of its input]",
                lambda n, read: n.weight.shape == (n.value.channels, read[0].channels),
            ),
            _has_size("of its input's tokens", lambda n, read: (read[0].tokens, len(n.weight))),
            Law(
                "it adds to a value of its own size and scale, with 16 bits",
                lambda n, read: (
                    len(read) == 1
                    or (
                        n.value.bits == 16
                        and (read[1].tokens, read[1].channels) == (n.value.tokens, n.value.channels)
                        and np.array_equal(read[1].scale, n.value.scale)
                    )
                ),
            ),
            *_requantizes(
                "requantization",
                lambda n, _: INT8_MAX * np.abs(n.weight).sum(axis=1, dtype=np.int64),
            ),
        ),
    ),
    q.Attention: Operator(
        (3,),
        (
            _takes(8, 8, 8),
            _gives(8),
            _has_size("queries by channels", lambda _, read: (read[0].tokens, read[2].channels)),
            Law("its heads have one size", lambda n, read: read[0].channels % n.heads == 0),
            Law(
                "what is taken from its values is missing in its result",
                lambda n, read: _agree(
                    read[2].offset * read[2].scale, n.value.offset * n.value.scale
                ),
            ),
            Law("its queries have no offset", lambda _, read: not np.any(read[0].offset)),
            Law(
                "its scores have one multiplier",
                lambda _, read: _agree(
                    read[0].scale * read[1].scale, read[0].scale[0] * read[1].scale[0]
                ),
            ),
            *_requantizes("scores", lambda n, read: read[0].channels // n.heads * INT8_MAX**2),
            *_requantizes("mix", lambda _, read: read[1].tokens * INT8_MAX**2),
            Law(
                "its mix does not saturate",
                lambda n, read: _mix_reach(n, read) < 2 ** (SCALED_BITS - 1),
            ),
            Law(
                "its result can be divided by the sum of its probabilities",
                lambda n, _: n.mix.scale_shift <= MOST_SHIFT - RECIPROCAL_SHIFT,
            ),
            Law(
                "its bias is int16 [heads, queries, keys]",
                lambda n, read: (
                    n.bias is None
                    or (
                        n.bias.dtype == np.int16
                        and n.bias.min() >= -INT16_MAX
                        and n.bias.shape == (n.heads, read[0].tokens, read[1].tokens)
                    )
                ),
            ),
        ),
    ),
    q.Norm: Operator(
        (1,),
        (
            _takes(16),
            _gives(8),
            _has_size(
                "as large as what it reads", lambda _, read: (read[0].tokens, read[0].channels)
            ),
            *_normalises(isa.Norm),
        ),
    ),
    q.Gather: Operator(
        (1,),
        (
            _takes(16),
            _gives(8),
            WITHOUT_OFFSET,
            Law(
                "its pool walks over a map of as many pixels, and its unfold over the result",
                lambda n, read: (
                    math.prod(n.pool.source) == read[0].tokens and n.unfold.source == n.pool.grid
                ),
            ),
            Law(
                "where it pads, it sees each pixel by itself",
                lambda n, _: n.pool.kernel == (1, 1) or not n.unfold.is_padded,
            ),
            _has_size(
                "its prefix and a row for each result of its unfold",
                lambda n, read: (
                    n.prefix + math.prod(n.unfold.grid),
                    read[0].channels * math.prod(n.unfold.kernel),
                ),
            ),
            *_normalises(isa.Gather),
        ),
    ),
    q.SelectToken: Operator(
        (1,),
        (
            Law("there is such a token", lambda n, read: 0 <= n.index < read[0].tokens),
            _has_size("one token of what it reads", lambda _, read: (1, read[0].channels)),
            Law("it leaves the integers as they are", lambda n, read: _same(n.value, read[0])),
        ),
    ),
    q.Arrange: Operator(
        (1,),
        (
            _takes(8),
            Law("there are such tokens", lambda n, read: _are_rows(n.rows, read[0].tokens)),
            _has_size("its rows of what it reads", lambda n, read: (len(n.rows), read[0].channels)),
            Law("it leaves the integers as they are", lambda n, read: _same(n.value, read[0])),
            Law(
                "its rows of zeros are zero",
                lambda n, _: g.OUTSIDE not in n.rows or not np.any(n.value.offset),
            ),
        ),
    ),
    q.Pool: Operator(
        (1,),
        (
            _takes(8),
            _gives(8, 16),
            Law("there are such tokens", lambda n, read: 0 <= n.start < n.stop <= read[0].tokens),
            _has_size("one token of what it reads", lambda _, read: (1, read[0].channels)),
            *_requantizes("requantization", lambda n, _: INT8_MAX * (n.stop - n.start)),
        ),
    ),
}


def _agree(left: Anything, right: Anything) -> bool:
    """Whether real numbers are the same, but for what products of float64 are rounded by."""
    return bool(np.allclose(left, right, rtol=ROUNDED, atol=0))


def _same(value: Value, other: Value) -> bool:
    """Whether integers of both mean the same."""
    return (
        value.bits == other.bits
        and np.array_equal(value.scale, other.scale)
        and np.array_equal(value.offset, other.offset)
    )


def check_quantgraph(graph: QuantGraph, stage: str) -> QuantGraph:
    """`graph`, if it is legal; arguments and errors as `check_graph`."""
    values: dict[str, Value] = {}
    for node in graph:
        operator = _operator(QUANT_OPERATORS, node, "The table of legal quantised networks")
        broken = _broken(node, operator, values, values) or _broken_value(node.value)
        if broken is not None:
            raise _illegal(stage, node, broken, node.origin)
        values[node.name] = node.value
    _check_outputs(graph, values, stage)
    for _, name in graph.outputs:
        if values[name].bits != 16:
            raise _illegal(stage, graph[name], "a result has 16 bits", graph[name].origin)
    return graph


def _broken_value(value: Value) -> str | None:
    if value.scale.shape != (value.channels,) or not (value.scale > 0).all():
        return "its value has a scale above zero for each channel"
    return None


# --- Both


def _operator(table: Mapping[Any, Operator], node: object, stage: str) -> Operator:
    if type(node) not in table:
        raise missing_case(node, stage)
    return table[type(node)]


def _broken(
    node: Node | QuantNode,
    operator: Operator,
    known: Mapping[str, Size],
    taken: Mapping[str, object] | set[str],
) -> str | None:
    """The first law that the node breaks; `known` is what it may read."""
    if node.name in taken:
        return "its name is its own"
    if len(node.inputs) not in operator.reads:
        return f"it reads {' or '.join(map(str, operator.reads))} values"
    if any(name not in known for name in node.inputs):
        return "it reads what is there before it"
    read = tuple(known[name] for name in node.inputs)
    return next((law.says for law in operator.laws if not law.holds(node, read)), None)


def _check_outputs(graph: Graph | QuantGraph, known: Mapping[str, object], stage: str) -> None:
    labels = [label for label, _ in graph.outputs]
    missing = next((name for _, name in graph.outputs if name not in known), None)
    if not labels or missing is not None or len(set(labels)) < len(labels):
        raise IllegalNetworkError(
            f"{stage} made a network with the outputs {list(graph.outputs)}: each must be the "
            "value of a node, under a name of its own.",
            REPORT,
        )


REPORT = "This is a bug in vitessera; please report it, if you can with the model."


def _illegal(stage: str, node: object, law: str, origin: tuple[str, ...]) -> IllegalNetworkError:
    source = f", from {', '.join(origin)}" if origin else ""
    name = getattr(node, "name", "")
    return IllegalNetworkError(
        f"{stage} made node {name} ({type(node).__name__}{source}) against a law of its operator: "
        f"{law}.",
        REPORT,
    )


def _arrays(node: object) -> Iterator[tuple[str, Anything]]:
    """The constants of a node, by their names."""
    for entry in fields(node):  # type: ignore[arg-type]
        value = getattr(node, entry.name)
        if isinstance(value, np.ndarray):
            yield entry.name, value
