"""The chain on the smallest phantom, with real outlines: painting to segmenters."""

import json

import pytest

from jaxinpaint import cli
from tests.evaluation.test_study import PATH

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("quick_programs")]


def run(folder):
    words = ["study", "--config", f"{PATH}:smoke", "--workdir", str(folder)]
    for change in ("models=('unet',)", "without_augmentation=False"):
        words += ["--set", f"study.{change}"]
    assert cli.main(words) == 0
    results = json.loads((folder / "metrics.json").read_text())
    weights = {one["name"]: one["weights"] for one in results["trainings"]}
    manifest = (folder / "synthetic" / "manifest.jsonl").read_bytes()
    return results["rows"], weights, manifest


def test_the_same_seed_twice_gives_the_same_bytes(tmp_path):
    first = run(tmp_path / "first")
    rows, weights, manifest = first
    assert list(weights) == ["unet_0percent_seed0", "unet_100percent_seed0"]
    assert len(set(weights.values())) == 2 and manifest
    own = [row for row in rows if row["method"] == "glomeruli"]
    assert {row["synthetic_percent"] for row in own} == {0.0, 100.0}
    assert run(tmp_path / "second") == first
