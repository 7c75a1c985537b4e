"""What was invented in one section, kept on disk until its volume is written."""

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinpaint.data.pictures import write_whole


class Patch(NamedTuple):
    """The invented pixels of a section, and nothing else of it.

    Attributes:
      top: first row of the box around them.
      left: first column of that box.
      hole: [h, w] bool, where they are in the box.
      values: [n, C], row after row, as the volume stores them.
      disagreement: [n] of the same dtype, how far apart the restorations from either
        neighbour lie; None where there were not two.
    """

    top: int
    left: int
    hole: np.ndarray
    values: np.ndarray
    disagreement: np.ndarray | None

    @property
    def box(self) -> tuple[slice, slice]:
        """Rows and columns of the section."""
        height, width = self.hole.shape
        return (
            slice(self.top, self.top + height),
            slice(self.left, self.left + width),
        )

    def paste(self, section: np.ndarray) -> None:
        """Writes the values into a section [H, W, C] of the same volume."""
        section[self.box][self.hole] = self.values


def cut_patch(
    hole: np.ndarray, pixels: np.ndarray, disagreement: np.ndarray | None
) -> Patch:
    """Takes the pixels of a hole out of a section.

    Args:
      hole: [H, W] bool, True somewhere.
      pixels: [H, W, C].
      disagreement: [H, W], or None.
    """
    rows = np.flatnonzero(hole.any(axis=1))
    columns = np.flatnonzero(hole.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    box = (slice(top, int(rows[-1]) + 1), slice(left, int(columns[-1]) + 1))
    own = hole[box]
    apart = None if disagreement is None else disagreement[box][own]
    return Patch(top, left, own.copy(), pixels[box][own], apart)


def save_patch(path: Path, patch: Patch) -> None:
    """Writes a patch; the file appears whole or not at all."""
    arrays = {name: array for name, array in patch._asdict().items()}
    arrays["hole"] = np.packbits(patch.hole)
    arrays["shape"] = np.array(patch.hole.shape)
    if patch.disagreement is None:
        del arrays["disagreement"]
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_whole(path, content.getvalue())


def load_patch(path: Path) -> Patch:
    """Reads what `save_patch` wrote.

    Raises:
      ValueError: the file is damaged.
      OSError: it is not there.
    """
    content = path.read_bytes()
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            height, width = file["shape"].tolist()
            bits = np.unpackbits(file["hole"], count=height * width)
            return Patch(
                int(file["top"]),
                int(file["left"]),
                bits.astype(bool).reshape(height, width),
                file["values"],
                file["disagreement"] if "disagreement" in file else None,
            )
    except Exception as error:  # of a damaged archive many types are raised
        raise ValueError(f"{path} is damaged ({error}); delete that file.") from error
