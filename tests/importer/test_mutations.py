"""A model with one thing changed is refused, or imported as what it is now: never as before.

The models use every rule; each mutation changes an attribute, a constant or the order of operands.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from onnx_builder import DEPTH, DIM, HEADS, IMAGE, TOKENS, Net, Recipe, build, heads, same
from vitessera.codegen.errors import VitesseraError
from vitessera.codegen.importer import evaluate, import_model

MUTATIONS = 200
Mutation = Callable[[onnx.ModelProto, np.random.Generator], bool]


# --- Models --------------------------------------------------------------------------------------


def cut_patches(net: Net, x: str) -> str:
    """Two patches of 2×4 by MatMul."""
    split = net.op("Reshape", x, net.ints(1, 2, 2, 2, 1, 4))
    cut = net.op("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
    return net.linear(net.op("Reshape", cut, net.ints(1, 2, 16)), 16, DIM)


def registers(net: Net, x: str) -> str:
    x = net.op("Concat", net.weight(1, 1, DIM), x, axis=1)
    x = net.op("Add", x, net.weight(1, 3, DIM))
    first = net.op("Slice", x, net.ints(0), net.ints(1), net.ints(1))
    rest = net.op("Slice", x, net.ints(1), net.ints(3), net.ints(1))
    return net.op("Concat", first, net.weight(1, 1, DIM), rest, axis=1)


def quick_gelu(net: Net, x: str) -> str:
    return net.op("Mul", x, net.op("Sigmoid", net.op("Mul", x, net.const(1.702))))


def erf_gelu(net: Net, x: str) -> str:
    bent = net.op("Erf", net.op("Mul", x, net.const(np.sqrt(0.5))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", bent, net.const(1.0))), net.const(0.5))


def learned_query(net: Net, x: str) -> str:
    x = net.norm(x)
    key, value = (heads(net, net.linear(x, DIM, DIM)) for _ in range(2))
    turned = net.op("Transpose", key, perm=[0, 1, 3, 2])
    scores = net.op("MatMul", net.weight(1, HEADS, 1, DEPTH), turned)
    p = net.op("Softmax", scores, axis=-1)
    p = net.op("Where", net.op("IsNaN", p), net.const(0.0), p)
    mixed = net.op("Transpose", net.op("MatMul", p, value), perm=[0, 2, 1, 3])
    return net.op("Reshape", mixed, net.ints(1, DIM))


def parallel(net: Net, x: str) -> str:
    parts = [net.linear(x, DIM, DIM), net.op("Gelu", net.linear(x, DIM, DIM)), x]
    stack = [net.op("Unsqueeze", part, net.ints(0)) for part in parts]
    return net.op("ReduceSum", net.op("Concat", *stack, axis=0), net.ints(0), keepdims=0)


def two_pools(net: Net, x: str) -> str:
    first = net.op("Gather", x, net.const(0, np.int64), axis=1)
    both = net.op("Concat", first, net.op("ReduceMean", x, net.ints(1), keepdims=0), axis=-1)
    return net.linear(both, 2 * DIM, DIM)


def by_einsum(net: Net, x: str) -> str:
    shape = (DIM, HEADS, DEPTH)
    q, k, v = (net.op("Einsum", x, net.weight(*shape), equation="abc,cde->abde") for _ in range(3))
    p = net.op("Softmax", net.op("Einsum", k, q, equation="aecd,abcd->acbe"))
    mixed = net.op("Einsum", p, v, equation="acbe,aecd->abcd")
    out = net.op("Einsum", mixed, net.weight(HEADS, DEPTH, DIM), equation="abcd,cde->abe")
    return net.op("ReduceMean", out, net.ints(1), keepdims=0)


def spelled_norm(net: Net, x: str) -> str:
    centred = net.op("Sub", x, net.op("ReduceMean", x, net.ints(-1)))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), net.ints(-1))
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-3)))
    return net.op("Add", net.op("Div", centred, deviation), net.weight(DIM))


def batch_norm(net: Net, x: str) -> str:
    constants = [net.weight(DIM) for _ in range(3)]
    return net.op("BatchNormalization", x, *constants, net.const(np.arange(1.0, DIM + 1)))


def patches(net: Net, x: str) -> str:
    shifted = net.op("Sub", x, net.const([[[[0.4]], [[0.5]]]]))
    turned = net.op("Gather", shifted, net.const([1, 0], np.int64), axis=1)
    x = net.op("Conv", turned, net.weight(DIM, 2, 2, 2), strides=[2, 2])
    return batch_norm(net, x)


MODELS = {
    "plain": Recipe(),
    "joins": Recipe(
        patches=cut_patches, arrange=same, embedded=registers, after=parallel, pool=two_pools
    ),
    "query": Recipe(activation=quick_gelu, norm=spelled_norm, pool=learned_query),
    "einsum": Recipe(patches=patches, activation=erf_gelu, pool=by_einsum),
}


# --- Mutations -----------------------------------------------------------------------------------


def attribute(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Another axis, permutation or equation."""
    nodes = [node for node in model.graph.node if node.attribute]
    node = nodes[random.integers(len(nodes))]
    old = node.attribute[random.integers(len(node.attribute))]
    value = helper.get_attribute_value(old)
    match value:
        case int():
            changed: object = int(random.choice([-2, -1, 0, 1, 2, 3]))
        case list() if all(isinstance(item, int) for item in value):
            changed = random.permutation(value).tolist()
        case bytes() if old.name == "equation":
            text = value.decode()
            letters = sorted(set(text) & set("abcde"))
            first, second = random.choice(letters, 2, replace=False)
            side, arrow, result = text.partition("->")
            swap = str.maketrans({first: second, second: first})
            parts = side.split(",")
            place = int(random.integers(3))
            parts = [p.translate(swap) if n == place else p for n, p in enumerate(parts)]
            result = result.translate(swap) if place == 2 else result
            changed = ",".join(parts) + arrow + result
        case _:
            return False
    old.CopyFrom(helper.make_attribute(old.name, changed))
    return changed != value


def constant(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A small constant: another number, or its numbers in another order."""
    small = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims) <= 8]
    tensor = small[random.integers(len(small))]
    values = numpy_helper.to_array(tensor).copy()
    if values.size > 1 and random.random() < 0.6:
        changed = random.permutation(values.ravel()).reshape(values.shape)
    else:
        changed = values.ravel().copy()
        changed[random.integers(values.size)] += random.choice([-1, 1, 2])
        changed = changed.reshape(values.shape)
    tensor.CopyFrom(numpy_helper.from_array(changed.astype(values.dtype), tensor.name))
    return not np.array_equal(changed, values)


def operands(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Two operands change places."""
    nodes = [node for node in model.graph.node if len(node.input) > 1]
    node = nodes[random.integers(len(nodes))]
    first, second = random.choice(len(node.input), 2, replace=False)
    node.input[first], node.input[second] = node.input[second], node.input[first]
    return True


def wiring(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A node reads another earlier result."""
    number = int(random.integers(1, len(model.graph.node)))
    node = model.graph.node[number]
    place = int(random.integers(len(node.input)))
    earlier = [out for n in list(model.graph.node)[:number] for out in n.output if out]
    node.input[place] = str(random.choice(earlier))
    return True


MUTATORS: tuple[Mutation, ...] = (attribute, constant, operands, wiring)


def truth(path: Path, image: np.ndarray) -> list[np.ndarray] | None:
    """What ONNX Runtime computes, None if it refuses the model."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return [np.asarray(result) for result in session.run(None, {"image": image})]
    except Exception:  # a mutation that makes no sense
        return None


@pytest.mark.parametrize("name", MODELS)
def test_no_mutation_compiles_into_something_else(name: str, tmp_path: Path) -> None:
    net, output = build(MODELS[name])
    model = net.model(output)
    path = tmp_path / "model.onnx"
    image = np.random.default_rng(1).standard_normal(IMAGE, dtype=np.float32)
    assert TOKENS == 4
    compiled = 0
    for seed in range(MUTATIONS):
        random = np.random.default_rng(seed)
        mutant = onnx.ModelProto()
        mutant.CopyFrom(model)
        if not MUTATORS[seed % len(MUTATORS)](mutant, random):
            continue
        onnx.save(mutant, path)
        wanted = truth(path, image)
        try:
            graph = import_model(path)
        except VitesseraError:
            continue
        if wanted is None or not np.isfinite(wanted[0]).all():
            continue
        found = evaluate(graph, image[0])[graph.outputs[0][1]]
        assert found.size == wanted[0].size, f"mutation {seed}"
        expected = wanted[0].reshape(found.shape)
        assert np.allclose(found, expected, rtol=1e-3, atol=1e-3), f"mutation {seed}"
        compiled += 1
    assert compiled > MUTATIONS / 20, "hardly a mutation compiles: the test shows little"
