"""The subcommand `study`: what its words mean."""

import argparse
from pathlib import Path

from jaxinpaint.commands.config_file import read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `study` to its parser."""
    parser.epilog = (
        "Trains the outlines and the inpainting, paints new glomeruli on the training "
        "slides, and trains and scores every segmenter of the paper's Tables 3, 4 and "
        "5. The workdir's report.html is written anew after each of them. The same "
        "command goes on where it stopped. Exit codes: 0 done; 1 a training diverged, "
        "named; 2 wrong use; 143 and 130 after a saved SIGTERM and SIGINT."
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:PRESET]",
        help="configs/studies/glomeruli.py, or another of its form",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="changes a key of the config: --set data.source=PATH",
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="DIR", help="of this study"
    )


def run(parsed: argparse.Namespace) -> int:
    """Runs the study; returns the exit code.

    Raises:
      ValueError: wrong use, or a training of an early part diverged.
      OSError: a file cannot be read or written.
      ImportError: an extra is needed and not installed.
    """
    from jaxinpaint.evaluation.study import study  # imports jax

    config = read_config(parsed.config, parsed.set)
    if "study" not in config:
        raise ValueError(
            f"{parsed.config} has no section `study`; take configs/studies/glomeruli.py."
        )
    return study(config, parsed.workdir)
