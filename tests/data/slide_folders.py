"""Folders of slides for tests."""

import json

import numpy as np
import tifffile
from PIL import Image

FORM = {"working_mpp": 1.0, "downsample_all": 0.0, "mask_threshold": 0}
FORM["max_pixels"] = 1_000_000


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def box(height, width, *boxes):
    mask = np.zeros((height, width), np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 255
    return mask


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels)


def add(root, name, image, normal=None, sclerosed=None, suffix=".png", folders=None):
    """Writes a slide and its masks; without masks none are there."""
    height, width = image.shape[:2]
    save(root / "images" / f"{name}{suffix}", image)
    for folder, mask in zip(
        folders or ("normal", "sclerosed"), (normal, sclerosed), strict=True
    ):
        mask = box(height, width) if mask is None else mask
        save(root / "masks" / folder / f"{name}.png", mask)


def table(root, text):
    (root / "slides.csv").write_text(text)


def splits(root, **lists):
    (root / "splits.json").write_text(json.dumps(lists))
