"""Chooses the cases that a report shows, and gathers what is drawn of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data.cases import Case
from jaxinpaint.evaluation.filling import (
    blanked,
    outputs,
    read_filled,
    whole_outputs,
)
from jaxinpaint.evaluation.scoring import Scored
from jaxinpaint.report.panels import Panel, choose


class Scores(Protocol):
    """All cases of one kind of mask, scored."""

    @property
    def label(self) -> str:
        """Of the masks."""

    @property
    def names(self) -> Sequence[str]:
        """Of the cases, in order."""

    @property
    def methods(self) -> Mapping[str, Scored]:
        """Method -> its scores."""


def panels(
    config: ConfigDict,
    bins: Sequence[Scores],
    cases: Iterable[Case],
    channels: int,
    folder: Path,
    *,
    guides: Sequence[str],
    flow_of: Callable[[Case], np.ndarray] | None,
) -> list[Panel]:
    """The worst, median and best cases by PSNR in the hole, over all masks.

    Args:
      config: `system`, `eval.also`, `eval.whole`, and `eval.panels` of each are shown.
      bins: scored.
      cases: the same cases once more.
      channels: of the files.
      folder: that `write_restored` wrote to.
      guides: the arrays of a case that the system sees.
      flow_of: a case -> the flow [H, W, 2] that the system finds, in pixels; None
        where it predicts none. It is called for the cases that are shown alone.
    """
    places = [(one.label, name) for one in bins for name in one.names]
    values = [
        float(value)
        for one in bins
        for value in one.methods[config.system].scores["hole", "psnr"]["values"]
    ]
    ranks = choose(values, config.eval.panels)
    wanted = {places[i]: (rank, values[i]) for rank in ranks for i in ranks[rank]}
    drawn = {}
    for case in cases:
        place = case.label, case.name
        if place not in wanted:
            continue
        rank, value = wanted[place]
        filled = read_filled(config.system, [case], channels, folder, outputs(config))
        made = {method: images[0] for method, images in filled.made.items()}
        images = {
            "truth": filled.truth[0],
            "masked": blanked(case).image[..., :channels],
            **beside(case, channels, guides),
            "completed": made.pop(config.system),
            **made,
        }
        drawn[place] = Panel(
            name=case.name,
            bin=case.label,
            caption=f"{rank} PSNR in the hole",
            score=value,
            images={name: eight_bit(image) for name, image in images.items()},
            mask=case.mask,
            flow=None if flow_of is None else flow_of(case),
            whole=whole_outputs(config),
        )
    return [drawn[place] for place in wanted]


def beside(case: Case, channels: int, guides: Sequence[str]) -> dict[str, np.ndarray]:
    """The neighbours that a system sees, of so many channels."""
    seen = {"previous": case.previous, "following": case.following}
    if "neighbor" in guides:
        seen = {"neighbor": case.neighbor}
    return {
        name: image[..., :channels] for name, image in seen.items() if image is not None
    }


def eight_bit(image: np.ndarray) -> np.ndarray:
    """For the eye: the upper eight bits."""
    return image if image.dtype == np.uint8 else (image >> 8).astype(np.uint8)
