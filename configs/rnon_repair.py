"""RNON, stage A: paints irregular holes in photographs by partial convolutions.

python train.py --config=configs/rnon_repair.py:demo --workdir=runs/repair
python eval.py --config=configs/rnon_repair.py:demo --workdir=runs/repair

paper     256 x 256, batch 4, 100,000 steps, about 1.2e17 FLOP. Needs your own photographs
          in config.data.source, and VGG16 and DenseNet-121 weights: `jaxinpaint weights
          import FILE --as vgg16` and `--as densenet121`.
demo      a thin network without pretrained features on phantom photographs of 64 pixels,
          in strokes 10 to 24 pixels wide: 17.1, 16.4, 15.8 and 15.8 dB in holes of 1 to
          25, 25 to 40, 40 to 50 and 50 to 60 %, 0.2 to 0.3 dB above the best classical
          fill. In-hole SSIM is 0.01 to 0.02 BELOW Navier-Stokes, and below Telea too.
          About 6 CPU minutes; its time on two quiet cores was not measured.
smoke     seconds; for the contract tests.

Stage B is configs/rnon_optimize.py. Variants of the paper, beside config.loss:
  no discriminator      --config.loss.adversarial.nonsaturating=0
  Eq. 9 as printed      --config.loss.repair_adv=literal
  any size of image     --config.discriminator.fc_input=gap
"""

from ml_collections import ConfigDict

PRESETS = {
    "paper": {},
    "demo": {
        "batch_size": 8,
        "image_size": 64,
        "steps": 4500,
        "repair.widths": (48, 64, 96, 96),
        "repair.kernels": (5, 3, 3, 3),
        "discriminator.widths": (8, 8, 16, 16),
        "discriminator.hidden": 32,
        "features.vgg16": "none",
        "features.densenet121": "none",
        "loss.adversarial.nonsaturating": 0.001,
        "optimizer.learning_rate": 2e-3,
        "optimizer.b1": 0.9,
        "optimizer.b2": 0.99,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_steps": 20,
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
        "repair.widths": (4, 4, 4, 4),
        "repair.kernels": (7, 5, 3, 3),
        "discriminator.widths": (4, 4, 4, 4),
        "discriminator.hidden": 4,
        "features.vgg16": "none",
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
    config.system, config.stage = "rnon", "repair"
    config.seed = 0
    config.batch_size = 4  # of each update, over all devices; 2 or more
    config.image_size = 256
    config.channels = 3
    config.steps = 100_000
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {"dtype": "float32"}  # or "bfloat16", of the convolutions
    config.repair = {  # G_inp, section 2.2 of the specification
        "widths": (64, 128, 256, 512, 512, 512, 512, 512),  # 4 to 8 layers
        "kernels": (7, 5, 5, 3, 3, 3, 3, 3),
        "upsample": "nearest",
    }
    config.discriminator = {  # D_inp, section 2.3
        "widths": (64, 64, 128, 128, 256, 256, 512, 512),
        "hidden": 1024,
        "fc_input": "flatten",  # or "gap", for any size of image
    }
    config.features = {  # "imported", "random:SEED" for dry runs, "none" for no such term
        "vgg16": "imported",
        "densenet121": "imported",
    }
    config.loss = {
        "valid": 2.0,  # Eq. 1
        "hole": 12.0,
        "perceptual": 0.04,
        "perceptual_nets": {"vgg16": 1.0, "densenet121": 30.0},  # Eq. 6
        "style": 100.0,
        "style_nets": {"vgg16": 1.0, "densenet121": 1.0},
        "variation": 0.3,
        "tv_region": "hole",  # or "dilated", "all"
        "repair_adv": "nonsaturating",  # or "score_gap", "literal"; section 3.2
        "adversarial": {"nonsaturating": 0.1, "score_gap": 100.0, "literal": 100.0},
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
        "also": (),  # scored beside the result; its holes filled with it
        "whole": ("raw",),  # scored as it was predicted, valid pixels included
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
