"""Training batches and test cases of pictures that have no neighbours.

A batch is a pure function of the seed and the step, whatever the number of threads and
processes, and reads the pictures of its own rows alone. Pixels stay integers here; they
are scaled on the device.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data import mask_sets
from jaxinpaint.data.cases import Batch, Case, RunData

NAMES = ("image", "mask")
_VALIDATION, _TEST = 2, 3  # third words of seeds; training batches have two words
_LISTED = 10_000  # positions of a part of the split that the summary lists
_LONGEST = 100  # characters of a picture's name in the names of its cases


class ImageSet(NamedTuple):
    """Pictures that are read one by one, and which of them serve for what.

    Attributes:
      names: one a picture; unique.
      read: position -> uint8 or uint16 [H, W, C], C 1 or 3. Threads share it, and
        what it returns is not written to. All pictures have one dtype and one C;
        sizes may differ.
      training: positions of the pictures that are trained on.
      validation: of those that choose the checkpoint; may be empty.
      test: of those that are scored; may be empty.
      digest: of what the pictures are made from.
      facts: plain values that join the run's summary, and replace those of one name;
        `shape`, [N, H, W, C], where all pictures are known to have one size.
    """

    names: Sequence[str]
    read: Callable[[int], np.ndarray]
    training: tuple[int, ...]
    validation: tuple[int, ...]
    test: tuple[int, ...]
    digest: str
    facts: dict[str, Any]


def run_data(
    config: ConfigDict,
    batch_spec: Mapping[str, Any],
    images: ImageSet,
    process_index: int,
    process_count: int,
) -> RunData:
    """Cuts batches and test cases out of pictures without neighbours.

    Reads `config.seed`, `config.channels`, `config.mask`; of `config.data` kind, source
    (for the summary), validation_crops and hflip (whether half of the training windows
    are turned left to right); of `config.eval` crop_size (0 = whole pictures),
    crops_per_image, masks and seed.

    Args:
      config: as above; every key must be there.
      batch_spec: shapes of the global batch, by name: image and mask.
      images: the pictures.
      process_index: which rows of the global batch are wanted.
      process_count: how many processes share it.

    Returns:
      The data. Grey is repeated where `config.channels` is 3.

    Raises:
      ValueError: a config value or a size that does not fit; no training picture; a
        picture in two parts of the split; when it is read, a picture that is too
        small or differs from the others in dtype or channels.
    """
    _check_form(config, batch_spec, process_count)
    _check_split(images)
    rows, size = batch_spec["image"].shape[:2]
    if "shape" in images.facts:
        _check_sides(config, size, images.facts["shape"])
    seed, channels = int(config.seed), int(config.channels)
    hflip = bool(config.data.hflip)
    first = images.read((images.test or images.training)[0])
    form = (first.dtype, first.shape[-1])

    def window(at: int, place: np.ndarray, side: int) -> np.ndarray:
        """The window whose corner is at these parts, in [0, 1), of its room."""
        pixels = images.read(at)
        _check_picture(images.names[at], pixels, form, channels, side)
        room = np.array(pixels.shape[:2]) - side + 1
        top, left = (place * room).astype(int)
        return pixels[top : top + side, left : left + side]

    def cut(positions: np.ndarray, places: np.ndarray, flips: np.ndarray) -> np.ndarray:
        block = np.empty((len(positions), size, size, channels), form[0])
        for out, at, place, flip in zip(
            block, positions.tolist(), places, flips, strict=True
        ):
            out[...] = window(at, place, size)[:, :: -1 if flip else 1]
        return block

    draw_masks = mask_sets.training_masks(config.mask, size, seed)
    training = np.array(images.training)
    mine = slice(
        rows * process_index // process_count,
        rows * (process_index + 1) // process_count,
    )

    def batch(step: int) -> Batch:
        rng = np.random.default_rng([seed, step])
        positions = training[rng.integers(len(training), size=rows)]
        places = rng.random((rows, 2))
        flips = (rng.random(rows) < 0.5) & hflip  # drawn in any case: same windows
        mask = draw_masks(rng, rows)
        return {
            "image": cut(positions[mine], places[mine], flips[mine]),
            "mask": mask[mine],
        }

    def validation() -> Batch:
        pool, count = images.validation or images.training, config.data.validation_crops
        rng = np.random.default_rng([seed, 0, _VALIDATION])
        positions = np.array(pool)[rng.integers(len(pool), size=count)]
        places = rng.random((count, 2))
        mask = draw_masks(rng, count)
        return {"image": cut(positions, places, np.zeros(count, bool)), "mask": mask}

    def test_cases() -> Iterator[Case]:
        if not images.test:
            raise ValueError(
                f"{config.data.source}: no picture is held out for test; raise "
                "config.data.test_fraction."
            )
        side, count = config.eval.crop_size, config.eval.crops_per_image
        height, width = (side, side) if side else _whole_size(images)
        names = _case_names(images, count)
        rng = np.random.default_rng([config.eval.seed, 0, _TEST])
        places = rng.random((len(images.test), count, 2))
        holes = mask_sets.evaluation_masks(
            config.eval.masks, height, width, len(names), config.eval.seed
        )
        for label, index, hole in holes:
            picture, crop = divmod(index, count)
            at = images.test[picture]
            if side:
                pixels = window(at, places[picture, crop], side)
            else:
                pixels = images.read(at)
                _check_picture(images.names[at], pixels, form, channels, 1)
            full = np.repeat(pixels, channels // pixels.shape[-1], axis=-1)
            yield Case(name=names[index], label=label, image=full, mask=hole)

    sides = [config.eval.crop_size] * 2 if config.eval.crop_size else first.shape[:2]
    return RunData(
        batch=batch,
        train=lambda start: (batch(step) for step in itertools.count(start)),
        validation=validation(),
        test_cases=test_cases,
        summary={
            "source": str(config.data.source),
            "digest": images.digest,
            "kind": str(config.data.kind),
            "shape": [len(images.names), *sides, form[1]],
            "dtype": str(form[0]),
            "split": {
                "training": listed(images.training),
                "validation": listed(images.validation),
                "test": listed(images.test),
            },
            "validation_from": "validation" if images.validation else "training",
        }
        | images.facts,
    )


def _check_form(
    config: ConfigDict, batch_spec: Mapping[str, Any], process_count: int
) -> None:
    """Checks what can be known before a picture is read."""
    if set(batch_spec) != set(NAMES):
        raise ValueError(
            f"the system asks for {sorted(batch_spec)}; {config.data.kind} offer "
            f"{list(NAMES)} and have no neighbours."
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
    least = {"crop_size": 0, "crops_per_image": 1}
    for key, low in least.items():
        if config.eval[key] < low:
            raise ValueError(
                f"config.eval.{key} is {config.eval[key]}; it must be {low} or more."
            )


def _check_split(images: ImageSet) -> None:
    """Checks that there is something to train on and that no picture serves twice."""
    parts = (images.training, images.validation, images.test)
    if not images.training:
        raise ValueError(
            f"none of the {len(images.names)} pictures is left for training; hold out "
            "less for validation and test, or give more pictures."
        )
    if len(set().union(*parts)) != sum(len(part) for part in parts):
        raise ValueError("split: a picture is in two of training, validation and test.")


def _check_sides(config: ConfigDict, size: int, shape: Sequence[int]) -> None:
    """Checks that pictures of one size hold the crops asked for."""
    _, height, width, _ = shape
    sides = {"training": size, "config.eval.crop_size": config.eval.crop_size}
    for what, side in sides.items():
        if side > min(height, width):
            raise ValueError(
                f"{what} needs crops of {side} x {side}, but the pictures of "
                f"{config.data.source} are {height} x {width}; nothing is resized here."
            )


def _check_picture(
    name: str,
    pixels: np.ndarray,
    form: tuple[np.dtype, int],
    channels: int,
    side: int,
) -> None:
    """Checks that a picture is as the first one and holds a window of this side."""
    height, width, own = pixels.shape
    if (pixels.dtype, own) != form:
        raise ValueError(
            f"{name} is {pixels.dtype} with {own} channels, the first picture is "
            f"{form[0]} with {form[1]}; one set has one kind of pixel."
        )
    if own > channels:
        raise ValueError(
            f"config.channels is {channels}, but {name} is in colour; set it to 3, or "
            "convert the pictures to grey."
        )
    if side > min(height, width):
        raise ValueError(
            f"{name} is {height} x {width}, but crops of {side} x {side} are asked "
            "for; nothing is resized here."
        )


def _whole_size(images: ImageSet) -> tuple[int, int]:
    """Height and width of all test pictures."""
    if "shape" in images.facts:
        _, height, width, _ = images.facts["shape"]
        return height, width
    first = None
    for at in images.test:
        height, width = images.read(at).shape[:2]
        first = first or (images.names[at], height, width)
        if first[1:] != (height, width):
            raise ValueError(
                f"config.eval.crop_size is 0, whole pictures, but {first[0]} is "
                f"{first[1]} x {first[2]} and {images.names[at]} is {height} x "
                f"{width}; set config.eval.crop_size to a size that all have."
            )
    assert first is not None
    return first[1:]


def _case_names(images: ImageSet, count: int) -> list[str]:
    """Names of the test windows that serve as file names, each unlike all others."""
    safe = [
        re.sub(r"[^A-Za-z0-9_.-]+|^\.", "_", images.names[at])[:_LONGEST]
        for at in images.test
    ]
    if len({name.lower() for name in safe}) < len(safe):
        safe = [f"{name}_{at}" for name, at in zip(safe, images.test, strict=True)]
    digits = max(len(str(count - 1)), 2)
    return [f"{name}_crop_{crop:0{digits}d}" for name in safe for crop in range(count)]


def listed(positions: Sequence[int]) -> list[int] | dict[str, Any]:
    """A part of a split as the summary holds it; a long one as count and digest."""
    if len(positions) <= _LISTED:
        return list(positions)
    text = ",".join(map(str, positions))
    return {
        "count": len(positions),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
