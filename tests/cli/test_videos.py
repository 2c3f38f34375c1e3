"""A model of videos through the command line: its input has one axis more, and no image files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import Command, assert_refused
from host_support import SMALL
from onnx import TensorProto, helper
from onnx_builder import DIM, Net, Recipe, build
from vitessera.cli.main import main
from vitessera.codegen.builddir import read_build

VIDEO = (4, 2, 2, 4)  # frames, channels, height, width: four tubelets of 2 x 2 x 2 x 2


def tubelets(net: Net, x: str) -> str:
    """As VideoMAE has them: channels to the front, then a convolution of three axes."""
    turned = net.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    weight = net.weight(DIM, 2, 2, 2, 2)
    return net.op("Conv", turned, weight, net.weight(DIM), name="patch", strides=[2, 2, 2])


def write(path: Path, video: tuple[int, ...] = VIDEO) -> Path:
    net, output = build(Recipe(patches=tubelets))
    source = helper.make_tensor_value_info("video", TensorProto.FLOAT, (1, *video))
    renamed = net.model(output, [source])
    for node in renamed.graph.node:
        node.input[:] = ["video" if name == "image" else name for name in node.input]
    onnx.save(renamed, path)
    return path


def videos(path: Path, shape: tuple[int, ...] = VIDEO) -> Path:
    np.savez(path, images=np.random.default_rng(2).standard_normal((4, *shape), np.float32))
    return path


@pytest.fixture(scope="module")
def of_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, videos.npz, and build."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "small.json").write_text(SMALL.to_json())
    (folder / "names.txt").write_text("run\njump\nfall\n")
    command = ["compile", write(folder / "model.onnx"), "-o", folder / "build"]
    command += ["--config", folder / "small.json", "--classes", folder / "names.txt"]
    command += ["--calibration", videos(folder / "videos.npz")]
    assert main([str(argument) for argument in command]) == 0
    return folder


def test_a_video_is_inspected_and_compiled(command: Command, of_videos: Path) -> None:
    outcome = command("inspect", of_videos / "model.onnx")
    assert outcome.code == 0
    assert "0 refused" in outcome.output
    described = read_build(of_videos / "build").program.input
    assert (described.name, described.image, described.patch) == ("video", VIDEO, (2, 2, 2, 2))
    manifest = json.loads((of_videos / "build" / "manifest.json").read_text())
    assert manifest["preprocessing"]["videos"] is True
    assert manifest["preprocessing"]["classes"] == ["run", "jump", "fall"]


@pytest.mark.accelerator
def test_a_video_is_simulated(command: Command, of_videos: Path) -> None:
    outcome = command("simulate", of_videos / "build", "--count", 2)
    assert outcome.code == 0, outcome.errors
    assert "bit-exact to reference  yes" in outcome.output


@pytest.mark.pynq
@pytest.mark.accelerator
@pytest.mark.usefixtures("needs_pynq")
def test_a_video_is_run(command: Command, of_videos: Path) -> None:
    outcome = command("run", of_videos / "build", of_videos / "videos.npz", "--simulate")
    assert outcome.code == 0, outcome.errors
    assert len(outcome.output.splitlines()) == 4
    assert all(name in ("run", "jump", "fall") for name in outcome.output.split()[1::6])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "frame.png",
            ("frame.png is no video as the model takes it", "all frames"),
        ),
        ("images.npz", ("shape [1, 4, 3, 2, 4]", "The model takes [n, 4, 2, 2, 4]: videos first")),
        ("pixels.npy", ("pixels.npy, of 8-bit pixels, is no video", "normalised as in training")),
    ],
)
def test_what_is_no_video_is_refused(
    command: Command, of_videos: Path, tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    if name == "images.npz":
        videos(tmp_path / name, (3, 2, 4))
    if name == "pixels.npy":
        np.save(tmp_path / name, np.zeros((4, 2, 4, 2), np.uint8))
    assert_refused(command("run", of_videos / "build", tmp_path / name, "--simulate"), *words)


def test_images_for_the_simulation_of_videos(
    command: Command, of_videos: Path, tmp_path: Path
) -> None:
    images = videos(tmp_path / "images.npz", (2, 4, 2, 4))
    outcome = command("simulate", of_videos / "build", "--images", images)
    assert_refused(outcome, "Images: the array has shape [4, 2, 4, 2, 4]", "[n, 4, 2, 2, 4]")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--mean", "0.5,0.5"),
            ("--mean: the model takes videos [4, 2, 2, 4]", "Leave out --mean"),
        ),
        (("--std", "0.5,0.5"), ("--std: the model takes videos", "Leave out --std, and")),
    ],
)
def test_videos_are_not_normalised_by_the_host(
    command: Command,
    of_videos: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    model = of_videos / "model.onnx"
    assert_refused(command("compile", model, "-o", tmp_path / "build", *arguments), *words)
    assert not (tmp_path / "build").exists()


def test_calibration_with_images(command: Command, of_videos: Path, tmp_path: Path) -> None:
    images = videos(tmp_path / "images.npz", VIDEO[1:])
    model = of_videos / "model.onnx"
    outcome = command("compile", model, "-o", tmp_path / "build", "--calibration", images)
    assert_refused(outcome, "Calibration images: the array has shape", "videos first")


def test_tubelets_that_do_not_fill_the_video(command: Command, tmp_path: Path) -> None:
    model = write(tmp_path / "model.onnx", (5, 2, 2, 4))
    outcome = command("inspect", model)
    assert outcome.code == 2
    assert "patches of [2, 2, 2] do not tile the image of [5, 2, 4]" in outcome.output
    assert "multiple of the patch size" in outcome.output
