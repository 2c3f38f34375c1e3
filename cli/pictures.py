"""The options that say how image files become what the network takes."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from vitessera.host.preprocessing import RESAMPLING

if TYPE_CHECKING:
    from vitessera.codegen.preprocessing import Given

SIZE = re.compile(r"([1-9]\d*)(?:[xX×]([1-9]\d*))?")


def add_pictures(parser: argparse.ArgumentParser) -> None:
    """Adds --mean, --std, --resize, --crop, --resample and --classes."""
    group = parser.add_argument_group(
        "image files", "what was done to images in training, which the host does again to files"
    )
    for name, meaning in (
        ("mean", "subtracted from pixels of 0 to 1"),
        ("std", "what they are then divided by"),
    ):
        group.add_argument(
            f"--{name}",
            type=numbers,
            default=(),
            metavar="M,M,M",
            help=f"{meaning}, one number a channel",
        )
    group.add_argument(
        "--resize",
        type=size,
        metavar="N|HxW",
        help="resize to height x width, or the shorter edge to N, aspect ratio kept",
    )
    group.add_argument(
        "--crop", type=sides, metavar="N|HxW", help="then cut this out of the centre"
    )
    group.add_argument(
        "--resample",
        choices=RESAMPLING,
        default="",
        help="how pixels are resized (default bilinear)",
    )
    group.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="names of the classes: one a line, or JSON, a list or a map from number to name",
    )


def given(args: argparse.Namespace) -> Given:
    """What these options say."""
    from vitessera.codegen.preprocessing import Given, read_classes

    pixels = Given(args.mean, args.std, resize=args.resize, crop=args.crop, resample=args.resample)
    if args.classes is None:
        return pixels
    names = read_classes(args.classes)
    return replace(pixels, classes=names, classes_source=args.classes.name)


def numbers(text: str) -> tuple[float, ...]:
    """Numbers between commas, for argparse."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers; give one for each channel, such as 0.5,0.5,0.5"
        )
    return values


def size(text: str) -> int | tuple[int, int]:
    """One side, or height and width, for argparse."""
    found = SIZE.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size in pixels; give 256, or height and width as in 224x224"
        )
    height, width = found.groups()
    return int(height) if width is None else (int(height), int(width))


def sides(text: str) -> tuple[int, int]:
    """Height and width, for argparse; one number is both."""
    given = size(text)
    return (given, given) if isinstance(given, int) else given
