"""Sclerosed glomeruli: three runs that end in a better segmenter of kidney sections.

Stage "masks" learns outlines of sclerosed glomeruli, stage "inpaint" paints them into
the tissue, and stage "segment" finds normal and sclerosed glomeruli; what the first
two make is added to what the third is trained on (`evaluation/synthesis.py`).

Source: An image inpainting-based data augmentation method for improved sclerosed
glomerular identification performance with the segmentation model
EfficientNetB3-Unet. Sections are those of the system's specification.
"""

from collections.abc import Callable, Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.core.checks import (
    MaskCoverageError,
    ShapeMismatchError,
    check_image,
    check_mask_values,
    expect_choice,
    expect_dtype,
    expect_shape,
)
from jaxinpaint.core.levels import HALF
from jaxinpaint.core.system import System
from jaxinpaint.systems.glomeruli import inpaint, masks, segment

STAGES: Mapping[str, Callable[[ConfigDict], System]] = {
    "masks": masks.build,
    "inpaint": inpaint.build,
    "segment": segment.build,
}
DTYPES = ("float32", "bfloat16")


def build(config: ConfigDict) -> System:
    """Builds the stage that a config describes.

    Raises:
      UnalignedSizeError: the training size does not fit the networks.
      ValueError: a config value is not among the choices.
    """
    expect_choice("config.stage", config.stage, STAGES)
    expect_choice("config.model.dtype", config.model.dtype, DTYPES)
    if config.channels != 3:
        raise ValueError(
            f"config.channels is {config.channels}; stained sections have 3 channels."
        )
    return STAGES[config.stage](config)


def validate_inputs(where: str, batch: Mapping[str, np.ndarray]) -> None:
    """Checks the values of a host batch before it is painted or segmented.

    Args:
      where: the caller, for the message.
      batch: `image`, uint8, uint16 or float32 in [-1, 1], of 3 channels; for stage
        "inpaint" also `mask`. What lies in the hole of `image` is not looked at.

    Raises:
      InpaintInputError: a shape, dtype or value that nothing can be made of.

    Source: glomeruli specification 9.2.
    """
    image, mask = batch.get("image"), batch.get("mask")
    if image is None:
        raise ShapeMismatchError(f"{where}: image is missing.")
    b, h, w, _ = expect_shape(where, "image", image, "B H W 3")
    expect_dtype(where, "image", image, *HALF, "float32")
    if mask is not None:
        expect_shape(where, "mask", mask, f"{b} {h} {w} 1")
        check_mask_values(where, mask)
        ratios = mask.mean(axis=(1, 2, 3), dtype=np.float64)
        for what, wrong in (("empty", ratios == 0.0), ("all hole", ratios == 1.0)):
            if wrong.any():
                raise MaskCoverageError(
                    f"{where}: sample {int(wrong.argmax())} of mask is {what}; mark "
                    "the glomerulus, and nothing else, with 1."
                )
    if np.issubdtype(image.dtype, np.floating):
        check_image(where, "image", image, counts=None if mask is None else mask == 0)
