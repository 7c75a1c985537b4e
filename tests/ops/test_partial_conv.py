import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from jaxinpaint.ops.partial_conv import (
    partial_conv,
    partial_upsample_conv,
    window_ratio,
)

# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


def literal(features, valids, kernel, bias, stride):
    """The rule cell by cell in double precision."""
    x = np.concatenate(
        [np.float64(x) * v for x, v in zip(features, valids, strict=True)], -1
    )
    m = np.concatenate(
        [v + np.zeros(x.shape) for x, v in zip(features, valids, strict=True)], -1
    )
    k, pad = len(kernel), len(kernel) // 2
    b, h, w, c = x.shape
    border = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    x, m = np.pad(x, border), np.pad(m, border)
    rows, columns = -(-h // stride), -(-w // stride)
    out = np.zeros((b, rows, columns, kernel.shape[-1]))
    valid = np.zeros((b, rows, columns, 1))
    for n, i, j in np.ndindex(b, rows, columns):
        at = n, slice(i * stride, i * stride + k), slice(j * stride, j * stride + k)
        count = m[at].sum()
        if count:
            valid[n, i, j] = 1
            total = np.tensordot(x[at], np.float64(kernel), axes=3)
            out[n, i, j] = total * (k * k * c / count)
            if bias is not None:
                out[n, i, j] += bias
    return out, valid


def draw(shapes, seed):
    """Features, and masks with gaps that no small kernel closes."""
    rng = np.random.default_rng(seed)
    features = [rng.normal(size=s).astype(np.float32) for s in shapes]
    valids = []
    for b, h, w, _ in shapes:
        valid = (rng.random((b, h, w, 1)) < 0.5).astype(np.float32)
        valid[0, : h // 2 + 2, w // 3 :] = 0
        valids.append(valid)
    return features, valids, rng


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("channels", [(3,), (4, 2)], ids=["one", "two"])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5, 7])
def test_agrees_with_the_rule_cell_by_cell(size, stride, channels, biased):
    features, valids, rng = draw([(2, 13, 14, c) for c in channels], size)
    kernel = rng.normal(size=(size, size, sum(channels), 5)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32) if biased else None
    got, new = partial_conv(features, valids, kernel, bias, stride=stride)
    want, valid = literal(features, valids, kernel, bias, stride)
    np.testing.assert_array_equal(new, valid)
    assert 0 < valid.mean() < 1
    assert np.abs(got - want).max() < 1e-6 * np.abs(want).max()
    assert not np.any(np.where(valid > 0, 0, got))


@pytest.mark.parametrize("side", [5, 16])  # one is too small to be folded
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("others", [(), (3,)], ids=["alone", "skip"])
def test_upsampling_is_the_rule_on_the_enlarged_source(side, biased, others):
    shapes = [(2, side, side, 4), *((2, 2 * side, 2 * side, c) for c in others)]
    features, valids, rng = draw(shapes, side)
    kernel = rng.normal(size=(3, 3, 4 + sum(others), 5)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32) if biased else None
    got, new = partial_upsample_conv(features, valids, kernel, bias)
    large = [x[0].repeat(2, axis=1).repeat(2, axis=2) for x in (features, valids)]
    features, valids = [large[0], *features[1:]], [large[1], *valids[1:]]
    want, valid = literal(features, valids, kernel, bias, 1)
    np.testing.assert_array_equal(new, valid)
    assert 0 < valid.mean() < 1
    assert np.abs(got - want).max() < 1e-6 * np.abs(want).max()
    assert not np.any(np.where(valid > 0, 0, got))


def plane(rows):
    return np.float32(rows).reshape(1, len(rows), -1, 1)


# The printed values A, B and C.
def test_value_a():
    x = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
    mask = plane([[0, 0, 0, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])
    ones = np.ones((3, 3, 1, 1), np.float32)
    y, valid = partial_conv([x], [mask], ones, None, stride=2)
    np.testing.assert_array_equal(y, plane([[0, 57], [0, 85.5]]))
    np.testing.assert_array_equal(valid, plane([[0, 1], [0, 1]]))


def test_value_b():
    first = np.tile(np.float32([1, 2]), (1, 2, 2, 1))
    second, hole = plane([[1, 2], [3, 4]]), plane([[1, 0], [0, 0]])
    kernel, bias = np.ones((3, 3, 3, 1), np.float32), np.ones(1, np.float32)
    valids = [np.ones_like(hole), hole]
    y, valid = partial_conv([first, second], valids, kernel, bias, stride=1)
    np.testing.assert_allclose(y, np.full((1, 2, 2, 1), 40), rtol=1e-6)
    np.testing.assert_array_equal(valid, np.ones((1, 2, 2, 1)))


def test_value_c():
    x = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    mask = plane([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    kernel, bias = np.ones((3, 3, 1, 1), np.float32), np.float32([0.5])
    y, valid = partial_conv([x], [mask], kernel, bias, stride=1)
    want = [[21.5, 21.5, 18.5], [21.5, 21.5, 18.5], [36.5, 36.5, 0]]
    np.testing.assert_array_equal(y, plane(want))
    np.testing.assert_array_equal(valid, plane([[1, 1, 1], [1, 1, 1], [1, 1, 0]]))


def test_padding_counts_as_invalid():
    ratio, _ = window_ratio([np.ones((1, 32, 32, 1), np.float32)], [3], 7, stride=2)
    assert (ratio[0, 0, 0, 0], ratio[0, 0, 8, 0]) == (3.0625, 1.75)
    np.testing.assert_array_equal(ratio[0, 2:-2, 2:-2], 1)


@quick
def pyramid(valid):
    """The masks of all encoder layers."""
    masks = []
    for size in (7, 5, 5, 3, 3, 3, 3, 3):
        _, valid = window_ratio([valid], [1], size, stride=2)
        masks.append(valid)
    return masks


def test_mask_pyramid_of_a_centred_hole():
    valid = np.ones((1, 256, 256, 1), np.float32)
    valid[:, 32:224, 32:224] = 0
    fractions = [np.mean(x) for x in (valid, *pyramid(valid))]
    want = [0.438, 0.472, 0.506, 0.569, 0.684, 0.859, 0.938, 1, 1]
    np.testing.assert_allclose(fractions, want, atol=5e-4)


def test_one_valid_pixel_fills_the_innermost_mask():
    """Wherever it is; rows and columns act alike, so one column of them will do."""
    masks = pyramid(np.eye(256, dtype=np.float32).reshape(256, 256, 1, 1))
    np.testing.assert_array_equal(masks[7], np.ones((256, 1, 1, 1)))
    assert np.mean(masks[6]) < 1  # a pixel near the far edge fills half of layer 7


def test_counts_are_exact_where_bfloat16_is_not():
    """A window of 9216, short of one tap, or of one source at one place."""
    valid = np.ones((1, 5, 5, 1), np.float32)
    hole = valid.copy()
    hole[0, 2, 2] = 0
    ratio, _ = window_ratio([hole], [1024], 3, stride=1)
    assert ratio[0, 2, 1, 0] == np.float32(9216 / 8192)
    ratio, _ = window_ratio([hole, valid], [1, 1023], 3, stride=1)
    assert ratio[0, 2, 1, 0] == np.float32(9216 / 9215)


@pytest.mark.parametrize("fill", [7.5, np.nan, -np.inf])
def test_the_hole_is_never_read(fill):
    features, valids, rng = draw([(1, 16, 16, 2), (1, 32, 32, 3)], 0)
    kernel = rng.normal(size=(3, 3, 5, 4)).astype(np.float32)
    want, _ = partial_upsample_conv(features, valids, kernel, None)
    hidden = [
        np.where(v > 0, x, np.float32(fill))
        for x, v in zip(features, valids, strict=True)
    ]
    got, _ = partial_upsample_conv(hidden, valids, kernel, None)
    assert got.tobytes() == want.tobytes()
    kernel = kernel[:, :, :2]
    want, _ = partial_conv(features[:1], valids[:1], kernel, None, stride=2)
    got, _ = partial_conv(hidden[:1], valids[:1], kernel, None, stride=2)
    assert got.tobytes() == want.tobytes()


def test_gradient_agrees_with_finite_differences():
    features, valids, rng = draw([(1, 6, 7, 3), (1, 6, 7, 2)], 3)
    kernel = rng.normal(size=(5, 5, 5, 4)).astype(np.float32)
    bias = rng.normal(size=4).astype(np.float32)
    weight = rng.normal(size=(1, 3, 4, 4)).astype(np.float32)
    along = [rng.normal(size=a.shape) for a in (*features, kernel, bias)]

    def loss(first, second, kernel, bias, *valids):
        y, _ = partial_conv([first, second], valids, kernel, bias, stride=2)
        return (y * weight).sum()

    arrays = (*features, kernel, bias, *valids)
    grads = quick(jax.grad(loss, argnums=range(6)))(*arrays)

    def moved(step):
        at = [a + step * d for a, d in zip(arrays[:4], along, strict=True)]
        return (literal(at[:2], valids, *at[2:], 2)[0] * weight).sum()

    step = 1e-6
    want = (moved(step) - moved(-step)) / (2 * step)
    got = sum(float((g * d).sum()) for g, d in zip(grads[:4], along, strict=True))
    np.testing.assert_allclose(got, want, rtol=1e-4)
    for grad, valid in zip(grads[:2], valids, strict=True):
        assert not np.any(np.where(valid > 0, 0, grad))  # none from the hole
        assert np.any(grad)
    for grad in grads[4:]:  # and none of the masks
        assert not np.any(grad)


def test_bfloat16_keeps_masks_and_ratios_in_float32():
    features, valids, rng = draw([(2, 12, 12, 4)], 1)
    kernel = rng.normal(size=(3, 3, 4, 5)).astype(np.float32)
    bias = rng.normal(size=5).astype(np.float32)
    half = [jnp.bfloat16(features[0])], valids, jnp.bfloat16(kernel)
    got, valid = partial_conv(*half, bias, stride=1)
    want, _ = literal(features, valids, kernel, bias, 1)
    assert (got.dtype, valid.dtype) == (jnp.bfloat16, jnp.float32)
    gap = np.abs(np.float32(got) - want).max() / np.abs(want).max()
    assert gap <= 2e-2


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    "features, valids, kernel, message",
    [
        ([], [], (3, 3, 2, 1), "0 sources need as many masks, got 0"),
        ([(1, 4, 4, 2)], [], (3, 3, 2, 1), "1 sources need as many masks, got 0"),
        ([(4, 4, 2)], [(1, 4, 4, 1)], (3, 3, 2, 1), r"features\[0\] must be \[B, H"),
        (
            [(1, 4, 4, 2), (1, 4, 5, 1)],
            [(1, 4, 4, 1)] * 2,
            (3, 3, 3, 1),
            r"features\[1\] must be \[1, 4, 4, C\], got \[1, 4, 5, 1\]",
        ),
        (
            [(1, 4, 4, 2)],
            [(1, 4, 4, 2)],
            (3, 3, 2, 1),
            r"valids\[0\] must be \[1, 4, 4, 1\], got \[1, 4, 4, 2\]",
        ),
        ([(1, 4, 4, 2)], [(1, 4, 4, 1)], (3, 3, 5, 1), r"kernel must be \[3, 3, 2, F"),
        ([(1, 4, 4, 2)], [(1, 4, 4, 1)], (3, 5, 2, 1), r"kernel must be \[3, 3, 2, F"),
        ([(1, 4, 4, 2)], [(1, 4, 4, 1)], (4, 4, 2, 1), "4 x 4; it needs a centre"),
    ],
)
def test_what_does_not_fit_says_so(features, valids, kernel, message):
    arrays = [[zeros(*s) for s in shapes] for shapes in (features, valids)]
    with pytest.raises(ValueError, match=f"partial_conv: .*{message}"):
        partial_conv(*arrays, zeros(*kernel), None, stride=1)


def test_masks_of_another_dtype_say_so():
    with pytest.raises(ValueError, match=r"valids\[0\] must be float32, got bool"):
        partial_conv(
            [zeros(1, 4, 4, 2)],
            [np.ones((1, 4, 4, 1), bool)],
            zeros(3, 3, 2, 1),
            None,
            stride=1,
        )


@pytest.mark.parametrize(
    "features, valids, kernel, message",
    [
        ([(1, 4, 4, 2)], [], (3, 3, 2, 1), "1 sources need as many masks, got 0"),
        ([(1, 4, 4, 2)], [(1, 8, 8, 1)], (3, 3, 2, 1), r"valids\[0\] must be \[1, 4"),
        ([(1, 4, 4, 2)], [(1, 4, 4, 1)], (5, 5, 2, 1), r"kernel must be \[3, 3, C"),
        (
            [(1, 16, 16, 2), (1, 16, 16, 1)],
            [(1, 16, 16, 1)] * 2,
            (3, 3, 3, 1),
            r"features\[1\] must be \[1, 32, 32, C\]",
        ),
    ],
)
def test_what_does_not_fit_the_enlarged_source_says_so(
    features, valids, kernel, message
):
    arrays = [[zeros(*s) for s in shapes] for shapes in (features, valids)]
    with pytest.raises(ValueError, match=f"partial_upsample_conv: .*{message}"):
        partial_upsample_conv(*arrays, zeros(*kernel), None)


def test_sizes_that_are_symbols_give_the_same_at_any_size():
    """One exported program, on maps on both sides of the size that is folded."""
    kernel = np.float32(np.random.default_rng(4).normal(size=(3, 3, 5, 4)))
    run = lambda *a: partial_upsample_conv([a[0], a[2]], [a[1], a[3]], kernel, None)
    b, h, w = export.symbolic_shape("b, h, w")
    sides = (h, w), (h, w), (2 * h, 2 * w), (2 * h, 2 * w)
    specs = [
        jax.ShapeDtypeStruct((b, *side, c), jnp.float32)
        for side, c in zip(sides, (3, 1, 2, 1), strict=True)
    ]
    exported = jax.jit(export.export(jax.jit(run))(*specs).call)
    for height, width in ((8, 6), (17, 16)):
        shapes = [(1, height, width, 3), (1, 2 * height, 2 * width, 2)]
        (coarse, fine), (seen, seen_fine), _ = draw(shapes, seed=5)
        got, valid = exported(coarse, seen, fine, seen_fine)
        enlarged = [x.repeat(2, 1).repeat(2, 2) for x in (coarse, seen)]
        want, want_valid = literal(
            [enlarged[0], fine], [enlarged[1], seen_fine], kernel, None, 1
        )
        # The same form as without symbols, so the same rounding.
        same, _ = jax.jit(run)(coarse, seen, fine, seen_fine)
        np.testing.assert_array_equal(got, same)
        np.testing.assert_array_equal(valid, want_valid)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
