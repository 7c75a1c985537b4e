"""The fixed batch of a run: pictures without neighbours, outputs drawn whole."""

import jax
import numpy as np
import pytest

from jaxinpaint.training.sharding import make_mesh
from jaxinpaint.training.validation import Validation
from tests.training import toy

KEY = jax.random.key(0)


def predict(variables, frozen, batch, key):
    """A result that is 0.2 off in the hole and an output 0.02 off everywhere."""
    mask, image = batch["mask"], batch["image"]
    return {"completed": image + 0.2 * mask, "raw": image - 0.02, "flow": image}


def made(whole):
    system = toy.system()._replace(predict=predict)
    return Validation(system, toy.batch(0), make_mesh(), KEY, whole)({}, {})


def test_pictures_without_neighbours():
    scores, images = made(())
    # Errors of 0.1 of the range in [0, 1]: 10 log10(1 / 0.01) dB.
    assert scores == {"eval/psnr": pytest.approx(20.0, abs=1e-4)}
    assert list(images) == ["masked", "completed", "image"]


def test_whole_outputs_are_scored_and_drawn_as_they_are():
    scores, images = made(("raw", "depth"))  # what is not predicted is passed over
    want = {"eval/psnr": 20.0, "eval/psnr_raw_whole": 40.0}  # 0.01 everywhere
    assert scores == pytest.approx(want, abs=1e-3)
    assert list(images) == ["masked", "completed", "raw_whole", "image"]
    apart = images["image"] - images["raw_whole"]
    np.testing.assert_allclose(apart, 0.02, atol=1e-6)


def test_the_loop_hands_them_over(tmp_path):
    toy.run(tmp_path, steps=1, eval__whole=("completed",))
    both = [
        [value for *_, value in toy.records(tmp_path, name)]
        for name in ("eval/psnr", "eval/psnr_completed_whole")
    ]
    # The composite errs in its hole of 9 of 64 pixels alone: 10 log10(64 / 9) dB.
    assert both[1][0] - both[0][0] == pytest.approx(8.519, abs=1e-3)


def test_what_is_sampled_is_drawn_beside_the_batch_and_not_scored():
    spec = {"image": toy.SPEC["image"]}
    images = {"image": toy.batch(0)["image"]}
    sample = lambda v, f, batch, key: {"sampled": -batch["image"]}
    system = toy.system()._replace(batch_spec=spec, predict=sample)
    scores, shown = Validation(system, images, make_mesh(), KEY)({}, {})
    assert scores == {}
    assert list(shown) == ["image", "sampled"]
    np.testing.assert_array_equal(shown["sampled"], -shown["image"])
