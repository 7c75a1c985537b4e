"""The subcommand `prepare`: what its words mean."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from jaxinpaint.data.preparing import LISTED, Job, Prepared, T, prepare
from jaxinpaint.data.slide_tables import short

PLAIN_WIDTH = 300
KINDS = {
    "images": "a folder of pictures of any size",
    "sections": "a folder of numbered images, one a section of a stack",
    "volume": "a stack in one TIFF of several pages",
    "nifti": "a folder of NIfTI volumes and lesion masks, or of DICOM series",
    "cremi": "a stack in HDF5 as the CREMI challenge has it",
    "glomeruli": "a folder of slides with masks or outlines of glomeruli",
}
PIXELS = {"glomeruli": 4_000_000_000}  # as the configs have it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the kinds and their arguments to the parser of `prepare`."""
    parser.epilog = (
        "The output is made whole or not at all, holds report.json, and is named in "
        "config.data.source. Prepared again from the same files with the same options, "
        "it is left as it is; anything else that is not empty is refused. Exit codes: 0 "
        "done; 1 some items were left out, each named; 2 wrong use, and nothing was "
        "written."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, help in KINDS.items():
        own = kinds.add_parser(kind, help=help, description=f"Prepares {help}.")
        own.add_argument("--input", required=True, type=Path, metavar="P")
        own.add_argument("--output", required=True, type=Path, metavar="DIR")
        own.add_argument(
            "--max-pixels",
            type=int,
            default=PIXELS.get(kind, 64_000_000),
            metavar="N",
            help="of one image; larger ones are refused undecoded (default: %(default)s)",
        )
        if kind in EXTRAS:
            EXTRAS[kind](own)


def _volume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--axis",
        type=int,
        choices=(0, 1, 2),
        default=0,
        help="of (z, y, x), which counts the sections (default: %(default)s)",
    )


def _nifti(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--axis",
        type=int,
        choices=(0, 1, 2),
        default=2,
        help="of the volume, which counts the slices (default: %(default)s)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.5,
        metavar="P",
        help="of a subject's pixels other than 0 that becomes the last level (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--dicom",
        action="store_true",
        help="the input holds a folder for each subject, of one DICOM series",
    )


def _glomeruli(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--layout",
        choices=("own", "aidpath", "zenodo"),
        default="own",
        help="of the input: your own slides, or a public set with annotations, paired "
        "by stem (default: %(default)s)",
    )
    parser.add_argument(
        "--working-mpp",
        type=float,
        default=1.0,
        metavar="UM",
        help="micrometres of a pixel to work at (default: %(default)s)",
    )
    parser.add_argument(
        "--downsample-all",
        type=float,
        default=0.0,
        metavar="N",
        help="reduces every slide by this instead; 0 for its own resolution",
    )
    parser.add_argument(
        "--mpp",
        type=float,
        metavar="UM",
        help="micrometres of a pixel of slides that nothing else tells it of",
    )
    parser.add_argument(
        "--mask-threshold",
        type=int,
        default=0,
        metavar="N",
        help="mask values of at least this mark a glomerulus; 0 takes masks of 0 and "
        "255, or 0 and 1, alone (default: %(default)s)",
    )


EXTRAS: dict[str, Callable[[argparse.ArgumentParser], None]] = {
    "volume": _volume,
    "nifti": _nifti,
    "glomeruli": _glomeruli,
}


def run(parsed: argparse.Namespace) -> int:
    """Prepares; returns the exit code, 0 done or 1 where something was left out.

    Raises:
      ValueError: wrong use, or an input that cannot be used.
      OSError: a file cannot be read or written.
      ImportError: an extra is needed and not installed.
    """
    if parsed.max_pixels < 1:
        raise ValueError(f"--max-pixels is {parsed.max_pixels}; it must be 1 or more.")
    done = prepare(partial(job_of, parsed), parsed.input, parsed.output)
    show(done, parsed.output)
    return 1 if left_out(done.report) else 0


def job_of(parsed: argparse.Namespace) -> Job:
    """What the words ask for."""
    from jaxinpaint.data import prepared_sets, prepared_slides  # imports TFDS

    make: dict[str, Callable[..., Job]] = {
        "images": prepared_sets.images_job,
        "sections": prepared_sets.sections_job,
        "volume": prepared_sets.volume_job,
        "nifti": prepared_sets.nifti_job,
        "cremi": prepared_sets.cremi_job,
        "glomeruli": prepared_slides.glomeruli_job,
    }
    known = {"command", "kind", "input", "output"}
    options = {k: v for k, v in vars(parsed).items() if k not in known}
    return make[parsed.kind](parsed.input, watch=watch, **options)


def watch(items: Iterable[T], total: int, what: str) -> Iterable[T]:
    """Shows how far it is, in a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        return items
    return track(items, description=what, total=total or None, console=console)


def left_out(report: Mapping[str, Any]) -> int:
    """How many items were rejected or could not be paired."""
    unpaired = report.get("unpaired", {})
    return len(report["rejected"]) + sum(len(names) for names in unpaired.values())


def show(done: Prepared, output: Path) -> None:
    """Prints the report."""
    report = done.report
    if done.again:
        print(f"{output} is this preparation already; nothing was done.")
    kind = report["kind"]
    if kind == "glomeruli":
        _show_slides(report)
    for subject, own in _few(report.get("subjects", {})):
        print(
            f"{subject}: {own['slices']} slices of {own['size']}, {own['volumes']} "
            f"volume(s), top {own['top']:g}, {own['with_lesion']} with a lesion, "
            f"{own['unknown_lesion']} without a lesion mask"
        )
    if report["dtype"]:
        _show_pixels(report)
    for key, names in report.get("unpaired", {}).items():
        if names:
            print(f"Not paired, {len(names)} {key}: {', '.join(short(names))}")
    for name, reason in report["rejected"].items():
        print(f"Rejected: {name}: {' '.join(reason.split())}")
    if report.get("passed_over"):
        print(f"Passed over: {', '.join(report['passed_over'])}")
    for note in report["notes"]:
        print(note if note.startswith("split:") else f"Note: {note}")
    print(f"--config.data.source={output}{_settings(report)}")


def _show_pixels(report: Mapping[str, Any]) -> None:
    """What the pictures are like."""
    kind = report["kind"]
    sizes = ", ".join(f"{n} of {size}" for size, n in report["sizes"].items())
    more = report.get("other_sizes", 0)
    if more:
        low, high = report["smallest_sides"], report["largest_sides"]
        sizes += (
            f" and {more} other sizes, heights {low[0]} to {high[0]}, widths {low[1]} to "
            f"{high[1]}"
        )
    things = {"images": "pictures", "nifti": "slices", "glomeruli": "slides"}
    print(f"{report['count']} {things.get(kind, 'sections')}: {sizes}")
    dtypes = ", ".join(report["dtype"])
    channels = " and ".join(report["channels"])
    low, high = report["range"]
    print(f"{dtypes}, {channels} channel(s), values {low} to {high}")


def _settings(report: Mapping[str, Any]) -> str:
    """Further words that a run on the prepared folder has to have."""
    options, words = report["options"], {}
    if report["kind"] == "nifti":
        words = {k: options[k] for k in ("axis", "percentile")}
    elif report["kind"] == "glomeruli":
        words = {"working_mpp": options["working_mpp"]}
        if options["downsample_all"]:
            words["downsample_all"] = options["downsample_all"]
    return "".join(f" --config.data.{k}={v:g}" for k, v in words.items())


def _few(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """At most ten; says how many more there are."""
    items = list(found.items())
    if len(items) > LISTED:
        print(f"({len(items)} in all; the first {LISTED}, the others in report.json)")
    return items[:LISTED]


def _show_slides(report: Mapping[str, Any]) -> None:
    """A table of the slides, and their sums."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console = Console(soft_wrap=True, width=PLAIN_WIDTH)
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1))
    numbers = ("size", "um/px", "reduced", "normal", "sclerosed", "crops")
    for name in ("slide", "split", "stain", *numbers, "no crop"):
        table.add_column(
            name, justify="right" if name in numbers else "left", no_wrap=True
        )
    for name, own in report["slides"].items():
        mpp = own["mpp"]
        table.add_row(
            name,
            own["split"] or "-",
            own["stain"] or "-",
            "{} x {}".format(*own["size"]),
            "-" if mpp is None else f"{mpp:.3g}",
            f"{own['factor']:.3g}",
            str(own["glomeruli"]["normal"]),
            str(own["glomeruli"]["sclerosed"]),
            str(own["crops"]),
            ", ".join(f"{n} {why}" for why, n in own["crops_rejected"].items()),
        )
    console.print(table)
    for split, own in report["crops"].items():
        why = json.dumps(own["rejected"]) if own["rejected"] else "none"
        print(f"{split}: {own['slides']} slides, {own['crops']} crops; rejected: {why}")
    counts = [
        f"{count} {name} ({report['small'][name]} below {report['rules']['min_area']} px)"
        for name, count in report["glomeruli"].items()
    ]
    print(f"glomeruli: {', '.join(counts)}")
