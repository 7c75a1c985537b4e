import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxinpaint.core import checks


def image(*values, shape=(1, 2, 2, 1)):
    out = np.zeros(shape, np.float32)
    out.reshape(-1)[: len(values)] = values
    return out


def mask_with(hole, of=1000):
    """[1, 1, of, 1] with the first `hole` pixels missing."""
    return (np.arange(of) < hole).astype(np.float32).reshape(1, 1, of, 1)


def test_every_error_is_an_input_error_and_a_value_error():
    errors = [
        e
        for e in vars(checks).values()
        if isinstance(e, type) and issubclass(e, Exception)
    ]
    assert len(errors) == 9
    assert all(issubclass(e, checks.InpaintInputError) for e in errors)
    assert issubclass(checks.InpaintInputError, ValueError)


def test_a_shape_that_fits_is_returned():
    array = np.zeros((4, 7, 5, 3))
    assert checks.expect_shape("f", "image", array, "B H W 3") == (4, 7, 5, 3)


@pytest.mark.parametrize("shape", [(4, 7, 5, 1), (7, 5, 3), (1, 4, 7, 5, 3)])
def test_another_rank_or_channel_count_is_refused(shape):
    with pytest.raises(checks.ShapeMismatchError) as caught:
        checks.expect_shape("warp", "flow", np.zeros(shape), "B H W 3")
    assert str(caught.value) == (f"warp: flow must be [B, H, W, 3], got {list(shape)}.")


def test_a_shape_is_checked_while_tracing():
    def traced(x):
        return checks.expect_shape("f", "x", x, "B 2") and x

    with pytest.raises(checks.ShapeMismatchError):
        jax.jit(traced)(jnp.zeros((3, 4)))


@pytest.mark.parametrize(
    ("height", "width", "fit"),
    [(100, 64, "128 x 64"), (64, 33, "64 x 64"), (16, 16, "32 x 32"), (0, 96, "32 x")],
)
def test_a_size_off_the_stride_says_what_to_pad_to(height, width, fit):
    """Multiples of 32, at least 32: worked by hand."""
    with pytest.raises(checks.UnalignedSizeError, match=f"pad to {fit}"):
        checks.expect_multiple("g", (1, height, width, 3), of=32, least=32)


def test_aligned_sizes_pass_down_to_the_least():
    checks.expect_multiple("g", (1, 64, 96, 3), of=32, least=64)
    with pytest.raises(checks.UnalignedSizeError, match="pad to 64 x 96"):
        checks.expect_multiple("g", (1, 32, 96, 3), of=32, least=64)


def test_sizes_that_are_symbols_are_judged_by_what_is_said_of_them():
    said = ["16*h >= 32", "16*w >= 32"]
    height, width = export.symbolic_shape("16*h, 16*w", constraints=said)
    checks.expect_multiple("g", (1, height, width, 3), of=16, least=32)
    with pytest.raises(Exception, match="inconclusive"):
        checks.expect_multiple("g", (1, height, width, 3), of=16, least=64)


def test_a_dtype_other_than_those_allowed_is_refused():
    checks.expect_dtype("g", "image", jnp.zeros(1, jnp.bfloat16), "float32", "bfloat16")
    with pytest.raises(
        checks.DTypeError, match="must be float32 or bfloat16, got uint8"
    ):
        checks.expect_dtype("g", "image", np.uint8([1]), "float32", "bfloat16")


@pytest.mark.parametrize("value", [255.0, 0.5, -1.0, np.nan])
def test_a_mask_of_other_values_is_refused_with_the_place(value):
    with pytest.raises(checks.MaskValueError, match=r"got .* at \(0, 0, 1, 0\)"):
        checks.check_mask("f", image(1.0, value), allow_large_holes=True)


def test_a_mask_that_looks_inverted_is_refused_unless_allowed():
    with pytest.raises(checks.MaskValueError, match="sample 0 of mask is 95.1% hole"):
        checks.check_mask("f", mask_with(951), allow_large_holes=False)
    for hole, allow in [(950, False), (951, True)]:
        with pytest.warns(UserWarning, match="outside the evaluated range"):
            checks.check_mask("f", mask_with(hole), allow_large_holes=allow)


def test_a_large_hole_warns_above_the_largest_evaluated():
    checks.check_mask("f", mask_with(766), allow_large_holes=False)
    with pytest.warns(UserWarning, match="76.7% hole"):
        checks.check_mask("f", mask_with(767), allow_large_holes=False)


def test_a_mask_that_is_all_hole_is_refused_and_named():
    masks = np.concatenate([mask_with(10), mask_with(1000)])
    with pytest.raises(checks.MaskCoverageError, match="sample 1 of mask is all hole"):
        checks.check_mask("f", masks, allow_large_holes=True)


def test_one_valid_pixel_among_millions_is_not_all_hole():
    mask = np.ones((1, 6000, 6000, 1), np.uint8)
    mask[0, 3, 5] = 0
    with pytest.warns(UserWarning, match="100.0% hole"):
        checks.check_mask("f", mask, allow_large_holes=True)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_where_they_count(value):
    values = image(0.0, 0.0, value)
    with pytest.raises(checks.NonFiniteInputError, match=r"x is .* at \(0, 1, 0, 0\)"):
        checks.check_image("f", "x", values)
    counts = np.ones((1, 2, 2, 1), bool)
    counts[0, 1, 0] = False
    checks.check_image("f", "x", values, counts)


@pytest.mark.parametrize("value", [1.0, -1.0, 1.0009, -1.0009])
def test_the_range_has_a_small_tolerance(value):
    checks.check_image("f", "x", image(value))


@pytest.mark.parametrize("value", [1.0011, -1.0011, 255.0])
def test_values_out_of_range_are_refused_where_they_count(value):
    values = image(0.0, value, shape=(1, 1, 2, 2))
    with pytest.raises(checks.RangeError, match=r"at \(0, 0, 0, 1\); scale"):
        checks.check_image("f", "x", values)
    checks.check_image("f", "x", values, np.array([[[[False], [True]]]]))


def test_a_training_batch_is_checked_by_kind():
    good = {"image": image(0.5), "mask": image(1.0), "label": np.uint8([[[[200]]]])}
    checks.check_training_batch("f", good)
    with pytest.raises(checks.RangeError, match="neighbor must lie"):
        checks.check_training_batch("f", {**good, "neighbor": image(3.0)})
    with pytest.raises(checks.NonFiniteInputError, match="neighbor is nan"):
        broken = image(np.nan).astype(jnp.bfloat16)
        checks.check_training_batch("f", {**good, "neighbor": broken})
    with pytest.raises(checks.MaskCoverageError, match="sample 1 of mask has no hole"):
        masks = np.concatenate([image(1.0), image(0.0)])
        checks.check_training_batch("f", {"mask": masks})


def test_padding_repeats_the_edge_at_the_bottom_and_right():
    array = np.arange(6.0).reshape(1, 2, 3, 1)
    padded = checks.pad_to_multiple(array, of=4, least=4)
    np.testing.assert_array_equal(
        padded[0, :, :, 0], [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    )
    np.testing.assert_array_equal(padded[:, :2, :3], array)
    assert checks.pad_to_multiple(padded, of=4, least=4).shape == (1, 4, 4, 1)
    assert checks.pad_to_multiple(array, of=4, least=8).shape == (1, 8, 8, 1)
