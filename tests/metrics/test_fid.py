import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxinpaint.metrics.evaluate import evaluate, pad_batch
from jaxinpaint.metrics.fid import (
    FEWEST,
    fid_metric,
    frechet_distance,
    inception_network,
    merge,
    moments,
    pool3_features,
)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def draw(n, size, seed=0, offset=0.0):
    generator = np.random.default_rng(seed)
    mixed = generator.normal(0, 1, (n, size)) @ generator.normal(0, 1, (size, size))
    return mixed + offset


def with_moments(n, mean, covariance, seed):
    """Features whose sample mean and covariance are these, not only on average."""
    rows = np.random.default_rng(seed).normal(0, 1, (n, len(mean)))
    rows -= rows.mean(axis=0)
    white = rows @ np.linalg.inv(np.linalg.cholesky(np.cov(rows.T))).T
    return white @ np.linalg.cholesky(covariance).T + mean


def distance(x, y):
    return frechet_distance(moments(x), moments(y))


def literal(x, y):
    """The formula with the matrix square root of another program."""
    c1, c2 = np.cov(x.T), np.cov(y.T)
    root = scipy.linalg.sqrtm(c1 @ c2)
    apart = x.mean(axis=0) - y.mean(axis=0)
    return apart @ apart + np.trace(c1 + c2 - 2 * root.real)


def nuclear(x, y):
    """Without any covariance: the nuclear norm of the centred features' products."""
    x0, y0 = x - x.mean(axis=0), y - y.mean(axis=0)
    root = np.linalg.norm(x0 @ y0.T, "nuc") / np.sqrt((len(x) - 1) * (len(y) - 1))
    apart = x.mean(axis=0) - y.mean(axis=0)
    spread = (x0**2).sum() / (len(x) - 1) + (y0**2).sum() / (len(y) - 1)
    return apart @ apart + spread - 2 * root


def test_in_one_dimension_by_hand():
    # Means 1 and 5, deviations 1 and 3 (divisor n - 1): 4^2 + (3 - 1)^2.
    x, y = np.float64([[0], [1], [2]]), np.float64([[2], [5], [8]])
    assert distance(x, y) == pytest.approx(20, rel=1e-12)


def test_normal_distributions_with_common_axes():
    # sum (m1 - m2)^2 + sum (s1 - s2)^2, in axes that are turned together.
    turn = scipy.linalg.expm(np.triu(np.ones((4, 4)), 1) - np.tril(np.ones((4, 4)), -1))
    s1, s2 = np.float64([1, 2, 3, 0.5]), np.float64([2, 2, 0.1, 4])
    m1, m2 = np.float64([0, 1, 2, 3]), np.float64([4, 1, 0, -1])
    x = with_moments(50, m1, turn @ np.diag(s1**2) @ turn.T, 1)
    y = with_moments(31, m2, turn @ np.diag(s2**2) @ turn.T, 2)
    want = ((m1 - m2) ** 2).sum() + ((s1 - s2) ** 2).sum()
    assert distance(x, y) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize(("n1", "n2"), [(200, 150), (60, 33)])
def test_square_root_by_another_program(n1, n2):
    x, y = draw(n1, 24), draw(n2, 24, seed=3, offset=0.3)
    # The other program takes the root of a product that is not symmetric, which
    # costs it half of float64's digits.
    assert distance(x, y) == pytest.approx(literal(x, y), rel=1e-8)


@pytest.mark.parametrize(("n1", "n2"), [(20, 20), (9, 30), (20, 400), (2, 2)])
def test_fewer_images_than_features(n1, n2):
    x, y = draw(n1, 128), draw(n2, 128, seed=3, offset=0.3)
    assert distance(x, y) == pytest.approx(nuclear(x, y), rel=1e-10)


@pytest.mark.parametrize("offset", [0.0, 1e4])
@pytest.mark.parametrize(("n", "size"), [(100, 256), (300, 40), (2, 5)])
def test_a_set_and_itself(n, size, offset):
    x = draw(n, size, offset=offset)
    assert abs(distance(x, x)) < 1e-6
    assert abs(distance(x, x[::-1])) < 1e-6


def test_symmetric_positive_and_blind_to_rotation():
    x, y = draw(40, 16), draw(50, 16, seed=3)
    turn = np.linalg.qr(draw(16, 16, seed=5))[0]
    assert distance(x, y) > 1
    assert distance(y, x) == pytest.approx(distance(x, y), rel=1e-12)
    assert distance(x @ turn, y @ turn) == pytest.approx(distance(x, y), rel=1e-10)
    assert distance(3 * x, 3 * y) == pytest.approx(9 * distance(x, y), rel=1e-10)


def test_sets_without_spread():
    x = np.tile(np.float64([1, 2]), (5, 1))
    assert distance(x, x + np.float64([3, 4])) == 25
    y = np.float64([[0, 2], [2, 2]])  # mean (1, 2), variances 2 and 0
    assert distance(x, y) == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e5])
@pytest.mark.parametrize("cuts", [(), (1,), (7, 8, 40), tuple(range(1, 60))])
def test_parts_merge_to_the_whole(cuts, offset):
    x = draw(60, 12, offset=offset)
    parts = [moments(part) for part in np.split(x, cuts)]
    whole = functools.reduce(merge, parts, moments(x[:0]))
    assert whole.n == 60
    np.testing.assert_allclose(whole.mean, x.mean(axis=0), rtol=1e-13)
    got, want = whole.scatter / 59, np.cov(x.T)
    np.testing.assert_allclose(got, want, atol=1e-12 * np.abs(want).max() + 1e-10)


def test_sets_that_do_not_fit():
    with pytest.raises(ValueError, match=r"must be \[4\], got \[3\]"):
        distance(draw(5, 4), draw(5, 3))
    with pytest.raises(ValueError, match=r"must be \[4\], got \[3\]"):
        merge(moments(draw(5, 4)), moments(draw(5, 3)))
    assert np.isnan(distance(draw(1, 4), draw(5, 4)))


IMAGES = 22


def images(channels=3):
    generator = np.random.default_rng(0)
    shape = (IMAGES, 8, 8, channels)
    truth = generator.integers(0, 256, shape).astype(np.float32)
    prediction = np.clip(truth * 0.8 + generator.normal(0, 30, shape), 0, 255)
    return {
        "truth": truth,
        "prediction": np.rint(prediction).astype(np.float32),
        "region": np.ones((IMAGES, 8, 8, 1), np.float32),
    }


def batches(size, data):
    for start in range(0, len(data["truth"]), size):
        part = {name: array[start : start + size] for name, array in data.items()}
        yield pad_batch(part, size)


def projection():
    return np.random.default_rng(1).normal(0, 0.3, (8 * 8 * 3, 6)).astype(np.float32)


def extract(images, weights):
    rows = images.reshape(images.shape[0], -1)
    return jnp.matmul(rows, weights, precision="highest")


def expected(data, top):
    rows = [
        np.broadcast_to(data[name], (IMAGES, 8, 8, 3)).reshape(IMAGES, -1) / top
        for name in ("truth", "prediction")
    ]
    return literal(*(r.astype(np.float64) @ projection() for r in rows))


def over(devices):
    mesh = jax.make_mesh(
        (devices,),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    return NamedSharding(mesh, PartitionSpec("data"))


def fid(size, data, devices=None, top=255.0):
    metric = fid_metric(extract, projection(), data_range=top)
    sharding = None if devices is None else over(devices)
    return evaluate({"fid": metric}, batches(size, data), sharding=sharding)["fid"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("top", [255.0, 65535.0])
def test_metric_of_grey_levels(channels, top):
    data = images(channels)
    scale = np.float32(top / 255)
    scaled = {**data, **{n: data[n] * scale for n in ("truth", "prediction")}}
    got = fid(8, scaled, top=top)
    # The features are float32; the distance is not.
    assert got["value"] == pytest.approx(expected(data, 255.0), rel=1e-5)
    assert np.isnan(got["sd"])
    assert (got["n"], got["infinite"], got["undefined"]) == (IMAGES, 0, 0)


@pytest.mark.parametrize(
    ("size", "devices"), [(1, None), (5, None), (22, None), (4, 1), (4, 2), (32, 2)]
)
def test_batches_padding_and_devices_change_nothing(size, devices):
    data = images()
    assert fid(size, data, devices)["n"] == IMAGES
    want = fid(11, data)["value"]
    # A program of another batch size may add up float32 features in another order.
    assert fid(size, data, devices)["value"] == pytest.approx(want, rel=1e-6)


def test_order_changes_nothing():
    data = images()
    order = np.random.default_rng(4).permutation(IMAGES)
    shuffled = {name: array[order] for name, array in data.items()}
    assert fid(5, shuffled)["value"] == pytest.approx(fid(5, data)["value"], rel=1e-6)


def test_rows_that_do_not_count_leave_no_trace():
    data = images()
    batch = pad_batch(data, IMAGES + 3)
    poisoned = {name: np.array(array) for name, array in batch.items()}
    poisoned["prediction"][IMAGES:] = np.nan
    metric = fid_metric(extract, projection(), data_range=255.0)
    got = metric.result(metric.update(metric.init(), poisoned))
    assert got["value"] == pytest.approx(fid(11, data)["value"], rel=1e-6)
    nothing = {**poisoned, "counts": np.zeros(IMAGES + 3, bool)}
    state = metric.update(metric.update(metric.init(), nothing), poisoned)
    state = metric.update(state, nothing)
    assert metric.result(state) == got


def test_equal_sets_in_another_order():
    data = images()
    data["prediction"] = data["truth"][::-1]
    assert abs(fid(4, data)["value"]) < 1e-6


def test_update_leaves_the_old_state_as_it_was():
    metric = fid_metric(extract, projection(), data_range=255.0)
    first, second, third = batches(8, images())
    one = metric.update(metric.init(), first)
    before = metric.result(one)
    metric.update(metric.update(one, second), third)
    assert metric.result(one) == before
    assert before["n"] == 8


def test_weights_are_arguments_and_one_shape_compiles_once():
    seen = []

    def spy(images, tree):
        seen.append((images.shape, isinstance(tree["w"], jax.core.Tracer)))
        return extract(images, tree["w"])

    metric = fid_metric(spy, {"w": projection()}, data_range=255.0)
    evaluate({"fid": metric}, batches(8, images(1)))
    assert seen == [((8, 8, 8, 3), True)]


class Corners(nn.Module):
    """Reads the corners of what an Inception would be given, for "pool3"."""

    @nn.compact
    def __call__(self, image):
        assert image.shape[1:] == (299, 299, 3)
        gain = self.variable("params", "gain", lambda: jnp.ones(())).value
        return {"pool3": gain * image[:, ::298, ::298].reshape(image.shape[0], -1)}


def test_inception_sees_299_pixels_of_minus_one_to_one():
    image = jnp.zeros((1, 2, 5, 3)).at[0, 0, 4].set(1.0).at[0, 1, 0, 1].set(0.5)
    got = pool3_features(Corners())(image, {"params": {"gain": jnp.float32(3)}})
    want = [[-1, -1, -1], [1, 1, 1], [-1, 0, -1], [-1, -1, -1]]
    np.testing.assert_allclose(got, 3 * np.float32(want).reshape(1, -1), atol=1e-6)


def test_inception_fits():
    network = inception_network(jnp.float32)
    shape = jax.ShapeDtypeStruct((2, 64, 48, 3), jnp.float32)
    square = jax.ShapeDtypeStruct((2, 299, 299, 3), jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), square)
    found = jax.eval_shape(pool3_features(network), shape, variables)
    assert found.shape == (2, 2048) and found.dtype == jnp.float32


def test_few_images_are_noted():
    assert "compare it only at n = 22" in fid(11, images())["note"]
    single = {name: array[:1] for name, array in images().items()}
    alone = fid(1, single)
    assert np.isnan(alone["value"]) and alone["n"] == 1
    assert "needs 2 images or more, got 1" in alone["note"]
    mean = fid_metric(lambda x: jnp.mean(x, axis=(1, 2)), data_range=255.0)
    many = np.random.default_rng(0).uniform(0, 255, (FEWEST, 1, 1, 1))
    batch = {
        "truth": many.astype(np.float32),
        "prediction": many.astype(np.float32),
        "region": np.ones((FEWEST, 1, 1, 1), np.float32),
        "counts": np.ones(FEWEST, bool),
    }
    assert evaluate({"fid": mean}, [batch])["fid"]["note"] is None


def test_what_does_not_fit():
    data = images()
    weights = projection()
    weights[0, 0] = np.nan
    broken = fid_metric(extract, weights, data_range=255.0)
    with pytest.raises(ValueError, match="features of truth are not finite"):
        evaluate({"fid": broken}, batches(11, data))
    flat = fid_metric(lambda x: x, data_range=255.0)
    with pytest.raises(ValueError, match=r"features must be \[11, D\]"):
        evaluate({"fid": flat}, batches(11, data))
    two = {n: a[..., :2] if n != "region" else a for n, a in data.items()}
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        fid(11, two)
