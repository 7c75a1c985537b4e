"""The subcommand `masks`: writes a seeded set of masks with a manifest."""

import argparse
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxinpaint.data.images import write_image
from jaxinpaint.data.mask_sets import evaluation_masks, manifest
from jaxinpaint.data.pairs import images_by_name
from jaxinpaint.data.pictures import read_picture, write_whole

EMPTY = {  # a set of `evaluation_masks` that holds no mask
    "squares": (),
    "centre": (),
    "half": False,
    "irregular_ratios": (),
    "stroke_width": (12, 40),
}


class Kind(NamedTuple):
    """A kind of masks: what it is, the option that it needs, and its set."""

    help: str
    needs: str
    make: Callable[[argparse.Namespace], Mapping[str, Any]]


KINDS = {
    "irregular": Kind(
        "free-form strokes of an exact share",
        "ratio",
        lambda p: {
            "irregular_ratios": ratios(p),
            "stroke_width": widths(p.stroke_width, int),
        },
    ),
    "exact": Kind(
        "zigzag strokes of an exact share",
        "ratio",
        lambda p: {"exact_ratios": ratios(p)},
    ),
    "walk": Kind(
        "strokes that walk, of a share in a range such as 0.2-0.3",
        "ratio",
        lambda p: {
            "walk_ranges": ranges(p),
            "walk_bank": p.count if p.like is None else sys.maxsize,
            "walk_widths": widths(p.stroke_width, float),
            "walk_start": "anywhere",
        },
    ),
    "rectangle": Kind(
        "a rectangle in the middle, of a share of 0.1, 0.3 or 0.5",
        "ratio",
        lambda p: {"rectangle_ratios": ratios(p)},
    ),
    "square": Kind(
        "a square anywhere", "side", lambda p: {"squares": numbers(p.side, "side")}
    ),
    "centre": Kind(
        "a square in the middle", "side", lambda p: {"centre": numbers(p.side, "side")}
    ),
    "half": Kind("the left half", "", lambda p: {"half": True}),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `masks` to its parser."""
    parser.epilog = (
        "A mask depends on seed, kind, share or side, index and size alone: the same "
        "command writes the same bits anywhere. masks.json holds the seed and a digest "
        "of each mask and of all. Exit codes: 0 done; 2 wrong use, and nothing was "
        "written."
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="new, or empty"
    )
    parser.add_argument(
        "--kind",
        required=True,
        choices=KINDS,
        help="; ".join(f"{name}: {kind.help}" for name, kind in KINDS.items()),
    )
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--size", metavar="HxW", help="rows x columns, or one number")
    size.add_argument(
        "--like",
        type=Path,
        metavar="DIR",
        help="a mask for each image of this folder, of its size and name",
    )
    parser.add_argument(
        "--count", type=int, default=1, metavar="N", help="of each share or side"
    )
    parser.add_argument(
        "--ratio",
        metavar="SHARES",
        help="of the image that is hole: 0.1,0.3, or for walk 0.01-0.25,0.25-0.4",
    )
    parser.add_argument("--side", metavar="PIXELS", help="of squares: 32,64")
    parser.add_argument(
        "--stroke-width",
        default="12-40",
        metavar="LOW-HIGH",
        help="of irregular strokes in pixels, of walk in pixels of a 256 x 256 image "
        "(default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the set")
    parser.add_argument(
        "--mask-polarity",
        choices=("hole", "valid"),
        default="hole",
        help="what white marks in the files (default: %(default)s)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Writes the masks; returns the exit code 0.

    Raises:
      ValueError: wrong use.
      RuntimeError: never; a range that is too narrow is told as wrong use.
      OSError: a folder is not there or cannot be written.
    """
    kind = KINDS[parsed.kind]
    for option in ("ratio", "side"):
        given = getattr(parsed, option) is not None
        if given != (option == kind.needs):
            verb = "does not take" if given else "needs"
            raise ValueError(f"--kind {parsed.kind} {verb} --{option}.")
    if parsed.count < 1 or parsed.seed < 0:
        raise ValueError(
            f"--count is {parsed.count} and --seed {parsed.seed}; they are at least 1 "
            "and 0."
        )
    if parsed.like is not None and parsed.count != 1:
        raise ValueError("--like draws one mask an image; leave --count out.")
    output = parsed.output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is no empty folder; name another --output.")
    mask_set = {**EMPTY, **kind.make(parsed)}
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        try:
            told = _write(parsed, mask_set, part)
        except RuntimeError as error:
            raise ValueError(str(error)) from error
        part.replace(output)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for label, shares in told.items():
        low, high = 100 * min(shares), 100 * max(shares)
        print(f"{label}: {len(shares)} masks, {low:.2f} to {high:.2f} % hole")
    return 0


def _write(
    parsed: argparse.Namespace, mask_set: Mapping[str, Any], folder: Path
) -> dict[str, list[float]]:
    """Writes masks and manifest; label -> the shares of hole."""
    entries, files = [], []
    told: dict[str, list[float]] = {}
    drawn = list(_draw(parsed, mask_set))
    labels = dict.fromkeys(label for _, label, _, _ in drawn)
    for name, label, index, mask in drawn:
        # One label needs no folder of its own, so that names are those of the images.
        place = Path() if len(labels) == 1 else Path(label.replace("%", "_percent"))
        file = place / f"{name}.png"
        (folder / place).mkdir(exist_ok=True)
        white = mask if parsed.mask_polarity == "hole" else 1 - mask
        write_image(folder / file, white * np.uint8(255))
        entries.append((label, index, mask))
        files.append(file.as_posix())
        told.setdefault(label, []).append(float(mask.mean()))
    found = {
        "command": shlex.join(sys.argv),
        "mask_polarity": parsed.mask_polarity,
        **manifest(entries, parsed.seed),
        "files": files,  # of the masks, in their order
    }
    text = json.dumps(found, indent=1, allow_nan=False) + "\n"
    write_whole(folder / "masks.json", text.encode())
    return told


def _draw(
    parsed: argparse.Namespace, mask_set: Mapping[str, Any]
) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Name, label, index and mask [H, W, 1] of each mask."""
    if parsed.like is None:
        size = image_size(parsed.size)
        for label, index, mask in evaluation_masks(
            mask_set, *size, parsed.count, parsed.seed
        ):
            yield f"{index:04d}", label, index, mask
        return
    alike: dict[tuple[int, int], list[str]] = {}
    for name, path in images_by_name(parsed.like).items():
        height, width, _ = read_picture(path).pixels.shape
        alike.setdefault((height, width), []).append(name)
    for size, names in alike.items():
        for label, index, mask in evaluation_masks(
            mask_set, *size, len(names), parsed.seed
        ):
            yield names[index], label, index, mask


def image_size(text: str) -> tuple[int, int]:
    """Reads "256x512" as 256 rows and 512 columns, "256" as a square.

    Raises:
      ValueError: anything else.
    """
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    height, width = (
        (int(n) for n in (found[1], found[2] or found[1])) if found else (0, 0)
    )
    if min(height, width) < 1:
        raise ValueError(f"--size is {text!r}; give rows x columns, such as 256x512.")
    return height, width


def numbers(text: str, option: str) -> tuple[int, ...]:
    """Reads "32,64".

    Raises:
      ValueError: no whole numbers of 1 or more.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"--{option} is {text!r}; give pixels, such as 32,64.")
    return tuple(int(part) for part in parts)


def ratios(parsed: argparse.Namespace) -> tuple[float, ...]:
    """Reads "0.1,0.3", shares of an image.

    Raises:
      ValueError: no numbers between 0 and 1.
    """
    try:
        found = tuple(float(part) for part in parsed.ratio.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < share < 1 for share in found):
        raise ValueError(
            f"--ratio is {parsed.ratio!r}; --kind {parsed.kind} takes shares between "
            "0 and 1, such as 0.1,0.3."
        )
    return found


def ranges(parsed: argparse.Namespace) -> tuple[tuple[float, float], ...]:
    """Reads "0.01-0.25,0.25-0.4", ranges of shares.

    Raises:
      ValueError: anything else.
    """
    return tuple(_range(part, "ratio", float) for part in parsed.ratio.split(","))


def widths(text: str, number: Callable[[str], Any]) -> tuple[Any, Any]:
    """Reads "12-40".

    Raises:
      ValueError: anything else.
    """
    return _range(text, "stroke-width", number)


def _range(text: str, option: str, number: Callable[[str], Any]) -> tuple[Any, Any]:
    low, dash, high = text.partition("-")
    try:
        if not dash or not number(low) <= number(high):
            raise ValueError
        return number(low), number(high)
    except ValueError as error:
        raise ValueError(
            f"--{option} is {text!r}; give LOW-HIGH, such as "
            f"{'0.2-0.3' if option == 'ratio' else '12-40'}."
        ) from error
