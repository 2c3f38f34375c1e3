"""Which number format each value takes, and the table of what can be lowered.

Decided from the dataflow alone: a value takes the format its readers need. A value that only
passes between two operators that become one (a Linear's before its activation) has none.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from ..errors import UnsupportedModelError
from ..graph import (
    Activation,
    Add,
    Arrange,
    Attention,
    Function,
    Graph,
    GroupNorm,
    ImagePatches,
    LayerNorm,
    Linear,
    MaxPool,
    MeanPool,
    Node,
    PatchEmbed,
    SelectToken,
    TokenEmbed,
    Unfold,
)


class Form(Enum):
    """The number format of a value; the text is how messages put it."""

    FUSED = "an intermediate result inside one operation"
    INT8 = "int8"
    RESIDUAL = "int16 in the scale of the residual stream"
    OUTPUT = "an int16 result that leaves the accelerator"


# What each operator can read. A residual value that is read as int8 is copied to int8 first.
READABLE: dict[type[Node], tuple[Form, ...]] = {
    TokenEmbed: (Form.FUSED,),
    Activation: (Form.FUSED,),
    LayerNorm: (Form.RESIDUAL,),
    Linear: (Form.INT8, Form.RESIDUAL),
    Attention: (Form.INT8, Form.RESIDUAL),
    MeanPool: (Form.INT8, Form.RESIDUAL),
    SelectToken: (Form.INT8, Form.RESIDUAL, Form.OUTPUT),
    Arrange: (Form.INT8, Form.RESIDUAL),
    Add: (Form.RESIDUAL, Form.FUSED),
    GroupNorm: (Form.RESIDUAL,),
    MaxPool: (Form.RESIDUAL,),
    Unfold: (Form.RESIDUAL,),
}
INT8_READERS = (Linear, Attention, Arrange, MeanPool)
RESIDUAL_READERS = (LayerNorm, Add, GroupNorm, MaxPool, Unfold)


def assign_forms(graph: Graph) -> dict[str, Form]:
    """The format of every value.

    Raises:
        UnsupportedModelError: an operator that has no lowering where it stands.
    """
    forms: dict[str, Form] = {}
    for node in graph:
        forms[node.name] = _form(graph, node, forms)
    for node in graph:
        _check(graph, node, forms)
    return forms


def readers(graph: Graph, name: str) -> Iterator[tuple[Node, str]]:
    """(operator, name under which it reads the value), looking through what picks tokens of it."""
    for node in graph.consumers(name):
        if isinstance(node, SelectToken | Arrange):
            yield from readers(graph, node.name)
        else:
            yield node, name


def is_gathered(graph: Graph, node: Node) -> bool:
    """Whether `node` is computed while a map is gathered from the residual stream."""
    if isinstance(node, Activation):
        behind_norm = isinstance(graph[node.inputs[0]], GroupNorm)
        return behind_norm and node.function is Function.RELU
    return isinstance(node, GroupNorm | MaxPool | Unfold)


def joins(graph: Graph, node: Node) -> bool:
    """Whether the gathered `node` is computed in one pass with its input.

    The order in a pass is GroupNorm, ReLU, MaxPool, Unfold; what pads sees pixels one by one.
    """
    before = graph[node.inputs[0]]
    normed = isinstance(before, GroupNorm | Activation) and is_gathered(graph, before)
    match node:
        case Activation():
            return True
        case MaxPool():
            return normed
        case Unfold(window=window):
            pooled = isinstance(before, MaxPool) and before.window.grid == window.source
            return normed or (pooled and not window.is_padded)
        case _:
            return False


def chain(graph: Graph, node: Node) -> list[Node]:
    """The operators that are computed in one pass with the gathered `node`, which is the last."""
    found = [node]
    while joins(graph, found[0]):
        found.insert(0, graph[found[0].inputs[0]])
    return found


def branch(graph: Graph, add: Add) -> str | None:
    """The input of `add` that is a product's result, which the product itself can add."""
    first, second = add.inputs
    for name in (second, first):
        if first != second and _is_product(graph, name) and _only_reader(graph, name) is add:
            return name
    return None


def unsupported(node: Node, reason: str, remedy: str) -> UnsupportedModelError:
    """The error that names `node`, its ONNX origin and the reason."""
    source = f", from ONNX {', '.join(node.origin)}" if node.origin else ""
    return UnsupportedModelError(
        f"Node {node.name} ({type(node).__name__}{source}): {reason}.", remedy
    )


def _is_product(graph: Graph, name: str) -> bool:
    node = graph[name]
    if isinstance(node, Activation):
        node = graph[node.inputs[0]]
    return isinstance(node, Linear)


def _only_reader(graph: Graph, name: str) -> Node | None:
    """The one operator that reads the value; None when there are others or it is an output."""
    consumers = graph.consumers(name)
    return consumers[0] if len(consumers) == 1 and not _is_output(graph, name) else None


def _is_output(graph: Graph, name: str) -> bool:
    return any(value == name for _, value in graph.outputs)


def _reaches_output(graph: Graph, name: str) -> bool:
    selections = (node for node in graph.consumers(name) if isinstance(node, SelectToken))
    return _is_output(graph, name) or any(_reaches_output(graph, node.name) for node in selections)


def _form(graph: Graph, node: Node, forms: dict[str, Form]) -> Form:
    match node:
        case PatchEmbed():
            return Form.FUSED
        case ImagePatches() | Arrange():
            return Form.INT8
        case GroupNorm() | MaxPool() | Unfold() | Activation() if is_gathered(graph, node):
            return _form_of_gathered(graph, node)
        case TokenEmbed() | Add():
            return Form.RESIDUAL
        case LayerNorm() | Attention():
            return Form.INT8
        case SelectToken():
            return forms[node.inputs[0]]
        case Linear() | Activation() if is_fused(graph, node):
            return Form.FUSED
        case Linear() | Activation() | MeanPool():
            return _form_for_readers(graph, node)
        case _:
            raise unsupported(node, "the operator is unknown", "Export the model without it.")


def _form_of_gathered(graph: Graph, node: Node) -> Form:
    consumers = graph.consumers(node.name)
    passed_on = bool(consumers) and all(
        is_gathered(graph, c) and joins(graph, c) for c in consumers
    )
    return Form.FUSED if passed_on and not _is_output(graph, node.name) else Form.INT8


def is_fused(graph: Graph, node: Node) -> bool:
    """Whether the product `node` becomes part of the operator that reads it."""
    reader = _only_reader(graph, node.name)
    if isinstance(reader, Add):
        return branch(graph, reader) == node.name
    return isinstance(node, Linear) and isinstance(reader, Activation | TokenEmbed)


def _form_for_readers(graph: Graph, node: Node) -> Form:
    kinds = {type(reader) for reader, _ in readers(graph, node.name)}
    leaves = _reaches_output(graph, node.name)
    if leaves and not kinds:
        return Form.OUTPUT
    known = bool(kinds) and kinds <= {*RESIDUAL_READERS, *INT8_READERS}
    if known and (leaves or kinds & set(RESIDUAL_READERS)):
        return Form.RESIDUAL  # copied to int8 for those who read it so
    if known:
        return Form.INT8
    names = sorted(kind.__name__ for kind in kinds) + ["a graph output"] * leaves
    raise unsupported(
        node,
        f"its value is read by {' and '.join(names) or 'nothing'}, which one format cannot serve",
        "Remove one of the readers from the exported model.",
    )


def _check(graph: Graph, node: Node, forms: dict[str, Form]) -> None:
    if _is_output(graph, node.name) and forms[node.name] in (Form.INT8, Form.FUSED):
        raise unsupported(
            node,
            "it is a graph output, and only products and residual sums leave the accelerator",
            "Export the model with its head, so that a Linear layer produces the output.",
        )
    match node:
        case PatchEmbed() if not isinstance(_only_reader(graph, node.name), TokenEmbed):
            raise unsupported(
                node,
                "its result must go to one TokenEmbed and nowhere else",
                "Export a model whose patch embedding starts the residual stream.",
            )
        case Add():
            _check_add(graph, node, forms)
        case _:
            _check_inputs(graph, node, forms)


def _check_inputs(graph: Graph, node: Node, forms: dict[str, Form]) -> None:
    if isinstance(node, PatchEmbed | ImagePatches):
        return  # reads the image
    if is_gathered(graph, node) and joins(graph, node):
        return
    legal = READABLE[type(node)]
    for name in node.inputs:
        if forms[name] not in legal:
            raise unsupported(
                node,
                f"its input {name} is {forms[name].value}, but it reads only "
                + " or ".join(form.value for form in legal),
                "Change the model or its export; docs/models.md lists what is mapped.",
            )


def _check_add(graph: Graph, node: Add, forms: dict[str, Form]) -> None:
    product = branch(graph, node)
    if product is None:
        raise unsupported(
            node,
            f"neither {node.inputs[0]} nor {node.inputs[1]} is the result of a Linear layer that "
            "goes nowhere else",
            "An addition is mapped as part of the product before it; export a pre-norm model.",
        )
    (other,) = (name for name in node.inputs if name != product)
    if forms[other] is not Form.RESIDUAL:
        raise unsupported(
            node,
            f"its input {other} is {forms[other].value}, not {Form.RESIDUAL.value}",
            "Change the model or its export; docs/models.md lists what is mapped.",
        )
