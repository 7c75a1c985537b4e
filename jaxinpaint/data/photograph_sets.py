"""The public sets of photographs as TFDS prepares them, and how each set is split.

Nothing is downloaded here: a set that is not prepared ends in an error with the command
that prepares it. Its records are read one by one from array_record files.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from jaxinpaint.data import images
from jaxinpaint.data.builders.photographs import DATASET
from jaxinpaint.data.builders.sections import find_prepared
from jaxinpaint.data.split import Split

PREFIX = "tfds:"
PAPER_SEED = 0  # RNON 5.1: of the named sets, whatever the seed of the run
CELEBA_SPLITS = ("official", "random_80_20")
_TRAINING, _TEST = 0, 1  # second words of the named sets' seeds
_SPLIT = 1  # third word of the others', as of sections


class PreparedSet(NamedTuple):
    """A prepared data set with pictures under "image".

    Attributes:
      name: "celeb_a"; "coco" whatever its configuration.
      sizes: pictures by split, in the order of `position`.
      shape: [H, W, C] of all pictures, or None where sizes differ.
      read: position -> uint8 or uint16 [H, W, C]; positions go through the splits
        one after the other.
      digest: SHA-256 in hex of its description and of the names and lengths of its
        files.
    """

    name: str
    sizes: dict[str, int]
    shape: tuple[int, int, int] | None
    read: Callable[[int], np.ndarray]
    digest: str


def find_set(source: str | Path) -> Path | None:
    """Finds a prepared data set.

    Args:
      source: "tfds:celeb_a", "tfds:coco/2017", with a version behind it or without,
        below TFDS_DATA_DIR or else ~/tensorflow_datasets; or a prepared folder, or one
        that `builders.photographs.write_photographs` wrote to.

    Returns:
      The folder with `dataset_info.json`; None if `source` is no "tfds:" name and no
      such folder.

    Raises:
      FileNotFoundError: the named set is not prepared; the message says how to.
      ValueError: it is no name, or several versions are prepared.
    """
    text = str(source)
    if not text.startswith(PREFIX):
        return find_prepared(source, DATASET)
    name = text.removeprefix(PREFIX)
    if not re.fullmatch(r"\w+(/\w[\w.]*)*", name):
        raise ValueError(
            f"config.data.source is '{text}'; it is written like tfds:celeb_a or "
            "tfds:coco/2017."
        )
    home = Path(os.environ.get("TFDS_DATA_DIR") or Path.home() / "tensorflow_datasets")
    if (home / name / "dataset_info.json").is_file():
        return home / name
    versions = sorted((home / name).glob("*/dataset_info.json"))
    if len(versions) > 1:
        listed = [str(path.parent.relative_to(home)) for path in versions]
        raise ValueError(f"{text}: {listed} are prepared; name one of them.")
    if not versions:
        raise FileNotFoundError(
            f"{text}: no such data set is prepared in {home}; prepare it once with "
            f"`{_command(name, home)}`, which downloads it, or set TFDS_DATA_DIR to "
            "where it is, or give the prepared folder as config.data.source."
        )
    return versions[0].parent


def _command(name: str, home: Path) -> str:
    return f"tfds build {name} --data_dir={home} --file_format=array_record"


def open_set(path: Path, max_pixels: int) -> PreparedSet:
    """Opens a prepared data set.

    Args:
      path: the folder with `dataset_info.json`.
      max_pixels: height * width above which a picture is refused undecoded.

    Returns:
      The set.

    Raises:
      ValueError: the folder is damaged, its files are not array_record, or it has no
        feature "image" of pictures; `read` raises it of a damaged record.
    """
    try:
        builder = tfds.builder_from_directory(str(path))
        feature = dict(builder.info.features or {}).get("image")
        sizes = {k: v.num_examples for k, v in builder.info.splits.items()}
    except Exception as error:  # readers raise many types at damaged folders
        raise ValueError(
            f"{path}: is no data set that TFDS prepared: {error}"
        ) from error
    if not isinstance(feature, tfds.features.Image):
        raise ValueError(
            f"{path}: a picture is needed under 'image'; its features are "
            f"{sorted(builder.info.features or {})}."
        )
    raw = {
        name: tfds.decode.SkipDecoding()
        for name, one in dict(builder.info.features).items()
        if isinstance(one, tfds.features.Image)
    }
    try:
        sources = [builder.as_data_source(split=k, decoders=raw) for k in sizes]
    except NotImplementedError as error:
        raise ValueError(
            f"{path}: is not prepared in array_record; prepare it again in another "
            f"folder with `{_command(builder.name, Path('DIR'))}`."
        ) from error
    ends = np.cumsum(list(sizes.values()))

    def read(position: int) -> np.ndarray:
        part = int(np.searchsorted(ends, position, "right"))
        source = sources[part]
        index = position - int(ends[part]) + len(source)
        where = f"{path}: record {index} of {list(sizes)[part]}"
        try:
            data = bytes(source[index]["image"])
        except Exception as error:  # as above
            raise ValueError(f"{where} is damaged: {error}") from error
        return images.decode_image(io.BytesIO(data), where, max_pixels)

    shape = feature.shape
    return PreparedSet(
        name=builder.name,
        sizes=sizes,
        shape=None if None in shape else shape,
        read=read,
        digest=_digest(path),
    )


def _digest(path: Path) -> str:
    """The records may be hundreds of gigabytes, so their bytes are not read."""
    total = hashlib.sha256()
    for file in sorted(p for p in path.iterdir() if p.is_file()):
        total.update(f"{file.name}\0{os.path.getsize(file)}\0".encode())
        if file.suffix == ".json":
            total.update(file.read_bytes())
    return total.hexdigest()


def split_pictures(
    count: int,
    validation_fraction: float,
    test_fraction: float,
    limit_train: int,
    limit_test: int,
    seed: int,
) -> Split:
    """Splits pictures that come as one heap, by a seeded permutation.

    Args:
      count: pictures.
      validation_fraction: of all, rounded, at least one unless 0.
      test_fraction: of all, likewise.
      limit_train: training pictures to keep; 0 for all.
      limit_test: test pictures to keep; 0 for all.
      seed: of the permutation.

    Returns:
      The split; disjoint.

    Raises:
      ValueError: fewer than three pictures, none left for training, a fraction outside
        [0, 1) or a negative limit.
    """
    _check(validation_fraction, test_fraction, limit_train, limit_test)
    if count < 3:
        raise ValueError(
            f"split: {count} picture(s); at least 3 are needed, one each to train, to "
            "validate and to test."
        )
    order = np.random.default_rng([seed, 0, _SPLIT]).permutation(count)
    tested = _held(test_fraction, count)
    return _parts(
        order[tested:],
        order[:tested],
        _held(validation_fraction, count),
        limit_train,
        limit_test,
    )


def split_set(
    name: str,
    sizes: Mapping[str, int],
    *,
    celeba_split: str,
    validation_fraction: float,
    test_fraction: float,
    limit_train: int,
    limit_test: int,
    seed: int,
) -> Split:
    """Splits a prepared set; the sets of the paper as RNON 5.1 does.

      places365_small  training of `train`, test of `validation`
      celeb_a          "official": training of `train` and `validation`, test of `test`;
                       "random_80_20": 80 % of all, and the rest
      coco             80 % of `train` and `validation`, and the rest
      others           training of `train`, test of `test` or else of `validation`;
                       without these splits all as `split_pictures`

    Each part is the beginning of a seeded permutation, of seed 0 in the sets of the
    paper. Validation pictures are those that follow training's, so that `limit_train`
    is met where the set is large enough; training gives some up where it is not.

    Args:
      name: of the set, without its configuration.
      sizes: pictures by split, in the order of positions.
      celeba_split: as above.
      validation_fraction: of the training pictures, rounded, at least one unless 0.
      test_fraction: of sets without splits.
      limit_train: training pictures to keep; 0 for all.
      limit_test: test pictures to keep; 0 for all.
      seed: of the permutations of other sets.

    Returns:
      Positions through the splits one after the other; disjoint.

    Raises:
      ValueError: another `celeba_split`, a split that is missing or empty, or as
        `split_pictures`.

    Source: RNON specification 5.1.
    """
    if celeba_split not in CELEBA_SPLITS:
        raise ValueError(
            f"config.data.celeba_split must be one of {list(CELEBA_SPLITS)}, got "
            f"'{celeba_split}'."
        )
    _check(validation_fraction, test_fraction, limit_train, limit_test)
    starts = dict(zip(sizes, np.cumsum([0, *sizes.values()]).tolist(), strict=False))

    def positions(*splits: str) -> np.ndarray:
        missing = [split for split in splits if not sizes.get(split)]
        if missing:
            raise ValueError(
                f"{name}: the splits {missing} are missing or empty; it has "
                f"{dict(sizes)}. Prepare it again."
            )
        return np.concatenate(
            [starts[split] + np.arange(sizes[split]) for split in splits]
        )

    known = {
        "places365_small": (("train",), ("validation",)),
        "celeb_a": (("train", "validation"), ("test",)),
        "coco": (("train", "validation"), ()),
    }
    if name == "celeb_a" and celeba_split == "random_80_20":
        known[name] = (("train", "validation", "test"), ())
    if name in known:
        seed = PAPER_SEED
        training, test = known[name]
    elif "train" in sizes and {"test", "validation"} & set(sizes):
        training, test = ("train",), ("test" if "test" in sizes else "validation",)
    else:
        return split_pictures(
            sum(sizes.values()),
            validation_fraction,
            test_fraction,
            limit_train,
            limit_test,
            seed,
        )
    pool = _permuted(positions(*training), seed, _TRAINING)
    if test:
        tested = _permuted(positions(*test), seed, _TEST)
    else:
        keep = len(pool) * 4 // 5
        pool, tested = pool[:keep], pool[keep:]
    wanted = min(limit_train or len(pool), len(pool))
    held = _held(validation_fraction, wanted)
    return _parts(pool, tested, held, limit_train, limit_test)


def _permuted(positions: np.ndarray, *seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(positions)


def _check(
    validation_fraction: float, test_fraction: float, limit_train: int, limit_test: int
) -> None:
    fractions = (validation_fraction, test_fraction)
    if not all(0.0 <= f < 1.0 for f in fractions):
        raise ValueError(f"split: fractions must be in [0, 1), got {fractions}.")
    if min(limit_train, limit_test) < 0:
        raise ValueError(
            f"config.data.limit_train is {limit_train} and limit_test {limit_test}; "
            "they are 0, for all, or more."
        )


def _held(fraction: float, count: int) -> int:
    return max(round(fraction * count), 1 if fraction else 0)


def _parts(
    pool: np.ndarray, tested: np.ndarray, held: int, limit_train: int, limit_test: int
) -> Split:
    """Training and the `held` pictures after it from the pool, each part sorted."""
    keep = min(limit_train or len(pool), len(pool) - held)
    if keep < 1:
        raise ValueError(
            f"split: {len(pool) + len(tested)} pictures less {len(tested)} for test and "
            f"{held} for validation leave none for training."
        )
    parts: Sequence[np.ndarray] = (
        pool[:keep],
        pool[keep : keep + held],
        tested[: limit_test or len(tested)],
    )
    return Split(*(tuple(np.sort(part).tolist()) for part in parts))
