"""`vitessera run`: images on the board, or on its simulated RTL.

Runs on boards: nothing but numpy and pynq is there.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from vitessera.codegen.errors import ImageError, OutputError
from vitessera.codegen.outputfile import JsonFile, OutputFile, check_outputs
from vitessera.host import Accelerator, Prediction
from vitessera.host.accelerator import check_simulatable
from vitessera.host.board import has_board
from vitessera.host.build import CompiledModel, read_compiled
from vitessera.host.errors import BoardError
from vitessera.host.images import Float32Array
from vitessera.host.imagesets import load_images
from vitessera.host.inputs import ARRAY_FILES, KEYS, as_batch, found_files
from vitessera.host.results import predict
from vitessera.host.text import printable

from .foreign import add_foreign_rtl
from .terminal import show_progress

TERMINAL_SECONDS = 0.1  # between two signs of progress
LOG_SECONDS = 10.0  # the same, where they are lines of a file

# In the name of an output: a folder that is this one, the one above or the root, and what stands
# for a separator elsewhere or begins an encoded byte.
LEADS_ELSEWHERE = re.compile(r"(?:^|(?<=/))(?:\.{1,2}(?=/|$)|/)|[\\%]")
MEMBER_BYTES = 250  # with .npy less than what a file system takes as one name

DESCRIPTION = """\
Runs a compiled model on images: on the board where there is one, else on the simulated RTL. Needs
pynq in either case, and root on a board.

IMAGES are image files (PNG, JPEG, ...; they need Pillow, and a model that was compiled with its
preprocessing), folders of them, or .npz and .npy files of arrays [n, channels, height, width],
normalised as in training. Videos are arrays, of one axis more. With 'labels' in a .npz file the
accuracy is shown, too.
"""
EPILOG = """\
examples:
  vitessera run build/ digit.png
  vitessera run build/ photos/ --top 3
  vitessera run build/ test.npz --json result.json --profile
  vitessera run build/ test.npz --outputs outputs.npz      (a model without classes, say)
  sudo -E env PATH=$PATH vitessera run build/ digit.png    (on a board, over ssh)
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the sub-command."""
    parser = subparsers.add_parser(
        "run",
        help="run images on the board, or on the simulated RTL",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="a build directory, or an unpacked package"
    )
    parser.add_argument("images", type=Path, nargs="+", metavar="IMAGES")
    device = parser.add_mutually_exclusive_group()
    device.add_argument(
        "--simulate", action="store_true", help="on the simulated RTL, even where there is a board"
    )
    device.add_argument(
        "--board", action="store_true", help="on the board; an error where there is none"
    )
    parser.add_argument(
        "--top",
        type=positive,
        default=1,
        metavar="N",
        help="show the N most probable classes, or all where there are fewer (default 1)",
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        metavar="FILE.npz",
        help="save all outputs, as real numbers [images, tokens, channels] by their ONNX names; of "
        "names that are no paths below a folder, as '/x' is none, that part is percent-encoded",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here, too")
    parser.add_argument(
        "--profile", action="store_true", help="say where the cycles of the last image went"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        metavar="S",
        help="seconds that an image may take by the accelerator's clock (default: many times "
        "what is predicted)",
    )
    add_foreign_rtl(parser)
    parser.set_defaults(run=run)


def positive(text: str) -> int:
    """A whole number above zero, for argparse."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above zero")
    return int(text)


def seconds(text: str) -> float:
    """A time above zero, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above zero")
    return value


# --- What is to be run


@dataclass(frozen=True)
class Item:
    """One image of those given.

    Attributes:
        file: as given on the command line.
        index: in the file, None for an image file.
        truth: its class, if the file says so.
    """

    file: Path
    index: int | None = None
    truth: int | None = None

    def __str__(self) -> str:
        return str(self.file) if self.index is None else f"{self.file}[{self.index}]"


@dataclass(frozen=True)
class Work:
    """All images: float32 [n, ...] as the model takes them, and where each comes from."""

    images: Float32Array
    items: tuple[Item, ...]


def gather(paths: Sequence[Path], model: CompiledModel) -> Work:
    """Reads all images; ImageError if one does not fit, before any has been run."""
    images, items = [], []
    for path in (file for given in paths for file in found_files(given)):
        batch = as_batch(path, model)
        images.append(batch.images)
        items.extend(_items(path, len(batch.images)))
    return Work(np.concatenate(images), tuple(items))


def _items(path: Path, count: int) -> list[Item]:
    if path.suffix not in ARRAY_FILES:
        return [Item(path)]
    labels = load_images(path, KEYS).labels
    truths = [None] * count if labels is None else labels.tolist()
    return [Item(path, index, truth) for index, truth in enumerate(truths)]


# --- The command


def run(args: argparse.Namespace) -> int:
    """Runs the images and prints the results.

    Raises:
        VitesseraError: build directory, images, or accelerator; see host/errors.py.
    """
    model = read_compiled(args.directory)
    if args.outputs is None:
        check_classes(model)
    work = gather(args.images, model)
    saved = None if args.outputs is None else OutputFile(args.outputs, "run --outputs")
    written = None if args.json is None else JsonFile(args.json, "run --json")
    check_outputs(saved, written)
    members = {} if saved is None else member_names(model)
    simulate = on_simulation(args)
    print(f"vitessera: {announcement(args, simulate)}", file=sys.stderr)
    options = {"timeout": args.timeout, "foreign_rtl": args.foreign_rtl}
    with Accelerator(args.directory, simulate=simulate, **options) as accelerator:
        progress = Progress(len(work.items))
        outputs = accelerator.run(work.images, progress.show)
        progress.finish()
        profile = accelerator.profile()
    predictions = classify(model, outputs)
    print(text(model, work.items, predictions, outputs, args.top))
    if args.profile:
        print(f"\nThe last image:\n{profile}")
    if saved is not None:
        save(saved, {members[name]: array for name, array in outputs.items()})
        for name, member in members.items():
            if name != member:
                print(f"vitessera: {saved.path} holds {name!r} as {member!r}.", file=sys.stderr)
    if written is not None:
        facts = {
            "model": model.name,
            "device": "simulated RTL" if simulate else "board",
            "images": as_records(model, work.items, predictions, args.top),
            "accuracy": accuracy(work.items, predictions),
            "seconds": progress.seconds,
            "clock_mhz": profile.clock_mhz,
            "mac_peak_share": profile.mac_peak_share,
            "counters": dict(profile.counters),
        }
        written.write(facts)
    return 0


def on_simulation(args: argparse.Namespace) -> bool:
    """Whether the images go to the simulated RTL rather than to the board.

    Raises:
        BoardError: --board, and there is none.
        BuildDirectoryError: there is no RTL to simulate.
    """
    if args.board and not has_board():
        raise BoardError(
            "There is no board here: Linux has no FPGA that it could load.",
            "Run it on the board, or leave --board out for the simulated RTL.",
        )
    simulate: bool = args.simulate or not has_board()
    if simulate:
        check_simulatable(args.directory)
    return simulate


def announcement(args: argparse.Namespace, simulate: bool) -> str:
    """Where the images are going to run, and why there."""
    if not simulate:
        return "on the board."
    reason = "" if args.simulate else "there is no board here: "
    return f"{reason}on the simulated RTL; the first time, building it takes minutes."


def check_classes(model: CompiledModel) -> None:
    """Raises ImageError when the model's output is not one row of class scores."""
    if not is_classifier(model):
        raise ImageError(
            f"{model.name} does not end in one row of class scores for each image (outputs: "
            f"{shapes(model)}), so there is nothing to print.",
            "Save its outputs with --outputs FILE.npz.",
        )


def is_classifier(model: CompiledModel) -> bool:
    """Whether the first output is one row of class scores."""
    return bool(model.outputs[0].index.shape[0] == 1)


def shapes(model: CompiledModel) -> str:
    """The outputs for an image, for people."""
    return ", ".join(
        f"{printable(output.name)} {list(output.index.shape)}" for output in model.outputs
    )


class Progress:
    """Says on standard error how many images are done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self.seconds = 0.0

    def show(self, done: int) -> None:
        """`done` images are."""
        now = time.monotonic()
        self.seconds = now - self._started
        if now - self._shown < (TERMINAL_SECONDS if self._terminal else LOG_SECONDS):
            return
        self._shown = now
        line = f"  {done} of {self._total} images"
        if self._terminal:
            show_progress(line)
        else:
            print(line, file=sys.stderr)

    def finish(self) -> None:
        """All are."""
        images = "1 image" if self._total == 1 else f"{self._total} images"
        print(f"  {images} in {self.seconds:.3f} s", file=sys.stderr)


# --- Results


def classify(
    model: CompiledModel, outputs: Mapping[str, npt.NDArray[np.float64]]
) -> list[Prediction]:
    """A prediction for each image; none when the model is no classifier."""
    if not is_classifier(model):
        return []
    return [predict(row[0], model.classes) for row in outputs[model.outputs[0].name]]


def text(
    model: CompiledModel,
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    outputs: Mapping[str, npt.NDArray[np.float64]],
    top: int,
) -> str:
    """The results for people: a line for each image."""
    if not predictions:
        return "\n".join(
            f"{printable(name)}  {list(array.shape)}" for name, array in outputs.items()
        )
    names = [printable(item) for item in items]
    width = max(map(len, names))
    lines = [
        f"{name:<{width}}  {best(model, prediction, top)}"
        for name, prediction in zip(names, predictions, strict=True)
    ]
    share = accuracy(items, predictions)
    if share is not None:
        labelled = sum(item.truth is not None for item in items)
        lines.append(f"top-1 accuracy {share:.2%} of {labelled} labelled images")
    return "\n".join(lines)


def best(model: CompiledModel, prediction: Prediction, top: int) -> str:
    """The `top` most probable classes, for people."""
    return "  ".join(
        f"{printable(label(model, index))} {prediction.probabilities[index]:.1%}"
        for index in ranked(prediction, top)
    )


def ranked(prediction: Prediction, top: int) -> list[int]:
    """The `top` most probable classes, or all where there are fewer; of equals, the first."""
    order: list[int] = np.argsort(-prediction.scores, kind="stable")[:top].tolist()
    return order


def label(model: CompiledModel, index: int) -> str:
    """The name of a class, or its number."""
    return model.classes[index] if model.classes else str(index)


def accuracy(items: Sequence[Item], predictions: Sequence[Prediction]) -> float | None:
    """Share of the labelled images whose class is right; None when there are none."""
    right = [
        prediction.index == item.truth
        for item, prediction in zip(items, predictions, strict=False)
        if item.truth is not None
    ]
    return sum(right) / len(right) if right else None


def as_records(
    model: CompiledModel, items: Sequence[Item], predictions: Sequence[Prediction], top: int
) -> list[dict[str, Any]]:
    """The results for JSON, by image."""
    records: list[dict[str, Any]] = [
        {"file": str(item.file), "index": item.index, "truth": item.truth} for item in items
    ]
    for record, prediction in zip(records, predictions, strict=False):
        record["classes"] = [
            {
                "class": index,
                "label": label(model, index),
                "probability": float(prediction.probabilities[index]),
            }
            for index in ranked(prediction, top)
        ]
    return records


def member_names(model: CompiledModel) -> dict[str, str]:
    """Output → its name in an archive; OutputError when one is too long for a file."""
    names = {output.name: member_name(output.name) for output in model.outputs}
    for name, member in names.items():
        if len(member.encode()) > MEMBER_BYTES:
            raise OutputError(
                f"The output {name[:40]!r}... has a name that is too long for a file in an archive "
                f"({len(name)} characters).",
                "Rename it in the model and compile that again, or leave --outputs out.",
            )
    return names


def member_name(name: str) -> str:
    """`name` as a path in an archive, which stays in the folder that it is unpacked to.

    What could lead elsewhere, or cannot be shown, is percent-encoded; urllib.parse.unquote gives
    the name back, so that no two become one.
    """
    inside = LEADS_ELSEWHERE.sub(lambda found: percent_encoded(found[0]), name)
    return "".join(char if char.isprintable() else percent_encoded(char) for char in inside)


def percent_encoded(text: str) -> str:
    """Every byte of `text` as % and two digits."""
    return "".join(f"%{byte:02X}" for byte in text.encode("utf-8", "surrogatepass"))


def save(file: OutputFile, outputs: Mapping[str, npt.NDArray[np.float64]]) -> None:
    """Writes arrays as .npz, by member_name; OutputError when that is not possible."""
    # numpy.savez would take some names, such as "file", for arguments of its own.
    with (
        file.writing() as staged,
        zipfile.ZipFile(staged, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        archive.comment = file.mark.encode()
        for name, array in outputs.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array)
