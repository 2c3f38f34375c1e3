"""Where the compiler looks for what training did to its images, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from vitessera.codegen.errors import PreprocessingError
from vitessera.codegen.graph import Graph, Image, PatchEmbed
from vitessera.codegen.preprocessing import Given, find_preprocessing, read_classes
from vitessera.host.preprocessing import RESCALE, Preprocessing

HALF = (0.5, 0.5, 0.5)
VIT: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}
TIMM: dict[str, Any] = {
    "input_size": [3, 32, 32],
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bicubic",
    "crop_pct": 0.9,
    "crop_mode": "center",
}

Find = Callable[..., Preprocessing | None]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An ONNX file; only its metadata are read."""
    folder = tmp_path / "model"
    folder.mkdir()
    return write_model(folder / "vit.onnx")


def write_model(path: Path, **metadata: str) -> Path:
    proto = onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], []))
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, path)
    return path


def graph(channels: int = 3, classes: int = 2) -> Graph:
    """Images of 32x32, and an output with `classes` values."""
    weight = np.zeros((classes, channels, 32, 32), np.float32)
    node = PatchEmbed("x", ("image",), (), weight, np.zeros(classes, np.float32))
    return Graph(Image("image", (channels, 32, 32)), (node,), (("logits", "x"),))


def beside(model: Path, **files: object) -> Path:
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (model.parent / f"{name}.json").write_text(text)
    return model


def find(model: Path, given: Given | None = None, channels: int = 3) -> Preprocessing:
    found = find_preprocessing(model, graph(channels), given)
    assert found is not None
    return found


# --- One source


def test_nothing_is_known(model: Path) -> None:
    assert find_preprocessing(model, graph()) is None


def test_command_line(model: Path) -> None:
    found = find(model, Given(HALF, (0.1, 0.2, 0.3), ("cat", "dog"), "names.txt"))
    assert (found.mean, found.std, found.classes) == (HALF, (0.1, 0.2, 0.3), ("cat", "dog"))
    assert (found.rescale, found.resize, found.crop) == (RESCALE, None, None)
    assert (found.source, found.classes_source) == ("--mean and --std", "names.txt")


def test_transformers(model: Path) -> None:
    labels = {"id2label": {"1": "dog", "0": "cat"}, "model_type": "vit"}
    found = find(beside(model, preprocessor_config=VIT, config=labels))
    assert (found.mean, found.std) == (HALF, (0.25, 0.25, 0.25))
    assert (found.rescale, found.resize, found.crop) == (1 / 255, (32, 32), None)
    assert (found.resample, found.classes) == ("bilinear", ("cat", "dog"))
    assert found.source == "preprocessor_config.json"
    assert found.classes_source == "config.json"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 32}, {"resize": (32, 32)}),
        ({"size": [32, 32]}, {"resize": (32, 32)}),
        (
            {"size": 36, "do_center_crop": True, "crop_size": 32},
            {"resize": (36, 36), "crop": (32, 32)},
        ),
        (
            {"size": {"shortest_edge": 36}, "do_center_crop": True, "crop_size": 32},
            {"resize": 36, "crop": (32, 32)},
        ),
        (
            {"size": 36, "do_center_crop": True, "crop_size": 32}
            | {"image_processor_type": "CLIPImageProcessor"},
            {"resize": 36, "crop": (32, 32)},
        ),
        ({"do_center_crop": None, "crop_size": None}, {"crop": None}),
        ({"do_center_crop": False, "crop_size": 32}, {"crop": None}),
        ({"do_resize": False}, {"resize": None}),
        ({"do_resize": None, "do_normalize": None}, {"resize": (32, 32), "mean": HALF}),
        ({"do_rescale": False}, {"rescale": 1.0}),
        ({"rescale_factor": None}, {"rescale": RESCALE}),
        ({"do_normalize": False}, {"mean": (0.0,) * 3, "std": (1.0,) * 3}),
        ({"image_mean": 0.5}, {"mean": HALF}),
        ({"resample": 3}, {"resample": "bicubic"}),
        ({"resample": 1}, {"resample": "lanczos"}),
        ({"resample": 0}, {"resample": "nearest"}),
        ({"resample": None}, {"resample": "bilinear"}),
        ({"do_convert_rgb": True, "do_pad": False}, {"mean": HALF}),
    ],
)
def test_forms_that_transformers_writes(
    model: Path, change: dict[str, object], expected: dict[str, object]
) -> None:
    found = find(beside(model, preprocessor_config=VIT | change)).to_dict()
    assert {name: found[name] for name in expected} == expected


def test_timm(model: Path) -> None:
    config = {"architecture": "vit_tiny", "pretrained_cfg": TIMM, "label_names": ["cat", "dog"]}
    found = find(beside(model, config=config))
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (found.resize, found.crop, found.resample) == (35, (32, 32), "bicubic")
    assert (found.classes, found.source) == (("cat", "dog"), "config.json")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"crop_pct": None}, {"resize": 36}),
        ({"crop_pct": 1.0}, {"resize": 32}),
        ({"crop_mode": "squash", "crop_pct": 0.8}, {"resize": (40, 40)}),
        ({"interpolation": "bilinear"}, {"resample": "bilinear"}),
        ({"interpolation": None}, {"resample": "bicubic"}),
        ({"input_size": None}, {"crop": (32, 32)}),
        (
            {"input_size": [3, 24, 24], "test_input_size": [3, 32, 32], "test_crop_pct": 1.0},
            {"crop": (32, 32), "resize": 32},
        ),
        (
            {"label_names": ["n01", "n02"], "label_descriptions": {"n01": "cat"}},
            {"classes": ("cat", "n02")},
        ),
    ],
)
def test_forms_that_timm_writes(
    model: Path, change: dict[str, object], expected: dict[str, object]
) -> None:
    found = find(beside(model, config={"pretrained_cfg": TIMM | change})).to_dict()
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"mean": "[0.5, 0.5, 0.5]", "std": "0.1,0.2,0.3"}, {"mean": HALF, "std": (0.1, 0.2, 0.3)}),
        ({"mean": "0.5", "std": "0.5"}, {"mean": HALF, "std": HALF}),
        (
            {"standardization_mean": "[0.5, 0.5, 0.5]", "standardization_std": "[1, 1, 1]"},
            {"mean": HALF, "std": (1.0, 1.0, 1.0)},
        ),
        ({"names": "{0: 'cat', 1: 'dog'}", "stride": "16"}, {"classes": ("cat", "dog")}),
        ({"class_names": '{"0": "cat", "1": "dog"}'}, {"classes": ("cat", "dog")}),
        ({"classes": '["cat", "dog"]', "names": "['a', 'b']"}, {"classes": ("cat", "dog")}),
        (
            {"Image.NominalPixelRange": "NominalRange_0_255"},
            {"rescale": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3},
        ),
        ({"image.nominalpixelrange": "NORMALIZED_1_1"}, {"mean": HALF, "std": HALF}),
        (
            {"preprocessing": json.dumps({"mean": 0.5, "std": 0.5, "resize": 32, "rescale": 0.1})},
            {"mean": HALF, "resize": 32, "crop": None, "rescale": 0.1},
        ),
        (
            {
                "preprocessing": json.dumps(
                    {"resize": [36, 40], "crop": [32, 32], "resample": "nearest"}
                    | {"classes": {"0": "cat", "1": "dog"}}
                )
            },
            {"resize": (36, 40), "crop": (32, 32), "resample": "nearest", "mean": ()},
        ),
        (
            {"preprocessing": json.dumps(VIT)},
            {"mean": HALF, "std": (0.25, 0.25, 0.25), "resize": (32, 32)},
        ),
    ],
)
def test_metadata(model: Path, metadata: dict[str, str], expected: dict[str, object]) -> None:
    found = find(write_model(model, **metadata))
    assert {name: found.to_dict()[name] for name in expected} == expected
    assert "metadata of vit.onnx" in (found.source, found.classes_source)


@pytest.mark.parametrize(
    "files",
    [
        {"preprocessor_config": {"feature_size": 80}, "config": {"tile": 8, "lanes": 8}},
        {"config": {"id2label": None, "pretrained_cfg": None}},
    ],
)
def test_files_about_something_else_say_nothing(model: Path, files: dict[str, object]) -> None:
    assert find_preprocessing(beside(model, **files), graph()) is None


def test_a_folder_called_onnx_has_the_files_above(model: Path) -> None:
    beside(model, preprocessor_config=VIT)
    (model.parent / "onnx").mkdir()
    (model.parent / "other").mkdir()
    assert find(write_model(model.parent / "onnx" / "vit.onnx")).mean == HALF
    assert find_preprocessing(write_model(model.parent / "other" / "vit.onnx"), graph()) is None


# --- Several sources


def test_the_command_line_overrides_single_fields(model: Path) -> None:
    beside(model, preprocessor_config=VIT, config={"id2label": {"0": "cat", "1": "dog"}})
    found = find(model, Given(mean=(0.1, 0.1, 0.1)))
    assert (found.mean, found.std, found.resize) == ((0.1,) * 3, (0.25,) * 3, (32, 32))
    assert found.source == "--mean and preprocessor_config.json"
    assert found.classes == ("cat", "dog")


def test_metadata_come_before_files(model: Path) -> None:
    beside(model, preprocessor_config=VIT)
    found = find(write_model(model, mean="[0, 0, 0]", preprocessing='{"crop": [32, 32]}'))
    assert (found.mean, found.std) == ((0.0,) * 3, (0.25,) * 3)
    assert (found.crop, found.resize) == ((32, 32), None)  # both or neither come from one source
    assert found.source == "metadata of vit.onnx and preprocessor_config.json"


def test_transformers_come_before_timm(model: Path) -> None:
    beside(model, preprocessor_config=VIT, config={"pretrained_cfg": TIMM})
    found = find(model)
    assert (found.mean, found.resize, found.crop) == (HALF, (32, 32), None)


def test_the_command_line_overrides_what_does_not_fit(model: Path) -> None:
    beside(model, preprocessor_config=VIT, config={"id2label": {"0": "cat"}})
    found = find(model, Given((0.5,), (0.5,), ("a", "b")), channels=1)
    assert (found.mean, found.classes) == ((0.5,), ("a", "b"))


# --- Refused


@pytest.mark.parametrize(
    ("given", "channels", "message"),
    [
        (Given((0.5,), HALF), 3, "--mean: mean has 1 number, the model's image has 3 channels."),
        (Given(HALF, HALF), 1, "--mean: mean has 3 numbers, the model's image has 1 channel."),
        (Given((0.5,), (0.5, 0.5)), 1, "--std: std has 2 numbers"),
        (Given(mean=HALF), 3, "--mean: mean is known, but not std. Give --mean and --std, 3 num"),
        (Given(std=HALF), 3, "--std: std is known, but not mean. Give --mean and --std"),
        (Given((0.5,), (0.0,)), 1, "--std: std holds a number that is not above zero (0)."),
        (Given((0.5,), (float("nan"),)), 1, "--std: std holds NaN or infinity (nan)."),
        (
            Given(classes=("cat",), classes_source="names.txt"),
            3,
            "names.txt: 1 class names, but the model's output 'logits' has 2 values. "
            "Give --classes FILE with 2 names",
        ),
    ],
)
def test_command_lines_that_do_not_fit(
    model: Path, given: Given, channels: int, message: str
) -> None:
    assert_refused(model, message, given, channels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[]", "holds no JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ({"size": 16}, "images become 16x16, the model takes 32x32. Give --resize 32x32; or "),
        ({"size": {"longest_edge": 32}}, "size has the keys longest_edge; hosts resize to height"),
        ({"size": "32"}, "size is '32', not a list"),
        ({"size": [32]}, "size is [32], not height and width"),
        ({"size": 0}, "size is 0, not a whole number above zero"),
        ({"size": {"shortest_edge": 33}}, "the shorter edge becomes 33, the model takes 32x32"),
        ({"do_center_crop": True, "crop_size": 16}, "the crop is 16x16, the model takes 32x32"),
        ({"do_pad": True}, "do_pad is a step that hosts do not do. Repair or remove it"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order is a step that hosts do not do"),
        ({"crop_pct": 0.9}, "crop_pct is a step that hosts do not do"),
        ({"do_resize": "yes"}, "do_resize is 'yes', not true or false"),
        ({"resample": 4}, "the resampling filter 4 is not one of nearest (0)"),
        ({"resample": "cubic"}, "the resampling filter 'cubic' is not one of nearest (0)"),
        ({"resample": True}, "the resampling filter True is not one of nearest (0)"),
        ({"rescale_factor": -1}, "the factor on pixel values is -1.0, not a number above zero"),
        ({"image_mean": [0.5]}, "mean has 1 number, the model's image has 3 channels"),
        ({"image_mean": None}, "std is known, but not mean"),
        ({"image_mean": ["red"]}, "image_mean holds 'red', not a number"),
        ({"image_mean": [10**400] * 3}, "int too large"),
        ({"image_std": [0, 1, 1]}, "std holds a number that is not above zero (0,1,1)"),
        ({"image_std": [float("nan")] * 3}, "std holds NaN or infinity"),
        ({"image_processor_type": 5, "size": 32}, "image_processor_type holds 5, not text"),
    ],
)
def test_preprocessor_configs_that_do_not_fit(model: Path, content: object, message: str) -> None:
    values = VIT | content if isinstance(content, dict) else content
    error = assert_refused(beside(model, preprocessor_config=values), message)
    assert "preprocessor_config.json: " in error.culprit


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ({"id2label": ["cat"]}, "1 class names, but the model's output 'logits' has 2 values"),
        ({"id2label": {"0": "cat", "2": "dog"}}, "id2label does not number its 2 classes from 0"),
        ({"id2label": {"zero": "cat"}}, "id2label has 'zero' in place of a class's number"),
        ({"id2label": "cat"}, "id2label is 'cat', not a list"),
        ({"id2label": {"0": 0, "1": 1}}, "id2label holds 0, not text"),
        ({"id2label": ["", "dog"]}, "class 0 has an empty name"),
        ({"pretrained_cfg": TIMM | {"crop_mode": "border"}}, "crop_mode 'border' for images of"),
        ({"pretrained_cfg": TIMM | {"crop_pct": 2}}, "crop_pct is 2, not above 0 and at most 1"),
        ({"pretrained_cfg": TIMM | {"interpolation": "random"}}, "filter 'random' is not one of"),
        ({"pretrained_cfg": TIMM | {"input_size": [3, 16, 16]}}, "the crop is 16x16, the model"),
        ({"pretrained_cfg": TIMM | {"input_size": 32}}, "input_size is 32, not a list"),
        ({"pretrained_cfg": TIMM | {"mean": [0.5]}}, "mean has 1 number"),
        ({"pretrained_cfg": {"label_names": ["a"]}}, "1 class names, but the model's output"),
    ],
)
def test_configs_that_do_not_fit(model: Path, content: object, message: str) -> None:
    error = assert_refused(beside(model, config=content), message)
    assert "config.json: " in error.culprit


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"mean": "bright"}, "'mean' is neither JSON nor a list of numbers ('bright')"),
        ({"mean": "'bright'"}, "mean is 'bright', not a list"),
        ({"names": "{0: 'cat'}"}, "1 class names, but the model's output 'logits' has 2 values"),
        ({"Image.BitmapPixelFormat": "Bgr8"}, "Image.BitmapPixelFormat is bgr8, but hosts give"),
        ({"Image.NominalPixelRange": "NominalRange_16_235"}, "is nominalrange_16_235, which hosts"),
        ({"preprocessing": "{"}, "not valid JSON"),
        ({"preprocessing": '{"colour": 1}'}, "the key 'colour' is not known; known are"),
        ({"preprocessing": '{"resize": 1.5}'}, "resize is 1.5, not a list"),
    ],
)
def test_metadata_that_do_not_fit(model: Path, metadata: dict[str, str], message: str) -> None:
    error = assert_refused(write_model(model, **metadata), message)
    assert error.culprit.startswith("metadata of vit.onnx: ")


def test_a_file_that_is_not_text_is_refused(model: Path) -> None:
    (model.parent / "config.json").write_bytes(b"\xff\xfe{}")
    assert_refused(model, "config.json: not text in UTF-8 ('utf-8' codec can't decode byte")


def assert_refused(
    model: Path, message: str, given: Given | None = None, channels: int = 3
) -> PreprocessingError:
    with pytest.raises(PreprocessingError) as refused:
        find_preprocessing(model, graph(channels), given)
    assert message in str(refused.value)
    assert refused.value.remedy
    return refused.value


# --- Files with class names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("names.txt", "cat\nsea lion\n"),
        ("names.txt", "\ufeff cat \r\n sea lion \r\n\r\n"),
        ("names.txt", '["cat", "sea lion"]'),
        ("names.json", '["cat", "sea lion"]'),
        ("names.json", '{"1": "sea lion", "0": "cat"}'),
    ],
)
def test_class_names_are_read(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert read_classes(tmp_path / name) == ("cat", "sea lion")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("names.txt", None, "names.txt: cannot be read (No such file"),
        ("names.txt", b"", "names.txt: holds no class name."),
        ("names.txt", b"\xff", "names.txt: not text in UTF-8 ('utf-8' codec can't decode"),
        ("names.txt", b"[", "names.txt: not valid JSON"),
        ("names.json", b"", "names.json: not valid JSON"),
        ("names.json", b"5", "names.json: the file is 5, not a list."),
        ("names.json", b'{"1": "cat"}', "does not number its 1 classes from 0."),
        ("names.json", b"[1]", "the file holds 1, not text."),
    ],
)
def test_class_names_that_cannot_be_read(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PreprocessingError) as refused:
        read_classes(tmp_path / name)
    assert message in str(refused.value)


# --- Videos

FRAMES_FIRST, CHANNELS_FIRST = (4, 3, 32, 32), (3, 4, 32, 32)


def of_videos(video: tuple[int, ...]) -> Graph:
    weight = np.zeros((2, *video), np.float32)
    node = PatchEmbed("x", ("video",), (), weight, np.zeros(2, np.float32))
    return Graph(Image("video", video), (node,), (("logits", "x"),))


@pytest.mark.parametrize("video", [FRAMES_FIRST, CHANNELS_FIRST])
def test_of_videos_only_the_classes_are_taken(model: Path, video: tuple[int, ...]) -> None:
    processor = {"image_mean": [0.5], "do_pad": True, "size": {"shortest_edge": 32}}
    write_model(model, mean="0.1,0.2,0.3", std="1,1,1")
    beside(model, preprocessor_config=processor, config={"id2label": {"0": "run", "1": "jump"}})
    found = find_preprocessing(model, of_videos(video))
    assert found is not None
    assert found.videos
    assert found.classes == ("run", "jump")
    assert (found.mean, found.std, found.resize) == ((), (), None)


def test_of_videos_without_classes_nothing_is_known(model: Path) -> None:
    write_model(model, mean="0.1,0.2,0.3", std="1,1,1")
    assert find_preprocessing(model, of_videos(FRAMES_FIRST)) is None


@pytest.mark.parametrize("given", [Given(mean=(0.5,)), Given(std=(0.5,))])
def test_videos_are_not_normalised(model: Path, given: Given) -> None:
    name = "mean" if given.mean else "std"
    words = rf"--{name}: the model takes videos \[4, 3, .* Leave out --{name}, and"
    with pytest.raises(PreprocessingError, match=words):
        find_preprocessing(model, of_videos(FRAMES_FIRST), given)


# --- The same as transformers


@pytest.mark.parametrize("shape", [(50, 37), (32, 32), (20, 61)])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("vit", {"size": {"height": 32, "width": 32}}),
        (
            "deit",
            {"size": {"height": 36, "width": 36}, "crop_size": {"height": 32, "width": 32}},
        ),
        (
            "clip",
            {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
        ),
    ],
)
def test_files_become_what_transformers_makes_of_them(
    model: Path, kind: str, options: dict[str, object], shape: tuple[int, int]
) -> None:
    processor = image_processor(kind)(**options)
    (model.parent / "preprocessor_config.json").write_text(processor.to_json_string())
    from PIL import Image as Pillow

    pixels = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    path = model.parent / "image.png"
    Pillow.fromarray(pixels).save(path)
    expected = processor(Pillow.open(path), return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(find(model).load(path), expected, atol=1e-5, rtol=0)


def image_processor(kind: str) -> Callable[..., Any]:
    """The image processor that works with Pillow; skips when there is none."""
    pytest.importorskip("transformers", reason="compared where transformers is installed")
    name = {"vit": "ViT", "deit": "DeiT", "clip": "CLIP"}[kind] + "ImageProcessor"
    package = f"transformers.models.{kind}"
    try:  # as version 5 calls it, then as older ones do
        if importlib.util.find_spec(f"{package}.image_processing_pil_{kind}"):
            module = importlib.import_module(f"{package}.image_processing_pil_{kind}")
            return getattr(module, f"{name}Pil")
        return getattr(importlib.import_module(f"{package}.image_processing_{kind}"), name)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision of another torch
        pytest.skip(f"transformers' {name} cannot be imported here: {error}")
