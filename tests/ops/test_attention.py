"""The cheap form of the context perceive layer against patches built by hand."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.core import checks
from jaxinpaint.ops.attention import (
    DEEPFILL_V1,
    PERCEIVE,
    context_perceive,
    context_perceive_details,
)
from jaxinpaint.ops.blocks import plan_blocks
from jaxinpaint.ops.keys import check_keys, valid_keys
from tests.ops.literal import literal

SWITCHES = (
    "normalize_query",
    "mask_foreground",
    "exclude_masked_keys",
    "composite",
    "use_neighbor",
    "fuse",
)


@pytest.fixture(autouse=True)
def strict_promotion():
    with jax.numpy_dtype_promotion("strict"):
        yield


# Compiling dominates here, so the compiler is told not to try hard.
quick = functools.partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)


perceive = quick(context_perceive, static_argnums=4)
details = quick(context_perceive_details, static_argnums=4)


def draw(height, width, channels, batch=1, seed=0):
    rng = np.random.default_rng(seed)
    features, neighbor = rng.normal(size=(2, batch, height, width, channels))
    return np.maximum(features, 0), np.maximum(neighbor, 0)


def hole(height, width, *box):
    mask = np.zeros((1, height, width, 1))
    if box:
        mask[:, box[0] : box[1], box[2] : box[3]] = 1
    return mask


CASES = {
    "square": ((12, 12), hole(12, 12, 5, 8, 4, 7), None),
    "oblong": ((8, 14), hole(8, 14, 3, 6, 8, 10), hole(8, 14, 0, 1, 0, 1)),
    "corner": ((12, 12), hole(12, 12, 0, 3, 0, 3), None),
    "all_hole": ((12, 12), hole(12, 12, 0, 12, 0, 12), hole(12, 12, 7, 8, 7, 8)),
    "no_hole": ((12, 12), hole(12, 12), None),
    "no_key": ((12, 12), hole(12, 12, 3, 9, 3, 9), hole(12, 12, 2, 12, 2, 12)),
}


@pytest.mark.parametrize("case", CASES)
def test_every_option_agrees_with_patches_in_float64(case):
    (height, width), mask, damage = CASES[case]
    features, neighbor = draw(height, width, 3)
    single = None if damage is None else damage[0]
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (features, neighbor, mask)]
        dense = None if damage is None else jnp.asarray(damage)
        for bits in itertools.product((True, False), repeat=len(SWITCHES)):
            options = PERCEIVE._replace(**dict(zip(SWITCHES, bits, strict=True)))
            # Not jitted: one program for each option would take minutes.
            got = context_perceive_details(*arrays, dense, options)
            want = literal(features[0], neighbor[0], mask[0], single, options)
            for name, a, b in zip(got._fields, got, want, strict=True):
                assert a.dtype == np.float64
                worst = np.abs(np.asarray(a[0]) - b).max()
                assert worst <= 1e-10, (options, name, worst)


@pytest.mark.parametrize("scale", [1e-3, 1e-5])
def test_patch_norms_stop_at_eps(scale):
    (height, width), mask, _ = CASES["square"]
    features, neighbor = (scale * x for x in draw(height, width, 3))
    want = literal(features[0], neighbor[0], mask[0], None, PERCEIVE)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (features, neighbor, mask)]
        got = context_perceive_details(*arrays, None, PERCEIVE)
    np.testing.assert_allclose(got.scores[0], want[2], atol=1e-12)
    assert (np.abs(want[2]).max() < 1) == (scale == 1e-5)  # the floor is felt


@pytest.mark.parametrize("size", [(32, 32, 32), (64, 48, 16)])
def test_float32_agrees_with_patches(size):
    height, width, channels = size
    features, neighbor = draw(height, width, channels)
    mask = hole(height, width, 9, 24, 12, 29)
    want = literal(features[0], neighbor[0], mask[0], None, PERCEIVE)[0]
    single = [jnp.asarray(x, jnp.float32) for x in (features, neighbor, mask)]
    got = perceive(*single, None, PERCEIVE)
    assert got.dtype == np.float32
    assert np.abs(got[0] - want).max() <= 1e-5 * np.abs(want).max()


# Section 3.5 of the CCPGAN specification: the literal form in float64.
GOLDEN = {
    "defaults": (
        (PERCEIVE, (6, 10, 8, 12)),
        (324.0590365300, 20.5362378264, 0.6304243307, 13, 0.8833535063),
        (0.0006450932, 0.0023664884, 0.0024453814, 0.4077952425),
        48,
    ),
    "fuse_off": (
        (PERCEIVE._replace(fuse=False), (6, 10, 8, 12)),
        (324.6698283035, 21.1470295999, 0.1517810348, 48, 0.3305601761),
        (0.0511368262, 0.1438404958, 0.1687245031, 0.4230236592),
        48,
    ),
    "deepfill_v1": (
        (DEEPFILL_V1, (6, 10, 8, 12)),
        (285.4784688651, 19.4427948563, 11.1326261362, 18, 0.9274188636),
        (1.18e-44, 2.22e-66, 2.14e-17, 0.2341435824),
        48,
    ),
    "unaligned": (
        (PERCEIVE, (5, 10, 7, 12)),
        (324.2380759936, 32.4007137280, 0.9741434166, 33, 0.9990746242),
        (7.64e-11, 5.60e-8, 0.0167961821, 0.5209910258),
        39,
    ),
}


@pytest.mark.parametrize("row", GOLDEN)
def test_golden_vector(row):
    (options, box), want, pixel, valid = GOLDEN[row]
    i, j, c = np.meshgrid(range(16), range(16), range(4), indexing="ij")
    features = np.maximum(0, np.sin(0.7 * i + 1.3 * j + 0.9 * c))[None]
    neighbor = np.maximum(0, np.cos(0.5 * i - 0.8 * j + 1.1 * c))[None]
    mask = hole(16, 16, *box)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (features, neighbor, mask)]
        result = context_perceive_details(*arrays, None, options)
    output, weights, scores = (np.asarray(x) for x in result)
    weights = weights[0, 28]
    got = (output.sum(), (output * mask).sum(), scores[0, 28, 36])
    np.testing.assert_allclose((*got, weights.argmax(), weights.max()), want, atol=1e-9)
    np.testing.assert_allclose(output[0, 7, 9], pixel, rtol=3e-3, atol=1e-10)
    np.testing.assert_allclose(output[0, 7, 9, 3], pixel[3], atol=1e-9)
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    corner = np.array([0, 0.7833269096, 0.9738476308, 0.4273798802])
    corner /= 1 if options.composite else 4  # one patch, divisor 4
    np.testing.assert_allclose(output[0, 0, 0], corner, atol=1e-9)
    assert int(valid_keys(mask).sum()) == valid


def small(height, width, channels=3, batch=2):
    features, neighbor = draw(height, width, channels, batch, seed=1)
    masks = [
        hole(height, width, 3, 9, 2, 7),
        hole(height, width, -6, height, -5, width),
    ]
    mask = np.concatenate(masks[:batch])
    return [jnp.asarray(x, jnp.float32) for x in (features, neighbor, mask)]


def test_each_image_keeps_its_own_mask():
    features, neighbor, mask = small(16, 12)
    together = perceive(features, neighbor, mask, None, PERCEIVE)
    for i in range(2):
        one = [x[i : i + 1] for x in (features, neighbor, mask)]
        alone = perceive(*one, None, PERCEIVE)
        np.testing.assert_allclose(together[i : i + 1], alone, atol=1e-6)


def test_valid_cells_come_back_bit_for_bit():
    features, neighbor, mask = small(16, 12)
    got = perceive(features, neighbor, mask, None, PERCEIVE)
    keep = np.broadcast_to(np.asarray(mask) == 0, got.shape)
    np.testing.assert_array_equal(np.asarray(got)[keep], np.asarray(features)[keep])
    assert not np.array_equal(got, features)


EVERYWHERE = {"composite": False, "mask_foreground": False}


# Squares inside the grid, a side that does not divide it, whole rows. Every output
# cell counts in the first and third, those on the seams of the grid among them.
@pytest.mark.parametrize(
    ("size", "side", "changes"),
    [
        ((40, 44), 4, EVERYWHERE),
        ((44, 40), 7, {"restrict_queries": True}),
        ((48, 12), 5, EVERYWHERE),
        ((28, 12), 4, {"use_neighbor": False, "exclude_masked_keys": False}),
    ],
)
def test_blocks_equal_the_whole(size, side, changes):
    features, neighbor, mask = small(*size)
    assert plan_blocks((size[0] // 2, size[1] // 2), side) is not None

    def value_and_grads(options):
        def loss(features, neighbor):
            out = context_perceive(features, neighbor, mask, None, options)
            return jnp.sin(3 * out).sum(), out

        grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
        (_, out), grads = quick(grad)(features, neighbor)
        return out, *grads

    # A flat softmax, so that every score counts and not the best one alone.
    options = PERCEIVE._replace(**changes, query_block_rows=side, softmax_scale=0.5)
    whole = options._replace(query_block_rows=0, restrict_queries=False)
    for got, want in zip(value_and_grads(options), value_and_grads(whole), strict=True):
        scale = float(jnp.abs(want).max())
        np.testing.assert_allclose(got, want, atol=2e-5 * scale)


def test_skipped_blocks_are_not_computed():
    options = PERCEIVE._replace(query_block_rows=4, restrict_queries=True)
    text = str(
        jax.make_jaxpr(lambda *a: context_perceive(*a, None, options))(*small(40, 40))
    )
    assert "cond[" in text


def test_a_grid_smaller_than_a_block_and_its_halo_is_done_at_once():
    assert plan_blocks((16, 16), 0) is None
    assert plan_blocks((12, 12), 4) is None
    assert plan_blocks((16, 12), 4) is not None


def test_gradient_against_finite_differences_of_patches():
    features, neighbor = draw(8, 8, 2, seed=2)
    features, neighbor = features + 0.1, neighbor + 0.1
    mask = hole(8, 8, 2, 4, 3, 5)
    direction = np.random.default_rng(3).normal(size=(3, *features.shape))
    slow = lambda f, n: (
        literal(f[0], n[0], mask[0], None, PERCEIVE)[0] * direction[2]
    ).sum()
    step = 1e-6
    want = [
        (
            slow(features + step * d, neighbor + step * e)
            - slow(features - step * d, neighbor - step * e)
        )
        / (2 * step)
        for d, e in ((direction[0], 0 * neighbor), (0 * features, direction[1]))
    ]
    with jax.enable_x64(True):
        weight, hole_mask = jnp.asarray(direction[2]), jnp.asarray(mask)
        loss = lambda f, n: (
            context_perceive(f, n, hole_mask, None, PERCEIVE) * weight
        ).sum()
        grads = quick(jax.grad(loss, (0, 1)))(features, neighbor)
        got = [
            float((g * d).sum())
            for g, d in zip(np.asarray(grads), direction, strict=False)
        ]
    np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize("blank", [False, True])
def test_gradients_stay_finite_without_key_and_on_black_features(blank):
    features, neighbor, _ = small(12, 12, batch=1)
    mask = damage = jnp.asarray(hole(12, 12, 3, 9, 3, 9), jnp.float32)
    if blank:
        features, neighbor, damage = 0 * features, 0 * neighbor, None

    def loss(features, neighbor):
        out = context_perceive(features, neighbor, mask, damage, PERCEIVE)
        return (out + jnp.square(out)).sum(), out

    grad = jax.grad(loss, argnums=(0, 1), has_aux=True)
    grads, out = quick(grad)(features, neighbor)
    assert not np.any(np.asarray(out * mask))
    for g in grads:
        assert np.isfinite(g).all()
    np.testing.assert_array_equal(
        grads[0] * (1 - mask) != 0, (mask == 0) & (out == out)
    )


def test_bfloat16_products_stay_near_float32():
    arrays = small(16, 16, 8)
    want = perceive(*arrays, None, PERCEIVE)
    half = [x.astype(jnp.bfloat16) for x in arrays]
    got, weights, scores = details(*half, None, PERCEIVE)
    assert got.dtype == jnp.bfloat16
    assert weights.dtype == scores.dtype == jnp.float32
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    gap = np.abs(np.asarray(got.astype(jnp.float32) - want)).max()
    assert gap <= 3e-2 * float(jnp.abs(want).max())


def temporaries(side, options, gradient):
    image = jax.ShapeDtypeStruct((1, side, side, 4), jnp.float32)
    mask = jax.ShapeDtypeStruct((1, side, side, 1), jnp.float32)
    layer = lambda f, n, m: context_perceive(f, n, m, None, options).sum()
    layer = jax.grad(layer, (0, 1)) if gradient else layer
    compiled = quick(layer).lower(image, image, mask).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("gradient", [False, True])
def test_blocks_bound_the_growth_of_memory(gradient):
    blocks = PERCEIVE._replace(query_block_rows=8)
    small_side, large_side = (temporaries(n, blocks, gradient) for n in (64, 128))
    assert large_side <= 4.5 * small_side
    assert temporaries(128, PERCEIVE, gradient) > 4 * large_side


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda f, n, m, d: (f[:, :-1], n[:, :-1], m[:, :-1], d), "UnalignedSizeError"),
        (lambda f, n, m, d: (f[0], n, m, d), "ShapeMismatchError"),
        (lambda f, n, m, d: (f, n[..., :2], m, d), "ShapeMismatchError"),
        (lambda f, n, m, d: (f, n, m[:1], d), "ShapeMismatchError"),
        (lambda f, n, m, d: (f, n, f, d), "ShapeMismatchError"),
        (lambda f, n, m, d: (f, n, m, m[:, 2:]), "ShapeMismatchError"),
        (lambda f, n, m, d: (f, None, m, d), "ShapeMismatchError"),
    ],
)
def test_wrong_shapes_are_refused(change, error):
    arrays = change(*small(16, 12), None)
    with pytest.raises(getattr(checks, error), match="context_perceive: "):
        context_perceive(*arrays, PERCEIVE)


@pytest.mark.parametrize(
    "changes",
    [
        {"match_size": 5},
        {"query_block_rows": -1},
        {"restrict_queries": True},
        {"restrict_queries": True, "query_block_rows": 4, "composite": False},
    ],
)
def test_options_that_do_not_go_together_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        context_perceive(*small(16, 12), None, PERCEIVE._replace(**changes))


def test_check_keys():
    free, full = hole(64, 64, 24, 40, 24, 40), hole(64, 64, 0, 64, 0, 64)
    batch = np.concatenate([free, full])
    check_keys(free, None)
    check_keys(free, full)
    with pytest.warns(UserWarning, match="sample 1 of mask leaves no undamaged"):
        check_keys(batch, None)
    with pytest.raises(checks.NoValidKeyError, match="sample 1 has no undamaged"):
        check_keys(batch, np.concatenate([full, full]))
    with pytest.raises(checks.UnalignedSizeError):
        check_keys(free[:, :60], None)


def test_check_keys_agrees_with_the_layer():
    # One hole pixel in every third cell of both axes touches every 3 x 3 cells.
    mask = hole(24, 24)
    mask[:, 2::6, 2::6] = 1
    assert not valid_keys(mask).any()
    with pytest.raises(checks.NoValidKeyError, match="6 x 6 pixels"):
        check_keys(mask, mask, stride=2)
    mask[:, 2, 2] = 0
    assert int(valid_keys(mask).sum()) == 9
    check_keys(mask, mask, stride=2)
