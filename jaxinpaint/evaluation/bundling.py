"""Exports a run: its checkpoint as a bundle, with what is known of it."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jaxinpaint
from jaxinpaint.bundle import manifest
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.evaluation.facts import dataset_name
from jaxinpaint.evaluation.runs import (
    Trained,
    device_name,
    open_trained,
    training_minutes,
)
from jaxinpaint.inference.export import export_system
from jaxinpaint.report.card import card
from jaxinpaint.training.workdir import environment, to_json

MASKS = "masks.json"  # the mask manifest of the scores, as `eval.py` wrote it


def export_run(
    workdir: Path,
    output: Path,
    step: int | None,
    platforms: Sequence[str],
    sizes: Sequence[tuple[int, int]] | None,
    licence: str,
) -> str:
    """Writes a bundle of one checkpoint; all of it or nothing.

    Args:
      workdir: of the run.
      output: gets the bundle; must not exist, or be empty.
      step: of the checkpoint; the newest good one if None.
      platforms: that its programs run on.
      sizes: height and width of fixed programs; None for any size, where possible.
      licence: of the weights, as a person says it; "" if nobody does.

    Returns:
      A line for people.

    Raises:
      FileExistsError: `output` holds something.
      FileNotFoundError: there is no such run or checkpoint.
      ValueError: the run cannot be exported so.
      ImportError: the extra `export` is not installed.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise FileExistsError(f"{output} is there already; give a new folder.")
    trained = open_trained(workdir, step)
    config, run = trained.config, trained.run
    exported = export_system(
        config, trained.system, run.variables, trained.frozen, platforms, sizes
    )
    scores, masks = read_scores(workdir, trained)
    contents = dict(exported.contents)
    if masks is not None:
        contents[MASKS] = masks
    facts = {
        "system": config.system,
        "stage": config.get("stage", ""),
        **exported.facts,
        "licence": licence,
        "training": {
            "data": dataset_name(config.data.source),
            "kind": config.data.kind,
            "steps": run.step,
            "minutes": training_minutes(run.records),
            "device": device_name(run.machine),
            "versions": run.machine["versions"],
        },
        "scores": scores,
        "weights": {
            "variables": tree_digest(run.variables),
            "frozen": tree_digest(trained.frozen) if trained.frozen else "",
        },
        "config": without_folders(to_json(config)),
        "versions": {
            "jaxinpaint": jaxinpaint.__version__,
            **environment()["versions"],
        },
    }
    contents[manifest.CARD] = card(facts).encode()
    output.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}-"))
    try:
        manifest.write(made, facts, contents)
        made.chmod(0o755)
        made.replace(output)  # an empty folder may be in its place
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return summary(output, facts)


def summary(output: Path, facts: Mapping[str, Any]) -> str:
    """What was written, in a line."""
    sizes = "any size" if facts["symbolic_sizes"]["lowered"] else "fixed sizes"
    files = ", ".join(program["file"] for program in facts["programs"])
    line = (
        f"{output}: {facts['system']} at step {facts['training']['steps']}, "
        f"{facts['parameters']} parameters, {sizes} ({files}), for "
        f"{', '.join(facts['platforms'])}."
    )
    if why := facts["symbolic_sizes"]["why_not"]:
        line += f"\nNot for any size, because it cannot be lowered so: {why}"
    return line


def read_scores(workdir: Path, trained: Trained) -> tuple[dict[str, Any], bytes | None]:
    """The scores of this checkpoint, if `eval.py` has scored it.

    Args:
      workdir: of the run.
      trained: the checkpoint.

    Returns:
      Rows of `eval/metrics.json` with the digest of its mask manifest, or why there are
      none; and the manifest's bytes.
    """
    path = workdir / "eval" / "metrics.json"
    if not path.exists():
        return {"why_not": "this run was not scored (eval.py)"}, None
    found = json.loads(path.read_text())
    told = found["run"]
    if told["weights"] != tree_digest(trained.run.variables):
        why = f"the run was scored at step {told['steps']}, with other weights"
        return {"why_not": why}, None
    kept = ("dataset", "data", "cases", "mask_manifest", "valid_pixels_changed")
    facts = {name: told[name] for name in (*kept, "metric_weights") if name in told}
    rows = [row for row in found["rows"] if not row["method"].startswith("paper")]
    masks = path.with_name(MASKS)
    if (
        masks.exists()
        and json.loads(masks.read_text())["sha256"] == (told["mask_manifest"])
    ):
        return {"rows": rows, **facts}, masks.read_bytes()
    return {"rows": rows, **facts}, None


def without_folders(tree: Any) -> Any:
    """JSON values whose paths keep their last name alone: a bundle travels."""
    if isinstance(tree, dict):
        return {name: without_folders(value) for name, value in tree.items()}
    if isinstance(tree, list):
        return [without_folders(value) for value in tree]
    if isinstance(tree, str) and ("/" in tree or "\\" in tree):
        return dataset_name(tree)
    return tree
