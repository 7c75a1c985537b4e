"""A stack of serial sections as a TFDS data set, in array_record files."""

import contextlib
import io
import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxinpaint.data import images

SPLIT = "sections"


class SerialSections(tfds.core.GeneratorBasedBuilder):
    """One stack: the split `sections` holds a PNG and a name each, in axial order.

    Features: `image` uint8 [H, W, 1 or 3] or uint16 [H, W, 1], `name` text and
    `position` int64, counted from 0. The finished folder opens without this code:
    `tfds.builder_from_directory(path)`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "PNG sections in axial order."}
    # TFDS would look beside this file for checksums of downloads, with
    # importlib_resources, which it needs from Python 3.11 on but does not install.
    code_path = None

    def __init__(
        self,
        *,
        sections: Iterable[tuple[str, np.ndarray]],
        shape: tuple[int, int, int],
        dtype: np.dtype,
        **kwargs: Any,
    ):
        """Takes the sections; other arguments are those of every TFDS builder.

        Args:
          sections: (name, uint8 or uint16 [H, W, C]) in axial order, read once.
          shape: of every section.
          dtype: of every section.
          **kwargs: data_dir, file_format and so on.
        """
        self._sections, self._shape, self._dtype = sections, shape, dtype
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(
            shape=self._shape, dtype=self._dtype, encoding_format="png"
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Serial sections of one block of tissue, in axial order.",
            features=tfds.features.FeaturesDict(
                {"image": image, "name": tfds.features.Text(), "position": np.int64}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, (name, pixels) in enumerate(self._sections):
            png = io.BytesIO(images.encode_png(pixels))
            yield position, {"image": png, "name": name, "position": position}


def write_sections(
    sections: Iterable[tuple[str, np.ndarray]], data_dir: str | Path
) -> Path:
    """Writes a stack as a TFDS data set; TensorFlow is not needed.

    Args:
      sections: (name, uint8 or uint16 [H, W, C]) in axial order. It is read once
        and one section at a time.
      data_dir: the folder to hold `serial_sections/1.0.0`.

    Returns:
      The prepared folder, which `tfds.builder_from_directory` opens.

    Raises:
      ValueError: no section, sections of different size, channels or bits (both are
        named), or 16-bit colour.
    """
    rest = expect_alike(sections)
    first = next(rest, None)
    if first is None:
        raise ValueError("a stack needs sections, got none.")
    builder = SerialSections(
        sections=itertools.chain([first], rest),
        shape=first[1].shape,
        dtype=first[1].dtype,
        data_dir=str(data_dir),
        file_format="array_record",
    )
    return prepare(builder)


def prepare(builder: tfds.core.DatasetBuilder) -> Path:
    """Writes what a builder generates, without a word; returns the folder."""
    tfds.disable_progress_bar()
    try:
        # It speaks of a download, and makes a folder for one.
        with contextlib.redirect_stdout(None), tempfile.TemporaryDirectory() as empty:
            builder.download_and_prepare(download_dir=empty)
    finally:
        tfds.enable_progress_bar()
    return Path(builder.data_path)


def find_prepared(source: str | Path, dataset: str = "serial_sections") -> Path | None:
    """Finds a prepared data set in a folder or in `<dataset>/*` below it.

    Returns:
      The folder with `dataset_info.json`, or None if there is none.

    Raises:
      ValueError: there are several versions below it.
    """
    source = Path(source)
    if (source / "dataset_info.json").is_file():
        return source
    found = sorted(source.glob(f"{dataset}/*/dataset_info.json"))
    if len(found) > 1:
        raise ValueError(f"{source}: holds {len(found)} versions; name one of them.")
    return found[0].parent if found else None


def open_prepared(path: str | Path) -> Sequence[dict[str, Any]]:
    """Opens a prepared data set; its images stay PNG bytes.

    Raises:
      ValueError: the folder is damaged or is no stack of serial sections.
    """
    try:
        return tfds.builder_from_directory(str(path)).as_data_source(
            split=SPLIT, decoders={"image": tfds.decode.SkipDecoding()}
        )
    except Exception as error:  # readers raise many types at damaged folders
        raise ValueError(
            f"{path}: is no data set of serial sections in array_record: {error}"
        ) from error


def read_prepared(
    path: str | Path, max_pixels: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Reads a prepared data set, one section after the other in axial order.

    Args:
      path: the folder with `dataset_info.json`.
      max_pixels: height * width above which a section is refused undecoded.

    Yields:
      The name and uint8 or uint16 [H, W, C].

    Raises:
      ValueError: the folder is damaged or is no stack of serial sections.
    """
    source = open_prepared(path)
    for index in range(len(source)):
        try:
            record = source[index]
            position, name = int(record["position"]), record["name"].decode()
            png = bytes(record["image"])
        except Exception as error:  # as above
            raise ValueError(f"{path}: record {index} is damaged: {error}") from error
        if position != index:
            raise ValueError(f"{path}: record {index} is section {position}.")
        yield name, images.decode_image(io.BytesIO(png), f"{path}: {name}", max_pixels)


def expect_alike(
    sections: Iterable[tuple[str, np.ndarray]],
) -> Iterator[tuple[str, np.ndarray]]:
    """Passes sections on while all have the size and pixels of the first.

    Raises:
      ValueError: one differs; both are named.
    """
    form = first = None
    for name, pixels in sections:
        this = f"{pixels.dtype} {list(pixels.shape)}"
        if form is None:
            form, first = this, name
        if this != form:
            raise ValueError(
                f"sections differ: {first} is {form}, {name} is {this}; "
                "one stack has one size and one kind of pixel."
            )
        yield name, pixels
