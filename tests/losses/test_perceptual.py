import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxinpaint.features.normalization import IMAGENET
from jaxinpaint.features.vgg import VGG, VGG19
from jaxinpaint.losses.perceptual import (
    absolute,
    elements,
    gram,
    perceptual,
    positions,
    style,
)
from tests.features import hashed

SHAPES = {"fine": (2, 3, 4, 5), "coarse": (2, 2, 1, 7)}
ONES = {name: 1.0 for name in SHAPES}


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def features(seed, dtype=np.float32):
    draw = np.random.default_rng(seed)
    return {n: draw.normal(size=shape).astype(dtype) for n, shape in SHAPES.items()}


def on_device(found):
    return {name: jnp.asarray(x) for name, x in found.items()}


def mean_absolute(a, b):
    total = 0.0
    for index in np.ndindex(a.shape):
        total += abs(float(a[index]) - float(b[index]))
    return total / a.size


def gram_sums(f):
    """Of one sample [H, W, C]: sums of channel products, nothing divided."""
    h, w, c = f.shape
    out = np.zeros((c, c))
    for y in range(h):
        for x in range(w):
            for i in range(c):
                for j in range(c):
                    out[i, j] += float(f[y, x, i]) * float(f[y, x, j])
    return out


def flowinpaint_or_glomeruli_perceptual(a, b):
    """Eq. 17 and Eq. 10: sum over layers of mean |.|."""
    return sum(mean_absolute(a[n], b[n]) for n in a)


def rnon_perceptual(truth, raw, completed, network_weights):
    """Eq. 4 and 6, module 2 likewise: both results, each network times its weight."""
    return sum(
        network_weights[n]
        * (mean_absolute(raw[n], truth[n]) + mean_absolute(completed[n], truth[n]))
        for n in truth
    )


def absolute_style(a, b):
    """RNON Eq. 7 and 8, glomeruli Eq. 11: Gram / (c h w), mean over b, c, c'."""
    total = 0.0
    for n in a:
        batch, h, w, c = a[n].shape
        for i in range(batch):
            apart = (gram_sums(a[n][i]) - gram_sums(b[n][i])) / (c * h * w)
            total += np.abs(apart).sum() / (batch * c * c)
    return total


def ipa_style(a, b, weights):
    """ipA-MedGAN Eq. 4: Gram / (h w), weight / (4 d^2) of the squared norm."""
    total = 0.0
    for n in a:
        batch, h, w, d = a[n].shape
        for i in range(batch):
            apart = (gram_sums(a[n][i]) - gram_sums(b[n][i])) / (h * w)
            total += weights[n] / (4 * d**2) * (apart**2).sum() / batch
    return total


def test_perceptual_of_flowinpaint_and_glomeruli():
    a, b = features(0), features(1)
    got = perceptual(on_device(a), on_device(b), ONES, absolute)
    assert got == pytest.approx(flowinpaint_or_glomeruli_perceptual(a, b), rel=1e-5)


def test_perceptual_of_rnon():
    truth, raw, completed = features(0), features(1), features(2)
    weights = {"fine": 1.25, "coarse": 50.0}
    got = sum(
        perceptual(on_device(truth), on_device(x), weights, absolute)
        for x in (raw, completed)
    )
    want = rnon_perceptual(truth, raw, completed, weights)
    assert got == pytest.approx(want, rel=1e-5)


def test_perceptual_of_ipa_medgan():
    # Eq. 3: the images are the term i = 0, beside the discriminator's blocks.
    a = {"image": np.full((1, 2, 2, 1), 0.5, np.float32), **features(0)}
    b = {"image": np.zeros((1, 2, 2, 1), np.float32), **features(1)}
    weights = {"image": 3.0, **ONES}
    got = perceptual(on_device(a), on_device(b), weights, absolute)
    want = 3.0 * 0.5 + flowinpaint_or_glomeruli_perceptual(features(0), features(1))
    assert got == pytest.approx(want, rel=1e-5)


def test_squared_distance_by_hand():
    a = {"x": jnp.asarray([1.0, 2.0, 3.0, 4.0]).reshape(1, 2, 2, 1)}
    b = {"x": jnp.asarray([1.0, 0.0, 3.0, 1.0]).reshape(1, 2, 2, 1)}
    got = perceptual(a, b, {"x": 2.0}, jnp.square)
    assert got == pytest.approx(2.0 * (4 + 9) / 4)


def test_style_of_rnon_and_glomeruli():
    a, b = features(0), features(1)
    got = style(on_device(a), on_device(b), ONES, elements, absolute)
    assert got == pytest.approx(absolute_style(a, b), rel=1e-5)


def test_style_of_ipa_medgan():
    a, b = features(0), features(1)
    weights = {"fine": 1.0, "coarse": 0.5}
    quarters = {name: weight / 4 for name, weight in weights.items()}
    got = style(on_device(a), on_device(b), quarters, positions, jnp.square)
    assert got == pytest.approx(ipa_style(a, b, weights), rel=1e-5)


def test_printed_values_of_one_layer():
    """The same features in both specifications: 4 positions, 2 channels, F' = F + 1."""
    f = jnp.arange(1.0, 9.0).reshape(1, 2, 2, 2)
    a, b = {"f": f}, {"f": f + 1.0}
    # rnon specification 9; ipa_medgan specification 9, weight 1.
    assert style(a, b, {"f": 1.0}, elements, absolute) == pytest.approx(5.0)
    got = style(a, b, {"f": 0.25}, positions, jnp.square)
    assert got == pytest.approx(25.125)
    np.testing.assert_allclose(gram(f, positions)[0], [[21.0, 25.0], [25.0, 30.0]])
    np.testing.assert_allclose(gram(f, elements)[0], [[10.5, 12.5], [12.5, 15.0]])


def test_golden_terms_of_vgg19():
    """The hash-filled network (glomeruli specification 10.3)."""
    per = [f"relu{b}_1" for b in range(1, 6)]
    sty = ["relu2_2", "relu3_4", "relu4_4", "relu5_2"]
    module = VGG(VGG19, (*per, *sty), IMAGENET, jnp.float32)
    a = jnp.asarray(hashed.image((2, 64, 64, 3)))
    b = jnp.asarray(hashed.image((2, 64, 64, 3), 50000))
    template = jax.eval_shape(module.init, jax.random.key(0), a)
    apply = jax.jit(module.apply)
    variables = hashed.params(template)
    of_a, of_b = apply(variables, a), apply(variables, b)
    ones = lambda names: {name: 1.0 for name in names}
    got = perceptual(of_a, of_b, ones(per), absolute)
    assert got == pytest.approx(2.511405, rel=2e-6)
    each = [style(of_a, of_b, ones([n]), elements, absolute) for n in sty]
    want = [2.48373e-4, 1.72094e-4, 1.03646e-4, 1.35864e-4]
    np.testing.assert_allclose(each, want, rtol=1e-4)
    got = style(of_a, of_b, ones(sty), elements, absolute)
    assert got == pytest.approx(6.59977e-4, rel=1e-4)


@pytest.mark.parametrize("distance", [absolute, jnp.square])
def test_equal_features_cost_nothing_and_pull_nowhere(distance):
    a = on_device(features(0))
    value, slope = jax.value_and_grad(
        lambda b: perceptual(a, b, ONES, distance),
    )(a)
    assert value == 0.0
    assert all((np.asarray(x) == 0).all() for x in slope.values())


@pytest.mark.parametrize("distance", [absolute, jnp.square])
def test_style_of_equal_features_has_a_finite_slope(distance):
    a = on_device({**features(0), "dead": np.zeros((2, 3, 3, 4), np.float32)})
    ones = {name: 1.0 for name in a}
    value, slope = jax.value_and_grad(
        lambda b: style(a, b, ones, positions, distance),
    )(a)
    assert abs(value) < 1e-6  # the two products may be rounded apart
    assert all(np.isfinite(x).all() for x in slope.values())
    assert (np.asarray(slope["dead"]) == 0).all()


@pytest.mark.parametrize("distance", [absolute, jnp.square])
@pytest.mark.parametrize("divisor", [positions, elements])
def test_gradient_is_the_slope(distance, divisor):
    a, b = features(3), features(4)
    with jax.enable_x64(True):
        a = {n: jnp.asarray(x, jnp.float64) for n, x in a.items()}
        b = {n: jnp.asarray(x, jnp.float64) for n, x in b.items()}
        ways = {n: jnp.asarray(x, jnp.float64) for n, x in features(5).items()}

        def total(t):
            moved = {n: b[n] + t * ways[n] for n in b}
            return perceptual(a, moved, ONES, distance) + style(
                a, moved, ONES, divisor, distance
            )

        step = 1e-6
        want = (total(step) - total(-step)) / (2 * step)
        assert jax.grad(total)(0.0) == pytest.approx(float(want), rel=1e-6)


def test_accumulates_in_float32():
    # 70,000 products of 1 and steps of 2**-8: neither fits bfloat16, nor float16.
    ones = jnp.ones((1, 250, 280, 1), jnp.bfloat16)
    matrix = gram(ones, lambda h, w, c: 1)
    assert matrix.dtype == jnp.float32 and matrix[0, 0, 0] == 70000.0
    a, b = {"x": ones}, {"x": ones.at[0, 0, 0].set(0.5)}
    got = perceptual(a, b, {"x": 1.0}, absolute)
    assert got.dtype == jnp.float32
    assert got == pytest.approx(0.5 / 70000, rel=1e-6)
    slope = jax.grad(lambda f: style(a, f, {"x": 1.0}, positions, jnp.square))(b)
    assert slope["x"].dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(slope["x"], np.float32)).all()


def test_a_sample_is_its_own_affair():
    # Of a batch of two, the mean over samples of the losses of one.
    a, b = on_device(features(0)), on_device(features(1))
    one = lambda found, i: {n: x[i : i + 1] for n, x in found.items()}
    for loss in (
        lambda x, y: perceptual(x, y, ONES, absolute),
        lambda x, y: style(x, y, ONES, elements, absolute),
    ):
        want = np.mean([loss(one(a, i), one(b, i)) for i in range(2)])
        assert loss(a, b) == pytest.approx(want, rel=1e-6)


LOSSES = {
    "perceptual": lambda a, b, w: perceptual(a, b, w, absolute),
    "style": lambda a, b, w: style(a, b, w, positions, absolute),
}


@pytest.mark.parametrize("name", LOSSES)
def test_unfit_features_are_refused(name):
    a, b = on_device(features(0)), on_device(features(1))
    loss = LOSSES[name]
    with pytest.raises(ValueError, match=f"{name}: weights.*fine, coarse; got deep"):
        loss(a, b, {"fine": 1.0, "deep": 1.0})
    with pytest.raises(ValueError, match=f"{name}: weights.*of some of fine; got coar"):
        loss(a, {"fine": b["fine"]}, ONES)
    with pytest.raises(ValueError, match="got none"):
        loss(a, b, {})
    # A channel count of 1 would otherwise be spread over all others.
    with pytest.raises(
        ValueError, match=r"prediction\['fine'\] must be \[2, 3, 4, 5\]"
    ):
        loss(a, {**b, "fine": b["fine"][..., :1]}, ONES)


def test_layers_without_a_weight_do_not_count():
    a, b = on_device(features(0)), on_device(features(1))
    got = perceptual(a, {**b, "coarse": b["coarse"] * jnp.nan}, {"fine": 1.0}, absolute)
    assert np.isfinite(got)
