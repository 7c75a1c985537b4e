"""Trains one stage of one system, or goes on where its workdir stands.

python train.py --config=configs/ccpgan.py:demo --workdir=runs/demo
"""

import sys
from pathlib import Path
from typing import NoReturn

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from jaxinpaint import systems
from jaxinpaint.core.compilation import keep_programs
from jaxinpaint.data import pipeline
from jaxinpaint.data.keeping import default_cache_dir
from jaxinpaint.training.guard import NonFiniteError
from jaxinpaint.training.loop import train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/X.py or configs/X.py:preset; --config.key=value changes it"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; resumes if begun")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, for several processes"
)
PROCESSES = flags.DEFINE_integer(
    "processes", 1, "how many processes train together", lower_bound=1
)
PROCESS = flags.DEFINE_integer("process", 0, "which of them this is", lower_bound=0)
HEARTBEAT_SECONDS = 30  # without one of a process, the others end too


def main(argv: list[str]) -> None:
    """Parses, builds and trains; exits with the code of the run."""
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries tell every save
    try:
        if len(argv) > 1:
            raise ValueError(f"unexpected arguments: {argv[1:]}")
        config = CONFIG.value
        keep_programs(default_cache_dir() / "programs")
        join_processes()
        system = systems.build(config)
        rank, count = jax.process_index(), jax.process_count()
        derived = systems.derived(config)
        data = pipeline.build(config, system.batch_spec, rank, count, derived)
        if derived:
            data.batch(0)  # computes them now, under a bar of its own
        outcome = train(
            system, data.train, data.validation, config, Path(WORKDIR.value)
        )
    except (ValueError, OSError, NonFiniteError) as error:
        logging.debug("Traceback:", exc_info=True)
        end(error, 1 if isinstance(error, NonFiniteError) else 2)
    sys.exit(outcome.exit_code)


def join_processes() -> None:
    """Meets the other processes, where there are any.

    Raises:
      ValueError: the flags do not say where, or which process this is.
    """
    if PROCESSES.value == 1:
        return
    if not COORDINATOR.value or PROCESS.value >= PROCESSES.value:
        raise ValueError(
            f"--processes={PROCESSES.value} needs --coordinator=HOST:PORT, the same "
            f"for all, and --process=N from 0 to {PROCESSES.value - 1}, got "
            f"--coordinator={COORDINATOR.value} and --process={PROCESS.value}."
        )
    jax.distributed.initialize(
        COORDINATOR.value,
        PROCESSES.value,
        PROCESS.value,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
    )


def parse(argv: list[str]) -> list[str]:
    """Parses the flags; wrong ones end the process."""
    try:
        return flags.FLAGS(argv)
    except AttributeError as error:  # of ml_collections, with a KeyError in it
        end(ValueError(f"--config has no key {error.args[0].args[0]}"), 2)
    except (flags.Error, TypeError, ValueError) as error:
        end(error, 2)


def end(error: Exception, code: int) -> NoReturn:
    """Prints one line, and ends the process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines if len(lines) < 2 else (lines[0], lines[-1]))
    print(f"train.py: {text.removeprefix('train: ')}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse)
