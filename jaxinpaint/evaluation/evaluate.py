"""Evaluates a run by what its system makes: images, labels, or outlines."""

from pathlib import Path

from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.evaluation.checkpoint import evaluate_run
from jaxinpaint.evaluation.outlines import evaluate_outlines
from jaxinpaint.evaluation.segmentation import evaluate_segmentation


def evaluate(config: ConfigDict, workdir: Path, step: int | None) -> Path:
    """Scores one checkpoint of a run; writes `eval/` and returns the report's path.

    Args:
      config: of the run.
      workdir: of the run.
      step: of the checkpoint; if None, the newest good one, or the one that validation
        chose where the system segments.

    Raises:
      ValueError: the config does not fit the workdir or the data.
      FileNotFoundError: there is no such checkpoint.
      ImportError: an extra is needed and not installed.
    """
    asked = systems.build(config).batch_spec
    if "label" in asked:
        return evaluate_segmentation(config, workdir, step)
    if "mask" not in asked:
        return evaluate_outlines(config, workdir, step)
    return evaluate_run(config, workdir, step)
