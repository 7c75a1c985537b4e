"""Batches for the three networks of the glomeruli system.

Crops about sclerosed glomeruli train the inpainting network, their masks the network that
draws new ones, tiles the segmentation. Test slides give neither crops nor masks, and what
is synthetic is trained on alone.
"""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

from ml_collections import ConfigDict

from jaxinpaint.data import glomeruli_tiles
from jaxinpaint.data.cases import Batch, Case, RunData
from jaxinpaint.data.epochs import Rows, epoch_batches, fixed_batch
from jaxinpaint.data.glomeruli_crops import Crops, Rules, gather_crops, mask_pictures
from jaxinpaint.data.image_set import listed
from jaxinpaint.data.keeping import default_cache_dir
from jaxinpaint.data.slides import Slide, open_slides
from jaxinpaint.data.split import Parts, hold_out

PICTURE = 64  # side of the mask network's pictures
LABEL = "crops"  # of the test cases
_VERSION = 1  # of what the cache holds
_NOTHING: Mapping[str, Any] = MappingProxyType({})


def build_crops(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
    derived: Mapping[str, Any] = _NOTHING,
) -> RunData:
    """Kind "glomeruli_crops": windows about sclerosed glomeruli, each with its own hole.

    Reads `config.seed`; of `config.data` what `slides.open_slides` reads, kind, cache_dir,
    min_area, max_radius, max_cover, split_unit ("group", or "tile": single crops),
    test_fraction and validation_crops.

    Args:
      config: every key must be there.
      batch_spec: shapes of the global batch: image [N, S, S, 3] and mask [N, S, S, 1].
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: of sections; empty, because crops have no neighbours.

    Returns:
      The data, of training slides alone: an epoch is a permutation of the crops, less the
      rows that do not fill a batch. The crops held out (8:2 in the paper) are the test
      cases; the validation batch is of them too, since the paper chooses no checkpoint by
      it.

    Raises:
      ValueError: no crop, fewer than a batch, a config value that does not fit, or as
        `open_slides` and `glomeruli_crops.crops_of`.

    Source: glomeruli specification 5.5 and 4.
    """
    _check_form(
        batch_spec, {"image": 3, "mask": 1}, derived, process_count, config.data.kind
    )
    size = batch_spec["image"].shape[1]
    slides, crops, parts = _split_crops(config, size)
    rows = Rows({"image": crops.images, "mask": crops.masks[..., None]})

    def test_cases() -> Iterator[Case]:
        if not parts.held:
            raise ValueError(
                f"{config.data.source}: no crop is held out for test; raise "
                "config.data.test_fraction."
            )
        for at in parts.held:
            facts = crops.meta[at]
            one = rows.take([at])
            yield Case(
                name=f"{facts['slide']}_{facts['top']:05d}_{facts['left']:05d}_{at:05d}",
                label=LABEL,
                image=one["image"][0],
                mask=one["mask"][0],
            )

    return _run_data(
        config,
        rows,
        batch_spec["image"].shape[0],
        (process_index, process_count),
        parts.kept,
        fixed_batch(rows, parts.held or parts.kept, *_shown(config)),
        test_cases=test_cases,
        what="crops",
        facts={
            "digest": _digest(slides, config.data, Rules._fields),
            "shape": list(crops.images.shape),
            "split": {
                "training": listed(parts.kept),
                "validation": [],
                "test": listed(parts.held),
            },
            "validation_from": "test" if parts.held else "training",
            "crops": crops.report,
            "groups": {"training": parts.kept_groups, "test": parts.held_groups},
        },
    )


def build_outlines(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
    derived: Mapping[str, Any] = _NOTHING,
) -> RunData:
    """Kind "glomeruli_outlines": the masks of the training crops, as pictures.

    Reads what `build_crops` reads, and `config.data.crop_size`, a multiple of 64. The
    crops are those that `build_crops` trains on with the same keys.

    Args:
      config: every key must be there.
      batch_spec: shapes of the global batch: image [N, 64, 64, 3].
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: empty.

    Returns:
      The data: grey pictures, 255 inside the glomeruli; no test cases, whose iterator
      raises ValueError.

    Raises:
      ValueError: as `build_crops`, or a crop_size that is no multiple.

    Source: glomeruli specification 8.2.
    """
    _check_form(batch_spec, {"image": 3}, derived, process_count, config.data.kind)
    if batch_spec["image"].shape[1] != PICTURE:
        raise ValueError(
            f"the system asks for pictures of {batch_spec['image'].shape[1]} pixels; "
            f"{config.data.kind} are {PICTURE} x {PICTURE}."
        )
    slides, crops, parts = _split_crops(config, config.data.crop_size)
    pictures = mask_pictures(crops.masks[list(parts.kept)], PICTURE)
    everyone, rows = range(len(pictures)), Rows({"image": pictures})
    return _run_data(
        config,
        rows,
        batch_spec["image"].shape[0],
        (process_index, process_count),
        everyone,
        fixed_batch(rows, everyone, *_shown(config)),
        test_cases=functools.partial(
            _no_cases, config.data.kind, "a network that draws masks restores no image"
        ),
        what="masks",
        facts={
            "digest": _digest(slides, config.data, (*Rules._fields, "crop_size")),
            "shape": list(pictures.shape),
            "split": {"training": listed(everyone), "validation": [], "test": []},
            "validation_from": "training",
            "crops": crops.report,
            "groups": {"training": parts.kept_groups, "test": parts.held_groups},
        },
    )


def build_tiles(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
    derived: Mapping[str, Any] = _NOTHING,
    slides: Sequence[Slide] | None = None,
) -> RunData:
    """Kind "glomeruli_tiles": tiles of slides and of synthetic slides, with labels.

    Reads `config.seed`, and of `config.data` what `slides.open_slides` reads, kind,
    cache_dir, tile, tile_step, min_tissue, tissue_chroma, tissue_block, split_unit
    ("group", or "tile"), validation_fraction, validation_crops, synthetic (the folder of a
    synthetic set, or "") and synthetic_percent.

    Args:
      config: every key must be there.
      batch_spec: shapes of the global batch: image [N, S, S, 3] and label [N, S, S, 2].
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: empty.
      slides: of the config, if they are open already.

    Returns:
      The data, of training slides: originals that are not held out for validation, and
      then so many synthetic tiles as `glomeruli_tiles.synthetic_count` says. The
      validation batch, with `valid` besides, holds each held-out tile once, or a draw of
      validation_crops where there are more; 0 takes all. With none held out it is of
      training originals. The test
      slides are in `glomeruli_tiles.test_tiles`; the iterator of test cases raises
      ValueError, which names it.

    Raises:
      ValueError: no tile, fewer than a batch, too few synthetic ones, a slide both in
        training and in test, a config value that does not fit, or as `open_slides`.

    Source: glomeruli specification 5.4 and 6.3.
    """
    data = config.data
    _check_form(batch_spec, {"image": 3, "label": 2}, derived, process_count, data.kind)
    side = batch_spec["image"].shape[1]
    glomeruli_tiles.expect_side(data, side)
    slides = open_slides(config) if slides is None else slides
    training = _training_slides(config, slides)
    keys = glomeruli_tiles.KEYS
    digest = _digest(training, data, keys)
    tiles = glomeruli_tiles.gather_tiles(training, data, _home(config, digest))
    parts = hold_out(
        [facts["group"] for facts in tiles.meta],
        data.split_unit,
        data.validation_fraction,
        int(config.seed),
        "validation",
    )
    extra, chosen = glomeruli_tiles.synthetic_tiles(
        config,
        slides,
        tiles,
        parts,
        lambda pool: _home(config, _digest(pool, data, (*keys, "synthetic"))),
    )
    count = len(tiles.meta)
    everyone = Rows(tiles.arrays, extra.arrays if extra else None)
    train = parts.kept + tuple(count + at for at in chosen)
    test_groups = {slide.group for slide in slides if slide.split.startswith("test")}
    return _run_data(
        config,
        everyone,
        batch_spec["image"].shape[0],
        (process_index, process_count),
        train,
        # Without held-out tiles of training originals; never of synthetic ones.
        glomeruli_tiles.validation_tiles(
            training, tiles, parts.held or parts.kept, *_shown(config)
        ),
        test_cases=functools.partial(
            _no_cases, data.kind, "test tiles come from glomeruli_tiles.test_tiles"
        ),
        what="tiles",
        facts={
            "digest": digest,
            "shape": [count + len(chosen), side, side, 3],
            "split": {
                "training": listed(train),
                "validation": listed(parts.held),
                "test": [],
            },
            "validation_from": "validation" if parts.held else "training",
            "groups": {"training": parts.kept_groups, "validation": parts.held_groups},
            "groups_in_train_and_test": sorted(
                test_groups & {slide.group for slide in training}
            ),
            "tiles": {
                "kept": count,
                "without_tissue": len(tiles.left_out),
                "with_sclerosed": sum(facts["sclerosed"] for facts in tiles.meta),
            },
            "synthetic": {
                "source": str(data.synthetic),
                "percent": float(data.synthetic_percent),
                "pool": len(extra.meta) if extra else 0,
                "tiles": len(chosen),
            },
        },
    )


def _run_data(
    config: ConfigDict,
    rows: Rows,
    size: int,
    process: tuple[int, int],
    kept: Sequence[int],
    validation: Batch,
    *,
    test_cases: Callable[[], Iterator[Case]],
    what: str,
    facts: dict[str, Any],
) -> RunData:
    """Batches of what is kept, beside a fixed one to validate with."""
    count = len(kept)
    if count < size:
        raise ValueError(
            f"{count} {what}, batch {size}: lower config.batch_size or add slides."
        )
    batch = epoch_batches(rows, kept, size, int(config.seed), *process)
    return RunData(
        batch=batch,
        train=lambda first: (batch(step) for step in itertools.count(first)),
        validation=validation,
        test_cases=test_cases,
        summary={
            "kind": str(config.data.kind),
            "source": str(config.data.source),
            "dtype": "uint8",
            "steps_per_epoch": count // size,
        }
        | facts,
    )


def _shown(config: ConfigDict) -> tuple[int, int]:
    """Rows of the validation batch, and the seed that they are drawn by."""
    return int(config.data.validation_crops), int(config.seed)


def _check_form(
    batch_spec: Mapping[str, Any],
    channels: Mapping[str, int],
    derived: Mapping[str, Any],
    process_count: int,
    kind: str,
) -> None:
    """Checks what can be known before a slide is opened."""
    if derived:
        raise ValueError(
            f"the system asks for {sorted(derived)}, computed from neighbours; {kind} "
            "have none."
        )
    if set(batch_spec) != set(channels):
        raise ValueError(
            f"the system asks for {sorted(batch_spec)}; {kind} offer {list(channels)}."
        )
    rows, side, _, _ = batch_spec["image"].shape
    for name, own in channels.items():
        if tuple(batch_spec[name].shape) != (rows, side, side, own):
            raise ValueError(
                f"{kind}: {name} must be {[rows, side, side, own]}, the system asks for "
                f"{list(batch_spec[name].shape)}."
            )
    if rows % process_count:
        raise ValueError(
            f"a batch of {rows} rows cannot be shared by {process_count} processes."
        )


def _training_slides(config: ConfigDict, slides: Sequence[Slide]) -> list[Slide]:
    """The slides to train on."""
    synthetic = [slide.id for slide in slides if slide.synthetic]
    if synthetic:
        raise ValueError(
            f"{config.data.source}: {synthetic[:10]} are synthetic; a synthetic set is a "
            "folder of its own, config.data.synthetic."
        )
    training = [slide for slide in slides if slide.split == "train"]
    if not training:
        raise ValueError(
            f"{config.data.source}: none of {len(slides)} slides is in the list 'train' "
            "of splits.json or slides.csv."
        )
    return training


def _split_crops(config: ConfigDict, size: int) -> tuple[list[Slide], Crops, Parts]:
    """The crops of the training slides, and which of them are held out."""
    data = config.data
    slides = _training_slides(config, open_slides(config))
    rules = Rules(size, data.min_area, data.max_radius, data.max_cover)
    key = _digest(slides, data, Rules._fields[1:]) + f"-{size}"
    crops = gather_crops(slides, rules, _home(config, key))
    groups = [facts["group"] for facts in crops.meta]
    parts = hold_out(
        groups, data.split_unit, data.test_fraction, int(config.seed), "test"
    )
    return slides, crops, parts


def _no_cases(kind: str, why: str) -> NoReturn:
    raise ValueError(f"config.data.kind is '{kind}', which has no test cases: {why}.")


def _home(config: ConfigDict, digest: str) -> Path:
    return Path(config.data.cache_dir or default_cache_dir()) / "glomeruli" / digest


def _digest(slides: Sequence[Slide], data: ConfigDict, keys: Sequence[str]) -> str:
    """SHA-256 of slides, their labels and resolution, and of config keys."""
    facts = [
        (s.id, s.group, s.split, s.height, s.width, s.factor, s.digest, s.label_digest)
        for s in slides
    ]
    values = {key: data[key] for key in (*keys, "mask_threshold") if key != "size"}
    text = json.dumps([_VERSION, facts, values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
