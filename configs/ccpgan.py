"""CCPGAN: a damaged serial section, guided by one neighbour.

python train.py --config=configs/ccpgan.py:demo --workdir=runs/demo
python eval.py --config=configs/ccpgan.py:demo --workdir=runs/demo

paper  512 x 512, 150,000 iterations of 5 critic and 1 generator updates at batch 16,
       about 5.9e18 FLOP. Needs your own registered stack in config.data.source.
demo   1000 short steps on synthetic tissue: 3 min 53 s on two CPU cores; in the hole
       16.7 to 17.9 dB, above every classical fill of the same report but on 64 x 64
       squares, larger than any it trains on: 0 to 0.2 dB below both neighbours' mean.
smoke  seconds; for the contract tests.

Own data: --config.data.source=PATH, a folder of section images or a multi-page TIFF.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 4,
        "image_size": 64,
        "channels": 1,
        "steps": 1000,
        "n_critic": 1,
        "model.width": 16,
        "model.critic_width": 16,
        "loss.ae_weight": 0.3,
        "loss.gan_weight": 1e-4,
        "optimizer.learning_rate": 1e-3,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.99,
        "optimizer.schedule": "cosine",
        "optimizer.final": 0.02,
        "optimizer.warmup_steps": 20,
        "mask.sampler": "mixed",
        "mask.box": 32,
        "mask.max_delta": 8,
        "mask.stroke_width": (6, 16),
        "data.split": "block",
        "data.neighbor": "random",
        "data.flips": True,
        "train.log_every": 10,
        "train.panel_every": 200,
        "train.save_every": 200,
        "eval.crop_size": 128,
        "eval.crops_per_section": 4,
        "eval.masks.squares": (16, 32, 48, 64),
        "eval.masks.half": False,
        "eval.masks.centre": (),
        "eval.masks.irregular_ratios": (0.1, 0.3),
        "eval.masks.stroke_width": (6, 16),
    },
    "smoke": {
        "batch_size": 2,
        "image_size": 64,
        "channels": 1,
        "steps": 4,
        "n_critic": 2,
        "model.width": 4,
        "model.critic_width": 4,
        "mask.box": 32,
        "mask.max_delta": 8,
        "data.phantom.sections": 8,
        "data.phantom.height": 96,
        "data.phantom.width": 96,
        "data.validation_crops": 2,
        "data.split": "block",
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.crop_size": 64,
        "eval.crops_per_section": 1,
        "eval.masks.squares": (16,),
        "eval.masks.half": False,
        "eval.masks.centre": (),
        "eval.masks.irregular_ratios": (0.3,),
        "eval.masks.stroke_width": (4, 8),
        "eval.batch_size": 2,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system = "ccpgan"
    config.seed = 0
    config.batch_size = 16  # R32; of each update, over all devices
    config.image_size = 512
    config.channels = 3  # 1 for grey sections
    config.steps = 150_000  # R31
    config.n_critic = 5  # R30
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"width": 32, "critic_width": 64, "dtype": "float32"}
    config.attention = {  # section 3 of the layer's definition; R14 to R22
        "rate": 2,
        "match_size": 3,
        "value_size": 4,
        "eps": 1e-4,
        "softmax_scale": 10.0,
        "fuse": True,
        "normalize_query": True,
        "mask_foreground": True,
        "exclude_masked_keys": True,
        "composite": True,
        "use_neighbor": True,
        "score_precision": "highest",
        "value_precision": "default",
        "query_block_rows": 0,
        "restrict_queries": False,
    }
    config.loss = {
        "coarse_alpha": 1.2,  # R26
        "l1_weight": 1.2,
        "ae_weight": 1.2,
        "gan_weight": 1e-3,
        "global_gan_alpha": 1.0,
        "gp_lambda": 10.0,
        "l1_mode": "hole",  # or "deepfill_box", R25
        "spatial_discount": 0.9,  # "deepfill_box" alone reads it
    }
    config.optimizer = {  # R28, R29
        "learning_rate": 1e-4,
        "b1": 0.5,
        "b2": 0.9,
        "eps": 1e-8,
        "schedule": "constant",  # or "cosine", "linear"
        "warmup_steps": 0,
        "final": 0.0,
    }
    config.mask = {
        # R36; or "paper_sizes", "irregular", "mixed", "exact", "rectangle"
        "sampler": "deepfill_box",
        "box": 256,
        "max_delta": 64,
        "ratio_range": (0.1, 0.5),
        "stroke_width": (10, 28),
        "ratios": (0.1, 0.3, 0.5),  # "exact" and "rectangle" alone read them
    }
    config.data = {
        "kind": "sections",
        "source": "phantom",  # or a folder of images, a multi-page TIFF, a TFDS folder
        "cache_dir": "",  # decoded sections; empty: the user's cache folder
        "max_pixels": 64_000_000,
        "damage": "",  # a folder of masks of really damaged sections; empty: none
        "flag_lost": False,  # also pass over sections that look lost
        "split": "random",  # R37; "block" is leak-free
        "validation_fraction": 0.05,
        "test_fraction": 0.25,
        "both_neighbors": False,  # True: the targets of systems that need both
        "spacing": 1,  # previous and following are so many sections away
        "largest_shift": 32,  # px between them that flow may bridge; 0: unchecked
        "neighbor": "psnr",  # R35; "random" draws previous or following
        "flips": False,  # R34
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
        "crop_size": 512,
        "crops_per_section": 1,
        "size_multiple": 8,  # images are padded to this, and the result cropped back
        "least_size": 64,
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
            "squares": (32, 48, 64, 96, 128, 256),  # Table 1
            "half": True,
            "centre": (384, 448),
            "irregular_ratios": (),
            "stroke_width": (10, 28),
            "exact_ratios": (),  # FlowInpaint's strokes, such as (0.1, 0.3, 0.5)
            "rectangle_ratios": (),  # and its centred rectangles
        },
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
