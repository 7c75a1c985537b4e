"""The subcommand `synthesize`: what its words mean."""

import argparse
from pathlib import Path

from ml_collections import ConfigDict

from jaxinpaint.commands.config_file import read_config

AUTO = "auto"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `synthesize` to its parser."""
    parser.epilog = (
        "Every training slide is taken once a round. The folder that is written has "
        "the layout of your own slides and is named in config.data.synthetic to train a "
        "segmentation with it; provenance/ marks every generated pixel, manifest.jsonl "
        "tells of every glomerulus, and outside of them no byte differs from the "
        "source. The same command goes on where it stopped. Exit codes: 0 done; 1 some "
        "slides had no place for a glomerulus, each named; 2 wrong use."
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:PRESET]",
        help="configs/glomeruli_inpaint.py; its data are the slides",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="changes a key of the config: --set data.source=PATH",
    )
    parser.add_argument(
        "--inpaint",
        required=True,
        type=Path,
        metavar="WORKDIR",
        help="of the trained inpainting stage",
    )
    parser.add_argument(
        "--masks",
        required=True,
        metavar="WORKDIR|library:DIR|real",
        help="the trained mask stage; a library of an earlier run (its folder library/) "
        "or a folder of your own masks; or the outlines of the training slides",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="gets the new slides"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="config.seed if not given"
    )
    parser.add_argument(
        "--per-roi",
        type=int,
        metavar="N",
        help="new glomeruli on a slide; config.synthesis.per_roi if not given",
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument(
        "--rounds", type=int, metavar="N", help="how often every slide is taken"
    )
    amount.add_argument(
        "--tiles",
        type=int,
        metavar="N",
        help="whole rounds until so many tiles hold a new glomerulus; without either, "
        "twice as many as training tiles show a sclerosed one",
    )
    parser.add_argument(
        "--gap",
        type=float,
        metavar="PIXELS",
        help="between a new glomerulus's circle and every other one; "
        "config.synthesis.gap if not given",
    )
    parser.add_argument(
        "--feather",
        type=float,
        metavar="PIXELS",
        help="blends that far inside a new glomerulus; config.synthesis.feather if not "
        "given",
    )
    parser.add_argument(
        "--positions",
        metavar="FILE|auto",
        help="centres, with the columns id, x, y; positions.csv beside the slides if "
        "there is one, otherwise, or with auto, places are found",
    )
    parser.add_argument(
        "--on-bad-position",
        choices=("error", "skip"),
        default="error",
        help="what a centre does that breaks a rule (default: %(default)s)",
    )


def run(parsed: argparse.Namespace) -> int:
    """Synthesises; returns the exit code, 0 done or 1 where slides had no place.

    Raises:
      ValueError: wrong use.
      OSError: a file cannot be read or written.
      ImportError: an extra is needed and not installed.
    """
    from jaxinpaint.evaluation import synthesis  # imports jax
    from jaxinpaint.evaluation.synthesizing import Options

    config = read_config(parsed.config, parsed.set)
    if "synthesis" not in config:
        raise ValueError(
            f"{parsed.config} has no section `synthesis`; take "
            "configs/glomeruli_inpaint.py."
        )
    own = config.synthesis
    report = synthesis.synthesize(
        config,
        parsed.inpaint,
        parsed.masks,
        parsed.output,
        Options(
            seed=config.seed if parsed.seed is None else parsed.seed,
            per_roi=own.per_roi if parsed.per_roi is None else parsed.per_roi,
            gap=own.gap if parsed.gap is None else parsed.gap,
            feather=own.feather if parsed.feather is None else parsed.feather,
            rounds=parsed.rounds,
            tiles=parsed.tiles,
            positions=positions_file(config, parsed.positions),
            on_bad_position=parsed.on_bad_position,
        ),
    )
    print(
        f"{parsed.output}: {report['placements']} glomeruli on {report['outputs']} "
        f"slides, {report['tiles']} tiles"
    )
    for line in report["left_out"]:
        print(f"left out: {line}")
    for name in report["skipped"]:
        print(f"no place on slide {name}")
    return 1 if report["skipped"] else 0


def positions_file(config: ConfigDict, given: str | None) -> Path | None:
    """The file of centres, or None where places are to be found."""
    if given is not None:
        return None if given == AUTO else Path(given)
    beside = Path(config.data.source) / "positions.csv"
    return beside if beside.exists() else None
