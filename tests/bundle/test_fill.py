"""Filling with a bundle: shapes, dtypes, padding, what may not change, bad input."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxinpaint
from jaxinpaint.bundle.fill import choose
from jaxinpaint.core import checks
from tests.bundle import toy

LEVELS = {"uint8": 127.5, "uint16": 32767.5}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        toy.accept(patch, mask=True, whole=False)
        return toy.bundle(tmp_path_factory.mktemp("toy") / "any")


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        toy.accept(patch, mask=True, whole=True)
        sizes = [(32, 96), (64, 32), (32, 32)]
        folder = tmp_path_factory.mktemp("toy") / "fixed"
        return toy.bundle(folder, toy.square_alone, sizes)


def sample(dtype="uint8", shape=(37, 41), seed=0):
    rng = np.random.default_rng(seed)
    if dtype in LEVELS:
        image, previous = rng.integers(0, np.iinfo(dtype).max + 1, (2, *shape)).astype(
            dtype
        )
    else:
        image, previous = rng.uniform(-1, 1, (2, *shape)).astype(dtype)
    mask = np.zeros(shape[-3:-1] if len(shape) > 2 else shape, np.uint8)
    mask[5:20, 7:30] = 1
    return image, previous, mask


def by_hand(previous, dtype):
    """Half the section and a quarter, in the dtype."""
    if dtype not in LEVELS:
        return (previous.astype(np.float32) * 0.5 + 0.25).astype(dtype)
    half = LEVELS[dtype]
    value = (previous / half - 1.0) * 0.5 + 0.25
    return np.clip(np.floor((value + 1.0) * half + 0.5), 0, 2 * half)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64", "float16"])
def test_the_hole_is_painted_and_the_rest_is_what_it_was(bundle, dtype):
    image, previous, mask = sample(dtype)
    filled = jaxinpaint.fill(bundle, image, mask, previous=previous)
    assert filled.image.dtype == dtype and filled.image.shape == image.shape
    np.testing.assert_array_equal(filled.invented, mask > 0)
    valid = mask == 0
    assert filled.image[valid].tobytes() == image[valid].tobytes()
    want = by_hand(previous, dtype)[~valid]
    made = filled.image[~valid]
    if dtype in LEVELS:  # a half may be rounded either way in float32
        assert np.abs(made.astype(int) - want).max() <= 1
        assert (made == want).mean() > 0.95
    else:
        rtol = 1e-3 if dtype == "float16" else 1e-6
        np.testing.assert_allclose(made, want, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("shape", "masks", "invented"),
    [
        ((37, 41), [(37, 41)], (37, 41)),
        ((37, 41, 1), [(37, 41), (37, 41, 1)], (37, 41, 1)),
        ((3, 37, 41, 1), [(3, 37, 41), (3, 37, 41, 1)], (3, 37, 41, 1)),
    ],
)
def test_with_and_without_axes_of_batch_and_channels(bundle, shape, masks, invented):
    image, previous, mask = sample(shape=shape)
    whole = mask if len(shape) < 4 else np.stack([mask] * 3)
    for one in masks:
        filled = jaxinpaint.fill(
            bundle, image, whole.reshape(one) > 0, previous=previous
        )
        assert filled.image.shape == shape and filled.invented.shape == invented
        assert filled.invented.dtype == bool
        np.testing.assert_array_equal(filled.invented.reshape(whole.shape), whole > 0)
        assert (filled.image != image).any()


def test_what_lies_in_the_hole_is_not_read(bundle):
    image, previous, mask = sample("float32")
    want = jaxinpaint.fill(bundle, image, mask, previous=previous)
    spoilt = np.where(mask > 0, np.float32(np.nan), image)
    got = jaxinpaint.fill(bundle, spoilt, mask, previous=previous)
    np.testing.assert_array_equal(got.image, want.image)


def test_protected_pixels_never_change(bundle):
    image, previous, mask = sample()
    protect = np.zeros_like(mask)
    protect[10:12] = 1
    filled = jaxinpaint.fill(bundle, image, mask, protect=protect, previous=previous)
    free = (mask > 0) & (protect == 0)
    np.testing.assert_array_equal(filled.invented, free)
    np.testing.assert_array_equal(filled.image[~free], image[~free])


def test_without_a_hole_no_network_runs(bundle):
    image, previous, mask = sample()
    still = bundle._replace(programs=())
    filled = jaxinpaint.fill(still, image, 0 * mask, previous=previous)
    np.testing.assert_array_equal(filled.image, image)
    assert not filled.invented.any() and filled.image is not image


def test_the_least_program_that_fits_is_taken(fixed):
    sides = lambda h, w: choose("fill", fixed, {"image", "previous", "mask"}, h, w)[1]
    assert sides(20, 30) == (32, 32)
    assert sides(32, 32) == (32, 32)
    assert sides(33, 10) == (64, 32)
    assert sides(10, 33) == (32, 96)
    image, previous, mask = sample(shape=(50, 30))
    filled = jaxinpaint.fill(fixed, image, mask, previous=previous)
    apart = filled.image[mask > 0].astype(int) - by_hand(previous, "uint8")[mask > 0]
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("shape", [(65, 32), (33, 33)])
def test_an_image_larger_than_every_program_is_refused(fixed, shape):
    image, previous, mask = sample(shape=shape)
    sizes = "32 x 32, 64 x 32, 32 x 96 at most; export it with --sizes"
    with pytest.raises(checks.UnalignedSizeError, match=sizes):
        jaxinpaint.fill(fixed, image, mask, previous=previous)


def test_any_size_is_padded_to_the_stride(bundle):
    sides = lambda h, w: choose("fill", bundle, {"image", "previous", "mask"}, h, w)[1]
    assert sides(1, 33) == (32, 48)
    assert sides(48, 49) == (48, 64)


def test_one_image_at_a_time_where_no_batch_can_be_lowered(tmp_path, monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)
    bundle = toy.bundle(tmp_path / "one", toy.one_alone, [(32, 32)])
    assert [one.batch for one in bundle.programs] == [1]
    image, previous, mask = sample("float32", (3, 30, 31, 1))
    masks = np.stack([mask] * 3)
    filled = jaxinpaint.fill(bundle, image, masks, previous=previous)
    want = np.where(masks[..., None] > 0, previous * 0.5 + 0.25, image)
    np.testing.assert_allclose(filled.image, want, rtol=1e-6)


def test_a_system_that_needs_no_mask(tmp_path, monkeypatch):
    toy.accept(monkeypatch, mask=False, whole=False)

    def blind(variables, frozen, batch, key):
        raw = batch["image"] * variables["generator"]["params"]["gain"].reshape(
            1, 1, 1, 1
        )
        mask = batch.get("mask")
        known = raw if mask is None else jnp.where(mask > 0, raw, batch["image"])
        return {"completed": known}

    bundle = toy.bundle(tmp_path / "blind", blind, spec=toy.images("image"))
    assert not bundle.model["mask"]["required"]
    assert {tuple(one.inputs) for one in bundle.programs} == {
        ("image", "mask"),
        ("image",),
    }
    image, _, mask = sample("float32")
    filled = jaxinpaint.fill(bundle, image)
    np.testing.assert_allclose(filled.image, image * 0.5, rtol=1e-6)
    assert filled.invented.all()
    filled = jaxinpaint.fill(bundle, image, mask)
    np.testing.assert_array_equal(filled.image[mask == 0], image[mask == 0])
    np.testing.assert_allclose(filled.image[mask > 0], image[mask > 0] * 0 - 0.5)


def test_checks_that_ask_for_no_mask_do_not_make_it_optional(tmp_path, monkeypatch):
    toy.accept(monkeypatch, mask=False, whole=False)
    bundle = toy.bundle(tmp_path / "needs")  # its predict looks for a mask
    assert bundle.model["mask"]["required"]
    assert len(bundle.programs) == 1


def test_a_network_that_diverged_is_told(tmp_path, monkeypatch):
    toy.accept(monkeypatch, mask=True, whole=False)

    def spoilt(variables, frozen, batch, key):
        return {"completed": toy.paint(variables, frozen, batch, key)["raw"] / 0.0}

    bundle = toy.bundle(tmp_path / "nan", spoilt)
    image, previous, mask = sample()
    with pytest.raises(ValueError, match="NaN or infinity; its training diverged"):
        jaxinpaint.fill(bundle, image, mask, previous=previous)


def test_holes_of_a_whole_image(bundle, fixed):
    image, previous, mask = sample(shape=(30, 30))
    all_hole = np.ones_like(mask)
    with pytest.raises(checks.MaskCoverageError, match="is all hole"):
        jaxinpaint.fill(bundle, image, all_hole, previous=previous)
    filled = jaxinpaint.fill(fixed, image, all_hole, previous=previous)
    assert filled.invented.all()
    inverted = all_hole.copy()
    inverted[0, 0] = 0
    with pytest.raises(checks.MaskValueError, match="may be inverted"):
        jaxinpaint.fill(fixed, image, inverted, previous=previous)
    filled = jaxinpaint.fill(
        fixed, image, inverted, previous=previous, allow_large_holes=True
    )
    assert filled.image[0, 0] == image[0, 0]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"mask": None}, checks.ShapeMismatchError, "mask is missing"),
        ({"previous": None}, checks.ShapeMismatchError, "previous is missing; it is"),
        ({"following": np.zeros((37, 41))}, TypeError, "following is no input"),
        ({"image": np.zeros((37, 41), np.int32)}, checks.DTypeError, "got int32"),
        ({"image": np.zeros((37, 41, 3), np.uint8)}, checks.ShapeMismatchError, "37, 41, 3"),
        ({"image": np.zeros((37,), np.uint8)}, checks.ShapeMismatchError, "image must be"),
        ({"mask": np.zeros((41, 37))}, checks.ShapeMismatchError, "mask must be"),
        ({"mask": np.full((37, 41), 255)}, checks.MaskValueError, "divide a 0-255"),
        ({"mask": np.full((37, 41), np.nan)}, checks.MaskValueError, "got nan"),
        ({"previous": np.zeros((36, 41), np.uint8)}, checks.ShapeMismatchError, "previous"),
        ({"previous": np.full((37, 41), 2.0)}, checks.RangeError, "previous must lie"),
        ({"image": np.full((37, 41), np.inf)}, checks.NonFiniteInputError, "image is inf"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(bundle, change, error, says):
    image, previous, mask = sample()
    given = {"image": image, "mask": mask, "previous": previous, **change}
    with pytest.raises(error, match=says) as raised:
        jaxinpaint.fill(bundle, **given)
    assert "\n" not in str(raised.value)


def test_a_bundle_that_restores_nothing_says_so(tmp_path, monkeypatch):
    toy.accept(monkeypatch, mask=False, whole=False)
    label = lambda v, f, batch, key: {
        "logits": batch["image"] * v["generator"]["params"]["gain"].reshape(1, 1, 1, 1)
    }
    spec = {"image": toy.images("image")["image"]}
    bundle = toy.bundle(tmp_path / "label", label, spec=spec)
    with pytest.raises(ValueError, match="makes .'logits'. and restores no image"):
        jaxinpaint.fill(bundle, np.zeros((32, 32), np.uint8))
    (program,) = bundle.programs
    made = program.call(
        bundle.variables, {"image": np.ones((1, 32, 48, 1), np.float32)}
    )
    np.testing.assert_array_equal(made["logits"], np.full((1, 32, 48, 1), 0.5))
