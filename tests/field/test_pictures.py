"""A model comes without a word on its pictures: how people say it, and for which model."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from vitessera.cli.compile import next_steps
from vitessera.cli.main import main, parser
from vitessera.cli.pictures import given
from vitessera.codegen.builddir import read_build
from vitessera.codegen.config import HardwareConfig
from vitessera.codegen.graph import Graph
from vitessera.codegen.importer import import_model
from vitessera.codegen.pipeline import compile_model
from vitessera.codegen.preprocessing import KEYS, OWN_FILE, find_preprocessing
from vitessera.host.preprocessing import Preprocessing

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits" / "vit_digits.onnx"
PIXELS = ("--mean", "0.5", "--std", "0.5")


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """The digits model with nothing beside it: an image is grey, 8x8."""
    return Path(shutil.copy(DIGITS, tmp_path))


@pytest.fixture(scope="module")
def graph() -> Graph:
    return import_model(DIGITS)


Known = Callable[..., Preprocessing]


@pytest.fixture
def known(graph: Graph) -> Known:
    """What `vitessera compile MODEL OPTIONS` finds out about pictures."""

    def find(model: Path, *options: str) -> Preprocessing:
        args = parser().parse_args(["compile", str(model), "-o", "build", *options])
        found = find_preprocessing(model, graph, given(args))
        assert found is not None
        return found

    return find


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that is refused says, on one line."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code == 2
    return " ".join(capsys.readouterr().err.split("error: ")[-1].split())


@pytest.mark.parametrize(
    ("options", "resize", "crop", "resample"),
    [
        (("--resize", "8x8"), (8, 8), None, "bilinear"),
        (("--resize", "10", "--crop", "8"), 10, (8, 8), "bilinear"),
        (
            ("--resize", "10x12", "--crop", "8x8", "--resample", "bicubic"),
            (10, 12),
            (8, 8),
            "bicubic",
        ),
        (("--crop", "8"), None, (8, 8), "bilinear"),
    ],
)
def test_sizes_on_the_command_line(
    alone: Path, known: Known, options: tuple[str, ...], resize: object, crop: object, resample: str
) -> None:
    found = known(alone, *PIXELS, *options)
    assert (found.resize, found.crop, found.resample) == (resize, crop, resample)


def test_a_picture_of_another_size_is_resized_and_cut(alone: Path, known: Known) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(np.full((30, 20), 255, np.uint8)).save(alone.parent / "white.png")
    image = known(alone, *PIXELS, "--resize", "10", "--crop", "8").load(alone.parent / "white.png")
    np.testing.assert_array_equal(image, np.ones((1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--resize", "10"),
            "--resize: the shorter edge becomes 10, the model takes 8x8. Give --resize 8x8; or "
            "--resize with the length of the shorter edge, and --crop 8x8 to cut the centre.",
        ),
        (
            ("--crop", "6"),
            "--crop: the crop is 6x6, the model takes 8x8. Give --crop 8x8, or export",
        ),
        (
            ("--resize", "big"),
            "'big' is no size in pixels; give 256, or height and width as in 224x",
        ),
        (("--crop", "0"), "'0' is no size in pixels"),
    ],
)
def test_sizes_that_do_not_fit(
    alone: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert words in refused(capsys, "compile", alone, "-o", alone.parent / "build", *options)


def test_one_size_on_the_command_line_replaces_both_of_a_file(alone: Path, known: Known) -> None:
    beside = {"image_mean": [0.5], "image_std": [0.5], "size": 12, "do_center_crop": True}
    config = alone.with_name("preprocessor_config.json")
    config.write_text(json.dumps(beside | {"crop_size": 8}), encoding="utf-8")
    found = known(alone, "--resize", "8x8")
    assert (found.resize, found.crop, found.mean) == ((8, 8), None, (0.5,))


def test_two_models_in_a_folder_each_have_a_file_of_their_own(alone: Path, known: Known) -> None:
    """The folder's preprocessor_config.json is that of one of them, and of all without a file."""
    folder = {"image_mean": [0.1], "image_std": [0.2], "size": 8}
    alone.with_name("preprocessor_config.json").write_text(json.dumps(folder), encoding="utf-8")
    classes = alone.with_name("config.json")
    classes.write_text(json.dumps({"id2label": {"0": "none of its"}}), encoding="utf-8")
    own = {"mean": 0.5, "std": 0.25, "resize": 10, "crop": 8, "classes": list("abcdefghij")}
    alone.with_name(f"vit_digits{OWN_FILE}").write_text(json.dumps(own), encoding="utf-8")
    found = known(alone)
    assert (found.mean, found.std, found.resize, found.crop) == ((0.5,), (0.25,), 10, (8, 8))
    assert (found.classes[0], found.source) == ("a", "vit_digits.preprocessing.json")
    classes.unlink()
    other = Path(shutil.copy(alone, alone.with_name("other.onnx")))
    found = known(other)
    assert (found.mean, found.resize, found.source) == ((0.1,), (8, 8), "preprocessor_config.json")


def test_a_file_of_its_own_comes_before_the_metadata(alone: Path, known: Known) -> None:
    model = onnx.load(alone)
    onnx.helper.set_model_props(
        model, {"mean": "0.1", "std": "0.2", "classes": str([*"abcdefghij"])}
    )
    onnx.save(model, alone)
    own = alone.with_name(f"vit_digits{OWN_FILE}")
    own.write_text('{"mean": 0.5, "std": 0.5}', encoding="utf-8")
    found = known(alone)
    assert (found.mean, found.classes[0]) == ((0.5,), "a")


def test_a_file_of_its_own_that_cannot_be_used(
    alone: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = alone.with_name(f"vit_digits{OWN_FILE}")
    own.write_text('{"maen": [0.5]}', encoding="utf-8")
    said = refused(capsys, "compile", alone, "-o", alone.parent / "build")
    assert f"{own}: the key 'maen' is not known; known are classes, crop, mean, resample" in said


def test_what_comes_next_can_be_done(alone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without mean and std no picture is taken, and none is asked for."""
    folder = alone.parent / "my build"
    assert main(["compile", str(alone), "-o", str(folder)]) == 0
    assert f"vitessera run '{folder}' '{folder}/images.npz'\n" in capsys.readouterr().out
    assert (folder / "images.npz").is_file()
    arrays = read_build(folder, check_rtl=False)
    pictures = replace(arrays, preprocessing=Preprocessing(1, 8, 8, (0.5,), (0.5,)))
    assert "vitessera run build IMAGES\n" in next_steps(pictures, Path("build"))


def test_the_page_on_images_names_every_key() -> None:
    page = (ROOT / "docs" / "images.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^    \{\n.*?^    \}\n", page, re.M | re.S)
    assert set(json.loads(example)) == set(KEYS) - {"rescale"}
    (table,) = re.findall(r"\| key .*?\n\n", page, re.S)
    assert set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", table, re.M)))) == set(
        KEYS
    )


def test_the_source_names_what_was_said_alone(alone: Path, known: Known) -> None:
    assert known(alone, *PIXELS, "--crop", "8").source.endswith("--std and --crop")


@pytest.mark.filterwarnings("error")
def test_pixels_in_place_of_calibration_images_are_said() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 1, 8, 8)).astype(np.float32)
    with pytest.raises(RuntimeWarning, match="The calibration images: the values reach from"):
        compile_model(DIGITS, HardwareConfig(tile=4, lanes=4), pixels)
