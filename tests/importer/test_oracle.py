"""The oracle answers, and outlives whatever a model does to ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_builder import IMAGE, Calm, Net, Recipe, build
from oracle import Oracle

IMAGES = np.zeros((2, *IMAGE[1:]), np.float32)


@pytest.fixture
def oracle() -> Iterator[Oracle]:
    made = Oracle(patience_seconds=20.0)
    yield made
    made.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    net, output = build(Recipe(), Calm())
    return net.save(tmp_path / "model.onnx", output)


def test_an_answer_for_each_image(oracle: Oracle, path: Path) -> None:
    answer = oracle(path, IMAGES)
    assert answer is not None
    assert [value.shape for value in answer.values()] == [(2, 1, 3)]


def test_no_answer_to_what_nobody_can_run(oracle: Oracle, path: Path) -> None:
    path.write_bytes(b"no model")
    assert oracle(path, IMAGES) is None


def test_types_without_kernels_are_asked_of_the_reference(oracle: Oracle, tmp_path: Path) -> None:
    net = Net()
    output = net.op("Gelu", "image")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT16, IMAGE)
    model = net.model(output, [image])
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, tmp_path / "half.onnx")
    answer = oracle(tmp_path / "half.onnx", IMAGES + 1)
    assert answer is not None
    assert np.allclose(answer[output], 0.8413, atol=1e-3)


def test_a_new_process_for_the_model_after_a_crash(oracle: Oracle, path: Path) -> None:
    assert oracle(path, IMAGES) is not None
    process = oracle._process
    assert process is not None
    process.kill()
    process.wait()
    assert oracle(path, IMAGES) is None
    assert oracle(path, IMAGES) is not None


def test_no_answer_in_time(path: Path) -> None:
    hurried = Oracle(patience_seconds=0.0)
    assert hurried(path, IMAGES) is None
    hurried.close()
