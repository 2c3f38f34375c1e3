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
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from vitessera.codegen.errors import ImageError, OutputError
from vitessera.codegen.outputfile import JsonFile, OutputFile, check_outputs
from vitessera.host import Accelerator, Prediction
from vitessera.host.accelerator import check_simulatable, stack
from vitessera.host.board import has_board
from vitessera.host.build import TAIL, CompiledModel, read_compiled
from vitessera.host.errors import BoardError
from vitessera.host.images import Float32Array
from vitessera.host.imagesets import load_images
from vitessera.host.inputs import ARRAY_FILES, KEYS, as_batch, found_files
from vitessera.host.results import Profile, predict
from vitessera.host.tail import RUNTIME, can_run
from vitessera.host.tasks import Kind, Task
from vitessera.host.text import printable

from .foreign import add_foreign_rtl
from .stages import shown_stages
from .terminal import show_progress

Array = npt.NDArray[np.float64]

TERMINAL_SECONDS = 0.1  # between two signs of progress
LOG_SECONDS = 10.0  # the same, where they are lines of a file

# In the name of an output: a folder that is this one, the one above or the root, and what stands
# for a separator elsewhere or begins an encoded byte.
LEADS_ELSEWHERE = re.compile(r"(?:^|(?<=/))(?:\.{1,2}(?=/|$)|/)|[\\%]")
LIKELY = 0.5  # from here on a label is shown
FEW = 8  # numbers of an embedding that are shown

MEMBER_BYTES = 250  # with .npy less than what a file system takes as one name

DESCRIPTION = """\
Runs a compiled model on images: on the board where there is one, else on the simulated RTL. Needs
pynq in either case, and root on a board.

IMAGES are image files (PNG, JPEG, ...; they need Pillow, and a model that was compiled with its
preprocessing), folders of them, patterns such as 'photos/*.jpg', or .npz and .npy files of arrays
[n, channels, height, width], normalised as in training. Videos are arrays, of one axis more. With
'labels' in a .npz file the accuracy is shown, too. What is finished when a run is stopped is
printed and saved.
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
        help="show the N most probable classes, or all where there are fewer (default 1); of "
        "independent labels, all that are likely in any case",
    )
    parser.add_argument(
        "--outputs",
        type=Path,
        metavar="FILE.npz",
        help="save all outputs, as real numbers [images, tokens, channels] by their ONNX names; a "
        "name that would lead out of the folder it is unpacked to, such as '/x', is "
        "percent-encoded",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE.png",
        help="save a result that is a map as a grey picture, the maps of all images one below the "
        "other; of several channels, the number of the greatest",
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
    if path.suffix.lower() not in ARRAY_FILES:
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
    if args.picture is not None:
        check_picture(model)
    work = gather(args.images, model)
    files = Files.of(args, model)
    simulate = on_simulation(args)
    print(f"vitessera: {announcement(args, simulate)}", file=sys.stderr)
    done = Done(model, simulate, Progress(len(work.items)))
    try:
        execute(args, work, done)
    except BaseException:
        if done.outputs:
            kept = f"the results of {len(done.outputs)} of {len(work.items)} images are kept"
            print(f"\nvitessera: stopped; {kept}.", file=sys.stderr)
            deliver(args, work.items, done, files)
        raise
    deliver(args, work.items, done, files)
    return 0


@dataclass
class Done:
    """What has been done so far: all of it, unless the run is stopped.

    Attributes:
        model: that runs.
        simulate: whether on the simulated RTL.
        progress: how many images, and how long they took.
        outputs: of each image that is finished, by ONNX names.
        profile: of the last image, once all are finished.
    """

    model: CompiledModel
    simulate: bool
    progress: Progress
    outputs: list[dict[str, Array]] = field(default_factory=list)
    profile: Profile | None = None


@dataclass(frozen=True)
class Files:
    """What is to be written; None for what is not asked for.

    Attributes:
        outputs: all outputs.
        members: their names in it.
        json: the result.
        picture: of maps.
    """

    outputs: OutputFile | None
    members: Mapping[str, str]
    json: JsonFile | None
    picture: OutputFile | None

    @classmethod
    def of(cls, args: argparse.Namespace, model: CompiledModel) -> Files:
        """Those of the arguments, each of which can be written."""
        outputs = None if args.outputs is None else OutputFile(args.outputs, "run --outputs")
        written = None if args.json is None else JsonFile(args.json, "run --json")
        picture = None if args.picture is None else OutputFile(args.picture, "run --picture")
        check_outputs(outputs, written, picture)
        return cls(outputs, {} if outputs is None else member_names(model), written, picture)


def execute(args: argparse.Namespace, work: Work, done: Done) -> None:
    """Runs the images, and notes in `done` what is finished."""
    options = {"timeout": args.timeout, "foreign_rtl": args.foreign_rtl}
    with (
        shown_stages() as stages,
        Accelerator(args.directory, simulate=done.simulate, **options) as accelerator,
    ):
        stages.finish()
        done.progress.start()
        accelerator.run(work.images, done.progress.show, done.outputs)
        done.progress.finish()
        done.profile = accelerator.profile()


def deliver(args: argparse.Namespace, items: Sequence[Item], done: Done, files: Files) -> None:
    """Prints and writes what has been done."""
    outputs, items = stack(done.outputs), items[: len(done.outputs)]
    result = Result.of(done.model, outputs)
    print(text(result, items, args.top))
    if args.profile and done.profile is not None:
        print(f"\nThe last image:\n{done.profile}")
    if files.outputs is not None:
        save(files.outputs, {files.members[name]: array for name, array in outputs.items()})
        for name, member in files.members.items():
            if name != member and name in outputs:
                shown = f"{files.outputs.path} holds {name!r} as {member!r}"
                print(f"vitessera: {shown}.", file=sys.stderr)
    if files.json is not None:
        files.json.write(facts(result, items, done, args.top))
    if files.picture is not None:
        save_picture(files.picture, result)


def facts(result: Result, items: Sequence[Item], done: Done, top: int) -> dict[str, Any]:
    """What --json writes."""
    profile = done.profile
    return {
        "model": done.model.name,
        "device": "simulated RTL" if done.simulate else "board",
        "complete": profile is not None,
        "task": result.task.kind.value,
        "images": as_records(result, items, top),
        "accuracy": accuracy(items, result),
        "seconds": done.progress.seconds,
        "clock_mhz": profile and profile.clock_mhz,
        "mac_peak_share": profile and profile.mac_peak_share,
        "counters": profile and dict(profile.counters),
    }


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


class Progress:
    """Says on standard error how many images are done."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._terminal = sys.stderr.isatty()
        self.seconds = 0.0
        self.start()

    def start(self) -> None:
        """Time counts from here."""
        self._started = self._shown = time.monotonic()

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


@dataclass(frozen=True)
class Result:
    """The first result of a network for all images.

    Attributes:
        name: in the ONNX file.
        task: what it means.
        values: float64 [images, ...].
        classes: names of classes or labels; empty where there are none.
    """

    name: str
    task: Task
    values: Array
    classes: tuple[str, ...]

    @classmethod
    def of(cls, model: CompiledModel, outputs: Mapping[str, Array]) -> Result:
        """The first of `outputs`."""
        name, values = next(iter(outputs.items()))
        task = model.task(name)
        of_classes = task.kind in (Kind.CLASSES, Kind.LABELS)
        if of_classes and values[0].size != values.shape[-1]:
            task = Task(Kind.EMBEDDING)  # several rows: no class of an image
        return cls(name, task, values, model.classes)

    @cached_property
    def predictions(self) -> list[Prediction]:
        """One for each image, of classes and labels; none of anything else."""
        if self.task.kind not in (Kind.CLASSES, Kind.LABELS):
            return []
        return [predict(row.ravel(), self.classes, self.task.last) for row in self.values]


def text(result: Result, items: Sequence[Item], top: int) -> str:
    """The results for people: a line for each image."""
    names = [printable(item) for item in items]
    width = max(map(len, names))
    lines = [f"{name:<{width}}  {line(result, number, top)}" for number, name in enumerate(names)]
    share = accuracy(items, result)
    if share is not None:
        labelled = sum(item.truth is not None for item in items)
        lines.append(f"top-1 accuracy {share:.2%} of {labelled} labelled images")
    return "\n".join(lines)


def line(result: Result, number: int, top: int) -> str:
    """What came of image `number`, for people."""
    values = result.values[number]
    match result.task.kind:
        case Kind.CLASSES | Kind.LABELS:
            prediction = result.predictions[number]
            return "  ".join(
                f"{printable(label(result, index))} {prediction.probabilities[index]:.1%}"
                for index in shown(result, prediction, top)
            )
        case Kind.SCORES:
            return "  ".join(named_scores(result, values.ravel()))
        case Kind.MAP:
            lines, columns = result.task.grid
            return f"map {lines} x {columns}, from {values.min():.4g} to {values.max():.4g}"
        case _:
            shape = " x ".join(map(str, values.shape)) or "a number"
            first = "  ".join(f"{value:.4g}" for value in values.ravel()[:FEW])
            more = " ..." if values.size > FEW else ""
            return f"{shape}, norm {np.linalg.norm(values):.4g}: {first}{more}"


def named_scores(result: Result, scores: Array) -> list[str]:
    """The first scores, by name where they have names."""
    names = result.classes if len(result.classes) == len(scores) else ()
    few = scores[:FEW] if len(scores) > FEW else scores
    words = [f"{printable(names[i])} {s:.4g}" if names else f"{s:.4g}" for i, s in enumerate(few)]
    return words if len(few) == len(scores) else [*words, "..."]


def shown(result: Result, prediction: Prediction, top: int) -> list[int]:
    """The classes to show: the `top` most probable, and of labels all that are likely."""
    likely = 0
    if result.task.kind is Kind.LABELS:
        likely = int((prediction.probabilities >= LIKELY).sum())
    return ranked(prediction, max(top, likely))


def ranked(prediction: Prediction, top: int) -> list[int]:
    """The `top` most probable classes, or all where there are fewer; of equals, the first."""
    order: list[int] = np.argsort(-prediction.scores, kind="stable")[:top].tolist()
    return order


def label(result: Result, index: int) -> str:
    """The name of a class, or its number."""
    return result.classes[index] if result.classes else str(index)


def accuracy(items: Sequence[Item], result: Result) -> float | None:
    """Share of the labelled images whose class is right; None when there are none."""
    if result.task.kind is not Kind.CLASSES:
        return None
    right = [
        prediction.index == item.truth
        for item, prediction in zip(items, result.predictions, strict=False)
        if item.truth is not None
    ]
    return sum(right) / len(right) if right else None


def as_records(result: Result, items: Sequence[Item], top: int) -> list[dict[str, Any]]:
    """The results for JSON, by image."""
    return [
        {"file": str(item.file), "index": item.index, "truth": item.truth}
        | record(result, number, top)
        for number, item in enumerate(items)
    ]


def record(result: Result, number: int, top: int) -> dict[str, Any]:
    """What came of image `number`, for JSON."""
    values = result.values[number]
    match result.task.kind:
        case Kind.CLASSES | Kind.LABELS as kind:
            prediction = result.predictions[number]
            return {
                kind.value: [
                    {
                        "class": index,
                        "label": label(result, index),
                        "probability": float(prediction.probabilities[index]),
                    }
                    for index in shown(result, prediction, top)
                ]
            }
        case Kind.SCORES:
            return {"scores": values.ravel().tolist()}
        case Kind.MAP:
            return {"map": result.task.maps(values[None])[0].tolist()}
        case _:
            return {"norm": float(np.linalg.norm(values)), "first": values.ravel()[:FEW].tolist()}


def save_picture(file: OutputFile, result: Result) -> None:
    """Writes the maps of all images as a grey picture, one below the other; ImageError if not."""
    maps = result.task.maps(result.values)
    low, high = maps.min(), maps.max()
    grey = np.rint((maps - low) * (255.0 / (high - low or 1.0))).astype(np.uint8)
    image = image_class().fromarray(grey.reshape(-1, grey.shape[-1]))
    from PIL.PngImagePlugin import PngInfo

    mark = PngInfo()
    mark.add_text("Comment", file.mark)
    with file.writing() as staged:
        image.save(staged, format="PNG", pnginfo=mark)


def check_picture(model: CompiledModel) -> None:
    """ImageError unless the first result is a map, and Pillow is there to draw it."""
    image_class()
    kind = model.task(model.results(can_run())[0]).kind
    if kind is Kind.MAP:
        return
    remedy = "Leave it out; or compile the model with --task map, if its first result is one."
    if model.task(model.results()[0]).kind is Kind.MAP:
        remedy = f"Its map is made by {TAIL}: install {RUNTIME}, or leave --picture out."
    raise ImageError(f"--picture: {model.name} gives {kind.value}, no map.", remedy)


def image_class() -> Any:  # noqa: ANN401 (Pillow is optional)
    """Pillow's Image; ImageError where it is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImageError(
            "--picture: Pillow is not installed.", "pip install pillow, or leave it out."
        ) from error
    return Image


def member_names(model: CompiledModel) -> dict[str, str]:
    """Output → its name in an archive; OutputError when one is too long for a file."""
    results = (*model.results(with_tail=False), *model.results())
    names = {name: member_name(name) for name in results}
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
