"""Precision, recall, F1 and Dice of segmented classes, pooled and by image."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import expect_shape
from jaxinpaint.metrics.evaluate import Batch, Metric, on_every_device


class Confusion(NamedTuple):
    """State of `segmentation_metric`: the newest batch may still be on the devices.

    Attributes:
      fetched: of each batch [images, classes, 3] int64: true positives, false
        positives, false negatives.
      pending: such counts [B, classes, 3] int32 of the newest batch, and `counts` [B].
    """

    fetched: tuple[np.ndarray, ...]
    pending: tuple[jax.Array, jax.Array] | None


@jax.jit
def confusion(truth: jax.Array, prediction: jax.Array, region: jax.Array) -> jax.Array:
    """Counts the valid pixels of each image and class.

    Args:
      truth: [B, H, W, classes], above 0.5 = of the class; classes may overlap.
      prediction: probabilities or labels, shaped like `truth`; positive above 0.5.
      region: [B, H, W, 1] of 0 and 1, 1 = valid, the pixel counts.

    Returns:
      [B, classes, 3] int32: true positives, false positives, false negatives.

    Raises:
      ValueError: the shapes disagree.

    Source: the glomerulus specification, 6.2.
    """
    shape = expect_shape("confusion", "truth", truth, "B H W C")
    expect_shape("confusion", "prediction", prediction, " ".join(str(n) for n in shape))
    expect_shape("confusion", "region", region, f"{shape[0]} {shape[1]} {shape[2]} 1")
    there, found, counts = truth > 0.5, prediction > 0.5, region > 0.5
    kinds = (there & found & counts, ~there & found & counts, there & ~found & counts)
    return jnp.stack(
        [jnp.sum(kind, axis=(1, 2), dtype=jnp.int32) for kind in kinds], axis=-1
    )


def segmentation_metric(classes: Sequence[str]) -> Metric:
    """Makes the metric of a set of segmented images.

    Pixels are counted in whole numbers, 64-bit on the host, and means over images are
    correctly rounded (`math.fsum`), so that order, batches, padding and devices change
    no bit.

    Args:
      classes: names, in the order of the last axis of `truth` and `prediction`.

    Returns:
      A metric of batches with `truth` and `prediction` [B, H, W, classes], positive
      above 0.5, `region` [B, H, W, 1], 1 = a valid pixel, which counts, and `counts`
      [B] bool, False for rows that only fill up. Its result has for each class, under its name,

          precision    TP / (TP + FP), over all valid pixels of all images
          recall       TP / (TP + FN)
          f1           2 P R / (P + R); dice_pooled, but for TP = 0
          dice_pooled  2 TP / (2 TP + FP + FN)
          dice_image   mean over images of each image's own Dice; an image where the
                       class is in neither truth nor prediction is left out
          n, absent    images in dice_image, and left out of it
          tp, fp, fn   the counts
          values       [images] float64, each image's Dice in order, NaN where absent

      and over classes mean_precision, mean_recall, mean_f1 (their harmonic mean),
      macro_f1 (mean of the classes' f1) and mean_dice (mean of dice_image). What is
      0 / 0, and every mean over such a number, is NaN, never 0 or 1.

    Raises:
      ValueError: no classes, two of one name, or as many others as the arrays have.

    Source: the glomerulus specification, 6.2; the paper's Table 5 has mean_f1 so.
    """
    names = tuple(classes)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"segmentation_metric: classes must be different names, got {list(names)}."
        )

    def fetch(state: Confusion) -> tuple[np.ndarray, ...]:
        if state.pending is None:
            return state.fetched
        table, counts = (np.asarray(array) for array in state.pending)
        return (*state.fetched, table[counts].astype(np.int64))

    def update(state: Confusion, batch: Batch) -> Confusion:
        expect_shape(
            "segmentation_metric", "truth", batch["truth"], f"B H W {len(names)}"
        )
        table = confusion(batch["truth"], batch["prediction"], batch["region"])
        newest = (on_every_device(table), on_every_device(batch["counts"]))
        return Confusion(fetch(state), newest)

    def result(state: Confusion) -> Mapping[str, Any]:
        empty = np.zeros((0, len(names), 3), np.int64)
        return scores_of(np.concatenate([empty, *fetch(state)]), names)

    return Metric(lambda: Confusion((), None), update, result)


def scores_of(table: np.ndarray, classes: Sequence[str]) -> Mapping[str, Any]:
    """The result of a `segmentation_metric`, from counts of single images.

    Args:
      table: [images, classes, 3] int64, as `confusion` counts.
      classes: names, in the order of the table.
    """
    scores = {
        name: _class_scores(table[:, number]) for number, name in enumerate(classes)
    }
    return {**scores, **_class_means(list(scores.values()))}


def mean_dice(table: np.ndarray) -> float:
    """The mean over classes of `dice_image`, of those classes that are anywhere.

    By this a model is chosen on few images: where one class is in none of them and
    was found in none, the others decide.

    Args:
      table: [images, classes, 3] int64, as `confusion` counts.

    Returns:
      0 to 1; NaN where no class is in any image or prediction.
    """
    found = [
        _class_scores(table[:, number])["dice_image"]
        for number in range(table.shape[1])
    ]
    present = [value for value in found if not math.isnan(value)]
    return _ratio(math.fsum(present), len(present))


def _class_scores(table: np.ndarray) -> dict[str, Any]:
    """Scores of one class from [images, 3] int64."""
    tp, fp, fn = (int(total) for total in table.sum(axis=0))
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, tp + fn)
    values = np.array([_dice(*(int(n) for n in row)) for row in table], np.float64)
    present = values[~np.isnan(values)]
    return {
        "precision": precision,
        "recall": recall,
        # By algebra 2 P R / (P + R); without a true positive that is 0 / 0.
        "f1": _dice(tp, fp, fn) if tp else math.nan,
        "dice_pooled": _dice(tp, fp, fn),
        "dice_image": _ratio(math.fsum(present), present.size),
        "n": present.size,
        "absent": values.size - present.size,
        **{"tp": tp, "fp": fp, "fn": fn},
        "values": values,
    }


def _class_means(scores: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    def mean(name: str) -> float:
        return math.fsum(score[name] for score in scores) / len(scores)

    precision, recall = mean("precision"), mean("recall")
    return {
        "mean_precision": precision,
        "mean_recall": recall,
        "mean_f1": _ratio(2 * precision * recall, precision + recall),
        "macro_f1": mean("f1"),
        "mean_dice": mean("dice_image"),
    }


def _dice(tp: int, fp: int, fn: int) -> float:
    return _ratio(2 * tp, 2 * tp + fp + fn)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
