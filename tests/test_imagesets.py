"""Files of arrays: as numpy reads them, but with nothing read that a header only claims."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from vitessera.host import imagesets
from vitessera.host.errors import ImageError
from vitessera.host.imagesets import evenly, largest_set, load_images

IMAGES = np.arange(7 * 3 * 4 * 5, dtype=np.float32).reshape(7, 3, 4, 5)
LABELS = np.arange(7)


def files(folder: Path) -> list[Path]:
    np.savez(folder / "plain.npz", images=IMAGES, labels=LABELS)
    np.savez_compressed(folder / "compressed.npz", labels=LABELS, images=IMAGES)
    np.savez(folder / "fortran.npz", images=np.asfortranarray(IMAGES), labels=LABELS)
    np.savez(folder / "alone.npz", anything=IMAGES)
    np.save(folder / "array.npy", IMAGES)
    return sorted(folder.iterdir())


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    for path in files(tmp_path):
        found = load_images(path)
        np.testing.assert_array_equal(found.images, IMAGES)
        assert found.images.dtype == np.float32
        assert found.left_out == 0
        if found.labels is not None:
            np.testing.assert_array_equal(found.labels, LABELS)
    assert load_images(tmp_path / "plain.npz").labels is not None


@pytest.mark.parametrize("most", [1, 2, 3, 6, 7, 100])
def test_some_are_read_evenly_spread(tmp_path: Path, most: int) -> None:
    places = list(evenly(len(IMAGES), most))
    assert len(places) == min(most, len(IMAGES))
    assert len(set(np.diff(places))) <= 2
    for path in files(tmp_path):
        found = load_images(path, most=most)
        np.testing.assert_array_equal(found.images, IMAGES[places])
        assert found.left_out == len(IMAGES) - len(places)
        if found.labels is not None:
            np.testing.assert_array_equal(found.labels, LABELS[places])


@pytest.mark.parametrize("array", [np.float32(4), np.zeros((0, 3, 4, 5), np.float32)])
def test_arrays_without_rows(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "images.npy", array)
    found = load_images(tmp_path / "images.npy").images
    assert (found.shape, found.dtype) == (array.shape, np.float32)


# --- What claims too much ------------------------------------------------------------------------


def header(shape: tuple[int, ...], kind: str = "<f4") -> bytes:
    written = io.BytesIO()
    words = {"shape": shape, "fortran_order": False, "descr": kind}
    np.lib.format.write_array_header_1_0(written, words)
    return written.getvalue()


def bomb(path: Path, images: int = 3000) -> Path:
    """Zeros that unpack to a thousand times the file's size; 0.6 MB each."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images", "notes"):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header((images, 3, 224, 224)))
                for _ in range(images):
                    member.write(bytes(3 * 224 * 224 * 4))
    return path


def test_what_unpacks_to_more_than_the_limit_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imagesets, "LARGEST_SET_BYTES", 20 << 20)
    path = bomb(tmp_path / "images.npz", images=50)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ImageError) as caught:
            load_images(path)
        assert "'images', [50, 3, 224, 224] of float32, takes 29 MiB" in caught.value.culprit
        assert "at most 20" in caught.value.culprit
        assert "fewer images" in caught.value.remedy
        assert load_images(path, most=10).images.shape == (10, 3, 224, 224)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20, "what was asked for alone is read, of one array alone"


def test_the_limit_depends_on_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"SC_PHYS_PAGES": 1 << 17, "SC_PAGE_SIZE": 1 << 12}  # a Zynq board's
    monkeypatch.setattr("os.sysconf", sizes.get)
    assert largest_set() == 64 << 20
    sizes["SC_PHYS_PAGES"] = 1 << 24
    assert largest_set() == imagesets.LARGEST_SET_BYTES


LYING = {
    "more than there is": (header((1000, 3, 4, 5)), "but there is less"),
    "terabytes": (header((1 << 40, 3, 4, 5)), "but there is less"),
    "less than nothing": (header((-1, 3, 4, 5)), "but there is less"),
    "endless rows of nothing": (header((1 << 80, 0)), ""),
    "objects": (header((1,), "|O") + bytes(8), "pickled objects"),
    "no type": (header((1,)).replace(b"<f4", b"<z9"), ""),
    "another version": (b"\x93NUMPY\x09\x00", "version (9, 0)"),
    "deep": (
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 200_000) + b"(" * 200_000,
        "",
    ),
    "nothing": (b"", ""),
    "text": (b"no array", "magic string"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", LYING)
def test_headers_that_lie(tmp_path: Path, case: str, packed: bool) -> None:
    content, words = LYING[case]
    path = tmp_path / ("images.npz" if packed else "images.npy")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("images.npy", content)
    else:
        path.write_bytes(content)
    with pytest.raises(ImageError) as caught:
        load_images(path)
    assert f"{path}: not a file of numpy arrays (" in caught.value.culprit
    assert words in caught.value.culprit
    assert "numpy.savez" in caught.value.remedy


def damaged(folder: Path, kind: str) -> Path:
    path = folder / "images.npz"
    content = io.BytesIO()
    np.savez_compressed(content, images=np.random.default_rng(0).random((5, 3, 9, 9)))
    data = bytearray(content.getvalue())
    central = data.rindex(b"PK\x01\x02")
    match kind:
        case "encrypted":
            data[6] |= 1
            data[central + 8] |= 1
        case "method":
            data[8:10] = data[central + 10 : central + 12] = struct.pack("<H", 99)
        case "stream":
            data[400:800] = bytes(400)
        case "checksum":
            data[central + 16] ^= 1
            data[14] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["encrypted", "method", "stream", "checksum"])
def test_members_that_are_damaged(tmp_path: Path, kind: str) -> None:
    path = damaged(tmp_path, kind)
    with pytest.raises(ImageError, match=r"images\.npz: not a file of numpy arrays"):
        load_images(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_that_hides_terabytes(tmp_path: Path, method: int) -> None:
    path = tmp_path / "images.npz"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images.npy", header((1,)) + bytes(4))
    with pytest.raises(ImageError, match=r"compressed in a way that numpy\.savez does not"):
        load_images(path)
