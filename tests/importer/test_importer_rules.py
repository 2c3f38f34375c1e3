"""Each rewriting rule by itself, on models written by hand, and the numbers still agree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto
from onnx_builder import (
    DEPTH,
    DIM,
    HEADS,
    HIDDEN,
    IMAGE,
    TOKENS,
    Net,
    Recipe,
    Step,
    build,
    conv,
    heads,
    registers,
    same,
    tokens_last,
)
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.graph import (
    Activation,
    Add,
    Attention,
    Function,
    Graph,
    LayerNorm,
    Linear,
    MeanPool,
    Node,
    SelectToken,
    TokenEmbed,
)
from vitessera.codegen.importer import evaluate, import_model, inspect_model


def imported(recipe: Recipe, folder: Path, net: Net | None = None) -> Graph:
    """The graph, after checking it against ONNX Runtime."""
    net, output = build(recipe, net)
    path = net.save(folder / "model.onnx", output)
    graph = import_model(path)
    image = np.random.default_rng(1).standard_normal(IMAGE, dtype=np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"image": image})
    (_, value) = graph.outputs[0]
    found = evaluate(graph, image[0])[value]
    np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-4, atol=1e-4)
    return graph


def kinds(graph: Graph) -> list[type[Node]]:
    return [type(node) for node in graph]


def only(graph: Graph, kind: type[Node]) -> Node:
    (node,) = (node for node in graph if isinstance(node, kind))
    return node


@pytest.fixture
def plain(tmp_path: Path) -> Graph:
    return imported(Recipe(), tmp_path)


def test_names_follow_the_operators(plain: Graph) -> None:
    assert [node.name for node in plain] == [
        *("patch_embed", "token_embed", "norm0", "query0", "key0", "value0", "attention0"),
        *("linear0", "add0", "norm1", "linear1", "gelu0", "linear2", "add1", "mean_pool0", "head"),
    ]
    assert plain["head"].origin[0] == "head"
    assert set(plain["attention0"].origin) >= {"mix", "softmax", "scores", "scale"}


@pytest.mark.parametrize("values", [2.0, [[[0.5]]], np.linspace(1, 2, DIM)])
def test_scale_rule_absorbs_into_the_linear_before(
    plain: Graph, tmp_path: Path, values: object
) -> None:
    def residual(net: Net, x: str, y: str) -> str:
        return net.op("Add", x, net.op("Mul", net.const(values), y))

    graph = imported(Recipe(residual=residual), tmp_path)
    assert kinds(graph) == kinds(plain)


def test_scale_and_shift_rules_absorb_into_the_norm(plain: Graph, tmp_path: Path) -> None:
    def norm(net: Net, x: str) -> str:
        scaled = net.op("Mul", Net.norm(net, x), net.weight(DIM))
        return net.op("Sub", net.weight(DIM), scaled)

    assert kinds(imported(Recipe(norm=norm), tmp_path)) == kinds(plain)


def test_dense_input_rule_absorbs_what_follows_an_activation(plain: Graph, tmp_path: Path) -> None:
    def activation(net: Net, x: str) -> str:
        scaled = net.op("Div", net.op("Gelu", x), net.weight(HIDDEN))
        return net.op("Add", scaled, net.weight(HIDDEN))

    assert kinds(imported(Recipe(activation=activation), tmp_path)) == kinds(plain)


def test_channels_rule_follows_heads_wherever_they_lie(plain: Graph, tmp_path: Path) -> None:
    def strided(net: Net, x: str) -> str:
        split = net.op("Reshape", x, net.ints(1, TOKENS, DEPTH, HEADS))
        return net.op("Transpose", split, perm=[0, 3, 1, 2])

    recipe = Recipe(query=strided, key=heads, value=strided)
    assert kinds(imported(recipe, tmp_path)) == kinds(plain)


def test_image_rule_absorbs_normalisation(plain: Graph, tmp_path: Path) -> None:
    def patches(net: Net, x: str) -> str:
        centred = net.op("Sub", x, net.const([[[[0.4]], [[0.5]]]]))
        return conv(net, net.op("Div", centred, net.const([[[[0.2]], [[0.3]]]])))

    assert kinds(imported(Recipe(patches=patches), tmp_path)) == kinds(plain)


def test_prefix_rule_takes_tokens_and_positions_in_any_order(tmp_path: Path) -> None:
    def embedded(net: Net, x: str) -> str:
        x = net.op("Add", x, net.weight(1, TOKENS - 2, DIM))
        x = net.op("Concat", net.weight(1, 1, DIM), x, axis=1)
        x = net.op("Concat", net.weight(1, 1, DIM), x, axis=-2)
        return net.op("Add", net.weight(TOKENS, DIM), x)

    def two_patches(net: Net, x: str) -> str:
        x = net.op("Conv", x, net.weight(DIM, 2, 2, 4), strides=[2, 4])
        return net.op("Reshape", x, net.ints(1, DIM, TOKENS - 2))

    def arrange(net: Net, x: str) -> str:
        return net.op("Transpose", x, perm=[0, 2, 1])

    recipe = Recipe(patches=two_patches, arrange=arrange, embedded=embedded)
    embed = only(imported(recipe, tmp_path), TokenEmbed)
    assert isinstance(embed, TokenEmbed)
    assert embed.prefix.shape == (2, DIM)
    assert embed.positions.shape == (TOKENS, DIM)


def test_mean_rule_reads_through_a_slice(tmp_path: Path) -> None:
    def pool(net: Net, x: str) -> str:
        kept = net.op("Slice", x, net.ints(1), net.ints(3), net.ints(1))
        return net.op("ReduceMean", kept, net.ints(1), keepdims=0)

    node = only(imported(Recipe(pool=pool), tmp_path), MeanPool)
    assert isinstance(node, MeanPool)
    assert (node.start, node.stop) == (1, 3)


def test_select_reads_a_negative_index(tmp_path: Path) -> None:
    def pool(net: Net, x: str) -> str:
        return net.op("Gather", x, net.const(-1, np.int64), axis=1)

    node = only(imported(Recipe(pool=pool), tmp_path), SelectToken)
    assert isinstance(node, SelectToken)
    assert node.index == TOKENS - 1


def test_norm_rule_with_either_order_and_reciprocal_of_root(tmp_path: Path) -> None:
    def norm(net: Net, x: str) -> str:
        centred = net.op("Sub", x, net.op("ReduceMean", x, net.ints(2)))
        variance = net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), net.ints(-1))
        inverse = net.op("Reciprocal", net.op("Add", net.const(1e-3), variance))
        return net.op("Mul", net.op("Sqrt", inverse), centred)

    graph = imported(Recipe(norm=norm), tmp_path)
    norms = [node for node in graph if isinstance(node, LayerNorm)]
    assert [node.eps for node in norms] == [pytest.approx(1e-3)] * 2
    assert all((node.gamma == 1).all() and not node.beta.any() for node in norms)


def test_gelu_rule_sees_a_scaled_argument(tmp_path: Path) -> None:
    """gelu(3·x): the factor is the argument's, not a wrong constant of GELU."""

    def activation(net: Net, x: str) -> str:
        tripled = net.op("Mul", x, net.const(3.0))
        bent = net.op("Erf", net.op("Div", tripled, net.const(np.sqrt(2))))
        doubled = net.op("Mul", tripled, net.op("Add", bent, net.const(1.0)))
        return net.op("Mul", doubled, net.const(0.5))

    graph = imported(Recipe(activation=activation), tmp_path)
    assert isinstance(only(graph, Activation), Activation)


def test_attention_rule_gathers_every_factor(tmp_path: Path) -> None:
    def turned(net: Net, x: str) -> str:
        return net.op("Transpose", net.op("Neg", x), perm=[0, 1, 3, 2])

    def scores(net: Net, x: str) -> str:
        masked = net.op("Add", x, net.const(np.zeros((TOKENS, TOKENS))))
        return net.op("Div", net.op("Mul", masked, net.const(3.0)), net.const([-2.0]))

    node = only(imported(Recipe(key_turned=turned, scores=scores), tmp_path), Attention)
    assert isinstance(node, Attention)
    assert node.scale == pytest.approx(1.5)
    assert node.bias is None


RANDOM = np.random.default_rng(5)
HIDES_LATER = np.triu(np.ones((TOKENS, TOKENS), bool), 1)


def biased(scores: Step, folder: Path, opset: int = 20) -> Attention:
    """The attention whose scores went through `scores`; nothing else is left of it."""
    graph = imported(Recipe(scores=scores), folder, Net(opset=opset))
    assert kinds(graph) == kinds(imported(Recipe(), folder))
    node = only(graph, Attention)
    assert isinstance(node, Attention)
    return node


@pytest.mark.parametrize(
    "shape",
    [
        (1, HEADS, TOKENS, TOKENS),
        (HEADS, TOKENS, TOKENS),
        (1, 1, TOKENS, TOKENS),
        (TOKENS, TOKENS),
        (HEADS, 1, TOKENS),
        (1, 1, 1, TOKENS),
        (TOKENS,),
    ],
)
def test_attention_rule_takes_a_bias_of_any_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    added = RANDOM.standard_normal(shape)

    def scores(net: Net, x: str) -> str:
        return net.op("Add", net.const(added), net.op("Mul", x, net.const(0.5)))

    node = biased(scores, tmp_path)
    wanted = np.broadcast_to(added, (1, HEADS, TOKENS, TOKENS))[0]
    np.testing.assert_array_equal(node.bias, wanted.astype(np.float32))
    assert node.scale == pytest.approx(0.5)


def test_attention_rule_gathers_every_bias(tmp_path: Path) -> None:
    """((s + a) · c - b) / d; the row of queries is not a bias, the sign of c goes into them."""
    shared, own, row = (RANDOM.standard_normal(s) for s in ((4, 4), (HEADS, 4, 4), (4, 1)))

    def scores(net: Net, x: str) -> str:
        x = net.op("Mul", net.op("Add", x, net.const(shared)), net.const(-3.0))
        x = net.op("Div", net.op("Sub", x, net.const(own)), net.const(2.0))
        return net.op("Add", x, net.const(row))

    node = biased(scores, tmp_path)
    assert node.scale == pytest.approx(1.5)
    np.testing.assert_allclose(node.bias, -1.5 * shared - own / 2 + row, rtol=1e-5)


@pytest.mark.parametrize("shape", [(TOKENS, 1), (HEADS, 1, 1), (1,), (1, HEADS, TOKENS, 1)])
def test_what_is_added_to_all_keys_vanishes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    def scores(net: Net, x: str) -> str:
        return net.op("Add", x, net.weight(*shape))

    assert biased(scores, tmp_path).bias is None


def test_a_bias_gathered_from_a_resized_table(tmp_path: Path) -> None:
    """As BEiT has it: bicubic, three more entries for the class token, one row for each pair."""
    table = RANDOM.standard_normal((1, HEADS, 5, 5))

    def scores(net: Net, x: str) -> str:
        sizes = net.ints(1, HEADS, 3, 3)
        small = net.op("Resize", net.const(table), "", "", sizes, mode="cubic")
        flat = net.op("Transpose", net.op("Reshape", small, net.ints(HEADS, -1)), perm=[1, 0])
        whole = net.op("Concat", flat, net.weight(3, HEADS), axis=0)
        index = net.const(RANDOM.integers(0, 12, TOKENS * TOKENS), np.int64)
        pairs = net.op("Reshape", net.op("Gather", whole, index), net.ints(TOKENS, TOKENS, -1))
        return net.op(
            "Add", x, net.op("Unsqueeze", net.op("Transpose", pairs, perm=[2, 0, 1]), net.ints(0))
        )

    node = biased(scores, tmp_path)
    assert node.bias is not None
    assert node.bias.shape == (HEADS, TOKENS, TOKENS)
    assert np.ptp(node.bias) > 1.0


@pytest.mark.parametrize("hidden", [-np.inf, -3.4028235e38, -65504.0, -1e9])
def test_a_mask_hides_keys(tmp_path: Path, hidden: float) -> None:
    def scores(net: Net, x: str) -> str:
        return net.op("Add", x, net.const(np.where(HIDES_LATER, hidden, 0.0)))

    node = biased(scores, tmp_path)
    assert node.bias is not None
    assert (node.bias[:, HIDES_LATER] < -6e4).all()
    assert not node.bias[:, ~HIDES_LATER].any()
    assert np.isfinite(node.bias).all()


def test_a_mask_beside_a_bias(tmp_path: Path) -> None:
    added = RANDOM.standard_normal((HEADS, TOKENS, TOKENS))

    def scores(net: Net, x: str) -> str:
        x = net.op("Add", x, net.const(np.where(HIDES_LATER, -np.inf, 0.0)))
        return net.op("Add", x, net.const(added))

    node = biased(scores, tmp_path)
    assert node.bias is not None
    np.testing.assert_allclose(node.bias[:, ~HIDES_LATER], added[:, ~HIDES_LATER], rtol=1e-6)
    assert (node.bias[:, HIDES_LATER] < -1e9).all()


@pytest.mark.parametrize(
    "mask",
    [
        RANDOM.standard_normal((1, HEADS, TOKENS, TOKENS)).astype(np.float32),
        RANDOM.standard_normal((TOKENS, TOKENS)).astype(np.float32),
        np.where(HIDES_LATER, -np.inf, 0.0).astype(np.float32),
        ~HIDES_LATER,
    ],
    ids=["bias of each head", "bias", "mask", "mask of bits"],
)
def test_the_attention_operator_takes_a_mask(tmp_path: Path, mask: np.ndarray) -> None:
    def pool(net: Net, x: str) -> str:
        q, k, v = (heads(net, net.linear(net.norm(x), DIM, DIM)) for _ in range(3))
        mixed = net.op("Attention", q, k, v, net.const(mask, mask.dtype.type), scale=0.5)
        joined = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
        return net.op(
            "ReduceMean",
            net.op("Reshape", joined, net.ints(1, TOKENS, DIM)),
            net.ints(1),
            keepdims=0,
        )

    graph = imported(Recipe(pool=pool), tmp_path, Net(opset=23))
    node = [node for node in graph if isinstance(node, Attention)][-1]
    assert node.bias is not None
    assert node.bias.shape == (HEADS, TOKENS, TOKENS)
    assert node.scale == pytest.approx(0.5)


def test_nodes_that_change_nothing(plain: Graph, tmp_path: Path) -> None:
    def after(net: Net, x: str) -> str:
        x = net.op("Dropout", net.op("Identity", x))
        x = net.op("Cast", net.op("Mul", x, net.const(1.0)), to=1)
        x = net.op("Reshape", x, net.op("Shape", x))
        net.op("Sigmoid", x)  # nobody reads it
        return net.op("Expand", x, net.ints(1, 1, 1))

    assert kinds(imported(Recipe(after=after), tmp_path)) == kinds(plain)


def test_two_heads_averaged_as_distilled_models_do(tmp_path: Path) -> None:
    def finish(net: Net, x: str) -> str:
        other = net.linear(x, 3, 3)
        twice = net.linear(x, 3, 3)
        return net.op("Div", net.op("Add", other, twice), net.const(2.0))

    graph = imported(Recipe(finish=finish), tmp_path)
    assert isinstance(graph.nodes[-1], Add)
    assert sum(isinstance(node, Linear) for node in graph) == 9


def test_gemm_with_its_factors(tmp_path: Path) -> None:
    def finish(net: Net, x: str) -> str:
        bias = net.weight(1, 5)
        return net.op("Gemm", x, net.weight(5, 3), bias, alpha=2.0, beta=0.5, transB=1)

    imported(Recipe(finish=finish), tmp_path)


def test_patches_alone_get_an_empty_embedding(tmp_path: Path) -> None:
    net = Net()
    path = net.save(tmp_path / "model.onnx", tokens_last(net, conv(net, "image")))
    graph = import_model(path)
    assert [node.name for node in graph] == ["patch_embed", "token_embed"]
    assert graph.outputs[0][1] == "token_embed"


@pytest.mark.parametrize("flat", [False, True])
def test_attention_operator(tmp_path: Path, flat: bool) -> None:
    net = Net(opset=23)
    x = tokens_last(net, conv(net, "image"))
    operands = [net.linear(x, DIM, DIM) for _ in range(3)]
    if flat:
        mixed = net.op("Attention", *operands, q_num_heads=HEADS, kv_num_heads=HEADS, scale=0.3)
    else:
        mixed = net.op("Attention", *(heads(net, each) for each in operands), scale=0.3)
        mixed = net.op("Transpose", mixed, perm=[0, 2, 1, 3])
        mixed = net.op("Reshape", mixed, net.ints(1, TOKENS, DIM))
    pooled = net.op("ReduceMean", net.linear(mixed, DIM, DIM), net.ints(1), keepdims=0)
    path = net.save(tmp_path / "model.onnx", pooled)
    graph = import_model(path)
    node = only(graph, Attention)
    assert isinstance(node, Attention)
    assert (node.heads, node.scale) == (HEADS, pytest.approx(0.3))
    image = np.random.default_rng(1).standard_normal(IMAGE, dtype=np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (wanted,) = session.run(None, {"image": image})
    found = evaluate(graph, image[0])[graph.outputs[0][1]]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


# --- Joins ---------------------------------------------------------------------------------------


def test_registers_between_class_token_and_patches(tmp_path: Path) -> None:
    """As DINOv2 writes it: positions for the class token and patches, then registers."""

    def two_patches(net: Net, x: str) -> str:
        x = net.op("Conv", x, net.weight(DIM, 2, 2, 4), strides=[2, 4])
        return net.op("Reshape", x, net.ints(1, DIM, 2))

    def arrange(net: Net, x: str) -> str:
        return net.op("Transpose", x, perm=[0, 2, 1])

    recipe = Recipe(patches=two_patches, arrange=arrange, embedded=registers)
    embed = only(imported(recipe, tmp_path), TokenEmbed)
    assert isinstance(embed, TokenEmbed)
    assert embed.prefix.shape == (2, DIM)
    assert embed.prefix.any(axis=1).all()
    assert embed.positions[2:].any(axis=1).all()


def test_linear_of_two_pools_side_by_side(tmp_path: Path) -> None:
    """Class token and mean of the patches, as DINOv2's classifier reads them."""

    def pool(net: Net, x: str) -> str:
        first = net.op("Gather", x, net.const(0, np.int64), axis=1)
        both = net.op("Concat", first, net.op("ReduceMean", x, net.ints(1), keepdims=0), axis=-1)
        return net.linear(net.op("Mul", net.const(0.5), net.linear(both, 2 * DIM, DIM)), DIM, DIM)

    graph = imported(Recipe(pool=pool), tmp_path)
    assert only(graph, MeanPool) and only(graph, SelectToken)
    assert sum(isinstance(node, Linear) for node in graph) == 10


def test_results_of_one_input_side_by_side_are_one_linear(plain: Graph, tmp_path: Path) -> None:
    def finish(net: Net, x: str) -> str:
        return net.op("Concat", net.linear(x, 3, 2), net.linear(x, 3, 4), axis=1)

    graph = imported(Recipe(finish=finish), tmp_path)
    assert kinds(graph) == [*kinds(plain), Linear]


@pytest.mark.parametrize("reduce", ["ReduceSum", "ReduceMean"])
def test_parallel_branches_stacked_and_summed(tmp_path: Path, reduce: str) -> None:
    def activation(net: Net, x: str) -> str:
        parts = [net.op("Gelu", x), net.linear(x, HIDDEN, HIDDEN), net.op("Relu", x)]
        stack = [net.op("Unsqueeze", part, net.ints(0)) for part in parts]
        return net.op(reduce, net.op("Concat", *stack, axis=0), net.ints(0), keepdims=0)

    graph = imported(Recipe(activation=activation), tmp_path)
    assert sum(isinstance(node, Add) for node in graph) == 4


# --- Attention -----------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [20, 23])
def test_attention_pooling_with_a_learned_query(tmp_path: Path, opset: int) -> None:
    """The query becomes a Linear without weights: its bias is the query."""

    def pool(net: Net, x: str) -> str:
        x = net.norm(x)
        query = net.weight(1, HEADS, 1, DEPTH)
        key, value = (heads(net, net.linear(x, DIM, DIM)) for _ in range(2))
        if opset == 23:
            mixed = net.op("Attention", query, key, value)
        else:
            scores = net.op("MatMul", query, net.op("Transpose", key, perm=[0, 1, 3, 2]))
            mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), value)
        return net.op("Reshape", net.op("Transpose", mixed, perm=[0, 2, 1, 3]), net.ints(1, DIM))

    graph = imported(Recipe(pool=pool), tmp_path, Net(opset=opset))
    pooling = [node for node in graph if isinstance(node, Attention)][-1]
    query = graph[pooling.inputs[0]]
    assert isinstance(query, Linear)
    assert not query.weight.any()
    assert graph.shapes()[pooling.name] == (1, DIM)


def test_softmax_that_is_guarded_against_nan(plain: Graph, tmp_path: Path) -> None:
    def probabilities(net: Net, x: str) -> str:
        p = net.op("Softmax", x, axis=-1)
        return net.op("Where", net.op("IsNaN", p), net.const(0.0), p)

    assert kinds(imported(Recipe(probabilities=probabilities), tmp_path)) == kinds(plain)


def test_mask_that_hides_nothing(plain: Graph, tmp_path: Path) -> None:
    def scores(net: Net, x: str) -> str:
        every = net.const(np.ones((TOKENS, TOKENS)), np.bool_)
        return net.op("Where", every, x, net.const(-np.inf))

    assert len(kinds(imported(Recipe(scores=scores), tmp_path))) == len(kinds(plain))


# --- Einsum --------------------------------------------------------------------------------------


@pytest.mark.parametrize("equation", ["abc,cd->abd", "abc,dc->abd", "xyz,zw->xyw"])
@pytest.mark.parametrize("swapped", [False, True])
def test_einsum_as_a_linear(tmp_path: Path, equation: str, swapped: bool) -> None:
    def after(net: Net, x: str) -> str:
        operands, letters = [x, net.weight(DIM, DIM)], equation
        if swapped:
            left, right = equation.split("->")[0].split(",")
            operands, letters = operands[::-1], f"{right},{left}->{equation.split('->')[1]}"
        return net.op("Einsum", *operands, equation=letters)

    graph = imported(Recipe(after=after), tmp_path)
    assert sum(isinstance(node, Linear) for node in graph) == 8


@pytest.mark.parametrize("keys_first", [False, True])
def test_attention_by_einsum(tmp_path: Path, keys_first: bool) -> None:
    """As Keras writes it: a weight for each head, heads in the middle, keys before queries."""

    def pool(net: Net, x: str) -> str:
        x = net.norm(x)
        q, k, v = (
            net.op(
                "Add",
                net.op("Einsum", x, net.weight(DIM, HEADS, DEPTH), equation="abc,cde->abde"),
                net.weight(HEADS, DEPTH),
            )
            for _ in range(3)
        )
        q = net.op("Mul", q, net.const(0.5))
        if keys_first:
            scores = net.op("Einsum", k, q, equation="aecd,abcd->acbe")
            mixed = net.op("Einsum", net.op("Softmax", scores), v, equation="acbe,aecd->abcd")
        else:
            scores = net.op("Einsum", q, k, equation="bihd,bjhd->bhij")
            mixed = net.op("Einsum", v, net.op("Softmax", scores), equation="bjhd,bhij->bihd")
        out = net.op("Einsum", mixed, net.weight(HEADS, DEPTH, DIM), equation="abcd,cde->abe")
        return net.op("ReduceMean", out, net.ints(1), keepdims=0)

    graph = imported(Recipe(pool=pool), tmp_path)
    found = [node.scale for node in graph if isinstance(node, Attention)]
    assert found == [pytest.approx(0.5), pytest.approx(0.5)]


# --- Activation functions ------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1.0, 1.702, -0.5])
@pytest.mark.parametrize("form", ["plain", "scaled", "last"])
def test_silu_rule_takes_any_gain(plain: Graph, tmp_path: Path, gain: float, form: str) -> None:
    """QuickGELU is SiLU(1.702·x) / 1.702; the factors go into the layers around it."""

    def activation(net: Net, x: str) -> str:
        x = net.op("Mul", x, net.const(2.0)) if form == "scaled" else x
        bent = net.op("Sigmoid", net.op("Mul", x, net.const(gain)))
        if form == "last":
            return net.op("Mul", net.op("Mul", bent, net.const(3.0)), x)
        return net.op("Mul", x, bent)

    graph = imported(Recipe(activation=activation), tmp_path)
    node = only(graph, Activation)
    assert isinstance(node, Activation)
    assert node.function is Function.SILU
    assert kinds(graph) == kinds(plain)


# --- Patches -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [(1, 3, 5), (3, 5, 1), (5, 1, 3)])
def test_patches_by_matmul_in_any_order_inside(
    plain: Graph, tmp_path: Path, inside: tuple[int, ...]
) -> None:
    def patches(net: Net, x: str) -> str:
        shifted = net.op("Sub", x, net.const([[[[0.4]], [[0.5]]]]))
        split = net.op("Reshape", shifted, net.ints(1, 2, 2, 2, 2, 2))
        cut = net.op("Transpose", split, perm=[0, 2, 4, *inside])
        return net.linear(net.op("Reshape", cut, net.ints(1, TOKENS, 8)), 8, DIM)

    recipe = Recipe(patches=patches, arrange=same)
    assert kinds(imported(recipe, tmp_path)) == kinds(plain)


def test_channels_of_the_image_in_another_order(plain: Graph, tmp_path: Path) -> None:
    def patches(net: Net, x: str) -> str:
        return conv(net, net.op("Gather", x, net.const([1, 0], np.int64), axis=1))

    assert kinds(imported(Recipe(patches=patches), tmp_path)) == kinds(plain)


def test_tubelets_of_a_video_as_deep_as_it(plain: Graph, tmp_path: Path) -> None:
    def patches(net: Net, x: str) -> str:
        video = net.op("Reshape", x, net.ints(1, 1, 2, 4, 4))
        return net.op("Conv", video, net.weight(DIM, 1, 2, 2, 2), strides=[2, 2, 2])

    assert kinds(imported(Recipe(patches=patches), tmp_path)) == kinds(plain)


def test_batch_norm_behind_the_patches(plain: Graph, tmp_path: Path) -> None:
    def patches(net: Net, x: str) -> str:
        constants = [net.weight(DIM) for _ in range(3)]
        positive = net.const(net.random.uniform(0.5, 2.0, DIM))
        return net.op("BatchNormalization", conv(net, x), *constants, positive, epsilon=1e-3)

    assert kinds(imported(Recipe(patches=patches), tmp_path)) == kinds(plain)


def test_global_average_pool_of_channels_first(plain: Graph, tmp_path: Path) -> None:
    def pool(net: Net, x: str) -> str:
        turned = net.op("Transpose", x, perm=[0, 2, 1])
        square = net.op("Reshape", turned, net.ints(1, DIM, 2, 2))
        return net.op("Flatten", net.op("GlobalAveragePool", square))

    assert kinds(imported(Recipe(pool=pool), tmp_path)) == kinds(plain)


# --- Number formats ------------------------------------------------------------------------------


def test_gelu_with_constants_in_half_precision(tmp_path: Path) -> None:
    def half(net: Net, value: float) -> str:
        return net.op("Cast", net.const(value, np.float16), to=1)

    def activation(net: Net, x: str) -> str:
        bent = net.op("Erf", net.op("Mul", x, half(net, np.sqrt(0.5))))
        return net.op("Mul", net.op("Mul", x, net.op("Add", bent, half(net, 1.0))), half(net, 0.5))

    net, output = build(Recipe(activation=activation))
    graph = import_model(net.save(tmp_path / "model.onnx", output))
    node = only(graph, Activation)
    assert isinstance(node, Activation)
    assert node.function is Function.GELU_ERF


def test_half_precision_does_not_excuse_another_constant(tmp_path: Path) -> None:
    def activation(net: Net, x: str) -> str:
        factor = net.op("Cast", net.const(0.7, np.float16), to=TensorProto.FLOAT)
        bent = net.op("Erf", net.op("Mul", x, factor))
        doubled = net.op("Mul", x, net.op("Add", bent, net.const(1.0)))
        return net.op("Mul", doubled, net.const(0.5))

    net, output = build(Recipe(activation=activation))
    with pytest.raises(UnsupportedModelError, match=r"erf's argument is 0\.7"):
        import_model(net.save(tmp_path / "model.onnx", output))


def test_activations_cast_to_half_precision(plain: Graph, tmp_path: Path) -> None:
    def after(net: Net, x: str) -> str:
        return net.op("Cast", net.op("Cast", x, to=TensorProto.FLOAT16), to=TensorProto.FLOAT)

    net, output = build(Recipe(after=after))
    assert kinds(import_model(net.save(tmp_path / "model.onnx", output))) == kinds(plain)


def test_a_pooler_with_tanh(tmp_path: Path) -> None:
    """tanh(a·x + b): the arithmetic goes into the Linear before it."""

    def finish(net: Net, x: str) -> str:
        moved = net.op("Add", net.op("Mul", x, net.const(0.5)), net.const(0.25))
        return net.op("Tanh", moved)

    graph = imported(Recipe(finish=finish), tmp_path)
    last = graph[graph.outputs[0][1]]
    assert isinstance(last, Activation)
    assert last.function is Function.TANH
    assert isinstance(graph[last.inputs[0]], Linear)


def test_an_axis_named_by_its_number_is_fixed(plain: Graph, tmp_path: Path) -> None:
    """As exporters write that were asked for open axes where the model allows none."""
    net, output = build(Recipe())
    model = net.model(output)
    for side in model.graph.input[0].type.tensor_type.shape.dim[1:]:
        side.dim_param = str(side.dim_value)
    onnx.save(model, tmp_path / "model.onnx")
    assert import_model(tmp_path / "model.onnx").image == plain.image


# --- Chosen results ------------------------------------------------------------------------------


def test_what_follows_the_results_is_left_out(plain: Graph, tmp_path: Path) -> None:
    """A softmax of the logits is the host's."""

    def finish(net: Net, x: str) -> str:
        return net.op("Softmax", net.op("Identity", x, name="logits"), axis=-1)

    net, output = build(Recipe(finish=finish))
    path = net.save(tmp_path / "model.onnx", output)
    graph = import_model(path, ["logits", "logits"])
    assert kinds(graph) == kinds(plain)
    assert graph.outputs == (("logits", "head"),)
    account = {row.name: row for row in inspect_model(path, ["logits"]).rows}
    assert account[output].into == "unused"
    with pytest.raises(UnsupportedModelError, match="--results"):
        import_model(path)
