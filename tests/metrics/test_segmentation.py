import math
import statistics

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxinpaint.metrics.evaluate import evaluate, pad_batch
from jaxinpaint.metrics.segmentation import (
    confusion,
    mean_dice,
    scores_of,
    segmentation_metric,
)

CLASSES = ("normal", "sclerosed")
IMAGES, SIDE = 11, 12


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"):
        yield


def score(truth, prediction, classes=CLASSES):
    metric = segmentation_metric(classes)
    batch = {
        "truth": truth,
        "prediction": prediction,
        "region": np.ones((*truth.shape[:3], 1), np.float32),
        "counts": np.ones(len(truth), bool),
    }
    return metric.result(metric.update(metric.init(), batch))


def maps(*tables):
    """Truth and prediction of images with given (TP, FP, FN) of one class."""
    pairs = []
    for tp, fp, fn in tables:
        truth, prediction = np.zeros((2, 100), np.float32)
        truth[: tp + fn] = 1
        prediction[:tp] = 1
        prediction[tp + fn : tp + fn + fp] = 1
        pairs.append((truth, prediction))
    both = np.array(pairs).reshape(len(tables), 2, 10, 10, 1)
    return both[:, 0], both[:, 1]


def test_confusion_by_hand():
    truth = np.float32([[1, 1, 0, 0, 1]]).reshape(1, 1, 5, 1)
    prediction = np.float32([[0.6, 0.5, 0.51, 0.2, 0.9]]).reshape(1, 1, 5, 1)
    # 0.5 itself is no positive.
    region = np.ones_like(truth)
    np.testing.assert_array_equal(confusion(truth, prediction, region), [[[2, 1, 1]]])
    region[0, 0, [0, 1, 3]] = 0  # a true positive and the false negative fall away
    np.testing.assert_array_equal(confusion(truth, prediction, region), [[[1, 1, 0]]])


def test_one_class_by_hand():
    got = score(*maps((6, 2, 4), (3, 0, 1), (0, 0, 0), (0, 5, 0)), ["only"])["only"]
    assert (got["tp"], got["fp"], got["fn"]) == (9, 7, 5)
    assert got["precision"] == 9 / 16
    assert got["recall"] == 9 / 14
    assert got["f1"] == got["dice_pooled"] == 18 / 30
    dices = [12 / 18, 6 / 7, math.nan, 0.0]
    np.testing.assert_array_equal(got["values"], dices)
    assert got["dice_image"] == pytest.approx((12 / 18 + 6 / 7) / 3, rel=1e-15)
    assert (got["n"], got["absent"]) == (3, 1)


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ((0, 0, 0), {"precision", "recall", "f1", "dice_pooled", "dice_image"}),
        ((0, 3, 0), {"recall", "f1"}),  # nothing there
        ((0, 0, 3), {"precision", "f1"}),  # nothing found
        ((0, 2, 3), {"f1"}),  # P = R = 0
        ((1, 0, 0), set()),
    ],
)
def test_nothing_over_nothing_is_undefined(table, missing):
    got = score(*maps(table), ["only"])["only"]
    names = ("precision", "recall", "f1", "dice_pooled", "dice_image")
    assert {name for name in names if math.isnan(got[name])} == missing
    assert all(got[name] in (0.0, 1.0) for name in names if name not in missing)


def test_means_over_classes():
    truth, prediction = (
        np.concatenate(pair, axis=-1)
        for pair in zip(maps((6, 2, 4)), maps((3, 0, 9)), strict=True)
    )
    got = score(truth, prediction)
    precision, recall = (6 / 8 + 3 / 3) / 2, (6 / 10 + 3 / 12) / 2
    f1 = [12 / 18, 6 / 15]
    want = {
        "mean_precision": precision,
        "mean_recall": recall,
        "mean_f1": statistics.harmonic_mean([precision, recall]),
        "macro_f1": sum(f1) / 2,
        "mean_dice": sum(f1) / 2,
    }
    assert {name: got[name] for name in want} == pytest.approx(want, rel=1e-14)
    assert got["mean_f1"] != pytest.approx(got["macro_f1"], rel=0.01)


def test_the_papers_mean_f1_is_of_the_means():
    # Test1, EfficientNetB3-Unet: P 0.9057 and 0.8947, R 0.9428 and 0.6408 (7.1), as
    # counts of 10,000 pixels; Table 5 prints 0.9002, 0.7918 and 0.8425.
    def counted(precision, recall, tp=10_000):
        return tp, round(tp / precision) - tp, round(tp / recall) - tp

    def drawn(tp, fp, fn):
        truth, prediction = np.zeros((2, 40_000), np.float32)
        truth[: tp + fn], prediction[:tp] = 1, 1
        prediction[tp + fn : tp + fn + fp] = 1
        return truth, prediction

    columns = [drawn(*counted(0.9057, 0.9428)), drawn(*counted(0.8947, 0.6408))]
    truth, prediction = np.array(columns).transpose(1, 2, 0).reshape(2, 1, 200, 200, 2)
    got = score(truth, prediction)
    assert got["mean_precision"] == pytest.approx(0.9002, abs=6e-5)
    assert got["mean_recall"] == pytest.approx(0.7918, abs=6e-5)
    assert got["mean_f1"] == pytest.approx(0.8425, abs=6e-5)


def test_a_mean_over_an_undefined_class_is_undefined():
    truth, prediction = (
        np.concatenate(pair, axis=-1)
        for pair in zip(maps((6, 2, 4)), maps((0, 0, 0)), strict=True)
    )
    got = score(truth, prediction)
    assert got["normal"]["f1"] == 12 / 18
    for name in ("mean_precision", "mean_recall", "mean_f1", "macro_f1", "mean_dice"):
        assert math.isnan(got[name])


def images():
    draw = np.random.default_rng(0)
    shape = (IMAGES, SIDE, SIDE, 2)
    truth = (draw.random(shape) < 0.3).astype(np.float32)
    prediction = np.where(draw.random(shape) < 0.2, 1 - truth, truth)
    truth[3], prediction[3] = 0, 0
    region = (draw.random((*shape[:3], 1)) < 0.8).astype(np.float32)
    return {"truth": truth, "prediction": np.float32(prediction), "region": region}


def batches(data, size):
    for start in range(0, IMAGES, size):
        part = {name: array[start : start + size] for name, array in data.items()}
        yield pad_batch(part, size)


def run(data, size, devices=None):
    sharding = None
    if devices:
        mesh = jax.make_mesh(
            (devices,),
            ("data",),
            axis_types=(AxisType.Auto,),
            devices=jax.devices()[:devices],
        )
        sharding = NamedSharding(mesh, PartitionSpec("data"))
    metrics = {"segmentation": segmentation_metric(CLASSES)}
    return evaluate(metrics, batches(data, size), sharding=sharding)["segmentation"]


def same(got, want, order=slice(None)):
    for name in want:
        if name not in CLASSES:
            assert got[name] == want[name], name
            continue
        for key in want[name]:
            expected = want[name][key][order] if key == "values" else want[name][key]
            np.testing.assert_array_equal(got[name][key], expected, f"{name} {key}")


@pytest.mark.parametrize(
    ("size", "devices"), [(4, None), (16, None), (1, None), (4, 1), (4, 2), (12, 2)]
)
def test_batches_padding_and_devices_change_no_bit(size, devices):
    data = images()
    same(run(data, size, devices), run(data, IMAGES))


def test_order_changes_no_bit():
    mirrored = {name: array[::-1] for name, array in images().items()}
    backwards = slice(None, None, -1)
    same(run(mirrored, 4), run(images(), IMAGES), backwards)


def test_counts_against_a_loop():
    data = images()
    got = run(data, 4, devices=2)
    for number, name in enumerate(CLASSES):
        truth, prediction = (
            (data[word] * data["region"])[..., number].astype(bool)
            for word in ("truth", "prediction")
        )
        dices = []
        for t, p in zip(truth, prediction, strict=True):
            if (t | p).any():
                dices.append(2 * (t & p).sum() / (t.sum() + p.sum()))
        assert got[name]["tp"] == (truth & prediction).sum()
        assert got[name]["fp"] == (~truth & prediction).sum()
        assert got[name]["fn"] == (truth & ~prediction).sum()
        assert got[name]["n"] == len(dices) == IMAGES - 1
        assert got[name]["dice_image"] == pytest.approx(np.mean(dices), rel=1e-14)
        p, r = got[name]["precision"], got[name]["recall"]
        assert abs(got[name]["f1"] - 2 * p * r / (p + r)) < 1e-12


def test_totals_go_beyond_32_bits():
    metric = segmentation_metric(["only"])
    state = metric.init()
    table = np.full((3, 1, 3), 2**30, np.int32)
    state = state._replace(pending=(table, np.ones(3, bool)))
    assert metric.result(state)["only"]["tp"] == 3 * 2**30


def test_update_leaves_the_old_state_as_it_was():
    metric = segmentation_metric(CLASSES)
    first, second, third = batches(images(), 4)
    one = metric.update(metric.init(), first)
    metric.update(metric.update(one, second), third)
    assert metric.result(one)["normal"]["values"].shape == (4,)


def test_no_image_is_undefined():
    metric = segmentation_metric(CLASSES)
    got = metric.result(metric.init())
    assert math.isnan(got["mean_f1"]) and math.isnan(got["normal"]["dice_image"])
    assert got["normal"]["n"] == 0


def test_what_does_not_fit():
    for classes in ([], ["a", "a"]):
        with pytest.raises(ValueError, match="must be different names"):
            segmentation_metric(classes)
    truth, prediction = maps((1, 0, 0))
    with pytest.raises(ValueError, match=r"truth must be \[B, H, W, 2\]"):
        score(truth, prediction)
    with pytest.raises(ValueError, match=r"prediction must be \[1, 10, 10, 1\]"):
        score(truth, prediction[:, :5], ["only"])


def test_a_class_that_is_nowhere_does_not_decide():
    table = np.array([[[6, 2, 4], [0, 0, 0]], [[3, 0, 1], [0, 0, 0]]], np.int64)
    want = (12 / 18 + 6 / 7) / 2
    assert mean_dice(table) == pytest.approx(want, abs=1e-12)
    assert math.isnan(scores_of(table, CLASSES)["mean_dice"])  # of a table, it does
    table[0, 1] = 0, 5, 0  # found where it is not
    assert mean_dice(table) == pytest.approx(want / 2, abs=1e-12)
    assert math.isnan(mean_dice(np.zeros((2, 2, 3), np.int64)))
