"""FlowInpaint, stage 2: restores the hole, guided by both neighbours and a reference.

python train.py --config=configs/flowinpaint_inpaint.py:demo \
  --config.refine_from=runs/refine --workdir=runs/inpaint
python eval.py --config=configs/flowinpaint_inpaint.py:demo \
  --config.refine_from=runs/refine --workdir=runs/inpaint

Stage 1, configs/flowinpaint_refine.py of the same preset, comes first and is frozen.

paper     256 x 256 crops, batch 60, 54,000 steps, about 9.4e17 FLOP. Needs your own
          aligned stack in config.data.source.
released  the same, the rate down to a tenth at step 50,000.
demo      thin networks on synthetic tissue: 3 min 45 s on two CPU cores, after 1 min
          56 s of stage 1; 20.7, 20.5 and 19.9 dB in holes of 10, 30 and 50 %, at least
          0.7 dB above the interpolated section and 2.4 dB above every classical fill.
smoke     seconds; for the contract tests. Its stage 1 is random.

The paper's ablations, of the keys in config.inpaint:
  no FAL              --config.inpaint.fal_levels="()"
  no GAN              --config.inpaint.adversarial_weight=0
  GuidedGAN           guides ("previous", "following") and config.eval.also ()
  interpolation only  guides ("previous", "intermediate", "following") and
                      config.eval.also ("intermediate",)
The last two need no stage 1.
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "released": {
        "optimizer.schedule": "piecewise",
        "optimizer.boundaries": (50_000,),
    },
    "demo": {
        "batch_size": 4,
        "image_size": 64,
        "steps": 2000,
        "refine.channels": (4, 8, 16, 24, 32, 48),
        "refine.hidden": (32, 24, 16, 8, 4),
        "inpaint.channels": (8, 16, 32, 64, 96, 96),
        "inpaint.discriminator_width": 8,
        "inpaint.adversarial_weight": 1e-3,
        "optimizer.learning_rate": 1e-3,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.99,
        "optimizer.schedule": "cosine",
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
        "refine_from": "random:0",
        "refine.channels": (4, 4, 4, 4, 4, 4),
        "refine.hidden": (4, 4, 4, 4, 4),
        "refine.max_displacement": 1,
        "inpaint.channels": (4, 4, 4, 8, 8, 8),
        "inpaint.discriminator_width": 4,
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
    config.system, config.stage = "flowinpaint", "inpaint"
    config.seed = 0
    config.batch_size = 60  # of each update, over all devices; R40
    config.image_size = 256
    config.channels = 1  # grey alone
    config.steps = 54_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.refine_from = ""  # workdir of stage 1; "random:SEED" for dry runs
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.intermediate = {  # as stage 1 has it
        "pyr_scale": 0.5,
        "levels": 3,
        "winsize": 33,
        "iterations": 3,
        "poly_n": 5,
        "poly_sigma": 1.2,
        "window": "gaussian",
    }
    config.refine = {  # as stage 1 has it
        "channels": (16, 32, 64, 96, 128, 196),
        "hidden": (128, 96, 64, 32, 16),
        "dense": True,
        "max_displacement": 4,
        "flow_unit": 20.0,
    }
    config.inpaint = {
        "guides": ("previous", "reference", "following"),  # also "intermediate"
        "channels": (32, 64, 128, 256, 512, 512),  # R20
        "fal_levels": (2, 3, 4, 5),  # R24; () for none
        "fal_rates": (1, 2, 4, 8),
        "attention_levels": (6, 5, 4, 3),  # R26
        "stem_norm": "batch",  # or "none", R20
        "remat": True,  # attention is computed again in the backward pass
        "hole_weight": 6.0,  # lambda_r of Eq. 18
        "adversarial_weight": 0.1,  # lambda_adv of Eq. 18 and 19; 0 for no GAN
        "local_discriminator": True,  # R31
        "discriminator_width": 64,
    }
    config.attention = {  # section 4.3; R27 to R29
        "rate": 2,
        "match_size": 3,
        "value_size": 4,
        "eps": 1e-4,
        "softmax_scale": 10.0,
        "fuse": True,
        "normalize_query": True,
        "mask_foreground": False,
        "exclude_masked_keys": True,
        "composite": True,
        "use_neighbor": False,
        "score_precision": "highest",
        "value_precision": "default",
        "query_block_rows": 0,
        "restrict_queries": False,
    }
    config.optimizer = {  # section 5.6
        "learning_rate": 1e-4,
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
        "schedule": "constant",  # or "piecewise", "cosine", "linear"
        "warmup_steps": 0,
        "final": 0.02,  # of "cosine" and "linear"
        "boundaries": (),  # of "piecewise"
        "factor": 0.1,
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
        "also": ("intermediate", "reference"),  # scored beside the result
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
