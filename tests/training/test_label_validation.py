"""The fixed batch of a segmenter: Dice by hand, a few rows at a time, drawn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.system import System
from jaxinpaint.training import loop
from jaxinpaint.training.label_validation import LabelValidation, drawn
from jaxinpaint.training.sharding import make_mesh
from tests.training import toy

SIDE = 8
ROWS = 2  # of a training step
# Rows of each image's label that are of the class; what is found is those of `FOUND`.
LABEL = {"normal": (4, 2, 0, 0, 3), "sclerosed": (0, 0, 0, 0, 0)}
FOUND = {"normal": (2, 2, 0, 1, 3), "sclerosed": (0, 0, 0, 0, 0)}


def rows_of(counts):
    maps = np.zeros((len(counts), SIDE, SIDE), np.uint8)
    for one, count in zip(maps, counts, strict=True):
        one[:count] = 1
    return maps


def stacked(by_class):
    return np.stack([rows_of(counts) for counts in by_class.values()], axis=-1)


def made(label, found, calls=None, **more):
    """A segmenter that finds what the image's first channels say."""

    def predict(variables, frozen, batch, key):
        if calls is not None:
            calls.append(batch["image"].shape[0])
        return {"probabilities": (batch["image"][..., :2] + 1.0) / 2.0}

    image = np.zeros((*label.shape[:3], 3), np.uint8)
    image[..., :2] = found * 255
    spec = {
        "image": jax.ShapeDtypeStruct((ROWS, SIDE, SIDE, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((ROWS, SIDE, SIDE, 2), jnp.float32),
    }
    system = System(spec, None, dict, None, predict)
    batch = {"image": image, "label": label, **more}
    return LabelValidation(system, batch, make_mesh(), jax.random.key(0))({}, {})


def test_dice_by_hand_of_five_images_two_at_a_time():
    traced = []
    scores, _ = made(stacked(LABEL), stacked(FOUND), traced)
    # Dice of the images: 2 * 2 / (4 + 2), 1, none, 0, 1; the other class is nowhere.
    want = (2 / 3 + 1 + 0 + 1) / 4
    assert scores == {"eval/dice": pytest.approx(want, abs=1e-12)}
    assert traced == [ROWS]  # the last run has one image, and compiles nothing new


def test_padding_does_not_count():
    """Of three images the last four rows are padding; something is found there."""
    label, found = (
        stacked({"normal": n, "sclerosed": (0,) * 3}) for n in ((4, 2, 0), (2, 8, 0))
    )
    found[2, 6:, :, 1] = 1
    valid = np.ones((3, SIDE, SIDE, 1), np.uint8)
    valid[:, 4:] = 0
    scores, _ = made(label, found, valid=valid)
    # 2 * 2 / (4 + 2), then 2 * 2 / (2 + 4) of four rows found; all of the last is none.
    assert scores["eval/dice"] == pytest.approx(2 / 3, abs=1e-12)


def test_classes_count_alike():
    found = {**FOUND, "sclerosed": (8, 0, 0, 0, 0)}  # one wrong: its Dice is 0
    scores, _ = made(stacked(LABEL), stacked(found))
    assert scores["eval/dice"] == pytest.approx((2 / 3 + 1 + 0 + 1) / 8, abs=1e-12)


def test_nothing_there_and_nothing_found_is_no_number():
    nothing = np.zeros((2, SIDE, SIDE, 2), np.uint8)
    scores, _ = made(nothing, nothing)
    assert np.isnan(scores["eval/dice"])


def test_half_of_a_probability_is_no_find():
    label = np.ones((2, SIDE, SIDE, 2), np.uint8)
    spec = {"label": jax.ShapeDtypeStruct((ROWS, SIDE, SIDE, 2), jnp.float32)}
    half = lambda v, f, batch, key: {"probabilities": 0.5 * batch["label"]}
    system = System(spec, None, dict, None, half)
    batch = {"image": np.zeros((2, SIDE, SIDE, 3), np.uint8), "label": label}
    scores, _ = LabelValidation(system, batch, make_mesh(), jax.random.key(0))({}, {})
    assert scores["eval/dice"] == 0.0


def test_the_panel_shows_image_truth_and_prediction():
    label = stacked({"normal": (4,) * 5, "sclerosed": (0,) * 5})
    _, images = made(label, stacked(FOUND))
    assert list(images) == ["image", "label", "predicted"]
    # Two runs of two images give the four rows that a panel has.
    assert {len(array) for array in images.values()} == {4}
    image, truth, found = (array[0] for array in images.values())
    np.testing.assert_array_equal(truth[4:], image[4:])
    want = (image[0, 0] + [-1, 0.25, 1]) / 2
    np.testing.assert_allclose(truth[0, 0], want, atol=1e-6)
    np.testing.assert_allclose(found[0], truth[0], atol=1e-6)
    assert np.any(found[2] != truth[2])  # of which two rows were found


def test_the_later_class_is_drawn_over_the_earlier():
    both = drawn(jnp.zeros((1, 1, 1, 3)), jnp.ones((1, 1, 1, 2)))
    once = drawn(jnp.zeros((1, 1, 1, 3)), jnp.asarray([0.0, 1.0]).reshape(1, 1, 1, 2))
    assert both[0, 0, 0, 0] > 0 and both[0, 0, 0, 2] < 0  # orange, as alone
    assert np.sign(both).tolist() == np.sign(once).tolist()


def segmenter():
    """The toy system, asked for labels: what it makes of a zero image is found."""
    system = toy.system()
    spec = {**system.batch_spec, "label": system.batch_spec["mask"]}

    def predict(variables, frozen, batch, key):
        made = system.predict(variables, frozen, batch, key)["completed"]
        return {"probabilities": jax.nn.sigmoid(made)}

    return system._replace(batch_spec=spec, predict=predict)


@pytest.fixture
def labelled(monkeypatch):
    """The toy's batches, with its holes as labels."""

    def batch(step, seed=0, plain=toy.batch):
        made = plain(step, seed)
        return {**made, "label": made["mask"]}

    monkeypatch.setattr(toy, "batch", batch)


def test_the_loop_keeps_the_step_of_the_highest_dice(tmp_path, monkeypatch, labelled):
    dice = iter([0.9, 0.2, 0.3, 0.4])
    panel = {"image": np.zeros((1, SIDE, SIDE, 3), np.float32)}
    monkeypatch.setattr(
        loop,
        "LabelValidation",
        lambda *a: lambda *b: ({"eval/dice": next(dice)}, panel),
    )
    toy.run(
        tmp_path,
        of=segmenter(),
        steps=4,
        train__save_every=1,
        train__keep_latest=1,
        train__panel_every=99,
    )
    assert toy.steps_saved(tmp_path) == [1, 4]


def test_the_loop_scores_labels(tmp_path, labelled):
    toy.run(tmp_path, of=segmenter(), steps=1)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (record,) = [r for r in map(json.loads, lines) if "eval/dice" in r]
    assert 0.0 <= record["eval/dice"] <= 1.0
    assert "eval/psnr" not in record
    assert (tmp_path / "images" / "step_0000001.png").exists()
