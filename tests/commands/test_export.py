"""`jaxinpaint export` of real runs, and the bundle where nothing else is installed."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import jaxinpaint
from jaxinpaint import cli
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.evaluation.runs import open_trained
from jaxinpaint.inference.restore import predictor

ROOT = pathlib.Path(__file__).parents[2]

# Only what the documentation names, and what jax itself brings along.
LEAN = """
import sys
from importlib.machinery import PathFinder

class Lean(PathFinder):
    known = {"jaxinpaint", "jax", "jaxlib", "numpy", "safetensors", "flatbuffers"}
    known |= {"ml_dtypes", "opt_einsum", "scipy"}

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        found = super().find_spec(name, path, target)
        installed = found and "site-packages" in str(found.origin)
        return None if installed and name.split(".")[0] not in cls.known else found

sys.meta_path[:] = [Lean if one is PathFinder else one for one in sys.meta_path]
try:
    import flax
except ModuleNotFoundError:
    pass
else:
    sys.exit("flax is here")
import jaxinpaint
assert "jax" not in sys.modules
import numpy as np
bundle = jaxinpaint.load(sys.argv[1])
import jax
assert jax.device_count() == 1
given = dict(np.load(sys.argv[2]))
filled = jaxinpaint.fill(bundle, **given)
np.savez(sys.argv[3], image=filled.image, invented=filled.invented)
"""


def child(words, devices):
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def eight(tmp_path_factory):
    """A run of two steps on eight devices, and what `export` made of it there."""
    folder = tmp_path_factory.mktemp("eight")
    changes = {"batch_size": 8, "steps": 2, "data.cache_dir": folder / "sections"}
    trained = child(
        [
            *("train.py", "--config=configs/unet.py:smoke"),
            f"--workdir={folder / 'run'}",
            *(f"--config.{key}={value}" for key, value in changes.items()),
        ],
        8,
    )
    assert trained.returncode == 0, trained.stderr
    machine = json.loads((folder / "run" / "environment.json").read_text())
    assert len(machine["devices"]) == 8
    words = ["--workdir", folder / "run", "--output", folder / "bundle"]
    made = child(["-m", "jaxinpaint.cli", "export", *words, "--licence", "CC0-1.0"], 8)
    assert made.returncode == 0, made.stderr
    return folder, made.stdout


def test_exported_on_eight_devices_and_run_on_one_without_flax(eight, tmp_path):
    folder, said = eight
    assert "unet at step 2" in said and "any size" in said
    rng = np.random.default_rng(0)
    names = ("image", "previous", "following")
    batch = {n: rng.integers(0, 256, (2, 71, 53, 1), np.uint8) for n in names}
    batch["mask"] = np.zeros((2, 71, 53, 1), np.uint8)
    batch["mask"][:, 20:50, 10:44] = 1
    np.savez(tmp_path / "given.npz", **batch)
    words = [folder / "bundle", tmp_path / "given.npz", tmp_path / "made.npz"]
    done = child(["-c", LEAN, *words], 1)
    assert done.returncode == 0, done.stderr
    made = np.load(tmp_path / "made.npz")
    np.testing.assert_array_equal(made["invented"], batch["mask"] > 0)

    trained = open_trained(folder / "run", None)
    parts = trained.config, trained.system, trained.run.variables, trained.frozen
    want = predictor(*parts, (), ())(batch)["completed"]
    assert np.abs(made["image"].astype(int) - want).max() <= 1  # a half, rounded
    assert (made["image"] == want).mean() > 0.999
    hole = batch["mask"] > 0
    np.testing.assert_array_equal(made["image"][~hole], batch["image"][~hole])

    # Before rounding, of the same numbers.
    bundle = jaxinpaint.load(folder / "bundle")
    given = {n: rng.uniform(-1, 1, (1, 80, 64, 1)).astype(np.float32) for n in names}
    given["mask"] = np.float32(rng.random((1, 80, 64, 1)) < 0.3)
    made = bundle.programs[0].call(bundle.variables, given)
    want = trained.system.predict(trained.run.variables, {}, given, None)
    for name in ("completed", "raw"):
        np.testing.assert_allclose(made[name], want[name], rtol=1e-6, atol=1e-6)


def test_the_model_tells_all_about_itself(eight):
    folder, _ = eight
    model = json.loads((folder / "bundle" / "model.json").read_text())
    run = open_trained(folder / "run", None).run
    assert model["system"] == "unet" and model["licence"] == "CC0-1.0"
    assert model["image"]["range"] == [-1.0, 1.0] and model["image"]["channels"] == 1
    assert model["mask"] == {
        "polarity": "1 = hole, 0 = valid",
        "channels": 1,
        "required": True,
        "may_cover_all": True,
    }
    assert model["stride"] == {"multiple": 16, "least": 32}
    assert model["platforms"] == ["cpu", "cuda", "tpu"]
    assert model["training"]["data"] == "phantom" and model["training"]["steps"] == 2
    assert model["weights"] == {"variables": tree_digest(run.variables), "frozen": ""}
    assert model["scores"] == {"why_not": "this run was not scored (eval.py)"}
    assert model["config"]["model"]["widths"] == [4, 8]
    assert model["config"]["data"]["cache_dir"] == "sections"  # no folder before it
    assert model["versions"]["jaxinpaint"] == jaxinpaint.__version__
    assert {"jax", "jaxlib", "flax"} <= model["versions"].keys()
    assert str(folder) not in (folder / "bundle" / "model.json").read_text()


def scored(eight, folder, **changes):
    """A copy of the run with scores beside it."""
    shutil.copytree(eight[0] / "run", folder)
    digest = tree_digest(open_trained(folder, None).run.variables)
    row = {"dataset": "phantom", "bin": "30%", "region": "hole", "sd": 1.0, "n": 4}
    rows = [
        {**row, "method": "unet", "metric": "psnr", "value": 21.239},
        {**row, "method": "telea", "metric": "psnr", "value": 18.5},
        {**row, "method": "telea", "metric": "ssim", "value": 0.51},
        {**row, "method": "telea", "metric": "mae", "value": None},
        {**row, "method": "paper", "metric": "psnr", "value": 30.0},
    ]
    told = {
        "weights": digest,
        "steps": 2,
        "dataset": "phantom",
        "data": "phantom",
        "cases": 4,
        "mask_manifest": "abcdef0123456789",
        "valid_pixels_changed": 0,
        "metric_weights": {},
    }
    (folder / "eval").mkdir()
    results = {"rows": rows, "run": {**told, **changes}}
    (folder / "eval" / "metrics.json").write_text(json.dumps(results))
    masks = {"seed": 1, "sha256": "abcdef0123456789"}
    (folder / "eval" / "masks.json").write_text(json.dumps(masks))
    return folder


def export(folder, *more):
    words = ["--workdir", folder, "--output", folder.parent / "bundle", *more]
    assert cli.main(["export", *map(str, words)]) == 0
    return folder.parent / "bundle"


def test_scores_of_these_weights_come_along_with_their_masks(eight, tmp_path):
    made = export(scored(eight, tmp_path / "run"), "--platforms", "cpu")
    model = jaxinpaint.load(made).model
    scores = model["scores"]
    assert {row["method"] for row in scores["rows"]} == {"unet", "telea"}
    assert scores["mask_manifest"] == "abcdef0123456789" and scores["cases"] == 4
    assert json.loads((made / "masks.json").read_text())["seed"] == 1
    assert "masks.json" in model["files"] and model["platforms"] == ["cpu"]
    card = (made / "README.md").read_text()
    assert "| unet | 21.24 |  |" in card and "| telea | 18.50 | 0.5100 |" in card


def test_scores_of_other_weights_do_not(eight, tmp_path):
    made = export(scored(eight, tmp_path / "run", weights="0", steps=1))
    scores = jaxinpaint.load(made).model["scores"]
    assert scores == {"why_not": "the run was scored at step 1, with other weights"}
    assert not (made / "masks.json").exists()
    assert "None: the run was scored at step 1" in (made / "README.md").read_text()


def test_fixed_sizes_where_asked_for(eight, tmp_path):
    shutil.copytree(eight[0] / "run", tmp_path / "run")
    made = export(tmp_path / "run", "--sizes", "48x64,32", "--platforms", "cpu")
    bundle = jaxinpaint.load(made)
    sizes = [(one.height, one.width) for one in bundle.programs]
    assert sizes == [(32, 32), (48, 64)]
    image = np.zeros((40, 60), np.uint8)
    mask = np.zeros_like(image)
    mask[3:9, 5:8] = 1
    filled = jaxinpaint.fill(bundle, image, mask, previous=image, following=image)
    assert filled.image.shape == (40, 60)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--step", "1000"], "holds no step 1000, but [2]"),
        (
            ["--sizes", "40"],
            "--sizes names 40 x 40; height and width must be multiples",
        ),
        (["--sizes", "32,big"], "--sizes is '32,big'; give sides such as 256,512"),
        (["--platforms", "gpu"], "--platforms is 'gpu'; name some of cpu, cuda, tpu"),
        (["--workdir", "nowhere"], "nowhere holds no run (no config.json)"),
        (["--output", "."], ". is there already; give a new folder."),
    ],
)
def test_wrong_use_exits_with_2_and_leaves_nothing(
    eight, tmp_path, capsys, words, says
):
    given = ["--workdir", eight[0] / "run", "--output", tmp_path / "out", *words]
    assert cli.main(["export", *map(str, given)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("jaxinpaint export: ") and says in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_where_writing_fails(eight, tmp_path, monkeypatch, capsys):
    from jaxinpaint.bundle import manifest

    def full(folder, facts, contents):
        (folder / "half").write_text("")
        raise OSError("no space left")

    monkeypatch.setattr(manifest, "write", full)
    words = ["--workdir", eight[0] / "run", "--output", tmp_path / "out"]
    words += ["--platforms", "cpu"]
    assert cli.main(["export", *map(str, words)]) == 2
    assert "no space left" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
