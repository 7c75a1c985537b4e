"""Slides of one colour with round glomeruli, contours, and a network that paints."""

import hashlib

import numpy as np
from ml_collections import ConfigDict

from jaxinpaint.data.mask_library import taken_library
from jaxinpaint.data.slides import Slide
from jaxinpaint.evaluation.synthesizing import Options, Tools

SIZE = 64
PAINT = (200, 20, 180)
OPTIONS = Options(
    seed=5,
    per_roi=3,
    gap=2,
    feather=0.0,
    rounds=1,
    tiles=None,
    positions=None,
    on_bad_position="error",
)


def disc(side, radius, cy, cx):
    y, x = np.mgrid[:side, :side]
    return (y - cy) ** 2 + (x - cx) ** 2 <= radius**2


def slide(name, seed=0, side=256, split="train", synthetic=False, glomeruli=3, mpp=1.0):
    rng = np.random.default_rng(seed)
    image = rng.integers(150, 170, (side, side, 3)).astype(np.uint8)
    image[..., 1] -= 60  # tissue is no grey
    label = np.zeros((side, side, 2), np.uint8)
    for n in range(glomeruli):
        where = disc(side, rng.uniform(6, 12), *rng.integers(12, side - 12, 2))
        label[where & ~label.any(-1), n % 2] = 1

    def region(top, left, height, width):
        return image[top : top + height, left : left + width].copy()

    return Slide(
        id=name,
        group=f"patient of {name}",
        stain="PAS",
        split=split,
        synthetic=synthetic,
        height=side,
        width=side,
        factor=1.0,
        mpp=mpp,
        digest=hashlib.sha256(image.tobytes()).hexdigest(),
        region=region,
        label=label.copy,
        label_digest=hashlib.sha256(label.tobytes()).hexdigest(),
    )


def config():
    return ConfigDict(
        {
            "image_size": SIZE,
            "steps": 7,
            "data": {
                "source": "phantom",
                "threads": 2,
                "tissue_chroma": 15,
                "tissue_block": 8,
            },
            "synthesis": {"min_tissue": 0.9, "grid_step": 4},
        }
    )


def library():
    maps = [(f"m{n}", disc(48, 5 + 2 * n, 23.5, 23.5)) for n in range(6)]
    return taken_library(maps, size=SIZE, min_area=25, max_radius=28)


class Painter:
    def __init__(self):
        self.shapes = []

    def __call__(self, batch):
        self.shapes.append(batch["image"].shape)
        return np.broadcast_to(np.uint8(PAINT), batch["image"].shape)


def tools(restore=None, contours=None):
    return Tools(
        restore=restore or Painter(),
        generator={"step": 12, "digest": "abc"},
        library=contours or library(),
        masks={"kind": "library"},
        tiles=lambda slide, image, generated: (
            int(generated.any()) + int(generated.sum() > 900)
        ),
    )
