"""Files that somebody quantised already: weights alone, QDQ, and dynamically."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx_builder import DIM, IMAGE, TOKENS, Calm, Net, Recipe, Step, build, conv, softmax
from verdicts import check_refused, some_images
from vitessera.codegen.graph import Activation, Function
from vitessera.codegen.importer import Inspection, evaluate, inspect_model

FINE = 1 / 2048  # a step so small that int16 rounds to it without much loss


def saved(path: Path, recipe: Recipe, net: Net) -> Path:
    net, output = build(recipe, net)
    return net.save(path, output)


def supported(path: Path) -> Inspection:
    """Every node is accounted for."""
    inspection = inspect_model(path)
    assert inspection.graph is not None, inspection.rows
    assert all(row.into for row in inspection.rows)
    return inspection


def assert_computes(path: Path, tolerance: float) -> Inspection:
    """The network's results are within `tolerance` of ONNX Runtime's, which are quantised."""
    inspection = supported(path)
    graph = inspection.graph
    assert graph is not None
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name, value = graph.outputs[0]
    for image in some_images(graph, 4, seed=5):
        (wanted,) = session.run([name], {"image": image[None]})
        found = evaluate(graph, image)[value]
        np.testing.assert_allclose(found, wanted.reshape(found.shape), atol=tolerance)
    return inspection


# --- Weights alone


class Stored(Calm):
    """Every matrix is stored in eight bits, a scale and a zero point for each of its columns."""

    def weight(self, *shape: int) -> str:
        if len(shape) != 2:
            return super().weight(*shape)
        values = self.random.integers(-127, 128, shape)
        scale = self.random.uniform(0.5, 1.0, shape[1]) / (127 * np.sqrt(shape[0]))
        zero = self.random.integers(-9, 10, shape[1])
        stored = (self.const(values, np.int8), self.const(scale), self.const(zero, np.int8))
        return self.op("DequantizeLinear", *stored, axis=1)


def plain_norm(net: Net, x: str) -> str:
    """As spelled out in operator sets that have no LayerNormalization."""
    centred = net.op("Sub", x, mean(net, x))
    variance = mean(net, net.op("Mul", centred, centred))
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))
    scaled = net.op("Mul", net.op("Div", centred, deviation), Calm.weight(net, DIM))
    return net.op("Add", scaled, Calm.weight(net, DIM))


def mean(net: Net, x: str) -> str:
    """Over the channels."""
    if net.opset < 18:
        return net.op("ReduceMean", x, axes=[-1])
    return net.op("ReduceMean", x, net.ints(-1))


def plain_gelu(net: Net, x: str) -> str:
    bent = net.op("Erf", net.op("Div", x, net.const(np.sqrt(2))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", bent, net.const(1.0))), net.const(0.5))


def plain_pool(net: Net, x: str) -> str:
    return net.op("Gather", x, net.const(0, np.int64), axis=1)


PLAIN = Recipe(norm=plain_norm, activation=plain_gelu, pool=plain_pool)


@pytest.mark.parametrize("opset", [13, 14, 16, 18, 19, 21, 23])
def test_weights_in_eight_bits_in_any_operator_set(opset: int, tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", PLAIN, Stored(opset=opset))
    inspection = assert_computes(path, 1e-4)
    assert inspection.notes == ("Quantised in the file, and dequantised: 7 constants.",)


# --- QDQ


def pair(
    net: Net, x: str, scale: float = FINE, zero: int = 0, kind: type = np.int16, back: float = 0.0
) -> str:
    """QuantizeLinear, and DequantizeLinear with the same scale or `back`."""
    zeros = net.const(zero, kind)
    name = f"culprit_{len(net.nodes)}"
    y = net.op("QuantizeLinear", x, net.const(scale), zeros, name=name)
    return net.op("DequantizeLinear", y, net.const(back or scale), zeros, name=f"{name}_back")


def spelled_norm(net: Net, x: str) -> str:
    """LayerNorm of old operator sets, rounded wherever a quantiser does that."""
    centred = net.op("Sub", x, mean(net, x))
    variance = mean(net, net.op("Pow", centred, net.const(2.0)))
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-5)))
    normal = pair(net, net.op("Div", centred, deviation))
    return pair(net, net.op("Add", net.op("Mul", normal, net.weight(DIM)), net.weight(DIM)))


def spelled_gelu(net: Net, x: str) -> str:
    """erf(x) + 1 is never negative, so its range begins at zero: no ReLU stands for that."""
    bent = net.op("Erf", net.op("Div", x, net.const(np.sqrt(2))))
    lifted = pair(net, net.op("Add", bent, net.const(1.0)), FINE, 0, np.uint16)
    return net.op("Mul", pair(net, net.op("Mul", x, lifted)), net.const(0.5))


def rounded_softmax(net: Net, x: str) -> str:
    return pair(net, softmax(net, x), 1 / 65535, 0, np.uint16)


def then_pair(step: Step) -> Step:
    return lambda net, x: pair(net, step(net, x))


QDQ = Recipe(
    patches=lambda net, x: pair(net, conv(net, pair(net, x))),
    embedded=pair,
    query=lambda net, x: Recipe().query(net, pair(net, x)),
    scores=then_pair(Recipe().scores),
    probabilities=rounded_softmax,
    residual=lambda net, x, y: pair(net, net.op("Add", x, pair(net, y))),
    norm=spelled_norm,
    activation=spelled_gelu,
    finish=pair,
)


def test_quantised_and_dequantised_all_over(tmp_path: Path) -> None:
    """The rounding is left out, and nothing of it is left in the network."""
    inspection = assert_computes(saved(tmp_path / "vit.onnx", QDQ, Calm(opset=21)), 0.02)
    assert inspection.graph is not None
    kinds = [type(node).__name__ for node in inspection.graph]
    assert kinds.count("Attention") == 1 and kinds.count("LayerNorm") == 2
    assert [node.function for node in inspection.graph if isinstance(node, Activation)] == [
        Function.GELU_ERF
    ]
    (note,) = inspection.notes
    assert note == (
        "Left out: 15 roundings of results to integers of a range. Quantising is done anew, with "
        "other scales."
    )


def test_several_images_at_once_and_an_arrangement_between(tmp_path: Path) -> None:
    """Integers are transposed as well as real numbers."""

    def arrange(net: Net, x: str) -> str:
        flat = net.op("Reshape", x, net.ints(3, DIM, TOKENS))
        zero, scale = net.const(3, np.int8), net.const(0.05)
        turned = net.op("Transpose", net.op("QuantizeLinear", flat, scale, zero), perm=[0, 2, 1])
        return net.op("DequantizeLinear", turned, scale, zero)

    net = Calm()
    x = arrange(net, conv(net, "image"))
    pooled = net.op("ReduceMean", net.linear(x, DIM, DIM), net.ints(1), keepdims=0)
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (3, *IMAGE[1:]))
    onnx.save(net.model(net.linear(pooled, DIM, 3), [image]), tmp_path / "vit.onnx")
    assert supported(tmp_path / "vit.onnx").images == 3


def relu_by_range(net: Net, x: str) -> str:
    """A quantiser took the ReLU away: what is negative is cut off by the range."""
    return pair(net, x, FINE, -32768, np.int16)


def test_a_range_in_place_of_a_relu(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", Recipe(activation=relu_by_range), Calm(opset=21))
    graph = assert_computes(path, 0.01).graph
    assert graph is not None
    (activation,) = (node for node in graph if isinstance(node, Activation))
    assert activation.function is Function.RELU


def by_column(net: Net, x: str) -> str:
    scale = net.const(np.full(DIM, 0.1))
    zero = net.const(np.zeros(DIM), np.int8)
    y = net.op("QuantizeLinear", x, scale, zero, axis=2, name="culprit")
    return net.op("DequantizeLinear", y, scale, zero, axis=2)


def used_as_integers(net: Net, x: str) -> str:
    y = net.op("QuantizeLinear", x, net.const(0.1), net.const(0, np.int8), name="culprit")
    return net.op("Cast", y, to=TensorProto.FLOAT)


def cast_and_back(net: Net, x: str) -> str:
    y = net.op("Add", x, net.const(1.0))
    return net.op("DequantizeLinear", y, net.const(0.1), net.const(0, np.int8), name="culprit")


def one_sided(net: Net, x: str) -> str:
    return pair(net, x, 0.1, 127, np.int8)


def eights(net: Net) -> str:
    return net.const(net.random.integers(-9, 9, (DIM, DIM)), np.int8)


def other_zero_point(net: Net, x: str) -> str:
    y = net.op("QuantizeLinear", x, net.const(0.1), net.const(5, np.int8))
    return net.op("MatMulInteger", y, eights(net), net.const(4, np.int8), name="culprit")


REFUSED: dict[str, tuple[Step, str]] = {
    "another scale on the way back": (
        lambda net, x: pair(net, x, 0.1, 0, np.int8, back=0.2),
        "its scale and zero point (0.2, 0) are not those of its QuantizeLinear (0.1, 0)",
    ),
    "a scale for each column": (by_column, "its scale is not one number above zero"),
    "four bits": (
        lambda net, x: pair(net, x, 0.1, 0, ml_dtypes.int4),
        "its numbers are of the type int4",
    ),
    "integers that are cast": (used_as_integers, "its integers are used otherwise than by a Deq"),
    "dequantised without having been quantised": (
        cast_and_back,
        "its data are not integers that a QuantizeLinear made",
    ),
    "an integer product of real numbers": (
        lambda net, x: net.op("MatMulInteger", x, eights(net), name="culprit"),
        "its data are not integers that a QuantizeLinear made",
    ),
    "an integer product with another zero point": (
        other_zero_point,
        "the zero point of its data is not that of their QuantizeLinear (5)",
    ),
    "a range without what is positive": (one_sided, "it cuts off all that is positive"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_rounding_is_named(name: str, tmp_path: Path) -> None:
    step, reason = REFUSED[name]
    check_refused(saved(tmp_path / "vit.onnx", Recipe(after=step), Calm(opset=21)), reason)


def integer_product(net: Net, x: str) -> str:
    """A product of integers whose scale is a constant, as the ONNX standard has it."""
    zero, scale = net.const(5, np.int8), 0.15
    y = net.op("QuantizeLinear", x, net.const(scale), zero)
    product = net.op("MatMulInteger", y, eights(net), zero, net.const(-2, np.int8))
    return net.op("Mul", net.op("Cast", product, to=TensorProto.FLOAT), net.const(scale / 30))


def test_a_product_of_integers_with_constant_scales(tmp_path: Path) -> None:
    assert_computes(saved(tmp_path / "vit.onnx", Recipe(after=integer_product), Calm()), 0.2)


# --- Scales that are found as the model runs


def dynamic(net: Net, x: str, inputs: int, outputs: int, zero: object = 0) -> str:
    """A linear layer as quantize_dynamic writes it."""
    y = net.op("DynamicQuantizeLinear", x, outputs=3, name=f"culprit_{len(net.nodes)}")
    values = net.const(net.random.integers(-127, 128, (inputs, outputs)), np.int8)
    zeros = net.const(zero, np.int8)
    whole = net.op("MatMulInteger", y, values, f"{y}_2", zeros)
    single = net.op("Cast", whole, to=TensorProto.FLOAT)
    scale = net.const(np.full(outputs, 1 / (127 * np.sqrt(inputs))))
    scaled = net.op("Mul", single, net.op("Mul", f"{y}_1", scale))
    return net.op("Add", scaled, net.weight(outputs))


def dynamic_conv(net: Net, x: str) -> str:
    y = net.op("DynamicQuantizeLinear", x, outputs=3)
    values = net.const(net.random.integers(0, 256, (DIM, 2, 2, 2)), np.uint8)
    zero = net.const(130, np.uint8)
    whole = net.op("ConvInteger", y, values, f"{y}_2", zero, strides=[2, 2])
    single = net.op("Cast", whole, to=TensorProto.FLOAT)
    return net.op("Mul", single, net.op("Mul", net.const(0.004), f"{y}_1"))


class Dynamic(Calm):
    """Every linear layer is quantised as the model runs."""

    def linear(self, x: str, inputs: int, outputs: int, name: str = "") -> str:
        del name
        return dynamic(self, x, inputs, outputs, self.random.integers(-5, 5, outputs))


@pytest.mark.parametrize("opset", [13, 21])
def test_scales_that_are_found_as_the_model_runs(opset: int, tmp_path: Path) -> None:
    recipe = dataclasses.replace(PLAIN, patches=dynamic_conv)
    path = saved(tmp_path / "vit.onnx", recipe, Dynamic(opset=opset))
    # Eight bits for all of a tensor are what is left out.
    inspection = assert_computes(path, 0.15)
    assert inspection.notes[0] == "Quantised in the file, and dequantised: 8 constants."
    assert inspection.notes[1].startswith("Left out: 8 roundings of results to integers of a range")


def scaled_twice(net: Net, x: str) -> str:
    y = dynamic(net, x, DIM, DIM)
    return net.op("Mul", y, next(n.output[1] for n in net.nodes if n.op_type[:7] == "Dynamic"))


def never_scaled(net: Net, x: str) -> str:
    y = net.op("DynamicQuantizeLinear", x, outputs=3, name="culprit")
    return net.op("Cast", net.op("MatMulInteger", y, eights(net), f"{y}_2"), to=TensorProto.FLOAT)


def without_zero_point(net: Net, x: str) -> str:
    y = net.op("DynamicQuantizeLinear", x, outputs=3, name="culprit")
    single = net.op("Cast", net.op("MatMulInteger", y, eights(net)), to=TensorProto.FLOAT)
    return net.op("Mul", single, f"{y}_1")


def scaled_by_another(net: Net, x: str) -> str:
    """The scale of another tensor, which belongs to no such integers."""
    other = net.op("DynamicQuantizeLinear", net.op("Relu", x), outputs=3, name="culprit_other")
    y = net.op("DynamicQuantizeLinear", x, outputs=3, name="culprit")
    product = net.op("MatMulInteger", y, eights(net), f"{y}_2")
    return net.op("Mul", net.op("Cast", product, to=TensorProto.FLOAT), f"{other}_1")


@pytest.mark.parametrize(
    "step", [scaled_twice, never_scaled, without_zero_point, scaled_by_another]
)
def test_a_scale_that_is_not_applied_once(step: Step, tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", Recipe(after=step), Calm())
    check_refused(path, "its integers are not products that are cast, and then multiplied by its")


def test_a_result_in_the_middle_of_a_product(tmp_path: Path) -> None:
    net, output = build(Recipe(after=lambda net, x: dynamic(net, x, DIM, DIM)), Calm())
    path = net.save(tmp_path / "vit.onnx", output)
    cast = next(node.output[0] for node in net.nodes if node.op_type == "Cast")
    refused = [row for row in inspect_model(path, [cast]).rows if row.reason]
    assert "its integers are not products" in refused[0].reason


@pytest.mark.parametrize(("kind", "zero"), [(np.uint8, 0), (np.int8, -128)])
def test_a_scale_below_zero_is_refused(kind: type, zero: int, tmp_path: Path) -> None:
    """The end of its range that cuts is the other one."""

    def turned(net: Net, x: str) -> str:
        numbers = (net.const(np.float32(-0.1)), net.const(zero, kind))
        rounded = net.op("QuantizeLinear", x, *numbers, name="culprit")
        return net.op("DequantizeLinear", rounded, *numbers)

    inspection = inspect_model(saved(tmp_path / "vit.onnx", Recipe(embedded=turned), Calm()))
    refused = [row for row in inspection.rows if row.reason and not row.consequence]
    assert refused and "not one number above zero" in refused[0].reason
