"""Sclerosed glomeruli, run 1 of 3: a DCGAN learns the outlines of sclerosed glomeruli.

python train.py --config=configs/glomeruli_masks.py:demo --workdir=runs/masks
python eval.py --config=configs/glomeruli_masks.py:demo --workdir=runs/masks

paper   outlines of 64 x 64 pixels, batch 64, 10,000 steps, about 7e14 FLOP. Needs your
        own slides in config.data.source.
demo    a thin DCGAN on outlines of phantom tissue at a quarter of the size; about half
        a minute on two CPU cores (22 ms a step); round outlines, not unlike each other.
smoke   seconds; for the contract tests.

No outline is right or wrong: eval.py shows some and compares their sizes with those of
the training outlines. `jaxinpaint synthesize` makes its outlines of the last checkpoint.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 8,
        "steps": 1000,
        "gan.width": 8,
        "optimizer.learning_rate": 2e-3,
        "data.crop_size": 64,
        "data.min_area": 25,
        "data.max_radius": 30,
        "data.phantom.slides": 10,
        "data.phantom.test_slides": 12,
        "data.phantom.height": 256,
        "data.phantom.width": 256,
        "data.phantom.scale": 0.25,
        "data.phantom.normal": 5,
        "data.phantom.sclerosed": 1,
        "train.log_every": 10,
        "train.panel_every": 300,
        "train.save_every": 300,
    },
    "smoke": {
        "batch_size": 2,
        "steps": 4,
        "gan.width": 2,
        "gan.latent": 4,
        "data.crop_size": 64,
        "data.min_area": 25,
        "data.max_radius": 30,
        "data.phantom.slides": 2,
        "data.phantom.test_slides": 1,
        "data.phantom.height": 160,
        "data.phantom.width": 160,
        "data.phantom.scale": 0.25,
        "data.phantom.normal": 1,
        "data.phantom.sclerosed": 2,
        "data.validation_crops": 2,
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.samples": 8,
        "eval.batch_size": 4,
        "eval.shown": 4,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system, config.stage = "glomeruli", "masks"
    config.seed = 0
    config.batch_size = 64  # of each update, over all devices; section 4
    config.image_size = 64
    config.channels = 3
    config.steps = 10_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.gan = {"width": 64, "latent": 100}  # section 2.5
    config.optimizer = {  # of both networks
        "learning_rate": 2e-4,
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
    }
    config.data = {
        "kind": "glomeruli_outlines",
        "source": "phantom",  # or a folder of slides, section 5.3
        "cache_dir": "",
        "max_pixels": 4_000_000_000,
        "working_mpp": 1.0,  # micrometres a pixel
        "downsample_all": 0.0,  # 0: by each slide's own resolution
        "mask_threshold": 0,  # 0: masks hold 0 and 255, or 0 and 1, alone
        "crop_size": 256,  # of the windows that the outlines are cut from
        "min_area": 400,  # px; smaller components are no glomeruli
        "max_radius": 120,
        "max_cover": 0.6,
        "split_unit": "group",  # as of the inpainting, whose crops these are
        "test_fraction": 0.2,
        "validation_crops": 8,
        "threads": 2,
        "flips": False,
        "phantom": {
            "slides": 8,
            "test_slides": 4,
            "height": 1024,
            "width": 1024,
            "scale": 1.0,
            "stain": "PAS",
            "test_stain": "PAS",
            "normal": 7,
            "sclerosed": 3,
            "seed": 7,
        },
    }
    config.train = {
        "log_every": 100,
        "panel_every": 1_000,
        "save_every": 1_000,
        "keep_latest": 2,
        "keep_best": 0,
    }
    config.eval = {
        "seed": 1,
        "samples": 512,  # outlines whose sizes are compared with the real ones
        "batch_size": 64,
        "shown": 64,
        "threshold": 0.5,
        "whole": (),
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
