"""What an evaluation says of itself: facts for the results, sentences for the reader."""

import json
import re
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ml_collections import ConfigDict

import jaxinpaint
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.data.cases import RunData
from jaxinpaint.evaluation.filling import whole_outputs
from jaxinpaint.evaluation.learned import not_comparable
from jaxinpaint.evaluation.runs import Run, device_name, training_minutes
from jaxinpaint.evaluation.scoring import Scored
from jaxinpaint.metrics.ssim import SMALLEST_SIDE

PARTS = ("training", "validation", "test")  # of a split


class Words(NamedTuple):
    """How a kind of data is spoken of.

    Attributes:
      things: several of its images.
      same: the fact that says whether the run was trained on the same data.
    """

    things: str
    same: str


WORDS = {  # by `kind` of the data's summary
    "sections": Words("sections", "trained_on_this_stack"),
    "photographs": Words("pictures", "trained_on_these_images"),
    "slices": Words("slices", "trained_on_these_images"),
    "glomeruli_crops": Words("crops", "trained_on_these_images"),
}


class Bin(Protocol):
    """All cases of one kind of mask, scored."""

    @property
    def names(self) -> Sequence[str]:
        """Of the cases."""

    @property
    def guided(self) -> int:
        """How many had a training section as neighbour."""

    @property
    def methods(self) -> Mapping[str, Scored]:
        """Method -> its scores."""


def facts_of(
    config: ConfigDict,
    run: Run,
    data: RunData,
    bins: Sequence[Bin],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What was run, for the results and the page.

    Pixels that an output changed which is scored as predicted stand apart, under
    `changed_by_whole_outputs`: it keeps nothing, and says nothing about the others.
    """
    kind = data.summary["kind"]
    # The path stands in the config alone.
    images = {k: v for k, v in data.summary.items() if k != "source"}
    if kind != "sections":  # there may be millions; the digest and the seed say which
        images["split"] = counts(images["split"])
    whole = dict.fromkeys(whole_outputs(config), 0)
    others = 0
    for one in bins:
        for method, scored in one.methods.items():
            if method in whole:
                whole[method] += scored.changed
            else:
                others += scored.changed
    facts = {
        "system": config.system,
        "dataset": dataset_name(config.data.source),
        "data": "phantom" if config.data.source == "phantom" else "real",
        "kind": kind,
        "dtype": data.summary["dtype"],
        "minutes": training_minutes(run.records),
        "device": device_name(run.machine),
        "steps": run.step,
        "weights": tree_digest(run.variables),
        "mask_manifest": manifest["sha256"],
        "version": jaxinpaint.__version__,
        "cases": sum(len(one.names) for one in bins),
        WORDS[kind].same: run.same_stack,
    }
    if kind == "sections":
        guided = sum(one.guided for one in bins)
        facts["cases_guided_by_training_sections"] = guided if run.same_stack else 0
    return facts | {
        "valid_pixels_changed": others,
        "changed_by_whole_outputs": whole,
        "images": images,
    }


def notes(
    config: ConfigDict,
    facts: Mapping[str, Any],
    manifest: Mapping[str, Any],
    guides: Sequence[str],
) -> list[str]:
    """What a reader has to know before the numbers; `guides` as of `panels`."""
    height, width = (manifest["masks"][0][side] for side in ("height", "width"))
    sections = facts["kind"] == "sections"
    split = (split_of_sections if sections else split_of_images)(config, facts)
    lines = [
        f"{facts['cases']} test images of {height} x {width} pixels; {split}",
        seen_by_methods(guides, sections),
        f"{facts['valid_pixels_changed']} valid pixels were changed, by all methods "
        f"{'that fill a hole ' if config.eval.whole else ''}in all images.",
        *whole_lines(facts, manifest),
    ]
    if facts["dtype"] == "uint16":
        lines.append(
            "The images have 16 bits: MAE and MSE count levels of 0 to 65535 and are 257 "
            "and 66049 times those of 8 bits; UQI depends on the rounding. They stand "
            "beside no printed number."
        )
    if min(height, width) < SMALLEST_SIDE:
        lines.append(f"MS-SSIM needs sides of {SMALLEST_SIDE}: not computed.")
    if not config.eval.lpips:
        lines.append(
            "LPIPS needs pretrained weights: not computed. Run `jaxinpaint weights "
            "import --download --as alexnet`, the same --as lpips_alex, then eval.py "
            "with --config.eval.lpips=imported."
        )
    return not_comparable(facts["metric_weights"]) + lines


def split_of_sections(config: ConfigDict, facts: Mapping[str, Any]) -> str:
    """How test sections stand to those that were trained on."""
    if not facts["trained_on_this_stack"]:
        return "of another stack than the one that was trained on."
    return (
        f"a neighbour was a training section in "
        f"{facts['cases_guided_by_training_sections']} of them (split: "
        f"{config.data.split})."
    )


def split_of_images(config: ConfigDict, facts: Mapping[str, Any]) -> str:
    """How many images or subjects were held out, and what the config says of it."""
    words, images = WORDS[facts["kind"]], facts["images"]
    if not facts[words.same]:
        return f"of other {words.things} than those that were trained on."
    count = images["split"]
    test = f"{count['test']} test {words.things}"
    if "subjects" in images:
        test += f" of {counts(images['subjects'])['test']} subjects"
        of = "a subject is in one part of the split alone"
    else:
        of = f"no test {words.things[:-1]} was trained on"
    rest = f"{count['training']} for training, {count['validation']} for validation"
    asked = ["validation_fraction", "test_fraction", "split_unit"]
    asked = [name for name in asked if name in config.data]  # not of every kind
    if "celeb_a" in facts["dataset"]:
        asked.append("celeba_split")
    if config.data.get("test_subjects"):  # a key of slices alone
        asked.append("test_subjects")
    told = [f"{name} {config.data[name]}" for name in asked]
    rule = ", ".join([*told, f"seed {config.seed}"])
    return f"from {test}, beside {rest}; {of} (config: {rule})."


def counts(parts: Mapping[str, Sized]) -> dict[str, int]:
    """How many each part of a split holds."""
    return {name: len(parts[name]) for name in PARTS}


def seen_by_methods(guides: Sequence[str], sections: bool) -> str:
    """What the system and the classical fills take from."""
    if not sections:
        return "No method sees another image, and none what lies under the hole."
    if "neighbor" in guides:
        guide = "one neighbour, chosen over the valid pixels"
    elif {"previous", "following"} & set(guides):
        guide = "both neighbours"
    else:
        guide = "no neighbour"
    return (
        f"The system sees {guide}; mean_neighbors sees both sections beside it, or "
        "the one there is at an end of the stack. No method sees what lies under the hole."
    )


def whole_lines(facts: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """A sentence about each output that is scored as predicted."""
    valid = sum(
        mask["height"] * mask["width"] - mask["hole_pixels"]
        for mask in manifest["masks"]
    )
    return [
        f"{method} is an output of the network as it is, not composited: its valid "
        f"pixels are scored too, and {changed} of {valid} ({changed / valid:.2%}) "
        "differ from the image's. They are not in the count above."
        for method, changed in facts["changed_by_whole_outputs"].items()
    ]


def dataset_name(source: str) -> str:
    """A source without the folders it lies in: its last name.

    A folder that TFDS prepared keeps what names it: data set, config if it has one,
    and version; so does a name such as "tfds:coco/2017".
    """
    if source.startswith("tfds:"):
        return source.removeprefix("tfds:")
    path = Path(source).absolute()
    if not re.fullmatch(r"\d+\.\d+\.\d+", path.name):
        return path.name
    parts = path.parts[-3:]
    told = path / "dataset_info.json"
    if told.exists() and not json.loads(told.read_text()).get("configName"):
        parts = parts[1:]
    return "/".join(parts)
