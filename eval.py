"""Scores a checkpoint of a run: metrics, report, restored images.

python eval.py --config=configs/ccpgan.py:demo --workdir=runs/demo
"""

import sys
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from jaxinpaint.core.compilation import keep_programs
from jaxinpaint.data.keeping import default_cache_dir
from jaxinpaint.evaluation.evaluate import evaluate

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "configs/X.py or configs/X.py:preset; --config.key=value changes it"
)
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run")
STEP = flags.DEFINE_integer(
    "step", None, "of the checkpoint; the newest or best if not given"
)


def main(argv: list[str]) -> None:
    """Parses, scores and says where the report is."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}", exitcode=2)
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # the libraries tell every restore
    keep_programs(default_cache_dir() / "programs")
    try:
        report = evaluate(CONFIG.value, Path(WORKDIR.value), STEP.value)
    except (ValueError, OSError, ImportError) as error:
        logging.debug("Traceback:", exc_info=True)
        print(f"eval.py: {error}", file=sys.stderr)
        sys.exit(2)
    print(report)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main)
