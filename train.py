"""Trains one stage of one system, or goes on where its workdir stands.

python train.py --config=configs/ccpgan.py:demo --workdir=runs/demo
"""

import sys
from pathlib import Path

import jax
from absl import app, flags, logging
from ml_collections import config_flags

from jaxinpaint import systems
from jaxinpaint.data import pipeline
from jaxinpaint.training.loop import train

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/X.py or configs/X.py:preset; --config.key=value changes it"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of this run; resumes if begun")
COORDINATOR = flags.DEFINE_string(
    "coordinator", "", "host:port of process 0, for several processes"
)
PROCESSES = flags.DEFINE_integer("processes", 1, "how many processes train together")
PROCESS = flags.DEFINE_integer("process", 0, "which of them this is")


def main(argv: list[str]) -> None:
    """Parses, builds and trains; exits with the code of the run."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries tell every save
    if PROCESSES.value > 1:
        jax.distributed.initialize(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    config = CONFIG.value
    try:
        system = systems.build(config)
        rank, count = jax.process_index(), jax.process_count()
        data = pipeline.build(config, system.batch_spec, rank, count)
        outcome = train(
            system, data.train, data.validation, config, Path(WORKDIR.value)
        )
    except (ValueError, OSError) as error:
        logging.debug("Traceback:", exc_info=True)
        print(f"train.py: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
