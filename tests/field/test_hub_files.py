"""Files as model hubs have them: every axis open, more inputs than the image, training left in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command_line import Command, assert_refused
from onnx import TensorProto, helper, numpy_helper
from onnx_builder import DIM, IMAGE, TOKENS, Calm, Net, Recipe, Step, build
from verdicts import check_refused, some_images
from vitessera.codegen.errors import PreprocessingError, UnsupportedModelError
from vitessera.codegen.importer import Inspection, Status, evaluate, inspect_model

OPEN = ("batch_size", "num_channels", "height", "width")


def tokens_last(net: Net, x: str) -> str:
    """flatten(2).transpose(1, 2), as exporters write it for a size that they do not know."""
    shape = net.op("Shape", x)
    kept = [net.op("Gather", shape, net.ints(n)) for n in (0, 1)]
    flat = net.op("Reshape", x, net.op("Concat", *kept, net.ints(-1), axis=0))
    return net.op("Transpose", flat, perm=[0, 2, 1])


def class_token(net: Net, x: str, rows: int = 1) -> str:
    """Constant tokens, repeated for a batch that is not known."""
    batch = net.op("Gather", net.op("Shape", "image"), net.ints(0))
    shape = net.op("Concat", batch, net.ints(-1), net.ints(-1), axis=0)
    unknown = net.op("Equal", shape, net.ints(-1))
    ones = net.op(
        "ConstantOfShape", net.op("Shape", shape), value=helper.make_tensor("", 7, [1], [1])
    )
    kept = net.op("Expand", net.weight(1, rows, DIM), net.op("Where", unknown, ones, shape))
    return net.op("Concat", kept, x, axis=1)


def positions(tokens: int, rows: int = 1) -> Step:
    def step(net: Net, x: str) -> str:
        return net.op(
            "Add",
            class_token(net, x, rows),
            net.const(net.random.standard_normal((1, tokens, DIM)), name="positions"),
        )

    return step


def gathered_positions(net: Net, x: str) -> str:
    """As an embedding of the numbers 0, 1, 2 ..., as CLIP has them."""
    table = net.const(net.random.standard_normal((5, DIM)))
    numbers = net.const(np.arange(5)[None], np.int64)
    return net.op("Add", class_token(net, x), net.op("Gather", table, numbers, name="looked_up"))


def half_positions(net: Net, x: str) -> str:
    """Stored in half precision, and added before the class token is put in front."""
    table = net.const(net.random.standard_normal((4, DIM)), np.float16)
    single = net.op("Cast", table, to=TensorProto.FLOAT)
    return class_token(net, net.op("Add", single, x))


def resized_positions(net: Net, x: str) -> str:
    """A table for 4 × 4 patches, fitted to however many the image has, as DINOv2 does it."""
    table = net.const(net.random.standard_normal((1, DIM, 4, 4)))
    shape = net.op("Shape", "image")
    sides = [net.op("Div", net.op("Gather", shape, net.ints(axis)), net.ints(2)) for axis in (2, 3)]
    sizes = net.op("Concat", net.ints(1, DIM), *sides, axis=0)
    small = net.op("Resize", table, "", "", sizes, mode="cubic")
    rows = net.op("Transpose", net.op("Reshape", small, net.ints(1, DIM, -1)), perm=[0, 2, 1])
    return net.op("Add", x, rows)


def branch_by_shape(net: Net, x: str) -> str:
    """squeeze(), as TorchScript writes it: only if an axis has length one."""
    length = net.op("Gather", net.op("Shape", x), net.ints(0))
    single = net.op("Equal", length, net.ints(1))
    squeezed = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    axes = numpy_helper.from_array(np.array([0]), "axes")
    then = [
        helper.make_node("Squeeze", [x, "axes"], ["inner"], name="squeeze"),
        helper.make_node("Unsqueeze", ["inner", "axes"], ["result"]),
    ]
    other = [
        helper.make_node("NonZero", [x], ["inner"]),
        helper.make_node("Cast", ["inner"], ["result"], to=1),
    ]
    return net.op(
        "If",
        single,
        then_branch=helper.make_graph(then, "then", [], [squeezed], [axes]),
        else_branch=helper.make_graph(other, "else", [], [squeezed]),
    )


def saved(path: Path, recipe: Recipe, shape: tuple[int | str, ...] = OPEN, **files: object) -> Path:
    """The model, and beside it files of that name in JSON."""
    net, output = build(recipe, Calm())
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    onnx.save(net.model(output, [image]), path)
    for name, content in files.items():
        (path.parent / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return path


def equal_to_onnx_runtime(path: Path, **how: object) -> Inspection:
    """Everything is accounted for, and the network computes what ONNX Runtime does."""
    inspection = inspect_model(path, **how)  # type: ignore[arg-type]
    refused = [row for row in inspection.rows if row.status is Status.REFUSED]
    assert not refused, refused
    assert all(row.into for row in inspection.rows)
    graph = inspection.graph
    assert graph is not None
    (name, value), images = graph.outputs[0], some_images(graph, 2, seed=3)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    for image in images:
        (wanted,) = session.run([name], {"image": image[None]})
        found = evaluate(graph, image)[value]
        np.testing.assert_allclose(found, wanted.reshape(found.shape), rtol=1e-4, atol=1e-4)
    return inspection


def size_of(inspection: Inspection) -> tuple[int, ...]:
    assert inspection.graph is not None
    return inspection.graph.image.shape


# --- Every axis open

TELLING: dict[str, tuple[Step, str]] = {
    "positions for class token and patches": (positions(5), "'positions'"),
    "two tokens in front": (positions(6, rows=2), "'positions'"),
    "positions that are looked up": (gathered_positions, "'looked_up'"),
    "positions in half precision, before the class token": (half_positions, "'cast_"),
}


@pytest.mark.parametrize("name", TELLING)
def test_the_network_tells_the_size(name: str, tmp_path: Path) -> None:
    embedded, table = TELLING[name]
    recipe = Recipe(arrange=tokens_last, embedded=embedded, after=branch_by_shape)
    inspection = equal_to_onnx_runtime(saved(tmp_path / "vit.onnx", recipe))
    assert size_of(inspection) == IMAGE[1:]
    (note,) = inspection.notes
    assert note.startswith(
        "The file leaves the size of 'image' open; it is built for 2×4×4, by the "
    )
    assert f"the position embeddings {table}" in note


RESIZED = Recipe(arrange=tokens_last, embedded=resized_positions)
CLIP_PROCESSOR = {
    "image_mean": [0.5, 0.5],
    "size": {"shortest_edge": 7},
    "crop_size": {"height": 6, "width": 8},
    "do_center_crop": True,
}
BESIDE: dict[str, dict[str, object]] = {
    "crop of an image processor": {"preprocessor_config": CLIP_PROCESSOR},
    "size of an image processor": {
        "preprocessor_config": {"image_mean": 0.5, "size": {"height": 6, "width": 8}}
    },
    "transformers": {"config": {"image_size": [6, 8], "num_channels": 2}},
    "transformers, of two towers": {"config": {"vision_config": {"image_size": [6, 8]}}},
    "timm": {"config": {"pretrained_cfg": {"input_size": [2, 6, 8]}}},
    "two that agree": {"preprocessor_config": CLIP_PROCESSOR, "config": {"image_size": [6, 8]}},
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_file_beside_the_model_tells_the_size(name: str, tmp_path: Path) -> None:
    files = BESIDE[name]
    inspection = equal_to_onnx_runtime(saved(tmp_path / "vit.onnx", RESIZED, **files))
    assert size_of(inspection) == (2, 6, 8)
    assert any(f"{file}.json" in inspection.notes[0] for file in files)


def test_the_user_tells_the_size(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", RESIZED, config={"image_size": 512})
    inspection = equal_to_onnx_runtime(path, shape=(2, 6, 4))
    assert size_of(inspection) == (2, 6, 4)
    assert inspection.notes[0].endswith("built for 2×6×4, by --shape.")


def test_positions_of_an_image_that_is_no_square(tmp_path: Path) -> None:
    """Sixteen patches may be 4 × 4; a file beside the model says that they are 2 × 8."""
    recipe = Recipe(arrange=tokens_last, embedded=positions(17))
    path = saved(tmp_path / "vit.onnx", recipe, config={"image_size": [4, 16]})
    assert size_of(equal_to_onnx_runtime(path)) == (2, 4, 16)


def test_fixed_axes_need_no_asking(tmp_path: Path) -> None:
    """What a file beside the model says of them does not matter, as ever."""
    path = saved(tmp_path / "vit.onnx", RESIZED, ("b", "c", 6, 8), config={"image_size": 512})
    assert size_of(equal_to_onnx_runtime(path)) == (2, 6, 8)
    closed = saved(tmp_path / "closed.onnx", RESIZED, (1, 2, 6, 8))
    assert equal_to_onnx_runtime(closed).notes == ()


def test_a_table_that_is_too_short_tells_nothing(tmp_path: Path) -> None:
    """Two rows for two constant tokens: what is added is broadcast, or the file is broken."""
    recipe = Recipe(arrange=tokens_last, embedded=positions(2, rows=2))
    with pytest.raises(UnsupportedModelError, match=r"the height axis is dynamic"):
        inspect_model(saved(tmp_path / "vit.onnx", recipe))


FITTED = Recipe(arrange=tokens_last, embedded=positions(5))
MISFITS: dict[str, tuple[Recipe, tuple[int, ...], dict[str, object], str]] = {
    "nothing tells": (
        RESIZED,
        (),
        {},
        "the height axis is dynamic ('height'), and neither the network nor a file beside it tells "
        "what it measures. Give the size of the images: --shape 3,224,224 (channels, height, ",
    ),
    "two files contradict each other, as those of DINOv2 do": (
        RESIZED,
        (),
        {"preprocessor_config": CLIP_PROCESSOR, "config": {"image_size": 10}},
        "by preprocessor_config.json the height axis has 6, by config.json it has 10. Say which "
        "size is right with --shape CHANNELS,HEIGHT,WIDTH, as in --shape 3,224,224.",
    ),
    "a file contradicts the positions": (
        FITTED,
        (),
        {"config": {"image_size": 8}},
        "images of 8×8, as config.json has it, do not fit the position embeddings 'positions', "
        "which are for 4 patches, as in images of 4×4. Say which size is right with --shape",
    ),
    "the user contradicts the positions": (
        FITTED,
        (2, 8, 8),
        {},
        "images of 8×8, as --shape has it, do not fit the position embeddings 'positions', which "
        "are for 4 patches, as in images of 4×4. Correct --shape, or leave it out.",
    ),
    "the user contradicts the weights": (
        FITTED,
        (3, 4, 4),
        {},
        "by --shape the channels axis has 3, by the weight 'const_0' it has 2. Correct --shape",
    ),
    "too few numbers": (
        FITTED,
        (4, 4),
        {},
        "--shape has 4,4 for the input 'image', which has 3 axes after the batch: channels, "
        "height, width. Give 3 sizes above zero, such as --shape 3,224,224.",
    ),
}


@pytest.mark.parametrize("name", MISFITS)
def test_sizes_that_are_not_clear(name: str, tmp_path: Path) -> None:
    recipe, shape, files, message = MISFITS[name]
    with pytest.raises(UnsupportedModelError) as caught:
        inspect_model(saved(tmp_path / "vit.onnx", recipe, **files), shape=shape)
    assert message in str(caught.value)


def test_the_user_contradicts_the_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", RESIZED, (1, 2, 6, 8))
    with pytest.raises(
        UnsupportedModelError, match=r"by the file the width axis has 8, by --shape"
    ):
        inspect_model(path, shape=(2, 6, 6))


def test_a_video_whose_every_axis_is_open(tmp_path: Path) -> None:
    path = saved(tmp_path / "vit.onnx", RESIZED, ("b", "t", "c", "h", "w"))
    with pytest.raises(UnsupportedModelError, match=r"size of the images: --shape 16,3,224,224 \("):
        inspect_model(path)


@pytest.mark.parametrize(
    "config",
    [{"image_size": "large"}, {"image_size": [1, 2, 3]}, {"image_size": 8, "num_channels": 0}],
)
def test_a_file_beside_the_model_that_makes_no_sense(config: object, tmp_path: Path) -> None:
    with pytest.raises(
        PreprocessingError, match=r"config\.json: .*(image_size|num_channels).*--shape"
    ):
        inspect_model(saved(tmp_path / "vit.onnx", RESIZED, config=config))


def test_commands_take_the_shape(command: Command, tmp_path: Path) -> None:
    path, account = saved(tmp_path / "vit.onnx", RESIZED), tmp_path / "account.json"
    assert_refused(command("inspect", path), "--shape 3,224,224")
    outcome = command("inspect", path, "--shape", "2,6,8", "--json", account)
    assert outcome.code == 0 and "built for 2×6×8, by --shape." in " ".join(outcome.output.split())
    (note,) = json.loads(account.read_text(encoding="utf-8"))["notes"]
    assert "2×6×8" in note
    wrong = "'2,x' is not a list of sizes above zero; give channels, height and width"
    for words in (("inspect", path), ("compile", path, "-o", tmp_path / "build"), ("boards",)):
        assert_refused(command(*words, "--shape", "2,x"), wrong)


# --- More inputs than the image


def two_towers(folder: Path) -> Path:
    """CLIP in small: an image tower, and a text tower that the image's results do not need."""
    net, image_embeds = build(Recipe(), Calm())
    words = net.op("Gather", net.weight(9, 3), "input_ids", name="words")
    text_embeds = net.op("ReduceMean", words, net.ints(1), keepdims=0, name="text_embeds")
    turned = net.op("Transpose", text_embeds, perm=[1, 0])
    logits = net.op("MatMul", image_embeds, turned, name="logits_per_image")
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ("texts", "length")),
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ("batch", *IMAGE[1:])),
    ]
    model = net.model(logits, inputs)
    for name in (text_embeds, image_embeds):
        result = helper.make_tensor_value_info(name, TensorProto.FLOAT, (None, None))
        model.graph.output.append(result)
    onnx.save(model, folder / "clip.onnx")
    return folder / "clip.onnx"


def test_inputs_count_that_the_results_depend_on(tmp_path: Path) -> None:
    inspection = inspect_model(two_towers(tmp_path), ["head"])
    assert inspection.supported
    assert inspection.notes == ("No result depends on 'input_ids'.",)


def test_two_towers_name_the_result_that_one_image_is_enough_for(tmp_path: Path) -> None:
    path = two_towers(tmp_path)
    with pytest.raises(UnsupportedModelError) as caught:
        inspect_model(path)
    assert "The results depend on 2 inputs ('input_ids', 'image')" in caught.value.culprit
    name = caught.value.remedy.removesuffix(".").split("--results ")[1]
    assert inspect_model(path, [name]).supported


def test_an_input_that_nothing_reads(tmp_path: Path) -> None:
    net, output = build(Recipe(), Calm())
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE),
        helper.make_tensor_value_info("bool_masked_pos", TensorProto.BOOL, (1, TOKENS)),
    ]
    onnx.save(net.model(output, inputs), tmp_path / "vit.onnx")
    inspection = inspect_model(tmp_path / "vit.onnx")
    assert inspection.supported and "'bool_masked_pos'" in inspection.notes[0]


def test_no_result_does_with_one_input(tmp_path: Path) -> None:
    net, output = build(Recipe(), Calm())
    output = net.op("Add", output, "shift")
    inputs = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, IMAGE),
        helper.make_tensor_value_info("shift", TensorProto.FLOAT, (1, 3)),
    ]
    onnx.save(net.model(output, inputs), tmp_path / "vit.onnx")
    with pytest.raises(UnsupportedModelError, match=r"2 inputs .*Name a tensor inside the model"):
        inspect_model(tmp_path / "vit.onnx")


# --- What is constant is folded


def truth(net: Net, value: bool) -> str:
    return net.const(value, np.bool_)


def noise(net: Net, x: str) -> str:
    """As RandomNormalLike, made smaller."""
    return net.op("Mul", net.op("RandomNormalLike", x, name="culprit"), net.const(0.1))


def times_zero(net: Net, x: str) -> str:
    return net.op("Add", x, net.op("Mul", noise(net, x), net.const(0.0)))


def times_training(net: Net, x: str) -> str:
    training = net.op("Cast", truth(net, False), to=TensorProto.FLOAT)
    return net.op("Add", net.op("Mul", training, noise(net, x)), x)


def only_in_training(net: Net, x: str) -> str:
    """Noise that a constant condition does not choose, of either kind."""
    noisy = net.op("Add", net.op("RandomUniform", shape=[1, TOKENS, DIM]), net.const(1.0))
    x = net.op("Where", truth(net, False), noisy, x)
    return net.op(
        "Where", truth(net, True), x, net.op("Bernoulli", net.const(np.ones((1, TOKENS, DIM))))
    )


def branches_within(net: Net, x: str) -> str:
    """A branch in a branch, the tensors and nodes of both called alike."""
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    inner = {
        "then_branch": helper.make_graph([helper.make_node("Sin", [x], ["y"])], "a", [], [result]),
        "else_branch": helper.make_graph([helper.make_node("Neg", [x], ["y"])], "b", [], [result]),
    }
    no, yes = truth(net, False), truth(net, True)
    nested = helper.make_node("If", [no], ["y"], **inner)
    outer = {
        "then_branch": helper.make_graph([nested], "c", [], [result]),
        "else_branch": helper.make_graph([helper.make_node("Cos", [x], ["y"])], "d", [], [result]),
    }
    return net.op("If", yes, **outer)


def sizes_drawn(net: Net, x: str) -> str:
    """Only the shape of random numbers is used."""
    return net.op("Reshape", x, net.op("Shape", noise(net, x)))


def dropout(ratio: float) -> Step:
    return lambda net, x: net.op("Dropout", x, net.const(ratio), truth(net, True), name="culprit")


FOLDED: dict[str, Step] = {
    "noise times zero": times_zero,
    "noise times the training flag": times_training,
    "noise that is not chosen": only_in_training,
    "branches within branches": branches_within,
    "a branch by a shape": branch_by_shape,
    "the shape of noise": sizes_drawn,
    "dropout in training that drops nothing": dropout(0.0),
}


@pytest.mark.parametrize("name", FOLDED)
def test_training_and_branches_that_come_to_nothing(name: str, tmp_path: Path) -> None:
    equal_to_onnx_runtime(saved(tmp_path / "vit.onnx", Recipe(embedded=FOLDED[name]), IMAGE))


def added_noise(net: Net, x: str) -> str:
    return net.op("Add", x, noise(net, x))


def dropped_constant(net: Net, x: str) -> str:
    """Some of the positions are dropped, and nobody knows which."""
    kept = net.op(
        "Dropout", net.weight(1, TOKENS, DIM), net.const(0.5), truth(net, True), name="culprit"
    )
    return net.op("Add", x, kept)


def by_noise(net: Net, x: str) -> str:
    """A branch that a random number chooses."""
    drawn = net.op("RandomUniform", shape=[1], name="drawn")
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branches = {
        f"{side}_branch": helper.make_graph(
            [helper.make_node(kind, [x], ["y"])], side, [], [result]
        )
        for side, kind in (("then", "Identity"), ("else", "Neg"))
    }
    return net.op("If", net.op("Greater", drawn, net.const([0.5])), name="culprit", **branches)


def shapeless_noise(net: Net, x: str) -> str:
    drawn = net.op("RandomNormal", shape=[-4], name="culprit")
    return net.op("Add", x, net.op("Mul", drawn, net.const(0.0)))


def unequal_branches(net: Net, x: str) -> str:
    """One branch gives a result more than the other."""
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    more = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    nodes = [helper.make_node("Neg", [x], ["y"]), helper.make_node("Neg", [x], ["z"])]
    branches = {
        "then_branch": helper.make_graph(nodes, "then", [], [result, more]),
        "else_branch": helper.make_graph(nodes[:1], "else", [], [result]),
    }
    return net.op("If", truth(net, False), name="culprit", **branches)


RANDOM: dict[str, tuple[Step, str]] = {
    "noise that is added": (added_noise, "RandomNormalLike draws random numbers that the results"),
    "dropout in training": (dropout(0.5), "it is in training mode, and drops numbers at random"),
    "dropout of a constant": (dropped_constant, "Dropout draws random numbers that the results"),
    "noise of no shape": (shapeless_noise, "draws numbers of a shape or type that does not exist"),
    "branches that do not match": (unequal_branches, "its branches give 3 results together"),
    "a branch by chance": (by_noise, "its condition is not one truth value that is the same"),
}


@pytest.mark.parametrize("name", RANDOM)
def test_what_is_not_constant_is_named(name: str, tmp_path: Path) -> None:
    step, reason = RANDOM[name]
    check_refused(saved(tmp_path / "vit.onnx", Recipe(embedded=step), IMAGE), reason)


# --- What is nearly one of these


def pooled(net: Net, x: str) -> str:
    """A tokenizer that pools: its positions are not as many as its first convolution's results."""
    weights = (net.weight(DIM, 2, 3, 3), net.weight(DIM))
    x = net.op("Conv", x, *weights, strides=[1, 1], pads=[1, 1, 1, 1])
    x = net.op("Relu", x)
    return net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def all_pixels(net: Net, x: str) -> str:
    flat = net.op("Reshape", x, net.ints(0, DIM, -1))
    return net.op("Transpose", flat, perm=[0, 2, 1])


def sixteen_positions(net: Net, x: str) -> str:
    return net.op("Add", x, net.const(net.random.standard_normal((1, 16, DIM)), name="positions"))


def test_positions_behind_a_pooling_tell_no_size_and_shape_does(tmp_path: Path) -> None:
    recipe = Recipe(patches=pooled, arrange=all_pixels, embedded=sixteen_positions)
    path = saved(tmp_path / "vit.onnx", recipe)
    with pytest.raises(UnsupportedModelError, match="neither the network nor a file beside it"):
        inspect_model(path)
    assert size_of(equal_to_onnx_runtime(path, shape=(2, 8, 8))) == (2, 8, 8)


def test_a_shape_that_depends_on_random_numbers_is_none(tmp_path: Path) -> None:
    def counted(net: Net, x: str) -> str:
        drawn = net.op("RandomUniform", shape=[DIM], dtype=1, name="drawn")
        found = net.op("NonZero", net.op("Greater", drawn, net.const(0.5)))
        return net.op("Add", x, net.op("Cast", net.op("Size", found), to=1))

    inspection = inspect_model(saved(tmp_path / "vit.onnx", Recipe(embedded=counted), IMAGE))
    refused = [row.name for row in inspection.rows if row.status is Status.REFUSED]
    assert inspection.graph is None and "drawn" in " ".join(refused)


def test_noise_that_is_infinite_in_an_example_comes_to_nothing(tmp_path: Path) -> None:
    def gumbel(net: Net, x: str) -> str:
        drawn = net.op("RandomUniform", shape=[DIM], dtype=1, low=0.1, high=0.9)
        noise = net.op("Neg", net.op("Log", net.op("Neg", net.op("Log", drawn))))
        return net.op("Add", x, net.op("Mul", noise, net.const(0.0)))

    assert inspect_model(saved(tmp_path / "vit.onnx", Recipe(embedded=gumbel), IMAGE)).supported


def test_a_sparse_weight_in_a_branch_is_refused(tmp_path: Path) -> None:
    def branch(net: Net, x: str) -> str:
        result = helper.make_empty_tensor_value_info("o")
        norm = helper.make_node("LayerNormalization", [x, "gamma", "beta"], ["o"], axis=-1)
        ones = numpy_helper.from_array(np.ones(DIM, np.float32), "gamma")
        then = helper.make_graph([norm], "then", [], [result], [ones])
        sparse = then.sparse_initializer.add(dims=[DIM])
        sparse.values.CopyFrom(numpy_helper.from_array(np.array([5.0], np.float32), "beta"))
        sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0], np.int64), "places"))
        other = helper.make_graph([helper.make_node("Identity", [x], ["o"])], "else", [], [result])
        return net.op("If", net.const(True, np.bool_), then_branch=then, else_branch=other)

    with pytest.raises(UnsupportedModelError, match="Initializer 'beta' is sparse"):
        inspect_model(saved(tmp_path / "vit.onnx", Recipe(embedded=branch), IMAGE))
