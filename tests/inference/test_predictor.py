"""What else a system predicts, and what it derives from both neighbours."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs.unet import get_config
from jaxinpaint import systems
from jaxinpaint.core import checks
from jaxinpaint.core.system import Derived
from jaxinpaint.inference.restore import predictor, restorer
from jaxinpaint.systems import unet


class Toy:
    """A U-Net's config with a system that shows what it was given."""

    def __init__(self, patch):
        self.calls, self.traces = [], 0
        self.config = get_config("smoke")
        self.system = systems.build(self.config)
        one = self.system.batch_spec["image"]
        spec = {**self.system.batch_spec, "intermediate": one}
        self.system = self.system._replace(batch_spec=spec, predict=self.predict)
        derived = {"intermediate": Derived("between", self.between, "mine")}
        patch.setattr(unet, "derived", lambda config: derived, raising=False)

    def predict(self, variables, frozen, batch, key):
        self.traces += 1
        assert sorted(batch) == sorted(self.system.batch_spec)
        mask, between = batch["mask"], batch["intermediate"]
        flow = jnp.stack([between[..., 0], jnp.full(mask.shape[:3], 7.0)], axis=-1)
        return {
            "completed": jnp.where(mask > 0, 0.5, batch["image"]),
            "intermediate": between,
            "flow": flow,
        }

    def between(self, previous, following, alpha):
        """The weighted mean, rounded."""
        self.calls.append((previous.shape, previous.dtype, alpha))
        mean = (1 - alpha) * previous.astype(float) + alpha * following
        return np.rint(mean).astype(previous.dtype)

    def make(self, also=("intermediate",), fields=("flow",), whole=()):
        return predictor(self.config, self.system, {}, {}, also, fields, whole)


@pytest.fixture
def toy(monkeypatch):
    return Toy(monkeypatch)


def sample(dtype="uint8", count=2, height=70, width=83):
    rng = np.random.default_rng(0)
    shape = (count, height, width, 1)
    if dtype == "float32":
        image, previous, following = rng.uniform(-1, 1, (3, *shape)).astype(dtype)
    else:
        top = np.iinfo(dtype).max + 1
        image, previous, following = rng.integers(0, top, (3, *shape)).astype(dtype)
    mask = np.zeros(shape, np.uint8)
    mask[:, 30:, 40:] = 1
    sections = {"image": image, "previous": previous, "following": following}
    return {**sections, "mask": mask}


def hole(batch):
    return batch["mask"] > 0


def test_one_pass_hands_over_all_that_was_asked_for(toy):
    batch = sample()
    predict = toy.make()
    assert toy.traces == 1  # for the shapes of what is asked for
    out = predict(batch)
    predict(batch)
    assert toy.traces == 2
    assert sorted(out) == ["completed", "flow", "intermediate"]
    for name in ("completed", "intermediate"):
        made = out[name]
        assert (made.shape, made.dtype) == (batch["image"].shape, np.uint8)
        np.testing.assert_array_equal(made[~hole(batch)], batch["image"][~hole(batch)])
    assert (out["completed"][hole(batch)] == 191).all()  # 1.5 * 127.5 = 191.25
    assert out["flow"].shape == (2, 70, 83, 2) and out["flow"].dtype == np.float32
    assert (out["flow"][..., 1] == 7.0).all()  # in the valid part too


def test_the_derived_section_is_of_the_whole_images(toy):
    batch = sample()
    out = toy.make()(batch)
    assert toy.calls == [((70, 83, 1), np.dtype("uint8"), 0.5)] * 2  # not padded
    mean = (batch["previous"].astype(float) + batch["following"]) / 2
    want = np.rint(mean)[hole(batch)]
    np.testing.assert_array_equal(out["intermediate"][hole(batch)], want)
    levels = (out["flow"][..., 0] + 1) * 127.5
    np.testing.assert_allclose(levels[..., None], np.rint(mean), atol=1e-3)


@pytest.mark.parametrize("alpha", [0.25, np.float32([0.25, 1.0])])
def test_alpha_of_the_batch(toy, alpha):
    batch = sample("uint16")
    out = toy.make()({**batch, "alpha": alpha})
    places = np.broadcast_to(alpha, 2)
    assert [call[2] for call in toy.calls] == places.tolist()
    t = places[:, None, None, None].astype(float)
    mean = (1 - t) * batch["previous"] + t * batch["following"]
    want = np.rint(mean)[hole(batch)]
    np.testing.assert_array_equal(out["intermediate"][hole(batch)], want)


def test_floats_go_through_sixteen_bits(toy):
    batch = sample("float32")
    out = toy.make()(batch)
    assert {call[1] for call in toy.calls} == {np.dtype("uint16")}
    want = (batch["previous"] + batch["following"]) / 2
    apart = np.abs(out["intermediate"] - want)[hole(batch)]
    assert out["intermediate"].dtype == np.float32
    assert 0 < apart.max() <= 2.0 / 65535  # a level of both roundings


def test_what_is_given_is_not_computed(toy):
    batch = sample()
    given = np.full_like(batch["image"], 51)
    out = toy.make()({**batch, "intermediate": given, "alpha": 0.3})
    assert toy.calls == [] and (out["intermediate"][hole(batch)] == 51).all()
    toy.make()({**batch, "intermediate": None})
    assert len(toy.calls) == 2


def test_rows_that_fill_a_batch_up_cost_nothing(toy):
    batch = sample()
    rows = [0, 1, 1, 1]
    out = toy.make()({name: array[rows] for name, array in batch.items()})
    assert len(toy.calls) == 2
    for row in (2, 3):
        np.testing.assert_array_equal(out["intermediate"][row], out["intermediate"][1])
    assert (out["intermediate"][1] != out["intermediate"][0]).any()
    toy.calls.clear()
    both = {name: array[rows] for name, array in batch.items()}
    toy.make()({**both, "alpha": np.float32([0.5, 0.5, 0.2, 0.2])})
    assert [call[2] for call in toy.calls] == pytest.approx([0.5, 0.5, 0.2])


def test_the_result_alone(toy):
    batch = sample()
    restore = restorer(toy.config, toy.system, {}, {})
    np.testing.assert_array_equal(restore(batch), toy.make()(batch)["completed"])


def test_an_empty_mask_runs_nothing(toy):
    batch = sample()
    batch["mask"][:] = 0
    out = toy.make()(batch)
    assert toy.calls == [] and sorted(out) == ["completed", "intermediate"]
    for made in out.values():
        np.testing.assert_array_equal(made, batch["image"])
        assert not np.shares_memory(made, batch["image"])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_whole_outputs_are_not_composited(toy, dtype):
    """The toy's `intermediate` is the neighbours' mean, in valid pixels too."""
    batch = sample(dtype)
    out = toy.make(also=(), whole=("intermediate",))(batch)
    assert sorted(out) == ["completed", "flow", "intermediate whole"]
    made, image = out["intermediate whole"], batch["image"]
    assert (made.shape, made.dtype) == (image.shape, image.dtype)
    mean = (batch["previous"].astype(float) + batch["following"]) / 2
    want, step = (mean, 2 / 65535) if dtype == "float32" else (np.rint(mean), 0)
    np.testing.assert_allclose(made, want, atol=step, rtol=0)
    completed = out["completed"]
    np.testing.assert_array_equal(completed[~hole(batch)], image[~hole(batch)])


def test_an_output_can_be_had_both_ways_in_one_pass(toy):
    batch = sample()
    predict = toy.make(whole=("intermediate",))
    before = toy.traces
    out = predict(batch)
    assert toy.traces == before + 1
    both, whole = out["intermediate"], out["intermediate whole"]
    np.testing.assert_array_equal(both, np.where(batch["mask"], whole, batch["image"]))
    batch["mask"][:] = 0  # nothing to fill: the network runs for what is whole
    out = predict(batch)
    np.testing.assert_array_equal(out["intermediate whole"], whole)
    np.testing.assert_array_equal(out["intermediate"], batch["image"])
    out["intermediate whole"][0, 0, 0] = 7  # an array of its own


@pytest.mark.parametrize(("dtype", "lowest"), [("uint8", 0), ("float32", -1.0)])
@pytest.mark.parametrize("garbage", ["truth", "nan"])
def test_a_blind_network_cannot_read_the_hole(toy, dtype, lowest, garbage, monkeypatch):
    """It is given image and mask alone, and hands on what it saw."""
    monkeypatch.setattr(unet, "validate_inputs", lambda *arguments: None)
    monkeypatch.setattr(unet, "derived", lambda config: {})
    batch = {name: sample(dtype)[name] for name in ("image", "mask")}
    given = batch["image"].copy()
    if garbage == "nan" and dtype == "float32":
        given[hole(batch)] = np.nan
    kept = given.copy()

    def predict(variables, frozen, batch, key):
        seen = batch["image"]
        return {"completed": seen + 0.25, "raw": seen}

    toy.system = toy.system._replace(
        batch_spec={name: toy.system.batch_spec[name] for name in ("image", "mask")},
        predict=predict,
    )
    restore = toy.make(also=(), fields=(), whole=("raw",))
    out = restore({**batch, "image": given})
    want = np.where(hole(batch), lowest, batch["image"]).astype(dtype)
    np.testing.assert_array_equal(out["raw whole"], want)
    filled = out["completed"][hole(batch)]
    assert set(filled.tolist()) == {32 if dtype == "uint8" else -0.75}  # 0.25 * 127.5
    np.testing.assert_array_equal(given, kept)  # the caller's array is untouched


def test_fields_that_are_not_predicted_are_passed_over(toy):
    assert "depth" not in toy.make(fields=("depth", "flow"))(sample())


@pytest.mark.parametrize("name", ["flow", "reference"])
def test_only_images_are_put_into_the_hole(toy, name):
    match = rf"names '{name}'; .* are \['completed', 'intermediate'\]"
    with pytest.raises(ValueError, match=f"eval.also {match}"):
        toy.make(also=("intermediate", name))
    with pytest.raises(ValueError, match=f"eval.whole {match}"):
        toy.make(also=(), whole=(name,))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"alpha": 1.5}, checks.RangeError, r"alpha must lie in \[0, 1\].* got 1.5"),
        ({"alpha": np.nan}, checks.RangeError, "got nan"),
        ({"alpha": [0.5]}, checks.ShapeMismatchError, r"one number or \[2\], got \[1"),
        ({"following": None}, checks.ShapeMismatchError, "restore: following is miss"),
        (
            {"following": sample("uint16")["following"]},
            checks.DTypeError,
            "previous is uint8 and following uint16",
        ),
    ],
)
def test_what_nothing_can_be_derived_from(toy, change, error, match):
    with pytest.raises(error, match=match):
        toy.make()({**sample(), **change})


def test_a_system_that_checks_less_than_it_derives_from(toy, monkeypatch):
    monkeypatch.setattr(unet, "validate_inputs", lambda *arguments: None)
    with pytest.raises(checks.ShapeMismatchError, match="computed from both adjacent"):
        toy.make()({**sample(), "previous": None})


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_system_that_needs_no_mask_may_change_all_but_what_is_protected(
    monkeypatch, dtype
):
    config = get_config("smoke")
    system = systems.build(config)

    def predict(variables, frozen, batch, key):
        assert "mask" not in batch
        return {"completed": -batch["image"], "raw": batch["image"] * 0.5}

    monkeypatch.setattr(systems, "validate_inputs", lambda *_: None)
    predict = predictor(
        config, system._replace(predict=predict), {}, {}, (), (), whole=()
    )
    image = sample(dtype)["image"]
    protect = np.zeros((*image.shape[:3], 1), np.uint8)
    protect[:, 5:9] = 1
    top = {"uint8": 255, "uint16": 65535, "float32": 0}[dtype]
    want = np.where(protect > 0, image, top - image)
    out = predict({"image": image, "protect": protect})["completed"]
    assert out.dtype == image.dtype
    np.testing.assert_array_equal(out, want)
    np.testing.assert_array_equal(predict({"image": image})["completed"], top - image)
