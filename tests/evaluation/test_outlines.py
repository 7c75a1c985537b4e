"""Drawn outlines beside real ones: sizes by hand, and one evaluation whole."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist

from configs import glomeruli_masks
from jaxinpaint.core.checkpoint import Checkpoints
from jaxinpaint.core.system import System, TrainState
from jaxinpaint.evaluation import evaluate, outlines
from jaxinpaint.training import workdir as workdirs


def toy(config):
    """Draws squares of 20 pixels, each a step further to the right; the first is none."""
    spec = {"image": jax.ShapeDtypeStruct((2, 64, 64, 3), "float32")}
    state = TrainState(jnp.int32(0), {"generator": {"params": {"g": jnp.ones(1)}}}, {})

    def predict(variables, frozen, batch, key):
        n = batch["image"].shape[0]
        x, shift = jnp.arange(64)[None], 4 * jnp.arange(n)[:, None]
        inside = (x >= 10 + shift) & (x < 30 + shift) & (shift > 0)
        rows = (x >= 10) & (x < 30)
        maps = jnp.where(inside[:, None, :] & rows[:, :, None], 1.0, -1.0)
        return {"sampled": jnp.repeat(maps[..., None], 3, axis=-1)}

    return System(spec, lambda key: state, lambda: {}, None, predict)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("masks") / "run"
    config = glomeruli_masks.get_config("smoke")
    folder.mkdir()
    workdirs.open_workdir(folder, config)
    (folder / "metrics.jsonl").write_text('{"step": 4, "loss/generator": 0.5}\n')
    best = ("eval/psnr", "max")
    with Checkpoints(
        folder / "checkpoints", save_every=1, keep_latest=1, keep_best=0, best=best
    ) as checkpoints:
        checkpoints.save(4, toy(config).init(None), {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(outlines.systems, "build", toy)
        page = evaluate.evaluate(config, folder, None)
    return page, json.loads((folder / "eval" / "metrics.json").read_text())


def value(results, method, metric):
    (row,) = [
        r for r in results["rows"] if (r["method"], r["metric"]) == (method, metric)
    ]
    return row["value"], row["n"]


def test_an_evaluation(done):
    page, results = done
    # Eight samples, four at once, of which the first of each four is empty.
    assert value(results, "glomeruli", "area") == (400.0, 6)
    assert value(results, "glomeruli", "empty") == (0.25, 8)
    assert value(results, "glomeruli", "pieces") == (0.75, 8)
    radius, _ = value(results, "glomeruli", "radius")
    assert radius == pytest.approx(19 * 2**0.5 / 2)
    area, count = value(results, "training outlines", "area")
    assert count >= 2 and area > 25
    text = page.read_text()
    assert text.count("data:image/png") == 2 and "Sizes: quantiles" in text
    assert "without a piece 2" in text
    assert results["run"]["steps"] == 4


def test_sizes_are_of_the_window_and_small_pieces_do_not_count():
    maps = np.zeros((2, 16, 16), np.float32)
    maps[0, 2:5, 2:7] = 1  # 15 pixels
    maps[0, 10, 10] = 1  # one pixel: too small
    maps[1, 8:12, 3] = 0.5  # not above the threshold
    found = outlines.measure(maps, 0.5, 4.0, 100)
    assert found["area"] == [15 * 16.0]
    longest = pdist(np.argwhere(maps[0, :9] > 0)).max()
    assert found["radius"] == [pytest.approx(4 * longest / 2)]
    assert found["pieces"] == [1.0, 0.0]


def test_how_far_distributions_lie_apart():
    def sizes(*areas):
        return {"area": areas, "radius": areas, "pieces": [1.0] * len(areas)}

    def apart(drawn, real):
        rows = outlines.tidy({outlines.DRAWN: drawn, outlines.REAL: real}, "x")
        (row,) = [r for r in rows if r["metric"] == "area_distance"]
        return row["value"]

    assert apart(sizes(1, 2, 3, 4), sizes(1, 2, 3, 4)) == 0
    assert apart(sizes(1, 2), sizes(3, 4)) == 1
    assert apart(sizes(1, 2, 3, 4), sizes(3, 4, 5, 6)) == 0.5
    assert apart(sizes(), sizes(3)) is None


def test_a_sheet():
    maps = np.stack([np.full((2, 3), v, np.float32) for v in (0.0, 0.5, 1.0)])
    page = outlines.sheet(maps)
    assert page.shape == (5, 7)
    assert page[0].tolist() == [0, 0, 0, 128, 128, 128, 128]
    assert page[3].tolist() == [255, 255, 255, 128, 128, 128, 128]
