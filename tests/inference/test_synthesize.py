import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core.checks import DTypeError, MaskCoverageError, MaskValueError
from jaxinpaint.core.system import System
from jaxinpaint.inference.synthesize import restore_windows, sample_masks

pytestmark = pytest.mark.usefixtures("quick_programs")
OPTIONS = {"batch_size": 2, "feather": 0.0}


def windows(count=5, side=20, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    masks = np.zeros((count, side, side), np.uint8)
    for n, mask in enumerate(masks):
        mask[4 + n : 12, 3 : 9 + n] = 1
    return images, masks


class Painter:
    """Paints its batch's row number plus 100, over the whole window."""

    def __init__(self):
        self.batches = []

    def __call__(self, batch):
        self.batches.append(batch)
        image, mask = batch["image"], batch["mask"]
        assert image.dtype == mask.dtype == np.uint8 and mask.shape[-1] == 1
        paint = 100 + np.arange(len(image), dtype=np.uint8)
        return np.broadcast_to(paint[:, None, None, None], image.shape).copy()


def test_bytes_outside_are_kept_and_inside_are_made():
    images, masks = windows()
    before, painter = images.copy(), Painter()
    out = restore_windows(painter, images, masks, **OPTIONS)
    hole = masks > 0
    np.testing.assert_array_equal(out[~hole], images[~hole])
    for n in range(5):
        assert (out[n][hole[n]] == 100 + n % 2).all()
    np.testing.assert_array_equal(images, before)
    assert out.dtype == np.uint8


def test_batches_have_one_size_and_are_filled_up_with_the_last_window():
    images, masks = windows()
    painter = Painter()
    restore_windows(painter, images, masks, **{**OPTIONS, "batch_size": 3})
    assert [len(batch["image"]) for batch in painter.batches] == [3, 3]
    last = painter.batches[1]["image"]
    np.testing.assert_array_equal(last[:2], images[3:])
    np.testing.assert_array_equal(last[2], images[4])


def slow_feather(made, image, mask, feather):
    outside = np.argwhere(mask == 0)
    out = image.copy()
    for y, x in np.argwhere(mask):
        d = np.sqrt(((outside - [y, x]) ** 2).sum(-1).min())
        alpha = min(1.0, d / feather)
        for c in range(3):
            value = alpha * int(made[y, x, c]) + (1 - alpha) * int(image[y, x, c])
            out[y, x, c] = int(value + 0.5)
    return out


@pytest.mark.parametrize("feather", [1.0, 2.5, 6.0])
def test_feathering_equals_a_loop(feather):
    images, masks = windows(2)
    made = np.random.default_rng(5).integers(0, 256, images.shape).astype(np.uint8)
    out = restore_windows(
        lambda batch: made, images, masks, batch_size=2, feather=feather
    )
    for n in range(2):
        want = slow_feather(made[n], images[n], masks[n], feather)
        np.testing.assert_array_equal(out[n], want)
    if feather == 1.0:  # every pixel inside lies at least one pixel inside
        plain = restore_windows(lambda batch: made, images, masks, **OPTIONS)
        np.testing.assert_array_equal(out, plain)


@pytest.mark.parametrize("value, kind", [(0, "empty"), (1, "full")])
def test_a_mask_without_hole_or_without_surroundings_is_named(value, kind):
    images, masks = windows()
    masks[3] = value
    with pytest.raises(MaskCoverageError, match=f"sample 3 of masks is {kind}"):
        restore_windows(Painter(), images, masks, **OPTIONS)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda i, m: (i.astype(np.float32), m), DTypeError, "float32"),
        (lambda i, m: (i[..., :2], m), ValueError, r"\[N, H, W, 3\]"),
        (lambda i, m: (i, m[:4]), ValueError, r"\[5, 20, 20\]"),
        (lambda i, m: (i, m * 255), MaskValueError, "255"),
    ],
)
def test_windows_that_cannot_be(change, error, message):
    with pytest.raises(error, match=message):
        restore_windows(Painter(), *change(*windows()), **OPTIONS)


@pytest.mark.parametrize(
    "returned", [lambda b: b["image"][:1], lambda b: b["image"] / 127.5 - 1]
)
def test_what_a_network_may_not_return(returned):
    with pytest.raises(ValueError, match="the network returned"):
        restore_windows(returned, *windows(), **OPTIONS)


@pytest.mark.parametrize("figures", [{"batch_size": 0}, {"feather": -1.0}])
def test_figures_that_cannot_be(figures):
    with pytest.raises(ValueError, match="at least 1 and 0"):
        restore_windows(Painter(), *windows(), **{**OPTIONS, **figures})


def mask_system(predict):
    spec = {"image": jax.ShapeDtypeStruct((16, 8, 8, 3), jnp.uint8)}
    return System(spec, None, None, None, predict)


def noise(variables, frozen, batch, key):
    assert not frozen and batch["image"].shape == (4, 8, 8, 3)
    return {
        "sampled": jax.random.uniform(key, batch["image"].shape, minval=-1.0)
        * variables["scale"]
    }


def test_luma_by_hand():
    colours = jnp.float32(
        [[-1, -1, -1], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [0, 0, 1]]
    )

    def predict(variables, frozen, batch, key):
        rows = jnp.zeros((*batch["image"].shape[:3], 3)).at[:, 0, :5].set(colours)
        return {"sampled": rows}

    got = sample_masks(mask_system(predict), {}, 3, 0, 4)
    assert got.shape == (3, 8, 8) and got.dtype == np.float32
    want = [0, 0.9999, 0.2989, 0.5870, 0.2989 / 2 + 0.5870 / 2 + 0.1140]
    np.testing.assert_allclose(got[0, 0, :5], want, atol=1e-6)


def test_batches_are_drawn_from_their_own_keys():
    variables = {"scale": jnp.float32(1.0)}
    system = mask_system(noise)
    got = sample_masks(system, variables, 10, 3, 4)
    assert got.shape == (10, 8, 8) and 0 <= got.min() and got.max() <= 1
    root = jax.random.fold_in(jax.random.key(3), 7)
    for number in range(3):
        key = jax.random.fold_in(root, number)
        x = jax.random.uniform(key, (4, 8, 8, 3), minval=-1.0)
        want = ((x + 1) / 2 * jnp.float32([[[[0.2989, 0.587, 0.114]]]])).sum(-1)
        mine = got[4 * number : 4 * number + 4]
        np.testing.assert_allclose(mine, want[: len(mine)], atol=1e-6)
    np.testing.assert_array_equal(got[:6], sample_masks(system, variables, 6, 3, 4))
    other = sample_masks(system, variables, 10, 4, 4)
    assert (other != got).mean() > 0.9


def test_a_network_that_is_not_finite_is_refused():
    with pytest.raises(ValueError, match="NaN or infinity"):
        sample_masks(mask_system(noise), {"scale": jnp.float32(np.nan)}, 2, 0, 4)
    with pytest.raises(ValueError, match="count is 0"):
        sample_masks(mask_system(noise), {}, 0, 0, 4)
