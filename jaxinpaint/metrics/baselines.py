"""Classical fills, the least that a trained system has to beat.

All work on the host, on one image [H, W, C] of uint8 or uint16 and a mask [H, W, 1]
(1 = hole), and return a new image of the same type in which every valid pixel is the
input's, bit for bit. An empty mask gives the image back.
"""

from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from jaxinpaint.core.checks import (
    InpaintInputError,
    MaskCoverageError,
    MaskValueError,
    expect_dtype,
    expect_shape,
)

Fill = Callable[
    [
        np.ndarray,
        np.ndarray,
        np.ndarray | None,
        np.ndarray | None,
        np.ndarray | None,
    ],
    np.ndarray,
]


def constant(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fills the hole with the mean of the valid pixels, a channel at a time.

    Raises:
      ValueError: a shape, dtype or mask value does not fit, or no pixel is valid.
    """
    hole = _hole("constant", image, mask)
    _expect_valid_pixel("constant", hole)
    return _composite(image, hole, np.mean(image[~hole], axis=0))


def copy_neighbor(
    image: np.ndarray, mask: np.ndarray, neighbor: np.ndarray | None
) -> np.ndarray:
    """Fills the hole with the adjacent section.

    Raises:
      ValueError: a shape, dtype or mask value does not fit, or `neighbor` is None.
    """
    hole = _hole("copy_neighbor", image, mask)
    if neighbor is None:
        raise InpaintInputError(
            "copy_neighbor: there is no adjacent section; leave this baseline out."
        )
    _expect_like("copy_neighbor", "neighbor", neighbor, image)
    return _composite(image, hole, neighbor)


def mean_neighbors(
    image: np.ndarray,
    mask: np.ndarray,
    previous: np.ndarray | None,
    following: np.ndarray | None,
) -> np.ndarray:
    """Fills the hole with the mean of both adjacent sections, halves to even.

    At an end of the stack, where one of them is None, with the other.

    Raises:
      ValueError: a shape, dtype or mask value does not fit, or both are None.
    """
    hole = _hole("mean_neighbors", image, mask)
    sections = []
    for name, section in (("previous", previous), ("following", following)):
        if section is not None:
            _expect_like("mean_neighbors", name, section, image)
            sections.append(section)
    if not sections:
        raise InpaintInputError(
            "mean_neighbors: there is no adjacent section; leave this baseline out."
        )
    return _composite(image, hole, np.mean(sections, axis=0, dtype=np.float64))


def telea(image: np.ndarray, mask: np.ndarray, *, radius: float = 5.0) -> np.ndarray:
    """Fills the hole by fast marching from its rim (OpenCV).

    OpenCV takes 8-bit grey and RGB and 16-bit grey. Other channel counts, 16-bit RGB
    among them, are filled a channel at a time.

    Args:
      image: [H, W, C] uint8 or uint16.
      mask: [H, W, 1], 1 = hole.
      radius: how far, in pixels, a filled pixel looks.

    Raises:
      ValueError: a shape, dtype or mask value does not fit, or no pixel is valid.
      ImportError: OpenCV is not installed.

    Source: A. Telea, "An image inpainting technique based on the fast marching
    method", 2004.
    """
    return _opencv("telea", "INPAINT_TELEA", image, mask, radius)


def navier_stokes(
    image: np.ndarray, mask: np.ndarray, *, radius: float = 5.0
) -> np.ndarray:
    """Fills the hole by continuing lines of equal brightness (OpenCV).

    Arguments, channels and errors are those of `telea`.

    Source: M. Bertalmio, A. L. Bertozzi, G. Sapiro, "Navier-Stokes, fluid dynamics,
    and image and video inpainting", 2001.
    """
    return _opencv("navier_stokes", "INPAINT_NS", image, mask, radius)


ALONE = ("constant", "telea", "navier_stokes")  # those that need no other section

# fill(image, mask, neighbor, previous, following); sections that are not there are
# None. A stack with two neighbours may leave `neighbor` out: copy_neighbor then takes
# the previous section, or at the first one the following.
BASELINES: Mapping[str, Fill] = {
    "constant": lambda image, mask, neighbor, previous, following: constant(
        image, mask
    ),
    "copy_neighbor": lambda image, mask, neighbor, previous, following: copy_neighbor(
        image, mask, _first_section(neighbor, previous, following)
    ),
    "mean_neighbors": lambda image, mask, neighbor, previous, following: mean_neighbors(
        image, mask, previous, following
    ),
    "telea": lambda image, mask, neighbor, previous, following: telea(image, mask),
    "navier_stokes": lambda image, mask, neighbor, previous, following: navier_stokes(
        image, mask
    ),
}


def _first_section(*sections: np.ndarray | None) -> np.ndarray | None:
    return next((section for section in sections if section is not None), None)


def _hole(where: str, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Checks image and mask; returns the hole as [H, W] bool."""
    height, width, _ = expect_shape(where, "image", image, "H W C")
    expect_shape(where, "mask", mask, f"{height} {width} 1")
    if image.dtype not in (np.uint8, np.uint16):
        expect_dtype(where, "image", image, "uint8", "uint16")
    wrong = (mask != 0) & (mask != 1)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise MaskValueError(
            f"{where}: mask must hold 0 (valid) and 1 (hole) alone, got {mask[at]} "
            f"at {at}; divide a 0-255 mask by 255."
        )
    return mask[..., 0] != 0


def _expect_valid_pixel(where: str, hole: np.ndarray) -> None:
    if hole.all():
        raise MaskCoverageError(
            f"{where}: mask is all hole; there is no valid pixel to fill it from."
        )


def _expect_like(where: str, name: str, section: np.ndarray, image: np.ndarray) -> None:
    expect_shape(where, name, section, " ".join(str(n) for n in image.shape))
    if section.dtype != image.dtype:
        expect_dtype(where, name, section, str(image.dtype))


def _composite(image: np.ndarray, hole: np.ndarray, filled: ArrayLike) -> np.ndarray:
    return np.where(hole[..., None], np.rint(filled).astype(image.dtype), image)


def import_opencv(where: str) -> ModuleType:
    """The module of the extra `baselines` that `telea` and `navier_stokes` need.

    Raises:
      ImportError: it is not installed; the message names the extra.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError(
            f"{where}: OpenCV is not installed; pip install 'jaxinpaint[baselines]'."
        ) from error
    return cv2


def _opencv(
    where: str, method: str, image: np.ndarray, mask: np.ndarray, radius: float
) -> np.ndarray:
    hole = _hole(where, image, mask)
    _expect_valid_pixel(where, hole)
    cv2 = import_opencv(where)
    # OpenCV mistakes hole pixels in the first two rows and columns for valid ones
    # (opencv#25389), so that the truth under the hole leaks into its fill. A frame of
    # hole pixels around the image cures that, and what is under the hole is blanked.
    frame = ((1, 1), (1, 1), (0, 0))
    framed = np.pad(constant(image, mask), frame, mode="edge")
    framed_hole = np.pad(hole.astype(np.uint8), frame[:2], constant_values=1)
    together = image.dtype == np.uint8 and image.shape[2] in (1, 3)
    parts = [framed] if together else np.split(framed, image.shape[2], axis=2)
    filled = [
        cv2.inpaint(
            np.ascontiguousarray(part), framed_hole, radius, getattr(cv2, method)
        ).reshape(part.shape)
        for part in parts
    ]
    return _composite(image, hole, np.concatenate(filled, axis=2)[1:-1, 1:-1])
