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
from jaxinpaint.metrics.pixel import mae, psnr
from jaxinpaint.metrics.ssim import SMALLEST_SIDE, ms_ssim, ssim, ssim_eq7

LEVELS = {"uint8": 255.0, "uint16": 65535.0}
KEPT = ("value", "sd", "n", "infinite", "undefined")

Place = tuple[str, str]  # region, metric


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
      scores: (region, metric) -> the result of an `image_metric`; `values` holds the
        score of each image.
      changed: pixels outside the hole that differ from the truth, over all images.
    """

    scores: Mapping[Place, Mapping[str, Any]]
    changed: int


def score(parts: Iterable[Filled], batch_size: int) -> dict[str, Scored]:
    """Scores every method on one set of images; holds one part at a time.

    Args:
      parts: of the set, all of one size and dtype, each with at most `batch_size`
        images and with the same methods.
      batch_size: images that are scored at once.

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
            metric = metrics_for(str(part.truth.dtype), part.truth.shape[1:])
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

    Regions are "hole" and "image", the whole image. FSIMc needs colour, MS-SSIM sides
    of 176; they are left out otherwise.

    Args:
      dtype: "uint8" or "uint16".
      shape: [H, W, C] of an image.

    Raises:
      ValueError: another dtype.
    """
    if dtype not in LEVELS:
        raise DTypeError(f"score: images must be uint8 or uint16, got {dtype}.")
    top = LEVELS[dtype]
    both = {"psnr": psnr, "ssim": ssim, "mae": mae, "fsim": fsim}
    if shape[-1] == 3:
        both["fsimc"] = fsimc

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
    for name, function in {**both, "ssim_eq7": ssim_eq7}.items():
        metrics["image", name] = everywhere(function)
    if min(shape[:2]) >= SMALLEST_SIDE:
        metrics["image", "ms_ssim"] = image_metric(
            lambda truth, made, region: ms_ssim(truth, made, data_range=top)
        )
    return together(metrics)


def tidy(
    method: str, dataset: str, bin: str, scored: Scored
) -> list[dict[str, str | float | int | None]]:
    """One row a region and metric; what is no finite number is None, for JSON."""
    return [
        {
            "method": method,
            "dataset": dataset,
            "bin": bin,
            "region": region,
            "metric": metric,
            **{
                name: result[name] if np.isfinite(result[name]) else None
                for name in KEPT
            },
        }
        for (region, metric), result in scored.scores.items()
    ]
