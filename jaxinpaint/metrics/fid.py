"""Fréchet distance between the features of two sets of images (FID)."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import lapack

from jaxinpaint.core.checks import (
    NonFiniteInputError,
    ShapeMismatchError,
    expect_dtype,
    expect_shape,
)
from jaxinpaint.features.inception import SIDE, Inception, resize_bilinear
from jaxinpaint.features.normalization import SIGNED
from jaxinpaint.metrics.evaluate import Batch, Metric, on_every_device, placer

FEWEST = 2048
"""Images below which a result carries a note: fewer than the Inception features."""


class Moments(NamedTuple):
    """Number, mean and scatter of a set of features, all float64 on the host.

    Attributes:
      n: features in the set.
      mean: [D]; [0] for n = 0.
      scatter: [D, D], sum of (x - mean)(x - mean)^T; the sample covariance is
        scatter / (n - 1).
    """

    n: int
    mean: np.ndarray
    scatter: np.ndarray


class FrechetState(NamedTuple):
    """State of `fid_metric`: features of the newest batch may be on the devices.

    Attributes:
      truth: moments of the features fetched so far.
      prediction: likewise.
      pending: features of truth and prediction, [B, D] each, and counts [B].
    """

    truth: Moments
    prediction: Moments
    pending: tuple[Any, Any, Any] | None


def moments(features: np.ndarray) -> Moments:
    """Moments of one set, about its own mean.

    Args:
      features: [N, D] of any float dtype, summed in float64; N may be 0.

    Raises:
      ValueError: not two axes.
    """
    expect_shape("moments", "features", features, "N D")
    if not len(features):
        return Moments(0, np.zeros(0), np.zeros((0, 0)))
    rows = np.asarray(features, np.float64)
    mean = rows.mean(axis=0)
    centred = rows - mean
    return Moments(len(rows), mean, centred.T @ centred)


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of two sets together.

        n = n1 + n2,   mean = mean1 + (n2 / n) d,   d = mean2 - mean1
        scatter = scatter1 + scatter2 + (n1 n2 / n) d d^T

    No sum of raw squares is ever formed, so a mean far from zero costs no digits.

    Raises:
      ValueError: the features differ in length.

    Source: Chan, Golub and LeVeque 1979, the pairwise update.
    """
    if not first.n or not second.n:
        return first if first.n else second
    expect_shape("merge", "mean of the second", second.mean, str(first.mean.size))
    n = first.n + second.n
    apart = second.mean - first.mean
    scatter = np.outer(apart, apart)
    scatter *= first.n * second.n / n
    scatter += first.scatter
    scatter += second.scatter
    return Moments(n, first.mean + apart * (second.n / n), scatter)


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared Fréchet distance of the normal distributions with these moments.

        |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)),   C = scatter / (n - 1)

    With factors C = L L^T, by Cholesky's method with pivots, the trace of the root is
    the sum of the singular values of L1^T L2. They are as exact as the
    features, where roots of eigenvalues of C1 C2 would turn rounding of 1e-16 into
    1e-8, in each of the many directions that fewer images than features leave empty.

    Args:
      first: of at least 2 features.
      second: of at least 2 features of the same length; n may differ.

    Returns:
      The distance, in squared units of the features; NaN where a set has fewer
      than 2. Equal sets may give a rounding error below zero.

    Raises:
      ValueError: the features differ in length.

    Source: Dowson and Landau 1982; FlowInpaint specification 6.5.
    """
    if min(first.n, second.n) < 2:
        return math.nan
    expect_shape(
        "frechet_distance", "mean of the second", second.mean, str(first.mean.size)
    )
    apart = first.mean - second.mean
    (left, first_trace), (right, second_trace) = map(_factor, (first, second))
    # Empty, with the sum 0, where all images of a set have the same features.
    root = np.linalg.svd(left.T @ right, compute_uv=False).sum()
    return float(apart @ apart + first_trace + second_trace - 2.0 * root)


def _factor(of: Moments) -> tuple[np.ndarray, float]:
    """L with L L^T = covariance, without the directions that are only rounding."""
    covariance = of.scatter / (of.n - 1)
    # It stops at the rank, D * eps of the largest variance: n - 1 columns of D where
    # eigenvectors would cost D^3, twenty times as long, of few images.
    triangle, order, rank, _ = lapack.dpstrf(covariance.T, lower=1)
    factor = np.empty((of.mean.size, rank))
    factor[order - 1] = np.tril(triangle)[:, :rank]
    return factor, float(np.trace(covariance))


def inception_network(dtype: jnp.dtype) -> Inception:
    """Inception v3 as far as the 2048 pool features that FID compares."""
    return Inception(("pool3",), SIGNED, dtype)


def pool3_features(
    network: nn.Module,
) -> Callable[[jax.Array, Mapping[str, Any]], jax.Array]:
    """Makes the extractor of `fid_metric` from a network with the tap "pool3".

    Args:
      network: [B, 299, 299, 3] in [-1, 1] -> {"pool3": [B, D]}, `inception_network`
        with the weights of 2015 for printed figures.

    Returns:
      (images [B, H, W, 3] in [0, 1], variables) -> [B, D]; images are resized to
      299 x 299, bilinear without smoothing, then brought to [-1, 1].

    Source: FlowInpaint specification 6.5.
    """

    def extract(images: jax.Array, variables: Mapping[str, Any]) -> jax.Array:
        resized = resize_bilinear(images, SIDE, SIDE)
        return network.apply(variables, resized * 2.0 - 1.0)["pool3"]

    return extract


def fid_metric(
    extract: Callable[..., jax.Array], *frozen: Any, data_range: float
) -> Metric:
    """Makes the metric that compares truth and prediction as two sets of features.

    FID with the pool features of Inception-v3. It knows no region: all of every image
    goes through the network. Features are summed up on the host in float64, so that
    order, batches, padding and devices change nothing but the last digits. A batch is
    read back when the next one has been sent.

    The result is strongly biased for few images: compare it only with one of the same
    `n`, never with figures of other sizes.

    Args:
      extract: (images, *frozen) -> [B, D] float; jitted here. images [B, H, W, 3]
        float32 in [0, 1]; resizing is the extractor's, as in `pool3_features`.
      frozen: trees of arrays that `extract` reads, its network's variables. They
        reach the program as arguments, and the devices of the batches once.
      data_range: largest grey level, 255 or 65535.

    Returns:
      A metric of batches as `evaluate` takes them, images [B, H, W, 1 or 3]; one
      channel is grey, repeated three times. Its result has the keys of
      `image_metric` but `values`, since no image has a score of its own: `value` is
      the distance, NaN for n < 2; `sd` is NaN; `n` is the number of images in each of
      the two sets; `infinite` and `undefined` are 0. Beside them, `note` says what a
      reader must know of a result of fewer than 2048 images, and is None otherwise.

    Raises:
      ValueError: from update, images not float32 or not of 1 or 3 channels, features
        that are not [B, D], or not finite (one batch late).

    Source: Heusel et al. 2017; FlowInpaint specification 6.5.
    """
    extracted = _extractor(extract, data_range)
    placed = placer(frozen)

    def fetch(state: FrechetState) -> tuple[Moments, Moments]:
        sums = state.truth, state.prediction
        if state.pending is None:
            return sums
        *newest, counts = (np.asarray(array) for array in state.pending)
        return (
            merge(sums[0], moments(_finite("truth", newest[0][counts]))),
            merge(sums[1], moments(_finite("prediction", newest[1][counts]))),
        )

    def update(state: FrechetState, batch: Batch) -> FrechetState:
        weights = placed(batch["truth"])
        truth, prediction = (
            on_every_device(extracted(batch[name], *weights))
            for name in ("truth", "prediction")
        )
        return FrechetState(
            *fetch(state), (truth, prediction, on_every_device(batch["counts"]))
        )

    def result(state: FrechetState) -> Mapping[str, Any]:
        return fid_result(*fetch(state))

    nothing = moments(np.zeros((0, 0)))
    return Metric(lambda: FrechetState(nothing, nothing, None), update, result)


class KeptFeatures(NamedTuple):
    """State of `features_metric`, as that of `fid_metric`.

    Attributes:
      truth: [n, D] of every batch fetched so far.
      prediction: likewise.
      pending: features of truth and prediction, [B, D] each, and counts [B].
    """

    truth: tuple[np.ndarray, ...]
    prediction: tuple[np.ndarray, ...]
    pending: tuple[Any, Any, Any] | None


def features_metric(
    extract: Callable[..., jax.Array], *frozen: Any, data_range: float
) -> Metric:
    """Makes the metric that keeps the features of every image, on the host.

    For sets that are known only later: `fid_result` of the `moments` of some rows is
    what `fid_metric` says of those images.

    Args:
      extract: as `fid_metric` takes it.
      frozen: likewise.
      data_range: likewise.

    Returns:
      A metric of batches as `fid_metric`'s; its result is `truth` and `prediction`,
      [N, D] each, in the order of the images.

    Raises:
      ValueError: as from `fid_metric`.
    """
    extracted = _extractor(extract, data_range)
    placed = placer(frozen)

    def fetch(state: KeptFeatures) -> KeptFeatures:
        if state.pending is None:
            return state
        *newest, counts = (np.asarray(array) for array in state.pending)
        return KeptFeatures(
            (*state.truth, _finite("truth", newest[0][counts])),
            (*state.prediction, _finite("prediction", newest[1][counts])),
            None,
        )

    def update(state: KeptFeatures, batch: Batch) -> KeptFeatures:
        weights = placed(batch["truth"])
        truth, prediction = (
            on_every_device(extracted(batch[name], *weights))
            for name in ("truth", "prediction")
        )
        newest = (truth, prediction, on_every_device(batch["counts"]))
        return fetch(state)._replace(pending=newest)

    def result(state: KeptFeatures) -> Mapping[str, Any]:
        truth, prediction, _ = fetch(state)
        return {"truth": _rows(truth), "prediction": _rows(prediction)}

    return Metric(lambda: KeptFeatures((), (), None), update, result)


def _rows(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros((0, 0))


def fid_result(truth: Moments, prediction: Moments) -> dict[str, Any]:
    """The result of `fid_metric` for two sets of equally many images."""
    return {
        "value": frechet_distance(truth, prediction),
        "sd": math.nan,
        "n": truth.n,
        "infinite": 0,
        "undefined": 0,
        "note": _note(truth.n),
    }


def _extractor(
    extract: Callable[..., jax.Array], data_range: float
) -> Callable[..., jax.Array]:
    """Jits an extractor behind the door of `fid_metric`: levels to 0..1, grey to RGB."""

    @jax.jit
    def extracted(images: jax.Array, *frozen: Any) -> jax.Array:
        batch, height, width, channels = expect_shape(
            "fid_metric", "images", images, "B H W C"
        )
        if channels not in (1, 3):
            raise ShapeMismatchError(
                f"fid_metric: images must have 1 or 3 channels, got {channels}."
            )
        if str(images.dtype) != "float32":
            expect_dtype("fid_metric", "images", images, "float32")
        levels = jnp.broadcast_to(images / data_range, (batch, height, width, 3))
        features = extract(levels, *frozen)
        expect_shape("fid_metric", "features", features, f"{batch} D")
        return features

    return extracted


def _finite(name: str, features: np.ndarray) -> np.ndarray:
    # In the features, since NaN among the moments would blame no image.
    if not np.isfinite(features).all():
        row = int(np.argwhere(~np.isfinite(features))[0][0])
        raise NonFiniteInputError(
            f"fid_metric: the features of {name} are not finite in counted row {row} "
            "of a batch; check the extractor's weights."
        )
    return features


def _note(n: int) -> str | None:
    if n >= FEWEST:
        return None
    if n < 2:
        return f"FID needs 2 images or more, got {n}."
    return (
        f"FID of {n} images is strongly biased; compare it only at n = {n} "
        f"(the usual least is {FEWEST})."
    )
