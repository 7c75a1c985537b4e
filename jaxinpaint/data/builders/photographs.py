"""Pictures of any size as a TFDS data set, in array_record files."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxinpaint.data import images
from jaxinpaint.data.builders.sections import prepare

DATASET = "pictures"
SPLIT = "pictures"  # whoever reads them splits them by a seed


class Pictures(tfds.core.GeneratorBasedBuilder):
    """One heap of pictures: the split `pictures` holds a PNG and a name each.

    Features: `image` uint8 [H, W, 1 or 3] or uint16 [H, W, 1], with H and W where all
    pictures share them, and `name` text. The finished folder opens without this code:
    `tfds.builder_from_directory(path)`.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "PNG pictures."}
    # TFDS would look beside this file for checksums of downloads, with
    # importlib_resources, which it needs from Python 3.11 on but does not install.
    code_path = None

    def __init__(
        self,
        *,
        pictures: Iterable[tuple[str, np.ndarray]],
        shape: tuple[int | None, int | None, int],
        dtype: np.dtype,
        **kwargs: Any,
    ):
        """Takes the pictures, read once; other arguments as every TFDS builder."""
        self._pictures, self._shape, self._dtype = pictures, shape, dtype
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(
            shape=self._shape, dtype=self._dtype, encoding_format="png"
        )
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pictures, in the order of their names.",
            features=tfds.features.FeaturesDict(
                {"image": image, "name": tfds.features.Text()}
            ),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing is downloaded
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for position, (name, pixels) in enumerate(self._pictures):
            png = io.BytesIO(images.encode_png(pixels))
            yield position, {"image": png, "name": name}


def write_photographs(
    pictures: Iterable[tuple[str, np.ndarray]],
    data_dir: str | Path,
    *,
    shape: tuple[int | None, int | None, int],
    dtype: np.dtype,
) -> Path:
    """Writes pictures as a TFDS data set; TensorFlow is not needed.

    Args:
      pictures: (name, uint8 or uint16 [H, W, C]), read once and one at a time; grey is
        repeated where `shape` has three channels.
      data_dir: the folder to hold `pictures/1.0.0`.
      shape: of every picture; None where heights or widths differ.
      dtype: of every picture.

    Returns:
      The prepared folder, which `tfds.builder_from_directory` opens.

    Raises:
      ValueError: a picture that is not as `shape` and `dtype` say; it is named.
    """
    builder = Pictures(
        pictures=_as_declared(pictures, shape, np.dtype(dtype)),
        shape=shape,
        dtype=dtype,
        data_dir=str(data_dir),
        file_format="array_record",
    )
    return prepare(builder)


def _as_declared(
    pictures: Iterable[tuple[str, np.ndarray]],
    shape: tuple[int | None, ...],
    dtype: np.dtype,
) -> Iterator[tuple[str, np.ndarray]]:
    # The PNG is handed over encoded, so TFDS itself compares nothing.
    for name, pixels in pictures:
        if pixels.shape[-1] == 1 and shape[-1] == 3:
            pixels = np.repeat(pixels, 3, axis=-1)
        alike = all(
            want in (None, got) for want, got in zip(shape, pixels.shape, strict=True)
        )
        if not alike or pixels.dtype != dtype:
            raise ValueError(
                f"{name} is {pixels.dtype} {list(pixels.shape)}, but the set was to hold "
                f"{dtype} {list(shape)}."
            )
        yield name, pixels
