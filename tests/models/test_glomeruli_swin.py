import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.models import glomeruli_swin
from jaxinpaint.models.glomeruli_swin import (
    Expand,
    Merge,
    SwinBlock,
    SwinUnet,
    from_windows,
    regions,
    relative_positions,
    to_windows,
)
from tests.compiling import quick
from tests.features import hashed
from tests.features.parity import MEAN, STD

F32, HALF = jnp.dtype("float32"), jnp.dtype("bfloat16")


def swin(**changed):
    fields = {"width": 96, "depths": (2, 2, 2, 2), "decoder_depths": (2, 2, 2)}
    fields |= {"heads": (3, 6, 12, 24), "window": 8, "drop_path": 0.2, "dtype": F32}
    return SwinUnet(**(fields | changed))


def thin(**changed):
    """Two levels, sides of multiples of 32."""
    fields = {"width": 8, "depths": (2, 2), "decoder_depths": (2,), "heads": (2, 4)}
    return swin(**(fields | {"window": 4} | changed))


def spec(*shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def abstract(net, image):
    init = functools.partial(net.init, train=False)
    return jax.eval_shape(init, jax.random.key(0), image)


def count(tree):
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def run(net, image):
    variables = hashed.variables(abstract(net, image))
    with jax.default_matmul_precision("highest"):
        apply = quick(functools.partial(net.apply, train=False))
        return np.asarray(apply(variables, image))


def test_parameters():
    image = spec(1, 1024, 1024, 3)
    found = abstract(swin(), image)
    assert set(found) == {"params"}
    assert count(found["params"]) == 27_175_620
    logits = jax.eval_shape(functools.partial(swin().apply, train=False), found, image)
    assert (logits.shape, logits.dtype) == ((1, 1024, 1024, 2), F32)


def test_parameters_as_published(monkeypatch):
    """27.17 million, with windows of 7 and nine classes."""
    monkeypatch.setattr(glomeruli_swin, "CLASSES", 9)
    found = abstract(swin(window=7), spec(1, 224, 224, 3))
    assert count(found["params"]) == 27_168_900


def test_check_values_of_the_specification():
    # Its image is what the first layer reads, so that ours is found backwards.
    levels = hashed.image((1, 256, 256, 3))
    got = run(swin(), np.float32(2 * (levels * STD + MEAN) - 1))
    assert got.shape == (1, 256, 256, 2)
    hashed.expect_summary(got, 0.035825, 1.424708, -5.664749, 5.231625, 1e-4)
    np.testing.assert_allclose(got[0, 0, 0], [0.180397, -1.588403], atol=1e-4)


def test_initial_values():
    net = thin(width=48)
    init = quick(functools.partial(net.init, train=False))
    made = init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))["params"]
    for kernel in (
        made["merge0"]["reduce"]["kernel"],
        made["encode1_block0"]["attention"]["qkv"]["kernel"],
    ):
        assert kernel.std() == pytest.approx(0.02, rel=0.05)
        assert np.abs(kernel).max() > 0.06  # no uniform, nor cut off at two deviations
    embed = np.abs(made["embed"]["kernel"]).max()
    assert 0.95 < embed * np.sqrt(48) <= 1
    for path, leaf in jax.tree_util.tree_leaves_with_path(made):
        if path[-1].key in ("bias", "scale"):
            assert np.all(leaf == (path[-1].key == "scale")), path


# ---- parts ----


def test_windows_there_and_back():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    windows = np.asarray(to_windows(x, 2))
    assert windows.shape == (2, 6, 4, 3)
    for row in range(2):
        for column in range(3):
            part = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            want = part.reshape(2, 4, 3)
            np.testing.assert_array_equal(windows[:, 3 * row + column], want)
    np.testing.assert_array_equal(from_windows(windows, 2, 4, 6), x)


def test_relative_positions_of_a_window_of_two():
    # Tokens (0,0) (0,1) (1,0) (1,1); distance (r, c) has the row 3 (r + 1) + c + 1.
    want = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    np.testing.assert_array_equal(relative_positions(2), want)


def test_regions_of_shifted_windows():
    """Rolled by one: the last row and column come from the other end."""
    found = regions(4, 6, 2, 1).reshape(2, 3, 2, 2)
    for row in range(2):
        for column in range(3):
            region = found[row, column]
            assert (region[0, 0] != region[1, 0]) == (row == 1)
            assert (region[0, 0] != region[0, 1]) == (column == 2)


def block(shift):
    return SwinBlock(2, 4, shift, 0.0, F32)


@pytest.mark.parametrize(
    ("shift", "rows", "columns"),
    [(0, (4, 7), (8, 11)), (2, (2, 5), (6, 9))],
)
def test_a_token_sees_its_window(shift, rows, columns):
    """And not the other end of the map, which the roll puts beside it."""
    x = hashed.image((1, 12, 16, 8))
    init = functools.partial(block(shift).init, train=False)
    variables = hashed.variables(jax.eval_shape(init, jax.random.key(0), x))

    def weight_of_inputs(row, column):
        out = lambda x: jnp.square(
            block(shift).apply(variables, x, train=False)[0, row, column]
        ).sum()
        return np.abs(quick(jax.grad(out))(x)[0]).sum(axis=-1)

    seen = weight_of_inputs(rows[0] + 1, columns[0] + 1)
    at = np.argwhere(seen > 1e-12)
    assert (at.min(axis=0) == (rows[0], columns[0])).all()
    assert (at.max(axis=0) == (rows[1], columns[1])).all()
    corner = np.argwhere(weight_of_inputs(0, 0) > 1e-12).max(axis=0)
    assert (corner == (3 - shift, 3 - shift)).all()


def test_merging_and_expanding_have_their_order():
    """What the norms read; the expanding dense layer changes nothing."""
    x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    seen = []

    def record(run, args, kwargs, context):
        if context.module.name in ("norm", "expand"):
            seen.append(np.asarray(args[0]))
        return run(*args, **kwargs)

    merge, expand = Merge(F32), Expand(2, 3, F32)
    wide = np.arange(12.0, dtype=np.float32).reshape(1, 1, 1, 12)
    variables = hashed.variables(jax.eval_shape(merge.init, KEY, x))
    plain = hashed.variables(jax.eval_shape(expand.init, KEY, wide))
    plain["params"]["expand"]["kernel"] = np.eye(12, dtype=np.float32)
    with glomeruli_swin.nn.intercept_methods(record):
        merge.apply(variables, x)
        expand.apply(plain, wide)
    np.testing.assert_array_equal(seen[0][0, 0, 0], [0, 4, 1, 5])
    np.testing.assert_array_equal(seen[0][0, 1, 1], [10, 14, 11, 15])
    # Channels 0 to 2 go to the upper left, 3 to 5 to its right.
    np.testing.assert_array_equal(seen[2][0, 0, 1], [3, 4, 5])
    np.testing.assert_array_equal(seen[2][0, 1, 0], [6, 7, 8])


KEY = jax.random.key(0)


# ---- the whole ----


def test_rates_grow_along_the_encoder_and_return_in_the_decoder(monkeypatch):
    rates = []

    def record(x, key, rate):
        rates.append(rate)
        return x

    monkeypatch.setattr(glomeruli_swin, "drop_branch", record)
    image = spec(1, 256, 256, 3)
    variables = abstract(swin(), image)

    def forward(train):
        apply = functools.partial(swin().apply, train=train, rngs={"drop_path": KEY})
        jax.eval_shape(apply, variables, image)

    forward(train=True)
    blocks = [1, 2, 3, 4, 5, 6, 7] + [4, 5] + [2, 3] + [1]  # 0 is never dropped
    np.testing.assert_allclose(rates, [0.2 * i / 7 for i in np.repeat(blocks, 2)])
    rates.clear()
    forward(train=False)
    assert not rates


def test_shifts_are_every_other_block_s_but_for_a_map_of_one_window():
    found = []

    def record(run, args, kwargs, context):
        if isinstance(context.module, SwinBlock):
            found.append(context.module.shift)
        return run(*args, **kwargs)

    with glomeruli_swin.nn.intercept_methods(record):
        abstract(swin(), spec(1, 256, 256, 3))
        assert found == [0, 4, 0, 4, 0, 4, 0, 0] + [0, 4] * 3
        found.clear()
        abstract(swin(), spec(1, 512, 512, 3))
    assert found == [0, 4] * 7


def test_the_key_decides_which_branches_are_dropped():
    net, image = thin(drop_path=0.9), np.repeat(hashed.image((1, 32, 32, 3)), 8, axis=0)
    variables = hashed.variables(abstract(net, image))

    @quick
    def train(key):
        return net.apply(variables, image, train=True, rngs={"drop_path": key})

    one, again, other = (np.asarray(train(jax.random.key(k))) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3
    assert len({sample.tobytes() for sample in one}) > 1


def test_compute_in_bfloat16_stays_near():
    image = hashed.image((1, 64, 32, 3))
    shapes = abstract(thin(dtype=HALF), image)
    assert {x.dtype for x in jax.tree.leaves(shapes)} == {F32}
    # The rule of 10.1 doubles variances; a residual path of 14 layers then rounds more.
    variables = hashed.variables(abstract(thin(), image))
    variables = jax.tree.map(lambda x: 0.5 * x if x.ndim > 1 else x, variables)
    got, want = (
        quick(functools.partial(thin(dtype=dtype).apply, train=False))(variables, image)
        for dtype in (HALF, F32)
    )
    assert got.dtype == F32
    error = np.sqrt(np.mean((got - want) ** 2) / np.mean(want**2))
    assert 0 < error < 2e-2


FIT = "height and width must be multiples of 256 and at least 256, got"


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (spec(1, 288, 256, 3), f"{FIT} 288 x 256; pad to 512 x 256"),
        (spec(1, 128, 256, 3), f"{FIT} 128 x 256; pad to 256 x 256"),
        (spec(1, 256, 256, 4), r"image must be \[B, H, W, 3\]"),
        (spec(1, 256, 256, 3, dtype=jnp.uint8), "image must be float32, got uint8"),
    ],
)
def test_wrong_images_say_so(image, message):
    with pytest.raises(ValueError, match=f"SwinUnet: {message}"):
        abstract(swin(), image)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": (3, 6)}, "give one of depths and heads for every level"),
        ({"decoder_depths": (2, 2)}, "and one of decoder_depths fewer"),
        ({"decoder_depths": (2, 2, 3)}, "give none above the encoder's"),
        ({"heads": (3, 6, 12, 25)}, "25 do not divide the 768 channels of level 3"),
        ({"window": 1}, "window is 1; give 2 or more"),
    ],
)
def test_wrong_fields_say_so(changed, message):
    with pytest.raises(ValueError, match=message):
        abstract(swin(**changed), spec(1, 256, 256, 3))
