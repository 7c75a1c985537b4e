"""Scores of a whole set: what a metric is, and the loop that runs several of them."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from jaxinpaint.core.checks import (
    InpaintInputError,
    MaskValueError,
    NonFiniteInputError,
    RangeError,
    expect_dtype,
    expect_shape,
)

Batch = Mapping[str, Any]


class Metric(NamedTuple):
    """A score of a set of images, built up batch by batch.

    Attributes:
      init: () -> the state before the first batch.
      update: (state, batch) -> the state that has also seen this batch. Rows of the
        batch with `counts` False leave no trace.
      result: state -> numbers by name: `value`, its standard deviation `sd` over
        images, the number `n` of images in it, and `infinite`, the number of images
        left out of it because their score is infinite.
    """

    init: Callable[[], Any]
    update: Callable[[Any, Batch], Any]
    result: Callable[[Any], Mapping[Any, Any]]


class ImageScores(NamedTuple):
    """State of `image_metric`: the newest batch may still be on the devices."""

    fetched: tuple[np.ndarray, ...]
    pending: tuple[jax.Array, jax.Array] | None


def image_metric(score: Callable[..., jax.Array], *frozen: Any) -> Metric:
    """Makes the metric that averages a score of single images.

    Every image's own score is kept, and sums over images are correctly rounded
    (`math.fsum`), so that order, batches, padding and devices change nothing. (Within
    an image, a program compiled for another batch size may add in another order: the
    last bit of a float32.) A batch is read back when the next one has been sent.

    Args:
      score: (truth, prediction, region, *frozen) -> [B] float32; jitted here. Bind
        the range first, `functools.partial(psnr, data_range=255.0)`, and score the
        whole image with
        `lambda t, p, r: psnr(t, p, jnp.ones_like(r), data_range=255.0)`.
      frozen: trees of arrays that the score reads, such as a network's variables.
        They reach the program as arguments (what it closed over would be copied into
        it), and the devices of the batches once.

    Returns:
      A metric of batches as `evaluate` takes them. Its result has, beside what
      `Metric` names: `undefined`, the number of images with nothing to score (NaN),
      which are in neither `value` nor `n`; `values`, [images] float64, the score of
      each counted image in the order they came, infinities and NaN included, for
      paired tests and for the best and worst. `sd` is the sample deviation, divisor
      n - 1. `value` is NaN for n = 0, `sd` for n < 2.
    """

    @jax.jit
    def scored(
        truth: jax.Array, prediction: jax.Array, region: jax.Array, *frozen: Any
    ) -> jax.Array:
        values = score(truth, prediction, region, *frozen)
        expect_shape("image_metric", "score", values, str(truth.shape[0]))
        return values

    placed = placer(frozen)

    def fetch(state: ImageScores) -> tuple[np.ndarray, ...]:
        if state.pending is None:
            return state.fetched
        values, counts = (np.asarray(array) for array in state.pending)
        return (*state.fetched, values[counts].astype(np.float64))

    def update(state: ImageScores, batch: Batch) -> ImageScores:
        images = (batch["truth"], batch["prediction"], batch["region"])
        values = scored(*images, *placed(images[0]))
        newest = (on_every_device(values), on_every_device(batch["counts"]))
        return ImageScores(fetch(state), newest)

    def result(state: ImageScores) -> Mapping[str, Any]:
        return summary(np.concatenate([np.zeros(0), *fetch(state)]))

    return Metric(lambda: ImageScores((), None), update, result)


def placer(frozen: Any) -> Callable[[Any], Any]:
    """Makes a function of a batch's array that gives `frozen` where that array is.

    A tree of arrays on the host is sent to the devices once, not with every batch.

    Args:
      frozen: tree of arrays, equal in all processes.

    Returns:
      array -> `frozen`, whole on every device of the array's mesh; on the default
      device for an array without a mesh, but for what is already on another one.
    """

    @functools.lru_cache(maxsize=1)
    def placed(sharding: NamedSharding | None) -> Any:
        return jax.device_put(frozen, sharding)

    return lambda array: placed(_whole(array))


def on_every_device(array: Any) -> Any:
    """Lets every process read the whole of a sharded array."""
    sharding = _whole(array)
    return array if sharding is None else jax.device_put(array, sharding)


def _whole(array: Any) -> NamedSharding | None:
    """The sharding of a whole copy on every device of the array's mesh."""
    sharding = getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding):
        return NamedSharding(sharding.mesh, PartitionSpec())
    return None


def summary(values: np.ndarray) -> Mapping[str, Any]:
    """Sums up the scores of single images; the result of an `image_metric`.

    Args:
      values: [images] float64, infinities and NaN included.
    """
    finite = values[np.isfinite(values)]
    n = finite.size
    value = math.fsum(finite) / n if n else math.nan
    squares = math.fsum((finite - value) ** 2)
    return {
        "value": value,
        "sd": math.sqrt(squares / (n - 1)) if n > 1 else math.nan,
        "n": n,
        "infinite": int(np.isinf(values).sum()),
        "undefined": int(np.isnan(values).sum()),
        "values": values,
    }


def together(metrics: Mapping[Any, Metric]) -> Metric:
    """Makes one metric of several; its state and its result are theirs, by name."""
    return Metric(
        init=lambda: {name: metric.init() for name, metric in metrics.items()},
        update=lambda states, batch: {
            name: metric.update(states[name], batch) for name, metric in metrics.items()
        },
        result=lambda states: {
            name: metric.result(states[name]) for name, metric in metrics.items()
        },
    )


def check_batch(where: str, batch: Batch) -> None:
    """Checks the shapes and values of a batch of scored images, on the host.

    Raises:
      ValueError: an array is missing or misshapen, an image is not float32, finite
        and at least 0, or a region is not 0 and 1.
    """
    for name in ("truth", "prediction", "region", "counts"):
        if name not in batch:
            raise InpaintInputError(f"{where}: {name} is missing; got {list(batch)}.")
    shape = expect_shape(where, "truth", batch["truth"], "B H W C")
    frame = " ".join(str(n) for n in shape[:3])
    expect_shape(where, "prediction", batch["prediction"], f"{frame} {shape[3]}")
    expect_shape(where, "region", batch["region"], f"{frame} 1")
    expect_shape(where, "counts", batch["counts"], str(shape[0]))
    if batch["counts"].dtype != np.bool_:
        expect_dtype(where, "counts", batch["counts"], "bool")
    for name in ("truth", "prediction"):
        image = np.asarray(batch[name])
        if not np.isfinite(image).all():
            at = _first(~np.isfinite(image))
            raise NonFiniteInputError(f"{where}: {name} is {image[at]} at {at}.")
        if (image < 0).any():
            at = _first(image < 0)
            raise RangeError(
                f"{where}: {name} is {image[at]} at {at}; scores take grey levels "
                "from 0, as read from the written file."
            )
    region = np.asarray(batch["region"])
    wrong = (region != 0) & (region != 1)
    if wrong.any():
        at = _first(wrong)
        raise MaskValueError(
            f"{where}: region is {region[at]} at {at}; 1 marks pixels that count, "
            "0 the others."
        )


def _first(where: np.ndarray) -> tuple[int, ...]:
    return tuple(int(i) for i in np.argwhere(where)[0])


def pad_batch(batch: Mapping[str, np.ndarray], size: int) -> dict[str, np.ndarray]:
    """Fills a batch up to `size` rows, so that the last one compiles nothing new.

    The last row is repeated; `counts` is False there. A batch without `counts`
    gets one.

    Args:
      batch: host arrays with the same number of rows, at least 1.
      size: rows of the result.

    Returns:
      A new batch of `size` rows.

    Raises:
      ValueError: no row, rows that differ in number, or more than `size` of them.
    """
    rows = {name: len(array) for name, array in batch.items()}
    have = next(iter(rows.values()), 0)
    if not 1 <= have <= size or set(rows.values()) != {have}:
        raise InpaintInputError(
            f"pad_batch: every array must have the same 1 to {size} rows, got {rows}."
        )
    counts = np.asarray(batch.get("counts", np.ones(have, bool)))
    padded = {
        name: np.concatenate([array, np.repeat(array[-1:], size - have, axis=0)])
        for name, array in batch.items()
    }
    padded["counts"] = np.concatenate([counts, np.zeros(size - have, bool)])
    return padded


def evaluate(
    metrics: Mapping[str, Metric],
    batches: Iterable[Batch],
    *,
    sharding: NamedSharding | None = None,
) -> dict[str, Mapping[str, Any]]:
    """Runs several metrics over a set of images.

    Args:
      metrics: by the name their result gets.
      batches: each `truth` and `prediction` [B, H, W, C] float32 in
        0..data_range, `region` [B, H, W, 1] float32 of 0 and 1 (1 = counts, e.g. the
        hole), `counts` [B] bool, False for rows that only fill up (`pad_batch`).
        Batches of one shape compile once.
      sharding: where each batch goes, rows split over a mesh; one device if None.
        With several processes each hands in its own rows, all of them equally many
        batches, and all get the same result.

    Returns:
      The result of each metric, by name.

    Raises:
      ValueError: there is no batch, or one does not fit (`check_batch`).
    """
    every = together(metrics)
    state, number = every.init(), -1
    for number, batch in enumerate(batches):
        check_batch(f"evaluate: batch {number}", batch)
        if sharding is None:
            placed = jax.device_put(dict(batch))
        else:
            placed = {
                name: jax.make_array_from_process_local_data(
                    sharding, np.asarray(array)
                )
                for name, array in batch.items()
            }
        state = every.update(state, placed)
    if number < 0:
        raise InpaintInputError("evaluate: there is no batch to score.")
    return dict(every.result(state))
