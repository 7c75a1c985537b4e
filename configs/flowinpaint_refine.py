"""FlowInpaint, stage 1: bends the interpolated section onto the damaged one.

python train.py --config=configs/flowinpaint_refine.py:demo --workdir=runs/refine
python eval.py --config=configs/flowinpaint_refine.py:demo --workdir=runs/refine

paper     256 x 256 crops, batch 8, 1,200,000 steps, the rate halved four times; about
          3.3e18 FLOP. Needs your own aligned stack in config.data.source and VGG16
          weights: `jaxinpaint weights import FILE --as vgg16`.
released  the length and batch that the published weights were trained with: batch 60,
          60,000 steps, about 1.2e18 FLOP.
demo      a thin network on synthetic tissue without the perceptual loss: 1 min 56 s on
          two CPU cores; 0.5 to 0.8 dB above the interpolated section in the hole.
smoke     seconds; for the contract tests.

The interpolated sections are computed once and kept beside the decoded stack. Stage 2
is configs/flowinpaint_inpaint.py.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "released": {
        "batch_size": 60,
        "steps": 60_000,
        "optimizer.schedule": "constant",
        "optimizer.boundaries": (),
    },
    "demo": {
        "batch_size": 4,
        "image_size": 64,
        "steps": 1000,
        "refine.channels": (4, 8, 16, 24, 32, 48),
        "refine.hidden": (32, 24, 16, 8, 4),
        "refine.perceptual": "none",
        "optimizer.learning_rate": 1e-3,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.99,
        "optimizer.schedule": "cosine",
        "optimizer.boundaries": (),
        "optimizer.warmup_steps": 20,
        "data.test_fraction": 0.25,
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
        "refine.channels": (4, 4, 4, 4, 4, 4),
        "refine.hidden": (4, 4, 4, 4, 4),
        "refine.max_displacement": 1,
        "refine.perceptual": "none",
        "intermediate.levels": 1,
        "intermediate.iterations": 1,
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
    config.system, config.stage = "flowinpaint", "refine"
    config.seed = 0
    config.batch_size = 8  # of each update, over all devices; R40
    config.image_size = 256
    config.channels = 1  # grey alone
    config.steps = 1_200_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.intermediate = {  # Farneback's flow as IsoFlow sets it, section 2.1
        "pyr_scale": 0.5,
        "levels": 3,
        "winsize": 33,
        "iterations": 3,
        "poly_n": 5,
        "poly_sigma": 1.2,
        "window": "gaussian",  # or "box"
    }
    config.refine = {
        "channels": (16, 32, 64, 96, 128, 196),  # R7
        "hidden": (128, 96, 64, 32, 16),  # R15
        "dense": True,  # R15
        "max_displacement": 4,
        "flow_unit": 20.0,  # R11
        "level_weights": (1.0, 0.64, 0.32, 0.16, 0.08, 0.04),  # Eq. 13, finest first
        "hole_weight": 5.0,  # lambda_c of Eq. 14
        "perceptual": "vgg16",  # or "none"; R36
        "vgg": "imported",  # or "random:SEED" for dry runs
    }
    config.optimizer = {  # section 5.6
        "learning_rate": 1e-4,
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
        "schedule": "piecewise",  # or "constant", "cosine", "linear"
        "warmup_steps": 0,
        "final": 0.02,  # of "cosine" and "linear"
        "boundaries": (400_000, 600_000, 800_000, 1_000_000),  # of "piecewise"
        "factor": 0.5,
    }
    config.mask = {
        "sampler": "exact",  # R43; or "rectangle", as the released loaders have it
        "box": 32,  # of the square samplers
        "max_delta": 8,
        "ratio_range": (0.1, 0.5),  # of "irregular", with stroke_width
        "stroke_width": (12, 40),
        "ratios": (0.1, 0.3, 0.5),
    }
    config.data = {
        "kind": "sections",
        "source": "phantom",  # or a folder of images, a multi-page TIFF, a TFDS folder
        "cache_dir": "",  # decoded sections; empty: the user's cache folder
        "max_pixels": 64_000_000,
        "damage": "",  # a folder of masks of really damaged sections; empty: none
        "flag_lost": True,  # pass over sections that look lost, R41
        "split": "block",  # R42
        "validation_fraction": 0.05,
        "test_fraction": 0.2,
        "both_neighbors": True,  # every target has both, as the network needs
        "spacing": 1,  # previous and following are so many sections away
        "largest_shift": 32,  # px between them that flow may bridge; 0: unchecked
        "neighbor": "random",  # for the report's copy_neighbor; the networks see both
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
        "size_multiple": 64,  # images are padded to this, and the result cropped back
        "least_size": 64,
        "panels": 3,  # worst, median and best, so many of each
        "compare": (),  # (("no GAN", "runs/no_gan"),): a name and a workdir, evaluated
        "lpips": "",  # weights: "imported", "random:SEED" for a dry run; "": left out
        "lpips_vgg": "",
        "fid": "",
        "also": ("intermediate",),  # scored beside the result; its holes filled with it
        "whole": (),  # of the same, scored as predicted, valid pixels included
        "masks": {
            "squares": (),
            "half": False,
            "centre": (),
            "irregular_ratios": (),
            "stroke_width": (12, 40),
            "exact_ratios": (0.1, 0.3, 0.5),  # Table 1
            "rectangle_ratios": (),
        },
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
