"""Opens what slides are synthesised with: slides, trained networks and contours."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint import systems
from jaxinpaint.core.manifest import tree_digest
from jaxinpaint.core.system import System, Variables
from jaxinpaint.data.mask_library import (
    Library,
    build_library,
    folder_maps,
    load_library,
    taken_library,
)
from jaxinpaint.data.slides import Slide, open_slides
from jaxinpaint.data.tiles import Cut, tiles_of
from jaxinpaint.evaluation.runs import Run, open_run
from jaxinpaint.evaluation.synthesizing import (
    SCLEROSED,
    Options,
    Restore,
    Tools,
    check_options,
    synthesize_slides,
    training_slides,
)
from jaxinpaint.inference.restore import restorer
from jaxinpaint.inference.synthesize import sample_masks

LIBRARY, REAL = "library:", "real"
# Deviation (specification 6.3): twice as many tiles as originals, not as many, since a
# training takes none of the slides that it holds out for validation.
MARGIN = 2.0


def synthesize(
    config: ConfigDict, inpaint: Path, masks: str, output: Path, options: Options
) -> dict[str, Any]:
    """Puts new glomeruli on the training slides of a config.

    Args:
      config: of the inpainting stage; `data` names the slides and says how they are cut
        into tiles, and `synthesis` holds what `synthesize_slides` and `open_library`
        read.
      inpaint: workdir of the inpainting stage.
      masks: workdir of the mask stage; "library:DIR" for a library that was saved, or a
        folder of a person's masks; or "real" for the outlines of the training slides.
      output: folder for the result; one that was begun is gone on with.
      options: what is asked for. With neither rounds nor tiles, there are to be at least
        `MARGIN` tiles for each training tile that shows a sclerosed glomerulus.

    Returns:
      What was done, as `synthesize_slides` tells it.

    Raises:
      ValueError: as `synthesize_slides`, `open_inpainting` and `open_library`.
      FileNotFoundError: no slides, no run, no checkpoint or no library.
      OSError: a file cannot be read or written.
      ImportError: whole slides, and no package that reads them.

    Source: glomeruli specification, part E of section 1, 6.3 and section 8.
    """
    if "synthesis" not in config:
        raise ValueError(
            "the config has no section `synthesis`; take configs/glomeruli_inpaint.py."
        )
    check_options(options)
    slides = training_slides(open_slides(config), config.image_size)
    restore, generator = open_inpainting(config, inpaint)
    library, told = open_library(config, masks, slides, options.seed)

    def tiles(slide: Slide, image: np.ndarray, generated: np.ndarray) -> int:
        return generated_tiles(slide, image, generated, cut_of(config))

    if options.rounds is None and options.tiles is None:
        wanted = math.ceil(MARGIN * sclerosed_tiles(config, slides))
        options = options._replace(tiles=wanted)
    tools = Tools(restore, generator, library, told, tiles)
    return synthesize_slides(config, slides, tools, output, options)


def open_inpainting(
    config: ConfigDict, workdir: Path
) -> tuple[Restore, dict[str, Any]]:
    """The trained inpainting network as a function of windows, and what it is.

    Raises:
      FileNotFoundError: no run, or no checkpoint.
      ValueError: another stage or another model than the config's.
    """
    _expect_stage("--config", config, "inpaint")
    system = systems.build(config)
    run = open_run(config, system, workdir, None)
    # What the stage freezes teaches the network, and is not asked when it paints.
    restore = restorer(config, system, run.variables, {})
    return restore, told_of(run)


def open_mask_network(workdir: Path) -> tuple[System, Variables, dict[str, Any]]:
    """The trained mask network, by the config that it was trained with.

    Raises:
      FileNotFoundError: no run, or no checkpoint.
      ValueError: the run is of another stage.
    """
    path = workdir / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{workdir} holds no run; train the stage `masks` there first, or give "
            f"--masks {LIBRARY}DIR or {REAL}."
        )
    config = ConfigDict(json.loads(path.read_text()))
    _expect_stage(str(workdir), config, "masks")
    system = systems.build(config)
    run = open_run(config, system, workdir, None)
    return system, run.variables, told_of(run)


def told_of(run: Run) -> dict[str, Any]:
    """Step and digest of the generator, which alone paints or draws."""
    return {"step": run.step, "digest": tree_digest(run.variables["generator"])}


def open_library(
    config: ConfigDict, masks: str, slides: list[Slide], seed: int
) -> tuple[Library, dict[str, Any]]:
    """The contours that are asked for, and what made them.

    Args:
      config: `image_size`, and of `synthesis` samples, sample_batch, threshold, bins,
        diameters, min_area and max_radius.
      masks: as `synthesize` takes it.
      slides: for training.
      seed: of samples and sizes.

    Raises:
      FileNotFoundError: no run, no checkpoint, no library or no masks.
      ValueError: a library of another size or that is damaged, or no contour.
    """
    own, size = config.synthesis, config.image_size
    lengths = {
        "size": size,
        "min_area": own.min_area,
        "max_radius": own.max_radius,
    }
    if masks == REAL:
        maps = ((one.id, one.label()[..., SCLEROSED]) for one in slides)
        return taken_library(maps, **lengths), {"kind": "real"}
    if masks.startswith(LIBRARY):
        folder = Path(masks.removeprefix(LIBRARY))
        if not folder.is_dir():
            raise FileNotFoundError(f"--masks: {folder} is no folder.")
        if (folder / "library.json").exists():
            return load_library(folder), {"kind": "library"}
        return taken_library(folder_maps(folder), **lengths), {"kind": "folder"}
    system, variables, told = open_mask_network(Path(masks))
    samples = sample_masks(system, variables, own.samples, seed, own.sample_batch)
    library = build_library(
        samples,
        **lengths,
        bins=own.bins,
        range=tuple(own.diameters),
        threshold=own.threshold,
        seed=seed,
    )
    return library, {"kind": "network", **told}


def sclerosed_tiles(config: ConfigDict, slides: list[Slide]) -> int:
    """How many tiles of slides show a sclerosed glomerulus.

    Raises:
      ValueError: none does.

    Source: glomeruli specification 6.3.
    """
    count = sum(marked_tiles(slide, cut_of(config)) for slide in slides)
    if not count:
        raise ValueError(
            f"no sclerosed glomerulus on {len(slides)} training slides says how many "
            "tiles are wanted; give --rounds or --tiles."
        )
    return count


def generated_tiles(
    slide: Slide, image: np.ndarray, generated: np.ndarray, cut: Cut
) -> int:
    """How many tiles of what was made of a slide hold a generated pixel.

    Args:
      slide: that it was made of.
      image: uint8 [H, W, 3], new.
      generated: bool [H, W].
      cut: how slides are cut into tiles.
    """
    label = np.repeat(generated[..., None], 2, axis=-1).astype(np.uint8)
    made = slide._replace(
        region=lambda top, left, height, width: image[
            top : top + height, left : left + width
        ],
        label=lambda: label,
    )
    return marked_tiles(made, cut)


def marked_tiles(slide: Slide, cut: Cut) -> int:
    """How many tiles show enough tissue and a sclerosed pixel.

    Source: glomeruli specification 5.4 and 6.3.
    """
    return sum(
        enough and bool(tile.label[..., SCLEROSED].any())
        for tile, enough in tiles_of(slide, cut)
    )


def cut_of(config: ConfigDict) -> Cut:
    """How a config cuts slides into tiles."""
    data = config.data
    return Cut(
        tile=data.tile,
        step=data.tile_step,
        min_tissue=data.min_tissue,
        chroma=data.tissue_chroma,
        block=data.tissue_block,
    )


def _expect_stage(where: str, config: ConfigDict, stage: str) -> None:
    if config.get("stage") != stage:
        raise ValueError(
            f"{where}: stage is {config.get('stage')!r}, slides are synthesised with "
            f"the stage '{stage}'."
        )
