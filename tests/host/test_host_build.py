"""Build directories that the host refuses, and images that it does; no pynq, no simulator."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_support import vouch
from vitessera.codegen.builddir import read_build
from vitessera.host.build import FORMAT, CompiledModel, read_compiled
from vitessera.host.errors import BuildDirectoryError, ImageError
from vitessera.host.inputs import as_batch
from vitessera.host.preprocessing import Preprocessing

PARTS = ("layout.npz", "program.json", "program.bin", "weights.bin")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A build directory, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "build"))


def change(folder: Path, name: str, edit: Callable[[Any], object]) -> None:
    """Edits a JSON file of a build directory, checksum included."""
    content = json.loads((folder / name).read_text())
    edit(content)
    text = json.dumps(content).encode()
    if name == "manifest.json":
        (folder / name).write_bytes(text)
    else:
        vouch(folder, name, text)


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(BuildDirectoryError) as caught:
        read_compiled(folder)
    for word in words:
        assert word in str(caught.value)


# --- The build directory


def test_what_the_board_has_no_use_for_may_be_missing(folder: Path, copy: Path) -> None:
    for part in ("rtl", "hls", "vivado"):
        shutil.rmtree(copy / part)
    (copy / "images.npz").unlink()
    model = read_compiled(copy)
    build = read_build(folder)
    assert model.instruction_count == len(build.program.instructions)
    assert model.weights == build.program.weights
    assert model.design_hash == build.rtl.design_hash
    assert model.outputs[0].index.shape == (1, 10)


def test_no_build_directory(tmp_path: Path) -> None:
    refused(tmp_path / "no", "no is not a build directory", "No such file", "vitessera compile -o")
    refused(tmp_path, "is not a build directory: manifest.json cannot be read")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        f'{{"format": {FORMAT}, "files": []}}',
        "[" * 100_000,
        "\x80",
        "9" * 9999,
    ],
)
def test_damaged_manifest(copy: Path, text: str) -> None:
    (copy / "manifest.json").write_text(text, encoding="latin-1")
    refused(copy, "manifest.json is damaged", "Compile the model again")


def test_another_format(copy: Path) -> None:
    change(copy, "manifest.json", lambda manifest: manifest.update(format=1, vitessera="0.0.7"))
    refused(copy, "has format 1, this vitessera reads", "install the vitessera", "(0.0.7)")


@pytest.mark.parametrize("name", [*(f"program/{part}" for part in PARTS), "reports/registers.json"])
def test_missing_and_changed_files(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content + b" ")
    refused(copy, f"{name} has changed since it was compiled", "Compile the model again")
    (copy / name).unlink()
    refused(copy, f"{name} is missing", "Compile the model again")
    os.mkfifo(copy / name)
    refused(copy, f"{name} is missing", "Compile the model again")
    (copy / name).unlink()
    (copy / name).write_bytes(content)
    change(copy, "manifest.json", lambda manifest: manifest["files"].pop(name))
    refused(copy, f"{name} has changed since it was compiled")


@pytest.mark.parametrize("entry", ["model", "config", "design_hash", "expected_cycles"])
def test_manifest_with_a_part_missing(copy: Path, entry: str) -> None:
    change(copy, "manifest.json", lambda manifest: manifest.pop(entry))
    refused(copy, f"does not describe a compiled model (KeyError: '{entry}')", "Compile the model")


@pytest.mark.parametrize(
    "edit",
    [
        {"design_hash": 5},
        {"expected_cycles": "many"},
        {"expected_cycles": float("inf")},
        {"device_names": 3},
        {"device_names": [3]},
        {"model": ["vit.onnx"]},
        {"model": None},
        {"config": []},
        {"config": "small"},
        {"files": {"images.npz": 0}},
    ],
)
def test_manifest_with_a_value_of_another_type(copy: Path, edit: dict[str, object]) -> None:
    change(copy, "manifest.json", lambda manifest: manifest.update(edit))
    refused(copy, "manifest.json is damaged", *edit, "Compile the model again")


@pytest.mark.parametrize("edit", [{"design_hash": "red"}, {"expected_cycles": -1}, {"config": {}}])
def test_manifest_with_a_wrong_value(copy: Path, edit: dict[str, object]) -> None:
    change(copy, "manifest.json", lambda manifest: manifest.update(edit))
    refused(copy, "does not describe a compiled model", "Compile the model again")


@pytest.mark.parametrize("name", ["tile", "depth", "lanes", "bus_bits", "clock_mhz"])
@pytest.mark.parametrize("value", [0, -8, 8.0, "8", None, True, 10**30])
def test_sizes_that_no_accelerator_has(copy: Path, name: str, value: object) -> None:
    change(copy, "manifest.json", lambda manifest: manifest["config"].update({name: value}))
    refused(copy, f"the configuration's {name} is {value!r}", "Compile the model again")


def test_damaged_preprocessing(copy: Path) -> None:
    change(copy, "manifest.json", lambda manifest: manifest["preprocessing"].update(mean=[1, 2]))
    refused(copy, "manifest.json: preprocessing: mean has 2 numbers", "Compile the model again")


@pytest.mark.parametrize("name", ["program/program.json", "reports/registers.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff", b"[]", b"{}", b"null", b"7", b"[" * 100_000]
)
def test_damaged_json(copy: Path, name: str, content: bytes) -> None:
    vouch(copy, name, content)
    refused(copy, "does not describe a compiled model", "Compile the model again")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("program/program.json", lambda program: program.update(input={})),
        ("program/program.json", lambda program: program["input"].update(image=[1, 2])),
        ("program/program.json", lambda program: program["input"].update(image=[2, 8, 4])),
        ("program/program.json", lambda program: program["outputs"][0].pop("offset")),
        ("program/program.json", lambda program: program["outputs"].append({})),
        ("program/program.json", lambda program: program["layers"][0].pop("macs")),
        ("program/program.json", lambda program: program["layers"][0].update(macs=-(10**9))),
        ("program/program.json", lambda program: program["labels"].pop()),
        ("program/program.json", lambda program: program["outputs"][0].update(offset=0.5)),
        ("program/program.json", lambda program: program["outputs"][0].update(name=7)),
        ("program/program.json", lambda program: program["outputs"].clear()),
        ("reports/registers.json", lambda registers: registers.pop("magic")),
        ("reports/registers.json", lambda registers: registers.update(counters=3)),
        ("reports/registers.json", lambda registers: registers.update(states={"x": "IDLE"})),
        ("reports/registers.json", lambda registers: registers.update(errors={"1": "READ"})),
        ("reports/registers.json", lambda registers: registers.update(states=[])),
    ],
)
def test_json_that_describes_something_else(
    copy: Path, name: str, edit: Callable[[Any], object]
) -> None:
    change(copy, name, edit)
    refused(copy, "does not describe a compiled model", "Compile the model again")


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "cut",
        "other tables",
        "fewer outputs",
    ],
)
def test_damaged_layout(copy: Path, kind: str) -> None:
    path = copy / "program" / "layout.npz"
    whole = path.read_bytes()
    with np.load(path) as content:
        tables = dict(content)
    fewer = {name: table for name, table in tables.items() if name != "output_0_scale"}
    content = {
        "empty": b"",
        "text": b"no arrays",
        "cut": whole[: len(whole) // 2],
        "other tables": saved(pictures=np.zeros(3)),
        "fewer outputs": saved(**fewer),
    }[kind]
    vouch(copy, "program/layout.npz", content)
    described = kind in ("other tables", "fewer outputs")
    reason = "does not describe a compiled model" if described else "layout.npz: not a file of"
    refused(copy, reason, "Compile the model again")


def test_a_layout_that_is_larger_than_it_looks(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitessera.host.build.ARRAY_BYTES", 1_000_000)
    content = io.BytesIO()
    np.savez_compressed(content, input_index=np.zeros(1_000_000, np.int8))
    assert len(content.getvalue()) < 10_000
    vouch(copy, "program/layout.npz", content.getvalue())
    refused(copy, "layout.npz unpacks to 1,000,128 bytes, 1,000,000 are allowed")


# What is wrong in a layout → what the message says.
LAYOUT_SLIPS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a pixel too many": (lambda t: t["input_index"].put(5, 64), "not filled from 64 pixels"),
    "a pixel below none": (lambda t: t["input_index"].put(5, -2), "not filled from 64 pixels"),
    "indices that are no integers": (
        lambda t: t.update(input_index=t["input_index"].astype(float)),
        "not filled from 64 pixels",
    ),
    "no input": (lambda t: t.update(input_index=t["input_index"][:0]), "not filled from"),
    "a matrix": (lambda t: t.update(input_index=t["input_index"][None]), "not filled from"),
    "pixels of no size": (lambda t: t["input_scale"].put(3, 0), "the pixels have no scale"),
    "endless pixels": (lambda t: t["input_scale"].put(3, np.inf), "the pixels have no scale"),
    "no output": (lambda t: t.update(output_bytes=np.array(0)), "output buffer has 0 bytes for 1"),
    "half an output": (lambda t: t.update(output_bytes=np.array(9)), "output buffer has 9 bytes"),
    "less than no output": (lambda t: t.update(output_bytes=np.array(-8)), "has -8 bytes"),
    "a short output": (lambda t: t.update(output_bytes=np.array(8)), "'logits' is not in the out"),
    "behind the output": (
        lambda t: t["output_0_index"].put(0, t["output_bytes"] // 2),
        "'logits' is not in the output buffer",
    ),
    "before the output": (lambda t: t["output_0_index"].put(0, -1), "'logits' is not in the out"),
    "fewer scales": (
        lambda t: t.update(output_0_scale=t["output_0_scale"][:9]),
        "'logits' has no scale",
    ),
    "a scale of nothing": (lambda t: t["output_0_scale"].put(0, np.nan), "'logits' has no scale"),
}


@pytest.mark.parametrize("slip", LAYOUT_SLIPS)
def test_tables_that_lead_astray(copy: Path, slip: str) -> None:
    edit, words = LAYOUT_SLIPS[slip]
    with np.load(copy / "program" / "layout.npz") as content:
        tables = {name: np.array(table) for name, table in content.items()}
    edit(tables)
    vouch(copy, "program/layout.npz", saved(**tables))
    refused(copy, "does not describe a compiled model", words, "Compile the model again")


def saved(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_fewer_class_names_than_scores(copy: Path) -> None:
    change(copy, "manifest.json", lambda manifest: manifest["preprocessing"]["classes"].pop())
    refused(copy, "it has 9 class names for 10 scores", "Compile the model again")


# --- Images


@pytest.fixture(scope="module")
def model(folder: Path) -> CompiledModel:
    """The digits model: [1, 8, 8], with its preprocessing."""
    return read_compiled(folder)


def test_images_in_every_form(model: CompiledModel, digits: dict[str, np.ndarray]) -> None:
    images = digits["images"][:3]
    for given, single in ((images, False), (images[0], True), (list(images), False)):
        batch = as_batch(given, model)
        assert batch.single is single
        assert batch.images.dtype == np.float32
        assert np.array_equal(batch.images, images[: len(batch.images)])
    assert as_batch([images[:2], images[2]], model).images.shape == (3, 1, 8, 8)
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    assert model.preprocessing is not None
    expected = model.preprocessing.normalise(pixels)[None]
    for same in (pixels, pixels[:, :, None]):
        assert np.array_equal(as_batch(same, model).images, expected)


GOOD = np.zeros((2, 1, 8, 8), np.float32)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ([], ("There is no image to run", "Give at least one")),
        ((), ("There is no image to run",)),
        (GOOD[:0], ("The image: the array holds no image", "Give at least one")),
        (GOOD[0, 0], ("shape [8, 8]", "The model takes [n, 1, 8, 8]")),
        (GOOD[:, :, :7], ("shape [2, 1, 7, 8]", "The model takes [n, 1, 8, 8]")),
        (np.zeros((3, 8, 8)), ("shape [1, 3, 8, 8]", "The model takes [n, 1, 8, 8]")),
        (GOOD[None], ("shape [1, 2, 1, 8, 8]", "images first")),
        ([GOOD, GOOD[:, :, :7]], ("shape [2, 1, 7, 8]", "The model takes")),
        (GOOD.astype(np.uint8), ("pixels have shape [1, 8, 8]", "channels, which come last")),
        (np.zeros((1, 2, 8, 8, 1), np.uint8), ("shape [1, 2, 8, 8, 1]", "[n, height, width, ch")),
        (np.zeros((0, 8, 8, 1), np.uint8), ("shape [0, 8, 8, 1] are no images",)),
        (np.zeros((9, 0), np.uint8), ("pixels have shape [9, 0]",)),
        (np.zeros((8, 8, 2), np.uint8), ("pixels have shape [8, 8, 2]", "1, 3 or 4 channels")),
        (GOOD.astype(np.int64), ("dtype is int64", "Give float32")),
        (GOOD.astype(np.float16), ("dtype is float16", "Give float32")),
        (GOOD.astype(object), ("dtype is object", "Give float32")),
        (GOOD + np.inf, ("image 0 holds NaN or infinity", "Remove the image")),
        (np.stack([GOOD[0], GOOD[0] * np.nan]), ("image 1 holds NaN", "Remove the image")),
        ("nowhere.npz", ("nowhere.npz: cannot be read (No such file", "numpy.savez")),
        ([GOOD, "nowhere.npy"], ("nowhere.npy: cannot be read", "numpy.savez")),
    ],
)
def test_wrong_images(model: CompiledModel, images: Any, words: tuple[str, ...]) -> None:  # noqa: ANN401
    with np.errstate(invalid="ignore"), pytest.raises(ImageError) as caught:
        as_batch(images, model)
    for word in words:
        assert word in str(caught.value)


VIDEO = np.zeros((4, 3, 8, 8), np.float32)


@pytest.fixture
def of_videos(model: CompiledModel) -> CompiledModel:
    """A model that takes VIDEO, as far as its inputs go."""
    return replace(model, image=VIDEO.shape, preprocessing=Preprocessing(3, 8, 8, videos=True))


def test_videos_in_every_form(of_videos: CompiledModel, tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", VIDEO)
    np.savez(tmp_path / "two.npz", images=np.stack([VIDEO, VIDEO]))
    for given, count, single in (
        (VIDEO, 1, True),
        (VIDEO[None].astype(np.float64), 1, False),
        ([VIDEO, VIDEO], 2, False),
        (tmp_path / "one.npy", 1, True),
        (str(tmp_path / "two.npz"), 2, False),
    ):
        batch = as_batch(given, of_videos)
        assert batch.single is single
        assert batch.images.shape == (count, *VIDEO.shape)
        assert batch.images.dtype == np.float32


@pytest.mark.parametrize(
    ("videos", "words"),
    [
        ("film.mp4", ("film.mp4 is no video as the model takes it", ".npy or .npz", "all frames")),
        (["a.png", "b.png"], ("a.png is no video", "normalised as in training")),
        (VIDEO.astype(np.uint8), ("The image, of 8-bit pixels, is no video", "Give an array")),
        (np.zeros((8, 8, 3), np.uint8), ("of 8-bit pixels, is no video", "all frames")),
        (VIDEO[0], ("shape [3, 8, 8]", "takes [n, 4, 3, 8, 8]: videos first", "model's order")),
        (VIDEO.swapaxes(0, 1), ("shape [1, 3, 4, 8, 8]", "The model takes [n, 4, 3, 8, 8]")),
        (VIDEO + np.nan, ("image 0 holds NaN or infinity",)),
    ],
)
def test_wrong_videos(of_videos: CompiledModel, videos: Any, words: tuple[str, ...]) -> None:  # noqa: ANN401
    for model in (of_videos, replace(of_videos, preprocessing=None)):
        with pytest.raises(ImageError) as caught:
            as_batch(videos, model)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.parametrize("known", [None, Preprocessing(1, 8, 8)])
@pytest.mark.parametrize("images", ["digit.png", np.zeros((8, 8), np.uint8)])
def test_nothing_is_known_about_normalisation(
    model: CompiledModel, known: Preprocessing | None, images: str | np.ndarray
) -> None:
    with pytest.raises(ImageError, match=r"compiled without mean and std.*--mean and --std"):
        as_batch(images, replace(model, preprocessing=known))
