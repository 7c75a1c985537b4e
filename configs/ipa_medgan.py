"""ipA-MedGAN: brain MR slices with damage anywhere, restored without a mask.

python train.py --config=configs/ipa_medgan.py:demo --workdir=runs/ipa
python eval.py --config=configs/ipa_medgan.py:demo --workdir=runs/ipa

paper   experiment "arbitrary": strokes of 1.4 to 5.5 % of 256 x 256 slices, batch 8,
        37,800 steps (100 epochs of 3028 slices); about 1.3e17 FLOP. Needs your own
        FLAIR slices in config.data.source and VGG19 weights: `jaxinpaint weights
        import FILE --as vgg19`.
square  the paper's other experiment: one square of 64 pixels a slice.
demo    a thin cascade on phantom heads of 96 pixels. Never trained to its end, and not
        what a demo should show: 556 steps of it, in larger holes (10 to 25 %), gave
        12.8 dB over the whole slice without the mask, where Telea, told the mask, has
        23.8 dB. About 0.75 CPU seconds a step.
smoke   seconds; for the contract tests.

The paper's three weights are not printed; `jaxinpaint search` finds them anew.
"""

from ml_collections import ConfigDict

SQUARE = {
    "mask.sampler": "square",
    "eval.masks.squares": (64,),
    "eval.masks.walk_ranges": (),
}
PRESETS = {
    "paper": {},
    "square": SQUARE,
    "demo": {
        "batch_size": 8,
        "image_size": 96,
        "steps": 1000,
        "model.widths": (8, 16, 32),
        "model.patch_widths": (8, 16, 32, 32),
        "model.global_widths": (8, 16, 16, 32, 32, 32),
        "loss.vgg": "none",
        "loss.l1": 10.0,
        "loss.features": (0.2, 0.2, 0.2, 0.2),
        "loss.intermediate": 100.0,
        "optimizer.learning_rate": 8e-3,
        "optimizer.schedule": "cosine",
        "optimizer.warmup_steps": 20,
        "mask.symmetries": True,
        "data.test_fraction": 0.2,
        "data.phantom.subjects": 40,
        "data.phantom.slices": 6,
        "data.phantom.height": 96,
        "data.phantom.width": 96,
        "train.log_every": 10,
        "train.panel_every": 200,
        "train.save_every": 200,
        "eval.batch_size": 8,
    },
    "smoke": {
        "batch_size": 2,
        "image_size": 96,
        "steps": 4,
        "model.widths": (4, 8),
        "model.patch_widths": (2, 2, 2, 2),
        "model.global_widths": (2, 2, 2, 2, 2, 2),
        "loss.vgg": "none",
        "data.phantom.subjects": 4,
        "data.phantom.slices": 2,
        "data.phantom.height": 96,
        "data.phantom.width": 96,
        "data.validation_fraction": 0.25,
        "data.validation_crops": 2,
        "search.steps": 4,
        "search.slices": 4,
        "train.log_every": 1,
        "train.panel_every": 2,
        "train.save_every": 2,
        "eval.batch_size": 2,
    },
}


def get_config(preset: str = "paper") -> ConfigDict:
    """Builds the config of a preset."""
    config = ConfigDict()
    config.system = "ipa_medgan"
    config.seed = 0
    config.batch_size = 8  # of each update, over all devices; section 4
    config.image_size = 256
    config.channels = 1  # grey alone
    config.steps = 37_800
    config.init_from = ""  # workdir of a run whose variables a new run begins with
    config.model = {
        "widths": (32, 64, 128, 256, 512),
        "cascade_depth": 2,
        "share_weights": False,
        "channel_multiple": 1,  # 8 pads channels for accelerators; no value changes
        "norm_decay": 0.99,  # of the running averages of the generator's norms
        "patch_widths": (64, 128, 256, 512),
        "global_widths": (64, 128, 256, 512, 512, 512),
        "hole_fill": -1.0,  # the level that the network finds in a hole
        "dtype": "float32",  # or "bfloat16", of the convolutions
    }
    config.loss = {  # section 3
        "adversarial": 1.0,  # lambda_1
        "style": 1e3,  # lambda_2; 1e-4 with "caffe", 0 needs no weights
        "perceptual": 20.0,  # lambda_3
        "l1": 1.0,  # lambda_p0: the term i = 0 of Eq. 3
        "features": (1.0, 1.0, 1.0, 1.0),  # lambda_p1 to lambda_p4
        "intermediate": 0.0,  # L1 of the first network's image
        "gan_g": "nonsaturating",  # or "saturating", as printed
        "style_layers": (  # Assumption (3.3): the paper names none of its six
            *("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1"),
        ),
        "style_weights": (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        "gram_norm": "hw",  # or "hwd": over the channels, too
        "vgg_preprocess": "imagenet",  # or "caffe"
        "vgg": "imported",  # or "random:SEED" for dry runs, "none"
    }
    config.optimizer = {  # of all three networks
        "learning_rate": 2e-4,
        "b1": 0.5,
        "b2": 0.999,
        "eps": 1e-8,
        "schedule": "constant",  # or "linear_tail", "cosine", "linear"
        "warmup_steps": 0,
        "final": 0.0,
    }
    config.mask = {
        "sampler": "walk",  # or "square", "folder"
        "ranges": ((0.0136, 0.0546),),
        "bank": 100,
        "bank_seed": 0,
        "widths": (8.0, 24.0),
        "start": "centre",
        "symmetries": False,
        "side": 64,  # of "square"
        "folder": "",
        "polarity": "hole_is_white",
    }
    config.data = {
        "kind": "slices",
        "source": "phantom",  # or a manifest, a folder of volumes
        "cache_dir": "",
        "max_pixels": 64_000_000,
        "validation_fraction": 0.09,  # of the training subjects: 3 of 33
        "test_fraction": 0.25,
        "validation_crops": 8,
        "threads": 2,
        "flips": False,
        "hflip": False,
        "axis": 2,
        "percentile": 99.5,
        "bits": 8,  # of images and scores, as in the paper; or 16
        "test_subjects": (),
        "lesion_free": False,
        "phantom": {
            "subjects": 12,
            "slices": 16,
            "height": 256,
            "width": 256,
            "seed": 7,
        },
    }
    config.train = {
        "log_every": 100,
        "panel_every": 5_000,
        "save_every": 1_000,
        "keep_latest": 2,
        "keep_best": 1,
    }
    config.search = {  # `jaxinpaint search`: section 3.4
        "seed": 0,
        "trials": 24,
        "random_trials": 8,  # the first ones; the others follow a model of these
        "steps": 7_560,  # of a trial: 20 epochs
        "slices": 256,  # of the validation subjects, each with a hole, are scored
        "space": (  # keys and bounds, log-uniform
            ("loss.style", 1e1, 1e5),
            ("loss.perceptual", 1.0, 200.0),
            ("loss.l1", 0.5, 10.0),
        ),
    }
    config.eval = {
        "seed": 1,
        "batch_size": 4,
        "crop_size": 0,
        "crops_per_image": 1,
        "size_multiple": 16,
        "least_size": 96,
        "panels": 3,
        "also": (),
        "whole": ("raw",),
        "compare": (),
        "lpips": "",
        "lpips_vgg": "",
        "fid": "",
        "masks": {
            "squares": (),
            "half": False,
            "centre": (),
            "irregular_ratios": (),
            "stroke_width": (8, 24),
            "walk_ranges": ((0.0166, 0.0456),),
            "walk_bank": 50,
            "walk_widths": (8.0, 24.0),
            "walk_start": "centre",
        },
    }
    config.lock()
    if preset not in PRESETS:
        raise ValueError(f"the presets are {sorted(PRESETS)}, not {preset!r}.")
    config.update_from_flattened_dict(PRESETS[preset])
    return config
