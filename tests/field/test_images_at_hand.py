"""What people hand to `predict`: photos, frames, folders; and arrays that are not normalised."""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from vitessera.cli.run import gather
from vitessera.codegen.registers import COUNTERS
from vitessera.host import progress
from vitessera.host.build import CompiledModel
from vitessera.host.errors import ImageError
from vitessera.host.inputs import as_batch, found_files
from vitessera.host.preprocessing import Preprocessing
from vitessera.host.results import Prediction, Profile, predict

COLOUR = Preprocessing(
    3,
    8,
    8,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    resize=10,
    crop=(8, 8),
    source="preprocessor_config.json",
)
FRAME = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)


def model_for(rule: Preprocessing | None, image: tuple[int, ...] = (3, 8, 8)) -> CompiledModel:
    """A model as far as its inputs go."""
    return SimpleNamespace(  # type: ignore[return-value]
        image=image, preprocessing=rule, takes_videos=len(image) > 3, name="vit.onnx"
    )


MODEL = model_for(COLOUR)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(FRAME).save(path)
    return path


def test_a_photo_is_the_same_in_every_form(photo: Path) -> None:
    """A path, an image that Pillow has opened, one that it has made, a frame of a camera."""
    expected = as_batch(photo, MODEL)
    with Image.open(photo) as opened:
        forms = [opened, Image.fromarray(FRAME), FRAME]
        for given in forms:
            batch = as_batch(given, MODEL)
            assert batch.single
            assert np.array_equal(batch.images, expected.images)
        several = as_batch([photo, *forms], MODEL)
    assert not several.single
    assert np.array_equal(several.images, np.repeat(expected.images, 4, axis=0))


def test_frames_of_a_camera_as_one_array(photo: Path) -> None:
    batch = as_batch(np.stack([FRAME, FRAME[::-1]]), MODEL)
    assert not batch.single
    assert np.array_equal(batch.images[:1], as_batch(photo, MODEL).images)


def test_a_grey_frame_and_one_with_an_alpha_channel(photo: Path) -> None:
    opaque = np.full((48, 64, 1), 255, np.uint8)
    with_alpha = as_batch(np.concatenate([FRAME, opaque], axis=2), MODEL)
    assert np.array_equal(with_alpha.images, as_batch(photo, MODEL).images)
    grey = FRAME[:, :, :1]
    same = as_batch(np.repeat(grey, 3, axis=2), MODEL).images
    for given in (grey, grey[:, :, 0], Image.fromarray(grey[:, :, 0])):
        assert np.array_equal(as_batch(given, MODEL).images, same)


def test_a_frame_of_another_size_and_no_rule_for_that() -> None:
    rule = replace(COLOUR, resize=None, crop=None)
    with pytest.raises(
        ImageError, match=r"The image: the image is 48x64, the model takes 8x8 .*no rule for that"
    ):
        as_batch(FRAME, model_for(rule))
    assert as_batch(FRAME[:8, :8], model_for(rule)).images.shape == (1, 3, 8, 8)


def test_an_image_of_pillow_s_with_16_bits() -> None:
    deep = Image.fromarray(np.zeros((9, 9), np.uint16))
    with pytest.raises(ImageError, match=r"The image: pixels have more than 8 bits"):
        as_batch(deep, MODEL)


def test_an_image_of_pillow_s_whose_file_is_cut_off(photo: Path) -> None:
    content = photo.read_bytes()
    with pytest.raises(ImageError, match=r"The image: cannot be read \(.*Pillow can decode"):
        as_batch(Image.open(io.BytesIO(content[: len(content) // 2])), MODEL)


# --- Folders and patterns


@pytest.fixture
def album(photo: Path) -> Path:
    """A folder of photos, with what else lies in such folders."""
    folder = photo.parent / "album"
    (folder / "more").mkdir(parents=True)
    for name in ("b.PNG", "a.jpg", "more/c.png"):
        Image.fromarray(FRAME).save(folder / name)
    (folder / "labels.txt").write_text("cat")
    (folder / ".hidden.png").write_text("")
    return folder


def test_a_folder_stands_for_its_images(album: Path) -> None:
    assert [file.name for file in found_files(album)] == ["a.jpg", "b.PNG"]
    assert as_batch(str(album), MODEL).images.shape[0] == 2


def test_the_command_line_names_each_image_of_a_folder(album: Path, photo: Path) -> None:
    work = gather([album, photo], MODEL)
    assert [str(item) for item in work.items] == [f"{album}/a.jpg", f"{album}/b.PNG", str(photo)]
    assert work.images.shape[0] == 3


def test_a_pattern_stands_for_what_it_matches(album: Path) -> None:
    batch = as_batch(f"{album}/**/*.png", MODEL)
    assert batch.images.shape[0] == 1
    assert not batch.single
    assert [file.name for file in found_files(album / "?.*")] == ["a.jpg", "b.PNG"]


def test_a_file_with_a_bracket_in_its_name(photo: Path) -> None:
    odd = photo.rename(photo.with_name("photo[1].png"))
    assert as_batch(odd, MODEL).single


def test_a_folder_without_images(album: Path) -> None:
    for name in ("a.jpg", "b.PNG"):
        (album / name).unlink()
    with pytest.raises(ImageError, match=r"no image file in this folder\. .*/\*\*/\*\.png'"):
        as_batch(album, MODEL)


def test_a_pattern_that_matches_nothing(album: Path) -> None:
    with pytest.raises(ImageError, match=r"\*\.webp: no file has such a name"):
        as_batch(album / "*.webp", MODEL)


# --- Arrays that training can hardly have seen

RAW = FRAME[:8, :8].transpose(2, 0, 1)[None].astype(np.float32)


@pytest.mark.parametrize(
    "images, rule, words",
    [
        (
            RAW,
            COLOUR,
            r"from 0 to 249; normalised pixels would lie from -2.12 to 2.64\. Give 8-",
        ),
        (RAW, None, r"they look like pixels that have not been normalised"),
        (RAW / 255, COLOUR, r"they look like pixels that were only brought to 0 to 1"),
        (RAW - 128, COLOUR, r"normalised pixels would lie"),
    ],
    ids=["raw", "raw, nothing known", "divided by 255", "centred"],
)
def test_arrays_that_are_not_normalised(
    images: np.ndarray, rule: Preprocessing | None, words: str
) -> None:
    with pytest.warns(RuntimeWarning, match=words):
        as_batch(images, model_for(rule))


@pytest.mark.parametrize("rule", [COLOUR, None])
def test_arrays_that_are_normalised(rule: Preprocessing | None) -> None:
    images = np.stack([COLOUR.normalise(FRAME[:8, :8]), np.zeros((3, 8, 8), np.float32)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_batch(images, model_for(rule))
        as_batch(np.eye(8, dtype=np.float32)[None].repeat(3, axis=0), model_for(None))


# --- Progress, and what an object says of itself


def test_a_run_over_many_images_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, 1.0, 2.1, 2.2, 2.25])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shown = progress.progress_of(True, 4)
    assert shown is not None
    for done in (1, 2, 3, 4):
        shown(done)
    assert capsys.readouterr().err == "\r2 of 4 images\r4 of 4 images\n"


def test_who_is_shown_the_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert progress.progress_of(None, 9) is None  # output that goes to a file
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert progress.progress_of(None, 9) is not None
    assert progress.progress_of(False, 9) is None
    assert progress.progress_of(print, 9) is print


def test_results_say_what_they_are() -> None:
    assert repr(predict(np.array([0.0, 9.0]), ("cat", "dog"))) == (
        "<Prediction dog (100.0%), class 1 of 2>"
    )
    assert isinstance(predict(np.array([1.0]), ()), Prediction)
    model = SimpleNamespace(
        name="vit.onnx",
        config={"board": "zcu104", "bus_bits": 128},
        macs=1000,
        peak_macs=16,
        fabric_mhz=187.5,
    )
    profile = Profile.of(model, {counter.name: 750 for counter in COUNTERS})  # type: ignore[arg-type]
    assert repr(profile) == (
        "<Profile of vit.onnx on zcu104: 750 cycles, 0.004 ms at 187.5 MHz, 8% of MAC peak>"
    )
    assert str(profile).startswith("model               vit.onnx\ncompiled for        zcu104\n")
