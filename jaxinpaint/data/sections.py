"""Training batches and test cases of a stack of serial sections.

Sections are split, never pixels: no section held out for validation or test is a
training target or a training neighbour, and no test section a validation neighbour.
A batch is a pure function of the seed and the step, whatever the number of threads and
processes. Pixels stay integers here; they are scaled on the device.
"""

import itertools
import math
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import mask_sets, neighbors, phantoms
from jaxinpaint.data.cases import Batch, Case, RunData
from jaxinpaint.data.derived import Cache, compute, open_cache
from jaxinpaint.data.lost import lost_sections
from jaxinpaint.data.split import Sample, list_samples, split_sections
from jaxinpaint.data.stack import Stack, open_stack
from jaxinpaint.data.windows import View, Window, cut, read_damage

NAMES = ("image", "neighbor", "previous", "following", "mask")
TWELVE_BITS = 4095
_VALIDATION, _TEST = 2, 3  # third words of seeds; training batches have two words


class _Crop(NamedTuple):
    """A test window before it has a hole."""

    name: str
    sample: Sample
    window: Window


def build(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_index: int = 0,
    process_count: int = 1,
    derived: Mapping[str, Any] = MappingProxyType({}),
) -> RunData:
    """Opens and splits the stack that a config names.

    Reads `config.seed`, `config.channels`, `config.mask`; of `config.data` source
    ("phantom" or a path), cache_dir, max_pixels, split, validation_fraction,
    test_fraction, spacing (how many sections away the neighbours are),
    neighbor ("psnr", or "random": either side for each crop),
    validation_crops, phantom, damage (a folder of masks named like the sections, ""
    for none), flag_lost (whether to look for lost sections, R41) and largest_shift (px
    that the neighbours of a derived section may lie apart, 0 for any); of
    `config.eval` crop_size (0 = whole sections), crops_per_section, masks and seed.

    Damaged sections are targets nowhere and no training neighbours; lost sections are
    damaged in every pixel, so that none is read anywhere. Targets of a system that asks
    for `previous`, `following` or what is derived have both; so have all others where
    `config.data.both_neighbors` asks it, to be scored on the same sections. Derived sections are
    computed for the targets that are read: those of training by the first batch, of
    validation here, of test by the first case.

    Args:
      config: as above; every key must be there.
      batch_spec: shapes of the global batch, by name.
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.
      derived: recipes of what is computed once for each section, by its name in the
        batch, as `open_cache` takes them.

    Returns:
      The data.

    Raises:
      MissingNeighborError: fewer than two sections, or no pair within training.
      NeighborLeakError: two adjacent sections are equal.
      ValueError: a config value, a size or a channel count that does not fit, or a
        damage mask without section.

    Source: CCPGAN sections III and IV, R34, R35, R37.
    """
    data = config.data
    _check_form(config, batch_spec, process_count, derived)
    rows, size = batch_spec["image"].shape[:2]
    seed = int(config.seed)  # whatever becomes of the config later
    source = data.source
    if source == "phantom":
        source = phantoms.tissue(**data.phantom.to_dict())
    stack = open_stack(source, data.cache_dir, data.max_pixels)
    spacing = data.spacing
    caches = {
        name: open_cache(stack, recipe, spacing)
        for name, recipe in derived.items()
        if name in batch_spec
    }
    volume, damage = np.asarray(stack.sections), read_damage(data.damage, stack)
    _check_sections(config, size, volume)
    lost = lost_sections(volume) if data.flag_lost else ()
    everywhere = np.ones((*volume.shape[1:3], 1), np.uint8)
    view = View(
        volume,
        damage | dict.fromkeys(lost, everywhere),
        config.channels,
        spacing,
        {name: np.asarray(cache.sections) for name, cache in caches.items()},
    )
    prepare = _preparer(caches, view, data.largest_shift)
    both = data.both_neighbors or bool(
        {"previous", "following", *caches} & set(batch_spec)
    )
    sound = [z for z in range(len(stack.names)) if z not in view.damage]
    split = split_sections(
        sound, data.split, data.validation_fraction, data.test_fraction, seed
    )

    # Assumption: a training hole may lie anywhere, so a damaged section is no
    # training neighbour at all; R35 asks it only where its damage meets the hole.
    training = list_samples(split.training, split.training, view.damage, both, spacing)
    if not training:
        raise neighbors.MissingNeighborError(
            f"{data.source}: none of the {len(split.training)} training sections has "
            f"{'both neighbours' if both else 'a neighbour'} among them; split in a "
            "block, hold out less, or give more sections."
        )

    def held_out(part: tuple[int, ...], allowed: set[int]) -> tuple[Sample, ...]:
        inside = part if data.split == "block" else allowed
        return list_samples(part, inside, view.damage, both, spacing) or list_samples(
            part, allowed, view.damage, both, spacing
        )

    everything = set(range(len(stack.names)))
    # Validation chooses the checkpoint, so it reads no test section either.
    checked = held_out(split.validation, everything - set(split.test))
    tested = held_out(split.test, everything)
    whole = (0, 0, *view.volume.shape[1:3])
    choices = [view.choose(sample, whole, None) for sample in training]
    sides = _sides(training, choices, data.neighbor)
    targets = np.array([sample.target for sample in training])
    names = [n for n in (*NAMES, *caches) if n in batch_spec and n != "mask"]
    draw_masks = mask_sets.training_masks(config.mask, size, seed)
    room = np.array(view.volume.shape[1:3]) - size + 1

    def batch(step: int) -> Batch:
        prepare("training", targets.tolist())
        rng = np.random.default_rng([seed, step])
        row = rng.integers(len(targets), size=rows)
        corner = rng.integers(room, size=(rows, 2))
        guide = sides[row, rng.integers(2, size=rows)]
        mask = draw_masks(rng, rows)
        mine = slice(
            rows * process_index // process_count,
            rows * (process_index + 1) // process_count,
        )
        z = targets[row]
        got = cut(view, names, z[mine], guide[mine], corner[mine], size)
        return {**got, "mask": mask[mine]}

    def validation() -> Batch:
        samples, count = checked or training, data.validation_crops
        rng = np.random.default_rng([seed, 0, _VALIDATION])
        row = rng.integers(len(samples), size=count)
        corner = rng.integers(room, size=(count, 2))
        mask = draw_masks(rng, count)
        z = np.array([samples[r].target for r in row])
        prepare("validation", z.tolist())
        windows = [(top, left, size, size) for top, left in corner.tolist()]
        guide = [
            view.choose(samples[r], window, hole).position
            for r, window, hole in zip(row, windows, mask, strict=True)
        ]
        return {**cut(view, names, z, np.array(guide), corner, size), "mask": mask}

    def test_cases() -> Iterator[Case]:
        if not tested:
            raise ValueError(
                f"{data.source}: no section is held out for test; raise "
                "config.data.test_fraction."
            )
        prepare("test", [sample.target for sample in tested])
        crops = _test_crops(config, view, tested)
        _, _, height, width = crops[0].window
        holes = mask_sets.evaluation_masks(
            config.eval.masks, height, width, len(crops), config.eval.seed
        )
        for label, index, hole in holes:
            yield _case(stack, view, crops[index], label, hole, split.training)

    seen = set(split.training)
    used = [choice.psnr for choice in choices if math.isfinite(choice.psnr)]
    return RunData(
        batch=batch,
        train=lambda first: (batch(step) for step in itertools.count(first)),
        validation=validation(),
        test_cases=test_cases,
        summary={
            "source": str(data.source),
            "digest": stack.digest,
            "kind": "sections",
            "shape": list(view.volume.shape),
            "dtype": str(view.volume.dtype),
            "split": {k: list(v) for k, v in split._asdict().items()},
            "damaged": sorted(damage),
            "lost": list(lost),
            "training_targets": targets.tolist(),
            "training_neighbors": [choice.position for choice in choices],
            "training_neighbor_distance": spacing,
            "training_neighbor_psnr": float(np.mean(used)) if used else None,
            "validation_from": "validation" if checked else "training",
            "validation_targets": [sample.target for sample in checked],
            "test_targets": [sample.target for sample in tested],
            "test_targets_beside_training": [
                s.target for s in tested if seen & set(s.candidates)
            ],
            "derived": {name: derived[name].digest for name in caches},
        },
    )


def _check_form(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    process_count: int,
    derived: Collection[str],
) -> None:
    """Checks what can be known before the stack is opened."""
    offered = [*NAMES, *derived]
    if not {"image", "mask"} <= set(batch_spec) <= set(offered):
        raise ValueError(
            f"the system asks for {sorted(batch_spec)}; sections offer {offered}, "
            "image and mask among them always."
        )
    rows, height, width, channels = batch_spec["image"].shape
    if height != width:
        raise ValueError(f"training crops are square, got {height} x {width}.")
    if channels != config.channels or channels not in (1, 3):
        raise ValueError(
            f"config.channels is {config.channels} and the system's image has "
            f"{channels}; both must be 1, or both 3."
        )
    if rows % process_count:
        raise ValueError(
            f"a batch of {rows} rows cannot be shared by {process_count} processes."
        )
    if config.eval.crops_per_section < 1:
        raise ValueError(
            f"config.eval.crops_per_section is {config.eval.crops_per_section}; "
            "it must be 1 or more."
        )
    if config.data.spacing < 1:
        raise ValueError(
            f"config.data.spacing is {config.data.spacing}; it must be 1 or more."
        )
    if config.data.neighbor not in ("psnr", "random"):
        raise ValueError(
            f"config.data.neighbor is '{config.data.neighbor}'; "
            "it is 'psnr' or 'random'."
        )


def _check_sections(config: ConfigDict, size: int, volume: np.ndarray) -> None:
    """Checks that the sections hold the crops, channels and levels asked for."""
    _, height, width, channels = volume.shape
    if channels > config.channels:
        raise ValueError(
            f"config.channels is {config.channels}, but {config.data.source} is in "
            "colour; set it to 3, or convert the sections to grey."
        )
    if volume.dtype == np.uint16 and (highest := int(volume.max())) <= TWELVE_BITS:
        raise ValueError(
            f"{config.data.source}: sections must be uint8, or uint16 of the full "
            f"range; got uint16 with maximum {highest}. Rescale explicitly, e.g. with "
            "percentile limits."
        )
    sides = {"training": size, "config.eval.crop_size": config.eval.crop_size}
    for what, side in sides.items():
        if side > min(height, width):
            raise ValueError(
                f"{what} needs crops of {side} x {side}, but the sections of "
                f"{config.data.source} are {height} x {width}; nothing is resized."
            )


def _preparer(
    caches: Mapping[str, Cache], view: View, largest_shift: int
) -> Callable[[str, list[int]], None]:
    """Makes (part, positions) -> None, which computes what is derived, once a part."""
    lock, ready = threading.Lock(), set[str]()

    def prepare(part: str, positions: list[int]) -> None:
        with lock:
            if part in ready:
                return
            for cache in caches.values():
                compute(cache, view.volume, positions, largest_shift)
            ready.add(part)

    return prepare


def _sides(
    samples: Sequence[Sample], choices: Sequence[neighbors.Choice], how: str
) -> np.ndarray:
    """Two guides for each target, of which a crop draws one; int [targets, 2]."""
    if how == "psnr":  # R35: once per section, over the whole image
        return np.array([[choice.position] * 2 for choice in choices])
    return np.array([[s.candidates[0], s.candidates[-1]] for s in samples])


def _test_crops(
    config: ConfigDict, view: View, samples: Sequence[Sample]
) -> list[_Crop]:
    """Seeded windows, `crops_per_section` of each test section in turn."""
    count, size = config.eval.crops_per_section, np.array(view.volume.shape[1:3])
    side = np.array([config.eval.crop_size] * 2) if config.eval.crop_size else size
    height, width = side.tolist()
    digits = max(len(str(len(view.volume) - 1)), 2)
    rng = np.random.default_rng([config.eval.seed, 0, _TEST])
    corners = rng.integers(size - side + 1, size=(len(samples), count, 2)).tolist()
    return [
        _Crop(
            f"section_{sample.target:0{digits}d}_crop_{crop:02d}",
            sample,
            (top, left, height, width),
        )
        for sample, places in zip(samples, corners, strict=True)
        for crop, (top, left) in enumerate(places)
    ]


def _case(
    stack: Stack,
    view: View,
    crop: _Crop,
    label: str,
    hole: np.ndarray,
    training: Sequence[int],
) -> Case:
    z, window = crop.sample.target, crop.window
    chosen = view.choose(crop.sample, window, hole).position

    def beside(at: int) -> np.ndarray | None:
        if not 0 <= at < len(stack.names):
            return None
        hurt = view.hurt(at, window)
        if hurt is not None and (hurt & hole).any():
            return None
        return view.pixels(at, window)

    return Case(
        name=crop.name,
        label=label,
        image=view.pixels(z, window),
        neighbor=view.pixels(chosen, window),
        previous=beside(z - view.spacing),
        following=beside(z + view.spacing),
        mask=hole,
        neighbor_name=stack.names[chosen],
        neighbor_in_training=chosen in training,
        derived={name: view.pixels(z, window, name) for name in view.derived},
    )
