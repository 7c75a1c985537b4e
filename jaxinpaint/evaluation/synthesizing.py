"""Puts new glomeruli on slides, round after round.

Every training slide is taken again and again (round 0, 1, ...), each time with other
contours at other places, until there are enough.

Source: glomeruli specification, part E of section 1, 6.3 and section 8.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

import jaxinpaint
from jaxinpaint.data.mask_library import Library, save_library
from jaxinpaint.data.positions import (
    SEEDS,
    Placed,
    Rules,
    Site,
    contour_number,
    place_automatically,
    place_given,
    read_positions,
)
from jaxinpaint.data.slides import Slide
from jaxinpaint.data.tissue import tissue_map
from jaxinpaint.evaluation.synthetic_set import Output, SyntheticSet
from jaxinpaint.inference.synthesize import restore_windows
from jaxinpaint.training.workdir import FREE, FREE_GROUPS, flat, to_json

SCLEROSED = 1  # channel of a label
# Beside what may change on the way: slides are known by their digests.
NOT_BINDING = (*FREE, "data.source")
Restore = Callable[[Mapping[str, Any]], np.ndarray]
Positions = Mapping[str, Sequence[tuple[float, float]]]


class Options(NamedTuple):
    """What a person may ask for.

    Attributes:
      seed: of the run.
      per_roi: new glomeruli on a slide, where places are found.
      gap: pixels between a contour's circle and every glomerulus.
      feather: pixels of blending inside a contour.
      rounds: how often every slide is taken; None to go on until there are `tiles`.
      tiles: how many tiles with a generated pixel there are to be at least, in whole
        rounds; None to do `rounds`.
      positions: a person's centres; None to find places.
      on_bad_position: "error", or "skip" for those that break a rule.
    """

    seed: int
    per_roi: int
    gap: float
    feather: float
    rounds: int | None
    tiles: int | None
    positions: Path | None
    on_bad_position: str


class Tools(NamedTuple):
    """What slides are synthesised with.

    Attributes:
      restore: fills a batch of windows.
      generator: step and digest of the network behind it.
      library: contours.
      masks: what made them: kind, and step and digest of a network.
      tiles: (slide, new image, generated) -> how many tiles hold a generated pixel.
    """

    restore: Restore
    generator: Mapping[str, Any]
    library: Library
    masks: Mapping[str, Any]
    tiles: Callable[[Slide, np.ndarray, np.ndarray], int]


def synthesize_slides(
    config: ConfigDict,
    slides: Sequence[Slide],
    tools: Tools,
    output: Path,
    options: Options,
) -> dict[str, Any]:
    """Synthesises on training slides, or goes on with a folder that was begun.

    Args:
      config: of the inpainting stage; of `image_size`, `data` and `synthesis` it reads
        the side of the windows, `data` tissue_chroma and tissue_block, and `synthesis`
        min_tissue and grid_step.
      slides: all, of which those of the split "train" are taken.
      tools: the network and the contours.
      output: the folder, as `synthetic_set` describes it.
      options: what is asked for.

    Returns:
      What was done, also written as report.json: outputs, placements, tiles, rounds;
      `skipped` (slides that got nothing in any round), `fewer` (a sentence about each
      output with less than was asked for), `left_out` (positions that broke a rule),
      and contours and rejected pieces of the library.

    Raises:
      ValueError: wrong use, no training slide, a synthetic one among them, one that is
        too small, a position that breaks a rule, a folder of another run, or no place
        left before there are enough tiles.
      OSError: a file cannot be read or written.

    Source: glomeruli specification 8.1, 8.3 and 8.4.
    """
    check_options(options)
    if options.rounds is None and options.tiles is None:
        raise ValueError("give either --rounds or --tiles.")
    side = tools.library.masks.shape[1]
    if side != config.image_size:
        raise ValueError(
            f"the contours are of windows of {side} pixels, the network's are of "
            f"{config.image_size}; make a library of that size."
        )
    training = training_slides(slides, config.image_size)
    positions = _positions(options, [slide.id for slide in training])
    binding = {
        key: value
        for key, value in flat(to_json(config))
        if key not in NOT_BINDING and not key.startswith(FREE_GROUPS)
    }
    folder = SyntheticSet(
        output, _settings(binding, training, tools, options, positions)
    )
    save_library(tools.library, output / "library")
    provenance = {
        "seed": options.seed,
        "generator": dict(tools.generator),
        "masks": dict(tools.masks),
        "library_digest": tools.library.digest(),
        "config_digest": _sha256(binding),
        "version": jaxinpaint.__version__,
    }
    console = Console(stderr=True, soft_wrap=True)
    done: list[Mapping[str, Any]] = []
    fewer: list[str] = []
    left_out: list[str] = []
    tried: set[str] = set()
    tiles, again = 0, 0

    for again in itertools.count():
        enough = options.tiles is not None and tiles >= options.tiles
        if enough or again == options.rounds:
            break
        before = tiles
        # A round is finished: half of one would be of the first slides alone, and all of
        # its tiles are lost to a training that holds those slides out.
        for index, slide in enumerate(training):
            given = None if positions is None else positions.get(slide.id, ())
            wanted = options.per_roi if given is None else len(given)
            if not wanted:
                continue
            tried.add(slide.id)
            name = f"{slide.id}__syn{options.seed}_{again}"
            if name in folder:
                left_out += folder.lines(name)[0]["left_out"]
            else:
                made, bad = _make(
                    config, slide, index, again, name, tools, options, given
                )
                left_out += bad
                if made is not None:
                    lines = [{**one, **provenance} for one in made.placements]
                    folder.add(made._replace(placements=lines))
            own = folder.lines(name) if name in folder else ()
            done += own
            tiles += own[0]["tiles"] if own else 0
            if len(own) < wanted:
                fewer.append(f"{name}: {len(own)} of {wanted} glomeruli")
                console.print(f"Note: {fewer[-1]}", highlight=False, markup=False)
            elif own:
                told = f"{name}: {len(own)} glomeruli, {tiles} tiles in all"
                console.print(told, highlight=False, markup=False)
        if options.tiles is not None and tiles == before:
            raise ValueError(
                f"{output}: round {again} found no place on any of {len(training)} "
                f"slides, {tiles} of {options.tiles} tiles are made; ask for fewer, or "
                "lower config.synthesis.min_tissue, --gap or the contours' sizes."
            )
    report = {
        "outputs": len({line["output"] for line in done}),
        "placements": len(done),
        "tiles": tiles,
        "rounds": again,
        "skipped": sorted(tried - {line["source"] for line in done}),
        "fewer": fewer,
        "left_out": left_out,
        "contours": len(tools.library.masks),
        "rejected": dict(tools.library.rejected),
    }
    folder.write_report(report)
    return report


def _make(
    config: ConfigDict,
    slide: Slide,
    index: int,
    again: int,
    name: str,
    tools: Tools,
    options: Options,
    centres: Sequence[tuple[float, float]] | None,
) -> tuple[Output | None, list[str]]:
    """One slide with new glomeruli; None where there is no place for any.

    Also a sentence about each given position that was left out.
    """
    own, data = config.synthesis, config.data
    library, size = tools.library, config.image_size
    image = slide.region(0, 0, slide.height, slide.width)
    label = slide.label()
    site = Site(
        slide.id,
        np.any(label, axis=-1),
        tissue_map(image, chroma=data.tissue_chroma, block=data.tissue_block),
        data.tissue_block,
        Rules(size, options.gap, own.min_tissue),
    )
    count = options.per_roi if centres is None else len(centres)
    numbers = [
        contour_number(options.seed, index, k, again, len(library.masks))
        for k in range(count)
    ]
    masks = [library.masks[number] for number in numbers]
    radii = [library.meta[number]["r"] for number in numbers]
    bad: list[str] = []
    if centres is None:
        rng = np.random.default_rng([options.seed, index, again])
        step = own.grid_step
        placed = place_automatically(site, masks, radii, step=step, rng=rng)
    else:
        placed, bad = place_given(
            site, centres, masks, radii, on_bad=options.on_bad_position
        )
    if not placed:
        return None, bad
    frames = [
        (slice(one.top, one.top + size), slice(one.left, one.left + size))
        for one in placed
    ]
    holes = np.stack([masks[one.number] for one in placed])
    made = restore_windows(
        tools.restore,
        np.stack([image[frame] for frame in frames]),
        holes,
        batch_size=options.per_roi,
        feather=options.feather,
    )
    image, label = image.copy(), label.copy()
    generated = np.zeros(image.shape[:2], bool)
    for frame, hole, window in zip(frames, holes > 0, made, strict=True):
        assert not label[frame][hole].any(), f"{name}: a contour meets a glomerulus"
        image[frame] = window
        label[frame][hole, SCLEROSED] = 1
        generated[frame] |= hole
    about = {
        "source": slide.id,
        "source_sha256": slide.digest,
        "stain": slide.stain,
        "mpp": slide.mpp,
        "group": slide.group,
        "round": again,
        "tiles": tools.tiles(slide, image, generated),
        "left_out": bad,
    }
    lines = [_told(one, numbers[one.number], library, size) for one in placed]
    return Output(name, image, label, generated, about, lines), bad


def _told(one: Placed, number: int, library: Library, size: int) -> dict[str, Any]:
    """What the manifest tells of a placement."""
    contour = library.meta[number]
    half = (size - 1) / 2
    return {
        "placement": one.number,
        "origin": [one.top, one.left],
        "centre": [one.top + half, one.left + half],
        "contour": number,
        "contour_source": contour["source"],
        "sample_index": contour["sample_index"],
        "component": contour["component"],
        "scale": contour["scale"],
        "area": contour["area"],
        "radius": contour["r"],
    }


def training_slides(slides: Iterable[Slide], size: int) -> list[Slide]:
    """Slides to synthesise on, sorted by id; those of other splits are passed over.

    Raises:
      ValueError: there is none, one is synthetic itself, or smaller than a window.
    """
    slides = list(slides)
    training = sorted((s for s in slides if s.split == "train"), key=lambda s: s.id)
    if not training:
        raise ValueError(
            f"none of {len(slides)} slides is in the split 'train'; name them in "
            "splits.json, or in the column split of slides.csv."
        )
    for slide in training:
        if slide.synthetic:
            raise ValueError(
                f"slide {slide.id} is synthetic; new glomeruli are put on original "
                "slides alone. Take it out of config.data.source."
            )
        if min(slide.height, slide.width) < size:
            raise ValueError(
                f"slide {slide.id} is {slide.height} x {slide.width} pixels at working "
                f"resolution; windows of {size} need a larger one."
            )
    return training


def check_options(options: Options) -> None:
    """Checks figures, before anything is opened.

    Raises:
      ValueError: one that cannot be, or both rounds and tiles.
    """
    if options.per_roi < 1 or options.seed < 0:
        raise ValueError(
            f"--per-roi is {options.per_roi} and --seed {options.seed}; they must be at "
            "least 1 and 0."
        )
    if options.seed >= SEEDS:
        raise ValueError(f"--seed is {options.seed}; it must be below 2^32 = {SEEDS}.")
    if None not in (options.rounds, options.tiles):
        raise ValueError("give either --rounds or --tiles, not both.")
    for name in ("rounds", "tiles"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name} is {value}; it must be 1 or more.")


def _positions(options: Options, names: Sequence[str]) -> Positions | None:
    """The centres of a file, or None where places are to be found.

    Raises:
      ValueError: it names what is no training slide.
    """
    if options.positions is None:
        return None
    found = read_positions(options.positions)
    strange = sorted(set(found) - set(names))
    if strange:
        raise ValueError(
            f"{options.positions}: {strange[:10]} are no training slides; new "
            "glomeruli are put on those alone."
        )
    return found


def _settings(
    binding: Mapping[str, Any],
    training: Sequence[Slide],
    tools: Tools,
    options: Options,
    positions: Positions | None,
) -> dict[str, Any]:
    """All that decides which bytes are written, but for how many slides."""
    return {
        "format": 1,
        "version": jaxinpaint.__version__,
        "config": dict(binding),
        "seed": options.seed,
        "per_roi": options.per_roi,
        "gap": options.gap,
        "feather": options.feather,
        "on_bad_position": options.on_bad_position,
        "positions": None if positions is None else _sha256(positions),
        "generator": dict(tools.generator),
        "masks": dict(tools.masks),
        "library_digest": tools.library.digest(),
        "slides": {
            slide.id: {"image": slide.digest, "label": slide.label_digest}
            for slide in training
        },
    }


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
