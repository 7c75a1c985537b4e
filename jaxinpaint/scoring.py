"""Scores sets of images, whoever made them: from images to tidy rows.

Stands on the roof: evaluation hands in what it has restored, and a command what
anybody else has.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxinpaint.core.checks import DTypeError, InpaintInputError, ShapeMismatchError
from jaxinpaint.metrics.evaluate import (
    Metric,
    check_batch,
    image_metric,
    pad_batch,
    together,
)
from jaxinpaint.metrics.fsim import fsim, fsimc
from jaxinpaint.metrics.pixel import mae, mse, psnr
from jaxinpaint.metrics.significance import mark, paired_t_test
from jaxinpaint.metrics.ssim import (
    LARGE_SIDE,
    SMALLEST_SIDE,
    ms_ssim,
    ssim,
    ssim_51,
    ssim_eq7,
)
from jaxinpaint.metrics.uqi import SIDE as WINDOW_SIDE
from jaxinpaint.metrics.uqi import uqi

LEVELS = {"uint8": 255.0, "uint16": 65535.0}
KEPT = ("value", "sd", "n", "infinite", "undefined")
TOLD = ("weights", "note")  # of the results that have them

Place = tuple[str, str]  # region, metric
# (dtype, [H, W, C] of an image) -> metrics by place. Called once a set of images: one
# that builds jitted functions should be cached, as `metrics_for` is.
More = Callable[[str, tuple[int, ...]], Mapping[Place, Metric]]


class Filled(NamedTuple):
    """Some images and what every method made of them.

    Attributes:
      truth: uint8 or uint16 [N, H, W, C].
      mask: [N, H, W, 1], 1 = hole.
      made: method -> shaped and typed like `truth`.
    """

    truth: np.ndarray
    mask: np.ndarray
    made: Mapping[str, np.ndarray]


class Scored(NamedTuple):
    """What one method reached on one set of images.

    Attributes:
      scores: (region, metric) -> the result of a metric; that of an `image_metric`
        has `values`, the score of each image, that of a whole set, such as FID, has
        none.
      changed: pixels outside the hole that differ from the truth, over all images.
    """

    scores: Mapping[Place, Mapping[str, Any]]
    changed: int


def score(
    parts: Iterable[Filled], batch_size: int, more: More | None = None
) -> dict[str, Scored]:
    """Scores every method on one set of images; holds one part at a time.

    Args:
      parts: of the set, all of one size and dtype, each with at most `batch_size`
        images and with the same methods.
      batch_size: images that are scored at once.
      more: metrics beside those of `metrics_for`, such as the learned ones, which
        need weights.

    Returns:
      By method.

    Raises:
      ValueError: there is no part, or one that differs from the first in shape,
        dtype or methods.
    """
    first: Filled | None = None
    states: dict[str, Any] = {}
    changed: dict[str, int] = {}
    for part in parts:
        if first is None:
            first = part
            images = str(part.truth.dtype), part.truth.shape[1:]
            metric = _both(metrics_for(*images), more(*images) if more else {})
            states = {method: metric.init() for method in part.made}
            changed = dict.fromkeys(part.made, 0)
        _expect_alike(part, first)
        region = part.mask.astype(np.float32)
        truth = part.truth.astype(np.float32)
        for method, made in part.made.items():
            batch = {
                "truth": truth,
                "prediction": made.astype(np.float32),
                "region": region,
            }
            batch = pad_batch(batch, batch_size)
            check_batch(f"score: {method}", batch)
            states[method] = metric.update(states[method], jax.device_put(batch))
            differs = (made != part.truth).any(axis=-1, keepdims=True)
            changed[method] += int((differs & (part.mask == 0)).sum())
    if first is None:
        raise InpaintInputError("score: there is no image to score.")
    return {
        method: Scored(metric.result(state), changed[method])
        for method, state in states.items()
    }


def _both(metric: Metric, more: Mapping[Place, Metric]) -> Metric:
    """Joins a metric whose results are by place with further ones."""
    pair = together({"usual": metric, "more": together(more)})

    def result(states: Any) -> Mapping[Place, Any]:
        results = pair.result(states)
        return {**results["usual"], **results["more"]}

    return Metric(pair.init, pair.update, result)


def _expect_alike(part: Filled, first: Filled) -> None:
    if list(part.made) != list(first.made):
        raise InpaintInputError(
            f"score: images by {list(part.made)} follow images by {list(first.made)}; "
            "every image needs all methods."
        )
    shape, dtype = first.truth.shape[1:], first.truth.dtype
    for name, images in {"truth": part.truth, **part.made}.items():
        if images.shape[1:] != shape:
            raise ShapeMismatchError(
                f"score: an image of {name} is {list(images.shape[1:])}, the first one "
                f"is {list(shape)}; score sizes apart."
            )
        if images.dtype != dtype:
            raise DTypeError(
                f"score: an image of {name} is {images.dtype}, the first one is "
                f"{dtype}; nothing is rescaled."
            )


@functools.cache
def metrics_for(dtype: str, shape: tuple[int, ...]) -> Metric:
    """All scores of a report as one metric, whose results are by (region, metric).

    Regions are "hole" and "image", the whole image. FSIMc needs colour, UQI sides of
    8, SSIM in 51 x 51 windows sides of 51, MS-SSIM sides of 176; they are left out
    otherwise.

    Args:
      dtype: "uint8" or "uint16".
      shape: [H, W, C] of an image.

    Raises:
      ValueError: another dtype.
    """
    if dtype not in LEVELS:
        raise DTypeError(f"score: images must be uint8 or uint16, got {dtype}.")
    top = LEVELS[dtype]
    both = {"psnr": psnr, "ssim": ssim, "mae": mae, "mse": mse, "fsim": fsim}
    if shape[-1] == 3:
        both["fsimc"] = fsimc
    if min(shape[:2]) >= WINDOW_SIDE:
        both["uqi"] = uqi
    whole = {**both, "ssim_eq7": ssim_eq7}
    if min(shape[:2]) >= LARGE_SIDE:
        whole["ssim_51"] = ssim_51

    def in_hole(score: Callable[..., jax.Array]) -> Metric:
        return image_metric(functools.partial(score, data_range=top))

    def everywhere(score: Callable[..., jax.Array]) -> Metric:
        return image_metric(
            lambda truth, made, region: score(
                truth, made, jnp.ones_like(region), data_range=top
            )
        )

    metrics: dict[Place, Metric] = {}
    for name, function in both.items():
        metrics["hole", name] = in_hole(function)
    for name, function in whole.items():
        metrics["image", name] = everywhere(function)
    if min(shape[:2]) >= SMALLEST_SIDE:
        metrics["image", "ms_ssim"] = image_metric(
            lambda truth, made, region: ms_ssim(truth, made, data_range=top)
        )
    return together(metrics)


def tidy(
    method: str,
    dataset: str,
    bin: str,
    scored: Scored,
    against: Scored | None = None,
) -> list[dict[str, str | float | int | None]]:
    """One row a region and metric.

    What a result does not have, such as the deviation of an FID, and what is no
    finite number is None, for JSON. Rows of learned metrics say where their `weights`
    come from, and what a reader must know of an FID stands in `note`.

    Args:
      method: of the rows.
      dataset: of the rows.
      bin: of the rows.
      scored: what the method reached.
      against: what the system reached on the same images. The rows of scores of
        single images then hold a paired t-test against it too: `p`, its `mark` ("*"
        for p < 0.01, "#" for p < 0.05, else ""), and `left_out`, the images without
        two finite scores.

    Raises:
      ValueError: `against` is of other images.
    """
    rows = []
    for (region, metric), result in scored.scores.items():
        row = {
            "method": method,
            "dataset": dataset,
            "bin": bin,
            "region": region,
            "metric": metric,
            **{name: _number(result.get(name, np.nan)) for name in KEPT},
        }
        rival = against.scores.get((region, metric), {}) if against else {}
        if "values" in result and "values" in rival:
            test = paired_t_test(result["values"], rival["values"])
            row |= {"p": _number(test.p), "mark": mark(test.p)}
            row["left_out"] = test.left_out
        row |= {name: result[name] for name in TOLD if result.get(name)}
        rows.append(row)
    return rows


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None
