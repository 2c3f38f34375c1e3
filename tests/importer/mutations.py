"""Valid models that use every rule, and ways to change one thing in them or in their files.

A mutator changes a model in place, or the bytes of its file, and says whether it did. All draw
from the generator they are given and from nothing else: a seed is a mutant.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from hybrid_builder import Hybrid, hybrid
from onnx import TensorProto, helper, numpy_helper
from onnx_builder import (
    DEPTH,
    DIM,
    HEADS,
    TOKENS,
    Calm,
    Net,
    Recipe,
    build,
    feed_forward,
    heads,
    registers,
    same,
)

Mutation = Callable[[onnx.ModelProto, np.random.Generator], bool]
Damage = Callable[[Path, np.random.Generator], bool]


# --- Models --------------------------------------------------------------------------------------


def cut_patches(net: Net, x: str) -> str:
    """Two patches of 2×4 by MatMul."""
    split = net.op("Reshape", x, net.ints(1, 2, 2, 2, 1, 4))
    cut = net.op("Transpose", split, perm=[0, 2, 4, 3, 5, 1])
    return net.linear(net.op("Reshape", cut, net.ints(1, 2, 16)), 16, DIM)


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


def operators(net: Net, x: str, recipe: Recipe) -> str:
    """Attention as one operator, between nodes that do nothing; shapes that are computed."""
    y = net.op("Dropout", recipe.norm(net, x), net.const(0.5))
    operands = [net.op("Cast", net.linear(y, DIM, DIM), to=TensorProto.FLOAT) for _ in range(3)]
    attrs = {"q_num_heads": HEADS, "kv_num_heads": HEADS, "scale": 0.5}
    mixed = net.op("Attention", *operands, **attrs)
    shape = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(2))
    mixed = net.op("Reshape", mixed, net.op("Concat", shape, net.ints(-1), axis=0))
    gemm = net.op("Reshape", mixed, net.ints(-1, DIM))
    gemm = net.op("Gemm", gemm, net.weight(DIM, DIM), net.weight(DIM), alpha=0.5, transB=1)
    x = net.op("Add", x, net.op("Reshape", gemm, net.ints(1, -1, DIM)))
    return net.op("Add", x, feed_forward(net, recipe.norm(net, x), recipe))


def tanh_gelu(net: Net, x: str) -> str:
    cube = net.op("Mul", net.op("Pow", x, net.const(3.0)), net.const(0.044715))
    bent = net.op("Tanh", net.op("Mul", net.op("Add", x, cube), net.const(np.sqrt(2 / np.pi))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", bent, net.const(1.0))), net.const(0.5))


def class_token(net: Net, x: str) -> str:
    x = net.op("Concat", net.weight(1, 1, DIM), x, axis=1)
    return net.op("Add", x, net.weight(1, TOKENS + 1, DIM))


def biased(net: Net, x: str) -> str:
    relative = net.weight(1, HEADS, TOKENS + 1, TOKENS + 1)
    return net.op("Add", net.op("Mul", x, net.const(0.5)), relative)


def last_token(net: Net, x: str) -> str:
    x = net.op("Gather", net.norm(x), net.const(-1, np.int64), axis=1)
    return net.op("Squeeze", net.op("Unsqueeze", x, net.ints(0)), net.ints(0))


def whole(recipe: Recipe, opset: int = 20) -> onnx.ModelProto:
    net, output = build(recipe, Calm(opset=opset))
    return net.model(output)


TINY = {
    "side": 16,
    "stem": 8,
    "kernel": (3, 3),
    "groups": 2,
    "dim": 8,
    "hidden": 6,
    "depth": 1,
}
MODELS: dict[str, onnx.ModelProto] = {
    "plain": whole(Recipe()),
    "joins": whole(
        Recipe(
            patches=cut_patches, arrange=same, embedded=registers, after=parallel, pool=two_pools
        )
    ),
    "query": whole(Recipe(activation=quick_gelu, norm=spelled_norm, pool=learned_query)),
    "einsum": whole(Recipe(patches=patches, activation=erf_gelu, pool=by_einsum)),
    "operators": whole(Recipe(block=operators, activation=tanh_gelu), opset=23),
    "stem": hybrid(Hybrid(**TINY, norm="instance", padding="pad", opset=20)),
    "bottleneck": hybrid(
        Hybrid(**TINY, norm="spelled out", padding="same", residual=True, class_token=False)
    ),
    "token": whole(
        Recipe(
            embedded=class_token,
            scores=biased,
            norm=spelled_norm,
            activation=lambda net, x: net.op("Relu", x),
            pool=last_token,
        ),
        opset=18,
    ),
}


# --- Mutations -----------------------------------------------------------------------------------


WORDS = {
    "auto_pad": ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", "SAME"),
    "mode": ("constant", "reflect", "edge", "wrap"),
}


def attribute(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Another axis, permutation, equation, size or kind of padding."""
    nodes = [node for node in model.graph.node if node.attribute]
    node = nodes[random.integers(len(nodes))]
    old = node.attribute[random.integers(len(node.attribute))]
    value = helper.get_attribute_value(old)
    match value:
        case int():
            changed: object = int(random.choice([-2, -1, 0, 1, 2, 3]))
        case list() if value and all(isinstance(item, int) for item in value):
            changed = random.permutation(value).tolist()
            if changed == value:
                changed[random.integers(len(value))] += int(random.choice([-1, 1, 2]))
        case bytes() if old.name in WORDS:
            changed = str(random.choice(WORDS[old.name]))
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
    return helper.get_attribute_value(old) != value


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


# --- Shapes and types ----------------------------------------------------------------------------


SIDES = (-1, 0, 1, 2, 3, 4, 5, 7, 8, 64, 4096, 2**31, 2**62)


def weight_shape(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A weight of another shape, with as many numbers as that needs or with those it had."""
    tensor = _any(model.graph.initializer, random)
    values = numpy_helper.to_array(tensor)
    match random.integers(6):
        case 0:
            changed = values.reshape(values.shape[::-1])
        case 1:
            changed = values.ravel()
        case 2:
            changed = values[None]
        case 3 if values.ndim:
            changed = np.repeat(values, 2, axis=int(random.integers(values.ndim)))
        case 4 if values.ndim:
            changed = values[:-1]
        case _:  # the file says one thing and holds another
            if not tensor.dims:
                return False
            tensor.dims[random.integers(len(tensor.dims))] = int(random.choice(SIDES))
            return True
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))
    return True


def declared_shape(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """The shape of the input, an output or a tensor in between, as the file declares it."""
    inner = [name for node in model.graph.node for name in node.output]
    if random.random() < 0.3:
        shape = [int(random.choice(SIDES[:9])) for _ in range(random.integers(5))]
        name = str(random.choice(inner))
        model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        return True
    value = _any([*model.graph.input, *model.graph.output], random)
    dims = value.type.tensor_type.shape.dim
    match random.integers(4):
        case 0 if dims:
            del dims[random.integers(len(dims))]
        case 1:
            dims.add().dim_value = int(random.choice(SIDES))
        case 2 if dims:
            _any(dims, random).dim_param = "side"
        case _ if dims:
            _any(dims, random).dim_value = int(random.choice(SIDES))
        case _:
            return False
    return True


KINDS = tuple(TensorProto.DataType.values())


def declared_type(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Another element type: of a weight, converted or only called so, of an input, or of a Cast."""
    kind = int(random.choice(KINDS))
    casts = [a for node in model.graph.node for a in node.attribute if a.name == "to"]
    match random.integers(4):
        case 0:
            _any(model.graph.initializer, random).data_type = kind
        case 1:
            value = _any([*model.graph.input, *model.graph.output], random)
            value.type.tensor_type.elem_type = kind
        case 2 if casts:
            _any(casts, random).i = kind
        case _:
            tensor = _any(model.graph.initializer, random)
            values = numpy_helper.to_array(tensor)
            wanted = str(random.choice(["float16", "float64", "int8", "int32", "int64", "bool"]))
            tensor.CopyFrom(numpy_helper.from_array(values.astype(wanted), tensor.name))
    return True


def every_type(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """All weights and the input in another float type, as after a conversion."""
    wanted = str(random.choice(["float16", "float64"]))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(values.astype(wanted), tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    return True


EXTREMES = (0.0, -0.0, 1e-45, 1e-38, 1e-30, 1e-10, 1e4, 1e10, 1e30, 3e38, np.inf, -np.inf, np.nan)


def extreme_weights(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A number of a weight, a row or all of it become or are scaled by something extreme."""
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    if not floats:
        return False
    tensor = _any(floats, random)
    values = numpy_helper.to_array(tensor).copy()
    extreme = np.float32(random.choice(EXTREMES))
    with np.errstate(all="ignore"):
        match random.integers(3):
            case 0:
                values[...] = values * extreme
            case 1 if values.ndim:
                values[random.integers(len(values))] = extreme
            case _:
                values.reshape(-1)[random.integers(values.size)] = extreme
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


NUMBERS = (-(2**63), -(2**31), -3, -2, -1, 0, 1, 2, 5, 9, 1 << 20, 2**31, 2**40, 2**63 - 1)


def extreme_numbers(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A shape, axis or index that is a constant of the model, or an attribute."""
    whole_numbers = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64]
    attributes = [a for node in model.graph.node for a in node.attribute]
    number = int(random.choice(NUMBERS))
    if attributes and random.random() < 0.5:
        changed = _any(attributes, random)
        match changed.type:
            case onnx.AttributeProto.INT:
                changed.i = number
            case onnx.AttributeProto.INTS if changed.ints:
                changed.ints[random.integers(len(changed.ints))] = number
            case onnx.AttributeProto.FLOAT:
                changed.f = float(random.choice(EXTREMES))
            case _:
                changed.s = b"\xff?"
        return True
    if not whole_numbers:
        return False
    tensor = _any(whole_numbers, random)
    values = numpy_helper.to_array(tensor).copy()
    if values.size == 0:
        return False
    values.reshape(-1)[random.integers(values.size)] = number
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return True


# --- Nodes ---------------------------------------------------------------------------------------


def dropped_node(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A node is gone; what read it reads one of its operands, or nothing that exists."""
    nodes = model.graph.node
    number = int(random.integers(len(nodes)))
    node = nodes[number]
    gone = node.output[0]
    there = str(random.choice(list(node.input))) if node.input and random.random() < 0.8 else gone
    del nodes[number]
    for reader in nodes:
        for place, name in enumerate(reader.input):
            if name == gone:
                reader.input[place] = there
    return True


def repeated_node(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A node twice: applied to its own result, beside itself, or with the same names."""
    number = int(random.integers(len(model.graph.node)))
    nodes = list(model.graph.node)
    node = nodes[number]
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    style = random.integers(3)
    if style < 2:
        copy.output[0] = f"{node.output[0]}_again"
        copy.name = f"{node.name}_again"
    if style == 0 and copy.input:
        copy.input[0] = node.output[0]
    for reader in nodes[number + 1 :]:
        for place, name in enumerate(reader.input):
            if name == node.output[0] and random.random() < 0.7:
                reader.input[place] = copy.output[0]
    nodes.insert(number + 1, copy)
    _replace_nodes(model, nodes)
    return True


# Operators that fit where another one stands, a family a line.
FAMILIES = """
Add Sub Mul Div Max Min Pow Mod PRelu
Relu Sigmoid Tanh Erf Gelu Neg Sqrt Abs Exp Identity Softplus Reciprocal Elu HardSwish Mish Swish
Not Floor Cast Dropout Identity Relu Sqrt Neg
ReduceMean ReduceMax ReduceSum ReduceMin ReduceL2 ReduceProd ArgMax
Softmax LogSoftmax Hardmax LpNormalization CumSum
LayerNormalization InstanceNormalization RMSNormalization GroupNormalization BatchNormalization
MatMul Gemm Einsum Add MatMulInteger
Conv ConvTranspose MaxPool AveragePool LpPool DeformConv
Reshape Transpose Expand Tile Squeeze Unsqueeze Flatten Slice Gather Concat Split Pad Resize
DepthToSpace SpaceToDepth Reshape Transpose Identity
Gather GatherElements GatherND Concat Compress OneHot ScatterElements
Where Attention BatchNormalization LayerNormalization Loop If Scan
Shape Size Constant ConstantOfShape Range NonZero RandomNormalLike
"""
SIBLINGS = tuple(tuple(line.split()) for line in FAMILIES.strip().splitlines())


def sibling(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Another operator in a node's place."""
    node = _any(model.graph.node, random)
    families = [family for family in SIBLINGS if node.op_type in family] or list(SIBLINGS)
    family = families[random.integers(len(families))]
    old = node.op_type
    node.op_type = str(random.choice(family))
    return node.op_type != old


def attribute_of_another(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """An attribute is gone, or a node gets one from another node."""
    with_some = [node for node in model.graph.node if node.attribute]
    node = _any(with_some, random)
    if random.random() < 0.5:
        del node.attribute[random.integers(len(node.attribute))]
        return True
    other = _any(model.graph.node, random)
    given = _any(node.attribute, random)
    if any(attribute.name == given.name for attribute in other.attribute):
        return False
    other.attribute.append(given)
    return True


def opset(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Another version of the operator set, another domain, or none."""
    match random.integers(5):
        case 0:
            _any(model.graph.node, random).domain = str(random.choice(["ai.onnx.ml", "my.own"]))
        case 1:
            del model.opset_import[:]
        case 2:
            model.ir_version = int(random.choice([0, 3, 8, 99]))
        case _:
            version = random.choice([-1, 0, 1, 7, 12, 13, 14, 16, 18, 22, 25, 99])
            model.opset_import[0].version = int(version)
    return True


def names(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A name that is empty, taken, or of something that is not there."""
    node = _any(model.graph.node, random)
    taken = _any(model.graph.node, random).output[0]
    weight = _any(model.graph.initializer, random).name
    odd = ["", taken, weight, "image", "no such thing", "\u00e9\n\t", "x" * 5000]
    new = str(random.choice(odd))
    match random.integers(6):
        case 0:
            node.name = new
        case 1 if node.input:
            node.input[random.integers(len(node.input))] = new
        case 2:
            node.output[0] = new
        case 3:
            _any(model.graph.initializer, random).name = new
        case 4:
            _any([*model.graph.input, *model.graph.output], random).name = new
        case _:
            for each in model.graph.node:
                each.name = new
    return True


def results(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Another output, one more, or none; an operand more or less; another order of nodes."""
    inner = [name for node in model.graph.node for name in node.output]
    node = _any(model.graph.node, random)
    match random.integers(6):
        case 0:
            model.graph.output[0].name = str(random.choice(inner))
        case 1:
            more = helper.make_tensor_value_info(str(random.choice(inner)), TensorProto.FLOAT, None)
            model.graph.output.append(more)
        case 2 if random.random() < 0.3:
            del model.graph.output[:]
        case 3 if node.input:
            del node.input[-1]
        case 4:
            node.input.append(str(random.choice([*inner, "image", ""])))
        case _:
            node.output.append(f"{node.output[0]}_more")
            reader = _any(model.graph.node, random)
            if reader.input and random.random() < 0.5:
                reader.input[0] = node.output[-1]
    return True


def order(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """Two nodes change places in the file."""
    nodes = list(model.graph.node)
    first, second = random.choice(len(nodes), 2, replace=False)
    nodes[first], nodes[second] = nodes[second], nodes[first]
    _replace_nodes(model, nodes)
    return True


def inserted(model: onnx.ModelProto, random: np.random.Generator) -> bool:
    """A node that arranges or computes something, in the middle of an edge."""
    nodes = list(model.graph.node)
    number = int(random.integers(1, len(nodes)))
    node = nodes[number]
    if not node.input:
        return False
    place = int(random.integers(len(node.input)))
    source = node.input[place]
    choices: list[tuple[str, dict[str, object]]] = [
        ("Transpose", {"perm": random.permutation(int(random.integers(2, 5))).tolist()}),
        ("Transpose", {}),
        ("Softmax", {"axis": int(random.integers(-3, 3))}),
        ("Flatten", {"axis": int(random.integers(0, 4))}),
        ("Concat", {"axis": int(random.integers(-2, 3))}),
        ("ReduceMean", {"keepdims": int(random.integers(2))}),
        ("Relu", {}),
        ("Neg", {}),
        ("Sqrt", {}),
        ("Shape", {}),
        ("GlobalAveragePool", {}),
        ("Einsum", {"equation": "abc->acb"}),
    ]
    op_type, attrs = choices[random.integers(len(choices))]
    operands = [source, source] if op_type == "Concat" else [source]
    nodes.insert(number, helper.make_node(op_type, operands, ["inserted"], name="in", **attrs))
    node.input[place] = "inserted"
    _replace_nodes(model, nodes)
    return True


def _any(items: object, random: np.random.Generator):  # noqa: ANN202 (one of protobuf's classes)
    listed = list(items)
    return listed[random.integers(len(listed))]


def _replace_nodes(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)


MUTATORS: tuple[Mutation, ...] = (
    attribute,
    constant,
    operands,
    wiring,
    weight_shape,
    declared_shape,
    declared_type,
    every_type,
    extreme_weights,
    extreme_numbers,
    dropped_node,
    repeated_node,
    sibling,
    attribute_of_another,
    opset,
    names,
    results,
    order,
    inserted,
)


# --- Files ---------------------------------------------------------------------------------------


def truncated(path: Path, random: np.random.Generator) -> bool:
    """The file ends early."""
    data = path.read_bytes()
    path.write_bytes(data[: random.integers(len(data))])
    return True


def flipped(path: Path, random: np.random.Generator) -> bool:
    """Some bits are others."""
    data = bytearray(path.read_bytes())
    for position in random.integers(len(data), size=random.integers(1, 4)).tolist():
        data[position] ^= 1 << int(random.integers(8))
    path.write_bytes(data)
    return True


def zeroed(path: Path, random: np.random.Generator) -> bool:
    """A stretch of the file was never written."""
    data = bytearray(path.read_bytes())
    start = int(random.integers(len(data)))
    length = min(int(random.integers(1, 64)), len(data) - start)
    data[start : start + length] = bytes(length)
    path.write_bytes(data)
    return True


def spliced(path: Path, random: np.random.Generator) -> bool:
    """A stretch is missing, or there twice."""
    data = path.read_bytes()
    first, second = sorted(random.integers(len(data), size=2).tolist())
    second = min(second, first + 100)
    kept = data[:first] + data[second:] if random.random() < 0.5 else data[:second] + data[first:]
    path.write_bytes(kept)
    return True


def outside(path: Path, random: np.random.Generator) -> bool:
    """Weights in a file beside the model that is missing, short, elsewhere, or not a file."""
    model = onnx.load(path)
    beside = path.with_suffix(".data")
    beside.unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location=beside.name, size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    entry = _any(_any(model.graph.initializer, random).external_data, random)
    match random.integers(6):
        case 0:
            beside.unlink()
        case 1:
            beside.write_bytes(beside.read_bytes()[: random.integers(2000)])
        case 2:
            wrong = ["-1", "0", "99999999999", "abc", "", "1e3", "../model.data", "/etc/hostname"]
            entry.value = str(random.choice(wrong))
        case 3:
            entry.key = str(random.choice(["location", "offset", "length", "checksum", ""]))
        case 4:
            beside.unlink()
            beside.mkdir()
        case _:
            pass  # as it should be
    path.write_bytes(model.SerializeToString())
    return True


DAMAGES: tuple[Damage, ...] = (truncated, flipped, zeroed, spliced, outside)


@dataclass(frozen=True)
class Mutant:
    """A changed model and what was done to it."""

    path: Path
    changes: tuple[str, ...]


def mutant(name: str, seed: int, folder: Path) -> Mutant | None:
    """Model `name` with one to three changes, the same ones for the same seed.

    Returns:
        None if the mutation drawn does not apply to this model.
    """
    random = np.random.default_rng([seed, sorted(MODELS).index(name)])
    model = onnx.ModelProto()
    model.CopyFrom(MODELS[name])
    kinds: list[Mutation | Damage] = [*MUTATORS, *DAMAGES]
    kind = kinds[seed % len(kinds)]
    chosen = [kind]
    while random.random() < 0.2 and len(chosen) < 3:
        chosen.insert(0, MUTATORS[random.integers(len(MUTATORS))])
    path = folder / "model.onnx"
    changes: list[str] = []
    try:
        changes += [c.__name__ for c in chosen if c in MUTATORS and c(model, random)]
    except (AttributeError, LookupError, OverflowError, TypeError, ValueError):
        return None  # an earlier change left nothing that this one could change
    path.write_bytes(model.SerializeToString())
    if kind in DAMAGES:
        _clear(path.with_suffix(".data"))
        try:
            kind(path, random)
        except Exception:  # onnx cannot write the external data of what came before
            return None
        changes.append(kind.__name__)
    return Mutant(path, tuple(changes)) if changes else None


def _clear(beside: Path) -> None:
    if beside.is_dir():
        beside.rmdir()
    beside.unlink(missing_ok=True)
