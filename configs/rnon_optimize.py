"""RNON, stage B: corrects the whole image that the repair network made.

python train.py --config=configs/rnon_optimize.py:demo \
  --config.repair_from=runs/repair --workdir=runs/optimize
python eval.py --config=configs/rnon_optimize.py:demo \
  --config.repair_from=runs/repair --workdir=runs/optimize

Stage A, configs/rnon_repair.py of the same preset, comes first and is frozen.

paper     256 x 256, batch 4, 100,000 steps, about 3.1e17 FLOP. Needs your own photographs
          in config.data.source, and VGG19 and DenseNet-121 weights: `jaxinpaint weights
          import FILE --as vgg19` and `--as densenet121`.
demo      a thin network that is given the known pixels, on stage A's demo: 0.01 to 0.02 dB
          and 0.003 of SSIM above the repaired hole at every range; in-hole SSIM stays
          0.01 to 0.02 BELOW Navier-Stokes. 6 CPU minutes after stage A; its time on two
          quiet cores was not measured.
smoke     seconds; for the contract tests. Its stage A is random.

Variants of the paper, beside config.loss:
  no discriminator      --config.loss.adversarial.nonsaturating=0
  Eq. 14 as printed     --config.loss.opt_adv=literal
  known pixels given    --config.optimize.opt_input=composite
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 4,
        "image_size": 64,
        "steps": 2500,
        "repair.widths": (48, 64, 96, 96),
        "repair.kernels": (5, 3, 3, 3),
        "optimize.width": 16,
        "optimize.blocks": 2,
        "optimize.opt_input": "composite",
        "optimize.remat_blocks": False,
        "discriminator.widths": (4, 8, 8, 16),
        "discriminator.hidden": 32,
        "features.vgg19": "none",
        "features.densenet121": "none",
        "loss.content_region": "all",  # no features here that would teach the hole
        "loss.adversarial.nonsaturating": 0.001,
        "optimizer.learning_rate": 2e-3,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.99,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_steps": 100,
        "mask.bank": 100,
        "mask.widths": (40.0, 96.0),
        "data.phantom.count": 1000,
        "data.phantom.height": 64,
        "data.phantom.width": 64,
        "train.log_every": 10,
        "train.panel_every": 500,
        "train.save_every": 500,
        "eval.crop_size": 64,
        "eval.size_multiple": 16,
        "eval.least_size": 16,
        "eval.masks.walk_bank": 200,
        "eval.masks.walk_widths": (40.0, 96.0),
    },
    "smoke": {
        "batch_size": 2,
        "image_size": 64,
        "steps": 4,
        "repair_from": "random:0",
        "repair.widths": (4, 4, 4, 4),
        "repair.kernels": (7, 5, 3, 3),
        "optimize.width": 4,
        "optimize.blocks": 1,
        "optimize.remat_blocks": False,
        "discriminator.widths": (4, 4, 4, 4),
        "discriminator.hidden": 4,
        "features.vgg19": "none",
        "features.densenet121": "none",
        "mask.bank": 4,
        "data.phantom.count": 8,
        "data.phantom.height": 96,
        "data.phantom.width": 96,
        "data.validation_crops": 2,
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.crop_size": 64,
        "eval.size_multiple": 16,
        "eval.least_size": 16,
        "eval.crops_per_image": 1,
        "eval.masks.walk_ranges": ((0.01, 0.25),),
        "eval.masks.walk_bank": 2,
        "eval.batch_size": 2,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system, config.stage = "rnon", "optimize"
    config.seed = 0
    config.batch_size = 4  # of each update, over all devices
    config.image_size = 256
    config.channels = 3
    config.steps = 100_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.repair_from = ""  # workdir of stage A; "random:SEED" for dry runs
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.repair = {  # as stage A has it
        "widths": (64, 128, 256, 512, 512, 512, 512, 512),
        "kernels": (7, 5, 5, 3, 3, 3, 3, 3),
        "upsample": "nearest",
    }
    config.optimize = {  # G_opt, section 2.4 of the specification
        "width": 32,
        "blocks": 16,
        "rates": (1, 2, 4, 8),
        "fusion_kernel": 3,  # or 1
        "norm": "none",  # or "batch"
        "image_residual": False,
        "remat_blocks": True,  # computed again in the backward pass
        "opt_input": "raw",  # or "composite"
    }
    config.discriminator = {  # D_opt, section 2.5
        "widths": (64, 64, 128, 128, 256, 256, 512, 512, 512, 512),
        "hidden": 1024,
        "fc_input": "flatten",  # or "gap", for any size of image
    }
    config.features = {  # "imported", "random:SEED" for dry runs, "none" for no such term
        "vgg19": "imported",
        "densenet121": "imported",
    }
    config.loss = {
        "content": 40.0,  # Eq. 11
        "content_region": "valid",  # Eq. 12; or "all"
        "perceptual": 1.0,
        "perceptual_nets": {"vgg19": 1.25, "densenet121": 50.0},  # Eq. 13
        "per_composite": True,
        "opt_adv": "nonsaturating",  # or "literal"; section 3.3
        "adversarial": {"nonsaturating": 0.75, "literal": 0.75},
    }
    config.optimizer = {  # section 4; of both networks
        "learning_rate": 2e-4,
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
        "weight_decay": 1e-7,  # added to the gradient
        "schedule": "constant",  # or "cosine", "linear"
        "warmup_steps": 0,
        "final": 0.02,  # of "cosine" and "linear"
    }
    config.mask = {  # section 5.2
        "sampler": "walk",  # or "folder", of your own masks; "square" of one side
        "ranges": ((0.01, 0.25), (0.25, 0.40), (0.40, 0.50), (0.50, 0.60)),
        "bank": 2000,  # masks of each range
        "bank_seed": 0,
        "widths": (6.0, 28.0),  # of strokes, on 256 x 256 pixels
        "start": "anywhere",
        "symmetries": True,
        "side": 64,
        "folder": "",
        "polarity": "hole_is_white",
    }
    config.data = {
        "kind": "photographs",
        "source": "phantom",  # or a folder of images, a TFDS folder
        "cache_dir": "",
        "max_pixels": 64_000_000,
        "fit": "shrink",  # to image_size, then a centre crop; "crop": windows as they are
        "celeba_split": "official",  # or "random_80_20"
        "limit_train": 200_000,  # 0: all
        "limit_test": 4_000,
        "validation_fraction": 0.05,
        "test_fraction": 0.2,
        "validation_crops": 8,
        "threads": 2,
        "hflip": True,
        "flips": False,  # of image and mask together
        "phantom": {"count": 64, "height": 256, "width": 256, "seed": 7},
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
        "crops_per_image": 1,
        "size_multiple": 256,  # images are padded to this, and the result cropped back
        "least_size": 256,
        "panels": 3,  # worst, median and best, so many of each
        "compare": (),  # (("no GAN", "runs/no_gan"),): a name and a workdir, evaluated
        "lpips": "",  # weights: "imported", "random:SEED" for a dry run; "": left out
        "lpips_vgg": "",
        "fid": "",
        "also": ("repaired",),  # scored beside the result; its holes filled with it
        "whole": ("raw", "repaired"),  # scored as predicted, valid pixels included
        "masks": {
            "squares": (),
            "half": False,
            "centre": (),
            "irregular_ratios": (),
            "stroke_width": (12, 40),
            "walk_ranges": ((0.01, 0.25), (0.25, 0.40), (0.40, 0.50), (0.50, 0.60)),
            "walk_bank": 1000,
            "walk_widths": (6.0, 28.0),
            "walk_start": "anywhere",
        },
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
