import functools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxinpaint.metrics.evaluate import evaluate, image_metric, pad_batch, placer
from jaxinpaint.metrics.pixel import mae, psnr
from jaxinpaint.metrics.ssim import ssim

IMAGES = 11
SIDE = 24


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def images():
    draw = np.random.default_rng(0)
    truth = draw.integers(0, 256, (IMAGES, SIDE, SIDE, 3)).astype(np.float32)
    noise = np.rint(draw.normal(0, 20, truth.shape))
    region = draw.integers(0, 2, (IMAGES, SIDE, SIDE, 1)).astype(np.float32)
    prediction = np.clip(truth + noise * region, 0, 255).astype(np.float32)
    prediction[4] = truth[4]  # an infinite PSNR
    region[7] = 0  # nothing to score
    return {"truth": truth, "prediction": prediction, "region": region}


def batches(size, data=None):
    data = images() if data is None else data
    for start in range(0, len(data["truth"]), size):
        part = {name: array[start : start + size] for name, array in data.items()}
        yield pad_batch(part, size)


def metrics():
    return {
        "psnr": image_metric(functools.partial(psnr, data_range=255.0)),
        "mae": image_metric(functools.partial(mae, data_range=255.0)),
        "ssim": image_metric(functools.partial(ssim, data_range=255.0)),
    }


def over(devices):
    mesh = jax.make_mesh(
        (devices,),
        ("data",),
        axis_types=(AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    return NamedSharding(mesh, PartitionSpec("data"))


def expected_psnr():
    data = images()
    for t, p, r in zip(data["truth"], data["prediction"], data["region"], strict=True):
        error = (t.astype(np.float64) - p)[r[..., 0] == 1]
        if error.size == 0:
            yield np.nan
        elif not error.any():
            yield np.inf
        else:
            yield 10 * np.log10(255**2 / np.mean(error**2))


def test_mean_deviation_and_what_is_left_out():
    got = evaluate({"psnr": metrics()["psnr"]}, batches(4))["psnr"]
    want = list(expected_psnr())
    np.testing.assert_allclose(got["values"], want, rtol=1e-5)
    finite = [value for value in want if np.isfinite(value)]
    assert got["n"] == len(finite) == 9
    assert (got["infinite"], got["undefined"]) == (1, 1)
    assert got["value"] == pytest.approx(statistics.mean(finite), rel=1e-5)
    assert got["sd"] == pytest.approx(statistics.stdev(finite), rel=1e-4)


SPLITS = [(4, None), (16, None), (4, 1), (4, 2), (6, 2), (12, 2)]


def first_pixel(truth, prediction, region):
    return truth[:, 0, 0, 0] / 255.0


@pytest.mark.parametrize(("size", "devices"), SPLITS)
def test_batches_padding_and_devices_change_nothing(size, devices):
    several = {**metrics(), "first": image_metric(first_pixel)}
    want = evaluate(several, batches(IMAGES))
    sharding = None if devices is None else over(devices)
    got = evaluate(several, batches(size), sharding=sharding)
    for key, value in want["first"].items():
        np.testing.assert_array_equal(got["first"][key], value, key)
    for name, result in want.items():
        for key in ("n", "infinite", "undefined"):
            assert got[name][key] == result[key], f"{name} {key}"
        for key in ("value", "sd", "values"):
            np.testing.assert_allclose(got[name][key], result[key], rtol=1e-5)


def test_order_changes_no_bit_of_mean_and_deviation():
    mirrored = {name: array[::-1] for name, array in images().items()}
    metric = {"first": image_metric(first_pixel)}
    want, got = (evaluate(metric, batches(4, d))["first"] for d in (None, mirrored))
    assert (got["value"], got["sd"]) == (want["value"], want["sd"])
    np.testing.assert_array_equal(got["values"], want["values"][::-1])


def test_two_devices_share_the_rows():
    seen = []

    def spy(truth, prediction, region):
        jax.debug.inspect_array_sharding(truth, callback=seen.append)
        return jnp.mean(jnp.abs(truth - prediction), axis=(1, 2, 3))

    evaluate({"spy": image_metric(spy)}, batches(4), sharding=over(2))
    assert seen[0].shard_shape((4, SIDE, SIDE, 3)) == (2, SIDE, SIDE, 3)


PLACES = {
    "numpy": lambda tree: tree,
    "default": lambda tree: jax.tree.map(jnp.asarray, tree),
    "first device": lambda tree: jax.device_put(tree, jax.devices()[0]),
}


@pytest.mark.parametrize("devices", [None, 2])
@pytest.mark.parametrize("place", PLACES)
def test_frozen_trees_are_arguments_wherever_they_lie(place, devices):
    seen = []

    def spy(truth, prediction, region, scales, offset):
        leaves = [*jax.tree.leaves(scales), offset]
        seen.append([isinstance(leaf, jax.core.Tracer) for leaf in leaves])
        weighted = truth[:, 0, 0] * scales["red"][None] * scales["all"][0]
        return jnp.sum(weighted, axis=1) + offset

    scales = {"red": np.float32([2, 0, 0]), "all": [np.float32(0.5)]}
    frozen = PLACES[place]((scales, np.float32(7)))
    sharding = None if devices is None else over(devices)
    metric = image_metric(spy, *frozen)
    got = evaluate({"spy": metric}, batches(4), sharding=sharding)["spy"]
    np.testing.assert_allclose(
        got["values"], images()["truth"][:, 0, 0, 0] + 7, rtol=1e-6
    )
    assert seen == [[True, True, True]]


def test_frozen_trees_are_sent_once_a_mesh():
    frozen = {"w": np.ones(3, np.float32)}
    placed = placer(frozen)
    one = jnp.zeros(4)
    spread = jax.device_put(np.zeros(4, np.float32), over(2))
    assert placed(one)["w"] is placed(one)["w"]
    assert placed(spread)["w"] is placed(spread)["w"]
    assert placed(spread)["w"].sharding.is_fully_replicated
    assert len(placed(spread)["w"].devices()) == 2
    assert len(placed(one)["w"].devices()) == 1


def test_one_shape_compiles_once_and_images_stay_in_order():
    traces = []

    def spy(truth, prediction, region):
        traces.append(truth.shape)
        return truth[:, 0, 0, 0]

    got = evaluate({"first": image_metric(spy)}, batches(4))["first"]
    assert traces == [(4, SIDE, SIDE, 3)]
    np.testing.assert_array_equal(got["values"], images()["truth"][:, 0, 0, 0])


def test_update_leaves_the_old_state_as_it_was():
    metric = metrics()["mae"]
    first, second, third = batches(4)
    one = metric.update(metric.init(), first)
    metric.update(metric.update(one, second), third)
    assert metric.result(one)["values"].shape == (4,)


def test_nothing_finite_has_no_mean():
    data = images()
    data["prediction"] = data["truth"]
    got = evaluate({"psnr": metrics()["psnr"]}, batches(11, data))["psnr"]
    assert np.isnan(got["value"]) and np.isnan(got["sd"])
    assert (got["n"], got["infinite"], got["undefined"]) == (0, 10, 1)


def test_pad_batch():
    batch = {"truth": np.float32([[1], [2]]), "counts": np.array([True, False])}
    padded = pad_batch(batch, 4)
    np.testing.assert_array_equal(padded["truth"], [[1], [2], [2], [2]])
    np.testing.assert_array_equal(padded["counts"], [True, False, False, False])
    assert list(batch) == ["truth", "counts"] and len(batch["truth"]) == 2
    with pytest.raises(ValueError, match="same 1 to 1 rows"):
        pad_batch(batch, 1)
    with pytest.raises(ValueError, match="same 1 to 4 rows"):
        pad_batch({"a": np.zeros(2), "b": np.zeros(3)}, 4)


def broken(name, index, value):
    batch = {name: np.array(array) for name, array in next(batches(4)).items()}
    batch[name][index] = value
    return batch


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (broken("prediction", (2, 1, 0, 0), np.nan), r"prediction is nan at \(2, 1"),
        (broken("truth", (0, 0, 0, 1), -1.0), r"truth is -1.0 at \(0, 0, 0, 1\)"),
        (broken("region", (1, 0, 0, 0), 0.5), r"region is 0.5 at \(1, 0, 0, 0\)"),
        ({"truth": np.zeros((1, 2, 2, 1), np.float32)}, "prediction is missing"),
    ],
)
def test_a_batch_that_does_not_fit(batch, message):
    with pytest.raises(ValueError, match=message):
        evaluate(metrics(), [batch])


def test_no_batch():
    with pytest.raises(ValueError, match="no batch"):
        evaluate(metrics(), [])
