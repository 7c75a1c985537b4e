"""A plain U-Net on a damaged section and both neighbours, L1 alone: what others beat.

python train.py --config=configs/unet.py:demo --workdir=runs/unet
python eval.py --config=configs/unet.py:demo --workdir=runs/unet

paper  no paper's: 256 x 256 crops, batch 16, 60,000 steps, for comparison with
       FlowInpaint at its size. Needs your own registered stack in config.data.source.
demo   1 min 8 s on synthetic tissue, on two CPU cores; 19.4, 18.8 and 18.6 dB in holes
       of 10, 30 and 50 %, at least 1.1 dB above every classical fill.
smoke  seconds; for the contract tests.

Also the smallest example of a system: this file, models/unet.py, systems/unet.py and
tests/systems/test_unet.py are all that one takes.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 4,
        "image_size": 64,
        "steps": 1000,
        "model.widths": (16, 32, 64, 128),
        "optimizer.learning_rate": 1e-3,
        "optimizer.warmup_steps": 20,
        "data.flips": True,
        "train.log_every": 10,
        "train.panel_every": 200,
        "train.save_every": 200,
        "eval.crop_size": 128,
        "eval.crops_per_section": 4,
    },
    "smoke": {
        "batch_size": 2,
        "image_size": 64,
        "steps": 4,
        "model.widths": (4, 8),
        "optimizer.warmup_steps": 0,
        "data.phantom.sections": 8,
        "data.phantom.height": 96,
        "data.phantom.width": 96,
        "data.validation_crops": 2,
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.crop_size": 64,
        "eval.crops_per_section": 1,
        "eval.masks.exact_ratios": (0.3,),
        "eval.batch_size": 2,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system = "unet"
    config.seed = 0
    config.batch_size = 16  # of each update, over all devices
    config.image_size = 256
    config.channels = 1  # 3 for sections in colour
    config.steps = 60_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"widths": (32, 64, 128, 256, 512), "dtype": "float32"}
    config.loss = {"hole_weight": 6.0, "valid_weight": 1.0}
    config.optimizer = {
        "learning_rate": 3e-4,
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "schedule": "cosine",  # or "constant", "linear"
        "warmup_steps": 500,
        "final": 0.02,
    }
    config.mask = {
        "sampler": "exact",  # or "irregular", "rectangle", ...
        "box": 32,  # of the square samplers
        "max_delta": 8,
        "ratio_range": (0.1, 0.5),
        "stroke_width": (12, 40),
        "ratios": (0.1, 0.3, 0.5),
    }
    config.data = {
        "kind": "sections",
        "source": "phantom",  # or a folder of images, a multi-page TIFF, a TFDS folder
        "cache_dir": "",  # decoded sections; empty: the user's cache folder
        "max_pixels": 64_000_000,
        "damage": "",  # a folder of masks of really damaged sections; empty: none
        "flag_lost": True,  # pass over sections that look lost
        "split": "block",
        "validation_fraction": 0.05,
        "test_fraction": 0.25,
        "both_neighbors": True,  # every target has both, as the network needs
        "spacing": 1,  # previous and following are so many sections away
        "largest_shift": 32,  # px between them that flow may bridge; 0: unchecked
        "neighbor": "random",  # for the report's copy_neighbor; the network sees both
        "flips": False,
        "validation_crops": 8,
        "threads": 2,
        "phantom": {"sections": 24, "height": 256, "width": 256, "seed": 7},
    }
    config.train = {
        "log_every": 100,
        "panel_every": 5_000,
        "save_every": 1_000,
        "keep_latest": 2,
        "keep_best": 1,
    }
    config.eval = {
        "seed": 1,
        "batch_size": 4,
        "crop_size": 256,
        "crops_per_section": 4,
        "size_multiple": 16,  # images are padded to this, and the result cropped back
        "least_size": 32,
        "panels": 3,  # worst, median and best, so many of each
        "also": (),  # of what the system predicts, scored as methods of their own
        "whole": (),  # of the same, scored as predicted, valid pixels included
        # Runs to put beside this one, evaluated on the same cases before: pairs such
        # as (("no GAN", "runs/no_gan"),), a name for the report and a workdir.
        "compare": (),
        "lpips": "",  # weights: "imported", "random:SEED" for a dry run; "": left out
        "lpips_vgg": "",
        "fid": "",
        "masks": {
            "squares": (),
            "half": False,
            "centre": (),
            "irregular_ratios": (),
            "stroke_width": (12, 40),
            "exact_ratios": (0.1, 0.3, 0.5),
            "rectangle_ratios": (),
        },
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
