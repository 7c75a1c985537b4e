"""The command `jaxinpaint`: every subcommand parses, builds and calls.

Stands on the roof. What a subcommand takes and does is in `commands/`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jaxinpaint
from jaxinpaint.commands import (
    doctor,
    export,
    fill,
    fill_volume,
    masks,
    prepare,
    score,
    search,
    study,
    synthesize,
    weights,
)
from jaxinpaint.data.keeping import default_cache_dir


class Command(NamedTuple):
    """A subcommand.

    Attributes:
      help: what it does, in a line.
      arguments: adds its arguments to its parser.
      run: does it; returns the exit code, 0 done or 1 where some items failed.
      compiles: it runs networks, whose programs are worth keeping.
    """

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    compiles: bool = False


COMMANDS: dict[str, Command] = {
    "doctor": Command(
        "Shows versions, devices, caches and optional packages.",
        doctor.add_arguments,
        doctor.run,
    ),
    "export": Command(
        "Writes a trained run as a bundle that loads without the code that trained it.",
        export.add_arguments,
        export.run,
        compiles=True,
    ),
    "fill": Command(
        "Restores pictures with a trained run; valid pixels stay bit for bit.",
        fill.add_arguments,
        fill.run,
        compiles=True,
    ),
    "fill-volume": Command(
        "Restores bad sections and holes of a volume; valid voxels stay bit for bit.",
        fill_volume.add_arguments,
        fill_volume.run,
        compiles=True,
    ),
    "masks": Command(
        "Writes a seeded set of masks with a manifest.",
        masks.add_arguments,
        masks.run,
    ),
    "prepare": Command(
        "Checks your own data and makes them ready for config.data.source.",
        prepare.add_arguments,
        prepare.run,
    ),
    "score": Command(
        "Scores what any program restored, in the hole and over the whole image.",
        score.add_arguments,
        score.run,
    ),
    "search": Command(
        "Searches for the weights of a system's losses that its paper does not print.",
        search.add_arguments,
        search.run,
        compiles=True,
    ),
    "study": Command(
        "Runs a study of synthetic glomeruli: every training of the paper's tables.",
        study.add_arguments,
        study.run,
        compiles=True,
    ),
    "synthesize": Command(
        "Puts new sclerosed glomeruli on training slides, with labels and provenance.",
        synthesize.add_arguments,
        synthesize.run,
        compiles=True,
    ),
    "weights": Command(
        "Pretrained feature networks: list, import, verify.",
        weights.add_arguments,
        weights.run,
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand.

    Args:
      arguments: words of the command line; those of this process if None.

    Returns:
      The exit code: 0 done, 1 some items failed, 2 wrong use, with one line that
      says what was wrong and what to do.
    """
    parser = argparse.ArgumentParser(
        prog="jaxinpaint",
        description="Published inpainting systems in JAX and Flax Linen.",
    )
    parser.add_argument("--version", action="version", version=jaxinpaint.__version__)
    below = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        own = below.add_parser(name, help=command.help, description=command.help)
        command.arguments(own)
    parsed = parser.parse_args(arguments)
    command = COMMANDS[parsed.command]
    if command.compiles:
        from jaxinpaint.core.compilation import keep_programs  # imports jax

        keep_programs(default_cache_dir() / "programs")
    try:
        return command.run(parsed)
    except (ValueError, OSError, ImportError) as error:
        text = " ".join(str(error).split())
        print(f"jaxinpaint {parsed.command}: {text}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
