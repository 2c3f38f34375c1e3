"""Networks whose end no accelerator of ours can do: a decoder, or what people put behind a head."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from command_line import Command, assert_refused
from host_support import SMALL
from onnx import TensorProto, helper
from onnx_builder import DIM, IMAGE, TOKENS, Calm, Net, Recipe, Step, build, gelu, same
from vitessera.cli.run import check_picture
from vitessera.codegen.builddir import read_build, write_build
from vitessera.codegen.errors import UnsupportedModelError
from vitessera.codegen.importer import (
    Inspection,
    Status,
    evaluate,
    import_model,
    inspect_model,
    result_shapes,
)
from vitessera.codegen.pipeline import Said, compile_model
from vitessera.codegen.preprocessing import find_preprocessing
from vitessera.codegen.reference import Reference
from vitessera.codegen.tasks import find_tasks
from vitessera.host import Accelerator
from vitessera.host.accelerator import stack
from vitessera.host.build import read_compiled
from vitessera.host.errors import BuildDirectoryError, ImageError, VitesseraError
from vitessera.host.tail import Tail, TailRunner
from vitessera.host.tasks import Kind, Task

SIDE = 2  # patches a line


def operator(name: str, **attributes: int) -> Step:
    return lambda net, x: net.op(name, x, name="behind", **attributes)


def unit_length(net: Net, x: str) -> str:
    squares = net.op("ReduceSum", net.op("Mul", x, x), net.ints(-1), keepdims=1)
    return net.op("Div", x, net.op("Sqrt", squares))


def best_two(net: Net, x: str) -> str:
    return net.op("TopK", x, net.ints(2), axis=-1, outputs=2, name="behind")


def cut_off(net: Net, x: str) -> str:
    return net.op("Clip", x, net.const(-0.1), net.const(0.1))


def decoder(net: Net, x: str) -> str:
    """Tokens as a map, twice its size, its channels mixed. The batch size is the image's own."""
    batch = net.op("Gather", net.op("Shape", "image"), net.ints(0), axis=0)
    shape = net.op("Concat", batch, net.ints(DIM, SIDE, SIDE), axis=0)
    x = net.op("Reshape", net.op("Transpose", x, perm=[0, 2, 1]), shape)
    x = net.op("ConvTranspose", x, net.weight(DIM, 3, 2, 2), strides=[2, 2], name="behind")
    return net.op("Conv", gelu(net, x), net.weight(1, 3, 1, 1))


def elu(net: Net, x: str) -> str:
    """An activation that is not known, spelled out: its pieces go with it."""
    lower = net.op("Sub", net.op("Exp", net.op("Min", x, net.const(0.0))), net.const(1.0))
    return net.op("Add", net.op("Relu", x), net.op("Mul", lower, net.const(0.7)))


def two_more_layers(net: Net, x: str) -> str:
    return net.linear(elu(net, net.linear(x, 3, 5)), 5, 2)


BEHIND_THE_HEAD: dict[str, Step] = {
    "LogSoftmax": operator("LogSoftmax", axis=-1),
    "ArgMax": operator("ArgMax", axis=-1),
    "TopK": best_two,
    "unit length": unit_length,
    "Clip": cut_off,
    "ELU and two layers": two_more_layers,
}


def saved(path: Path, recipe: Recipe, *more: str) -> Path:
    """The model, with `more` tensors as outputs; `decoder` takes the tokens of the block."""
    net, output = build(recipe, Calm())
    model = net.model(output)
    model.graph.output.pop()
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in (output, *more))
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def headless(path: Path) -> Path:
    """A trunk with a decoder in place of a head, exported with a batch size that is open."""
    net = Calm()
    x = Recipe().arrange(net, Recipe().patches(net, "image"))
    x = net.norm(Recipe().block(net, x, Recipe()))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", *IMAGE[1:]))
    model = net.model(decoder(net, x), [image])
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info(model.graph.output[0].name))
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def an_image(seed: int) -> npt.NDArray[np.float32]:
    print("seed", seed)
    return np.random.default_rng(seed).standard_normal(IMAGE).astype(np.float32)


def whole(path: Path, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """What ONNX Runtime says, without the batch axis."""
    session = onnxruntime.InferenceSession(path)
    names = [entry.name for entry in session.get_outputs()]
    results = session.run(names, {"image": image})
    return {name: result[0] for name, result in zip(names, results, strict=True)}


def in_two(inspection: Inspection, image: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """The part before the cut in float, and the tail behind it."""
    assert inspection.graph is not None and inspection.tail is not None
    values = evaluate(inspection.graph, image[0])
    cut = {name: values[value].astype(np.float64) for name, value in inspection.graph.outputs}
    return dict(TailRunner(inspection.tail, "tail.onnx")(cut))


def assert_equal_in_float(path: Path) -> Inspection:
    """Cut in two, the model computes what it did."""
    inspection, image = inspect_model(path, split=True), an_image(7)
    expected, found = whole(path, image), in_two(inspection, image)
    assert list(found) == list(expected)
    for name, values in expected.items():
        shape = values.shape if name not in dict(inspection.graph.outputs) else (1, *values.shape)
        assert found[name].shape == shape
        np.testing.assert_allclose(found[name].reshape(values.shape), values, atol=1e-5)
    return inspection


# --- Import


@pytest.mark.parametrize("name", BEHIND_THE_HEAD)
def test_what_stands_behind_the_head(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "vit.onnx", Recipe(finish=BEHIND_THE_HEAD[name]))
    offered = inspect_model(path)
    assert offered.graph is None and offered.offer is not None
    assert "'add_" in str(offered.offer), "the head's bias"
    inspection = assert_equal_in_float(path)
    assert inspection.count(Status.LEFT) == offered.offer.left
    assert inspection.count(Status.REFUSED) == 0


def test_a_decoder_behind_the_trunk(tmp_path: Path) -> None:
    inspection = assert_equal_in_float(headless(tmp_path / "dense.onnx"))
    assert inspection.graph is not None and inspection.tail is not None
    (tensor,) = inspection.graph.outputs
    assert inspection.graph.shapes()[tensor[1]] == (TOKENS, DIM)
    # The shape that the exporter computes from the image is stored, since the image is not there.
    (read,) = onnx.load_from_string(inspection.tail.model).graph.input
    assert [dim.dim_value for dim in read.type.tensor_type.shape.dim] == [1, TOKENS, DIM]


def first_token_of_exp(net: Net, x: str) -> str:
    """x[:, 0] as torch writes it: with a number for an index, which drops the axis."""
    row = net.op("Gather", net.op("Elu", x), net.const(0, np.int64), axis=1)
    return net.op("Gemm", row, net.weight(3, 5), net.weight(5))


def test_a_number_among_the_constants_of_the_tail_stays_one(tmp_path: Path) -> None:
    assert_equal_in_float(
        saved(tmp_path / "vit.onnx", Recipe(pool=same, finish=first_token_of_exp))
    )


def test_a_long_chain_that_nobody_reads_takes_no_time(tmp_path: Path) -> None:
    def twice_and_twice_again(net: Net, x: str) -> str:
        dead = x
        for _ in range(30):
            dead = net.op("Concat", dead, dead, axis=0)
        return x

    path = saved(tmp_path / "vit.onnx", Recipe(finish=twice_and_twice_again))
    assert inspect_model(path).supported  # with a look at each path, never


def test_an_argmax_or_topk_is_no_row_of_classes(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({"problem_type": "single_label_classification"}), encoding="utf-8"
    )
    for name, kind in (("ArgMax", Kind.SCORES), ("TopK", Kind.EMBEDDING), ("Clip", Kind.CLASSES)):
        path = saved(tmp_path / "vit.onnx", Recipe(finish=BEHIND_THE_HEAD[name]))
        found = inspect_model(path, split=True)
        assert found.graph is not None and found.tail is not None
        tasks = find_tasks(path, found.graph, found.heads, by_host=result_shapes(found.tail))
        assert tasks[found.tail.results[0]].kind is kind, name


def test_class_names_of_a_decoder_do_not_stop_the_compile(tmp_path: Path) -> None:
    path = headless(tmp_path / "dense.onnx")
    names = {str(number): f"thing {number}" for number in range(150)}
    (tmp_path / "config.json").write_text(json.dumps({"id2label": names}), encoding="utf-8")
    found = inspect_model(path, split=True)
    assert found.graph is not None
    assert find_preprocessing(path, found.graph, cut=True) is None


def test_a_tail_that_onnx_runtime_does_not_take_is_not_written(tmp_path: Path) -> None:
    def unknown(net: Net, x: str) -> str:
        return net.op("Elu", net.op("NoSuchThing", x, domain="com.microsoft", name="behind"))

    net, output = build(Recipe(finish=unknown), Calm())
    path = net.save(tmp_path / "vit.onnx", output)
    with pytest.raises(UnsupportedModelError) as info:
        inspect_model(path, split=True)
    assert "ONNX Runtime cannot run it" in info.value.culprit
    assert "--results" in info.value.remedy


def test_results_of_different_shapes_do_not_fit_into_one_array() -> None:
    with pytest.raises(VitesseraError, match=r"gives 'boxes' in another shape for each image"):
        stack([{"boxes": np.zeros((2, 4))}, {"boxes": np.zeros((3, 4))}])


def test_what_a_decoder_gives_is_a_map_and_a_number_is_a_score(tmp_path: Path) -> None:
    dense, best = headless(tmp_path / "dense.onnx"), tmp_path / "best.onnx"
    saved(best, Recipe(finish=operator("ArgMax", axis=-1)))
    for path, kind in ((dense, Kind.MAP), (best, Kind.SCORES)):
        found = inspect_model(path, split=True)
        assert found.graph is not None and found.tail is not None
        tasks = find_tasks(path, found.graph, found.heads, by_host=result_shapes(found.tail))
        assert tasks[found.tail.results[0]].kind is kind
    shown = Task(Kind.MAP, grid=(1, 2)).maps(np.array([[[[3.0, 4.0]], [[5.0, 0.0]]]]))
    assert shown.tolist() == [[[1, 0]]], "of two channels, the greater"


@pytest.mark.parametrize("name", ["Clip", "LogSoftmax", "ArgMax"])
def test_a_message_on_what_comes_last_offers_the_cut_alone(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "vit.onnx", Recipe(finish=BEHIND_THE_HEAD[name]))
    with pytest.raises(UnsupportedModelError) as info:
        import_model(path)
    assert info.value.remedy.startswith("Up to 'add_")


def test_a_softmax_between_blocks_is_not_said_to_be_behind_the_head(tmp_path: Path) -> None:
    def between(net: Net, x: str) -> str:
        x = net.op("Softmax", x, axis=-1, name="behind")
        scores = net.op("MatMul", x, net.op("Transpose", x, perm=[0, 2, 1]))
        return net.op("MatMul", net.op("Softmax", scores, axis=-1), x)

    with pytest.raises(UnsupportedModelError) as info:
        import_model(saved(tmp_path / "vit.onnx", Recipe(after=between)))
    assert "Only attention's own softmax is computed" in info.value.remedy
    assert "with 1 attention layer: --split" in info.value.remedy


def test_one_output_needs_a_tail_and_one_does_not(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", Recipe(finish=operator("Softplus")), "head")
    inspection = assert_equal_in_float(path)
    assert inspection.tail is not None and inspection.tail.results == ("behind", "head")


def test_a_network_that_is_mapped_whole_is_not_cut(tmp_path: Path) -> None:
    inspection = inspect_model(saved(tmp_path / "vit.onnx", Recipe()), split=True)
    assert inspection.graph is not None and inspection.tail is None and inspection.offer is None


def reads_the_image(net: Net, x: str) -> str:
    mean = net.op("ReduceMean", "image", net.ints(1, 2, 3), keepdims=0, name="brightness")
    return net.op("Mul", x, mean, name="behind")


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(finish=reads_the_image),
        Recipe(embedded=operator("Softplus")),
        Recipe(block=lambda _net, x, _recipe: x, finish=operator("Softplus")),
    ],
    ids=["the tail reads the image", "refused before attention", "no attention at all"],
)
def test_where_there_is_nothing_to_gain(tmp_path: Path, recipe: Recipe) -> None:
    path = saved(tmp_path / "vit.onnx", recipe)
    for split in (False, True):
        inspection = inspect_model(path, split=split)
        assert inspection.graph is None and inspection.offer is None and inspection.tail is None


# --- The commands


def test_compile_offers_the_cut_and_inspect_shows_it(command: Command, tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", Recipe(finish=operator("LogSoftmax", axis=-1)))
    outcome = command("compile", path, "-o", tmp_path / "build")
    assert_refused(
        outcome,
        "Node 'behind' (LogSoftmax) cannot be mapped",
        "the network can be mapped, with 1 attention layer: --split takes that, and leaves 1 node "
        "behind it to the host",
    )
    assert "Write this part" not in outcome.errors
    refused, cut = command("inspect", path), command("inspect", path, "--split")
    assert refused.code == 2 and "--split takes that" in " ".join(refused.output.split())
    assert cut.code == 0 and "1 left to the host" in cut.output


@pytest.fixture(scope="module")
def split_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trunk on the small accelerator, its decoder left to the host."""
    folder = tmp_path_factory.mktemp("split")
    build = compile_model(headless(folder / "dense.onnx"), SMALL, said=Said(split=True))
    return write_build(build, folder / "build")


def test_the_build_holds_the_tail_and_so_does_its_package(
    command: Command, split_build: Path, tmp_path: Path
) -> None:
    manifest = json.loads((split_build / "manifest.json").read_text(encoding="utf-8"))
    assert "tail.onnx" in manifest["files"] and manifest["results"]
    archive = tmp_path / "dense.tar.gz"
    assert command("package", split_build, "-o", archive).code == 0
    with tarfile.open(archive) as packed:
        names = [Path(name).name for name in packed.getnames()]
    assert "tail.onnx" in names


def test_a_map_that_needs_onnx_runtime_is_not_there_without(
    split_build: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("PIL", reason="pip install pillow")
    check_picture(read_compiled(split_build))
    monkeypatch.setattr("vitessera.cli.run.can_run", lambda: False)
    with pytest.raises(ImageError, match="gives embedding, no map") as info:
        check_picture(read_compiled(split_build))
    assert "install onnxruntime" in info.value.remedy


def test_a_tail_that_onnx_runtime_does_not_take() -> None:
    with pytest.raises(BuildDirectoryError) as info:
        TailRunner(Tail(b"no model", ("logits",)), "build/tail.onnx")
    assert info.value.culprit.startswith("build/tail.onnx: ONNX Runtime cannot run it")
    assert "Upgrade onnxruntime" in info.value.remedy


# --- On the simulated board


@pytest.mark.pynq
@pytest.mark.accelerator
@pytest.mark.usefixtures("needs_pynq")
class TestSimulated:
    def test_the_host_runs_the_tail(self, split_build: Path) -> None:
        image = an_image(8)
        with Accelerator(split_build, simulate=True) as accelerator:
            found = accelerator.run(image)
            profile = accelerator.profile()
        model = read_compiled(split_build)
        assert model.tail is not None
        program = read_build(split_build, check_rtl=False).program
        left = Reference(program).run_buffer(model.pack(image[0]).tobytes())
        expected = TailRunner(model.tail, "tail.onnx")(model.unpack(np.frombuffer(left, np.uint8)))
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert np.array_equal(found[name][0], values), name
        assert profile.tail_seconds is not None and "then on the host" in str(profile)

    def test_without_onnx_runtime_results_are_those_at_the_cut(
        self, split_build: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vitessera.host.accelerator.can_run", lambda: False)
        with (
            pytest.warns(RuntimeWarning, match="onnxruntime is not installed"),
            Accelerator(split_build, simulate=True) as accelerator,
        ):
            (values,) = accelerator.run(an_image(9)).values()
        assert values.shape == (1, TOKENS, DIM)
