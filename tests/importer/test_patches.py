"""What the accelerator is given as patches, against the convolution of the model itself.

Pixels, weights and biases are whole numbers, so that the comparison is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper
from onnx_builder import DIM, Net
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import PatchEmbed
from vitessera.codegen.hostlayout import host_layout
from vitessera.codegen.importer import evaluate, import_model
from vitessera.codegen.numerics import INT8_MAX
from vitessera.codegen.preprocess import patches
from vitessera.codegen.program import pack_input
from vitessera.codegen.quantize import quantize
from vitessera.codegen.schedule import schedule
from vitessera.host.images import quantize_pixels

Arrange = Callable[[Net, str], str]


def as_it_is(_: Net, image: str) -> str:
    return image


def turned(*perm: int) -> Arrange:
    return lambda net, image: net.op("Transpose", image, perm=list(perm))


def reshaped(*shape: int) -> Arrange:
    return lambda net, image: net.op("Reshape", image, net.ints(*shape))


def frames_in_channels(net: Net, image: str) -> str:
    """[1, 4 * 3, 8, 12] as [1, 3, 4, 8, 12]."""
    return turned(0, 2, 1, 3, 4)(net, reshaped(1, 4, 3, 8, 12)(net, image))


# Shape of the image, what is done to it before the convolution, and the kernel.
CASES: dict[str, tuple[tuple[int, ...], Arrange, tuple[int, ...]]] = {
    "image": ((3, 8, 8), as_it_is, (4, 4)),
    "one channel": ((1, 8, 8), as_it_is, (2, 2)),
    "nothing square": ((2, 6, 20), as_it_is, (3, 5)),
    "one patch": ((3, 4, 6), as_it_is, (4, 6)),
    "image with channels last": ((8, 12, 3), turned(0, 3, 1, 2), (4, 4)),
    "video": ((4, 3, 8, 12), turned(0, 2, 1, 3, 4), (2, 4, 4)),
    "video with channels first": ((3, 4, 8, 12), as_it_is, (2, 4, 4)),
    "video of one tubelet's frames": ((2, 3, 8, 12), turned(0, 2, 1, 3, 4), (2, 4, 4)),
    "tubelets of one frame": ((4, 3, 8, 12), turned(0, 2, 1, 3, 4), (1, 4, 3)),
    "frame by frame": ((4, 3, 8, 12), reshaped(4, 3, 8, 12), (4, 4)),
    "frames in channels": ((4 * 3, 8, 12), frames_in_channels, (2, 4, 4)),
}


def write(path: Path, name: str, after: Arrange = as_it_is) -> tuple[int, ...]:
    """A model that is a convolution, its result as tokens; gives the shape of its image.

    `after` is done to what the convolution gives.
    """
    shape, arrange, kernel = CASES[name]
    net = Net()
    x = arrange(net, "image")
    channels = 1 if name == "one channel" else 2 if name == "nothing square" else 3
    weight = net.random.integers(-9, 10, (DIM, channels, *kernel))
    bias = net.random.integers(-9, 10, DIM)
    strides = list(kernel)
    x = net.op("Conv", x, net.const(weight), net.const(bias), name="patch", strides=strides)
    x = after(net, x)
    x = net.op("Reshape", x, net.ints(4 if name == "frame by frame" else 1, DIM, -1))
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1]), net.ints(1, -1, DIM))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, *shape))
    path.write_bytes(net.model(x, [image]).SerializeToString())
    return shape


def whole_numbers(shape: tuple[int, ...]) -> np.ndarray:
    """Three images of int8, whose largest value gives them a scale of one."""
    pixels = np.random.default_rng(4).integers(-INT8_MAX, INT8_MAX + 1, (3, *shape))
    pixels.reshape(3, -1)[:, 0] = INT8_MAX
    return pixels.astype(np.float32)


def convolved(path: Path, image: np.ndarray) -> np.ndarray:
    """[tokens, channels] of the model's own convolution."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (tokens,) = session.run(None, {"image": image[None]})
    return np.asarray(tokens)[0]


def scaled_by_channel(net: Net, x: str) -> str:
    """[batch, channels, sides ...] times one whole number a channel, as LayerScale does."""
    (strides,) = net.nodes[-1].attribute
    factors = net.random.integers(1, 5, DIM).reshape(DIM, *(1 for _ in strides.ints))
    return net.op("Mul", x, net.const(factors))


@pytest.mark.parametrize("name", CASES)
def test_a_factor_a_channel_goes_into_the_weights_of_patches_and_tubelets(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    images = whole_numbers(write(path, name, scaled_by_channel))
    graph = import_model(path)
    (embed,) = (node for node in graph if isinstance(node, PatchEmbed))
    for image in images:
        assert np.array_equal(evaluate(graph, image)[embed.name], convolved(path, image))


@pytest.mark.parametrize("name", CASES)
def test_patches_are_those_of_the_model_s_own_convolution(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    images = whole_numbers(write(path, name))
    graph = import_model(path)
    (embed,) = (node for node in graph if isinstance(node, PatchEmbed))
    source = quantize(graph, images).source
    assert np.all(source.value.scale == 1)
    weight = embed.weight.reshape(DIM, -1)
    for image in images:
        rows = patches(source, image)
        assert np.array_equal(rows @ weight.T + embed.bias, convolved(path, image))
        assert np.array_equal(evaluate(graph, image)[embed.name], convolved(path, image))


@pytest.mark.parametrize("name", CASES)
def test_hosts_pack_the_same_patches(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    images = whole_numbers(write(path, name))
    network = quantize(import_model(path), images)
    program = schedule(network, HardwareConfig())
    tables = host_layout(program)
    for image in images:
        integers = quantize_pixels(image, tables["input_scale"])
        buffer = np.append(integers.ravel(), np.int8(0))[tables["input_index"]]
        assert buffer.tobytes() == pack_input(program, patches(network.source, image))
