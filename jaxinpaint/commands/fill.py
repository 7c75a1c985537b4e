"""The subcommand `fill`: what its words mean."""

import argparse
import logging
import re
from pathlib import Path

from jaxinpaint.data.images import MAX_PIXELS

SECTIONS = ("neighbor", "previous", "following")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `fill` to its parser."""
    parser.epilog = (
        "Files belong together by name without ending: image/a.tif, mask/a.png. A "
        "result keeps its image's size, container, depth, alpha, colour profile, EXIF "
        "and tags (a JPEG becomes a PNG); NAME_invented.png beside it is white where "
        "pixels were invented, and fill.json says what made them. Exit codes: 0 all "
        "were restored; 1 some were not, each named; 2 wrong use, and nothing was "
        "written; 143 and 130 after SIGTERM and SIGINT, and what was restored is there."
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="of a trained run"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="of its checkpoint; the newest otherwise"
    )
    parser.add_argument(
        "--image",
        required=True,
        type=Path,
        metavar="PATH",
        help="a PNG, TIFF, BMP or JPEG, or a folder of them",
    )
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="PATH",
        help="a mask for each image, holding 0 and 255 (or 1), or one file for all; "
        "systems that need none restore without it",
    )
    for name in SECTIONS:
        parser.add_argument(
            f"--{name}",
            type=Path,
            metavar="PATH",
            help=f"the {name} section, for systems that read it: an image, or a folder",
        )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="gets the results"
    )
    parser.add_argument(
        "--mask-polarity",
        choices=("hole", "valid"),
        default="hole",
        help="what white marks (default: %(default)s)",
    )
    parser.add_argument(
        "--mask-suffix",
        default="",
        metavar="END",
        help="of the masks' names: _mask if the mask of a.png is a_mask.png",
    )
    parser.add_argument(
        "--mask-threshold",
        type=int,
        metavar="LEVEL",
        help="levels from this one on count as white; soft masks are refused otherwise",
    )
    parser.add_argument(
        "--allow-large-holes",
        action="store_true",
        help="take masks that mark more than 95 %% of an image",
    )
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="SIDE",
        help="in pixels: larger images are restored in tiles around their holes; "
        "'whole' restores every image at once (default: twice the side that the run "
        "was trained on, at least 512)",
    )
    parser.add_argument(
        "--overlap",
        type=int,
        metavar="PIXELS",
        help="context around a hole, and overlap of tiles; a quarter of a tile if not "
        "given",
    )
    parser.add_argument(
        "--max-pixels",
        type=int,
        default=MAX_PIXELS,
        metavar="N",
        help="files that declare more are refused undecoded (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="tiles, and images, at once (default: %(default)s)",
    )
    parser.add_argument(
        "--panel",
        action="store_true",
        help="draw panels/NAME.png: given, neighbours, restored, invented",
    )
    there = parser.add_mutually_exclusive_group()
    there.add_argument(
        "--skip-existing", action="store_true", help="keep results that are there"
    )
    there.add_argument(
        "--overwrite", action="store_true", help="replace results that are there"
    )
    parser.add_argument(
        "--shard",
        default="1/1",
        metavar="I/N",
        help="restore each N-th image from the I-th on, to share them among machines",
    )


def run(parsed: argparse.Namespace) -> int:
    """Restores; returns the exit code.

    Raises:
      ValueError: wrong use.
      OSError: a folder is not there.
      ImportError: an extra is needed and not installed.
    """
    from absl import logging as absl_logging

    from jaxinpaint.evaluation import restoring  # imports jax
    from jaxinpaint.evaluation.restoring_files import Job

    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax tells every restore
    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("batch_size", "mask_threshold", "max_pixels"):
        value = getattr(parsed, name)
        if value is not None and value < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}; it must be 1 or more.")
    job = Job(
        workdir=parsed.workdir,
        step=parsed.step,
        image=parsed.image,
        mask=parsed.mask,
        sections={
            name: path
            for name in SECTIONS
            if (path := getattr(parsed, name)) is not None
        },
        output=parsed.output,
        polarity=parsed.mask_polarity,
        mask_suffix=parsed.mask_suffix,
        threshold=parsed.mask_threshold,
        large_holes=parsed.allow_large_holes,
        tile=tile_side(parsed.tile),
        overlap=parsed.overlap,
        max_pixels=parsed.max_pixels,
        batch_size=parsed.batch_size,
        panel=parsed.panel,
        skip_existing=parsed.skip_existing,
        overwrite=parsed.overwrite,
        shard=shard(parsed.shard),
    )
    outcome = restoring.restore_files(job)
    print(restoring.summary_line(outcome))
    return outcome.exit_code


def tile_side(text: str) -> int | None:
    """Reads "auto" as None, "whole" as 0, or a number of pixels.

    Raises:
      ValueError: anything else.
    """
    if text in ("auto", "whole"):
        return None if text == "auto" else 0
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--tile is {text!r}; give a side in pixels, auto or whole.")
    return int(text)


def shard(text: str) -> tuple[int, int]:
    """Reads "2/4", the second of four.

    Raises:
      ValueError: anything else.
    """
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(
            f"--shard is {text!r}; give I/N with 1 <= I <= N, such as 1/4."
        )
    return index, count
