"""The digits example as image files: they are the held-out arrays, and get their right names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from vitessera.codegen.importer import evaluate, import_model

pytest.importorskip("PIL", reason="Pillow (extra `images`) is not installed")

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digit_images", DIGITS / "images.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_file_gives_the_array_again(script: ModuleType) -> None:
    arrays, rule = script.chosen(), script.rule()
    assert {path.name for path in script.FOLDER.glob("*.png")} == arrays.keys()
    assert len(arrays) == len(NAMES)
    for name, array in arrays.items():
        np.testing.assert_array_equal(rule.load(script.FOLDER / name), array)


def test_8_bits_hold_every_held_out_image(script: ModuleType) -> None:
    rule = script.rule()
    with np.load(DIGITS / "digits.npz") as content:
        images = content["images"]
    for image in images:
        pixels = script.pixels(image, rule)
        np.testing.assert_array_equal(rule.normalise(pixels), image)
    assert len(images) > 400


def test_the_script_writes_what_is_committed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    committed = script.FOLDER
    monkeypatch.setattr(script, "FOLDER", tmp_path / "new")
    script.main()
    written = sorted((tmp_path / "new").iterdir())
    assert len(written) == len(NAMES)
    for path in written:
        with Image.open(path) as new, Image.open(committed / path.name) as old:
            assert (new.mode, new.size) == (old.mode, old.size) == ("L", (8, 8))
            np.testing.assert_array_equal(np.asarray(new), np.asarray(old))


def test_files_are_classified_by_name(script: ModuleType) -> None:
    rule = script.rule()
    assert rule.classes == NAMES
    graph = import_model(DIGITS / "vit_digits.onnx")
    for label, expected in enumerate(NAMES):
        image = rule.load(script.FOLDER / f"digit-{label}.png")
        logits = evaluate(graph, image)[graph.outputs[0][1]]
        assert rule.class_name(int(np.argmax(logits))) == expected
