"""Windows of a stack, and the damage that its sections have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from jaxinpaint.data import images, neighbors
from jaxinpaint.data.split import Sample
from jaxinpaint.data.stack import Stack

Window = tuple[int, int, int, int]  # top, left, height, width


class View(NamedTuple):
    """A stack with its damage, read in windows.

    Attributes:
      volume: uint8 or uint16 [Z, H, W, C]; a plain array over the memory map, because
        that slices faster.
      damage: position -> uint8 [H, W, 1], 1 = damage; undamaged sections are absent.
      channels: of the windows; grey is repeated to fill them.
      spacing: how many sections away previous and following are.
      derived: name -> uint8 or uint16 [Z, H, W, C], computed sections, each in the
        place of the target that it belongs to.
    """

    volume: np.ndarray
    damage: Mapping[int, np.ndarray]
    channels: int
    spacing: int = 1
    derived: Mapping[str, np.ndarray] = MappingProxyType({})

    def pixels(self, z: int, window: Window, name: str = "image") -> np.ndarray:
        """Copies one window of a section, or of what is derived: [H, W, channels]."""
        top, left, height, width = window
        volume = self.derived.get(name, self.volume)
        grey = volume[z, top : top + height, left : left + width]
        return np.repeat(grey, self.channels // grey.shape[-1], axis=-1)

    def hurt(self, z: int, window: Window) -> np.ndarray | None:
        """The damage in one window, [H, W, 1], or None."""
        top, left, height, width = window
        mask = self.damage.get(z)
        return None if mask is None else mask[top : top + height, left : left + width]

    def choose(
        self, sample: Sample, window: Window, hole: np.ndarray | None
    ) -> neighbors.Choice:
        """Chooses the neighbour of a target in one window, as `choose_neighbor`."""
        return neighbors.choose_neighbor(
            sample.target,
            self.pixels(sample.target, window),
            [
                neighbors.Candidate(z, self.pixels(z, window), self.hurt(z, window))
                for z in sample.candidates
            ],
            mask=hole,
            allow_distant_neighbor=False,
            spacing=self.spacing,
        )


def read_damage(folder: str, stack: Stack) -> dict[int, np.ndarray]:
    """Reads a folder of damage masks named like the sections.

    Args:
      folder: the masks; "" for none.
      stack: whose sections they belong to.

    Returns:
      uint8 [H, W, 1] by position, 1 = damage; a mask without damage is left out.

    Raises:
      ValueError: a mask without section or of another size, or as `read_mask`.
    """
    if not folder:
        return {}
    places = {name: z for z, name in enumerate(stack.names)}
    size = stack.sections.shape[1:3]
    damage = {}
    for path in sorted(Path(folder).iterdir()):
        if path.suffix.lower() not in images.SUFFIXES:
            continue
        if path.stem not in places:
            raise ValueError(
                f"{path}: no section is called '{path.stem}'; the first one is "
                f"'{stack.names[0]}'."
            )
        mask = images.read_mask(path)
        if mask.shape[:2] != size:
            raise ValueError(
                f"{path} is {mask.shape[0]} x {mask.shape[1]}, but its section is "
                f"{size[0]} x {size[1]}."
            )
        if mask.any():
            damage[places[path.stem]] = mask
    return damage


def cut(
    view: View,
    names: Sequence[str],
    z: np.ndarray,
    guide: np.ndarray,
    corner: np.ndarray,
    size: int,
) -> dict[str, np.ndarray]:
    """Copies the windows of a batch out of the stack.

    Args:
      view: the stack.
      names: image, neighbor, previous, following, or of what is derived.
      z: [N] int, positions of the targets.
      guide: [N] int, positions of their neighbours.
      corner: [N, 2] int, top and left.
      size: height and width.

    Returns:
      [N, size, size, channels] by name, in the stack's dtype.
    """
    places = {
        "image": z,
        "neighbor": guide,
        "previous": z - view.spacing,
        "following": z + view.spacing,
    }
    volume, corners = view.volume, corner.tolist()
    fill = np.copyto if view.channels == volume.shape[-1] else _spread
    # One block: several fresh arrays cost more page faults than the copies take.
    block = np.empty((len(names), len(z), size, size, view.channels), volume.dtype)
    for name, windows in zip(names, block, strict=True):
        positions = places.get(name, z).tolist()
        source = view.derived.get(name, volume)
        for window, at, (top, left) in zip(windows, positions, corners, strict=True):
            fill(window, source[at, top : top + size, left : left + size])
    return dict(zip(names, block, strict=True))


def _spread(colour: np.ndarray, grey: np.ndarray) -> None:
    """Copies grey [H, W, 1] into the three channels of colour [H, W, 3].

    Two pixels a, b make three words of two values: a a, a b, b b. That is half as
    many scattered stores as a channel at a time. A view with a stride of 0 would cost
    nothing here and several times as much on its way to the device.
    """
    if grey.size % 2:
        colour[...] = grey
        return
    bits, word = 8 * grey.itemsize, f"<u{2 * grey.itemsize}"
    pairs = np.ascontiguousarray(grey).reshape(-1).view(word)
    words = colour.reshape(-1).view(word)
    words[1::3] = pairs
    one = pairs & (2**bits - 1)
    one *= 2**bits + 1
    words[0::3] = one
    np.right_shift(pairs, bits, out=one)
    one *= 2**bits + 1
    words[2::3] = one
