"""Constants are folded whatever operator set a file is written in."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import defs, helper
from vitessera.codegen.importer.fold import RANDOM, run_node
from vitessera.codegen.importer.load import OLDEST_OPSET, Array
from vitessera.codegen.importer.refusal import Refused

NEWEST_OPSET = 25
ENOUGH = 3  # cases of each operator in each of its versions

# Nothing but control flow, sequences and random numbers, and what ONNX's reference does not have.
NOT_FOLDED = {
    "If": "is control flow",
    "Loop": "is control flow",
    "Scan": "is control flow",
    "SplitToSequence": "gives a sequence, not a tensor",
    "GlobalLpPool": "does not have GlobalLpPool",
    "MaxRoiPool": "does not have MaxRoiPool",
}


def versions(node: onnx.NodeProto, kinds: list[str]) -> Iterator[int]:
    """The first operator set of each version of an operator that takes such a node."""
    known = set[int]()
    for opset in range(OLDEST_OPSET, NEWEST_OPSET + 1):
        try:
            schema = defs.get_schema(node.op_type, opset, "")
        except defs.SchemaError:
            continue
        if schema.since_version not in known and takes(schema, node, kinds):
            known.add(schema.since_version)
            yield opset


def takes(schema: defs.OpSchema, node: onnx.NodeProto, kinds: list[str]) -> bool:
    allowed = {rule.type_param_str: rule.allowed_type_strs for rule in schema.type_constraints}
    formals = [schema.inputs[min(n, len(schema.inputs) - 1)] for n in range(len(node.input))]
    return (
        not schema.deprecated
        and {a.name for a in node.attribute} <= schema.attributes.keys()
        and schema.min_input <= len(node.input) <= schema.max_input
        and len(node.output) <= schema.max_output
        and all(
            not name or kind in allowed.get(formal.type_str, [formal.type_str])
            for name, kind, formal in zip(node.input, kinds, formals, strict=True)
        )
    )


def kind_of(values: Array | None) -> str:
    if values is None:
        return ""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    return f"tensor({onnx.TensorProto.DataType.Name(kind).lower()})"


def is_large(given: Sequence[Array]) -> bool:
    """Whether ONNX's reference, which loops in Python, would take seconds."""
    return max(map(np.size, given), default=0) > 10_000


@dataclass(frozen=True)
class Case:
    """One of ONNX's own tests of single operators.

    Attributes:
        node: the operator.
        operands, wanted: what it takes, None for what is left out, and what it gives.
        rtol, atol: how near ONNX asks floats to be.
    """

    node: onnx.NodeProto
    operands: list[Array | None]
    wanted: list[Array]
    rtol: float
    atol: float


def cases() -> Iterator[Case]:
    """Those whose operator is folded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    for case in found:
        graph = case.model.graph
        (node, *more), (given, wanted) = graph.node, case.data_sets[0]
        tensors = all(isinstance(values, np.ndarray | np.generic) for values in (*given, *wanted))
        if more or node.domain or node.op_type in RANDOM or not tensors or is_large(given):
            continue
        names = [value.name for value in graph.input]
        operands = {n: np.asarray(values) for n, values in zip(names, given, strict=True)}
        results = [np.asarray(values) for values in wanted]
        given = [operands.get(name) for name in node.input]
        yield Case(node, given, results, case.rtol, case.atol)


def outcome(node: onnx.NodeProto, operands: list[Array | None], opset: int) -> list[Array] | str:
    """The results, or why there are none."""
    try:
        results = run_node(node, operands, opset)
    except Refused as refusal:
        return refusal.reason
    return [np.asarray(values) for values in results if values is not None]


def differs(found: list[Array], case: Case) -> bool:
    """Whether a result is another one; kinds V are the small floats that ml_dtypes adds."""
    for left, right in zip(found, case.wanted, strict=True):
        if left.dtype.kind == "V":
            left, right = left.astype(np.float32), right.astype(np.float32)
        if left.dtype.kind in "fc":
            if not np.allclose(left, right, rtol=case.rtol, atol=case.atol, equal_nan=True):
                return True
        elif not np.array_equal(left, right):
            return True
    return False


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_operator_of_every_operator_set_folds() -> None:
    """ONNX's reference does not have all old versions, and some of what it has means another."""
    tried, wrong = Counter[tuple[str, int]](), []
    for case in cases():
        node, operands = case.node, case.operands
        for opset in versions(node, [kind_of(values) for values in operands]):
            if tried[node.op_type, opset] == ENOUGH:
                continue
            found = outcome(node, operands, opset)
            tried[node.op_type, opset] += 1
            reason = NOT_FOLDED.get(node.op_type)
            said = isinstance(found, str) and reason is not None and reason in found
            if not said and (isinstance(found, str) or differs(found, case)):
                wrong.append((node.op_type, opset, found if isinstance(found, str) else "differs"))
    assert not wrong
    assert {("DequantizeLinear", 13), ("Resize", 13), ("ReduceMean", 18)} <= tried.keys()
    assert len({op_type for op_type, _ in tried}) > 150


@pytest.mark.parametrize("opset", range(OLDEST_OPSET, NEWEST_OPSET + 1))
def test_weights_for_each_channel_in_eight_bits(opset: int) -> None:
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=0)
    weight = np.arange(-6, 6, dtype=np.int8).reshape(3, 4)
    scale, zero = np.float32([0.5, 1.0, 2.0]), np.int8([1, 0, -1])
    (found,) = run_node(node, [weight, scale, zero], opset)
    np.testing.assert_array_equal(found, (weight - zero[:, None]) * scale[:, None])


def test_an_operator_that_the_reference_does_not_have() -> None:
    node = helper.make_node("GlobalLpPool", ["x"], ["y"])
    with pytest.raises(Refused) as caught:
        run_node(node, [np.zeros((1, 1, 2, 2), np.float32)], 17)
    assert caught.value.reason == (
        "ONNX's reference implementation does not have GlobalLpPool, so that it cannot be folded"
    )
    assert "onnxsim" in caught.value.remedy


def test_a_sequence_in_place_of_a_tensor() -> None:
    node = helper.make_node("SplitToSequence", ["x"], ["y"])
    with pytest.raises(Refused, match=r"gives a sequence, not a tensor.*Split in place"):
        run_node(node, [np.zeros(3, np.float32)], 17)
