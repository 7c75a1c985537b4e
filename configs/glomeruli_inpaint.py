"""Sclerosed glomeruli, run 2 of 3: paints sclerosed glomeruli into their outlines.

python train.py --config=configs/glomeruli_inpaint.py:demo --workdir=runs/glomeruli
python eval.py --config=configs/glomeruli_inpaint.py:demo --workdir=runs/glomeruli

paper   crops of 256 x 256, batch 16, 6200 steps (100 epochs of 1000 crops);
        about 1.1e13 FLOP a step. Needs your
        own slides in config.data.source and VGG19 weights: `jaxinpaint weights import
        FILE --as vgg19`.
demo    a thin generator without VGG19 on phantom tissue at a quarter of the size; about
        three CPU minutes. Glomeruli brighter and bluer than the phantom's own.
smoke   seconds; for the contract tests.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 4,
        "image_size": 64,
        "steps": 600,
        "gan.g_width": 16,
        "gan.aot_blocks": 4,
        "gan.disc_channels": (16, 32, 64, 64, 64, 1),
        "gan.remat": False,
        "features.vgg19": "none",
        "optimizer.learning_rate": 5e-4,
        "data.min_area": 25,
        "data.max_radius": 30,
        "data.phantom.slides": 10,
        "data.phantom.test_slides": 12,
        "data.phantom.height": 256,
        "data.phantom.width": 256,
        "data.phantom.scale": 0.25,
        "data.phantom.normal": 5,
        "data.phantom.sclerosed": 1,
        "data.tile": 128,
        "data.tile_step": 64,
        "synthesis.gap": 2.0,
        "synthesis.grid_step": 4,
        "synthesis.samples": 256,
        "synthesis.sample_batch": 64,
        "synthesis.diameters": (10.0, 40.0),
        "synthesis.min_area": 25,
        "synthesis.max_radius": 28.0,
        "train.log_every": 10,
        "train.panel_every": 200,
        "train.save_every": 200,
        "eval.least_size": 64,
    },
    "smoke": {
        "batch_size": 2,
        "image_size": 64,
        "steps": 4,
        "gan.g_width": 8,
        "gan.aot_blocks": 1,
        "gan.disc_channels": (2, 2, 2, 2, 2, 1),
        "features.vgg19": "none",
        "data.min_area": 25,
        "data.max_radius": 30,
        "data.split_unit": "tile",
        "data.phantom.slides": 2,
        "data.phantom.test_slides": 1,
        "data.phantom.height": 160,
        "data.phantom.width": 160,
        "data.phantom.scale": 0.25,
        "data.phantom.normal": 1,
        "data.phantom.sclerosed": 2,
        "data.validation_crops": 2,
        "data.tile": 64,
        "data.tile_step": 32,
        "synthesis.gap": 2.0,
        "synthesis.grid_step": 4,
        "synthesis.samples": 8,
        "synthesis.sample_batch": 4,
        "synthesis.diameters": (10.0, 40.0),
        "synthesis.min_area": 25,
        "synthesis.max_radius": 28.0,
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.batch_size": 2,
        "eval.least_size": 64,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system, config.stage = "glomeruli", "inpaint"
    config.seed = 0
    config.batch_size = 16  # of each update, over all devices; section 4
    config.image_size = 256
    config.channels = 3
    config.steps = 6_200  # Assumption: 100 epochs of 1000 crops, whose number is silent
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.gan = {  # sections 2.1 to 2.4
        "g_width": 64,
        "aot_blocks": 8,
        "rates": (1, 2, 4, 8),
        "attention_chunk": 512,  # queries at a time; 0: all at once
        "remat": True,  # the blocks are computed again in the backward pass
        "disc_channels": (64, 128, 256, 512, 512, 1),
    }
    config.features = {  # "imported", "random:SEED" for dry runs, "none" for no such term
        "vgg19": "imported",
    }
    config.loss = {  # Eq. 12
        "adversarial": 0.02,
        "l1_global": 1.0,
        "l1_local": 1.0,
        "perceptual": 0.1,
        "style": 150.0,
    }
    config.optimizer = {  # of all three networks
        "learning_rate": 1e-4,
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
    }
    config.data = {
        "kind": "glomeruli_crops",
        "source": "phantom",  # or a folder of slides, section 5.3
        "cache_dir": "",
        "max_pixels": 4_000_000_000,
        "working_mpp": 1.0,  # micrometres a pixel
        "downsample_all": 0.0,  # 0: by each slide's own resolution
        "mask_threshold": 0,  # 0: masks hold 0 and 255, or 0 and 1, alone
        "min_area": 400,  # px; smaller components are no glomeruli
        "max_radius": 120,
        "max_cover": 0.6,
        "tile": 1024,  # of the segmenter; says how much `jaxinpaint synthesize` makes
        "tile_step": 512,
        "min_tissue": 0.05,
        "tissue_chroma": 15,
        "tissue_block": 8,
        "split_unit": "group",  # or "tile": of the crops themselves
        "test_fraction": 0.2,
        "validation_crops": 8,
        "threads": 2,
        "flips": False,  # the paper has none here
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
    config.synthesis = {  # read by `jaxinpaint synthesize`; sections 8.1 to 8.3
        "per_roi": 4,  # new glomeruli on a slide, each round
        "gap": 8.0,  # px to every other glomerulus
        "feather": 0.0,
        "min_tissue": 0.9,  # of a window
        "grid_step": 16,
        "samples": 1024,  # of the mask network
        "sample_batch": 64,
        "threshold": 0.5,
        "bins": 5,
        "diameters": (40.0, 160.0),  # px, evenly filled
        "min_area": 400,
        "max_radius": 112.0,
    }
    config.train = {
        "log_every": 100,
        "panel_every": 1_000,
        "save_every": 1_000,
        "keep_latest": 2,
        "keep_best": 1,
    }
    config.eval = {
        "seed": 1,
        "batch_size": 4,
        "size_multiple": 4,
        "least_size": 64,
        "panels": 3,  # worst, median and best, so many of each
        "also": (),
        "whole": (),
        "compare": (),
        "lpips": "",  # weights: "imported", "random:SEED" for a dry run; "": left out
        "lpips_vgg": "",
        "fid": "",
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
