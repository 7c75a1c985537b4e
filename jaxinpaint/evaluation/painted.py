"""Table 2 of the glomeruli paper: painted glomeruli scored over three sets of pixels."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxinpaint.evaluation.scoring import LEVELS, More, Place
from jaxinpaint.metrics.evaluate import Metric, image_metric
from jaxinpaint.metrics.pixel import mae, psnr
from jaxinpaint.metrics.ssim import ssim
from jaxinpaint.report import glomeruli_tables
from jaxinpaint.report.rendering import Table

KIND = "glomeruli_crops"  # of data that Table 2 is about
REGIONS = {"region": "hole", "local": "local", "full": "image"}  # as rows name them
METRICS = {"mae": mae, "psnr": psnr, "ssim": ssim}


def with_local(more: More) -> More:
    """Adds scores of the hole alone on white, over the whole frame, to other metrics.

    Source: R_ori and R_rec of the paper's Eq. 6 and 7; specification 6.1.
    """
    return lambda dtype, shape: {**more(dtype, shape), **local_metrics(dtype)}


@functools.cache
def local_metrics(dtype: str) -> Mapping[Place, Metric]:
    """MAE, PSNR and SSIM of region "local": white outside the hole in both images.

    Args:
      dtype: "uint8" or "uint16".
    """
    top = LEVELS[dtype]

    def on_white(name: str) -> Metric:
        score = METRICS[name]

        def scored(truth: jax.Array, made: jax.Array, region: jax.Array) -> jax.Array:
            truth, made = (jnp.where(region > 0, x, top) for x in (truth, made))
            return score(truth, made, jnp.ones_like(region), data_range=top)

        return image_metric(scored)

    return {("local", name): on_white(name) for name in METRICS}


def table_2(
    rows: Sequence[Mapping[str, Any]], system: str, dtype: str
) -> dict[str, Any]:
    """The nine values of a system's rows, and the paper's three.

    Args:
      rows: tidy, of one kind of mask.
      system: its method.
      dtype: of the images; MAE is counted in parts of their highest level.

    Returns:
      `measured`: region, local and full -> mae, psnr and ssim; `infinite`, PSNRs of
      equal images, which are in no mean; `paper`; and `n`, crops.
    """
    own = {
        (r["region"], r["metric"]): r
        for r in rows
        if r["method"] == system and r["metric"] in METRICS
    }
    measured = {
        name: {metric: own[region, metric]["value"] for metric in METRICS}
        for name, region in REGIONS.items()
    }
    for values in measured.values():
        if values["mae"] is not None:
            values["mae"] /= LEVELS[dtype]
    return {
        "measured": measured,
        "infinite": {
            name: own[region, "psnr"]["infinite"] for name, region in REGIONS.items()
        },
        "paper": glomeruli_tables.printed_images(),
        "n": own["image", "mae"]["n"],
    }


def aside(table: Mapping[str, Any]) -> Table:
    """The table of a page, from `table_2`."""
    return glomeruli_tables.image_table(table["measured"], table["n"])
