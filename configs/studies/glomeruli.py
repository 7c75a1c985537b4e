"""Sclerosed glomeruli, all of it: does painting more of them make a better segmenter?

jaxinpaint study --config configs/studies/glomeruli.py:demo --workdir runs/study

Trains the outlines and the inpainting, puts new glomeruli on the training slides, and
trains every segmenter of the paper's Tables 3, 4 and 5, once a seed; the report lays its
means out beside the printed ones. The same command goes on where it stopped.

paper   (4 amounts + 1 without augmentation + 3 other segmenters) x 10 seeds = 80
        trainings of 50,000 steps, weeks on one GPU. Needs your own slides:
        --set data.source=PATH.
demo    a thin U-Net without and with synthetic glomeruli on phantom tissue, three seeds;
        20 CPU minutes; Dice of sclerosed glomeruli over tiles 0.70 without and 0.79 with.
smoke   minutes; every part but the network of outlines once.

A key of a part is changed with its name in front: --set segment.batch_size=4.
"""

import importlib.util
import pathlib

from ml_collections import ConfigDict

PARTS = ("masks", "inpaint", "segment")
PRESETS = {
    "paper": {},
    "demo": {
        "study.percents": (0.0, 100.0),
        "study.models": ("unet",),
        "study.without_augmentation": False,
        "study.seeds": (0, 1, 2),
    },
    "smoke": {
        "study.percents": (0.0, 100.0),
        "study.models": ("effb3_unet", "unet"),
        "study.seeds": (0,),
        "study.outlines": "real",
        "segment.segment.widths": (2, 2, 2, 2, 2),
    },
}


def part(name: str, preset: str) -> ConfigDict:
    """The config of one part, from the folder above."""
    path = pathlib.Path(__file__).parents[1] / f"glomeruli_{name}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset)


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config = ConfigDict()
    config.data = {"source": "phantom"}  # of all parts; or a folder of slides
    config.study = {
        "percents": (0.0, 30.0, 60.0, 100.0),  # of synthetic tiles, Table 4
        # The first has all lines of Tables 3 and 4; all stand in Table 5.
        "models": ("effb3_unet", "unet", "unet++", "swin_unet"),
        "without_augmentation": True,  # the other lines of Table 3
        "seeds": tuple(range(10)),  # of the trainings of a segmenter
        "outlines": "network",  # or "real": those of the training slides
        # Tiles of the pool, for each training tile with a sclerosed pixel: more than one,
        # since those of slides that a seed holds out for validation are not taken.
        "pool": 2.0,
        "synthesis_seed": 0,
    }
    for name in PARTS:
        config[name] = part(name, preset)
    config.lock()
    config.update_from_flattened_dict(PRESETS[preset])
    return config
