"""The subcommand `search`: what its words mean."""

import argparse
from pathlib import Path

from jaxinpaint.commands.config_file import read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search` to its parser."""
    parser.epilog = (
        "The config's section `search` says which keys are tried between which bounds, "
        "and for how many steps. Subjects that config.data.validation_fraction holds "
        "out of training judge the trials; test subjects are never read. The same "
        "command goes on where it stopped. Exit codes: 0 done; 2 wrong use; 143 and "
        "130 after a saved SIGTERM and SIGINT."
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:PRESET]",
        help="configs/ipa_medgan.py, or another with a section `search`",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="changes a key of the config: --set data.source=PATH",
    )
    parser.add_argument(
        "--workdir", required=True, type=Path, metavar="DIR", help="of this search"
    )
    parser.add_argument(
        "--trials", type=int, metavar="N", help="in all; config.search.trials otherwise"
    )


def run(parsed: argparse.Namespace) -> int:
    """Searches; returns the exit code.

    Raises:
      ValueError: wrong use.
      OSError: a file cannot be read or written.
      ImportError: an extra is needed and not installed.
    """
    from jaxinpaint.evaluation import search  # imports jax

    config = read_config(parsed.config, parsed.set)
    if "search" not in config:
        raise ValueError(
            f"{parsed.config} has no section `search`; its weights are its paper's."
        )
    trials = config.search.trials if parsed.trials is None else parsed.trials
    if trials < 1:
        raise ValueError(f"--trials is {trials}; it must be 1 or more.")
    return search.search(config, parsed.workdir, trials)
