"""The subcommand `fill-volume`: what its words mean."""

import argparse
import logging
import math
from pathlib import Path

from jaxinpaint.commands.fill import tile_side
from jaxinpaint.data.images import MAX_PIXELS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `fill-volume` to its parser."""
    parser.epilog = (
        "A volume is an OME-Zarr, zarr, N5 or precomputed folder, an HDF5 file, a TIFF "
        "stack, a folder of numbered pictures, or NIfTI. DIR gets a copy of it with what "
        "was bad restored, the layer `invented`, 255 where voxels were invented, the "
        "layer `disagreement` of systems that read neighbours, and repaired.json. The "
        "same command goes on where an earlier one was stopped. Exit codes: 0 all "
        "sections were restored; 1 some were not, each named; 2 wrong use, and nothing "
        "was written; 143 and 130 after SIGTERM and SIGINT."
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="of a trained run"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="of its checkpoint; the newest otherwise"
    )
    parser.add_argument(
        "--volume", required=True, type=Path, metavar="PATH", help="is only read"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="array in it, where it holds several (HDF5: volumes/raw if not given)",
    )
    parser.add_argument(
        "--bad-sections",
        metavar="LIST",
        help="sections that are bad whole, from 0 on, such as 12,40-42; or a text file",
    )
    parser.add_argument(
        "--mask",
        type=Path,
        metavar="PATH",
        help="a volume of the same size, of 0 and one other value, which marks holes",
    )
    parser.add_argument("--mask-dataset", metavar="NAME", help="array in the mask")
    parser.add_argument(
        "--mask-polarity",
        choices=("hole", "valid"),
        default="hole",
        help="what is not 0 marks (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-large-holes",
        action="store_true",
        help="take a mask that marks more than 95 %% of the volume",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="gets the results"
    )
    parser.add_argument(
        "--axis",
        choices=("z", "y", "x"),
        help="that counts the sections (default: z, or that of the slices of training)",
    )
    parser.add_argument(
        "--voxel-size",
        metavar="Z,Y,X",
        help="in nanometers, where the volume does not say",
    )
    parser.add_argument(
        "--tile",
        default="auto",
        metavar="SIDE",
        help="in pixels: larger sections are restored in tiles around their holes; "
        "'whole' restores every section at once (default: twice the side that the run "
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
        help="larger sections are refused unread (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=1,
        metavar="N",
        help="tiles, and sections, at once (default: %(default)s)",
    )
    parser.add_argument(
        "--no-disagreement",
        action="store_true",
        help="spare the two further predictions from each neighbour alone",
    )
    parser.add_argument(
        "--panel",
        action="store_true",
        help="draw panels/section_N.png: given, neighbours, restored, invented",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace results that are there"
    )


def run(parsed: argparse.Namespace) -> int:
    """Restores; returns the exit code.

    Raises:
      ValueError: wrong use.
      OSError: a file or folder is not there.
      ImportError: an extra is needed and not installed.
    """
    from absl import logging as absl_logging

    from jaxinpaint.evaluation import volume_restoring  # imports jax
    from jaxinpaint.evaluation.volume_inputs import Job

    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax tells every restore
    logging.getLogger("jax").setLevel(logging.ERROR)
    for name in ("batch_size", "max_pixels"):
        if getattr(parsed, name) < 1:
            option = name.replace("_", "-")
            value = getattr(parsed, name)
            raise ValueError(f"--{option} is {value}; it must be 1 or more.")
    job = Job(
        workdir=parsed.workdir,
        step=parsed.step,
        volume=parsed.volume,
        dataset=parsed.dataset,
        mask=parsed.mask,
        mask_dataset=parsed.mask_dataset,
        bad=parsed.bad_sections,
        output=parsed.output,
        axis=parsed.axis,
        polarity=parsed.mask_polarity,
        large_holes=parsed.allow_large_holes,
        tile=tile_side(parsed.tile),
        overlap=parsed.overlap,
        max_pixels=parsed.max_pixels,
        batch_size=parsed.batch_size,
        voxel=None if parsed.voxel_size is None else voxel_size(parsed.voxel_size),
        disagreement=not parsed.no_disagreement,
        panel=parsed.panel,
        overwrite=parsed.overwrite,
    )
    outcome = volume_restoring.restore_volume(job)
    print(volume_restoring.summary_line(outcome))
    return outcome.exit_code


def voxel_size(text: str) -> tuple[float, float, float]:
    """Reads "40,4,4".

    Raises:
      ValueError: no three positive lengths.
    """
    try:
        z, y, x = (float(word) for word in text.split(","))
    except ValueError:
        z = y = x = 0.0
    if not all(math.isfinite(n) and n > 0 for n in (z, y, x)):
        raise ValueError(
            f"--voxel-size is {text!r}; give lengths along z, y and x in nanometers, "
            "such as 40,4,4."
        )
    return z, y, x
