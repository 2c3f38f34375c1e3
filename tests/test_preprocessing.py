"""What the host does to image files and raw pixels, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from vitessera.host.errors import BuildDirectoryError, ImageError
from vitessera.host.preprocessing import FORMATS, PILLOW_MODES, RESAMPLING, Preprocessing

GREY = Preprocessing(1, 4, 6, (0.5,), (0.25,), classes=("cat", "dog"))
COLOUR = Preprocessing(3, 4, 6, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
RANDOM = np.random.default_rng(5)


def some_pixels(*shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, shape, np.uint8)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Writes pixels to an image file."""
    image = pytest.importorskip("PIL.Image", reason="Pillow (extra `images`) is not installed")

    def write(pixels: np.ndarray, name: str = "image.png", **options: object) -> Path:
        image.fromarray(pixels).save(tmp_path / name, **options)
        return tmp_path / name

    return write


# --- Raw pixels


def test_pixels_are_rescaled_then_normalised() -> None:
    pixels = some_pixels(4, 6, 3)
    found = COLOUR.normalise(pixels)
    assert (found.shape, found.dtype) == ((3, 4, 6), np.dtype(np.float32))
    mean, std = (np.array(numbers)[:, None, None] for numbers in (COLOUR.mean, COLOUR.std))
    np.testing.assert_allclose(found, (pixels.transpose(2, 0, 1) / 255 - mean) / std, atol=1e-6)


def test_greyscale_pixels_need_no_channel_axis() -> None:
    pixels = some_pixels(4, 6)
    np.testing.assert_array_equal(GREY.normalise(pixels), GREY.normalise(pixels[:, :, None]))


def test_the_factor_is_the_one_given() -> None:
    rule = dataclasses.replace(GREY, rescale=0.5, mean=(1.0,), std=(2.0,))
    found = rule.normalise(np.full((4, 6), 7, np.uint8))
    assert set(found.flat) == {np.float32((7 * 0.5 - 1) / 2)}


@pytest.mark.parametrize(
    ("rule", "pixels", "message"),
    [
        (GREY, np.zeros((4, 6), np.float32), r"pixels are float32\. Give 8-bit pixels"),
        (GREY, np.zeros((6, 4), np.uint8), r"shape \[6, 4\]\. The model takes \[4, 6, 1\]"),
        (COLOUR, np.zeros((3, 4, 6), np.uint8), r"shape \[3, 4, 6\]\. .* \[4, 6, 3\]"),
        (
            Preprocessing(1, 4, 6),
            np.zeros((4, 6), np.uint8),
            r"without mean and std, .* --mean and --std",
        ),
    ],
)
def test_wrong_pixels_are_refused(rule: Preprocessing, pixels: np.ndarray, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        rule.normalise(pixels)


# --- Files


def test_a_file_of_the_right_size_is_taken_as_it_is(save: Callable[..., Path]) -> None:
    pixels = some_pixels(4, 6, 3)
    np.testing.assert_array_equal(COLOUR.load(save(pixels)), COLOUR.normalise(pixels))
    np.testing.assert_array_equal(COLOUR.load(str(save(pixels))), COLOUR.normalise(pixels))


def test_channels_are_converted(save: Callable[..., Path]) -> None:
    grey = some_pixels(4, 6)
    three = np.repeat(grey[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(COLOUR.load(save(grey)), COLOUR.normalise(three))
    np.testing.assert_array_equal(GREY.load(save(three)), GREY.normalise(grey))
    alpha = np.concatenate([three, some_pixels(4, 6, 1)], axis=2)
    np.testing.assert_array_equal(COLOUR.load(save(alpha)), COLOUR.normalise(three))
    rule = Preprocessing(4, 4, 6, (0.0,) * 4, (1.0,) * 4)
    np.testing.assert_array_equal(rule.load(save(alpha)), rule.normalise(alpha))


def test_every_image_mode_with_8_bits_can_be_read(save: Callable[..., Path]) -> None:
    from PIL import Image

    path = save(some_pixels(4, 6, 3))
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA"):
        Image.open(path).convert(mode).save(path.with_name(f"{mode}.png"))
        for rule in (GREY, COLOUR):
            assert rule.load(path.with_name(f"{mode}.png")).shape == (rule.channels, 4, 6)


def test_a_turned_photograph_is_put_upright(save: Callable[..., Path]) -> None:
    from PIL import Image

    pixels = some_pixels(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    turned = save(np.ascontiguousarray(np.rot90(pixels)), exif=exif)
    np.testing.assert_array_equal(GREY.load(turned), GREY.normalise(pixels))


@pytest.mark.parametrize("tall", [False, True])
def test_shorter_edge_and_centre_crop(save: Callable[..., Path], tall: bool) -> None:
    rule = dataclasses.replace(
        GREY, height=4, width=4, resize=5, crop=(4, 4), resample="nearest", mean=(0.0,), std=(1.0,)
    )
    small = some_pixels(5, 7)
    pixels = small.repeat(3, axis=0).repeat(3, axis=1)
    expected = small[:4, 1:5]  # of 5x7: (5 - 4) // 2 and (7 - 4) // 2
    if tall:
        pixels, expected = np.ascontiguousarray(pixels.T), expected.T
    np.testing.assert_array_equal(rule.load(save(pixels)), rule.normalise(expected))


def test_the_longer_edge_is_rounded_down(save: Callable[..., Path]) -> None:
    rule = dataclasses.replace(GREY, height=4, width=4, resize=4, crop=(4, 4))
    assert rule._resize_to(8, 15) == (4, 7)
    assert rule._resize_to(15, 8) == (7, 4)
    assert rule.load(save(some_pixels(8, 15))).shape == (1, 4, 4)


def test_shrinking_takes_the_mean_and_not_a_sample(save: Callable[..., Path]) -> None:
    """Pillow's filters widen with the factor; many resizers do not, and alias."""
    stripes = np.zeros((40, 60), np.uint8)
    stripes[:, ::2] = 200
    rule = dataclasses.replace(GREY, resize=(4, 6), mean=(0.0,), std=(1.0,))
    smooth = rule.load(save(stripes)) * 255
    assert np.abs(smooth - 100).max() <= 8


def test_filters_have_the_numbers_that_pillow_gives_them() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow (extra `images`) is not installed")
    assert {name: int(getattr(image, name.upper())) for name in RESAMPLING} == RESAMPLING


@pytest.mark.parametrize(
    ("change", "shape", "message"),
    [
        ({}, (5, 6), r"image is 5x6, the model takes 4x6 .* no rule .* --resize 4x6, or"),
        ({"crop": (4, 6)}, (3, 6), r"image is 3x6, too small to cut 4x6 .* at least 4x6"),
        ({"resize": 4}, (5, 5), r"image is 4x4 after resizing, the model takes 4x6"),
        ({"mean": (), "std": ()}, (4, 6), r"without mean and std, .* Compile it again with --mean"),
    ],
)
def test_files_that_do_not_fit_are_refused(
    save: Callable[..., Path], change: dict[str, object], shape: tuple[int, int], message: str
) -> None:
    rule = dataclasses.replace(GREY, **change)
    with pytest.raises(ImageError, match=message):
        rule.load(save(some_pixels(*shape)))


def test_a_number_of_channels_that_no_file_has(save: Callable[..., Path]) -> None:
    rule = Preprocessing(2, 4, 6, (0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ImageError, match=r"takes 2 channels; .* has 1, 3 or 4\. Give arrays"):
        rule.load(save(some_pixels(4, 6)))
    assert 2 not in PILLOW_MODES


@pytest.mark.parametrize("content", [None, b"", b"not an image", "truncated"])
def test_files_that_are_no_images_are_refused(
    save: Callable[..., Path], content: bytes | str | None
) -> None:
    path = save(some_pixels(4, 6, 3))
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:60] if isinstance(content, str) else content)
    with pytest.raises(ImageError, match=r"image\.png: (cannot be read|not an image).* PNG, JPEG"):
        COLOUR.load(path)


@pytest.mark.parametrize("error", [KeyError, IndexError, TypeError, struct.error, zlib.error])
def test_whatever_a_decoder_stumbles_over_names_the_file(
    save: Callable[..., Path], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_: object) -> None:
        raise error

    path = save(some_pixels(4, 6, 3))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", stumble)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", stumble, raising=False)
    with pytest.raises(ImageError, match=rf"image\.png: cannot be read .*{error.__name__}.* PNG"):
        COLOUR.load(path)


def test_a_folder_is_no_image(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow (extra `images`) is not installed")
    with pytest.raises(ImageError, match=r"cannot be read \(Is a directory\)"):
        GREY.load(tmp_path)


def test_more_than_8_bits_are_refused(save: Callable[..., Path]) -> None:
    path = save(some_pixels(4, 6).astype(np.uint16) * 256)
    with pytest.raises(ImageError, match=r"more than 8 bits .*Save the image with 8 bits"):
        GREY.load(path)


def test_an_image_of_absurd_size_is_refused(
    save: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match=r"image\.png: too large .*Scale it down"):
        GREY.load(save(some_pixels(40, 60)))


def claiming(folder: Path, height: int, width: int) -> Path:
    """A PNG whose header says so; of its pixels there are but a few."""
    from PIL import Image

    path = folder / "image.png"
    Image.new("L", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    return path


@pytest.mark.filterwarnings("error")
def test_a_large_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="Pillow (extra `images`) is not installed")
    fits = claiming(tmp_path, 4000, 8000)
    with pytest.raises(ImageError, match=r"image\.png: cannot be read"):  # it lacks pixels
        GREY.load(fits)
    for height, width in ((4000, 8001), (13_000, 13_000)):
        path = claiming(tmp_path, height, width)
        with pytest.raises(ImageError) as caught:
            GREY.load(path)
        assert f"{height}x{width}, {height * width:,} pixels; at most 32,000,000" in str(
            caught.value
        )
        assert "Scale it down" in caught.value.remedy


def test_an_image_that_resizing_makes_large_is_refused(save: Callable[..., Path]) -> None:
    rule = Preprocessing(1, 400, 400, (0.0,), (1.0,), resize=400, crop=(400, 400))
    with pytest.raises(ImageError, match="is 400x800000 after resizing, 320,000,000 pixels"):
        rule.load(save(some_pixels(1, 2000)))


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_that_are_read(tmp_path: Path, kind: str) -> None:
    Image = pytest.importorskip("PIL.Image")  # noqa: N806
    path = tmp_path / "image"
    Image.fromarray(some_pixels(4, 6)).convert("L").save(path, kind)
    assert GREY.load(path).shape == (1, 4, 6)


@pytest.mark.parametrize("kind", ["EPS", "ICO", "TGA", "PCX", "PDF"])
def test_formats_that_are_not_read(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EPS would start Ghostscript."""
    Image = pytest.importorskip("PIL.Image")  # noqa: N806
    path = tmp_path / "image.png"
    Image.fromarray(some_pixels(4, 6)).convert("L").save(path, kind)
    monkeypatch.setattr("subprocess.Popen", None)
    monkeypatch.setattr("subprocess.check_call", None)
    with pytest.raises(ImageError, match=r"not an image of a format that is read.*PNG, JPEG, BMP"):
        GREY.load(path)


def test_without_pillow_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImageError, match=r"Pillow is not installed.* pip install pillow"):
        GREY.load("image.png")
    assert GREY.normalise(some_pixels(4, 6)).shape == (1, 4, 6)


# --- Classes


def test_classes_have_names_or_numbers() -> None:
    assert (GREY.class_name(1), COLOUR.class_name(7)) == ("dog", "7")


@pytest.mark.parametrize("index", [-1, 2])
def test_a_class_that_there_is_not(index: int) -> None:
    with pytest.raises(ImageError, match=rf"no class {index}; the model has 2\. .* from 0 to 1"):
        GREY.class_name(index)


# --- The manifest


@pytest.mark.parametrize(
    "rule",
    [
        GREY,
        COLOUR,
        Preprocessing(1, 8, 8),
        Preprocessing(3, 8, 8, classes=("run", "jump"), videos=True),
        dataclasses.replace(GREY, resize=(5, 7), crop=(4, 6), rescale=1 / 240, source="x.json"),
        dataclasses.replace(GREY, resize=7, crop=(4, 6), resample="lanczos"),
    ],
)
def test_what_is_saved_is_read(rule: Preprocessing) -> None:
    saved = json.loads(json.dumps(rule.to_dict()))
    assert Preprocessing.from_dict(saved, "manifest.json") == rule


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mean": [0.5, 0.5]}, "mean has 2 numbers, the model's image has 1 channel"),
        ({"std": [0.5, 0.5, 1]}, "std has 3 numbers, the model's image has 1 channel"),
        ({"mean": []}, "std is known, but not mean"),
        ({"std": []}, "mean is known, but not std"),
        ({"mean": 0.5}, "mean is 0.5, not a list"),
        ({"mean": ["a"]}, "mean holds 'a', not a number"),
        ({"mean": [True]}, "mean holds True, not a number"),
        ({"mean": [10**400]}, "int too large"),
        ({"mean": [float("nan")]}, "mean holds NaN or infinity"),
        ({"std": [float("inf")]}, "std holds NaN or infinity"),
        ({"std": [0]}, "std holds a number that is not above zero"),
        ({"std": [-1]}, "std holds a number that is not above zero"),
        ({"rescale": 0}, "the factor on pixel values is 0.0, not a number above zero"),
        ({"rescale": None}, "rescale holds None, not a number"),
        ({"crop": [4, 4]}, "the crop is 4x4, the model takes 4x6"),
        ({"crop": [4]}, "crop is [4], not height and width"),
        ({"resize": 6}, "the shorter edge becomes 6, the model takes 4x6"),
        ({"resize": 5, "crop": [4, 6]}, "the shorter edge becomes 5, the model takes 4x6"),
        ({"resize": [5, 6]}, "images become 5x6, the model takes 4x6"),
        ({"resize": [4, 5], "crop": [4, 6]}, "images become 4x5, the model takes 4x6"),
        ({"resize": 0}, "resize is 0, not a whole number above zero"),
        ({"resize": True}, "resize is True, not a whole number above zero"),
        ({"resize": "4x6"}, "resize is '4x6', not a list"),
        ({"height": 4.0}, "height is 4.0, not a whole number above zero"),
        ({"resample": "box"}, "the filter is 'box', not one of nearest, bilinear"),
        ({"classes": ["cat", " "]}, "class 1 has an empty name"),
        ({"classes": ["cat", 2]}, "classes holds 2, not text"),
        ({"source": None}, "source holds None, not text"),
        ({"videos": 1}, "videos is 1, not true or false"),
        ({"videos": True}, "mean and std are known, but videos are taken as arrays only"),
        ({"colour": 1}, "missing or unknown fields (colour)"),
    ],
)
def test_a_damaged_manifest_is_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BuildDirectoryError) as refused:
        Preprocessing.from_dict(GREY.to_dict() | change, "manifest.json")
    assert f"manifest.json: preprocessing: {reason}" in str(refused.value)
    assert refused.value.remedy == "Compile the model again."


@pytest.mark.parametrize(
    ("values", "reason"), [([], "not an object"), ({}, "missing or unknown fields .channels, ")]
)
def test_a_manifest_without_it_is_refused(values: object, reason: str) -> None:
    with pytest.raises(BuildDirectoryError, match=reason):
        Preprocessing.from_dict(values, "manifest.json")


def test_the_description_says_what_is_done_and_where_it_is_from() -> None:
    rule = dataclasses.replace(GREY, resize=7, crop=(4, 6), source="a.json", classes_source="b.txt")
    assert rule.describe() == (
        "images: mean 0.5, std 0.25, shorter edge to 7 (bilinear), centre 4x6, from a.json; "
        "2 class names from b.txt"
    )
    assert "mean 0.1,0.2,0.3, std 0.5,0.6,0.7, 4x6, not resized" in COLOUR.describe()
    assert COLOUR.describe().endswith("class names not known")
    assert Preprocessing(1, 4, 6).describe().startswith("images: mean and std not known")


def test_videos_are_arrays() -> None:
    rule = Preprocessing(3, 8, 8, classes=("run",), classes_source="config.json", videos=True)
    described = "videos: arrays, normalised as in training; 1 class name from config.json"
    assert rule.describe() == described
    assert rule.class_name(0) == "run"
    for ask in (lambda: rule.load("frame.png"), lambda: rule.normalise(some_pixels(8, 8, 3))):
        with pytest.raises(ImageError, match=r"no video as the model takes it\. Give an array"):
            ask()
