"""Writes one held-out digit of each class as an 8-bit PNG file, for the notebooks on the board.

    python examples/digits/images.py        (needs: pip install 'vitessera[compile,images]')

The files are the arrays of digits.npz turned back into pixels: preprocessor_config.json, applied to
a file, gives the array again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from vitessera.codegen.importer import import_model
from vitessera.codegen.preprocessing import find_preprocessing
from vitessera.host.imagesets import load_images
from vitessera.host.preprocessing import Preprocessing

HERE = Path(__file__).resolve().parent
MODEL = HERE / "vit_digits.onnx"
IMAGES = HERE / "digits.npz"
FOLDER = HERE.parents[1] / "host" / "notebooks" / "digits"


def pixels(array: npt.NDArray[np.float32], rule: Preprocessing) -> npt.NDArray[np.uint8]:
    """The 8-bit pixels [height, width] of one normalised greyscale image [1, height, width]."""
    (mean,), (std,) = rule.mean, rule.std
    found = np.rint((array[0].astype(np.float64) * std + mean) / rule.rescale).astype(np.uint8)
    assert np.array_equal(rule.normalise(found), array), "8 bits do not hold this image"
    return found


def chosen() -> dict[str, npt.NDArray[np.float32]]:
    """File name → the first held-out image [1, 8, 8] of each class."""
    held_out = load_images(IMAGES)
    assert held_out.labels is not None, f"{IMAGES} carries labels"
    labels = held_out.labels.tolist()
    return {
        f"digit-{label}.png": np.asarray(held_out.images[labels.index(label)], np.float32)
        for label in sorted(set(labels))
    }


def rule() -> Preprocessing:
    """What preprocessor_config.json says."""
    found = find_preprocessing(MODEL, import_model(MODEL))
    assert found is not None, "preprocessor_config.json lies beside the model"
    return found


def main() -> None:
    """Writes the files and says where."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = rule()
    for name, array in chosen().items():
        Image.fromarray(pixels(array, found)).save(FOLDER / name)
        print(FOLDER / name)


if __name__ == "__main__":
    main()
