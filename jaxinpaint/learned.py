"""The metrics that need pretrained weights: LPIPS on two trunks, and FID.

Stands on the roof: it joins the store of weights with the metrics, for the evaluation
and for the command `score`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxinpaint.core.checks import UnalignedSizeError
from jaxinpaint.features import store
from jaxinpaint.features.alexnet import STAGES
from jaxinpaint.features.inception import SIDE
from jaxinpaint.features.registry import ALEXNET_CHANNELS, VGG16_CHANNELS
from jaxinpaint.features.store import Pretrained
from jaxinpaint.features.vgg import VGG16
from jaxinpaint.metrics.evaluate import Metric
from jaxinpaint.metrics.fid import (
    FEWEST,
    features_metric,
    fid_metric,
    inception_network,
    pool3_features,
)
from jaxinpaint.metrics.lpips import (
    LinearWeights,
    alexnet_trunk,
    lpips_metric,
    vgg16_trunk,
)
from jaxinpaint.report.scores import METRICS, PUBLISHED, label
from jaxinpaint.scoring import LEVELS, More, Place

Networks = Mapping[str, nn.Module]  # name in the registry -> what reads it


class Learned(NamedTuple):
    """Learned metrics with their weights, ready to score.

    Attributes:
      more: as `scoring.score` takes it, for sets that are scored whole. Results hold
        the source of their `weights` too.
      apart: the same for images that are sorted into sets later: the result of
        ("image", "fid") is that of `features_metric`.
      weights: metric -> what it was computed with, for results: `source` ("imported",
        "imported, unverified" or "random:SEED") and `sha256` by name of the weights.
    """

    more: More
    apart: More
    weights: Mapping[str, Mapping[str, Any]]


def networks() -> dict[str, Networks]:
    """The networks of each metric, in its order, all in float32."""
    return {
        "lpips": {
            "alexnet": alexnet_trunk(jnp.float32),
            "lpips_alex": LinearWeights(ALEXNET_CHANNELS),
        },
        "lpips_vgg": {
            "vgg16": vgg16_trunk(jnp.float32),
            "lpips_vgg": LinearWeights(VGG16_CHANNELS),
        },
        "fid": {"inception_fid": inception_network(jnp.float32)},
    }


# The trunks pad nothing. Of FID there is no least: it resizes every image.
LEAST_SIDES = {
    "lpips": STAGES["relu5"].least,
    "lpips_vgg": 2 ** (len(VGG16) - 1),  # halved between the blocks
}


def learned(lpips: str, lpips_vgg: str, fid: str) -> Learned:
    """Loads the weights of the learned metrics that are asked for.

    Args:
      lpips: where the weights of LPIPS on AlexNet come from: "imported", "random:SEED"
        for tests and dry runs, or "" to leave it out.
      lpips_vgg: the same of LPIPS on VGG16.
      fid: the same of FID.

    Raises:
      MissingWeightsError: weights that nobody has imported; names the command.
      DamagedCheckpointError: the store's copy is not what was imported.
      ValueError: another source.
    """
    sources = {"lpips": lpips, "lpips_vgg": lpips_vgg, "fid": fid}
    chosen = {name: nets for name, nets in networks().items() if sources[name]}
    image = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), jnp.float32)
    loaded = {
        metric: [
            store.load(name, sources[metric], net, image) for name, net in nets.items()
        ]
        for metric, nets in chosen.items()
    }
    weights = {
        metric: facts(sources[metric], chosen[metric], found)
        for metric, found in loaded.items()
    }

    # One program serves images of any size that have the same depth.
    @functools.cache
    def built(dtype: str, set_metric: Callable[..., Metric]) -> dict[Place, Metric]:
        return {
            ("image", metric): sourced(
                build(metric, chosen[metric], found, LEVELS[dtype], set_metric),
                weights[metric]["source"],
            )
            for metric, found in loaded.items()
        }

    return Learned(
        lambda dtype, shape: built(dtype, fid_metric),
        lambda dtype, shape: built(dtype, features_metric),
        weights,
    )


def build(
    metric: str,
    nets: Networks,
    found: Sequence[Pretrained],
    data_range: float,
    set_metric: Callable[..., Metric],
) -> Metric:
    """Makes one of the metrics; `set_metric` is what FID becomes."""
    network = next(iter(nets.values()))
    variables = [one.variables for one in found]
    if metric == "fid":
        return set_metric(pool3_features(network), *variables, data_range=data_range)
    return lpips_metric(network, *variables, data_range=data_range)


def sourced(metric: Metric, source: str) -> Metric:
    """Says in every result where the metric's weights come from."""

    def result(state: Any) -> Mapping[str, Any]:
        return {**metric.result(state), "weights": source}

    return metric._replace(result=result)


def facts(
    source: str, names: Iterable[str], found: Sequence[Pretrained]
) -> dict[str, Any]:
    """What a metric is computed with, for results."""
    if source == PUBLISHED:
        records = [store.record_of(name) for name in names]
        if not all(record and record.verified for record in records):
            source = "imported, unverified"
    digests = [one.sha256 for one in found]
    return {"source": source, "sha256": dict(zip(names, digests, strict=True))}


def expect_sides(metrics: Iterable[str], where: str, shape: Sequence[int]) -> None:
    """Checks that images are large enough for metrics, before anything is scored.

    Args:
      metrics: some of METRICS.
      where: names the images.
      shape: [H, W, C] of one.

    Raises:
      UnalignedSizeError: a side is too short.
    """
    for metric in metrics:
        least = LEAST_SIDES.get(metric, 1)
        if min(shape[:2]) < least:
            raise UnalignedSizeError(
                f"{where}: {shape[0]} x {shape[1]} pixels, but "
                f"{METRICS[metric].label} needs sides of at least {least}; leave "
                f"{metric} out, or give larger images."
            )


def not_comparable(weights: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A sentence about each metric that has not the published weights."""
    lines = []
    for metric, told in weights.items():
        source = told["source"]
        if source != PUBLISHED:
            why = (
                "random weights stand in place of the published ones, for a dry run"
                if source.startswith("random")
                else "its weights were imported from another file than the published one"
            )
            lines.append(f"{label(metric, source)}: {why}.")
    return lines


def few_images(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence about the FID rows of too few images, if there are any."""
    few = [row["n"] for row in rows if row["metric"] == "fid" and row.get("note")]
    if not few:
        return []
    least, most = min(few), max(few)
    here = str(least) if least == most else f"{least} to {most}"
    return [
        f"FID of few images is strongly biased (here {here}; the usual least is "
        f"{FEWEST}): compare it only with one of the same number of images."
    ]
