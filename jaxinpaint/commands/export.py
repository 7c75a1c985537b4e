"""The subcommand `export`: what its words mean."""

import argparse
import logging
import re
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `export` to its parser."""
    parser.epilog = (
        "The folder gets params.safetensors, StableHLO programs, model.json with the "
        "digest of every file, a card and sha256sums. `jaxinpaint.load` and "
        "`jaxinpaint.fill` run it with jax, numpy, safetensors and flatbuffers alone. "
        "Exit codes: 0 done; 2 wrong use."
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="RUN", help="of a trained run"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="a new folder"
    )
    parser.add_argument(
        "--step", type=int, metavar="N", help="of its checkpoint; the newest otherwise"
    )
    parser.add_argument(
        "--platforms",
        default="cpu,cuda,tpu",
        metavar="NAMES",
        help="that the programs run on, also of rocm (default: %(default)s)",
    )
    parser.add_argument(
        "--sizes",
        metavar="SIDES",
        help="256,512x768: a program for each height and width instead of one for all; "
        "without it, systems that cannot be lowered for all sizes get the training size "
        "and twice that",
    )
    parser.add_argument(
        "--licence",
        default="",
        metavar="TEXT",
        help="of the weights and what they were trained on, for the card: CC-BY-4.0",
    )


def run(parsed: argparse.Namespace) -> int:
    """Exports; returns the exit code.

    Raises:
      ValueError: wrong use.
      OSError: a file cannot be read or written.
      ImportError: an extra is needed and not installed.
    """
    from absl import logging as absl_logging

    from jaxinpaint.evaluation import bundling  # imports jax

    absl_logging.set_verbosity(absl_logging.ERROR)  # orbax tells every restore
    logging.getLogger("jax").setLevel(logging.ERROR)
    told = bundling.export_run(
        parsed.workdir,
        parsed.output,
        parsed.step,
        tuple(name for name in parsed.platforms.split(",") if name),
        None if parsed.sizes is None else read_sizes(parsed.sizes),
        parsed.licence,
    )
    print(told)
    return 0


def read_sizes(text: str) -> list[tuple[int, int]]:
    """Reads "256,512x768": squares, and heights by widths.

    Raises:
      ValueError: anything else.
    """
    sizes = []
    for word in text.split(","):
        found = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", word.strip())
        if found is None:
            raise ValueError(
                f"--sizes is {text!r}; give sides such as 256,512, or 512x768 for "
                "height and width."
            )
        sizes.append((int(found[1]), int(found[2] or found[1])))
    return sizes
