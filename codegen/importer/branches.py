"""Takes the branches of If nodes apart, so that tracing can walk through the one that is chosen.

The nodes of both branches are put before their If, each with the conditions under which it runs.
What is left of the If chooses between results: its inputs are the condition, what the first branch
gives, and what the second one gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx

from ..errors import UnsupportedModelError

BRANCHES = {"then_branch": True, "else_branch": False}


@dataclass(frozen=True)
class Guard:
    """When the nodes of a branch run.

    Attributes:
        condition: name of a tensor of one truth value.
        wanted: what it must be.
    """

    condition: str
    wanted: bool


@dataclass(frozen=True)
class Step:
    """A node, and the guards of all branches that it stands in."""

    node: onnx.NodeProto
    guards: tuple[Guard, ...] = ()


@dataclass(frozen=True)
class Flat:
    """A graph without branches.

    Attributes:
        steps: its nodes in execution order.
        weights: initializers of the branches, under new names.
    """

    steps: tuple[Step, ...]
    weights: tuple[onnx.TensorProto, ...]


def is_branch(node: onnx.NodeProto) -> bool:
    """Whether the node is an If."""
    return node.op_type == "If" and node.domain in ("", "ai.onnx")


def flattened(graph: onnx.GraphProto) -> Flat:
    """The graph with all branches taken apart, nested ones, too."""
    weights: list[onnx.TensorProto] = []
    steps = tuple(_steps(graph, "", {}, (), weights))
    made = [name for step in steps for name in step.node.output if name]
    made += [tensor.name for tensor in (*graph.initializer, *weights)]
    if len(set(made)) < len(made):
        raise UnsupportedModelError(
            "Tensors inside a branch and outside of it have names that cannot be told apart.",
            "Let ONNX Runtime fold the branches: optimise the file with its basic optimisations.",
        )
    return Flat(steps, tuple(weights))


def _steps(
    graph: onnx.GraphProto,
    prefix: str,
    outside: Mapping[str, str],
    guards: tuple[Guard, ...],
    weights: list[onnx.TensorProto],
) -> Iterator[Step]:
    """The nodes of `graph`; `outside` has the new names of tensors outside of it."""
    names = dict(outside) | _inner_names(graph, prefix)
    for number, node in enumerate(graph.node):
        new = _renamed(node, prefix, names)
        if not is_branch(node):
            yield Step(new, guards)
            continue
        condition = new.input[0] if new.input else ""
        result = next(filter(None, new.output), f"{prefix}If_{number}")  # no other has that name
        for label, wanted in BRANCHES.items():
            body = next((a.g for a in node.attribute if a.name == label), onnx.GraphProto())
            if body.sparse_initializer:
                raise UnsupportedModelError(
                    f"Initializer {body.sparse_initializer[0].values.name!r} is sparse.",
                    "Export the model with dense weights.",
                )
            inner = f"{result}/{label}/"
            inside = names | _inner_names(body, inner)
            weights.extend(_renamed_weights(body, inside))
            yield from _steps(body, inner, names, (*guards, Guard(condition, wanted)), weights)
            new.input.extend(inside.get(value.name, value.name) for value in body.output)
        yield Step(new, guards)


def _inner_names(graph: onnx.GraphProto, prefix: str) -> dict[str, str]:
    """New names for what a branch makes: two branches may use the same ones."""
    if not prefix:
        return {}
    made = [name for node in graph.node for name in node.output if name]
    made += [tensor.name for tensor in graph.initializer]
    return {name: f"{prefix}{name}" for name in made}


def _renamed(node: onnx.NodeProto, prefix: str, names: Mapping[str, str]) -> onnx.NodeProto:
    if not prefix and not is_branch(node):
        return node
    new = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    new.name = f"{prefix}{node.name}" if node.name else ""
    new.input.extend(names.get(name, name) for name in node.input)
    new.output.extend(names.get(name, name) for name in node.output)
    if not is_branch(node):
        new.attribute.extend(node.attribute)
    return new


def _renamed_weights(
    graph: onnx.GraphProto, names: Mapping[str, str]
) -> Iterator[onnx.TensorProto]:
    for tensor in graph.initializer:
        new = onnx.TensorProto()
        new.CopyFrom(tensor)
        new.name = names[tensor.name]
        yield new
